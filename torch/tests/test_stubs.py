"""The stubs (*.pyi) say what the functions are, in names, order, defaults: mypy's stubtest compares them."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

PACKAGE = pathlib.Path(__file__).parents[1] / "tessera_torch"
SETTINGS = "[mypy]\n[mypy-torch.*]\nfollow_imports = skip\n"  # torch is large


class Stubs(unittest.TestCase):

    def stubtest(self, file=None, right="", wrong=""):
        """With `right` in one of them made `wrong`. Inner modules have no stub."""
        with tempfile.TemporaryDirectory() as folder:
            stubs = pathlib.Path(folder) / "stubs" / PACKAGE.name
            stubs.mkdir(parents=True)
            for stub in PACKAGE.glob("*.pyi"):
                shutil.copy(stub, stubs)
            if file:
                text = (stubs / file).read_text()
                self.assertEqual(text.count(right), 1)
                (stubs / file).write_text(text.replace(right, wrong))
            pathlib.Path(folder, "mypy.ini").write_text(SETTINGS)
            done = subprocess.run([sys.executable, "-m", "mypy.stubtest", PACKAGE.name, "--concise", "--ignore-missing-stub",
                                   "--mypy-config-file", "mypy.ini"], cwd=folder, capture_output=True, text=True,
                                  env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), "MYPYPATH": "stubs"})
            return done.returncode, done.stdout + done.stderr

    def test_as_the_functions(self):
        code, out = self.stubtest()
        self.assertEqual(code, 0, out)

    def test_a_wrong_stub_is_seen(self):
        code, out = self.stubtest("module.pyi", "offset: int = 0", "offset: int")
        self.assertNotEqual(code, 0)
        self.assertIn("update_param_grad_buffer", out)

    def test_every_public_function_has_one(self):
        import tessera_torch
        from tessera_torch import module
        for owner, stub in ((tessera_torch, "__init__.pyi"), (module, "module.pyi")):
            text = (PACKAGE / stub).read_text()
            for name, value in vars(owner).items():
                if not name.startswith("_") and callable(value):
                    self.assertIn(f"def {name}(", text)


if __name__ == "__main__":
    unittest.main()
