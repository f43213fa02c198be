#!/usr/bin/env bash
# Installs what is needed, builds, runs all tests. Ends on CTest's summary; a test skipped without a stated reason fails.
# Sanitizer suites run first, the whole suite last.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

say "dependencies"
scripts/deps.sh test
scripts/venv.sh

say "build: gcc, clang, AddressSanitizer + UndefinedBehaviorSanitizer, ThreadSanitizer"
mkdir -p build
for preset in release clang asan tsan; do
    log="build/$preset.log"
    { cmake --preset "$preset" && cmake --build --preset "$preset"; } >"$log" 2>&1 || { tail -50 "$log"; exit 1; }
    echo "built build/$preset"
done

say "tests under ThreadSanitizer"
ctest --preset tsan -L tsan
say "tests under AddressSanitizer and UndefinedBehaviorSanitizer"
ctest --preset asan -LE "noasan|python"

say "two mutants of tests/mutants: others with each commit"
scripts/mutants.sh --some 2 "$(git rev-list --count HEAD)"

say "all tests"
status=0
ctest --preset release --output-junit "$PWD/build/release/tests.xml" || status=$?
tools/check_skips build/release/tests.xml || status=1
exit "$status"
