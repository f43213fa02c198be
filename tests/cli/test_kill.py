"""Processes that die: the others end too, one line says which one began, and nothing is left."""

import contextlib
import os
import resource
import signal
import time

import harness
from harness import TINY, CommandCase, text, wait_until, write

RANKS = 3
END_SECONDS = 10    # after a rank died
SIGNAL_SECONDS = 5  # after a signal to the command


class Kill(CommandCase):
    def begin(self, *arguments, ranks=RANKS, **options):
        """Training that would take hours, some steps in."""
        running = self.start("train", "--data", "text.txt", *TINY, "--steps", "100000000", "--ranks", str(ranks),
                             "--metrics", "m.jsonl", *arguments, **options)
        self.assertTrue(wait_until(self.steps_done, 20), "no step was done")
        return running

    def steps_done(self):
        path = self.path("m.jsonl")
        return os.path.exists(path) and os.path.getsize(path) > 1000

    def end_refused(self, running, *words, among=("",)):
        """One line with all of `words` and any of `among`."""
        result = running.end(END_SECONDS)
        self.check_refusal(result, words, code=1)
        self.assertTrue(any(name in result.err for name in among), result.err)
        return result

    def test_one_rank(self):
        for rank in range(RANKS):
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT):
                with self.subTest(rank=rank, signal=number.name):
                    running = self.begin()
                    pids = running.ranks(RANKS)
                    os.kill(pids[rank], number)
                    self.end_refused(running, f"rank {rank} (process {pids[rank]})", f"signal {int(number)} ")
                    os.remove(self.path("m.jsonl"))

    def test_two_at_once(self):
        for first, second in ((0, 1), (2, 1), (0, 2)):
            with self.subTest(ranks=(first, second)):
                running = self.begin()
                pids = running.ranks(RANKS)
                os.kill(pids[first], signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):  # the launcher was faster
                    os.kill(pids[second], signal.SIGKILL)
                self.end_refused(running, "signal 9", among=[f"rank {rank} (process {pids[rank]})" for rank in (first, second)])
                os.remove(self.path("m.jsonl"))

    def test_all_ranks(self):
        running = self.begin()
        for pid in running.ranks(RANKS):
            os.kill(pid, signal.SIGKILL)
        self.end_refused(running, "rank 0", "signal 9")

    def test_stopped_rank(self):
        """The others wait for one that does not move, and notice its end."""
        for rank in (0, 2):
            with self.subTest(rank=rank):
                running = self.begin()
                pids = running.ranks(RANKS)
                os.kill(pids[rank], signal.SIGSTOP)
                time.sleep(0.3)
                self.assertIsNone(running.process.poll())
                os.kill(pids[rank], signal.SIGKILL)
                self.end_refused(running, f"rank {rank} (process {pids[rank]})", "signal 9")
                os.remove(self.path("m.jsonl"))

    def test_stopped_and_continued(self):
        """A pause is no failure."""
        running = self.begin("--max-time", "1")
        rank = running.ranks(RANKS)[1]
        os.kill(rank, signal.SIGSTOP)
        time.sleep(1)
        os.kill(rank, signal.SIGCONT)
        self.assertEqual(running.end().code, 0)

    def test_one_dies_while_another_is_stopped(self):
        """A rank that cannot notice is ended by force."""
        running = self.begin()
        pids = running.ranks(RANKS)
        os.kill(pids[1], signal.SIGSTOP)
        os.kill(pids[2], signal.SIGKILL)
        self.end_refused(running, f"rank 2 (process {pids[2]})", "signal 9")

    def test_while_starting(self):
        for pause in (0.001, 0.01, 0.02, 0.04):
            running = self.start("train", "--data", "text.txt", *TINY, "--steps", "100000000", "--ranks", str(RANKS))
            pids = running.ranks(RANKS)
            time.sleep(pause)
            os.kill(pids[1], signal.SIGKILL)
            self.end_refused(running, f"rank 1 (process {pids[1]})", "signal 9")

    def test_while_saving(self):
        """What was saved before stays whole."""
        running = self.begin("--out", "run", "--save-every", "1")
        self.assertTrue(wait_until(lambda: len(os.listdir(self.path("run"))) > 3, 20))
        os.kill(running.ranks(RANKS)[1], signal.SIGKILL)
        running.end(END_SECONDS)
        self.succeed("inspect", "run")
        result = self.succeed("train", "--data", "text.txt", *TINY, "--steps", "100000000", "--ranks", str(RANKS),
                              "--out", "run", "--resume", "--max-time", "0.1")
        self.assertRegex(result.out, r"resumed at step \d+")

    def test_bench(self):
        running = self.start("bench", "step", *TINY, "--ranks", "2", "--steps", "1000000")
        pids = running.ranks(2)
        time.sleep(0.2)
        os.kill(pids[0], signal.SIGKILL)
        self.end_refused(running, "tessera bench", f"rank 0 (process {pids[0]})", "signal 9")

    def test_parent_killed(self):
        running = self.begin()
        running.ranks(RANKS)
        running.kill(signal.SIGKILL)
        result = running.end(SIGNAL_SECONDS)
        self.assertEqual(result.code, -signal.SIGKILL)

    def test_signals(self):
        for ranks in (1, RANKS):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                for group in (False, True):
                    with self.subTest(ranks=ranks, signal=number.name, group=group):
                        running = self.begin(ranks=ranks)
                        if group:
                            os.killpg(running.pid, number)
                        else:
                            running.kill(number)
                        result = running.end(SIGNAL_SECONDS)
                        self.assertNotEqual(result.code, 0)
                        self.assertLessEqual(result.err.count("\n"), 1, result.err)
                        os.remove(self.path("m.jsonl"))

    def test_data_cut_short(self):
        """A mapped file that shrinks: one line however many ranks notice, and no core."""
        for ranks in (1, 2, RANKS):
            for size in (0, 1 << 20):
                with self.subTest(ranks=ranks, size=size):
                    write(self.path("text.txt"), text(1 << 17)[:2 << 20])
                    self.assertEqual(os.path.getsize(self.path("text.txt")), 2 << 20)
                    running = self.begin("--out", f"run-{ranks}-{size}", ranks=ranks,
                                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1)))
                    os.truncate(self.path("text.txt"), size)
                    self.check_refusal(running.end(END_SECONDS), ("tessera train: ", "--data", "cut short"), code=4)
                    os.remove(self.path("m.jsonl"))

    def test_stopped_command(self):
        """Ctrl-Z, then kill: nobody is left behind."""
        running = self.begin()
        os.killpg(running.pid, signal.SIGSTOP)
        running.kill(signal.SIGKILL)
        self.assertEqual(running.end(SIGNAL_SECONDS).code, -signal.SIGKILL)

    def test_inherited_dispositions(self):
        """SIGCHLD ignored or blocked by whoever starts the command: deaths are noticed all the same."""
        def ignore():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        def block():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})

        for prepare in (ignore, block):
            with self.subTest(prepare=prepare.__name__):
                running = self.begin(preexec_fn=prepare)
                pids = running.ranks(RANKS)
                os.kill(pids[1], signal.SIGKILL)
                self.end_refused(running, f"rank 1 (process {pids[1]})", "signal 9")
                os.remove(self.path("m.jsonl"))
                self.train("--ranks", "2", "--steps", "2", preexec_fn=prepare)


if __name__ == "__main__":
    harness.main()
