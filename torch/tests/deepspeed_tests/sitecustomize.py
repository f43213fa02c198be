"""On PYTHONPATH in DeepSpeed's own tests, of which each starts processes: as soon as one imports deepspeed, it gets tessera_torch
(or, with TESSERA_TORCH_TESTS=oracle, the oracle), and what those tests lack on the CPU."""
import importlib.machinery
import os
import pathlib
import sys


def enable_tests():
    """They skip themselves on an accelerator of the name cpu, and ask it for versions of CUDA. Changed for callers in the
    tests only."""
    import deepspeed.comm as ds_comm
    import deepspeed.comm.comm as comm
    from deepspeed.accelerator import get_accelerator
    from deepspeed.git_version_info import torch_info
    accelerator = type(get_accelerator())

    def device_name(self, device_index=None):
        code = sys._getframe(1).f_code
        if "/tests/unit/" not in code.co_filename:
            return "cpu"
        if code.co_name == "bf16_required_version_check":
            return "xpu"  # of which it asks no version
        return "cpu-dc" if "/compile/" in code.co_filename else "cpu"

    accelerator.device_name = device_name
    accelerator.is_fp16_supported = lambda self: True  # without AVX-512 too, with plain kernels
    torch_info.setdefault("nccl_version", "0.0")

    # Their helper gathers a number; gloo wants a dimension.
    original = comm.all_gather_into_tensor

    def all_gather_into_tensor(output, tensor, *arguments, **options):
        return original(output, tensor.view(1) if tensor.dim() == 0 else tensor, *arguments, **options)

    comm.all_gather_into_tensor = ds_comm.all_gather_into_tensor = all_gather_into_tensor

    # A unit test of the activation pass by itself checks the rule that install() replaces.
    import deepspeed.compile.passes.offload_activation as passes
    replaced = passes._static_tensor_size
    passes._static_tensor_size = lambda node: replaced(node) if ds_comm.is_initialized() else enable_tests.static_size(node)


class Hook:

    def find_spec(self, name, path=None, target=None):
        if name != "deepspeed":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            # A source tree that was not installed does not know its version.
            module.__version__ = (pathlib.Path(module.__file__).parents[1] / "version.txt").read_text().strip()
            import deepspeed.compile.passes.offload_activation as passes
            enable_tests.static_size = passes._static_tensor_size
            import oracle
            import tessera_torch
            (oracle if os.environ["TESSERA_TORCH_TESTS"] == "oracle" else tessera_torch).install()
            enable_tests()

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("TESSERA_TORCH_TESTS") in ("ours", "oracle"):
    sys.meta_path.insert(0, Hook())
