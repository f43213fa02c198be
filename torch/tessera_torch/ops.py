"""The one op that torch's C interface cannot express: end_backward takes an argument of any type."""
import torch

from . import library

_kept = None  # torch forgets the kernels of a Library that is collected


def define(minor: int):
    """Defines torch.ops.dc.* for DeepSpeed 0.`minor`."""
    global _kept
    if _kept is not None:
        return
    lib = library.get()
    lib.call("load", minor)

    # Inductor's lowering and its profilers run this with tensors that hold no data: deps is not touched.
    def end_backward(*arguments):
        lib.call("end_backward", arguments[0] if minor < 19 else arguments[1])

    _kept = torch.library.Library("dc", "FRAGMENT")
    # For any backend and for none: without a tensor among its arguments no backend is looked up.
    _kept.impl("end_backward", end_backward, "CompositeExplicitAutograd")
    _kept.impl("end_backward", lambda *arguments: None, "Meta")
