"""Defects of the original library and of drop-ins before this one, which test_ops.py does not meet on its way: one rank, then three."""
import traceback
import unittest

import torch
import torch.distributed as dist

import ranks
import tessera_torch
from deepspeed.compile.config import CompileConfig
from tessera_torch import module as dc

GRAPH, BUCKET = 1 << 40, 1000


setUpModule, tearDownModule = ranks.enter_alone, ranks.leave_alone


def param(number, shape, world=1, rank=0, dtype=torch.float32, fill=None):
    """Registered; the whole parameter, its shard of this rank, and the gradient buffer."""
    count = torch.Size(shape).numel()
    size = -(-count // world)
    whole = torch.randn(count, generator=torch.Generator().manual_seed(number)).to(dtype)
    padded = torch.zeros(size * world, dtype=dtype)
    padded[:count] = whole
    shard, grad = padded[rank * size:(rank + 1) * size].clone(), torch.full((size, ), 7.0)
    dc.register_z3_param(number, shape, shard, grad, False, torch.float32)
    return whole.view(shape), shard, grad


def gathered(shard, number, graph=GRAPH, **options):
    ops = torch.ops.dc
    return ops.wait_allgather(ops.allgather_param(shard, graph, number, **options), graph, number)


def end(graph=GRAPH):
    torch.ops.dc.end_backward(None, graph, False)


class OneRank(unittest.TestCase):

    def setUp(self):
        dc.init(dist.group.WORLD, CompileConfig(), BUCKET)
        self.addCleanup(dc.cleanup)
        self.ops = torch.ops.dc

    def test_offloaded_tensor_is_dropped_at_once(self):
        """Its memory goes to others before wait_offload."""
        param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        for turn in range(20):
            tensor = torch.full((1 << 20, ), float(turn))
            host = self.ops.offload_tensor(tensor, GRAPH, 5)
            del tensor
            others = torch.full((1 << 20, ), -1.0)
            host = self.ops.wait_offload(host, GRAPH, 5)
            self.assertTrue(bool((host == turn).all()), turn)
            del others
            back = self.ops.wait_reload(self.ops.reload_tensor(host, GRAPH, 5), GRAPH, 5)
            self.assertTrue(bool((back == turn).all()), turn)

    def test_twice_in_one_bucket(self):
        _, _, grad = param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        dc.start_backward(True)
        for value in (1.0, 2.0):
            self.ops.reduce_grad(torch.full((10, ), value), GRAPH, 1)
        end()
        self.assertTrue(torch.equal(grad, torch.full((10, ), 3.0)))

    def test_bucket_of_two_graphs(self):
        """One graph fills and swaps the bucket while the other's gradients wait in it."""
        grads = [param(number, (600, ))[2] for number in (1, 2, 3, 4)]
        dc.register_graph_z3(GRAPH, [1, 3])
        dc.register_graph_z3(GRAPH + 1, [2, 4])
        for _ in range(2):
            dc.start_backward(True)
            for number in (1, 2, 3, 4):
                self.ops.reduce_grad(torch.full((600, ), float(number)), GRAPH + (number + 1) % 2, number)
            end(GRAPH)
            end(GRAPH + 1)
            for number, grad in enumerate(grads, 1):
                self.assertTrue(torch.equal(grad, torch.full((600, ), float(number))), number)

    def test_gathered_again_after_invalidate(self):
        whole, shard, _ = param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        for _ in range(3):
            full = gathered(shard, 1)
            self.assertTrue(torch.equal(full, whole))
            dc.invalidate_gathered_param(1)
            self.ops.release_param(full, GRAPH, 1, 1)
            self.assertEqual(dc.memory()["torch"], 0)

    def test_exception_leaves_use_counts_right(self):
        whole, shard, _ = param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        self.ops.release_param(gathered(shard, 1), GRAPH, 1, 3)  # one of three uses, then the step is dropped
        dc.abort_step()
        full = gathered(shard, 1)
        self.ops.release_param(full, GRAPH, 1, 2)
        self.assertTrue(torch.equal(full, whole))
        self.ops.release_param(full, GRAPH, 1, 2)
        self.assertEqual(full.untyped_storage().nbytes(), 0)

    def test_buckets_stay(self):
        param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        held = []
        for _ in range(5):
            dc.start_backward(True)
            self.ops.reduce_grad(torch.ones(10), GRAPH, 1)
            self.ops.end_backward(None, GRAPH, True)  # True: the original gives them back, to allocate them again
            held.append(dc.memory()["buckets"])
        self.assertGreater(held[0], 0)
        self.assertEqual(len(set(held[1:])), 1)  # two, made when first used

    def test_activation_ops_without_data(self):
        from deepspeed.compile.passes.offload_activation import register_activation_offload_ops
        register_activation_offload_ops()
        like = torch.empty(3, 5, device="meta")
        for name in ("offload_tensor", "wait_offload", "reload_tensor", "wait_reload"):
            self.assertEqual(getattr(self.ops, name)(like, GRAPH, 1).shape, (3, 5))


# ---- three ranks ----


def begin(rank, world, **settings):
    tessera_torch.install()
    dc.init(dist.group.WORLD, CompileConfig(**settings), BUCKET)


def uneven_gradient(rank, world):
    """10 elements over 3 ranks: shards of 4, of which the last has 2 of padding."""
    begin(rank, world)
    _, _, grad = param(1, (10, ), world, rank)
    dc.register_graph_z3(GRAPH, [1])
    beyond = torch.full((14, ), float("nan"))
    beyond[:10] = torch.arange(10.0) * (rank + 1)
    dc.start_backward(True)
    torch.ops.dc.reduce_grad(beyond[:10], GRAPH, 1)
    end()
    want = torch.zeros(12)
    want[:10] = torch.arange(10.0) * 2
    torch.testing.assert_close(grad, want[rank * 4:rank * 4 + 4], rtol=1e-6, atol=0)


def prefetch_in_a_dtype(rank, world):
    begin(rank, world)
    made = [param(number, (number, 7), world, rank) for number in (1, 2, 3)]
    dc.register_graph_z3(GRAPH, [1, 2, 3])
    ops, shards = torch.ops.dc, [shard for _, shard, _ in made]
    for _ in range(3):
        ops.prefetch_params_fused(GRAPH, shards, [1, 2, 3], [torch.bfloat16] * 3)
        for number, (whole, shard, _) in enumerate(made, 1):
            full = gathered(shard, number, dtype=torch.bfloat16)
            assert full.dtype == torch.bfloat16 and torch.equal(full, whole.bfloat16()), number
            ops.release_param(full, GRAPH, number, 1)
        assert dc.memory()["torch"] == 0


def gathered_by_one_graph_read_by_another(rank, world):
    begin(rank, world)
    whole, shard, _ = param(1, (300, 301), world, rank)
    for graph in (GRAPH, GRAPH + 1):
        dc.register_graph_z3(graph, [1])
    ops = torch.ops.dc
    for _ in range(20):
        ops.allgather_param(shard, GRAPH, 1)  # not waited for by its own graph
        full = gathered(shard, 1, GRAPH + 1)
        assert torch.equal(full, whole)
        for graph in (GRAPH, GRAPH + 1):
            ops.release_param(full, graph, 1, 1)


def order_of_reduces(rank, world):
    """In the order of calls on every rank, whatever order the dtypes and ids have; the same bits each time."""
    begin(rank, world)
    numbers = [9, 2, 1 << 50, 5]
    made = {number: param(number, (101, ), world, rank) for number in numbers}
    dc.register_graph_z3(GRAPH, numbers)
    found = []
    for _ in range(3):
        dc.start_backward(True)
        for number in numbers:
            generator = torch.Generator().manual_seed(number % 1000 + rank)
            torch.ops.dc.reduce_grad(torch.randn(101, generator=generator), GRAPH, number)
        end()
        found.append(torch.cat([grad for _, _, grad in made.values()]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def registered_differently(rank, world):
    begin(rank, world)
    shard = torch.ones(4)
    dc.register_z3_param(77, (10 + (rank == 2), ), shard, torch.ones(4), False, None)
    dc.register_graph_z3(GRAPH, [77])
    try:
        gathered(shard, 77)
    except RuntimeError as error:
        assert "parameter 77" in str(error), error
    else:
        raise AssertionError("no rank noticed")


def gathers_of_several_parameters(rank, world):
    """DeepSpeed's eager ZeRO-3 waits for the last handle only: each gather has to be through when it is handed out."""
    import deepspeed.comm as ds_comm
    tessera_torch.install()
    out = [torch.empty(world << 18) for _ in range(8)]
    parts = [torch.full((1 << 18, ), float(i)) for i in range(8)]
    handles = [ds_comm.all_gather_into_tensor(o, p, async_op=True) for o, p in zip(out, parts)]
    assert all(handle.is_completed() for handle in handles)


CHECKS = (uneven_gradient, prefetch_in_a_dtype, gathered_by_one_graph_read_by_another, order_of_reduces, registered_differently,
          gathers_of_several_parameters)


def every_check(rank, world, out):
    """One after the other in the same processes; what each raised, by its name."""
    raised = {}
    for check in CHECKS:
        try:
            check(rank, world)
        except Exception:
            raised[check.__name__] = traceback.format_exc()
        dc.cleanup()
    out.put(raised)


class ThreeRanks(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        out = ranks.context().SimpleQueue()
        ranks.run(every_check, 3, out)
        cls.raised = [out.get() for _ in range(3)]

    def check(self, function):
        self.assertEqual([raised[function.__name__] for raised in self.raised if function.__name__ in raised], [])

    def test_uneven_gradient(self):
        self.check(uneven_gradient)

    def test_prefetch_in_a_dtype(self):
        self.check(prefetch_in_a_dtype)

    def test_gathered_by_one_graph_read_by_another(self):
        self.check(gathered_by_one_graph_read_by_another)

    def test_order_of_reduces(self):
        self.check(order_of_reduces)

    def test_registered_differently(self):
        self.check(registered_differently)

    def test_gathers_of_several_parameters(self):
        self.check(gathers_of_several_parameters)


if __name__ == "__main__":
    unittest.main()
