#!/bin/sh
# Makes .venv, the Python of the tests that compare with PyTorch and DeepSpeed,
# or brings it up to date with the requirements of tests/parity and torch/tests.
# Does nothing when it is.
#
# Needs python3 with venv (Debian: python3-venv). Packages come from where pip
# is set up to look; torch's CPU build, where pip finds one, is taken before the
# larger one for GPUs. DeepSpeed's own libraries are not built.
set -eu
cd "$(dirname "$0")/.."
parity=tests/parity/requirements.txt
dropin=torch/tests/requirements.txt
python=.venv/bin/python
stamp=.venv/requirements.txt # what is installed, written last

say() { echo "venv: $*"; }
install() { $python -m pip install --quiet --disable-pip-version-check "$@"; }

# A venv whose base Python has gone, or that was left half made, has no pip.
if ! $python -m pip --version >/dev/null 2>&1; then
    say "creating .venv with $(python3 --version)"
    python3 -m venv --clear .venv
elif cat $parity $dropin | cmp -s - $stamp; then
    say ".venv is up to date"
    exit 0
fi

rm -f $stamp
say "installing $(cat $parity $dropin | grep -c ==) packages of $parity and $dropin (torch is large: minutes)"
install --requirement $parity
# DeepSpeed's set-up imports torch: it is built in this environment.
DS_BUILD_OPS=0 install --no-build-isolation --requirement $parity --requirement $dropin
say "checking that they load"
DS_ACCELERATOR=cpu $python -c 'import deepspeed, numpy, safetensors, scipy, torch, transformers' >/dev/null
cat $parity $dropin >$stamp
say ".venv is ready"
