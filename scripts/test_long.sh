#!/usr/bin/env bash
# The long suite: what takes too long for every change. Each part says how far it is; a summary comes last; fails if a part failed.
# Usage: scripts/test_long.sh [PART...]     without parts: all of them (model model-tsan mutants torch torch-faults)
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/deps.sh test
mkdir -p build
summary="" failed=0

build() { # PRESET TARGET...
    local preset=$1 log="build/long-$1.log"
    shift
    { cmake --preset "$preset" && cmake --build --preset "$preset" --target "$@"; } >"$log" 2>&1 || { tail -50 "$log"; return 1; }
}

part() { # NAME FUNCTION
    local begin=$SECONDS result=passed
    printf '\n== %s\n' "$1"
    "$2" || result=FAILED
    [ $result = passed ] || failed=1
    summary+=$(printf '%-12s %s in %d s' "$1" "$result" $((SECONDS - begin)))$'\n'
}

# Random programs of the eager front against a model of its header.
model() {
    build release test_eager_model || return 1
    build/release/tests/test_eager_model --programs 10000 --progress 1000
}
model_tsan() {
    build tsan test_eager_model || return 1
    build/tsan/tests/test_eager_model --programs 2000 --progress 200
}

# Broken code that tests must notice.
mutants() { scripts/mutants.sh; }

# The drop-in against DeepSpeed and the oracle, a pairwise cover (the better part of an hour); lines of build/long-torch.jsonl
# are kept, so that it goes on where it was stopped.
torch() {
    build release tessera_torch || return 1
    torch_test cover.py "$PWD/build/long-torch.jsonl"
}
# ... and four wrong builds, which it must see.
torch_faults() { torch_test faults.py; }
torch_test() { # FILE ARGUMENT...
    local file=$PWD/torch/tests/$1
    shift
    TESSERA_TORCH_LIBRARY=$PWD/build/release/torch/libtessera_torch.so PYTHONPATH=$PWD/torch \
        torch/tests/run.sh "${TORCH_PYTHON:-$PWD/.venv/bin/python}" "$file" "$@"
}

[ $# -gt 0 ] || set -- model model-tsan mutants torch torch-faults
for name in "$@"; do
    case $name in
    model) part "$name" model ;;
    model-tsan) part "$name" model_tsan ;;
    mutants) part "$name" mutants ;;
    torch) part "$name" torch ;;
    torch-faults) part "$name" torch_faults ;;
    *) echo "no such part: $name" && exit 2 ;;
    esac
done
printf '\n%s' "$summary"
exit $failed
