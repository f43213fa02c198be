"""Compares the schemas with DeepSpeed's own text, for each release given as its source package (.tar.gz):

    pip download --no-deps --no-binary :all: deepspeed==0.18.9        # and others
    schemas.py deepspeed-0.18.9.tar.gz ...                            # with the environment of run.sh
"""
import re
import sys
import tarfile

from tessera_torch import library, ops


def main():
    wrong = 0
    for path in sys.argv[1:]:
        with tarfile.open(path) as package:
            (name, ) = [name for name in package.getnames() if name.endswith("/csrc/compile/init.cpp") and name.count("/") == 3]
            theirs = ops.in_source(package.extractfile(name).read().decode())
        version = re.match(r"deepspeed-([\d.]+)/", name)[1]
        same = sorted(theirs) == sorted(library.get().schemas(ops.release_of(version)))
        print(f"{version}: {len(theirs)} schemas {'equal' if same else 'DIFFER'}", flush=True)
        wrong += not same
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
