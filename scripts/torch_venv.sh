#!/bin/sh
# Makes .venv-torch, the Python of the drop-in's tests (torch, DeepSpeed), or
# brings it up to date with torch/tests/requirements.txt. Does nothing when it
# is. DeepSpeed's own libraries are not built.
set -eu
cd "$(dirname "$0")/.."
wanted=torch/tests/requirements.txt
python=.venv-torch/bin/python
stamp=.venv-torch/requirements.txt # a copy of what is installed, written last

say() { echo "torch venv: $*"; }

if ! $python -m pip --version >/dev/null 2>&1; then
    say "creating .venv-torch with $(python3 --version)"
    python3 -m venv --clear .venv-torch
elif cmp -s "$wanted" "$stamp"; then
    say ".venv-torch is up to date"
    exit 0
fi

rm -f "$stamp"
say "installing $(grep -c == "$wanted") packages of $wanted (torch is large: minutes)"
# DeepSpeed's set-up imports torch: everything else comes first, and it is built
# in this environment.
grep -v '^deepspeed' "$wanted" >.venv-torch/first.txt
$python -m pip install --quiet --disable-pip-version-check --requirement .venv-torch/first.txt
DS_BUILD_OPS=0 $python -m pip install --quiet --disable-pip-version-check --no-build-isolation --requirement "$wanted"
say "checking that they load"
DS_ACCELERATOR=cpu $python -c 'import deepspeed, scipy, torch, transformers' >/dev/null
cp "$wanted" "$stamp"
say ".venv-torch is ready"
