#!/usr/bin/env bash
# Makes build/deepspeed-VERSION, a Python with that DeepSpeed in front of the packages of .venv, and says where its interpreter is.
# Does nothing when it is there. DeepSpeed's own libraries are not built.
# Usage: scripts/torch_older_venv.sh VERSION     needs .venv (scripts/venv.sh)
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?a version of DeepSpeed}
base=$PWD/.venv/bin/python
venv=$PWD/build/deepspeed-$version
python=$venv/bin/python

if [ "$(cat "$venv/ready" 2>/dev/null)" != "$version" ]; then
    "$base" -m venv --clear --without-pip "$venv"
    # After its own packages, so that its DeepSpeed comes first.
    "$base" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
    # DeepSpeed's set-up imports torch.
    DS_BUILD_OPS=0 "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation "deepspeed==$version" >&2
    DS_ACCELERATOR=cpu "$python" -c "import deepspeed; assert deepspeed.__version__ == '$version', deepspeed.__version__" >&2
    echo "$version" >"$venv/ready" # written last
fi
echo "$python"
