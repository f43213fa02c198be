"""Checkpoints that are damaged, of another run, or do not fit on the disk; models and plans that are none."""

import json
import os
import re
import resource
import shutil
import struct
import subprocess
import tempfile

import harness
from harness import TINY, CommandCase, read, text, write

STEP = os.path.join("run", "step-4")
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
CONFIG, TRAINER = "config.json", "trainer.json"
TRAIN = ("train", "--data", "text.txt", "--out", "run", "--ranks", "2", *TINY)
RESUME = (*TRAIN, "--steps", "6", "--resume")
GENERATE = ("generate", "--model", "run", "--prompt", "The ", "--tokens", "8")


def split(content):
    """A safetensors file's header and data."""
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:8 + size]), content[8 + size:]


def join(header, data):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


class CheckpointCase(CommandCase):
    """run/ holds a copy of one good checkpoint, step-4 of two ranks."""

    @classmethod
    def setUpClass(cls):
        cls.original = tempfile.mkdtemp(prefix="tessera-cli-")
        cls.addClassCleanup(shutil.rmtree, cls.original)
        write(os.path.join(cls.original, "text.txt"), text())
        subprocess.run([cls.binary, *TRAIN, "--steps", "4"], cwd=cls.original, check=True, stdout=subprocess.DEVNULL)

    def setUp(self):
        super().setUp()
        self.restore()

    def restore(self):
        shutil.rmtree(self.path("run"), ignore_errors=True)
        shutil.copytree(os.path.join(self.original, "run"), self.path("run"))

    def change(self, file, edit):
        """Replaces a file of the checkpoint by edit(its bytes)."""
        self.restore()
        path = self.path(STEP, file)
        write(path, edit(read(path, "rb")))

    def change_header(self, file, edit):
        def edit_file(content):
            header, data = split(content)
            return join(edit(header) or header, data)
        self.change(file, edit_file)

    def change_field(self, file, key, value):
        """value None: the field is removed."""
        def edit(content):
            fields = json.loads(content)
            fields.pop(key)
            if value is not None:
                fields[key] = value
            return json.dumps(fields).encode()
        self.change(file, edit)

    def refuse_all(self, commands, names):
        names = [names] if isinstance(names, str) else names
        for command in commands:
            with self.subTest(command=command[0], names=names):
                self.refuse(*command, names=names)


# Values that the message shows under another name than the file's.
NAMED_AS = {("n_head", "3"): "heads", ("n_embd", str(1 << 62)): "dim", ("activation_function", "relu"): "relu",
            ("model_type", "llama"): "llama", ("layer_norm_epsilon", "-1"): "layer norm's epsilon"}
INSPECT = ("inspect", "run")
READERS = (RESUME, GENERATE, INSPECT)
LOADERS = (RESUME, GENERATE)


class Safetensors(CheckpointCase):
    def test_good(self):
        for command in READERS:
            self.succeed(*command)

    def test_truncated(self):
        for keep in (0, 7, 8, 100, 100000):
            self.change(MODEL, lambda content: content[:keep])
            self.refuse_all(READERS, MODEL)
        self.change(OPTIMIZER, lambda content: content[:-1])
        self.refuse_all([RESUME], OPTIMIZER)

    def test_longer(self):
        self.change(MODEL, lambda content: content + b"\0")
        self.refuse_all(READERS, MODEL)

    def test_lying_header_length(self):
        for size in (0, 1, 1 << 20, 1 << 32, (1 << 64) - 1, (1 << 63) + 5):
            self.change(MODEL, lambda content: struct.pack("<Q", size) + content[8:])
            self.refuse_all(READERS, MODEL)

    def test_broken_header(self):
        for header in (b"{", b"[]", b"null", b"\xff" * 40, b"{}" + b"x" * 30, b'{"a": 1}', b"[" * 5000):
            self.change(MODEL, lambda content: join(header, split(content)[1]))
            self.refuse_all(READERS, MODEL)

    def test_wrong_tensors(self):
        def reshape(header):
            header["h.0.attn.c_attn.weight"]["shape"].reverse()
        self.change_header(MODEL, reshape)
        self.refuse_all(LOADERS, (MODEL, "h.0.attn.c_attn.weight", "192", "64"))

        def rename(header):
            header["h.9.ln_1.weight"] = header.pop("h.1.ln_1.weight")
        self.change_header(MODEL, rename)
        self.refuse_all(LOADERS, (MODEL, "h.1.ln_1.weight"))

        def retype(header):
            header["ln_f.bias"]["dtype"] = "I32"
        self.change_header(MODEL, retype)
        self.refuse_all(LOADERS, (MODEL, "ln_f.bias", "I32", "F32"))

        def overlap(header):
            header["ln_f.bias"]["data_offsets"] = header["ln_f.weight"]["data_offsets"]
        self.change_header(MODEL, overlap)
        self.refuse_all(READERS, MODEL)

        def lose(header):
            header.pop("exp_avg.wte.weight")
        self.change_header(OPTIMIZER, lose)
        self.refuse_all([RESUME], OPTIMIZER)

        def huge(header):
            header["ln_f.bias"]["shape"] = [1 << 62, 1 << 62]
        self.change_header(MODEL, huge)
        self.refuse_all(READERS, (MODEL, "ln_f.bias"))

    def test_not_finite(self):
        for pattern in (b"\0\0\xc0\x7f", b"\0\0\x80\x7f"):  # NaN, infinity
            def spoil(content):
                header, data = split(content)
                begin, end = header["ln_f.weight"]["data_offsets"]
                return join(header, data[:begin] + pattern * ((end - begin) // 4) + data[end:])
            self.change(MODEL, spoil)
            self.refuse_all(LOADERS, "finite")

    def test_missing_files(self):
        for file in (MODEL, CONFIG):
            self.restore()
            os.remove(self.path(STEP, file))
            self.refuse_all(READERS, ("run", file))
        for file in (OPTIMIZER, TRAINER):
            self.restore()
            os.remove(self.path(STEP, file))
            self.refuse_all([RESUME], "run")


class Json(CheckpointCase):
    def test_broken(self):
        for content in (b"", b"{", b"[1]", b"\xff\xfe", b'{"a": 1, "a": 2}', b"nul", b"{}"):
            for file, readers in ((CONFIG, READERS), (TRAINER, (RESUME, INSPECT))):
                self.change(file, lambda _: content)
                self.refuse_all(readers, file)

    def test_config(self):
        for key, value in (("n_layer", "2"), ("n_layer", 0), ("n_head", -1), ("n_head", 3), ("n_embd", 64.5),
                           ("n_embd", 1 << 62), ("vocab_size", [257]), ("vocab_size", None), ("n_positions", 0),
                           ("activation_function", "relu"), ("activation_function", 1), ("model_type", "llama"),
                           ("model_type", None), ("tie_word_embeddings", False), ("n_inner", 100),
                           ("layer_norm_epsilon", "small"), ("layer_norm_epsilon", -1)):
            self.change_field(CONFIG, key, value)
            self.refuse_all(READERS, (CONFIG, NAMED_AS.get((key, str(value)), key)))

    def test_lying_config(self):
        """Fields that are possible, but not those of the tensors."""
        for key, value in (("n_layer", 1), ("n_layer", 3), ("n_embd", 32), ("vocab_size", 300), ("n_positions", 64)):
            self.change_field(CONFIG, key, value)
            self.refuse_all([GENERATE], MODEL)
            self.refuse_all([RESUME], ("--resume", "step-4"))
        self.change_field(CONFIG, "n_layer", 1 << 40)
        self.refuse_all([GENERATE], CONFIG)
        self.change_field(CONFIG, "vocab_size", 100)
        self.refuse_all([GENERATE], ("100", "257"))

    def test_trainer(self):
        for key, value in (("version", 2), ("version", "1"), ("step", -1), ("step", 1.5), ("step", None), ("seed", -1),
                           ("world", 0), ("batch", "2"), ("accumulate", None), ("seq", 0), ("samples", [1])):
            self.change_field(TRAINER, key, value)
            self.refuse_all([RESUME, INSPECT], (TRAINER, key))


class Resume(CheckpointCase):
    def test_nothing_there(self):
        shutil.rmtree(self.path("run"))
        self.refuse(*RESUME, names=("--resume", "run", "No such file"))
        os.mkdir(self.path("run"))
        self.refuse(*RESUME, names=("run", "step-N"))
        os.mkdir(self.path("run", "step-7"))
        self.refuse(*RESUME, names=("run", "step-N"))
        write(self.path("run", "step-8"), "")
        self.refuse(*RESUME, names=("run", "step-N"))
        self.refuse(*RESUME, "--out", "text.txt", names="text.txt")

    def test_other_run(self):
        self.refuse(*RESUME, "--seed", "2", names=("step-4", "--seed 1", "--seed 2"))
        self.refuse(*RESUME, "--batch", "3", names=("step-4", "--batch", "4", "6"))
        self.refuse(*RESUME, "--ranks", "1", names=("step-4", "--ranks"))
        self.refuse(*RESUME, "--accumulate", "2", names=("step-4", "--accumulate"))

    def test_other_model(self):
        for flag, value in (("--seq", "16"), ("--layers", "3"), ("--layers", "1"), ("--dim", "32"), ("--heads", "4"),
                            ("--vocab", "300")):
            self.refuse(*RESUME, flag, value, names=("--resume", "step-4", flag))


class DiskFull(CheckpointCase):
    def check_survivor(self, folder):
        """What an interrupted run left can be read and used."""
        self.assertEqual([name for name in os.listdir(folder) if name.startswith(".")], [])
        self.succeed("inspect", folder)
        self.succeed("generate", "--model", folder, "--tokens", "4")

    def test_small_disk(self):
        """A disk of 3 MiB takes two checkpoints of 1.4 MiB."""
        small = self.path("disk")
        os.mkdir(small)
        script = 'mount -t tmpfs -o size=3m tmpfs "$1" || exit 77; shift; "$@"; code=$?; cp -a disk copy; exit $code'
        try:
            allowed = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", small, "true"], cwd=self.folder,
                                     capture_output=True).returncode
        except FileNotFoundError:
            allowed = 77
        if allowed != 0:
            self.skipTest("no small file system can be mounted here")
        for ranks in ("1", "2"):
            shutil.rmtree(self.path("copy"), ignore_errors=True)
            result = self.run_command("train", "--data", "text.txt", *TINY, "--ranks", ranks, "--steps", "9",
                                      "--save-every", "1", "--out", "disk",
                                      prefix=("unshare", "-m", "sh", "-c", script, "sh", small))
            self.check_refusal(result, ("step-3", MODEL, "No space left"))
            self.assertEqual(sorted(os.listdir(self.path("copy"))), ["step-1", "step-2"])
            self.check_survivor(self.path("copy"))

    def test_file_size_limit(self):
        """The optimizer's file is over the limit, the model's is not."""
        def limit(size):
            return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        arguments = ("train", "--data", "text.txt", *TINY, "--batch", "4", "--out", "run", "--resume", "--steps", "6")
        self.refuse(*arguments, names=("step-6", OPTIMIZER, "File too large"), preexec_fn=limit(600 << 10))
        self.check_survivor(self.path("run"))
        self.refuse(*TRAIN, "--steps", "2", "--out", "other", names="shared memory", preexec_fn=limit(100 << 10))


class Generate(CheckpointCase):
    def test_prompt(self):
        self.refuse("generate", "--model", "run", "--prompt", "x" * 30, "--tokens", "8", names=("30", "8", "32"))
        self.refuse("generate", "--model", "run", "--prompt", "x" * 100000, "--tokens", "1", names=("100000", "32"))
        self.refuse("generate", "--model", "run", "--prompt", "x" * 32, names=("32 bytes", "32 positions"))
        self.refuse("generate", "--model", "run", "--tokens", "32", names=("--tokens 32", "32 positions"))
        self.refuse("generate", "--model", "run", "--tokens", "16777216", names=("16777216", "32"))
        self.succeed("generate", "--model", "run", "--prompt", "x" * 24, "--tokens", "8")

    def test_model(self):
        for path in ("missing", "text.txt", "run/step-9", "/dev/null", "\n"):
            self.refuse("generate", "--model", path, names=path if path != "\n" else "?")

    def test_standard_output(self):
        with open("/dev/full", "w") as full:
            self.refuse(*GENERATE, names="standard output", stdout=full)
            self.refuse(*INSPECT, names="standard output", stdout=full)


class Inspect(CheckpointCase):
    def setUp(self):
        super().setUp()
        self.train("--steps", "1", "--ranks", "2", "--print-plan", "plan.txt")
        self.plan = read(self.path("plan.txt"))

    def refuse_plan(self, content, *names):
        write(self.path("damaged.txt"), content)
        self.refuse("inspect", "damaged.txt", names=("damaged.txt", *names))

    def replace(self, old, new):
        self.assertIn(old, self.plan)
        return self.plan.replace(old, new, 1)

    def test_nonsense(self):
        os.mkfifo(self.path("fifo"))
        os.mkdir(self.path("folder"))
        write(self.path("empty"), "")
        write(self.path("zeros"), bytes(1000))
        for name in ("missing", "text.txt", "fifo", "folder", "empty", "zeros", "/dev/zero", "/dev/null", "text.txt/x"):
            with self.subTest(name=name):
                self.refuse("inspect", name, names=name)

    def test_broken_plan(self):
        self.refuse_plan("tessera plan", "line 1")
        self.refuse_plan("tessera plan 2\n", "line 1")
        self.refuse_plan("tessera plan 1\n", "line 2")
        self.refuse_plan(self.plan.encode()[:3000] + b"\0" + self.plan.encode()[3000:])
        self.refuse_plan(self.plan[:len(self.plan) // 2])
        self.refuse_plan(self.plan + "n9999: nonsense\n", f"line {self.plan.count(chr(10)) + 1}")
        for old, new in (("world=2", "world=0"), ("world=2", "world=99999999999"), ("group=1", "group=-1"),
                         ("f32[257, 64]", "f32[0, 64]"), ("f32[257, 64]", "f32[9223372036854775807, 64]"),
                         ("f32[257, 64]", "q7[257, 64]"), ("alignment=64", "alignment=3"), ("granule=1", "granule=0")):
            with self.subTest(old=old, new=new):
                self.refuse_plan(self.replace(old, new), "line")

    def test_plan_that_does_not_verify(self):
        for new in ("0", "64", "4096"):
            persistent = self.plan.partition("persistent=")[2].split()[0]
            with self.subTest(bytes=new):
                self.refuse_plan(self.replace(f"persistent={persistent}", f"persistent={new}"), "not verify", "persistent")
        waits = re.sub(r" after=\S+", "", self.plan)
        self.assertNotEqual(waits, self.plan)
        self.refuse_plan(waits, "not verify")

    def test_far_groups(self):
        """Group numbers may leave gaps, of any width."""
        write(self.path("far.txt"), self.plan.replace("group=4", "group=2147483647"))
        self.assertIn("group 2147483647", self.succeed("inspect", "far.txt").out)


if __name__ == "__main__":
    harness.main()
