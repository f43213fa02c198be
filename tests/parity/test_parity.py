"""The library against PyTorch and transformers: test_parity.py DUMP_GPT.

dump_gpt trains a small model and writes down what it saw; here reference.py
follows it from the same initial parameters and samples, in float32 and, as the
yardstick of how far float32 can be trusted, in float64. Then transformers opens
the checkpoint. Models that transformers wrote, with every parameter drawn at
random, go the other way.
"""

import dataclasses
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, GenerationConfig, GPT2Config, GPT2LMHeadModel, GPT2Model
from transformers.utils import logging

import reference

# Ten to thirty times what was measured; torch in float32 is as far from float64.
GRAD_TOLERANCE = 2e-5  # of a tensor's largest gradient
LOGITS_TOLERANCE = 1e-5  # of the largest logit
LOSS_TOLERANCE = 2e-5  # absolute, every step
NORM_TOLERANCE = 5e-5  # of the largest norm, every step
RATE_TOLERANCE = 1e-6  # of the largest rate: they are dumped as float32
UPDATE_TOLERANCE = 1e-3  # of the change of a tensor in all steps, root mean square


@dataclasses.dataclass
class Case:
    name: str
    kernels: str
    gather: str
    accumulate: int
    layers: int = 2
    heads: int = 4
    dim: int = 64
    vocab: int = 272
    positions: int = 32
    seq: int = 32
    batch: int = 2
    threads: int = 1
    load: str = ""  # class of transformers that writes the initial weights
    seed: int = 7
    steps: int = 20
    warmup: int = 5
    lr: float = 3e-3
    min_lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.5  # strong, to show in few steps
    clip: float = 1.0


# No multiple of any vector or tile; some positions are never used.
ODD = {"layers": 3, "heads": 5, "dim": 35, "vocab": 101, "positions": 41, "seq": 37, "batch": 3}
# More than one tile of queries and of the vocabulary.
LONG = {"layers": 1, "heads": 3, "dim": 48, "vocab": 2111, "positions": 150, "seq": 150, "batch": 1}

CASES = [
    Case("regular-ref", "ref", "alias", 1),
    Case("regular-cpu", "cpu", "copy", 2, threads=2),
    Case("odd-ref", "ref", "copy", 2, **ODD),
    Case("odd-cpu", "cpu", "alias", 1, threads=2, **ODD),
    Case("loaded-ref", "ref", "alias", 1, load="GPT2Model", **ODD),
    Case("loaded-cpu", "cpu", "alias", 2, load="GPT2LMHeadModel", lr=1e-3),
    Case("long-cpu", "cpu", "copy", 1, load="GPT2LMHeadModel", lr=1e-3, **LONG),
]

failures = []


def check(condition, message):
    if not condition:
        failures.append(message)
        print(f"  FAILED {message}", flush=True)


def distance(ours, theirs):
    """max |ours - theirs| / max |theirs|, in float64; NaN if any is."""
    ours, theirs = ours.double(), theirs.double()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def check_close(what, ours, theirs, tolerance):
    """Returns the distance. Written so that NaN fails."""
    if ours.shape != theirs.shape:
        check(False, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}")
        return math.nan
    found = distance(ours, theirs)
    check(found <= tolerance, f"{what}: off by {found:.2e} of the largest, at most {tolerance:.0e} is allowed")
    return found


def check_update(at, name, init, ours, theirs):
    """Compares what training made of a parameter. The bias of the keys is left
    out: attention does not depend on it, its gradient is rounding noise, and
    AdamW scales noise up to whole steps."""
    change, off = theirs - init, ours - theirs
    if name.endswith("c_attn.bias"):
        third = init.shape[0] // 3
        change, off = (torch.cat([x[:third], x[2 * third :]]) for x in (change, off))
    found = (off.norm() / change.norm()).item()
    check(found <= UPDATE_TOLERANCE, f"{at}: update of {name} off by {found:.2e}, {UPDATE_TOLERANCE:.0e} is allowed")
    return found


def make_samples(case):
    """(count, seq + 1) i32: each token mostly follows from the one before."""
    generator = np.random.default_rng(case.seed)
    count = case.steps * case.accumulate * case.batch
    samples = generator.integers(0, case.vocab, (count, case.seq + 1), dtype=np.int32)
    follows = generator.random((count, case.seq + 1)) < 0.8
    for t in range(1, case.seq + 1):
        samples[:, t] = np.where(follows[:, t], (3 * samples[:, t - 1] + 1) % case.vocab, samples[:, t])
    return samples


MODELS = {"GPT2Model": GPT2Model, "GPT2LMHeadModel": GPT2LMHeadModel}


def make_model(case, folder):
    """A model of transformers with no parameter left at 0 or 1."""
    torch.manual_seed(case.seed)
    config = GPT2Config(
        n_layer=case.layers, n_head=case.heads, n_embd=case.dim, vocab_size=case.vocab, n_positions=case.positions,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = MODELS[case.load](config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            mean = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            # Products of about 1 a feature: attention far from uniform.
            std = 1 / math.sqrt(p.shape[0]) if "h." in name and p.dim() > 1 else 0.2
            p.normal_(mean, std)
    model.save_pretrained(folder)


def dump(program, case, folder):
    """Runs the library; its tensors, and the samples that it saw."""
    samples = make_samples(case)
    samples.tofile(folder / "samples")
    load = ""
    if case.load:
        load = folder / "model"
        make_model(case, load)
    flags = dataclasses.asdict(case) | {"samples": folder / "samples", "out": folder, "load": load}
    del flags["name"]
    done = subprocess.run([program, *(f"{k}={v}" for k, v in flags.items())], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{case.name}: dump_gpt ended with {done.returncode}: {done.stderr}")
    return load_file(folder / "dump.safetensors"), torch.from_numpy(samples.astype(np.int64))


def part(tensors, prefix):
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix) and k != "final.logits"}


def check_training(case, found, samples):
    """The library's run against the reference's; what to print of it."""
    init = part(found, "init.")
    theirs = {dtype: reference.train(init, samples, case, dtype) for dtype in (torch.float32, torch.float64)}
    grad_names = set(part(found, "grad."))
    worst = {}
    for dtype, run in theirs.items():
        kind = str(dtype).removeprefix("torch.")
        at = f"{case.name}, {kind}"
        check(grad_names == set(run["grad"]), f"{at}: the parameters are other ones")
        logits = check_close(f"{at}: logits", found["logits"], run["logits"], LOGITS_TOLERANCE)
        check_close(f"{at}: first loss", found["loss"], run["loss"].reshape(1), 1e-5)
        grads = [
            check_close(f"{at}: gradient of {name}", found["grad." + name], grad, GRAD_TOLERANCE)
            for name, grad in run["grad"].items()
        ]
        rates, norms, losses = (torch.tensor(run[name], dtype=torch.float64) for name in ("rates", "norms", "losses"))
        check_close(f"{at}: rates", found["rates"], rates, RATE_TOLERANCE)
        norm = check_close(f"{at}: norms", found["norms"], norms, NORM_TOLERANCE)
        off = (found["losses"].double() - losses).abs().max().item()
        check(off <= LOSS_TOLERANCE, f"{at}: losses off by {off:.2e}, at most {LOSS_TOLERANCE:.0e} is allowed")
        update = max(check_update(at, name, init[name], found["final." + name], run["final"][name]) for name in init)
        worst[kind] = f"logits {logits:.1e} grad {max(grads):.1e} loss {off:.1e} norm {norm:.1e} update {update:.1e}"
    losses = theirs[torch.float64]["losses"]
    # A run that learns nothing would show no mistake of the optimizer's.
    check(losses[-1] < losses[0] - 0.2, f"{case.name}: the loss went from {losses[0]:.3f} to {losses[-1]:.3f} only")
    yardstick = max(distance(g, theirs[torch.float64]["grad"][n]) for n, g in theirs[torch.float32]["grad"].items())
    for kind, text in worst.items():
        print(f"  against {kind}: {text}")
    print(f"  torch's own float32 gradients against float64: {yardstick:.1e}; loss {losses[0]:.3f} -> {losses[-1]:.3f}")


def hf_logits(model, samples, case):
    """Of the first batch. GPT2Model ends before the head."""
    with torch.no_grad():
        out = model.eval()(samples[: case.batch, :-1])
        return out.last_hidden_state @ model.wte.weight.T if isinstance(model, GPT2Model) else out.logits


def check_saved(case, found, samples, folder):
    """transformers opens our checkpoint and computes what we computed."""
    model, info = GPT2LMHeadModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    for kind, names in info.items():
        check(not names, f"{case.name}: transformers reports {kind}: {names}")
    state = {name.removeprefix("transformer."): p for name, p in model.named_parameters()}
    final = part(found, "final.")
    check(set(state) == set(final), f"{case.name}: saved {set(final)}, transformers has {set(state)}")
    for name in set(state) & set(final):
        check(torch.equal(state[name], final[name]), f"{case.name}: {name} was saved as something else")
    theirs = hf_logits(model, samples, case)
    off = check_close(f"{case.name}: transformers' logits", found["final.logits"], theirs, LOGITS_TOLERANCE)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    saved = (config.n_layer, config.n_head, config.n_embd, config.vocab_size, config.n_positions)
    shape = (case.layers, case.heads, case.dim, case.vocab, case.positions)
    check(saved == shape, f"{case.name}: config.json says {saved} of {shape}")
    end = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    check(end == (256 if case.vocab > 256 else None), f"{case.name}: generation_config.json ends texts with {end}")
    print(f"  transformers, our checkpoint: logits {off:.1e}")


def check_loaded(case, found, samples, folder):
    """We open transformers' checkpoint and compute what it computes."""
    model = MODELS[case.load].from_pretrained(folder, local_files_only=True)
    theirs = hf_logits(model, samples, case)
    off = check_close(f"{case.name}: logits of transformers' model", found["logits"], theirs, LOGITS_TOLERANCE)
    print(f"  our logits, transformers' checkpoint: {off:.1e}")


def main():
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for case in CASES:
        print(case.name, flush=True)
        with tempfile.TemporaryDirectory(prefix="tessera-parity-") as name:
            folder = Path(name)
            found, samples = dump(sys.argv[1], case, folder)
            check_training(case, found, samples)
            check_saved(case, found, samples, folder / f"step-{case.steps}")
            if case.load:
                check_loaded(case, found, samples, folder / "model")
    print(f"{len(CASES)} cases, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
