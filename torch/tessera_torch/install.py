"""install() and uninstall()."""
import pathlib
import sys

from . import engines, library, module, ops
from .patching import Patches

_patches = None


def installed() -> bool:
    return _patches is not None


def install():
    """Puts Tessera in the place of DeepSpeed's native DeepCompile library, before deepspeed.initialize(). On DeepSpeed's CPU
    accelerator also patches what DeepCompile lacks there. Idempotent; uninstall() undoes it.

    Raises RuntimeError where the original library is loaded already, torch is older than 2.11, or the ops of this
    DeepSpeed are not known."""
    global _patches
    if installed():
        return
    import deepspeed
    import deepspeed.compile.util as util
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder.dc import DeepCompileBuilder
    if util.dc_handle is not None or any(name.endswith("dc_op") or name == "dc" for name in sys.modules):
        raise RuntimeError("tessera_torch: DeepSpeed's own DeepCompile library is loaded already; call "
                           "tessera_torch.install() before deepspeed.initialize()")
    ops.check(deepspeed.__version__, pathlib.Path(deepspeed.__file__).parent / "ops/csrc/compile/init.cpp")
    ops.define(ops.release_of(deepspeed.__version__))
    patches = Patches()
    try:
        patches.set_item(DeepCompileBuilder._loaded_ops, DeepCompileBuilder.NAME, module)
        patches.set(util, "dc_handle", module)
        engines.wrap(patches)
        if get_accelerator().device_name() == "cpu":
            from . import cpu
            cpu.apply(patches)
    except BaseException:
        patches.undo()
        raise
    _patches = patches


def uninstall():
    """DeepSpeed as it was; the ops stay defined. Engines made in between must be destroyed first."""
    global _patches
    if not installed():
        return
    if library.get().current():
        raise RuntimeError("tessera_torch: an engine is in use; engine.destroy() comes before uninstall()")
    _patches.undo()
    _patches = None
