"""Which ops the installed DeepSpeed calls; and the one that torch's C interface cannot express: end_backward takes an argument
of any type."""
import pathlib
import re

import torch

from . import library

_kept = None  # torch forgets the kernels of a Library that is collected


def release_of(version: str) -> int:
    """0.minor.patch as 100 * minor + patch. Raises RuntimeError where such a DeepSpeed's ops are not known."""
    found = re.match(r"0\.(\d+)\.(\d+)", version)
    release = 100 * int(found[1]) + int(found[2]) if found else -1
    if not library.get().schemas(release):
        raise RuntimeError(f"tessera_torch: the ops of DeepSpeed {version} are not known; those of 0.18 and 0.19 are: install "
                           "one of these")
    return release


def in_source(text: str) -> list:
    """The schemas that DeepSpeed's csrc/compile/init.cpp defines."""
    return re.findall(r'm\.def\(\s*"([a-z_]+\(.*?-> [^"]+)"', re.sub(r'"\s*\n\s*"', "", text))


def check(version: str, source: pathlib.Path):
    """A package brings the source of its ops: one that differs from what its version should have is refused. `source` may be
    missing."""
    if not source.exists():
        return
    theirs, ours = set(in_source(source.read_text())), set(library.get().schemas(release_of(version)))
    if theirs != ours:
        raise RuntimeError(f"tessera_torch: this DeepSpeed {version} has other ops than are known of that version: "
                           f"{'; '.join(sorted(theirs ^ ours))}. Install a released DeepSpeed 0.18 or 0.19, or a newer "
                           "tessera-torch")


def define(release: int):
    """Defines torch.ops.dc.* of that release."""
    global _kept
    if _kept is not None:
        return
    lib = library.get()
    lib.call("load", release)
    graph_id = 0 if release < 1900 else 1

    # Inductor's lowering and its profilers run this with tensors that hold no data: deps is not touched.
    def end_backward(*arguments):
        lib.call("end_backward", arguments[graph_id])

    _kept = torch.library.Library("dc", "FRAGMENT")
    # For any backend and for none: without a tensor among its arguments no backend is looked up.
    _kept.impl("end_backward", end_backward, "CompositeExplicitAutograd")
    _kept.impl("end_backward", lambda *arguments: None, "Meta")
