"""DeepSpeed's engines. Its calls to the native library name none, and its compiler keeps what is one engine's in globals of the
process: so each entry point of an engine first puts that one's in place. What is ours of an engine is its `_tessera`."""
import copy
import functools
import importlib

from . import library, module

# Globals of deepspeed.compile that are one engine's: those of its compiled graphs, and the rest.
GRAPHS = {"backend": ("param_manager", "graph_order_with_frame_id", "frames_partitioned", "profiling_results", "fwd_real_inputs")}
OTHERS = {
    "backend": ("remaining_schedule", "next_pass_step", "next_passes", "current_passes"),
    "util": ("backward_started", "pre_backward_hooks", "post_backward_hooks"),
    "passes.offload_adam_states":
    ("optimizer", "device", "nz3", "max_memory", "_op_task_registry", "_empty_cache_pending", "offload_tasks", "offload_tasks_scheduled",
     "offload_tasks_inserted", "reload_tasks_remaining", "total_reload_mem"),
}


def _places(table) -> list:
    """(module, name) of the globals of a table that this DeepSpeed has."""
    found = []
    for suffix, names in table.items():
        try:
            owner = importlib.import_module(f"deepspeed.compile.{suffix}")
        except ModuleNotFoundError:
            continue
        found += [(owner, name) for name in names if hasattr(owner, name)]
    return found


class Compiled:
    """Of an engine that was compiled."""

    def __init__(self, values, resets):
        self.handle = 0  # of the C library's engine; 0: there is none
        self.values = values  # of the globals while they are not in place
        self.resets = resets  # of torch.compile, that its graphs know of


class Engines:

    def __init__(self, patches):
        import torch._dynamo
        self.graphs, self.places = _places(GRAPHS), _places(GRAPHS) + _places(OTHERS)
        self.none = self._values()  # in place while no engine is current
        self.current = None
        self.resets = 0
        for owner, name in self.places:
            patches.set(owner, name, getattr(owner, name))  # so that undo() brings them back
        reset = torch._dynamo.reset
        patches.set(torch._dynamo, "reset", functools.wraps(reset)(lambda: self._reset(reset)))

    def _values(self) -> dict:
        return {(owner, name): getattr(owner, name) for owner, name in self.places}

    def _fresh(self, places) -> dict:
        return {place: copy.deepcopy(self.none[place]) for place in places}

    def _put(self, values):
        for (owner, name), value in values.items():
            setattr(owner, name, value)

    def _reset(self, reset):
        """An engine's schedule resets torch.compile, for all: what the others compiled is gone, and is forgotten when they go
        forward the next time; the current one's forgets by itself."""
        self.resets += 1
        if self.current:
            self.current.resets = self.resets
        return reset()

    def make(self) -> Compiled:
        return Compiled(self._fresh(self.places), self.resets)

    def enter(self, compiled):
        """Makes it the current one; idempotent."""
        if compiled is not self.current:
            self.leave()
            self._put(compiled.values)
            self.current = compiled
        if compiled.handle:
            library.get().call("set_current", compiled.handle)

    def leave(self):
        """None is current."""
        if self.current:
            self.current.values = self._values()
        self._put(self.none)
        self.current = None

    def forward(self, compiled):
        """The current one is about to go forward."""
        if compiled.resets != self.resets:
            self._put(self._fresh(self.graphs))
            compiled.resets = self.resets


def _of(engine):
    return getattr(engine, "_tessera", None)


def _abort(engines, compiled):
    """The step's own exception is the one to be seen."""
    try:
        engines.enter(compiled)
        module.abort_step()
    except RuntimeError:
        pass


def _wrap(patches, engines, name, before=None, after=None, aborts=False):
    from deepspeed.runtime.engine import DeepSpeedEngine
    original = getattr(DeepSpeedEngine, name, None)
    if original is None:
        return  # a version without it

    @functools.wraps(original)
    def wrapped(self, *arguments, **options):
        compiled = _of(self)
        if not compiled:
            return original(self, *arguments, **options)
        engines.enter(compiled)
        if before:
            before(compiled)
        try:
            result = original(self, *arguments, **options)
        except Exception:
            if aborts and compiled.handle:
                _abort(engines, compiled)
            raise
        if after:
            after(compiled)
        return result

    patches.set(DeepSpeedEngine, name, wrapped)


def _wrap_compile(patches, engines):
    """DeepSpeed makes its native engine in here. Up to 0.19.6 it leaves it behind when compiling fails."""
    from deepspeed.runtime.engine import DeepSpeedEngine
    original = DeepSpeedEngine.compile

    @functools.wraps(original)
    def compile(self, *arguments, **options):
        compiled = _of(self) or engines.make()
        engines.enter(compiled)
        before = set(module.engines())
        try:
            result = original(self, *arguments, **options)
        except BaseException:
            for left in set(module.engines()) - before:
                library.get().call("set_current", left)
                module.cleanup()
            engines.leave()
            raise
        for made in set(module.engines()) - before:
            compiled.handle = made
        self._tessera = compiled
        return result

    patches.set(DeepSpeedEngine, "compile", compile)


def wrap(patches):
    """Undone with `patches`."""
    engines = Engines(patches)

    def forget(compiled):
        if compiled.handle not in module.engines():
            compiled.handle = 0
            engines.leave()

    def weights_will_change(compiled):
        if compiled.handle:
            module.reload_parameters()

    def weights_changed(compiled):
        if compiled.handle:
            module.weights_changed()

    def entry(*names, **options):
        for name in names:
            _wrap(patches, engines, name, **options)

    _wrap_compile(patches, engines)
    entry("destroy", "_cleanup_deepcompile_native", after=forget)
    entry("forward", before=engines.forward, aborts=True)
    entry("backward", aborts=True)
    entry("_backward_prologue")  # of a loss.backward() too
    entry("step", "load_checkpoint", before=weights_will_change, after=weights_changed)
