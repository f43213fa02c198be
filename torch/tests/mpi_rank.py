"""One rank of test_mpi.py: the ops over MPI. mpi_rank.py fine|raise|kill STORE, under an MPI launcher."""
import os
import signal
import sys

import torch
import torch.distributed as dist

GRAPH, COUNT = 1 << 40, 1001  # over two or three ranks the last shard is padded


def number(*names):
    return next(int(os.environ[name]) for name in names if name in os.environ)


def main(body, store):
    rank, world = number("OMPI_COMM_WORLD_RANK", "PMI_RANK"), number("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    import deepspeed  # noqa: F401
    import tessera_torch
    from deepspeed.compile.config import CompileConfig
    tessera_torch.install()
    from tessera_torch import module as dc
    ops, padded = torch.ops.dc, -(-COUNT // world) * world
    shard = torch.arange(padded, dtype=torch.float32).view(world, -1)[rank].clone()
    grad = torch.empty_like(shard)
    for _ in range(2):  # engines come and go; MPI stays
        dc.init(dist.group.WORLD, CompileConfig(), COUNT)
        dc.register_z3_param(1, (COUNT, ), shard, grad, False, None)
        dc.register_graph_z3(GRAPH, [1])
        for step in range(3):
            full = ops.wait_allgather(ops.allgather_param(shard, GRAPH, 1), GRAPH, 1)
            assert torch.equal(full, torch.arange(COUNT, dtype=torch.float32))
            ops.release_param(full, GRAPH, 1, 1)
            if step == 1 and body != "fine" and rank == world - 1:
                print("ready", flush=True)
                if body == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RuntimeError("raised on purpose")
            dc.start_backward(True)
            ops.reduce_grad(torch.arange(COUNT, dtype=torch.float32) * (rank + 1), GRAPH, 1)
            ops.end_backward(None, GRAPH, False)
            valid = min(COUNT - rank * len(shard), len(shard))
            assert torch.equal(grad[:valid], shard[:valid] * (world + 1) / 2), grad
        dc.cleanup()
    print(f"rank {rank} of {world} is through", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
