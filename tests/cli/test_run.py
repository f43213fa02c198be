"""Runs that go well: what they write, that they can be repeated, continued and spread over ranks."""

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import termios

import harness
from harness import TINY, CommandCase, read, text, write

FIELDS = {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "step_ms", "model_flops_per_s"}
SESSION_OPTIONS = {"model", "layers", "heads", "dim", "seq", "vocab", "ranks", "threads", "batch", "accumulate", "gather", "comm",
                   "prefetch", "wire", "dtype", "weight-decay", "beta1", "beta2", "clip", "memory", "host-memory", "plan",
                   "steps", "help"}
OPTIONS = {
    "train": SESSION_OPTIONS | {"data", "max-time", "lr", "min-lr", "warmup", "seed", "out", "resume", "save-every",
                                "eval-data", "eval-every", "eval-batches", "metrics", "print-plan", "stage",
                                "timeline"},
    "bench": SESSION_OPTIONS,
    "generate": {"model", "prompt", "tokens", "temperature", "top-k", "seed", "threads", "dtype", "help"},
    "inspect": {"help"},
}


class RunCase(CommandCase):
    def metrics(self, name="m.jsonl"):
        return [json.loads(line) for line in read(self.path(name)).splitlines()]

    def losses(self, *arguments):
        """Of the run's steps. Exact: nine digits tell any two floats apart."""
        self.train(*arguments, "--metrics", "m.jsonl")
        return [(line["step"], line["loss"], line["grad_norm"]) for line in self.metrics()]

    def weights(self, folder):
        return [read(self.path(folder, name), "rb") for name in ("model.safetensors", "optimizer.safetensors")]


class Train(RunCase):
    def test_files(self):
        write(self.path("eval.txt"), text(100))
        out = self.train("--steps", "60", "--ranks", "2", "--lr", "3e-3", "--out", "run", "--metrics", "m.jsonl",
                         "--print-plan", "plan.txt", "--eval-data", "eval.txt", "--eval-every", "20", "--save-every",
                         "25").out
        self.assertEqual(sorted(os.listdir(self.path("run"))), ["step-25", "step-50", "step-60"])
        self.assertEqual(sorted(os.listdir(self.path("run", "step-60"))),
                         ["config.json", "generation_config.json", "model.safetensors", "optimizer.safetensors",
                          "trainer.json"])
        lines = self.metrics()
        self.assertEqual([line["step"] for line in lines], list(range(1, 61)))
        for line in lines:
            self.assertLessEqual(FIELDS, line.keys())
            self.assertEqual(line["tokens"], 2 * 2 * 32)
            self.assertGreater(line["tokens_per_s"], 0)
            self.assertGreater(line["step_ms"], 0)
        self.assertEqual([line["step"] for line in lines if "eval_loss" in line], [20, 40, 60])
        self.assertLess(lines[-1]["loss"], lines[0]["loss"] - 1)
        self.assertLess(lines[-1]["eval_loss"], lines[19]["eval_loss"])
        self.assertAlmostEqual(lines[5]["lr"], 3e-3)
        self.assertAlmostEqual(lines[-1]["lr"], 3e-4)
        for words in ("step 1/60", "step 60/60", "step 60  evaluation loss", "saved run/step-60", "2 ranks"):
            self.assertIn(words, out)

    def test_inspect(self):
        self.train("--steps", "2", "--ranks", "2", "--out", "run", "--print-plan", "plan.txt")
        plan = self.succeed("inspect", "plan.txt").out
        self.assertRegex(plan, r"(?m)^verified +yes$")
        self.assertIn("2 ranks", plan)
        for path in ("run", "run/step-2"):
            shown = self.succeed("inspect", path).out
            for words in ("run/step-2", "2 layers", "step 2", "2 ranks x batch 2", "wte.weight", "[257, 64]",
                          "28 tensors"):
                self.assertIn(words, shown)
        self.assertIn("exp_avg_sq.ln_f.bias", self.succeed("inspect", "run/step-2/optimizer.safetensors").out)

    def test_data(self):
        size = os.path.getsize(self.path("text.txt"))
        os.makedirs(self.path("texts", "below"))
        write(self.path("texts", "a"), "a" * 10)
        write(self.path("texts", "below", "b"), "b" * 20)
        write(self.path("texts", "binary"), b"c\0d")
        write(self.path("texts", "empty"), "")
        os.symlink("a", self.path("texts", "link"))
        os.symlink(".", self.path("texts", "loop"))
        os.symlink("text.txt", self.path("link.txt"))
        for arguments, tokens, documents in (
                ((), size, 1),
                (("--data", "texts"), size + 1 + 10 + 1 + 20, 3),
                (("--data", "link.txt", "texts/a", "--data", "texts/below"), 2 * size + 1 + 1 + 10 + 1 + 20, 4)):
            out = self.train("--steps", "1", *arguments).out
            self.assertIn(f"{tokens} tokens in {documents} documents", out)
            self.assertEqual("skipped" in out, "texts" in arguments)

    def test_time_limit(self):
        for ranks in ("1", "2"):
            result = self.train("--steps", "100000000", "--max-time", "0.3", "--ranks", ranks, "--out", "run" + ranks,
                                "--metrics", "m.jsonl")
            last = self.metrics()[-1]["step"]
            self.assertEqual(os.listdir(self.path("run" + ranks)), [f"step-{last}"])
            self.assertIn(f"\nstep {last}/100000000", result.out)
            self.assertLess(result.seconds, 10)

    def test_nothing_to_do(self):
        self.train("--steps", "2", "--out", "run")
        self.assertIn("nothing to do", self.train("--steps", "2", "--out", "run", "--resume").out)


class Timeline(RunCase):
    def events(self, *arguments):
        self.train("--steps", "3", "--timeline", "t.json", *arguments)
        trace = json.loads(read(self.path("t.json")))["traceEvents"]
        names = {(e["pid"], e.get("tid")): e["args"]["name"] for e in trace if e["ph"] == "M"}
        return names, [e for e in trace if e["ph"] == "X"]

    def test_last_step(self):
        names, events = self.events("--ranks", "3", "--gather", "copy", "--accumulate", "3")
        self.assertEqual({name for (_, tid), name in names.items() if tid is None}, {"rank 0", "rank 1", "rank 2"})
        sections = {0: "micro_first", 1: "micro_next", 2: "micro_next", -1: "update"}
        seen = [sorted((e["name"], e["tid"], e["args"]["micro_step"]) for e in events if e["pid"] == rank)
                for rank in range(3)]
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(seen[0], seen[2])
        for event in events:
            self.assertGreaterEqual(event["ts"], 0)
            self.assertGreaterEqual(event["dur"], 0)
            self.assertEqual(event["cat"], sections[event["args"]["micro_step"]])
        for micro in range(3):
            some = {(names[0, tid], name) for name, tid, step in seen[0] if step == micro}
            self.assertLessEqual({("gather", "gather h.1.attn"), ("compute", "wait h.1.attn"),
                                  ("compute", "attention h.0.attn"), ("reduce", "reduce h.0.attn")}, some)
        for rank in range(3):
            for stream in {e["tid"] for e in events}:  # one after another: a stream is a queue
                spans = [(e["ts"], e["ts"] + e["dur"]) for e in events if (e["pid"], e["tid"]) == (rank, stream)]
                for before, after in zip(sorted(spans), sorted(spans)[1:]):
                    self.assertLessEqual(before[1], after[0] + 0.002)

    def test_alias(self):
        """Nothing is gathered, so nothing runs on that stream or waits for it."""
        names, events = self.events("--ranks", "2")
        self.assertEqual({names[e["pid"], e["tid"]] for e in events}, {"compute", "reduce"})
        self.assertEqual([e["name"] for e in events if e["name"].startswith(("gather", "wait"))], [])

    def test_nothing_done(self):
        self.train("--steps", "2", "--out", "run")
        self.train("--steps", "2", "--out", "run", "--resume", "--timeline", "t.json")
        self.assertFalse(os.path.exists(self.path("t.json")))

    def test_written_over(self):
        """Through a link, too."""
        write(self.path("old.json"), "x" * 1000000)
        os.symlink("old.json", self.path("t.json"))
        self.events()
        self.assertTrue(os.path.islink(self.path("t.json")))


class Streams(RunCase):
    def test_closed(self):
        """Files do not take the numbers of closed standard streams, and with them what is printed."""
        for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
            with self.subTest(closed=closed):
                shutil.rmtree(self.path("run"), ignore_errors=True)
                self.train("--steps", "3", "--ranks", "2", "--metrics", "m.jsonl", "--out", "run", "--print-plan", "p.txt",
                           prefix=("sh", "-c", f'exec "$0" "$@" {closed}'))
                self.assertEqual([line["step"] for line in self.metrics()], [1, 2, 3])
                self.assertIn("yes", self.succeed("inspect", "p.txt").out)
                self.succeed("inspect", "run")

    def test_reader_leaves(self):
        """`tessera train | head -1`: no complaint, and no rank left."""
        for ranks in ("1", "2"):
            running = self.start("train", "--data", "text.txt", *TINY, "--steps", "3000", "--max-time", "2", "--ranks",
                                 ranks, stdout=subprocess.PIPE)
            running.process.stdout.readline()
            running.process.stdout.close()
            running.process.stdout = None
            self.assertEqual(running.end().err, "")


class Same(RunCase):
    STEPS = ("--steps", "12", "--lr", "1e-3")

    def test_repeated(self):
        for arguments in (("--ranks", "2"), ("--ranks", "3", "--accumulate", "2"), ("--threads", "2")):
            first, second = (self.losses(*self.STEPS, *arguments, "--out", out) for out in ("one", "two"))
            self.assertEqual(first, second)
            self.assertEqual(self.weights("one/step-12"), self.weights("two/step-12"))
            shutil.rmtree(self.path("one"))
            shutil.rmtree(self.path("two"))

    def test_gather_copies(self):
        alias = self.losses(*self.STEPS, "--ranks", "2", "--out", "alias", "--print-plan", "alias.txt")
        copy = self.losses(*self.STEPS, "--ranks", "2", "--out", "copy", "--print-plan", "copy.txt", "--gather", "copy")
        self.assertEqual(alias, copy)
        self.assertEqual(self.weights("alias/step-12"), self.weights("copy/step-12"))
        self.assertNotEqual(read(self.path("alias.txt")), read(self.path("copy.txt")))

    def test_bf16(self):
        """Repeatable, resumable, the same for both ways to gather; near f32, and saved in f32 for either to go on."""
        run = (*self.STEPS, "--ranks", "2", "--dtype", "bf16")
        first = self.losses(*run, "--out", "one", "--print-plan", "one.txt", "--save-every", "6")
        self.assertEqual(first, self.losses(*run, "--out", "two", "--gather", "copy"))
        self.assertEqual(self.weights("one/step-12"), self.weights("two/step-12"))
        f32 = self.losses(*self.STEPS, "--ranks", "2", "--out", "f32", "--print-plan", "f32.txt")
        self.assertNotEqual(first, f32)
        for (_, loss, _), (_, other, _) in zip(first, f32):
            self.assertAlmostEqual(loss / other, 1, delta=0.01)
        plan, shown = read(self.path("one.txt")), self.succeed("inspect", "one.txt").out
        self.assertIn('"wte.weight.bf16" bf16[', plan)
        self.assertRegex(plan, '(?m)^products "[a-z0-9 ]*bf16: ')
        self.assertRegex(shown, r"(?m)^verified +yes$")
        weights = [int(re.search(r"(?m)^bytes weights=(\d+)", read(self.path(name))).group(1)) for name in
                   ("one.txt", "f32.txt")]
        self.assertAlmostEqual(weights[0] / weights[1], 0.5, delta=0.001)
        self.assertIn("F32", self.succeed("inspect", "one").out)
        self.assertNotIn("BF16", self.succeed("inspect", "one").out)
        self.assertIn('"torch_dtype": "float32"', read(self.path("one/step-12/config.json")))
        shutil.rmtree(self.path("one", "step-12"))
        self.assertEqual(self.losses(*run, "--out", "one", "--resume")[-6:], first[-6:])
        self.assertEqual(self.weights("one/step-12"), self.weights("two/step-12"))
        self.train("--steps", "14", "--lr", "1e-3", "--ranks", "2", "--out", "one", "--resume")  # in f32
        for dtype in ("f32", "bf16"):
            out = self.succeed("generate", "--model", "one", "--prompt", "the ", "--tokens", "9", "--dtype", dtype).out
            self.assertEqual(len(out), len("the ") + 9 + 1)

    def test_bf16_products(self):
        """Either way to multiply, and no other."""
        run = (*self.STEPS, "--dtype", "bf16", "--print-plan", "p.txt")
        losses = {}
        for way in ("f32", "native"):
            os.environ["TESSERA_BF16"] = way
            try:
                if way == "native" and self.run_command("train", "--data", "text.txt", *TINY, "--steps", "1").code:
                    continue  # no oneDNN
                losses[way] = self.losses(*run)
            finally:
                del os.environ["TESSERA_BF16"]
            self.assertIn({"f32": 'products "f32 over bf16: ', "native": 'products "bf16: '}[way],
                          read(self.path("p.txt")))
        for (_, loss, _), (_, other, _) in zip(*losses.values()) if len(losses) == 2 else ():
            self.assertAlmostEqual(loss / other, 1, delta=1e-3)

    def test_prefetch(self):
        """How far gathers run ahead, and over what wire, does not show in what is learnt."""
        runs = [self.losses(*self.STEPS, "--ranks", "2", "--gather", "copy", *arguments, "--print-plan", f"{name}.txt")
                for name, arguments in (("1", ()), ("0", ("--prefetch", "0")), ("3", ("--prefetch", "3")),
                                        ("wire", ("--wire", "0.1")))]
        for other in runs[1:]:
            self.assertEqual(runs[0], other)
        plans = {name: read(self.path(f"{name}.txt")) for name in ("1", "0", "3", "wire")}
        self.assertEqual(plans["1"], plans["wire"])
        self.assertEqual(len(set(plans.values())), 3)

    def test_time_left(self):
        """Of --max-time, where that ends first."""
        shown = re.findall(r"eta (\S+)", self.train("--steps", "1000000000", "--max-time", "2").out)
        self.assertTrue(shown)
        self.assertLessEqual({*shown}, {"0s", "1s", "2s"})

    def test_seeds_differ(self):
        self.assertNotEqual(self.losses(*self.STEPS), self.losses(*self.STEPS, "--seed", "2"))

    def test_worlds_agree(self):
        """The order of samples depends on the global batch only; sums are taken in another order."""
        runs = [self.losses(*self.STEPS, "--ranks", ranks, "--batch", batch, "--accumulate", accumulate)
                for ranks, batch, accumulate in (("1", "6", "1"), ("2", "3", "1"), ("3", "2", "1"), ("1", "2", "3"),
                                                 ("3", "1", "2"))]
        for other in runs[1:]:
            for (step, loss, norm), (other_step, other_loss, other_norm) in zip(runs[0], other, strict=True):
                self.assertEqual(step, other_step)
                self.assertAlmostEqual(loss, other_loss, delta=1e-4)
                self.assertAlmostEqual(norm, other_norm, delta=1e-2)


class Continued(RunCase):
    ARGUMENTS = ("--steps", "12", "--lr", "1e-3", "--save-every", "5")

    def setUp(self):
        super().setUp()
        self.whole = self.losses(*self.ARGUMENTS, "--ranks", "2", "--out", "whole")
        shutil.copytree(self.path("whole", "step-5"), self.path("part", "step-5"))

    def test_same_ranks(self):
        self.assertEqual(self.losses(*self.ARGUMENTS, "--ranks", "2", "--out", "part", "--resume"), self.whole)
        self.assertEqual(self.weights("part/step-12"), self.weights("whole/step-12"))

    def test_other_ranks(self):
        continued = self.losses(*self.ARGUMENTS, "--ranks", "4", "--batch", "1", "--out", "part", "--resume")
        for (step, loss, _), (other_step, other_loss, _) in zip(self.whole, continued, strict=True):
            self.assertEqual(step, other_step)
            self.assertAlmostEqual(loss, other_loss, delta=1e-4)

    def test_interrupted_saves_are_passed_over(self):
        shutil.copytree(self.path("whole", "step-5"), self.path("part", ".step-10.tmp"))
        os.mkdir(self.path("part", "step-11"))
        out = self.train(*self.ARGUMENTS, "--ranks", "2", "--out", "part", "--resume").out
        self.assertIn("resumed at step 5\n", out)
        self.assertEqual(self.weights("part/step-12"), self.weights("whole/step-12"))

    def test_metrics(self):
        """One line a step: those behind the checkpoint are dropped, and the rest of an interrupted write."""
        before = read(self.path("m.jsonl"))
        lines = before.splitlines(keepends=True)
        resume = (*self.ARGUMENTS, "--ranks", "2", "--out", "part", "--resume")
        for content in (before, "".join(lines[:5]), "".join(lines[:5]) + '{"st', "".join(lines[:5]) + lines[5][:30],
                        "".join(lines[:7]) + '{"step": 1', "".join(lines[:8]) + "nonsense behind the cut\n", before * 2):
            with self.subTest(bytes=len(content)):
                write(self.path("m.jsonl"), content)
                self.assertEqual(self.losses(*resume), self.whole)
                self.assertTrue(read(self.path("m.jsonl")).startswith("".join(lines[:5])))
                shutil.rmtree(self.path("part", "step-10"))
                shutil.rmtree(self.path("part", "step-12"))
        os.remove(self.path("m.jsonl"))
        self.assertEqual(self.losses(*resume), self.whole[5:])

    def test_metrics_of_another_kind(self):
        lines = read(self.path("m.jsonl")).splitlines(keepends=True)
        for number, content in ((1, "some text\n"), (1, "some text"), (1, "\n"), (3, "".join(lines[:2]) + lines[0]),
                                (3, "".join(lines[:2]) + lines[2][:40] + "\n" + "".join(lines[3:])),
                                (3, "".join(lines[:2]) + lines[2][:40]), (2, lines[0] + lines[1].replace("2", "x", 1)),
                                (2, lines[0] + lines[1].replace("l", "\0", 1)), (2, lines[0] + '{"step": 2}\n')):
            write(self.path("m.jsonl"), content)
            for ranks, batch in (("1", "4"), ("2", "2")):
                with self.subTest(content=content[-50:], ranks=ranks):
                    self.refuse("train", "--data", "text.txt", *TINY, *self.ARGUMENTS, "--ranks", ranks, "--batch", batch,
                                "--out", "part", "--resume", "--metrics", "m.jsonl",
                                names=("m.jsonl", f"line {number}:"), code=1)


class Generate(RunCase):
    def test_repeatable(self):
        self.train("--steps", "150", "--lr", "3e-3", "--out", "run")

        def generate(*arguments):
            return self.succeed("generate", "--model", "run", "--prompt", "the ", "--tokens", "28", *arguments).out

        self.assertEqual(generate(), generate())
        self.assertEqual(generate("--seed", "1"), generate("--threads", "2"))
        self.assertEqual(len({generate("--seed", seed, "--temperature", "2") for seed in "12345"}), 5)
        greedy = generate("--temperature", "0")
        self.assertEqual(len({greedy} | {generate("--temperature", "0", "--seed", seed) for seed in "23"}), 1)
        self.assertEqual(greedy, generate("--top-k", "1"))
        self.assertTrue(greedy.startswith("the "))
        self.assertTrue(set(greedy[4:].strip()) & set("thecaso "), greedy)
        self.assertEqual(len(generate("--temperature", "0").encode()), 4 + 28 + 1)

    def test_without_prompt(self):
        self.train("--steps", "2", "--out", "run")
        new = self.succeed("generate", "--model", "run", "--tokens", "31").out
        self.assertEqual(new, self.succeed("generate", "--model", "run", "--tokens", "31", "--prompt", "").out)
        self.assertEqual(new, self.succeed("generate", "--model", "run", "--tokens", "31", "--prompt=").out)

    def test_without_tokens(self):
        """As many as fit, 200 at most. Vocabulary 257: a byte or a newline is written for each token."""
        self.train("--steps", "1", "--out", "short")
        self.train("--steps", "1", "--out", "long", "--seq", "256", "--batch", "1")
        for model, prompt, count in (("short", "", 31), ("short", "x" * 20, 12), ("short", "x" * 31, 1),
                                     ("long", "", 200), ("long", "x" * 56, 200), ("long", "x" * 57, 199)):
            with self.subTest(model=model, prompt=prompt):
                shown = subprocess.run([self.binary, "generate", "--model", self.path(model), "--prompt", prompt],
                                       capture_output=True, check=True).stdout
                self.assertEqual(len(shown), len(prompt) + count + 1)


class Help(CommandCase):
    def test_commands(self):
        general = self.succeed("--help").out
        self.assertRegex(self.succeed("--version").out, r"^tessera \d+\.\d+\.\d+\n$")
        for command, options in OPTIONS.items():
            with self.subTest(command=command):
                self.assertIn(command, general)
                shown = self.succeed(command, "--help").out
                self.assertEqual(set(re.findall(r"(?m)^  --([a-z0-9-]+) ", shown)), options)
                self.assertIn(f"Usage: tessera {command}", shown)
                self.assertRegex(shown, rf"(?s)\nExamples:\n  tessera {command} ")
                self.assertEqual(shown, self.succeed(command, "--model", "x", "--help").out
                                 if "model" in options else shown)

    def test_examples_work(self):
        """As printed, one after the other: generate reads what train wrote."""
        os.rename(self.path("text.txt"), self.path("book.txt"))
        for command in ("train", "generate"):
            examples = self.succeed(command, "--help").out.partition("Examples:\n")[2].replace("\\\n", " ")
            for example in examples.strip().splitlines():
                with self.subTest(example=example):
                    self.succeed(*shlex.split(example)[1:])

    def test_examples_use_known_options(self):
        for command, options in OPTIONS.items():
            examples = self.succeed(command, "--help").out.partition("Examples:\n")[2]
            self.assertLessEqual(set(re.findall(r"--([a-z0-9-]+)", examples)), options)


class Bench(CommandCase):
    def test_step(self):
        out = self.succeed("bench", "step", *TINY, "--ranks", "2", "--steps", "5").out
        for words in ("machine", "median", "(5 steps)", "tokens/s", "GFLOP/s", "a rank"):
            self.assertIn(words, out)


class Display(CommandCase):
    ARGUMENTS = ("train", "--data", "text.txt", *TINY, "--steps", "30", "--out", "run")

    def each_number_of_ranks(self):
        for ranks in ("1", "2"):
            shutil.rmtree(self.path("run"), ignore_errors=True)
            yield ranks

    def on_terminal(self, *arguments, columns=200):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        running = self.start(*arguments, stdout=slave)
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # EIO: nobody holds the other end any more
                break
            if not part:
                break
            shown += part
        os.close(master)
        self.assertEqual(running.end().code, 0)
        return shown.decode().replace("\r\n", "\n")

    def test_plain(self):
        for ranks in self.each_number_of_ranks():
            out = self.succeed(*self.ARGUMENTS, "--ranks", ranks).out
            self.assertNotIn("\r", out)
            self.assertNotIn("\x1b", out)
            self.assertNotIn("\n\n", out)
            self.assertRegex(out, r"(?m)^step 30/30  loss \d")

    def test_live(self):
        for ranks in self.each_number_of_ranks():
            shown = self.on_terminal(*self.ARGUMENTS, "--ranks", ranks)
            self.assertIn("\rstep 1/30", shown)
            self.assertRegex(shown, r"\rstep 30/30  loss [^\n]*\x1b\[K\nsaved run/step-30\n$")

    def test_live_fits(self):
        """No row reaches the last column: a terminal would wrap it. What matters least is left out first; a width of 0 is
        none known."""
        for columns, there, missing in ((80, ("loss", "tok/s", "eta"), ("arena",)), (40, ("loss",), ("arena", "norm", "lr")),
                                        (8, ("step",), ("loss",)), (0, ("loss", "tok/s"), ("arena",)),
                                        (200, ("arena", "norm", "lr", "eta"), ())):
            with self.subTest(columns=columns):
                shown = self.on_terminal(*self.ARGUMENTS[:-2], columns=columns)
                rows = re.findall(r"\r(step [^\r\n]*)\x1b\[K", shown)
                self.assertGreater(len(rows), 1)
                self.assertLess(max(map(len, rows)), columns or 80)
                for row in rows:
                    for word in there:
                        self.assertIn(word, row)
                    for word in missing:
                        self.assertNotIn(word, row)

    def test_live_without_end(self):
        """The line is ended wherever training ends."""
        shown = self.on_terminal("train", "--data", "text.txt", *TINY, "--steps", "99999999", "--max-time", "0.2")
        self.assertRegex(shown, r"\rstep \d+/99999999  [^\n\r]*\x1b\[K\n$")


if __name__ == "__main__":
    harness.main()
