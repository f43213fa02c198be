"""What the library takes from torch, and what it does not: our declarations agree with the headers of this torch; nothing of
torch, of the C++ library or of oneDNN is linked."""
import os
import pathlib
import shutil
import subprocess
import unittest

import torch

HERE = pathlib.Path(__file__).parent


class Abi(unittest.TestCase):

    def compile(self, *options):
        include = pathlib.Path(torch.__file__).parent / "include"
        return subprocess.run([shutil.which("g++") or "c++", "-std=c++20", "-fsyntax-only", "-w", f"-I{include}",
                               f"-I{HERE.parent / 'src'}", f"-I{HERE.parents[1] / 'src'}", *options, str(HERE / "abi_check.cpp")],
                              capture_output=True, text=True)

    def test_declarations(self):
        done = self.compile()
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_wrong_declaration_is_seen(self):
        done = self.compile("-DWRONG")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("differs", done.stderr)

    def test_links_only_the_system(self):
        read = subprocess.run(["readelf", "-d", os.environ["TESSERA_TORCH_LIBRARY"]], capture_output=True, text=True, check=True)
        needed = [line.split("[")[1].rstrip("]") for line in read.stdout.splitlines() if "NEEDED" in line]
        self.assertTrue(needed)
        self.assertEqual([name for name in needed if not name.startswith(("libc.", "libm.", "ld-linux"))], [])


if __name__ == "__main__":
    unittest.main()
