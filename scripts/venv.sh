#!/bin/sh
# Makes .venv, the Python of the parity tests, or brings it up to date with
# tests/parity/requirements.txt. Does nothing when it is.
#
# Needs python3 with venv (Debian: python3-venv). Packages come from where pip
# is set up to look; torch's CPU build, where pip finds one, is taken before the
# larger one for GPUs.
set -eu
cd "$(dirname "$0")/.."
wanted=tests/parity/requirements.txt
python=.venv/bin/python
stamp=.venv/requirements.txt # a copy of what is installed, written last

say() { echo "venv: $*"; }

# A venv whose base Python has gone, or that was left half made, has no pip.
if ! $python -m pip --version >/dev/null 2>&1; then
    say "creating .venv with $(python3 --version)"
    python3 -m venv --clear .venv
elif cmp -s "$wanted" "$stamp"; then
    say ".venv is up to date"
    exit 0
fi

rm -f "$stamp"
say "installing $(grep -c == "$wanted") packages of $wanted (torch is large: minutes)"
$python -m pip install --quiet --disable-pip-version-check --requirement "$wanted"
say "checking that they load"
$python -c 'import numpy, safetensors, torch, transformers'
cp "$wanted" "$stamp"
say ".venv is ready"
