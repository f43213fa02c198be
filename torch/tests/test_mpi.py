"""Ranks of several hosts talk over MPI: here over MPI on one host, as TESSERA_TORCH_COMM=mpi asks."""
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

LAUNCHERS = {"openmpi": ("mpirun.openmpi", "--allow-run-as-root", "--oversubscribe"), "mpich": ("mpiexec.mpich", )}
END_SECONDS = 10


def there(name):
    program = LAUNCHERS[name][0]
    return unittest.skipUnless(shutil.which(program), f"{program} is not installed (scripts/deps.sh test)")


class Mpi(unittest.TestCase):

    def job(self, launcher, ranks, body, **environment):
        """Returns (exit code, output, seconds from "ready", or from the start, to the end)."""
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mpi_rank.py")
        with tempfile.TemporaryDirectory() as folder:
            command = [*launcher, "-n", str(ranks), sys.executable, script, body, os.path.join(folder, "store")]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, cwd=folder,
                                  env={**os.environ, "TESSERA_TORCH_COMM": "mpi", **environment}) as job:
                begin, lines = time.monotonic(), []
                for line in job.stdout:
                    if line.startswith("ready"):
                        begin = time.monotonic()
                    lines.append(line)
                return job.wait(), "".join(lines), time.monotonic() - begin

    @there("openmpi")
    def test_ops(self):
        code, out, _ = self.job(LAUNCHERS["openmpi"], 3, "fine")
        self.assertEqual(code, 0, out)
        for rank in range(3):
            self.assertIn(f"rank {rank} of 3 is through", out)

    def check_end(self, name, body):
        code, out, seconds = self.job(LAUNCHERS[name], 2, body)
        self.assertNotEqual(code, 0, out)
        self.assertNotIn("is through", out)
        self.assertLess(seconds, END_SECONDS, out)
        return out

    @there("openmpi")
    def test_rank_that_raises_ends_the_job(self):
        self.assertIn("raised on purpose", self.check_end("openmpi", "raise"))

    @there("mpich")
    def test_rank_that_dies_ends_the_job(self):
        self.check_end("mpich", "kill")

    @there("openmpi")
    def test_choice(self):
        code, out, _ = self.job(LAUNCHERS["openmpi"], 2, "fine", TESSERA_TORCH_COMM="smoke")
        self.assertNotEqual(code, 0)
        self.assertIn("TESSERA_TORCH_COMM is to be host or mpi", out)


if __name__ == "__main__":
    unittest.main()
