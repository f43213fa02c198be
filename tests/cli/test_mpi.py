"""tessera train under an MPI launcher: test_mpi.py LAUNCHER PATH/OF/tessera [test ...]."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "comm"))

import mpi_job
from harness import TINY, read, text, tree, write
from mpi_job import END_SECONDS, MpiCase, wait_until

EXACT = ("step", "loss", "lr", "grad_norm", "tokens", "eval_loss")


class Train(MpiCase):
    binary = None

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="tessera-mpi-")
        self.addCleanup(shutil.rmtree, self.folder)
        write(self.path("text.txt"), text())

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def train(self, *arguments, ranks=2, **environment):
        # MPI unloads its plug-ins, so what those leak has no name any more; leaks are looked for without MPI.
        environment = {"ASAN_OPTIONS": "detect_leaks=0", **environment}
        return self.job(ranks, self.binary, "train", "--data", "text.txt", *TINY, *arguments, **environment)

    def succeed(self, *arguments, **options):
        code, out, err, _ = self.train(*arguments, **options).end()
        self.assertEqual(code, 0, out + err)
        return out

    def refuse(self, *arguments, words, **options):
        code, out, err, waited = self.train(*arguments, **options).end()
        self.assertNotEqual(code, 0, out)
        said = [line for line in err.splitlines() if line.startswith("tessera train: ")]
        self.assertEqual(len(said), 1, err)
        self.check_words(said[0], *words)
        self.assertLess(waited, END_SECONDS)

    def each(self, *ranks):
        """One rank for each, with its own command and arguments."""
        command = []
        for rank, arguments in enumerate(ranks):
            command += [":", "-n", "1"] if rank else []
            command += arguments
        return self.job(1, *command, ASAN_OPTIONS="detect_leaks=0")

    def rank(self, *arguments, data="text.txt", bf16=None):
        way = ("env", f"TESSERA_BF16={bf16}") if bf16 else ()
        return (*way, self.binary, "train", "--data", data, *TINY, "--steps", "4", *arguments)

    def refuse_each(self, *ranks, words, command="train"):
        code, out, err, waited = self.each(*ranks).end()
        self.assertNotEqual(code, 0, out)
        said = [line for line in err.splitlines() if line.startswith(f"tessera {command}: ")]
        self.assertEqual(len(said), 1, err)
        self.check_words(said[0], *words)
        self.assertLess(waited, END_SECONDS)

    def metrics(self, name):
        return [{key: row[key] for key in EXACT if key in row} for row in map(json.loads, read(self.path(name)).splitlines())]

    def forked(self, ranks, *arguments):
        """The same without MPI."""
        subprocess.run([self.binary, "train", "--data", "text.txt", *TINY, "--ranks", str(ranks), *arguments],
                       cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def weights(self, out):
        return {name: read(self.path(out, *name.split("/")), "rb")
                for name in tree(self.path(out)) if name.endswith(".safetensors")}

    def test_same_bits(self):
        """Over MPI, over shared memory, and forked: losses, norms and checkpoints, bit for bit."""
        flags = ("--steps", "7", "--accumulate", "2", "--eval-data", "text.txt", "--eval-every", "3", "--save-every", "3")
        for ranks in (2, 3):
            with self.subTest(ranks=ranks):
                names = [f"{name}{ranks}" for name in ("forked", "mpi", "host")]
                self.forked(ranks, *flags, "--gather", "copy", "--metrics", names[0] + ".jsonl", "--out", names[0])
                for name, comm in zip(names[1:], (("--comm", "mpi"), ())):
                    out = self.succeed(*flags, *comm, "--metrics", name + ".jsonl", "--out", name, ranks=ranks)
                    self.assertEqual(out.count("saved "), 3, out)  # said once
                    self.assertEqual("over MPI" in out, bool(comm))
                    self.assertEqual(self.metrics(name + ".jsonl"), self.metrics(names[0] + ".jsonl"))
                    self.assertEqual(self.weights(name), self.weights(names[0]))

    def test_resume(self):
        self.forked(2, "--steps", "6", "--metrics", "whole.jsonl")
        self.succeed("--steps", "6", "--save-every", "2", "--max-time", "0.001", "--out", "run", "--metrics", "parts.jsonl",
                     "--comm", "mpi")
        done = len(self.metrics("parts.jsonl"))
        self.assertLess(done, 6)
        out = self.succeed("--steps", "6", "--out", "run", "--resume", "--metrics", "parts.jsonl", "--ranks", "2")
        self.assertIn(f"resumed at step {done}\n", out)
        self.assertEqual(self.metrics("parts.jsonl"), self.metrics("whole.jsonl"))

    def test_one_thread(self):
        self.forked(2, "--steps", "4", "--metrics", "forked.jsonl")
        self.succeed("--steps", "4", "--metrics", "one.jsonl", "--comm", "mpi", TESSERA_MPI_THREADS="one")
        self.assertEqual(self.metrics("one.jsonl"), self.metrics("forked.jsonl"))

    def test_help_once(self):
        code, out, _, _ = self.job(2, self.binary, "train", "--help").end()
        self.assertEqual((code, out.count("Usage:")), (0, 1))

    def test_refusals(self):
        """One line from all ranks, and the job ends."""
        self.refuse("--steps", "x", words=("--steps is 'x'",))
        self.refuse("--ranks", "3", words=("--ranks is 3", "2 ranks"))
        self.refuse("--comm", "tcp", words=("--comm 'tcp'", "host, mpi"))
        self.refuse("--comm", "mpi", "--gather", "alias", words=("--gather alias", "copy"))
        self.refuse("--eval-data", "nothing.txt", words=("--eval-data", "nothing.txt"))
        self.refuse("--out", "text.txt", words=("--out text.txt",))

    def test_mistake_of_one_rank(self):
        """Whoever makes it, one line says what is wrong and with which rank."""
        good, bad = self.rank(), self.rank("--bogus")
        bench, worse = (self.binary, "bench", "step", *TINY), (self.binary, "bench", "step", "--steps", "x")
        unknown = "unknown option '--bogus'; see tessera train --help"
        other = ("rank 1 runs `tessera bench`, rank 0 `tessera train`", "give all ranks the same command")
        self.refuse_each(good, bad, words=(f"tessera train: rank 1: {unknown}",))
        self.refuse_each(good, good, bad, words=(f"tessera train: rank 2: {unknown}",))
        self.refuse_each(bad, good, words=(f"tessera train: {unknown}",))
        self.refuse_each(bad, bad, words=(f"tessera train: {unknown}",))
        self.refuse_each(good, bench, words=other)
        self.refuse_each(good, worse, words=other)
        self.refuse_each(bench, worse, words=("tessera bench: rank 1: --steps is 'x'",), command="bench")

    def test_ranks_alike(self):
        """Every option, and the data: one rank that differs is named before anything is written."""
        for option, arguments in (("--seed", ("--seed", "2")), ("--steps", ("--steps", "6")), ("--lr", ("--lr", "1e-3")),
                                  ("--min-lr", ("--min-lr", "1e-5")), ("--warmup", ("--warmup", "2")),
                                  ("--max-time", ("--max-time", "9")), ("--save-every", ("--save-every", "2")),
                                  ("--eval-every", ("--eval-every", "2")), ("--eval-batches", ("--eval-batches", "2")),
                                  ("--timeline", ("--timeline", "t.json")), ("--metrics", ("--metrics", "m.jsonl")),
                                  ("--wire", ("--wire", "1")), ("--prefetch", ("--prefetch", "1")),
                                  ("--clip", ("--clip", "2")), ("--memory", ("--memory", "1G")),
                                  ("--dtype", ("--dtype", "bf16")), ("--batch", ("--batch", "3")),
                                  ("--out", ("--out", "walk"))):
            with self.subTest(option=option):
                common = ("--comm", "mpi", "--out", "run", "--eval-data", "text.txt")
                self.refuse_each(self.rank(*common), self.rank(*common, *arguments),
                                 words=(f"{option} of rank 1 is not that of rank 0",))
                self.assertEqual(os.listdir(self.folder), ["text.txt"])
        write(self.path("other.txt"), text()[:-1] + "!")
        self.refuse_each(self.rank(), self.rank(data="other.txt"), words=("the text of --data of rank 1",))
        for arguments in ((), ("--eval-data", "other.txt")):
            self.refuse_each(self.rank("--eval-data", "text.txt"), self.rank(*arguments),
                             words=("the text of --eval-data of rank 1",))
        self.refuse_each(self.rank(), self.rank("--out", "run"), words=("--out of rank 1",))
        self.refuse_each(self.rank("--out", "run"), self.rank("--out", "run", "--resume"), words=("--resume of rank 1",))
        self.refuse_each(self.rank(), self.rank("--comm", "mpi"), words=("--comm of rank 1",))
        self.refuse_each(self.rank(), self.rank("--lr", "1e-3"), self.rank("--lr", "1e-3"), words=("--lr of ranks 1, 2 is",))
        write(self.path("copy.txt"), text())
        code, out, err, _ = self.each(self.rank(), self.rank(data="copy.txt")).end()
        self.assertEqual(code, 0, out + err)

    def test_bench(self):
        """Ranks agree before they measure; one report."""
        common = (self.binary, "bench", "step", *TINY)
        for option, value in (("--steps", "3"), ("--wire", "1"), ("--accumulate", "2"), ("--comm", "mpi"), ("--beta1", "0.8")):
            with self.subTest(option=option):
                self.refuse_each(common, (*common, option, value), words=(f"{option} of rank 1 is not that of rank 0",),
                                 command="bench")
        for comm in ("host", "mpi"):
            alike = (*common, "--steps", "3", "--comm", comm)
            code, out, err, _ = self.each(alike, alike).end()
            self.assertEqual(code, 0, out + err)
            self.assertEqual(out.count("(3 steps)"), 1, out)

    def test_bf16_products(self):
        """Rank 0 chooses; a rank that was told otherwise is refused."""
        ways = {"f32": "products in f32 over bf16: ", "native": "products in bf16: "}
        code, _, err, _ = self.each(self.rank("--dtype", "bf16", bf16="native")).end()
        if code:
            self.check_words(err, "oneDNN")
            del ways["native"]
        for way, said in ways.items():
            for comm in ("mpi", "host"):
                with self.subTest(way=way, comm=comm):
                    arguments = ("--dtype", "bf16", "--comm", comm)
                    code, out, err, _ = self.each(self.rank(*arguments, bf16=way), self.rank(*arguments)).end()
                    self.assertEqual(code, 0, out + err)
                    self.assertIn(said, out)
        if "native" in ways:
            for way, other, words in (("native", "f32", "matrices in bf16, which rank 1"), ("f32", "native", "in f32, which rank 1")):
                with self.subTest(way=way, other=other):
                    self.refuse_each(self.rank("--dtype", "bf16", bf16=way), self.rank("--dtype", "bf16", bf16=other),
                                     words=("rank 0 multiplies", words, "TESSERA_BF16=f32 on all ranks"))

    def test_modules(self):
        other = {"openmpi": "mpich", "mpich": "openmpi"}[self.launcher]
        # Both ranks may say it: MPI did not start, so they do not know each other.
        for environment, words in (({"TESSERA_MODULE_PATH": self.folder}, (f"tessera_mpi_{self.launcher}.so", "does not exist")),
                                   ({"TESSERA_MPI": "lam"}, ("TESSERA_MPI='lam'", "openmpi, mpich"))):
            code, _, err, _ = self.train("--steps", "1", **environment).end()
            self.assertNotEqual(code, 0)
            self.check_words(err, "tessera train: ", *words)
        write(self.path(f"tessera_mpi_{self.launcher}.so"), "no library")
        code, _, err, _ = self.train("--steps", "1", TESSERA_MODULE_PATH=self.folder).end()
        self.assertNotEqual(code, 0)
        self.check_words(err, "does not load")
        if shutil.which(mpi_job.LAUNCHERS[other][0]):
            code, _, err, _ = self.train("--steps", "1", TESSERA_MPI=other).end()
            self.assertNotEqual(code, 0)
            self.check_words(err, "started 2 ranks", "finds 1")

    def test_no_launcher(self):
        result = subprocess.run([self.binary, "train", "--data", "text.txt", *TINY, "--comm", "mpi"], cwd=self.folder,
                                capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("--comm mpi is for ranks that mpirun has started", result.stderr)

    def test_killed_rank(self):
        for comm in ("mpi", "host"):
            with self.subTest(comm=comm):
                job = self.train("--steps", "100000000", "--comm", comm, "--metrics", "m.jsonl")
                steps = self.path("m.jsonl")
                self.assertTrue(wait_until(lambda: os.path.exists(steps) and os.path.getsize(steps) > 1000, 30), "no step")
                pids = job.ranks(self.binary)
                self.assertEqual(len(pids), 2)
                os.kill(pids[1], signal.SIGKILL)
                code, _, _, waited = job.end(END_SECONDS)
                self.assertNotEqual(code, 0)
                self.assertLess(waited, END_SECONDS)
                os.remove(steps)

    def test_failing_rank(self):
        """Rank 0 alone fails, the other is in the next step: its reason is what is told."""
        for comm in ("mpi", "host"):
            with self.subTest(comm=comm):
                self.refuse("--steps", "100000000", "--comm", comm, "--metrics", "/dev/full",
                            words=("--metrics /dev/full", "No space left"))


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in mpi_job.LAUNCHERS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(mpi_job.LAUNCHERS)} PATH/OF/tessera [test ...]")
    MpiCase.launcher = sys.argv.pop(1)
    Train.binary = os.path.abspath(sys.argv.pop(1))
    reason = mpi_job.check_launcher(MpiCase.launcher)
    if reason:
        print(reason)
        sys.exit(77)
    unittest.main(module="__main__", verbosity=1)


if __name__ == "__main__":
    main()
