#!/usr/bin/env bash
# Shows that the tests have teeth: applies each patch of tests/mutants to a copy of the sources, builds what its tests need, runs them, and
# fails if all of them pass.
#
# Usage: scripts/mutants.sh                 all of them
#        scripts/mutants.sh NAME...         those (file names without .patch)
#        scripts/mutants.sh --some K SEED   K of them; the same SEED takes the same ones, SEED + 1 the next ones
#
# A patch begins with lines "# what: ..." (what is broken) and "# tests: ..." (names of CTest that must notice, any of them), then the diff.
# Builds in build/mutants. Exit 1: a mutant survived; 2: a patch does not apply, build or name tests.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/build/mutants

header() { sed -n "s/^# $1: //p" "$2"; }

all=(tests/mutants/*.patch)
chosen=()
if [ "${1:-}" = --some ]; then
    for ((i = 0; i < $2; i++)); do chosen+=("${all[(($3 * $2 + i)) % ${#all[@]}]}"); done
elif [ $# -gt 0 ]; then
    for name; do chosen+=("tests/mutants/$name.patch"); done
else
    chosen=("${all[@]}")
fi

# A build that a run left with a mutant inside is of no use. Times of files are kept, so that others are.
[ ! -e "$work/mutant" ] || rm -rf "$work/build"
rm -rf "$work/source" "$work/mutant"
mkdir -p "$work/source"
git ls-files -z | tar --null -T - -c --ignore-failed-read | tar -x -C "$work/source"
cmake -S "$work/source" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS_RELWITHDEBINFO="-O1 -g" \
    -DTESSERA_WERROR=OFF >"$work/configure.log" 2>&1 || { tail -30 "$work/configure.log"; exit 2; }

survivors=() broken=() number=0
for patch in "${chosen[@]}"; do
    name=$(basename "$patch" .patch)
    tests=$(header tests "$patch")
    number=$((number + 1))
    printf '[%d/%d] %s: %s\n' "$number" "${#chosen[@]}" "$name" "$(header what "$patch")"
    if [ -z "$tests" ] || ! patch --silent --force -p1 -d "$work/source" <"$patch" >"$work/patch.log" 2>&1; then
        echo "    does not apply, or names no tests"
        broken+=("$name")
        git ls-files -z src include | tar --null -T - -c | tar -x -m -C "$work/source"
        continue
    fi
    touch "$work/mutant"
    targets=() regex=
    for test in $tests; do
        targets+=("${test#*.}")
        regex+="${regex:+|}^${test//./\\.}\$"
    done
    if ! cmake --build "$work/build" --target "${targets[@]}" >"$work/build.log" 2>&1; then
        echo "    does not build"
        tail -15 "$work/build.log"
        broken+=("$name")
    elif ctest --test-dir "$work/build" -R "$regex" --stop-on-failure --no-tests=error --timeout 120 >"$work/test.log" 2>&1; then
        echo "    SURVIVED $tests"
        survivors+=("$name")
    else
        echo "    killed by $(sed -n 's/^ *[0-9]*\/[0-9]* Test *#[0-9]*: \([^ ]*\) .*\*\*\*.*/\1/p' "$work/test.log" | head -1)"
    fi
    patch --silent --force -R -p1 -d "$work/source" <"$patch" >/dev/null
done
cmake --build "$work/build" --target tessera >/dev/null && rm "$work/mutant" # the next run starts from a clean library

printf '%d mutants, %d killed, %d survived, %d broken\n' "${#chosen[@]}" \
    $((${#chosen[@]} - ${#survivors[@]} - ${#broken[@]})) "${#survivors[@]}" "${#broken[@]}"
[ ${#broken[@]} -eq 0 ] || { echo "broken: ${broken[*]}"; exit 2; }
[ ${#survivors[@]} -eq 0 ] || { echo "survived: ${survivors[*]}"; exit 1; }
