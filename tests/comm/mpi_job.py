"""Runs programs under an MPI launcher and looks at what they leave behind."""

import os
import shutil
import signal
import subprocess
import time
import unittest
import uuid

LAUNCHERS = {
    # Root, and more ranks than processors, are refused unless one asks.
    "openmpi": ("mpirun.openmpi", "--allow-run-as-root", "--oversubscribe"),
    "mpich": ("mpiexec.mpich",),
}
MARK = "TESSERA_TEST_JOB"
# Leaks that are MPI's own, where a program is built with AddressSanitizer.
LSAN = "suppressions=" + os.path.join(os.path.dirname(os.path.abspath(__file__)), "lsan.supp") + ":print_suppressions=0"
RUN_SECONDS = 100
END_SECONDS = 5  # after a rank died or gave up


def processes(mark):
    """Pids of the processes that have the mark in their environment, zombies apart."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if f"{MARK}={mark}".encode() not in file.read().split(b"\0"):
                    continue
            with open(f"/proc/{name}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] not in "ZX":
                    found.append(int(name))
        except OSError:  # ended meanwhile, or another user's
            continue
    return sorted(found)


def wait_until(condition, seconds):
    """The first true value of condition(), or its last after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.02)


class Job:
    """A launcher at work."""

    def __init__(self, case, ranks, command, **environment):
        self.case = case
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [*LAUNCHERS[case.launcher], "-n", str(ranks), *command], cwd=case.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True, errors="replace",
            env={**os.environ, "LSAN_OPTIONS": LSAN, **environment, MARK: self.mark})

    def ranks(self, program):
        """Pids of the processes that run `program`."""
        found = []
        for pid in processes(self.mark):
            try:
                if os.path.samefile(f"/proc/{pid}/exe", program):
                    found.append(pid)
            except OSError:
                continue
        return found

    def end(self, seconds=RUN_SECONDS):
        """Waits, and looks at what is left. Returns (code, out, err, seconds waited)."""
        begin = time.monotonic()
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for pid in processes(self.mark):
                os.kill(pid, signal.SIGKILL)
            out, err = self.process.communicate()
            self.case.fail(f"still running after {seconds} s: {out}{err}")
        waited = time.monotonic() - begin
        if not wait_until(lambda: not processes(self.mark), END_SECONDS - min(waited, END_SECONDS - 1)):
            left = processes(self.mark)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            self.case.fail(f"processes left: {left}")
        return self.process.returncode, out, err, waited


class MpiCase(unittest.TestCase):
    launcher = None

    def job(self, ranks, *command, **environment):
        return Job(self, ranks, command, **environment)

    def check_words(self, text, *words):
        for word in words:
            self.assertIn(word, text)


def check_launcher(name):
    """None, or why tests under this launcher are to be skipped."""
    if not shutil.which(LAUNCHERS[name][0]):
        return f"skipped: {LAUNCHERS[name][0]} is not installed (scripts/deps.sh test)"
    return None
