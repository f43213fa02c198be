"""Ranks for tests: processes forked from a server that has imported torch and DeepSpeed already."""
import importlib
import os
import socket
import time

import torch

MODULES = ["deepspeed", "models"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def context():
    found = torch.multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(MODULES)
    return found


def enter(rank, world, port, **environment):
    """This process becomes a rank of a group over gloo."""
    import deepspeed
    os.dup2(2, 1)  # DeepSpeed prints
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_SIZE=str(world),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **environment)
    torch.set_num_threads(1)
    # DeepSpeed would compile an all-reduce of its own, minutes, under a lock that a killed rank leaves behind: gloo's will do.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    deepspeed.init_distributed(dist_backend="gloo")


def enter_alone():
    """This process becomes a group of one rank, with the drop-in in place; leave_alone() undoes it."""
    import tessera_torch
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    tessera_torch.install()


def leave_alone():
    import tessera_torch
    from tessera_torch import module
    module.cleanup()
    tessera_torch.uninstall()
    torch.distributed.destroy_process_group()


def _main(rank, function, world, port, environment, arguments):
    enter(rank, world, port, **environment)
    function(rank, world, *arguments)


def run(function, world, *arguments, timeout_s=120, **environment):
    """function(rank, world, *arguments) on every rank. Raises what a rank raises, or that they are not through in time."""
    ranks = torch.multiprocessing.start_processes(_main, (function, world, free_port(), environment, arguments), world, join=False,
                                                  start_method=context().get_start_method())
    until = time.monotonic() + timeout_s
    try:
        while not ranks.join(1):
            if time.monotonic() > until:
                raise RuntimeError(f"{function.__name__}: not through after {timeout_s} s")
    finally:
        for rank in ranks.processes:
            rank.kill()
