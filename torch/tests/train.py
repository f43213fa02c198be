"""Trains on several ranks with DeepSpeed, eager and over tessera_torch, and compares losses and gradient norms.

train.py STAGE DTYPE BACKEND [key=value ...]     BACKEND: inductor, eager (of DeepCompile)
keys: model (small, llama, gpt2), world, steps, micro_steps, width, layers, compile.<setting>
Prints one line of JSON; exits 1 when they differ by more than the bounds.
"""
import json
import os
import socket
import sys

import torch

BOUNDS = {"f32": 1e-5, "bf16": 5e-3}  # of losses; gradient norms: relative


def config_of(stage, dtype, settings, micro_steps):
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": micro_steps,
        "steps_per_print": 10**6,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "gradient_clipping": 1.0,
    }
    if dtype == "bf16":
        config["bf16"] = {"enabled": True}
    if settings is not None:
        config["compile"] = {"deepcompile": True, **settings}
    return config


def steps_of(engine, steps, micro_steps, rank):
    import models
    generator = torch.Generator().manual_seed(50 + rank)
    for _ in range(steps):
        total = 0.0
        for _ in range(micro_steps):
            text = torch.randint(0, models.TOKENS // 3, (2, models.LENGTH + 1), generator=generator)
            loss = engine(text[:, :-1].contiguous(), text[:, 1:].contiguous())
            engine.backward(loss)
            engine.step()
            total += loss.item()
        yield total / micro_steps, float(engine.get_global_grad_norm())


def run(rank, options, settings, backend):
    import deepspeed
    import models
    torch.manual_seed(3)
    model = models.make(options["model"], options["width"], options["layers"])
    config = config_of(options["stage"], options["dtype"], settings, options["micro_steps"])
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    if backend:
        engine.compile(backend=backend)
    found = list(steps_of(engine, options["steps"], options["micro_steps"], rank))
    if backend and not engine.is_deepcompile_active():
        raise RuntimeError("DeepCompile was not active")
    engine.destroy()
    return found


def rank_main(rank, options, port, out):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(options["world"]),
                      LOCAL_SIZE=str(options["world"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    import deepspeed
    deepspeed.init_distributed(dist_backend="gloo")
    theirs = run(rank, options, None, None)
    import tessera_torch
    tessera_torch.install()
    ours = run(rank, options, options["settings"], options["backend"])
    tessera_torch.uninstall()
    if rank == 0:
        out.put((theirs, ours))


def compare(options) -> dict:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(rank_main, (options, port, out), options["world"])
    theirs, ours = out.get()
    return {
        "loss": max(abs(a[0] - b[0]) for a, b in zip(theirs, ours)),
        "norm": max(abs(a[1] - b[1]) / a[1] for a, b in zip(theirs, ours)),
        "first": ours[0][0], "last": ours[-1][0], "steps": len(ours)
    }


def within(found, dtype) -> bool:
    """NaN is not within; nor is a loss that stands still."""
    moved = abs(found["last"] - found["first"]) > 1e-3
    return found["loss"] <= BOUNDS[dtype] and found["norm"] <= 4 * BOUNDS[dtype] and moved


def parse(arguments) -> dict:
    stage, dtype, backend, *rest = arguments
    keys = dict(each.split("=", 1) for each in rest)
    options = {"stage": int(stage), "dtype": dtype, "backend": backend, "model": keys.get("model", "small")}
    defaults = {"world": 2, "steps": 8, "micro_steps": 1, "width": 32, "layers": 2}
    options.update({name: int(keys.get(name, default)) for name, default in defaults.items()})
    options["settings"] = {k[8:]: json.loads(v) for k, v in keys.items() if k.startswith("compile.")}
    return options


if __name__ == "__main__":
    asked = parse(sys.argv[1:])
    found = compare(asked)
    print(json.dumps({"run": " ".join(sys.argv[1:]), **found, "fine": within(found, asked["dtype"])}), flush=True)
    sys.exit(0 if within(found, asked["dtype"]) else 1)
