"""The communicator over MPI: test_mpi.py LAUNCHER PATH/OF/mpi_ranks [test ...]."""

import os
import signal
import sys
import tempfile
import unittest

import mpi_job
from mpi_job import END_SECONDS, MpiCase

ALL = ("contract", "bits", "mismatch", "abort", "bootstrap", "allocations", "late")


class Ranks(MpiCase):
    program = None
    folder = tempfile.gettempdir()

    def succeed(self, ranks, *bodies, **environment):
        code, out, err, _ = self.job(ranks, self.program, *bodies, **environment).end()
        self.assertEqual(code, 0, out + err)
        for body in bodies:
            for rank in range(ranks):
                self.assertIn(f"rank {rank} of {ranks}: {body}\n", out)
        for word in ("Sanitizer", "runtime error:", "check failed"):
            self.assertNotIn(word, err)

    def give_up(self, ranks, body, *words):
        """The job ends with the code that rank 0 gives it, and one line says why."""
        code, out, err, waited = self.job(ranks, self.program, body).end()
        self.assertEqual(code, 7, out + err)
        self.assertEqual(err.count("ends the job"), 1, err)
        self.check_words(err, "rank 0 ends the job", *words)
        self.assertLess(waited, END_SECONDS)

    def test_world_2(self):
        self.succeed(2, *ALL)

    def test_world_1(self):
        self.succeed(1, "contract", "bits", "bootstrap")

    @unittest.skipIf(len(sys.argv) > 1 and sys.argv[1] == "mpich", "Open MPI's part")
    def test_world_4(self):
        self.succeed(4, *ALL)

    def test_one_thread(self):
        """MPI without threads: one of ours calls it for all communicators."""
        self.succeed(2, *ALL, TESSERA_MPI_THREADS="one")

    def test_sizes_differ(self):
        self.give_up(2, "bootstrap-sizes", "FAILED_PRECONDITION", "rank 0 brings 8 bytes, rank 1 5")

    def test_silent_rank(self):
        self.give_up(3, "bootstrap-late", "UNAVAILABLE", "rank 2 is silent")

    def test_cause_is_told(self):
        """Not the consequence that rank 0 saw."""
        self.give_up(3, "conclude", "INVALID_DATA: a broken file")

    def test_killed_rank(self):
        for rank, environment in ((0, {}), (1, {"TESSERA_MPI_THREADS": "one"})):
            with self.subTest(rank=rank, **environment):
                job = self.job(2, self.program, "loop", **environment)
                pids = {}
                while len(pids) < 2:
                    words = job.process.stdout.readline().split()
                    if not words:
                        self.fail(f"a rank ended early: {job.end()}")
                    if words[0] == "looping":
                        pids[int(words[1])] = int(words[2])
                os.kill(pids[rank], signal.SIGKILL)
                code, _, _, waited = job.end(END_SECONDS)
                self.assertNotEqual(code, 0)
                self.assertLess(waited, END_SECONDS)


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in mpi_job.LAUNCHERS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(mpi_job.LAUNCHERS)} PATH/OF/mpi_ranks [test ...]")
    MpiCase.launcher = sys.argv.pop(1)
    Ranks.program = os.path.abspath(sys.argv.pop(1))
    reason = mpi_job.check_launcher(MpiCase.launcher)
    if reason:
        print(reason)
        sys.exit(77)
    unittest.main(module="__main__", verbosity=1)


if __name__ == "__main__":
    main()
