"""What DeepCompile's Python needs on DeepSpeed's CPU accelerator. Each function is one patch, applied on that accelerator only,
and only where something is missing; its docstring is the reason."""
import ctypes
import importlib
import operator
import os
import time
import types

import torch


class HostEvent:
    """The host's clock in place of a device's event."""

    def __init__(self, enable_timing=False, **_):
        self.seconds = 0.0

    def record(self, stream=None):
        self.seconds = time.perf_counter()

    def elapsed_time(self, end):
        return (end.seconds - self.seconds) * 1000.0

    def wait(self, stream=None):
        pass

    def synchronize(self):
        pass

    def query(self):
        return True


class HostStream:
    """Work of the host is in order anyway."""

    def __init__(self, *_, **__):
        pass

    def wait_stream(self, other):
        pass

    def wait_event(self, event):
        pass

    def synchronize(self):
        pass


def supported(patches):
    """DeepCompile asks for a CUDA accelerator, in two places, and defines one table only then."""
    import deepspeed.compile.util as util
    import deepspeed.runtime.engine as engine
    for owner in (util, engine):
        patches.set(owner, "is_deepcompile_supported", lambda: True)
    if not hasattr(util, "sym_size_ops"):
        patches.set(util, "sym_size_ops", {
            operator.ge, operator.le, operator.eq, operator.ne, operator.gt, operator.lt, operator.getitem,
            torch.ops.aten.sym_size.int
        })


def current_device(patches):
    """The accelerator's current device is a number in a string, which torch takes for no device."""
    from deepspeed.accelerator import get_accelerator
    patches.set(type(get_accelerator()), "current_device", lambda self: "cpu")


def streams(patches):
    """The accelerator has neither events nor streams; profilers and passes use both."""
    from deepspeed.accelerator import get_accelerator
    accelerator = get_accelerator()
    if accelerator.Event is None:
        patches.set(type(accelerator), "Event", property(lambda self: HostEvent))
    if accelerator.Stream is None:
        patches.set(type(accelerator), "Stream", property(lambda self: HostStream))


def fork_rng(patches):
    """The profiler names the devices whose generators to fork; the CPU's is forked always and takes no name."""
    from deepspeed.accelerator import get_accelerator
    random = types.ModuleType("tessera_torch_random")
    vars(random).update({name: value for name, value in vars(torch.random).items() if not name.startswith("__")})
    random.fork_rng = lambda devices=(), **options: torch.random.fork_rng(devices=[], **options)
    patches.set(type(get_accelerator()), "random", lambda self: random)


def average(patches):
    """gloo has no average; the profilers average their timings."""
    import deepspeed.comm as ds_comm
    import deepspeed.comm.comm as comm
    original = comm.all_reduce

    def all_reduce(tensor, op=comm.ReduceOp.SUM, group=None, *arguments, **options):
        if op != comm.ReduceOp.AVG:
            return original(tensor, op, group, *arguments, **options)
        work = original(tensor, comm.ReduceOp.SUM, group, *arguments, **options)
        tensor.div_(ds_comm.get_world_size(group))
        return work

    for owner in (comm, ds_comm):
        patches.set(owner, "all_reduce", all_reduce)


def record_stream(patches):
    """A pass names the stream that uses a tensor; tensors of the CPU have no such thing."""
    original = torch.Tensor.record_stream
    patches.set(torch.Tensor, "record_stream",
                lambda self, stream: None if self.device.type == "cpu" else original(self, stream))


def activation_on_host(patches):
    """The activation pass takes values on the CPU for offloaded ones already: on the CPU that is all of them."""
    import deepspeed.compile.passes.offload_activation as passes
    original = getattr(passes, "_static_tensor_size", None)
    if original is None:
        return  # a version without this pass

    def static_size(node):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
            return original(node)
        if any(not isinstance(size, int) for size in value.shape):
            return None
        return value.numel() * value.element_size()

    patches.set(passes, "_static_tensor_size", static_size)


def python_dispatcher(patches):
    """Passes run with torch's Python dispatcher on: a collective of gloo's then waits with the GIL held for a worker that
    needs it, and profiling makes hundreds."""
    import deepspeed.compile.backend as backend
    from torch._dispatch.python import no_python_dispatcher
    original = backend.run_opt_passes

    def run_opt_passes(*arguments, **options):
        with no_python_dispatcher():
            return original(*arguments, **options)

    patches.set(backend, "run_opt_passes", run_opt_passes)


def comm_profile(patches):
    """The profile of gathers goes up to 4 GiB a rank, minutes over gloo; a few sizes are enough to interpolate."""
    import deepspeed.compile.profilers.comm_profile as profile
    original = profile.run_all_gather

    def run_all_gather(device, dtype, maxsize, warmup=5, trials=10, async_op=False):
        return original(device, dtype, min(maxsize, 12), min(warmup, 1), min(trials, 2), async_op)

    patches.set(profile, "run_all_gather", run_all_gather)


def wait_every_gather(patches):
    """ZeRO-3's eager gathers of several parameters wait for the last of them only, which orders the others on a stream of
    NCCL's but not on gloo's threads."""
    import deepspeed.comm as ds_comm
    import deepspeed.comm.comm as comm
    for name in ("all_gather_into_tensor", "all_gather"):

        def waited(*arguments, _original=getattr(comm, name), **options):
            work = _original(*arguments, **options)
            if work is not None and hasattr(work, "wait"):
                work.wait()
            return work

        for owner in (comm, ds_comm):
            patches.set(owner, name, waited)


def flat_weights(patches):
    """Up to 0.18 the flat weights of ZeRO-1 and 2 carry autograd's history, and torch's gather over gloo may then not write
    them."""
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
    original = DeepSpeedZeroOptimizer.flatten_dense_tensors_aligned
    patches.set(DeepSpeedZeroOptimizer, "flatten_dense_tensors_aligned",
                lambda self, *arguments, **options: original(self, *arguments, **options).detach())


def shared_memory_op(patches):
    """DeepSpeed compiles an all-reduce of its inference when its CPU backend starts: seconds, a compiler, and a lock that a
    killed build leaves behind. Training does not call it, and without it gloo's is taken."""
    backend = importlib.import_module("deepspeed.comm.torch")  # as an attribute it is the package torch
    if hasattr(backend, "build_shm_op"):
        patches.set(backend, "build_shm_op", lambda: None)


def freed_memory(patches):
    """A parameter's gathered copy is freed and taken again many times a step. glibc gives its pages to the kernel in between, and
    faulting them in again costs more than the copy: so the process keeps them, as a device's caching allocator does. Not
    where the environment sets glibc's thresholds, or libc is another."""
    trim_threshold, mmap_threshold, initial = -1, -3, 128 << 10  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and their values at start
    chosen = any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"))
    libc = ctypes.CDLL(None)
    if chosen or not hasattr(libc, "gnu_get_libc_version"):
        return

    def thresholds(trim, mmap):
        libc.mallopt(trim_threshold, trim)
        libc.mallopt(mmap_threshold, mmap)

    thresholds(-1, (1 << 31) - 1)  # -1: never
    patches.add(lambda: thresholds(initial, initial))


PATCHES = (freed_memory, shared_memory_op, supported, current_device, streams, fork_rng, average, record_stream, activation_on_host, python_dispatcher,
           comm_profile, wait_every_gather, flat_weights)


def apply(patches):
    for patch in PATCHES:
        patch(patches)
