#!/usr/bin/env bash
# Builds the wheel tessera-torch, with the C library inside, into OUT (default: build/wheel). The library is for any Python 3 and
# any torch from 2.11 on; auditwheel computes the platform tag.
# Usage: scripts/torch_wheel.sh [OUT]     needs .venv (scripts/venv.sh)
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-build/wheel}")
python=$PWD/.venv/bin/python
stage=$PWD/build/wheel-stage

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
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$stage/plain" "$stage"

# The platform that the library's symbols allow, in place of "any".
wheel=$(echo "$stage"/plain/*.whl)
tagged=$("$python" -m wheel tags --remove --platform-tag "linux_$(uname -m)" "$wheel")
"$python" -m auditwheel --quiet repair --wheel-dir "$out" "$stage/plain/$tagged" 2>/dev/null ||
    "$python" -m auditwheel repair --wheel-dir "$out" "$stage/plain/$tagged"
ls "$out"
