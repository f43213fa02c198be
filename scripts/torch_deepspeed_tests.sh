#!/usr/bin/env bash
# Runs DeepSpeed's own tests of DeepCompile over tessera_torch: unit/compile and unit/v1/compile of a source tree of DeepSpeed, since
# its package has none. Without TestZeRO and test_compile_autosp, which need GPUs.
# Usage: [TESSERA_TORCH_TESTS=oracle] scripts/torch_deepspeed_tests.sh TREE [PYTEST-ARGUMENT...]
#        needs the Python of the drop-in's tests (or $TORCH_PYTHON) with pytest, and the target tessera_torch of the preset release
set -euo pipefail
here=$(realpath "$(dirname "$0")/..")
tree=$(realpath "${1:?the path of a source tree of DeepSpeed}")
shift
python=${TORCH_PYTHON:-$here/.venv/bin/python}
[ -d "$tree/tests/unit/v1/compile" ] || { echo "$tree has no tests/unit/v1/compile" >&2; exit 2; }

export PYTHONPATH=$here/torch/tests/deepspeed_tests:$here/torch/tests:$here/torch:$tree:$tree/tests
export TESSERA_TORCH_LIBRARY=${TESSERA_TORCH_LIBRARY:-$here/build/release/torch/libtessera_torch.so}
export TESSERA_TORCH_TESTS=${TESSERA_TORCH_TESTS:-ours} DS_ACCELERATOR=cpu DS_BUILD_OPS=0
export OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1 LOCAL_SIZE=2 CUDA_VISIBLE_DEVICES=0,1
export TRANSFORMERS_OFFLINE=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
export TORCH_EXTENSIONS_DIR=$here/build/deepspeed-tests-extensions # what DeepSpeed builds, of this tree's version
export DS_UNITTEST_TIMEOUT=${DS_UNITTEST_TIMEOUT:-600}

[ $# -gt 0 ] || set -- unit/compile unit/v1/compile
cd "$tree/tests"
exec "$python" -m pytest -q -p no:cacheprovider --deselect unit/v1/compile/test_compile_zero.py::TestZeRO \
    --ignore unit/v1/compile/test_compile_autosp.py "$@"
