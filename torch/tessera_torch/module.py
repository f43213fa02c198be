"""What DeepCompileBuilder().load() returns: the functions of DeepSpeed's native module, over the C library."""
import atexit
import ctypes
import sys

import torch

from . import bootstrap, library, settings

_exchanges = {}  # of engines: the C library calls them


def init(process_group, config, initial_reduce_bucket_size):
    """Makes an engine and makes it the current one. Collective over the group."""
    lib = library.get()
    settings.check(config)
    meeting = bootstrap.StoreExchange(process_group)
    mpi = meeting.wants_mpi(settings.timeout_s())
    options = library.Options(rank=meeting.rank,
                              world=meeting.world,
                              timeout_ms=int(settings.timeout_s() * 1000),
                              mpi=mpi,
                              exchange=meeting.callback,
                              bucket_elements=initial_reduce_bucket_size,
                              host_bytes=settings.HOST_BYTES,
                              **settings.options(config))
    handle = ctypes.c_int64()
    if mpi:
        atexit.unregister(_leave_mpi)
        atexit.register(_leave_mpi)
    lib.call("engine_create", ctypes.byref(options), ctypes.byref(handle))
    _exchanges[handle.value] = meeting


def _leave_mpi():
    """MPI is finalized with the process; after an exception that nobody caught the whole job is ended."""
    library.get().call("leave", hasattr(sys, "last_value"))


def cleanup():
    """Takes the current engine down. Idempotent."""
    lib = library.get()
    handle = lib.current()
    if handle:
        lib.call("engine_destroy", handle)
        _exchanges.pop(handle, None)


def reset():
    library.get().call("reset")


def register_param(ds_id, ds_shape, ds_tensor, grad_buffer, offset):
    torch.ops.tessera.register_param(ds_id, list(ds_shape), ds_tensor.detach(), grad_buffer, offset, False, False, None)


def update_param_grad_buffer(ds_id, grad_buffer, offset=0):
    torch.ops.tessera.update_param_grad_buffer(ds_id, grad_buffer, offset)


def register_z3_param(ds_id, ds_shape, ds_tensor, grad_buffer, persistent, expected_grad_dtype=None):
    torch.ops.tessera.register_param(ds_id, list(ds_shape), ds_tensor, grad_buffer, 0, True, persistent, expected_grad_dtype)


def _register_graph(stage, graph_id, ds_ids):
    ids = (ctypes.c_int64 * len(ds_ids))(*ds_ids)
    library.get().call("register_graph", stage, graph_id, ids, len(ds_ids))


def register_graph_z1(graph_id, ds_ids):
    _register_graph(1, graph_id, ds_ids)


def register_graph_z2(graph_id, ds_ids):
    _register_graph(2, graph_id, ds_ids)


def register_graph_z3(graph_id, ds_ids):
    _register_graph(3, graph_id, ds_ids)


def set_persistent(ds_id):
    library.get().call("set_persistent", ds_id)


def enable_profiling(enable):
    library.get().call("enable_profiling", bool(enable))


def is_profiling():
    return library.get().is_profiling()


def start_forward():
    library.get().call("start_forward")


def end_forward():
    library.get().call("end_forward")


def start_backward(update):
    library.get().call("start_backward", bool(update))


def invalidate_gathered_param(ds_id):
    library.get().call("invalidate_gathered_param", ds_id)


def clear_all_gathered_params():
    library.get().call("clear_all_gathered_params")


# Ours: DeepSpeed's library has no such functions.


def reload_parameters():
    """The weights will be written: shards that are on the host come back first."""
    library.get().call("reload_parameters")


def weights_changed():
    """The weights were written: gathered copies of the old ones are stale."""
    library.get().call("weights_changed")


def engines():
    """The handles of the engines that there are."""
    return tuple(_exchanges)


def abort_step():
    """Forward or backward raised: what the step had gathered and reduced is dropped."""
    library.get().call("abort_step")


def memory():
    """Bytes that the current engine holds."""
    held = (ctypes.c_int64 * 6)()
    library.get().call("memory", held)
    return dict(zip(("gathered", "buckets", "reloaded", "host", "host_pool", "torch"), held))
