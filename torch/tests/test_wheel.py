"""As a new user: the wheel is built by its script and installed into an empty virtual environment, and the README's two lines train.

The environment sees torch and DeepSpeed through a .pth file that names the test environment's packages, for they are large; pip
checks tessera-torch's requirements against those. No compiler is on PATH, and nothing of this repository on PYTHONPATH."""
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile
import unittest
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
RANKS = 2

# What follows the README's lines. Inductor's C++ needs a compiler, whoever calls it; the backend eager does not.
TRAINING = """
import sys
import deepspeed
import torch

torch.manual_seed(1)


class Model(torch.nn.Module):

    def __init__(self):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(8, 16), torch.nn.Linear(16, 1)

    def forward(self, x):
        return self.outer(self.inner(x).relu()).square().mean()


model = Model()
config = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 3}, "compile": {"deepcompile": True},
          "optimizer": {"type": "Adam", "params": {"lr": 1e-2, "torch_adam": True}}}
engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
engine.compile(backend="eager")
x = torch.randn(4, 8)
losses = []
for _ in range(6):
    loss = engine(x)
    engine.backward(loss)
    engine.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
assert engine.is_deepcompile_active()
# The file's own folder comes first on sys.path.
assert "site-packages" in tessera_torch.__file__, tessera_torch.__file__
print("trained", losses[0], losses[-1], flush=True)
engine.destroy()
"""


def readme_lines():
    text = (ROOT / "README.md").read_text()
    return re.search(r"## Use it under DeepSpeed\n+```python\n(.*?)```", text, re.S).group(1)


class Wheel(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        built = subprocess.run([ROOT / "scripts/torch_wheel.sh", cls.folder / "wheel"], capture_output=True, text=True)
        if built.returncode != 0:
            raise AssertionError(built.stdout + built.stderr)
        (cls.wheel, ) = (cls.folder / "wheel").glob("*.whl")
        cls.python = cls.install()

    @classmethod
    def install(cls):
        venv = cls.folder / "empty"
        # Of this interpreter's base: a venv made from a venv is of its base too.
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        packages = next(venv.glob("lib/python*/site-packages"))
        pip = [venv / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        clean = {**os.environ, "PYTHONPATH": ""}
        # Before Python 3.12 a venv begins with a setuptools too old for torch, which would hide the other.
        subprocess.run([*pip, "uninstall", "--yes", "setuptools"], check=True, env=clean, stderr=subprocess.DEVNULL)
        (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([*pip, "install", "--no-index", cls.wheel], check=True, env=clean)
        return venv / "bin/python"

    def test_tag_and_contents(self):
        self.assertRegex(self.wheel.name, r"^tessera_torch-[\d.]+-py3-none-manylinux_\d+_\d+_\w+\.whl$")
        names = zipfile.ZipFile(self.wheel).namelist()
        for name in ("libtessera_torch.so", "py.typed", "__init__.pyi", "module.pyi"):
            self.assertIn(f"tessera_torch/{name}", names)
        self.assertEqual([name for name in names if name.endswith(".so") and not name.endswith("libtessera_torch.so")], [])

    def test_links_only_the_system(self):
        with zipfile.ZipFile(self.wheel) as files:
            library = files.extract("tessera_torch/libtessera_torch.so", self.folder)
        read = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", read)
        self.assertIn("libc.so.6", needed)
        self.assertEqual([name for name in needed if not name.startswith(("libc.", "libm.", "ld-linux"))], [])
        self.assertNotRegex(read, "RPATH|RUNPATH")

    def test_two_lines_without_a_compiler(self):
        lines = readme_lines()
        self.assertIn("tessera_torch.install()", lines)
        script = self.folder / "example" / "train.py"
        script.parent.mkdir()
        script.write_text(lines + TRAINING)
        clean = {name: value for name, value in os.environ.items()
                 if name not in ("PYTHONPATH", "TESSERA_TORCH_LIBRARY", "CC", "CXX")}
        clean.update(PATH=str(self.python.parent), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1",
                     MASTER_PORT=str(self.free_port()))
        ranks = [subprocess.Popen([self.python, script], cwd=script.parent, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, env={**clean, "RANK": str(rank), "LOCAL_RANK": str(rank)})
                 for rank in range(RANKS)]
        for rank in ranks:
            out, _ = rank.communicate(timeout=200)
            self.assertEqual(rank.returncode, 0, out)
            self.assertIn("trained", out)

    @staticmethod
    def free_port():
        import socket
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]


if __name__ == "__main__":
    unittest.main()
