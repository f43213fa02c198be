#!/bin/sh
# bench_torch.py in .venv, over build/release/torch/libtessera_torch.so (scripts/venv.sh, cmake --build --preset release).
cd "$(dirname "$0")/.." || exit 1
export TESSERA_TORCH_LIBRARY="$PWD/build/release/torch/libtessera_torch.so" PYTHONPATH="$PWD/torch"
exec torch/tests/run.sh "$PWD/.venv/bin/python" "$PWD/bench/bench_torch.py" "$@"
