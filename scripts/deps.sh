#!/usr/bin/env bash
# Installs what building, running and testing need, by package name, on Debian. Quick when all is there.
# Usage: scripts/deps.sh [build|test]     test adds compilers for the checks, Python for the comparisons, both MPIs
set -euo pipefail

build="build-essential cmake ninja-build pkg-config libjansson-dev libxxhash-dev librandom123-dev libdnnl2 fortunes"
tests="clang clang-format libclang-rt-14-dev python3 python3-venv libopenmpi-dev openmpi-bin libmpich-dev mpich"
packages=$build
[ "${1:-build}" = test ] && packages="$build $tests"

missing=""
for package in $packages; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of names
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
