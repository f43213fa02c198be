"""A rank is killed: every other raises an exception that names it, within ten seconds."""
import os
import signal
import time
import unittest

import torch

import ranks
import train

GRAPH, COUNT = 1 << 40, 1000


def ops_part(world, rank, place):
    """Goes through gathers and reduces once, then gives the call in which the others are to notice."""
    import torch.distributed as dist
    from deepspeed.compile.config import CompileConfig

    from tessera_torch import module as dc
    dc.init(dist.group.WORLD, CompileConfig(), COUNT)
    size = -(-COUNT // world)
    shard = torch.full((size, ), float(rank))
    dc.register_z3_param(1, (COUNT, ), shard, torch.empty(size), False, None)
    dc.register_graph_z3(GRAPH, [1])
    ops = torch.ops.dc

    def gather():
        full = ops.wait_allgather(ops.allgather_param(shard, GRAPH, 1), GRAPH, 1)
        assert full[0] == 0 and full[-1] == world - 1
        ops.release_param(full, GRAPH, 1, 1)

    def reduce():
        dc.start_backward(True)
        ops.reduce_grad(torch.ones(COUNT), GRAPH, 1)
        ops.end_backward(None, GRAPH, False)

    gather()
    reduce()
    if place == "profiling":
        dc.enable_profiling(True)
    return reduce if place == "reduce" else gather


def train_part(world, rank):
    """A step of DeepSpeed's engine, of which two have passed."""
    import deepspeed
    import models
    torch.manual_seed(3)
    model = models.make("small", 16, 1)
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=train.config_of(3, "f32", {}, 1))
    engine.compile(backend="eager")
    list(train.steps_of(engine, 2, 1, rank))
    return lambda: list(train.steps_of(engine, 1, 1, rank))


def part(rank, world, place, port, out):
    import torch.distributed as dist
    ranks.enter(rank, world, port)
    import tessera_torch
    tessera_torch.install()
    last = train_part(world, rank) if place == "training" else ops_part(world, rank, place)
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    try:
        last()
        out.put((rank, "no exception", 0.0))
    except RuntimeError as error:
        out.put((rank, str(error), time.monotonic() - begin))


class Dead(unittest.TestCase):

    def check(self, place, world):
        context, port = ranks.context(), ranks.free_port()
        out = context.SimpleQueue()
        processes = [context.Process(target=part, args=(rank, world, place, port, out)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(180)
            self.assertIsNotNone(process.exitcode, "a rank hangs")
        self.assertEqual(processes[1].exitcode, -signal.SIGKILL)
        found = [out.get() for _ in range(world - 1)]
        self.assertEqual(sorted(rank for rank, *_ in found), [rank for rank in range(world) if rank != 1])
        for _, message, seconds in found:
            self.assertIn("rank 1", message)
            self.assertLess(seconds, 10)

    def test_in_gather(self):
        self.check("gather", 3)

    def test_in_reduce(self):
        self.check("reduce", 3)

    def test_while_profiling(self):
        self.check("profiling", 2)

    def test_in_a_training_step(self):
        self.check("training", 2)


if __name__ == "__main__":
    unittest.main()
