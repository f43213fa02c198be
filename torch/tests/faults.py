"""Four wrong builds: the comparison of train.py must see each. Changes sources of a clean checkout and puts them back.

faults.py     from the root of the repository, in .venv, with the environment of run.sh; builds the preset release
"""
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
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


def build():
    done = subprocess.run(["cmake", "--build", "--preset", "release", "--target", "tessera_torch"], cwd=ROOT,
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"faults: the build failed\n{done.stdout[-2000:]}")


def seen() -> bool:
    """True: the comparison ran to its end and failed."""
    # Past the fifth step: parameters are persistent from there on.
    done = subprocess.run([sys.executable, "train.py", "3", "f32", "eager", "layers=1", "steps=8"], cwd=ROOT / "torch/tests",
                          capture_output=True, text=True)
    print(done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-500:], flush=True)
    return done.returncode == 1 and "\"fine\": false" in done.stdout


def main():
    missed = []
    for name, (path, right, wrong) in FAULTS.items():
        file = ROOT / path
        text = file.read_text()
        if text.count(right) != 1:
            sys.exit(f"faults: {path} no longer holds what '{name}' changes")
        include = '#include "registry.h"\n' if "dc_registry" in wrong else ""
        file.write_text(include + text.replace(right, wrong))
        try:
            build()
            missed += [] if seen() else [name]
        finally:
            file.write_text(text)
        print(f"{name}: {'not seen' if name in missed else 'seen'}", flush=True)
    build()
    sys.exit(f"faults: not seen: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
