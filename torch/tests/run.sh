#!/bin/sh
# run.sh PYTHON TEST [ARGUMENT...]: skips, with the reason, where the virtual environment is missing.
python=$1
test=$2
shift 2
if ! "$python" -c 'import deepspeed, torch' >/dev/null 2>&1; then
    echo "skipped: $python cannot import deepspeed and torch; scripts/venv.sh makes it"
    exit 77
fi
cd "$(dirname "$test")" || exit 1
export DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1 LOCAL_SIZE=2
export TRANSFORMERS_OFFLINE=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
# What DeepSpeed builds for its own eager runs: not in a folder whose lock others hold.
export TORCH_EXTENSIONS_DIR="${TESSERA_TORCH_LIBRARY%/*}/extensions"
exec "$python" "$test" "$@"
