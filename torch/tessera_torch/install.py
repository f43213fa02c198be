"""install() and uninstall()."""
import functools
import pathlib
import sys

from . import library, module, ops
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
        _wrap_engine(patches)
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


# ---- engines: their calls name none, so each entry point says which one is meant ----


def _handle(engine):
    return getattr(engine, "_tessera_handle", 0)


def _current(engine):
    if _handle(engine):
        library.get().call("set_current", _handle(engine))


def _wrap(patches, name, before=None, after=None, aborts=False):
    from deepspeed.runtime.engine import DeepSpeedEngine
    original = getattr(DeepSpeedEngine, name)

    @functools.wraps(original)
    def wrapped(self, *arguments, **options):
        _current(self)
        if before:
            before(self)
        try:
            result = original(self, *arguments, **options)
        except Exception:
            if aborts and _handle(self):
                _abort(self)
            raise
        if after:
            after(self)
        return result

    patches.set(DeepSpeedEngine, name, wrapped)


def _abort(engine):
    """The step's own exception is the one to be seen."""
    try:
        module.abort_step()
    except RuntimeError:
        pass


def _forget(engine):
    if _handle(engine) not in module.engines():
        engine._tessera_handle = 0


def _wrap_compile(patches):
    """DeepSpeed makes its native engine in here. Up to 0.19.6 it leaves it behind when compiling fails."""
    from deepspeed.runtime.engine import DeepSpeedEngine
    original = DeepSpeedEngine.compile

    @functools.wraps(original)
    def compile(self, *arguments, **options):
        _current(self)
        before = set(module.engines())
        try:
            result = original(self, *arguments, **options)
        except BaseException:
            for left in set(module.engines()) - before:
                library.get().call("set_current", left)
                module.cleanup()
            raise
        for made in set(module.engines()) - before:
            self._tessera_handle = made
        return result

    patches.set(DeepSpeedEngine, "compile", compile)


def _weights_will_change(engine):
    if _handle(engine):
        module.reload_parameters()


def _weights_changed(engine):
    if _handle(engine):
        module.weights_changed()


def _wrap_engine(patches):
    from deepspeed.runtime.engine import DeepSpeedEngine
    _wrap_compile(patches)
    _wrap(patches, "destroy", after=_forget)
    if hasattr(DeepSpeedEngine, "_cleanup_deepcompile_native"):  # from 0.19.7 on
        _wrap(patches, "_cleanup_deepcompile_native", after=_forget)
    _wrap(patches, "forward", aborts=True)
    _wrap(patches, "backward", aborts=True)
    _wrap(patches, "step", before=_weights_will_change, after=_weights_changed)
    _wrap(patches, "load_checkpoint", before=_weights_will_change, after=_weights_changed)
