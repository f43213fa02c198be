#!/usr/bin/env bash
# The long suite: what takes too long for every change. Each part says how far it is; a summary comes last; fails if a part failed.
# Usage: scripts/test_long.sh [PART...]     without parts: all of them (model model-tsan mutants torch torch-turns torch-older torch-faults)
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
# ... and engines of one process in turns, whose passes change at the fifth step.
torch_turns() {
    build release tessera_torch || return 1
    torch_test train.py turns "3 f32 eager layers=1 steps=6" "1 f32 eager layers=2 width=16 steps=3 micro_steps=2" \
        "2 bf16 eager layers=1 steps=7" "3 f32 eager model=llama layers=1 steps=7 compile.offload_opt_states=true"
}
# ... with older DeepSpeeds: the last 0.18, whose ZeRO-3 and inductor do not run on a torch that we do, and the last 0.19 with the
# ops of its first; steps enough for persistent parameters.
torch_older() {
    build release tessera_torch || return 1
    older 0.18.9 1 f32 eager world=3 && older 0.18.9 2 f32 eager micro_steps=2 && older 0.18.9 2 bf16 eager &&
        older 0.19.1 3 f32 eager && older 0.19.1 3 bf16 inductor micro_steps=2 && older 0.19.1 1 f32 inductor
}
older() { # VERSION ARGUMENT...
    local version=$1 python
    shift
    python=$(scripts/torch_older_venv.sh "$version") || return 1
    echo "DeepSpeed $version"
    TORCH_PYTHON=$python torch_test train.py "$@" layers=1 steps=8
}
# ... and four wrong builds, which it must see.
torch_faults() { torch_test faults.py; }
torch_test() { # FILE ARGUMENT...
    local file=$PWD/torch/tests/$1
    shift
    TESSERA_TORCH_LIBRARY=$PWD/build/release/torch/libtessera_torch.so PYTHONPATH=$PWD/torch \
        torch/tests/run.sh "${TORCH_PYTHON:-$PWD/.venv/bin/python}" "$file" "$@"
}

[ $# -gt 0 ] || set -- model model-tsan mutants torch torch-turns torch-older torch-faults
for name in "$@"; do
    case $name in
    model) part "$name" model ;;
    model-tsan) part "$name" model_tsan ;;
    mutants) part "$name" mutants ;;
    torch) part "$name" torch ;;
    torch-turns) part "$name" torch_turns ;;
    torch-older) part "$name" torch_older ;;
    torch-faults) part "$name" torch_faults ;;
    *) echo "no such part: $name" && exit 2 ;;
    esac
done
printf '\n%s' "$summary"
exit $failed
