#!/bin/sh
# run.sh PYTHON SCRIPT ARGUMENTS...: the script under the project's Python;
# skips (77) where scripts/venv.sh has not made it.
if [ ! -x "$1" ]; then
    echo "skipped: there is no $1; scripts/venv.sh makes it"
    exit 77
fi
exec "$@"
