"""The ops and functions one by one, on one rank: their contract, and the defects of the original that must not come back."""
import ast
import pathlib
import subprocess
import sys
import tempfile
import threading
import types
import unittest
from unittest import mock

import deepspeed
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import ranks
import tessera_torch
from deepspeed.compile.config import CompileConfig
from tessera_torch import engines, library, ops
from tessera_torch import module as dc

GRAPH = 1 << 40


setUpModule, tearDownModule = ranks.enter_alone, ranks.leave_alone


class OpTest(unittest.TestCase):

    def setUp(self):
        dc.init(dist.group.WORLD, CompileConfig(), 1000)
        self.addCleanup(dc.cleanup)
        self.ops = torch.ops.dc

    def param(self, number, shape, dtype=torch.float32, grad_dtype=None, frozen=False):
        count = torch.Size(shape).numel()
        shard = torch.randn(count).to(dtype)
        grad = torch.empty(0) if frozen else torch.full((count, ), 7.0, dtype=grad_dtype or dtype)
        dc.register_z3_param(number, shape, shard, grad, False, grad_dtype or dtype)
        return shard, grad

    def gathered(self, shard, number, graph=GRAPH, **options):
        return self.ops.wait_allgather(self.ops.allgather_param(shard, graph, number, **options), graph, number)

    def end(self, graph=GRAPH, deps=()):
        self.ops.end_backward(list(deps) or None, graph, False)


class Schemas(unittest.TestCase):

    def test_equal_to_deepspeeds_text(self):
        source = pathlib.Path(deepspeed.__file__).parent / "ops/csrc/compile/init.cpp"
        schemas = ops.in_source(source.read_text())
        self.assertEqual(len(schemas), 14)
        self.assertCountEqual(schemas, library.get().schemas(ops.release_of(deepspeed.__version__)))  # to the letter
        for schema in schemas:
            name = schema.split("(")[0]
            self.assertEqual(getattr(torch.ops.dc, name).default._schema, torch._C.parse_schema(f"dc::{schema}"))

    def test_change_between_releases(self):  # schemas.py compares with the sources of each
        ends = {release: [text for text in library.get().schemas(release) if text.startswith("end_backward")]
                for release in (1800, 1809, 1900, 1901, 1902, 1908)}
        self.assertEqual(ends[1800], ["end_backward(int graph_id) -> ()"])
        self.assertEqual(ends[1900], ["end_backward(Any deps, int graph_id) -> ()"])
        self.assertEqual(ends[1902], ["end_backward(Any deps, int graph_id, bool release_reduce_buckets) -> ()"])
        self.assertEqual((ends[1809], ends[1901], ends[1908]), (ends[1800], ends[1900], ends[1902]))
        for version in ("0.17.6", "0.20.0", "1.0.0", "master"):
            with self.assertRaisesRegex(RuntimeError, f"the ops of DeepSpeed {version} are not known; .*install"):
                ops.release_of(version)

    def test_result_of_reduce_grad(self):
        """Up to 0.18 it is the gradient that autograd gets: none, as what has another shape than the parameter is refused."""
        code = ("import torch\nfrom tessera_torch import ops\nops.define({})\n"
                "print(torch.ops.dc.reduce_grad(torch.ones(3, device='meta'), 0, 0))")
        for release, found in ((1800, "None"), (1809, "None"), (1900, "size=(0,)")):
            done = subprocess.run([sys.executable, "-c", code.format(release)], capture_output=True, text=True, check=True)
            self.assertIn(found, done.stdout)

    def test_other_ops_than_the_version_should_have(self):
        source = pathlib.Path(deepspeed.__file__).parent / "ops/csrc/compile/init.cpp"
        with tempfile.TemporaryDirectory() as folder:
            changed = pathlib.Path(folder) / "init.cpp"
            changed.write_text(source.read_text().replace("int graph_id, int id, int n_users", "int graph_id, int id"))
            with self.assertRaisesRegex(RuntimeError, "other ops than are known of that version: .*release_param"):
                ops.check(deepspeed.__version__, changed)
        ops.check(deepspeed.__version__, source)


class Gather(OpTest):

    def test_release_frees_storage_with_live_views(self):
        shard, _ = self.param(1, (30, 7))
        dc.register_graph_z3(GRAPH, [1])
        full = self.gathered(shard, 1)
        view = full[3:9].t()
        self.assertTrue(torch.equal(full.flatten(), shard))
        self.assertEqual(full.untyped_storage().nbytes(), 840)
        same = self.ops.release_param(full, GRAPH, 1, 2)
        self.assertEqual(full.untyped_storage().nbytes(), 840)  # one of two uses
        self.ops.release_param(same, GRAPH, 1, 2)
        self.assertEqual((full.untyped_storage().nbytes(), view.untyped_storage().nbytes()), (0, 0))
        self.assertEqual(dc.memory()["torch"], 0)

    def test_a_copy_of_old_weights_is_not_used(self):
        shard, _ = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        dc.set_persistent(1)
        before = self.gathered(shard, 1).clone()
        shard.mul_(2)
        dc.weights_changed()
        self.assertTrue(torch.equal(self.gathered(shard, 1), before * 2))

    def test_dtype_asked_for(self):
        shard, _ = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        for dtype in (torch.bfloat16, torch.float32, torch.float16):
            full = self.gathered(shard, 1, dtype=dtype)
            self.assertEqual(full.dtype, dtype)
            self.assertTrue(torch.equal(full, shard.to(dtype)))
            self.ops.release_param(full, GRAPH, 1, 1)

    def test_prefetch_keeps_the_dtype(self):
        shard, _ = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        for dtypes in ([torch.bfloat16], None):  # None: as it was asked for last
            self.ops.prefetch_params_fused(GRAPH, [shard], [1], dtypes)
            held = dc.memory()["gathered"]
            full = self.gathered(shard, 1, dtype=torch.bfloat16)
            self.assertEqual(dc.memory()["gathered"], held)  # nothing more was gathered
            self.assertTrue(torch.equal(full, shard.bfloat16()))
            self.ops.release_param(full, GRAPH, 1, 1)

    def test_registered_anew(self):
        shard, _ = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        dc.set_persistent(1)
        self.gathered(shard, 1)
        other, _ = self.param(1, (4, 5))
        full = self.gathered(other, 1)
        self.assertTrue(torch.equal(full.flatten(), other))

    def test_released_by_one_graph_used_by_another(self):
        shard, _ = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        dc.register_graph_z3(GRAPH + 1, [1])
        one, two = self.gathered(shard, 1), self.gathered(shard, 1, GRAPH + 1)
        self.ops.release_param(one, GRAPH, 1, 1)
        self.assertTrue(torch.equal(two, shard))
        self.ops.release_param(two, GRAPH + 1, 1, 1)
        self.assertEqual(two.untyped_storage().nbytes(), 0)

    def test_profiling(self):
        shard, grad = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        dc.enable_profiling(True)
        self.assertTrue(dc.is_profiling())
        for _ in range(15):
            dc.invalidate_gathered_param(1)
            full = self.gathered(shard, 1)
            self.assertTrue(torch.equal(full, shard))
        for _ in range(3):
            self.ops.release_param(full, GRAPH, 1, 1)
        self.ops.reduce_grad(torch.ones(10), GRAPH, 1)
        dc.clear_all_gathered_params()
        dc.enable_profiling(False)
        self.assertEqual(dc.memory()["torch"], 0)
        self.assertEqual(grad.abs().max(), 0)

    def test_no_growth(self):
        shard, _ = self.param(1, (1000, ))
        dc.register_graph_z3(GRAPH, [1])
        held = []
        for _ in range(1000):
            full = self.gathered(shard, 1)
            self.ops.reduce_grad(full.clone(), GRAPH, 1)
            self.ops.release_param(full, GRAPH, 1, 1)
            dc.start_backward(True)
            self.end()
            dc.weights_changed()
            held.append(dc.memory()["torch"])
        self.assertEqual(len(set(held[2:])), 1)  # two buckets, made when first used


class Reduce(OpTest):

    def test_accumulates_over_graphs_and_micro_steps(self):
        _, grad = self.param(1, (10, ))
        for graph in (GRAPH, GRAPH + 1):
            dc.register_graph_z3(graph, [1])
        for update in (False, True):
            dc.start_backward(update)
            for graph in (GRAPH, GRAPH + 1):
                gradient = torch.ones(10)
                self.assertEqual(self.ops.reduce_grad(gradient, graph, 1).shape, (0, ))
                gradient.fill_(99)  # torch may use its memory again at once
                self.end(graph)
        self.assertTrue(torch.equal(grad, torch.full((10, ), 4.0)))

    def test_no_gradient_this_step(self):
        _, grad = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        dc.start_backward(True)
        self.ops.reduce_grad(torch.ones(10), GRAPH, 1)
        self.end()
        dc.start_backward(True)
        self.end()
        self.assertEqual(grad.abs().max(), 0)

    def test_not_contiguous_and_of_another_dtype(self):
        _, grad = self.param(1, (4, 6), torch.bfloat16, torch.float32)
        dc.register_graph_z3(GRAPH, [1])
        gradient = torch.arange(24.0).view(6, 4).t().bfloat16()
        dc.start_backward(True)
        self.ops.reduce_grad(gradient, GRAPH, 1)
        self.end()
        self.assertTrue(torch.equal(grad.view(4, 6), gradient.float()))

    def test_gradient_buffer_of_another_size(self):
        shard, grad = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        for size, words in ((0, "grad is NULL"), (9, "buffer has 9 elements, its shard 10"), (11, "buffer has 11 elements")):
            with self.assertRaisesRegex(RuntimeError, f"parameter 1: .*{words}"):
                dc.update_param_grad_buffer(1, torch.empty(size))
        dc.start_backward(True)
        self.ops.reduce_grad(torch.ones(10), GRAPH, 1)
        self.end()
        self.assertTrue(torch.equal(grad, torch.ones(10)))  # the earlier one stays

    def test_stage_1_sums_micro_steps_without_touching_gradients(self):
        weights = torch.zeros(10)
        dc.register_param(1, (10, ), weights, torch.empty(0), 0)
        dc.register_graph_z1(GRAPH, [1])
        slice_ = torch.empty(6)
        first = torch.ones(10)
        for _ in range(2):
            dc.update_param_grad_buffer(1, torch.empty(0), 0)
            dc.start_backward(False)
            self.ops.reduce_grad(first, GRAPH, 1)
            self.end()
            dc.update_param_grad_buffer(1, slice_, 3)
            dc.start_backward(True)
            self.ops.reduce_grad(torch.arange(10.0), GRAPH, 1)
            self.end()
            self.assertTrue(torch.equal(slice_, torch.arange(10.0)[3:9] + 1))
        self.assertTrue(torch.equal(first, torch.ones(10)))

    def test_abort_step(self):
        shard, grad = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        full = self.gathered(shard, 1)
        dc.start_backward(True)
        self.ops.reduce_grad(torch.ones(10), GRAPH, 1)
        dc.abort_step()
        self.assertEqual(full.untyped_storage().nbytes(), 0)
        dc.start_backward(True)
        self.ops.reduce_grad(torch.full((10, ), 3.0), GRAPH, 1)
        self.end()
        self.assertTrue(torch.equal(grad, torch.full((10, ), 3.0)))

    def test_from_autograds_thread(self):
        shard, grad = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        threads = []

        class Use(torch.autograd.Function):

            @staticmethod
            def forward(context, x):
                return x * 2

            @staticmethod
            def backward(context, gradient):
                threads.append(threading.get_ident())
                full = self.gathered(shard, 1)
                self.ops.reduce_grad(gradient * full, GRAPH, 1)
                self.ops.release_param(full, GRAPH, 1, 1)
                self.end()
                return gradient * 2

        x = torch.ones(10, requires_grad=True)
        dc.start_backward(True)
        Use.apply(x).sum().backward()
        self.assertTrue(torch.equal(grad, shard))
        self.assertEqual(len(threads), 1)

    def test_end_backward_takes_anything(self):
        self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        dc.start_backward(True)
        for deps in (None, torch.empty(0), [torch.empty(0)], [torch.empty(0), None], [None]):
            self.ops.end_backward(deps, GRAPH, True)

    def test_free_tensors(self):
        small, large = torch.ones(10), torch.ones(11 << 20)
        view = large[:5]
        self.ops.free_tensors([small, large])
        self.assertEqual((small.numel(), large.numel()), (10, 0))
        self.assertEqual(view.sum(), 5)


class Offload(OpTest):

    def setUp(self):
        super().setUp()
        self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])

    def round_trip(self, tensor):
        host = self.ops.wait_offload(self.ops.offload_tensor(tensor, GRAPH, 5), GRAPH, 5)
        reloading = self.ops.reload_tensor(host, GRAPH, 5)
        return self.ops.wait_reload(reloading, GRAPH, 5)

    def test_comes_back_whatever_its_layout(self):
        base = torch.arange(24.0).view(4, 6)
        for tensor in (base, base.t(), base[:, ::2], base.bfloat16(), torch.arange(7), torch.tensor(3.0)):
            want = tensor.clone()
            back = self.round_trip(tensor)
            self.assertTrue(torch.equal(back, want))
            self.assertNotEqual(back.data_ptr(), tensor.data_ptr())
        self.assertEqual(dc.memory()["reloaded"], 0)  # the caller's now

    def test_no_elements(self):
        moved = torch.empty(3, 0, dtype=torch.bfloat16)
        for op in (self.ops.offload_tensor, self.ops.wait_offload, self.ops.reload_tensor, self.ops.wait_reload):
            moved = op(moved, GRAPH, 9)
            self.assertEqual((moved.shape, moved.dtype), ((3, 0), torch.bfloat16))

    def test_other_shapes_under_one_id(self):
        for count in (10, 1000, 3):
            self.assertTrue(torch.equal(self.round_trip(torch.arange(count)), torch.arange(count)))

    def test_never_reloaded(self):
        tensor = torch.arange(5.0)
        back = self.ops.wait_reload(tensor, GRAPH, 9)
        self.assertTrue(torch.equal(back, tensor))
        self.assertNotEqual(back.data_ptr(), tensor.data_ptr())  # the schema names no alias

    def test_parameter(self):
        shard, _ = self.param(2, (10, ))
        want = shard.clone()
        dc.register_graph_z3(GRAPH, [1, 2])
        self.ops.offload_parameter(shard, GRAPH, 2)
        self.ops.reload_parameter(shard, GRAPH, 2)
        self.assertTrue(torch.equal(self.gathered(shard, 2), want))


class Tracing(OpTest):

    def test_fake_tensors(self):
        self.param(1, (3, 5))
        dc.register_graph_z3(GRAPH, [1])
        with FakeTensorMode():
            shard = torch.empty(15)
            full = self.gathered(shard, 1, dtype=torch.bfloat16)
            self.assertIsInstance(full, FakeTensor)
            self.assertEqual((full.shape, full.dtype), ((3, 5), torch.bfloat16))
            self.assertEqual(self.ops.release_param(full, GRAPH, 1, 1).shape, (3, 5))
            self.assertEqual(self.ops.reduce_grad(full, GRAPH, 1).shape, (0, ))
            self.ops.prefetch_params_fused(GRAPH, [shard], [1])
            self.ops.end_backward([full], GRAPH, False)
        self.assertEqual(dc.memory()["torch"], 0)

    def test_compiled_with_dynamic_shapes(self):
        dc.cleanup()  # gathers are waited for at once: torch functionalises no op with an alias, as wait_allgather is
        dc.init(dist.group.WORLD, CompileConfig(sync_after_allgather=True), 1000)
        shard, grad = self.param(1, (3, 5))
        dc.register_graph_z3(GRAPH, [1])

        def function(x, shard):
            full = torch.ops.dc.allgather_param(shard, GRAPH, 1)
            nothing = torch.ops.dc.reduce_grad(x.sum() * torch.ones(3, 5), GRAPH, 1)
            return torch.ops.dc.test_call(x @ full).relu() + 1, nothing

        for backend in ("aot_eager", "inductor"):
            compiled = torch.compile(function, backend=backend, dynamic=True)
            for rows in (2, 9, 4):
                x = torch.randn(rows, 3)
                dc.start_backward(True)
                found, nothing = compiled(x, shard)
                self.end()
                torch.testing.assert_close(found, (x @ shard.view(3, 5)).relu() + 1)
                self.assertEqual(nothing.shape, (0, ))
                torch.testing.assert_close(grad, x.sum().expand(15))


class Errors(OpTest):

    def test_name_what_is_wrong(self):
        shard, _ = self.param(1, (10, ))
        for words, call in (
            ("allgather_param: graph 77 is not registered: register_graph_z1, z2 or z3", lambda: self.ops.allgather_param(shard, 77, 1)),
            ("register_graph: parameter 5 is not registered", lambda: dc.register_graph_z3(GRAPH, [5])),
            ("register_param: parameter 2: its shard has 9 elements", lambda: dc.register_z3_param(2, (10, ), torch.ones(9), torch.ones(9), False, None)),
            ("float32, bfloat16 or float16",
             lambda: dc.register_z3_param(2, (4, ), torch.ones(4).double(), torch.ones(4), False, None)),
        ):
            with self.assertRaisesRegex(RuntimeError, words):
                call()
        dc.register_graph_z3(GRAPH, [1])
        with self.assertRaisesRegex(RuntimeError, "reduce_grad: parameter 1 has 10 elements, its gradient 3"):
            self.ops.reduce_grad(torch.ones(3), GRAPH, 1)
        with self.assertRaisesRegex(RuntimeError, "release_param: .*releases parameter 1, which it has not gathered"):
            self.ops.release_param(shard, GRAPH, 1, 1)
        with self.assertRaisesRegex(RuntimeError, "ZeRO stage 2 in an engine of stage 3"):
            dc.register_graph_z2(GRAPH + 1, [1])

    def test_memory_that_was_freed(self):
        shard, _ = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        freed = torch.ones(2, 10)[1]
        freed.untyped_storage().resize_(4 * 19)  # the last element is missing
        dc.start_backward(True)
        for op in (self.ops.reduce_grad, self.ops.offload_tensor):
            with self.assertRaisesRegex(RuntimeError, "10 elements whose storage holds 76 bytes: was it freed"):
                op(freed, GRAPH, 1)
        shard.untyped_storage().resize_(0)
        with self.assertRaisesRegex(RuntimeError, "allgather_param: parameter 1: shard is NULL"):
            self.ops.allgather_param(shard, GRAPH, 1)

    def test_shapes_and_sizes_that_are_none(self):
        for shape in ((-10, ), (-2, -5), (1 << 40, 1 << 40)):
            with self.assertRaisesRegex(RuntimeError, "parameter 1: its shape is no shape"):
                dc.register_z3_param(1, shape, torch.ones(10), torch.ones(10), False, None)
        shard, _ = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        with self.assertRaisesRegex(RuntimeError, "1 parameters, 2 ids"):
            self.ops.prefetch_params_fused(GRAPH, [shard], [1, 1])
        with self.assertRaisesRegex(RuntimeError, "buckets of 0 elements"):
            dc.init(dist.group.WORLD, CompileConfig(), 0)

    def test_environment(self):
        for given in ("soon", "-1", "nan", "1e30", ""):
            with mock.patch.dict("os.environ", TESSERA_TORCH_TIMEOUT_S=given):
                with self.assertRaisesRegex(ValueError, "TESSERA_TORCH_TIMEOUT_S is to be seconds"):
                    dc.init(dist.group.WORLD, CompileConfig(), 1000)

    def test_settings(self):
        with self.assertRaisesRegex(ValueError, "symmetric memory needs a GPU"):
            dc.init(dist.group.WORLD, CompileConfig(symmetric_memory=True), 1000)

    def test_no_engine(self):
        dc.cleanup()
        dc.cleanup()
        with self.assertRaisesRegex(RuntimeError, "no engine"):
            dc.reset()


# Globals of deepspeed.compile that all engines of a process may share: keyed by frame, graph or engine, of the device, or counts.
SHARED = {
    "backend": {"frames_needing_bwd", "opt_pass_times", "opt_passes"},
    "config": {"PassName"},
    "partitioner": {"_num_fwd_outputs_by_frame"},
    "passes.contract": {"_pass_contracts"},
    "passes.offload_activation": {"_activation_ops_lib", "_h2d_bytes_per_sec", "_next_value_id", "_offload_plans", "_resident_bytes",
                                  "_skipped", "_stats"},
    "passes.offload_adam_states": {"_offload_op_stats", "_offload_ops_lib", "copy_stream", "offload_event", "reload_event"},
    "passes.prefetch": {"run_prefetch_pass"},
    "passes.selective_gather": {"last_optimize_step", "max_alloc_mem"},
    "patch_compiled_func": {"backward_frame_keys", "backward_inputs", "base_meta", "enabled_patched_func", "original_grad_fn"},
    "profilers.comm_profile": {"profile_results"},
    "util": {"dc_handle"},
    "z3_eager_fallback": {"_ACTIVE_FALLBACK"},
}


def globals_of(path) -> set:
    """Names that a module assigns, but for constants."""
    found, tree = set(), ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found.update(node.names)
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        found.update(each.id for each in targets if isinstance(each, ast.Name) and not each.id.isupper())
    return {name for name in found if not name.startswith("__")}


class Engines(OpTest):

    def test_every_global_of_the_compiler_is_an_engines_or_shared(self):
        """A release of DeepSpeed that adds one is noticed here."""
        root = pathlib.Path(deepspeed.__file__).parent / "compile"
        for path in root.rglob("*.py"):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            known = {*engines.GRAPHS.get(name, ()), *engines.OTHERS.get(name, ()), *SHARED.get(name, ())}
            self.assertEqual(globals_of(path) - known, set(), name)

    def test_two_with_equal_ids(self):
        one, _ = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        first = library.get().current()
        dc.init(dist.group.WORLD, CompileConfig(), 1000)
        self.addCleanup(dc.cleanup)
        two, _ = self.param(1, (10, ))
        dc.register_graph_z3(GRAPH, [1])
        second = library.get().current()
        for handle, shard in ((first, one), (second, two), (first, one)):
            library.get().call("set_current", handle)
            full = self.gathered(shard, 1)
            self.assertTrue(torch.equal(full, shard))
            self.ops.release_param(full, GRAPH, 1, 1)


class Installing(unittest.TestCase):

    def test_undone(self):
        import deepspeed.compile.util as util
        from deepspeed.accelerator import get_accelerator
        from deepspeed.ops.op_builder.dc import DeepCompileBuilder
        from deepspeed.runtime.engine import DeepSpeedEngine
        watched = [(util, "dc_handle"), (util, "is_deepcompile_supported"), (DeepSpeedEngine, "forward"),
                   (type(get_accelerator()), "current_device"), (torch.Tensor, "record_stream")]
        inside = [getattr(*at) for at in watched]
        tessera_torch.uninstall()
        self.assertNotIn("dc", DeepCompileBuilder._loaded_ops)
        self.assertFalse(util.is_deepcompile_supported())
        outside = [getattr(*at) for at in watched]
        self.assertTrue(all(a is not b for a, b in zip(inside, outside)))
        tessera_torch.install()
        tessera_torch.install()
        self.assertTrue(util.is_deepcompile_supported())
        tessera_torch.uninstall()
        self.assertEqual([getattr(*at) for at in watched], outside)
        tessera_torch.install()

    def attributes(self):
        """Of all modules of DeepSpeed and their classes, and of torch's tensors: what each name is."""
        found = {}
        for name, where in list(sys.modules.items()):
            if where is None or not name.startswith("deepspeed"):
                continue
            for key, value in list(vars(where).items()):
                found[name, key] = value
                if isinstance(value, type) and value.__module__.startswith("deepspeed"):
                    found.update({(value, inner): at for inner, at in vars(value).items()})
        found.update({(torch.Tensor, key): value for key, value in vars(torch.Tensor).items()})
        return found

    def test_nothing_of_it_is_left(self):
        tessera_torch.uninstall()
        before = self.attributes()
        tessera_torch.install()
        changed = [key for key, value in self.attributes().items() if before.get(key) is not value]
        self.assertGreater(len(changed), 15)  # it sees what install does
        tessera_torch.uninstall()
        after = self.attributes()
        self.assertEqual([key for key in before if key not in after or after[key] is not before[key]], [])
        self.assertEqual([key for key in after if key not in before], [])
        tessera_torch.install()

    def alone(self, prepare=""):
        """The library in a process without torch."""
        code = (f"import ctypes\n{prepare}\nlib = ctypes.CDLL({str(library.path())!r})\n"
                "lib.tsr_torch_error.restype = ctypes.c_char_p\nprint(lib.tsr_torch_load(1908), lib.tsr_torch_error().decode())")
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    def test_no_torch_and_one_too_old(self):
        self.assertIn("torch is not loaded: import torch first", self.alone())
        with tempfile.TemporaryDirectory() as folder:
            old = f"{folder}/libtorch_cpu.so"
            subprocess.run(["cc", "-shared", "-Wl,-soname,libtorch_cpu.so", "-x", "c", "-", "-o", old], check=True, text=True,
                           input="unsigned long aoti_torch_abi_version(void) { return 0; }")
            self.assertIn("version 2.11 or later is needed", self.alone(f"ctypes.CDLL({old!r}, ctypes.RTLD_GLOBAL)"))

    def test_native_engine_is_of_the_engine_that_compiles(self):
        """As before 0.19.7: compile() itself calls init, and cleans nothing up when it fails."""
        from deepspeed.runtime.engine import DeepSpeedEngine

        def compile(engine):
            dc.init(dist.group.WORLD, CompileConfig(), 1000)
            if engine.fails:
                raise ValueError

        tessera_torch.uninstall()
        with mock.patch.object(DeepSpeedEngine, "compile", compile):
            tessera_torch.install()
            first, second, failing = (types.SimpleNamespace(fails=fails) for fails in (False, False, True))
            for engine in (first, second):
                DeepSpeedEngine.compile(engine)
                self.assertEqual(engine._tessera.handle, library.get().current())
            with self.assertRaises(ValueError):
                DeepSpeedEngine.compile(failing)
            self.assertFalse(hasattr(failing, "_tessera"))
            self.assertEqual(dc.engines(), (first._tessera.handle, second._tessera.handle))
            for engine in (first, second):
                library.get().call("set_current", engine._tessera.handle)
                dc.cleanup()
            tessera_torch.uninstall()
        tessera_torch.install()

    def test_original_library_is_there_already(self):
        import deepspeed.compile.util as util
        tessera_torch.uninstall()
        util.dc_handle = object()
        try:
            with self.assertRaisesRegex(RuntimeError, "loaded already"):
                tessera_torch.install()
        finally:
            util.dc_handle = None
            tessera_torch.install()


if __name__ == "__main__":
    unittest.main()
