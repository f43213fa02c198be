"""A rank is killed: the other raises an exception that names it, within ten seconds."""
import os
import signal
import time
import unittest

import torch

GRAPH, COUNT = 1 << 40, 1000


def part(rank, place, port, out):
    import torch.distributed as dist
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    import deepspeed  # noqa: F401
    import tessera_torch
    from deepspeed.compile.config import CompileConfig
    tessera_torch.install()
    from tessera_torch import module as dc
    dc.init(dist.group.WORLD, CompileConfig(), COUNT)
    shard = torch.full((COUNT // 2, ), float(rank))
    dc.register_z3_param(1, (COUNT, ), shard, torch.empty(COUNT // 2), False, None)
    dc.register_graph_z3(GRAPH, [1])
    ops = torch.ops.dc

    def gather():
        full = ops.wait_allgather(ops.allgather_param(shard, GRAPH, 1), GRAPH, 1)
        assert full[0] == 0 and full[-1] == 1
        ops.release_param(full, GRAPH, 1, 1)

    def reduce():
        dc.start_backward(True)
        ops.reduce_grad(torch.ones(COUNT), GRAPH, 1)
        ops.end_backward(None, GRAPH, False)

    gather()
    reduce()
    if place == "profiling":
        dc.enable_profiling(True)
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    try:
        reduce() if place == "reduce" else gather()
        out.put(("no exception", 0.0))
    except RuntimeError as error:
        out.put((str(error), time.monotonic() - begin))


class Dead(unittest.TestCase):

    def check(self, place):
        import socket
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = torch.multiprocessing.get_context("spawn")
        out = context.SimpleQueue()
        ranks = [context.Process(target=part, args=(rank, place, port, out)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(120)
            self.assertIsNotNone(rank.exitcode, "a rank hangs")
        self.assertEqual(ranks[1].exitcode, -signal.SIGKILL)
        message, seconds = out.get()
        self.assertIn("rank 1", message)
        self.assertLess(seconds, 10)

    def test_in_gather(self):
        self.check("gather")

    def test_in_reduce(self):
        self.check("reduce")

    def test_while_profiling(self):
        self.check("profiling")


if __name__ == "__main__":
    unittest.main()
