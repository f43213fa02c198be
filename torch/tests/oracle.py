"""DeepCompile's op library in plain Python over torch.distributed: what the C library is compared with. Everything is synchronous,
so the waits do nothing. Where the original library is wrong, this one is right.

oracle.install()      in a process in which tessera_torch is not installed: both define the same ops
"""
import math

import torch
import torch.distributed as dist

SCHEMAS = {
    "allgather_param": "(Tensor a, int graph_id, int id, ScalarType? dtype = None) -> Tensor",
    "prefetch_params_fused": "(int graph_id, Tensor[] params, int[] ids, ScalarType[]? dtypes = None) -> ()",
    "wait_allgather": "(Tensor(a) a, int graph_id, int id) -> Tensor(a)",
    "release_param": "(Tensor(a) a, int graph_id, int id, int n_users) -> Tensor(a)",
    "reduce_grad": "(Tensor a, int graph_id, int id) -> Tensor",
    "free_tensors": "(Tensor[] a) -> ()",
    "offload_tensor": "(Tensor a, int id, int id) -> Tensor",
    "reload_tensor": "(Tensor a, int id, int id) -> Tensor",
    "wait_offload": "(Tensor a, int id, int id) -> Tensor",
    "wait_reload": "(Tensor a, int id, int id) -> Tensor",
    "offload_parameter": "(Tensor a, int id, int id) -> ()",
    "reload_parameter": "(Tensor a, int id, int id) -> ()",
    "test_call": "(Tensor a) -> Tensor",
}
# From the release on, 100 * minor + patch.
END_BACKWARD = {
    0: "(int graph_id) -> ()",
    1900: "(Any deps, int graph_id) -> ()",
    1902: "(Any deps, int graph_id, bool release_reduce_buckets) -> ()",
}


class Param:

    def __init__(self, shape, tensor, grad, offset, wire):
        self.shape, self.numel = tuple(shape), math.prod(shape)
        self.tensor, self.grad, self.offset, self.wire = tensor, grad, offset, wire
        self.persistent = self.written = False  # written: the gradient buffer holds something of this step
        self.copy = None  # gathered, whole, of the newest weights
        self.sum = None  # stage 1: of the micro-steps before the last
        grad.zero_()


class State:
    """One engine a process."""
    group = config = None
    release = stage = 0
    update = profiling = False
    params, graphs, uses, waiting, offloaded = {}, {}, {}, [], {}


# ---- gathers ----


def gather(number, dtype=None):
    param = State.params[number]
    dtype = dtype or param.tensor.dtype
    if param.copy is None or param.copy.dtype != dtype:
        shard = param.tensor.detach().to(dtype).contiguous().view(-1)
        full = shard.new_empty(shard.numel() * dist.get_world_size(State.group))
        dist.all_gather_into_tensor(full.view(torch.uint8), shard.view(torch.uint8), group=State.group)
        param.copy = full
    return param.copy.narrow(0, 0, param.numel).view(param.shape)


def prefetch(graph, params, numbers, dtypes=None):
    for place, number in enumerate(numbers):
        gather(number, dtypes[place] if dtypes else None)


def release(a, graph, number, users):
    left = State.uses[graph, number] = (State.uses.get((graph, number)) or users) - 1
    param = State.params[number]
    if left == 0 and not param.persistent and param.copy is not None:
        param.copy = None  # another graph's tensor of it lives on
    return a


# ---- reduces ----


def reduce_grad(a, graph, number):
    if not State.profiling:
        param = State.params[number]
        gradient = a.detach().to(param.wire or a.dtype)
        if State.stage == 1 and not State.update:
            param.sum = gradient.clone() if param.sum is None else param.sum.add_(gradient)
        else:
            if param.sum is not None:
                gradient, param.sum = param.sum.add_(gradient), None
            State.waiting.append((number, gradient.reshape(-1).clone()))
    return hollow(a)


def reduce(number, gradient):
    param, world, rank = State.params[number], dist.get_world_size(State.group), dist.get_rank(State.group)
    out = param.grad.view(-1)
    offset = rank * out.numel() if State.stage == 3 else param.offset
    whole = gradient.new_zeros(max(gradient.numel(), out.numel() * world if State.stage == 3 else 0))
    whole[:gradient.numel()] = gradient / world
    dist.all_reduce(whole, group=State.group)
    if out.numel():
        part = whole.narrow(0, offset, out.numel()).to(out.dtype)
        out.add_(part) if param.written else out.copy_(part)
    param.written = True


def end_backward(*arguments):
    for number, gradient in State.waiting:
        reduce(number, gradient)
    State.waiting = []


# ---- offloads: the device is the host ----


def offload(a, graph, number):
    State.offloaded[graph, number] = a.clone()
    return State.offloaded[graph, number].clone()


def reload(a, graph, number):
    return State.offloaded.get((graph, number), a).clone()  # profiled backwards have had no forward


def free_tensors(tensors):
    for tensor in tensors:
        if not State.profiling and tensor.numel() * tensor.element_size() >= State.config.free_activation_threshold:
            tensor.data = tensor.new_empty(0)


# ---- ops ----


def gather_shape(a, graph, number, dtype=None):
    param = State.params[number]
    return a.new_empty(param.shape, dtype=dtype or param.tensor.dtype)


def same(a, *_):
    return a


def clone(a, *_):
    return a.clone()


def hollow(a, *_):
    """Of no gradient. Up to 0.18 it becomes that of the parameter, which has a shape: no tensor at all."""
    return a.new_empty(0) if State.release >= 1900 else None


def nothing(*_):
    return None


KERNELS = {  # on the CPU, without data; DeepSpeed defines those that miss
    "allgather_param": (lambda a, graph, number, dtype=None: gather(number, dtype), gather_shape),
    "prefetch_params_fused": (prefetch, nothing),
    "wait_allgather": (same, same),
    "release_param": (release, same),
    "reduce_grad": (reduce_grad, hollow),
    "free_tensors": (free_tensors, nothing),
    "offload_tensor": (offload, None),
    "wait_offload": (clone, None),
    "reload_tensor": (clone, None),
    "wait_reload": (reload, None),
    "offload_parameter": (nothing, nothing),
    "reload_parameter": (nothing, nothing),
    "test_call": (clone, clone),
}
_library = None


def define(release):
    global _library
    State.release = release
    _library = torch.library.Library("dc", "DEF")
    for name, (kernel, meta) in KERNELS.items():
        _library.define(name + SCHEMAS[name])
        _library.impl(name, kernel, "CPU")
        if meta is not None:
            _library.impl(name, meta, "Meta")
    _library.define("end_backward" + END_BACKWARD[max(since for since in END_BACKWARD if since <= release)])
    _library.impl("end_backward", end_backward, "CompositeExplicitAutograd")
    _library.impl("end_backward", nothing, "Meta")


# ---- functions of the module ----


def init(group, config, bucket_elements):
    State.group, State.config, State.stage = group, config, 0
    State.params, State.graphs, State.uses, State.waiting, State.offloaded = {}, {}, {}, [], {}


def cleanup():
    init(None, None, 0)


def reset():
    State.graphs, State.uses, State.offloaded = {}, {}, {}


def register_param(number, shape, tensor, grad, offset):
    State.params[number] = Param(shape, tensor, grad, offset, None)


def update_param_grad_buffer(number, grad, offset=0):
    grad.zero_()
    State.params[number].grad, State.params[number].offset = grad, offset


def register_z3_param(number, shape, tensor, grad, persistent, wire=None):
    State.params[number] = Param(shape, tensor, grad, 0, wire)


def register_graph(stage, graph, numbers):
    State.stage = stage
    State.graphs[graph] = tuple(numbers)


def register_graph_z1(graph, numbers):
    register_graph(1, graph, numbers)


def register_graph_z2(graph, numbers):
    register_graph(2, graph, numbers)


def register_graph_z3(graph, numbers):
    register_graph(3, graph, numbers)


@torch.no_grad()
def set_persistent(number):
    State.params[number].persistent = True
    gather(number)


def enable_profiling(on):
    State.profiling = on


def is_profiling():
    return State.profiling


def start_forward():
    pass


def end_forward():
    pass


def start_backward(update):
    """A step opens after the last micro-step of the one before."""
    if State.update:
        for param in State.params.values():
            param.written = False
    State.update = update


def invalidate_gathered_param(number):
    if not State.params[number].persistent:
        State.params[number].copy = None


def clear_all_gathered_params():
    for number in State.params:
        invalidate_gathered_param(number)


def weights_changed():
    for param in State.params.values():
        param.copy = None


def install():
    """In DeepSpeed's place of the native library; the rest as tessera_torch.install() does on the CPU."""
    import sys

    import deepspeed
    import deepspeed.compile.util as util
    from deepspeed.ops.op_builder.dc import DeepCompileBuilder
    from deepspeed.runtime.engine import DeepSpeedEngine
    from tessera_torch import cpu
    from tessera_torch.patching import Patches
    _, minor, patch = deepspeed.__version__.split("+")[0].split(".")[:3]
    define(100 * int(minor) + int(patch))
    patches, module = Patches(), sys.modules[__name__]
    cpu.apply(patches)
    patches.set_item(DeepCompileBuilder._loaded_ops, DeepCompileBuilder.NAME, module)
    patches.set(util, "dc_handle", module)

    def step(self, *arguments, _original=DeepSpeedEngine.step, **options):
        result = _original(self, *arguments, **options)
        weights_changed()
        return result

    patches.set(DeepSpeedEngine, "step", step)
    return patches
