"""Mistakes on the command line, in texts and in what the machine can hold: one line that names the thing, no trace."""

import os
import re
import signal
import socket
import stat
import subprocess

import harness
from harness import TINY, CommandCase, read, wait_until, write

# Arguments of numeric options as the help shows them.
NUMERIC = {"N", "X", "GB/S", "T", "K", "S", "SECONDS"}
NO_NUMBERS = ("abc", "12x", "1e400", "-1e400", "nan", "inf", "-inf", "-1", " 1", "0x", "--", "1,5")
TOO_LARGE = ("99999999999999999999", "9223372036854775807")
ZERO_IS_FINE = {"prefetch", "lr", "min-lr", "warmup", "seed", "weight-decay", "beta1", "beta2", "clip", "temperature", "top-k"}
NOBODY = 65534
# Runs, and is refused with one more option.
BASE = ("train", "--data", "text.txt", "--steps", "2", *TINY)


class Options(CommandCase):
    def options(self, command):
        """{name: argument or None} from the help."""
        help_text = self.succeed(command, "--help").out
        return {name: argument for name, argument in re.findall(r"^  --([a-z0-9-]+) (?:([A-Z]\S*) )?", help_text, re.M)}

    def test_commands(self):
        self.refuse("bogus", names=("bogus", "train", "generate", "inspect", "bench"), code=2)
        self.refuse("train\n\x1b[31m", names="unknown command")
        self.refuse("", names="unknown command")
        nothing = self.run_command()
        self.assertEqual(nothing.code, 2)
        self.assertIn("Usage: tessera", nothing.err)

    def test_unknown_options(self):
        for command in ("train", "generate", "bench", "inspect"):
            for option in ("--bogus", "--bogus=1", "-x", "--", "-", "--dat", "--=1"):
                with self.subTest(command=command, option=option):
                    self.refuse(command, option, names=(option, f"tessera {command} --help"), code=2)

    def test_unexpected_arguments(self):
        self.refuse("train", "book.txt", names="book.txt", code=2)
        self.refuse(*BASE, "book\n.txt", names="book?.txt", code=2)
        self.refuse("generate", "run", names="run", code=2)
        self.refuse("inspect", "a", "b", names="'b'", code=2)
        self.refuse("inspect", "", names="empty", code=2)
        self.refuse("train", "", names="empty", code=2)
        self.refuse("bench", "step", "again", names="again", code=2)
        self.refuse("bench", "leap", names="step")
        self.refuse("bench", names="step")
        self.refuse("inspect", names="inspect --help")

    def test_values_missing_or_empty(self):
        for command in ("train", "generate", "bench"):
            for name, argument in self.options(command).items():
                with self.subTest(command=command, option=name):
                    if not argument:
                        if name != "help":
                            self.refuse(command, f"--{name}=yes", names=f"--{name}", code=2)
                        continue
                    self.refuse(command, f"--{name}", names=(f"--{name}", "value"), code=2)
                    self.refuse(command, f"--{name}", "--help", names=(f"--{name}", "value"), code=2)
                    self.refuse(command, f"--{name}", f"--{name}", "1", names=f"--{name}", code=2)
                    if name == "prompt":  # may be empty
                        continue
                    self.refuse(command, f"--{name}", "", names=(f"--{name}", "empty"), code=2)
                    self.refuse(command, f"--{name}=", names=(f"--{name}", "empty"), code=2)

    def test_numbers(self):
        seen = 0
        for command in ("train", "generate", "bench"):
            for name, argument in self.options(command).items():
                if argument not in NUMERIC:
                    continue
                seen += 1
                zero = () if name in ZERO_IS_FINE else ("0", "-0")
                fraction = ("1.5",) if argument in ("N", "K", "S") else ()
                for value in (*NO_NUMBERS, *TOO_LARGE, *zero, *fraction):
                    with self.subTest(command=command, option=name, value=value):
                        self.refuse(command, f"--{name}", value, names=(f"--{name}", f"'{value}'", "number"), code=2)
        self.assertGreater(seen, 30)

    def test_byte_counts(self):
        for value in ("x", "0", "-1", "-1G", "1Q", "nan", "inf", "1e400", "G", "1 G", "1GG", "99999999999999999999T"):
            with self.subTest(value=value):
                self.refuse(*BASE, "--memory", value, names=("--memory", f"'{value}'", "8G"), code=2)

    def test_flags_that_do_not_go_together(self):
        self.refuse(*BASE, "--dim", "65", names=("--dim 65", "--heads"))
        self.refuse(*BASE, "--heads", "3", names=("--heads 3", "--dim"))
        self.refuse(*BASE, "--min-lr", "1", "--lr", "0.1", names=("--min-lr", "--lr"))
        self.refuse(*BASE, "--save-every", "5", names=("--save-every", "--out"))
        self.refuse(*BASE, "--resume", names=("--resume", "--out"))
        self.refuse(*BASE, "--gather", "both", names=("--gather", "both", "alias", "copy"))
        for prefetch in ("0", "1", "3"):
            for alias in ((), ("--gather", "alias")):
                self.refuse(*BASE, *alias, "--prefetch", prefetch, names=(f"--prefetch {prefetch}", "--gather copy"))
        self.refuse("bench", "step", *TINY, "--prefetch", "1", names=("--prefetch 1", "--gather copy"))
        self.refuse(*BASE, "--eval-every", "2", names=("--eval-every", "--eval-data"))
        self.refuse(*BASE, "--eval-batches", "2", names=("--eval-batches", "--eval-data"))
        self.refuse(*BASE, "--dtype", "f64", names=("--dtype", "f64", "f32, bf16"))
        self.refuse(*BASE, "--dtype", "f16", names=("f16", "f32 and bf16"))
        self.refuse("train", "--data", "text.txt", "--model", "gpt9", names=("gpt9", "gpt2-tiny"))
        self.refuse("train", names="--data")
        self.refuse("generate", names="--model")

    def test_ranks(self):
        self.refuse(*BASE, "--ranks", "1000", names=("--ranks", "1000", "256"), code=2)

    def test_divergence(self):
        result = self.run_command(*BASE, "--lr", "1000", "--warmup", "0", "--steps", "50", "--out", "run")
        self.check_refusal(result, ("finite", "--lr"))
        self.assertFalse(os.path.exists(self.path("run")))


class Data(CommandCase):
    def refuse_data(self, *data, names, **options):
        self.refuse("train", *TINY, "--data", *data, names=("--data", *names), **options)
        self.refuse(*BASE, "--eval-data", *data, names=("--eval-data", *names), **options)

    def test_missing(self):
        self.refuse_data("missing.txt", names=("missing.txt", "No such file"))
        self.refuse_data("text.txt/below", names=("text.txt/below",))
        self.refuse_data("new\nline", names=("new?line",))
        self.refuse_data("x" * 300, names=("File name too long",))
        self.refuse_data("x" * 5000, names=("xxx",))

    def test_neither_file_nor_folder(self):
        os.mkfifo(self.path("fifo"))
        with socket.socket(socket.AF_UNIX) as endpoint:
            endpoint.bind(self.path("socket"))
            for name in ("fifo", "socket", "/dev/zero", "/dev/null"):
                self.refuse_data(name, names=(name, "neither"))

    def test_unreadable(self):
        os.chmod(write(self.path("secret.txt"), "secret"), 0)
        os.mkdir(self.path("folder"))
        os.chmod(write(self.path("folder", "secret.txt"), "secret"), 0)
        os.chmod(self.folder, 0o755)
        options = {}
        if os.geteuid() == 0:  # root may read everything
            options = {"user": NOBODY}
            if subprocess.run([self.binary, "--version"], user=NOBODY, capture_output=True).returncode != 0:
                self.skipTest("user 65534 may not run the command")
        self.refuse_data("secret.txt", names=("secret.txt", "Permission denied"), **options)
        self.refuse_data("folder", names=("folder/secret.txt", "Permission denied"), **options)

    def test_without_text(self):
        write(self.path("empty.txt"), "")
        write(self.path("binary"), b"text\0text")
        os.mkdir(self.path("folder"))
        self.refuse_data("empty.txt", names=("empty.txt", "empty"))
        self.refuse_data("binary", names=("binary", "NUL"))
        self.refuse_data("folder", names=("folder", "no text"))
        write(self.path("folder", "binary"), b"\0")
        os.symlink("../text.txt", self.path("folder", "link"))
        self.refuse_data("folder", names=("folder", "no text"))

    def test_shorter_than_a_sequence(self):
        write(self.path("short.txt"), "x" * 32)
        self.refuse_data("short.txt", names=("32", "33"))

    def test_too_many(self):
        self.refuse("train", *TINY, "--data", *["text.txt"] * 300, names=("--data", "256"), code=2)

    def test_vocabulary(self):
        self.refuse(*BASE, "--vocab", "256", names=("--vocab 256", "257"))


class Memory(CommandCase):
    def test_budget(self):
        result = self.refuse(*BASE, "--memory", "100K", names=("bytes", "102400"))
        needed = re.search(r"needs (\d+) bytes", result.err)
        self.assertTrue(needed, result.err)
        self.succeed(*BASE, "--memory", needed[1])
        self.refuse(*BASE, "--memory", str(int(needed[1]) - 1), names=needed[1])

    def test_more_than_there_is(self):
        names = ("memory", "available", "--batch", "--seq")
        self.refuse("train", "--data", "text.txt", "--model", "gpt2-xl", "--layers", "4000", names=names)
        self.refuse(*BASE, "--batch", "1048576", "--ranks", "64", names=names)
        self.refuse(*BASE, "--batch", "1048576", "--seq", "16777216", names=names)
        self.refuse(*BASE, "--dim", "1048576", "--vocab", "16777216", "--layers", "4096", names=names)
        self.refuse("bench", "step", "--model", "gpt2-xl", "--layers", "4000", names=names)

    def test_more_than_the_cgroup_allows(self):
        """TESSERA_TEST_CGROUP names a cgroup folder (v2, memory controller) that the test may make groups in."""
        parent = os.environ.get("TESSERA_TEST_CGROUP")
        if not parent:
            self.skipTest("TESSERA_TEST_CGROUP names no cgroup folder to use")
        group = os.path.join(parent, f"tessera-test-{os.getpid()}")
        os.mkdir(group)
        self.addCleanup(os.rmdir, group)
        write(os.path.join(group, "memory.max"), str(64 << 20))
        enter = ("sh", "-c", f'echo $$ >"{group}/cgroup.procs" && exec "$0" "$@"')
        self.succeed(*BASE, prefix=enter)
        self.refuse(*BASE, "--batch", "512", names=("memory", "available", "--batch"), prefix=enter)


class Outputs(CommandCase):
    def test_out(self):
        for path in ("text.txt/run", "text.txt", "/proc/x", "missing/run", "/dev/null", "x" * 300, "x" * 5000):
            with self.subTest(path=path):
                self.refuse(*BASE, "--out", path, names="--out")
        self.assertFalse(os.path.exists("/proc/x"))

    def test_checkpoints_are_not_written_over(self):
        """A checkpoint's folder would take the place of what another option writes."""
        for option in ("--metrics", "--print-plan", "--timeline"):
            for out, path in (("run", "run/step-3"), ("run/", "./run/step-3"), ("./", "step-1")):
                with self.subTest(option=option, path=path):
                    self.refuse(*BASE, "--out", out, option, path, names=f"{option} {path}")
                    self.assertFalse(os.path.exists(self.path(path)))

    def test_out_in_use(self):
        """One training a folder; the lock ends with it, however it ends."""
        running = self.start(*BASE, "--out", "run", "--steps", "100000000", "--save-every", "1", "--ranks", "2")
        wait_until(lambda: os.path.isdir(self.path("run", "step-1")), 20)
        for resume in ((), ("--resume",)):
            for path in ("run", "./run/"):
                result = self.run_command(*BASE, "--out", path, *resume)
                self.check_refusal(result, (f"--out {path}", "another training", f"process {running.pid}"), code=1)
        self.assertIn(".lock", os.listdir(self.path("run")))
        running.kill(signal.SIGKILL)
        running.end()
        self.succeed(*BASE, "--out", "run", "--resume", "--ranks", "2")
        self.assertNotIn(".lock", os.listdir(self.path("run")))

    def test_out_with_checkpoints(self):
        self.succeed(*BASE, "--out", "run", "--save-every", "1")
        os.mkdir(self.path("run", "step-x"))
        self.refuse(*BASE, "--out", "run", names=("--out run", "step-2", "--resume", "another folder"), code=1)
        self.succeed(*BASE, "--out", "run", "--resume", "--steps", "3")
        os.mkdir(self.path("empty"))
        self.succeed(*BASE, "--out", "empty")

    def test_metrics(self):
        for path in ("missing/m.jsonl", ".", "text.txt/m"):
            for ranks in ("1", "2"):
                with self.subTest(path=path, ranks=ranks):
                    self.refuse(*BASE, "--metrics", path, "--out", "run", "--ranks", ranks, names=("--metrics", path))
        for ranks in ("1", "2"):
            self.refuse(*BASE, "--metrics", "/dev/full", "--out", "run", "--ranks", ranks,
                        names=("--metrics /dev/full", "No space left"))

    def test_plan(self):
        for path in ("missing/plan.txt", ".", "text.txt/p", "/dev/full"):
            with self.subTest(path=path):
                self.refuse(*BASE, "--print-plan", path, "--out", "run", names=("--print-plan", path))

    def test_pipes(self):
        """One that nobody reads is not waited for."""
        os.mkfifo(self.path("fifo"))
        for option in ("--metrics", "--print-plan"):
            self.refuse(*BASE, option, "fifo", "--out", "run", names=(f"{option}: ", "fifo", "start its reader"), code=1)
            reader = os.open(self.path("fifo"), os.O_RDONLY | os.O_NONBLOCK)
            self.succeed(*BASE, option, "fifo")
            self.assertGreater(len(os.read(reader, 1 << 16)), 100)
            os.close(reader)

    def test_timeline(self):
        """Refused before the first step, and whatever is there stays. Root could remove a device: it gets a copy of one."""
        device, others = "/dev/full", ("--metrics", "m.jsonl", "--print-plan", "p.txt", "--out", "run")
        if os.geteuid() == 0:
            device = self.path("full")
            os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/full").st_rdev)
        os.symlink(device, self.path("link"))
        os.symlink("nothing", self.path("dangling"))
        os.mkfifo(self.path("fifo"))
        write(self.path("m.jsonl"), "an earlier run's")
        for path, why in (("missing/t.json", "No such file"), (".", "no regular file"), ("text.txt/t", "Not a directory"),
                          (device, "no regular file"), ("link", "no regular file"), ("fifo", "no regular file"),
                          ("dangling", "not there"), ("x" * 300, "File name too long")):
            for ranks in ("1", "2"):
                with self.subTest(path=path, ranks=ranks):
                    result = self.refuse(*BASE, *others, "--timeline", path, "--ranks", ranks,
                                         names=("--timeline", path, why), code=1)
                    self.assertEqual(result.out, "")
        self.assertTrue(stat.S_ISCHR(os.stat(device).st_mode))

    def test_timeline_not_permitted(self):
        options = {}
        os.chmod(self.folder, 0o755)
        os.chmod(write(self.path("old.json"), "{}"), 0o444)
        if os.geteuid() == 0:  # root may write everything
            options = {"user": NOBODY}
            if subprocess.run([self.binary, "--version"], user=NOBODY, capture_output=True).returncode != 0:
                self.skipTest("user 65534 may not run the command")
        else:
            os.chmod(self.folder, 0o555)
            self.addCleanup(os.chmod, self.folder, 0o755)
        for path in ("t.json", "old.json"):
            self.refuse(*BASE, "--timeline", path, names=("--timeline", path, "Permission denied"), **options)

    def test_timeline_cut_short(self):
        """Half of one is not left: a file of ours goes, another's keeps its name."""
        limit = ("sh", "-c", 'ulimit -f 8 && exec "$0" "$@"')
        self.refuse(*BASE, "--timeline", "t.json", names=("timeline t.json", "File too large"), prefix=limit)
        write(self.path("t.json"), "{}")
        self.refuse(*BASE, "--timeline", "t.json", names=("timeline t.json", "File too large"), prefix=limit,
                    writes=("t.json",))
        self.assertEqual(read(self.path("t.json")), "")

    def test_over_one_another(self):
        """Whatever name a file is given under; nothing is written then."""
        os.mkdir(self.path("texts"))
        os.link(self.path("text.txt"), self.path("texts", "hard"))
        os.symlink("text.txt", self.path("soft"))
        write(self.path("eval.txt"), "evaluation " * 50)
        write(self.path("old"), "")
        os.symlink("texts", self.path("folder"))
        for option in ("--metrics", "--print-plan", "--timeline"):
            for path in ("text.txt", "./text.txt", self.path("text.txt"), "soft", "texts/hard"):
                self.refuse(*BASE, option, path, names=(f"{option} {path}", "--data"), code=1)
                self.refuse("train", *TINY, "--data", "texts", option, path, names=(f"{option} {path}", "--data"), code=1)
            self.refuse(*BASE, "--eval-data", "eval.txt", option, "eval.txt", names=(f"{option} eval.txt", "--eval-data"))
        for first, second in (("new", "new"), ("new", "./new"), ("texts/new", "folder/new"), ("old", self.path("old")),
                              ("new", self.path("new"))):
            for one, other in (("--metrics", "--print-plan"), ("--print-plan", "--timeline")):
                self.refuse(*BASE, one, first, other, second, "--out", "run", code=1,
                            names=(f"{one} {first}", f"{other} {second}", "same"))
        self.succeed(*BASE, "--metrics", "new", "--print-plan", "texts/new")
        self.succeed(*BASE, "--metrics", "/dev/null", "--print-plan", "/dev/null")

    def test_standard_output(self):
        with open("/dev/full", "w") as full:
            self.refuse("train", "--help", names="standard output", stdout=full)
            self.refuse("--help", names="standard output", stdout=full)
            self.refuse("--version", names="standard output", stdout=full)


if __name__ == "__main__":
    harness.main()
