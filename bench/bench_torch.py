"""The drop-in against what it replaces, on this machine: seconds a step of a small transformer over ranks, of DeepSpeed's own eager
ZeRO-3 over gloo, of the ops in plain Python (torch/tests/oracle.py) and of ours, in turns; then what a call costs the host.

bench_torch.py [width=512] [layers=6] [tokens=8000] [world=2] [steps=12] [rounds=2] [backend=inductor]
Start it by bench/bench_torch.sh. A round starts each side anew; the first four steps (profiling, compiling) do not count.
"""
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "torch", "tests"))

import torch  # noqa: E402

import ranks  # noqa: E402

SIDES = ("deepspeed", "oracle", "ours")
GOALS = {"deepspeed": 0.6, "oracle": 0.5}
DEFAULTS = {"width": 512, "layers": 6, "tokens": 8000, "world": 2, "steps": 12, "rounds": 2, "backend": "inductor"}
WARM_UP, BATCH, LENGTH = 4, 4, 32


def step_seconds(rank, world, side, options, out):
    """One side's steps on one rank; rank 0 tells."""
    import deepspeed
    import models
    if side == "oracle":
        import oracle
        oracle.install()
    elif side == "ours":
        import tessera_torch
        tessera_torch.install()
    torch.manual_seed(7)
    model = models.Small(options["width"], options["layers"], 8, options["tokens"], LENGTH)
    config = {
        "train_micro_batch_size_per_gpu": BATCH, "steps_per_print": 10**6, "gradient_clipping": 1.0,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    if side != "deepspeed":
        config["compile"] = {"deepcompile": True}
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    if side != "deepspeed":
        engine.compile(backend=options["backend"])
    generator = torch.Generator().manual_seed(rank)
    seconds, begin = [], time.monotonic()
    for _ in range(options["steps"]):
        text = torch.randint(0, options["tokens"], (BATCH, LENGTH + 1), generator=generator)
        before = time.monotonic()
        loss = engine(text[:, :-1].contiguous(), text[:, 1:].contiguous())
        engine.backward(loss)
        engine.step()
        seconds.append(time.monotonic() - before)
    first = seconds[0] if side == "deepspeed" else sum(seconds[:1])
    engine.destroy()
    if rank == 0:
        out.put((first, seconds[WARM_UP:], time.monotonic() - begin))


def compare_steps(options):
    found = {side: [] for side in SIDES}
    first = {}
    for turn in range(options["rounds"]):
        for side in SIDES:
            out = ranks.context().SimpleQueue()
            ranks.run(step_seconds, options["world"], side, options, out, timeout_s=600)
            first[side], steps, _ = out.get()
            found[side] += steps
            print(f"round {turn + 1}: {side:10} {statistics.median(steps):.3f} s a step", file=sys.stderr, flush=True)
    ours = statistics.median(found["ours"])
    print(f"\nA step: width {options['width']}, {options['layers']} layers, {options['tokens']} tokens, {options['world']} ranks, "
          f"{options['backend']}\n\n{'':10} {'median':>8} {'fastest':>8} {'first':>8} {'ours is':>8}  goal")
    for side in SIDES:
        median = statistics.median(found[side])
        goal = f"{GOALS[side]:.1f}x" if side in GOALS else ""
        print(f"{side:10} {median:7.3f}s {min(found[side]):7.3f}s {first[side]:7.1f}s {ours / median:7.2f}x  {goal}")


# ---- calls ----


def median_us(call, count=2000, repeats=9):
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(count):
            call()
        found.append((time.perf_counter() - begin) / count * 1e6)
    return statistics.median(found)


def call_costs(rank, world, out):
    """On one rank: no other is waited for."""
    import torch.distributed as dist
    import tessera_torch
    from deepspeed.compile.config import CompileConfig
    tessera_torch.install()
    from tessera_torch import module as dc
    graph, count = 1, 64
    dc.init(dist.group.WORLD, CompileConfig(), 1 << 20)
    shard, grad = torch.zeros(count), torch.zeros(count)
    dc.register_z3_param(1, (count, ), shard, torch.empty(count), False, None)
    dc.register_z3_param(2, (count, ), shard.clone(), torch.empty(count), True, None)
    dc.register_graph_z3(graph, [1, 2])
    ops = torch.ops.dc
    empty = median_us(lambda: ops.test_call(grad))
    full = ops.allgather_param(shard, graph, 2)

    def pair():
        ops.release_param(ops.wait_allgather(ops.allgather_param(shard, graph, 1), graph, 1), graph, 1, 1)

    dc.start_backward(True)
    found = {
        "allgather_param, a copy is there": median_us(lambda: ops.allgather_param(shard, graph, 2)),
        "wait_allgather": median_us(lambda: ops.wait_allgather(full, graph, 2)),
        "allgather, wait, release (3 calls)": median_us(pair),
        "reduce_grad": median_us(lambda: ops.reduce_grad(grad, graph, 1)),
    }
    ops.end_backward(None, graph, False)
    dc.cleanup()
    out.put((empty, found))


def print_calls():
    out = ranks.context().SimpleQueue()
    ranks.run(call_costs, 1, out)
    empty, found = out.get()
    print(f"\nA call, {64 * 4} bytes, one rank, no peers: us, and us beyond test_call ({empty:.2f} us), a call; goal: 5 us beyond\n")
    for name, cost in found.items():
        calls = 3 if "3 calls" in name else 1
        print(f"{name:36} {cost:7.2f} {cost / calls - empty:7.2f}")


def main():
    options = dict(DEFAULTS)
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name not in DEFAULTS or not value:
            sys.exit(__doc__)
        options[name] = type(DEFAULTS[name])(value)
    print_calls()
    compare_steps(options)


if __name__ == "__main__":
    main()
