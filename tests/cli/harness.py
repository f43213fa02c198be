"""What the tests of the command share: scratch folders, texts, and a way to run it that looks at what it leaves behind.

A command runs in a session of its own, so its processes are found in /proc whatever became of their parents. After every
run nothing of the session may be left, nothing new in /dev/shm, and no report of a sanitizer on standard error.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SANITIZER_WORDS = ("Sanitizer", "runtime error:", "Assertion", "core dumped", "Segmentation")
LEAVE_SECONDS = 2  # a killed process may be seen for a moment after its parent
RUN_SECONDS = 60

# gpt2-tiny at its smallest: a step takes about a millisecond.
TINY = ("--model", "gpt2-tiny", "--seq", "32", "--batch", "2", "--threads", "1")


def processes(session):
    """Pids of a session's processes, zombies apart, in ascending order."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if fields[0] not in "ZX" and int(fields[3]) == session:
            found.append(int(name))
    return sorted(found)


def kill_all(session):
    found = processes(session)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return found


def wait_until(condition, seconds):
    """The first true value of condition(), or its last after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.02)


def tree(folder):
    """Every path below a folder with what would show that it was written to."""
    entries = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(parent, name)
            info = os.lstat(path)
            entries[os.path.relpath(path, folder)] = (info.st_size, info.st_mtime_ns if name in files else 0)
    return entries


def write(path, content):
    with open(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)
    return path


def read(path, mode="r"):
    with open(path, mode) as file:
        return file.read()


def text(sentences=700):
    """Text that even a small model learns a little of within a few steps."""
    words = ("the cat sat on a mat", "a dog ran to the house", "one two three four", "so it goes")
    return "".join(f"{words[i * i % 7 % 4]}. " for i in range(sentences))


class Result:
    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds


class Running:
    """A command at work."""

    def __init__(self, case, arguments, **options):
        self.case = case
        self.begin = time.monotonic()
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        self.process = subprocess.Popen(arguments, cwd=case.folder, start_new_session=True, **options)
        self.pid = self.process.pid

    def ranks(self, count):
        """Pids of the ranks, rank 0 first: they are forked one after the other."""
        found = wait_until(lambda: self._ranks(count), 10)
        self.case.assertTrue(found, f"{count} ranks did not start: {processes(self.pid)}")
        return found

    def _ranks(self, count):
        found = [pid for pid in processes(self.pid) if pid != self.pid]
        return found if len(found) == count else None

    def kill(self, number):
        self.process.send_signal(number)

    def end(self, seconds=RUN_SECONDS):
        """Waits, and looks at what is left."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            kill_all(self.pid)
            out, err = self.process.communicate()
            self.case.fail(f"still running after {seconds} s: {err!r}")
        result = Result(self.process.returncode, (out or b"").decode(errors="replace"),
                        (err or b"").decode(errors="replace"), time.monotonic() - self.begin)
        self.case.check_nothing_left(self.pid, result)
        return result


class CommandCase(unittest.TestCase):
    """A test in a scratch folder, which holds text.txt and is the command's working folder."""

    binary = None

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="tessera-cli-")
        self.addCleanup(shutil.rmtree, self.folder)
        write(self.path("text.txt"), text())
        self.shared = self.shared_names()

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def start(self, *arguments, prefix=(), **options):
        return Running(self, [*prefix, self.binary, *arguments], **options)

    def run_command(self, *arguments, **options):
        return self.start(*arguments, **options).end()

    def succeed(self, *arguments, **options):
        result = self.run_command(*arguments, **options)
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(result.err, "")
        return result

    def train(self, *arguments, **options):
        return self.succeed("train", "--data", "text.txt", *TINY, *arguments, **options)

    def refuse(self, *arguments, names=(), code=None, writes=(), **options):
        """The command fails with one line that holds all of `names`, and leaves every file as it was, but for those in
        `writes`."""
        before = tree(self.folder)
        result = self.run_command(*arguments, **options)
        self.check_refusal(result, names, code)
        after = tree(self.folder)
        for path in writes:
            before.pop(path, None)
            after.pop(path, None)
        self.assertEqual(before, after, f"files changed; {result.err}")
        return result

    def check_refusal(self, result, names=(), code=None):
        self.assertIn(result.code, (1, 2) if code is None else (code,), result.err)
        self.assertEqual(result.err.count("\n"), 1, f"not one line: {result.err!r}")
        self.assertTrue(result.err.startswith("tessera"), result.err)
        self.assertNotIn("  ", result.err.rstrip("\n"))
        self.assertTrue(result.err.rstrip("\n").isprintable(), repr(result.err))
        for name in [names] if isinstance(names, str) else names:
            self.assertIn(name, result.err)

    @staticmethod
    def shared_names():
        """Our names in /dev/shm: other programs have theirs there."""
        return {name for name in os.listdir("/dev/shm") if "tessera" in name}

    def check_nothing_left(self, session, result):
        if not wait_until(lambda: not processes(session), LEAVE_SECONDS):
            self.fail(f"processes left: {kill_all(session)}")
        self.assertLessEqual(self.shared_names(), self.shared, "left in /dev/shm")
        for word in SANITIZER_WORDS:
            self.assertNotIn(word, result.err)
        self.assertFalse([name for name in os.listdir(self.folder) if name.startswith("core")])


def main():
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} PATH/OF/tessera [test ...]")
    CommandCase.binary = os.path.abspath(sys.argv.pop(1))
    unittest.main(module="__main__", verbosity=1)
