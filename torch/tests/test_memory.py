"""Bytes: what the ops hold, by formula, and that it does not grow."""
import pathlib
import resource
import time
import unittest

import deepspeed  # noqa: F401
import torch
import torch.distributed as dist
from torch.multiprocessing.reductions import StorageWeakRef

import ranks
from deepspeed.compile.config import CompileConfig
from tessera_torch import module as dc

GRAPH, COUNT = 1 << 40, 100_000


setUpModule, tearDownModule = ranks.enter_alone, ranks.leave_alone


def resident() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Memory(unittest.TestCase):

    def setUp(self):
        dc.init(dist.group.WORLD, CompileConfig(), COUNT)
        self.addCleanup(dc.cleanup)
        self.ops = torch.ops.dc
        self.shard = torch.ones(COUNT)
        dc.register_z3_param(1, (COUNT, ), self.shard, torch.zeros(COUNT), False, None)
        dc.register_graph_z3(GRAPH, [1])

    def gathered(self, dtype=None):
        return self.ops.wait_allgather(self.ops.allgather_param(self.shard, GRAPH, 1, dtype=dtype), GRAPH, 1)

    def test_a_copy_costs_its_elements(self):
        for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
            full = self.gathered(dtype)
            view = full[5:500]
            self.assertEqual((dc.memory()["gathered"], full.untyped_storage().nbytes()), (COUNT * size, COUNT * size))
            self.ops.release_param(full, GRAPH, 1, 1)
            self.assertEqual(view.untyped_storage().nbytes(), 0)
            self.assertEqual(self.settled()["torch"], 0)

    def settled(self):
        """What is held once the stream has passed the cast's temporary."""
        deadline = time.monotonic() + 10
        while dc.memory()["torch"] and time.monotonic() < deadline:
            pass
        return dc.memory()

    def test_offloaded_activations_leave_the_device(self):
        """Each costs its bytes on the host instead; brought back, its bytes here, and the caller's."""
        sizes = (1000, 20_000, 300_000)
        hosts, gone = [], []
        for number, size in enumerate(sizes):
            activation = torch.full((size, ), float(number))
            gone.append(StorageWeakRef(activation.untyped_storage()))
            hosts.append(self.ops.wait_offload(self.ops.offload_tensor(activation, GRAPH, number), GRAPH, number))
            del activation
        self.assertTrue(all(each.expired() for each in gone))
        held = dc.memory()
        self.assertEqual((held["host"], held["reloaded"], held["torch"]), (4 * sum(sizes), 0, 0))
        left = sum(sizes)
        for number, (size, host) in reversed(list(enumerate(zip(sizes, hosts)))):
            hollow = self.ops.reload_tensor(host, GRAPH, number)
            self.assertEqual(dc.memory()["reloaded"], 4 * size)
            self.assertEqual(hollow.untyped_storage().nbytes(), 0)
            back = self.ops.wait_reload(hollow, GRAPH, number)
            self.assertTrue(bool((back == number).all()))
            left -= size
            held = dc.memory()
            self.assertEqual((held["host"], held["reloaded"], held["torch"]), (4 * left, 0, 0))
            last = StorageWeakRef(back.untyped_storage())
            del back
            self.assertTrue(last.expired())  # nobody else held it

    def test_offloaded_parameter_is_on_the_host(self):
        self.ops.offload_parameter(self.shard, GRAPH, 1)
        self.assertEqual(dc.memory()["host"], 4 * COUNT)
        self.ops.reload_parameter(self.shard, GRAPH, 1)
        self.ops.offload_parameter(self.shard, GRAPH, 1)  # unchanged: nothing more
        self.assertEqual(dc.memory()["host"], 4 * COUNT)
        self.ops.reload_parameter(self.shard, GRAPH, 1)
        dc.weights_changed()
        self.assertEqual(dc.memory()["host"], 0)

    def test_no_growth_over_1000_steps(self):
        activation, held = torch.ones(COUNT), []
        for step in range(1000):
            full = self.gathered()
            host = self.ops.wait_offload(self.ops.offload_tensor(activation, GRAPH, 5), GRAPH, 5)
            dc.start_backward(True)
            back = self.ops.wait_reload(self.ops.reload_tensor(host, GRAPH, 5), GRAPH, 5)
            self.ops.reduce_grad(full * back, GRAPH, 1)
            self.ops.release_param(full, GRAPH, 1, 1)
            self.ops.end_backward(None, GRAPH, True)
            dc.weights_changed()
            del full, host, back
            held.append((tuple(dc.memory().values()), resident()))
        self.assertEqual(len({memory for memory, _ in held[2:]}), 1)
        # A tensor kept a step would be 360 MB.
        self.assertLess(held[-1][1] - held[100][1], 20 << 20)


if __name__ == "__main__":
    unittest.main()
