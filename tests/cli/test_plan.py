"""Plans edited by hand: printed, changed as text, run with --plan."""

import json
import os
import re

import harness
from harness import TINY, CommandCase, read, write

STEPS = ("--steps", "6", "--lr", "1e-3", "--ranks", "2")


class Text:
    """The lines of a sharded plan."""

    def __init__(self, content):
        self.lines = content.splitlines()
        self.label = 1000000

    def fresh(self):
        self.label += 1
        return f"%{self.label}"

    def declared(self, pattern):
        """(label, type, role, param) of the declared values whose names match."""
        found = []
        for line in self.lines:
            match = re.fullmatch(r'value (%\d+) "([^"]+)" (\w+\[[^]]*\]) (\w+) (p\d+)', line)
            if match and re.search(pattern, match[2]):
                found.append((match[1], *match.groups()[2:]))
        assert found, pattern
        return found

    def keep_on_host(self, pattern):
        """Who takes such a value takes a copy; the optimizer's is brought back."""
        for label, kind, role, param in self.declared(pattern):
            lines, self.lines = self.lines, []
            for line in lines:
                if line.startswith(f"value {label} "):
                    line = line.replace(f" {role} ", f" {role} host ")
                call = re.search(r"(\w+)\(([^)]*)\)(?! decay)", line) if line.startswith("n") else None
                inputs = call[2].split(", ") if call else []
                if label not in inputs:
                    self.lines.append(line)
                    continue
                at, copy, home = inputs.index(label), self.fresh(), self.fresh()
                self.lines.append(f"{copy} {kind} {role} {param} = reload({label}) on=copy_in")
                inputs[at] = copy
                self.lines.append(line[:call.start(2)] + ", ".join(inputs) + line[call.end(2):])
                if call[1] == "adamw":
                    made = re.findall(r"(%\d+) \w+\[", line[:call.start()])[{0: 0, 2: 1, 3: 2}[at]]
                    self.lines.append(f"{home} {kind} {role} host {param} = offload({made}, {label}) on=copy_out")

    def offload_gelus(self):
        """What a GELU takes leaves after it and comes back for the backward."""
        lines, self.lines = self.lines, []
        copies, count = {}, 0
        for line in lines:
            back = re.search(r"gelu_grad\((%\d+), ", line)
            if back:
                copy, (kind, host) = self.fresh(), copies[back[1]]
                self.lines.append(f"{copy} {kind} = reload({host}) backward on=copy_in")
                line = line.replace(back[1] + ", ", copy + ", ", 1)
            self.lines.append(line)
            there = re.search(r"= gelu\((%\d+)\)", line)
            if there:
                kind = next(re.search(re.escape(there[1]) + r" (\w+\[[^]]*\])", made)[1] for made in self.lines
                            if re.search(re.escape(there[1]) + r" \w+\[", made))
                copies[there[1]] = kind, self.fresh()
                self.lines.append(f"{copies[there[1]][1]} {kind} host = offload({there[1]}) on=copy_out")
                count += 1
        assert count

    def __str__(self):
        return "\n".join(self.lines) + "\n"


class PlanCase(CommandCase):
    def run_losses(self, *arguments):
        self.train(*STEPS, *arguments, "--metrics", "m.jsonl")
        return [(line["loss"], line["grad_norm"]) for line in map(json.loads, read(self.path("m.jsonl")).splitlines())]

    def weights(self, folder):
        return [read(self.path(folder, "step-6", name), "rb") for name in ("model.safetensors", "optimizer.safetensors")]

    def printed(self, *arguments, stage="sharded"):
        self.train(*STEPS, "--steps", "1", *arguments, "--print-plan", "printed.txt", "--stage", stage)
        return Text(read(self.path("printed.txt")))

    def refuse_plan(self, *arguments, names, code=1, **options):
        self.refuse("train", "--data", "text.txt", *TINY, *STEPS, *arguments, names=names, code=code, **options)


class Edited(PlanCase):
    def check(self, edit, *arguments):
        plain = self.run_losses("--out", "plain", *arguments)
        text = self.printed(*arguments)
        edit(text)
        write(self.path("edited.txt"), str(text))
        edited = self.run_losses("--plan", "edited.txt", "--out", "edited", "--print-plan", "placed.txt", *arguments)
        self.assertEqual(plain, edited)
        self.assertEqual(self.weights("plain"), self.weights("edited"))
        self.assertRegex(self.succeed("inspect", "edited.txt").out, r"(?s)stage +sharded\nverified +yes")
        shown = self.succeed("inspect", "placed.txt").out
        self.assertRegex(shown, r"(?s)stage +placed\nverified +yes")
        self.assertEqual(edited, self.run_losses("--plan", "placed.txt", *arguments))
        return {name: int(number) for name, number in re.findall(r"(?m)^  (\w+) +(\d+)  ", shown)}

    def test_moments(self):
        spaces = self.check(lambda text: text.keep_on_host(r"\.exp_avg"))
        self.assertGreater(spaces["host_persistent"], 0)
        self.assertEqual(spaces["host_transient"], 0)

    def test_activations(self):
        spaces = self.check(Text.offload_gelus, "--accumulate", "2")
        self.assertEqual(spaces["host_transient"], 2 * 4 * 2 * 32 * 4 * 64)
        self.assertEqual(spaces["host_persistent"], 0)

    def test_everything(self):
        def edit(text):
            text.keep_on_host(r"\.exp_avg|^(wpe|ln_f|h\.\d+\.\w+)(\.\w+)*\.(weight|bias)$|^wte\.weight$")
            text.offload_gelus()

        self.assertEqual(self.check(edit, "--gather", "copy")["weights"], 0)

    def test_resumed(self):
        """With weights and moments on the host from the checkpoint on."""
        whole = self.run_losses("--gather", "copy", "--out", "whole", "--save-every", "3")
        text = self.printed("--gather", "copy")
        text.keep_on_host(r"\.weight$|\.bias$|\.exp_avg")
        write(self.path("edited.txt"), str(text))
        os.makedirs(self.path("part"))
        os.rename(self.path("whole", "step-3"), self.path("part", "step-3"))
        os.remove(self.path("m.jsonl"))
        self.assertEqual(self.run_losses("--gather", "copy", "--plan", "edited.txt", "--out", "part", "--resume"), whole[3:])
        self.assertEqual(self.weights("part"), self.weights("whole"))

    def test_stages(self):
        for stage in ("sharded", "scheduled", "placed"):
            with self.subTest(stage=stage):
                text = self.printed(stage=stage)
                self.assertEqual(stage != "sharded", any(" after=" in line for line in text.lines))
                self.assertEqual(stage == "placed", any(" @transient+" in line for line in text.lines))
                self.assertRegex(self.succeed("inspect", "printed.txt").out, rf"stage +{stage}\n")
                self.train(*STEPS, "--plan", "printed.txt", "--print-plan", "again.txt")
                self.train(*STEPS, "--steps", "1", "--print-plan", "compiled.txt")
                self.assertEqual(read(self.path("again.txt")), read(self.path("compiled.txt")))

    def test_bench(self):
        self.printed()
        self.assertIn("tokens/s", self.succeed("bench", "step", *TINY, "--ranks", "2", "--steps", "2", "--plan",
                                               "printed.txt").out)

    def test_evaluation(self):
        arguments = ("--eval-data", "text.txt", "--eval-every", "3")
        self.train(*STEPS, *arguments, "--metrics", "a.jsonl")
        text = self.printed()
        text.keep_on_host(r"\.exp_avg")
        write(self.path("edited.txt"), str(text))
        self.train(*STEPS, *arguments, "--metrics", "b.jsonl", "--plan", "edited.txt")
        plain, edited = ([json.loads(line).get("eval_loss") for line in read(self.path(name)).splitlines()]
                         for name in ("a.jsonl", "b.jsonl"))
        self.assertEqual(plain, edited)
        self.assertIsNotNone(plain[2])


class Refused(PlanCase):
    def setUp(self):
        super().setUp()
        self.text = self.printed()

    def edited(self, old, new, count=1):
        content = str(self.text)
        changed = re.sub(old, new, content, count=count)
        self.assertNotEqual(content, changed)
        return write(self.path("edited.txt"), changed)

    def test_other_runs(self):
        for arguments, names in ((("--ranks", "3"), "it is a plan for 2 ranks, --ranks is 3"),
                                 (("--gather", "copy"), "--gather alias"),
                                 (("--accumulate", "2"), "it has no section micro_next"),
                                 (("--batch", "3"), "'tokens'"),
                                 (("--seq", "16"), "p1 is not the model's, 'wpe.weight'"),
                                 (("--layers", "1"), "it has 28 parameters, the model has 16"),
                                 (("--heads", "4"), "no attention of layer 'h.0.attn'"),
                                 (("--clip", "2"), "no clip_scale of layer 'update'"),
                                 (("--weight-decay", "0.2"), "no adamw"),
                                 (("--memory", "1M"), "the budget is 1048576")):
            with self.subTest(arguments=arguments):
                self.refuse_plan("--plan", "printed.txt", *arguments, names=("--plan: printed.txt: ", names))

    def test_dtype(self):
        """At every stage, and before what else of such a plan is another."""
        other = {"f32": "bf16", "bf16": "f32"}
        for stage in ("sharded", "placed"):
            for dtype in other:
                with self.subTest(stage=stage, dtype=dtype):
                    self.printed("--dtype", dtype, stage=stage)
                    self.refuse_plan("--plan", "printed.txt", "--dtype", other[dtype],
                                     names=f"--plan: printed.txt: it was compiled with --dtype {dtype}, this run's is {other[dtype]}")

    def test_products(self):
        """Those of the run, whatever the file says; a file that says nothing takes them."""
        self.edited('(?m)^products ".*"', 'products "f32: by hand"')
        self.refuse_plan("--plan", "edited.txt", names=('its products are "f32: by hand", this run\'s "f32: ', "TESSERA_BF16"))
        self.edited('(?m)^products ".*"\n', "")
        self.train(*STEPS, "--plan", "edited.txt", "--print-plan", "placed.txt")
        products = re.search('(?m)^products ".*"', str(self.text))[0]
        self.assertIn(f"\n{products}\n", read(self.path("placed.txt")))

    def test_host_budget(self):
        self.text.keep_on_host(r"\.exp_avg")
        write(self.path("edited.txt"), str(self.text))
        self.refuse_plan("--plan", "edited.txt", "--host-memory", "64K", names=("on the host, the budget is 65536 (", ))
        self.train(*STEPS, "--plan", "edited.txt", "--host-memory", "2M")
        write(self.path("edited.txt"), str(self.text).replace("host_memory=0", "host_memory=4096"))
        self.refuse_plan("--plan", "edited.txt", names="the budget is 4096 (")
        self.train(*STEPS, "--plan", "edited.txt", "--host-memory", "2M")

    def test_other_values(self):
        for old, new, names in ((r'"wpe\.weight\.exp_avg"', '"wpe.weight.mean"', "the state 'wpe.weight.exp_avg' of the model"),
                                (r'"targets"', '"tokens"', "'targets' of the model"),
                                (r"(?m)^(loss %.*)", 'value %2000000 "more" f32[3] state\n\\1', "'more' of the file"),
                                (r"normal\(0\.02", "normal(0.03", "p0 is not the model's"),
                                (r"scale=\S+", "scale=1.0,", "no cross_entropy of layer")):
            with self.subTest(old=old):
                self.edited(old, new)
                self.refuse_plan("--plan", "edited.txt", names=names)

    def test_wrong_edits(self):
        host = (r'(?m)^(value %\d+ "h\.0\.ln_1\.weight\.exp_avg" \S+ state)', r"\1 host")
        self.edited(*host)
        self.refuse_plan("--plan", "edited.txt", names=("value on the host", "adamw runs on the device: reload it first"))
        self.text.keep_on_host(r"^h\.0\.ln_1\.weight\.exp_avg$")
        self.edited(r"(?m)^.* = offload\(.*\n", "")
        self.refuse_plan("--plan", "edited.txt", names=("write lost", "h.0.ln_1.weight.exp_avg"))

    def test_aliased_shard(self):
        self.text.keep_on_host(r"^wte\.weight$")
        write(self.path("edited.txt"), str(self.text))
        self.refuse_plan("--plan", "edited.txt", names="compile with gather copy")

    def test_shards_and_evaluation(self):
        text = self.printed("--gather", "copy")
        text.keep_on_host(r"^wte\.weight$")
        write(self.path("edited.txt"), str(text))
        self.refuse_plan("--plan", "edited.txt", "--gather", "copy", "--eval-data", "text.txt",
                         names=("'wte.weight' is on the host", "evaluation"))

    def test_files(self):
        write(self.path("empty.txt"), "")
        write(self.path("binary"), bytes(range(256)))
        os.makedirs(self.path("folder"))
        for name in ("missing.txt", "empty.txt", "binary", "folder", "text.txt"):
            with self.subTest(name=name):
                self.refuse_plan("--plan", name, names=("--plan", name))

    def test_damaged(self):
        """Cut anywhere before its last line."""
        content = str(self.text)
        for end in range(0, content.rindex("\nn"), len(content) // 23):
            with self.subTest(end=end):
                write(self.path("edited.txt"), content[:end])
                self.refuse_plan("--plan", "edited.txt", names="--plan: edited.txt: ")

    def test_outputs(self):
        for option in ("--metrics", "--print-plan"):
            self.refuse_plan("--plan", "printed.txt", option, "printed.txt", names=("--plan printed.txt", option))
        os.symlink("printed.txt", self.path("link.txt"))
        self.refuse_plan("--plan", "link.txt", "--print-plan", "printed.txt", names="are the same file")

    def test_stage(self):
        self.refuse_plan("--print-plan", "p.txt", "--stage", "laid-out", names="known: sharded, scheduled, placed")
        for stage in ("sharded", "placed"):
            self.refuse_plan("--stage", stage, names="needs --print-plan")
        self.refuse_plan("--print-plan", "p.txt", "--stage", "sharded", "--plan", "printed.txt", names="--plan gives another")


if __name__ == "__main__":
    harness.main()
