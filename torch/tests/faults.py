"""Four wrong builds: the comparison of train.py must see each. They are made in build/faults, from copies of the sources.

faults.py     in .venv, with the environment of run.sh
"""
import json
import pathlib
import shutil
import subprocess
import sys

import train

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "build/faults"
LIBRARY = PLACE / "build/torch/libtessera_torch.so"
# Past the fifth step: parameters are persistent from there on.
RUN = ("3", "f32", "eager", "layers=1", "steps=8")
FAULTS = {
    "no reduction": ("src/zero/eager_bucket.c", "TSR_TRY(settings->stage == 3 ? reduce_shards(zero, bucket)\n"
                     "                                 : reduce_slices(zero, bucket));",
                     "(void)reduce_shards; (void)reduce_slices;"),
    "no averaging": ("src/zero/eager_bucket.c", "? 1.0f / (float)zero->world\n               : 1.0f;",
                     "? 1.0f\n               : 1.0f;"),
    "stale persistent parameters": ("src/zero/eager_gather.c", "        param->version++;\n        zero_host_drop",
                                    "        if (!param->persistent)\n            param->version++;\n        zero_host_drop"),
    "a gather that misses a rank": ("torch/src/param.c", "    (void)dc_torch()->aoti_torch_get_data_ptr(context, &memory);\n",
                                    "    static float zeros[1 << 20];\n"
                                    "    if (dc_registry()->current && dc_registry()->current->options.rank == 1)\n"
                                    "        return zeros;\n"
                                    "    (void)dc_torch()->aoti_torch_get_data_ptr(context, &memory);\n"),
}


def copy_sources():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        target = PLACE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
            shutil.copyfile(ROOT / name, target)
            shutil.copymode(ROOT / name, target)


def make(*command):
    done = subprocess.run(command, cwd=PLACE, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"faults: {' '.join(command)} failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def build():
    make("cmake", "--build", "build", "--target", "tessera_torch")


def compared(references) -> str:
    """Compares the library as it is built now; says how far it is off, or how it failed; "" where all is within the bounds."""
    options = {**train.parse(RUN), "environment": {"TESSERA_TORCH_LIBRARY": str(LIBRARY)}}
    try:
        found = train.compare(options, lambda side, options: references.get(side) or train.launch(side, options))
    except Exception as error:
        return f"failed: {str(error).strip().splitlines()[-1]}"
    return "" if train.within(found, options["dtype"]) else json.dumps({side: found[side] for side in ("deepspeed", "oracle")})


def main():
    copy_sources()
    make("cmake", "-S", ".", "-B", "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release")
    references = {side: train.launch(side, train.parse(RUN)) for side in ("deepspeed", "oracle")}
    build()
    right = compared(references)
    if right:
        sys.exit(f"faults: the right build fails: {right}")
    print("right build: within the bounds", flush=True)
    missed = []
    for name, (path, right, wrong) in FAULTS.items():
        file = PLACE / path
        text = file.read_text()
        if text.count(right) != 1:
            sys.exit(f"faults: {path} no longer holds what '{name}' changes")
        include = '#include "registry.h"\n' if "dc_registry" in wrong else ""
        file.write_text(include + text.replace(right, wrong))
        build()
        seen = compared(references)
        file.write_text(text)
        missed += [] if seen else [name]
        print(f"{name}: {seen or 'NOT SEEN'}", flush=True)
    sys.exit(f"faults: not seen: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
