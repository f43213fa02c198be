"""DeepSpeed's CompileConfig, as the C library takes it."""
import os

HOST_BYTES = 1 << 42  # the host's memory itself is the limit of what is offloaded

# What the ops honour; what only DeepSpeed's Python reads (passes, schedules, logs); nothing else is known.
HONOURED = ("double_buffer", "symmetric_memory", "sync_before_reduce", "sync_after_reduce", "sync_before_allgather",
            "sync_after_allgather")
PYTHON = ("deepcompile", "autoep_non_moe", "free_activation", "free_activation_threshold", "offload_activation",
          "offload_activation_pin_memory", "offload_opt_states", "debug_log", "offload_parameters", "keep_int_input_tensors",
          "keep_all_input_tensors", "passes")


def timeout_s() -> float:
    """Seconds after which a silent rank counts as gone; a dead one is noticed at once. Compiling takes minutes, and not
    the same on all ranks, so torch.distributed's own default."""
    given = os.environ.get("TESSERA_TORCH_TIMEOUT_S", "1800")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0.001 <= seconds <= 2_000_000:
        raise ValueError(f"TESSERA_TORCH_TIMEOUT_S is to be seconds, from 0.001 to 2000000, not {given!r}")
    return seconds


def check(config):
    """Settings that this version does not know are refused, not ignored."""
    for name in getattr(type(config), "model_fields", {}):
        if name not in HONOURED + PYTHON:
            raise ValueError(f"tessera_torch does not know the setting compile.{name} of this DeepSpeed")
    # DeepSpeed rendezvouses torch's symmetric memory for it, which a CPU group has not.
    if getattr(config, "symmetric_memory", False):
        raise ValueError("compile.symmetric_memory: torch's symmetric memory needs a GPU; on the CPU leave it off "
                         "(gradients of one host are reduced over shared memory anyway)")


def options(config) -> dict:
    found = {name: int(getattr(config, name, False)) for name in HONOURED}
    return {**found, "free_threshold": int(getattr(config, "free_activation_threshold", 10 << 20))}
