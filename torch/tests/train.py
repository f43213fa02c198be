"""Trains on several ranks with DeepSpeed's own eager ZeRO, with DeepCompile over tessera_torch and over oracle.py, and compares
losses and gradient norms of every step.

train.py STAGE DTYPE BACKEND [key=value ...]     BACKEND: inductor, eager (of DeepCompile)
keys: model (small, llama, gpt2), world, steps, micro_steps, width, layers, compile.<setting>
Prints one line of JSON; exits 1 when they differ by more than the bounds.

train.py turns "STAGE DTYPE BACKEND ..." ...     engines of one process that take turns, one of each; exits 1 when one does not train
to the bit as alone
"""
import json
import sys
import time

import torch

import ranks

# Of losses, and of gradient norms relative to them: from DeepSpeed's eager ZeRO, and from the oracle on the same backend.
BOUNDS = {"f32": {"deepspeed": 1e-5, "oracle": 1e-5}, "bf16": {"deepspeed": 5e-3, "oracle": 1e-3}}
SIDES = ("deepspeed", "oracle", "ours")
# So that the passes move something: DeepSpeed then takes the device for smaller than the model.
PASSES = {
    "offload_activation": {"DS_DC_OFFLOAD_ACT_BUDGET_GB": "0.000001", "DS_DC_OFFLOAD_ACT_MIN_SIZE_MB": "0.001"},
    "offload_opt_states": {"DS_DC_OFFLOAD_OPT_BUDGET_GB": "0.000001"},
}


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


def moved(settings) -> dict:
    """What the passes of these settings did, by DeepSpeed's own count."""
    if settings.get("offload_activation"):
        from deepspeed.compile.passes.offload_activation import get_offload_activation_stats
        return get_offload_activation_stats()
    if settings.get("offload_opt_states"):
        from deepspeed.compile.passes.offload_adam_states import get_offload_op_stats
        return get_offload_op_stats()
    return {}


def start(options, compiled):
    """An engine of these options, with a model that is the same each time."""
    import deepspeed
    import models
    torch.manual_seed(3)
    model = models.make(options["model"], options["width"], options["layers"])
    config = config_of(options["stage"], options["dtype"], options["settings"] if compiled else None, options["micro_steps"])
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    if compiled:
        engine.compile(backend=options["backend"])
    return engine


def finish(engine, compiled):
    if compiled and not engine.is_deepcompile_active():
        raise RuntimeError("DeepCompile was not active")
    engine.destroy()


def run(rank, options, compiled):
    engine = start(options, compiled)
    begin = time.monotonic()
    found = list(steps_of(engine, options["steps"], options["micro_steps"], rank))
    seconds = time.monotonic() - begin
    finish(engine, compiled)
    return {"steps": found, "seconds": seconds, "moved": moved(options["settings"] if compiled else {})}


def environment_of(*runs) -> dict:
    found = {}
    for options in runs:
        found.update(options.get("environment", {}))
        for setting in options["settings"]:
            found.update(PASSES.get(setting, {}))
    return found


def turns_main(rank, world, runs, out):
    """Engines of one process take a step each in turns; one that is through is destroyed while the others go on."""
    import tessera_torch
    tessera_torch.install()
    engines = [start(options, compiled=True) for options in runs]
    left = {i: steps_of(engine, options["steps"], options["micro_steps"], rank)
            for i, (engine, options) in enumerate(zip(engines, runs))}
    found = [[] for _ in runs]
    while left:
        for i, steps in list(left.items()):
            if (step := next(steps, None)) is not None:
                found[i].append(step)
                continue
            finish(engines[i], compiled=True)
            del left[i]
    tessera_torch.uninstall()
    if rank == 0:
        out.put(found)


def launch_turns(runs, timeout_s=300) -> list:
    """Losses and norms of each."""
    out = ranks.context().SimpleQueue()
    ranks.run(turns_main, runs[0]["world"], runs, out, timeout_s=timeout_s, **environment_of(*runs))
    return out.get()


def turns_are_as_alone(*lines) -> bool:
    """Engines of one process that take turns train to the bit as each alone in a process; each is a line of arguments."""
    runs = [parse(line.split()) for line in lines]
    return launch_turns(runs) == [launch_turns([options])[0] for options in runs]


def side_main(rank, world, side, options, out):
    if side == "oracle":
        import oracle
        oracle.install()
    elif side == "ours":
        import tessera_torch
        tessera_torch.install()
    else:  # 0.18 trains ZeRO-1 and 2 over gloo with this alone
        from tessera_torch import cpu, patching
        cpu.flat_weights(patching.Patches())
    found = run(rank, options, compiled=side != "deepspeed")
    if side == "ours":
        tessera_torch.uninstall()
    if rank == 0:
        out.put(found)


def launch(side, options, timeout_s=900) -> dict:
    """One side's losses and norms."""
    out = ranks.context().SimpleQueue()
    ranks.run(side_main, options["world"], side, options, out, timeout_s=timeout_s, **environment_of(options))
    return out.get()


def differences(found, reference) -> dict:
    pairs = list(zip(found["steps"], reference["steps"], strict=True))
    return {"loss": max(abs(a[0] - b[0]) for a, b in pairs), "norm": max(abs(a[1] - b[1]) / b[1] for a, b in pairs)}


def compare(options, launch=launch) -> dict:
    found = {side: launch(side, options) for side in SIDES}
    ours = found["ours"]
    return {
        "deepspeed": differences(ours, found["deepspeed"]),
        "oracle": differences(ours, found["oracle"]),
        "oracle from deepspeed": differences(found["oracle"], found["deepspeed"]),
        "first": ours["steps"][0][0], "last": ours["steps"][-1][0], "moved": ours["moved"],
        "seconds": {side: round(found[side]["seconds"], 2) for side in SIDES}
    }


def within(found, dtype) -> bool:
    """NaN is not within; nor is a loss that stands still, nor a pass that moves nothing."""
    near = all(value <= bound for side, bound in BOUNDS[dtype].items() for value in found[side].values())
    return near and abs(found["last"] - found["first"]) > 1e-3 and all(found["moved"].values())


def parse(arguments) -> dict:
    stage, dtype, backend, *rest = arguments
    keys = dict(each.split("=", 1) for each in rest)
    options = {"stage": int(stage), "dtype": dtype, "backend": backend, "model": keys.get("model", "small")}
    defaults = {"world": 2, "steps": 8, "micro_steps": 1, "width": 32, "layers": 2}
    options.update({name: int(keys.get(name, default)) for name, default in defaults.items()})
    options["settings"] = {k[8:]: json.loads(v) for k, v in keys.items() if k.startswith("compile.")}
    return options


if __name__ == "__main__":
    if sys.argv[1:2] == ["turns"]:
        sys.exit(0 if turns_are_as_alone(*sys.argv[2:]) else 1)
    asked = parse(sys.argv[1:])
    found = compare(asked)
    print(json.dumps({"run": " ".join(sys.argv[1:]), **found, "fine": within(found, asked["dtype"])}), flush=True)
    sys.exit(0 if within(found, asked["dtype"]) else 1)
