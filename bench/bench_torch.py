"""The drop-in against what it replaces, on this machine: what a call costs the host; then seconds a step of a small transformer over
ranks, of DeepSpeed's own eager ZeRO-3 over gloo, of the ops in plain Python (torch/tests/oracle.py) and of ours, in turns; where our
step goes; and what comes before the first one.

bench_torch.py [width=512] [layers=6] [tokens=8000] [world=2] [steps=12] [rounds=2] [backend=inductor] [calls=1] [sides=...]
Start it by bench/bench_torch.sh. A round starts each side anew. The first seven steps do not count: DeepCompile compiles in the
first and, with its prefetches, in the sixth.
"""
import collections
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "torch", "tests"))

import ranks  # noqa: E402

SIDES = ("deepspeed", "oracle", "ours")
GOALS = {"deepspeed": 0.6, "oracle": 0.5}
DEFAULTS = {
    "width": 512, "layers": 6, "tokens": 8000, "world": 2, "steps": 12, "rounds": 2, "backend": "inductor", "calls": 1,
    "sides": ",".join(SIDES)
}
WARM_UP, BATCH, LENGTH, PROFILED = 7, 4, 32, 6


# ---- a step ----


def engine_of(side, options):
    """The engine, and the seconds of importing and installing what is measured, of building the engine."""
    import deepspeed
    import models
    import torch
    spent, begin = {}, time.monotonic()

    def lap(name):
        nonlocal begin
        spent[name], begin = time.monotonic() - begin, time.monotonic()

    if side == "oracle":
        import oracle
        oracle.install()
    elif side == "ours":
        import tessera_torch
        lap("import")
        tessera_torch.install()
        lap("install")
    torch.manual_seed(7)
    model = models.Small(options["width"], options["layers"], 8, options["tokens"], LENGTH)
    config = {
        "train_micro_batch_size_per_gpu": BATCH, "steps_per_print": 10**6, "gradient_clipping": 1.0,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    if side != "deepspeed":
        config["compile"] = {"deepcompile": True}
    begin = time.monotonic()
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    if side != "deepspeed":
        engine.compile(backend=options["backend"])
    lap("deepspeed.initialize")
    return engine, spent


def stepper(engine, options, rank):
    import torch
    generator = torch.Generator().manual_seed(rank)

    def step():
        text = torch.randint(0, options["tokens"], (BATCH, LENGTH + 1), generator=generator)
        marks = [time.monotonic()]
        loss = engine(text[:, :-1].contiguous(), text[:, 1:].contiguous())
        marks.append(time.monotonic())
        engine.backward(loss)
        marks.append(time.monotonic())
        engine.step()
        marks.append(time.monotonic())
        return [after - before for before, after in zip(marks, marks[1:])]

    return step


def own_times(step) -> list:
    """(op, seconds in it and not in ops that it calls), in order, of a few steps."""
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(PROFILED):
            step()
    events = sorted(found.events(), key=lambda event: event.time_range.start)
    return [(event.name, event.self_cpu_time_total * 1e-6) for event in events]


def split_of(everyone) -> dict:
    """Milliseconds a step of the first rank, by op. Of an op of ours, the n-th call on all ranks is one meeting: what the quickest
    rank needs is the op's own, what this one needs beyond it is waiting for a peer."""
    calls = [collections.defaultdict(list) for _ in everyone]
    for times, found in zip(everyone, calls):
        for name, seconds in times:
            found[name].append(seconds)
    split = {}
    for name, mine in calls[0].items():
        together = zip(mine, *(found[name] for found in calls[1:])) if name.startswith("dc::") else ()
        own = sum(map(min, together)) if name.startswith("dc::") else sum(mine)
        split[name] = (len(mine) / PROFILED, own / PROFILED * 1e3, (sum(mine) - own) / PROFILED * 1e3)
    return split


def side_main(rank, world, side, options, split_wanted, out):
    import torch.distributed as dist
    engine, spent = engine_of(side, options)
    step = stepper(engine, options, rank)
    spent["first step"] = sum(step())
    for _ in range(WARM_UP - 1):
        step()
    steps = [step() for _ in range(options["steps"])]
    split = None
    if split_wanted:
        everyone = [None] * world
        dist.all_gather_object(everyone, own_times(step))
        split = split_of(everyone)
    engine.destroy()
    if rank == 0:
        out.put((spent, steps, split))


def print_split(split, median):
    """Ops of ours, then the rest as one line, then its largest parts."""
    print(f"\nOurs, op by op, ms a step (torch's profiler on; a step without it takes {median * 1e3:.0f}):\n\n"
          f"{'':44} {'calls':>6} {'own':>8} {'waiting':>8}")
    ops = {name: row for name, row in split.items() if name.startswith("dc::")}
    rest = {name: row for name, row in split.items() if name not in ops}
    for name, (calls, own, waiting) in sorted(ops.items(), key=lambda item: -sum(item[1][1:])):
        print(f"{name:44} {calls:6.0f} {own:8.2f} {waiting:8.2f}")
    print(f"{'torch':44} {'':6} {sum(row[1] for row in rest.values()):8.2f}")
    for name, (calls, own, _) in sorted(rest.items(), key=lambda item: -item[1][1])[:12]:
        print(f"  {name[:42]:42} {calls:6.0f} {own:8.2f}")


def compare_steps(options):
    found, spent, split = collections.defaultdict(list), {}, None
    sides = options["sides"].split(",")
    for turn in range(options["rounds"]):
        for side in sides:
            out = ranks.context().SimpleQueue()
            last = side == "ours" and turn + 1 == options["rounds"]
            ranks.run(side_main, options["world"], side, options, last, out, timeout_s=500)
            before, steps, split = out.get()
            spent.setdefault(side, before)
            found[side] += steps
            print(f"round {turn + 1}: {side:10} {statistics.median(map(sum, steps)):.3f} s a step, load {os.getloadavg()[0]:.1f}",
                  file=sys.stderr, flush=True)
    medians = {side: statistics.median(map(sum, steps)) for side, steps in found.items()}
    ours = medians.get("ours", float("nan"))
    print(f"\nA step: width {options['width']}, {options['layers']} layers, {options['tokens']} tokens, {options['world']} ranks, "
          f"{options['backend']}\n\n{'':10} {'median':>8} {'fastest':>8} {'forward':>8} {'backward':>8} {'update':>8} "
          f"{'ours is':>8}  goal")
    for side in sides:
        parts = " ".join(f"{statistics.median(part):7.3f}s" for part in zip(*found[side]))
        goal = f"{GOALS[side]:.1f}x" if side in GOALS else ""
        print(f"{side:10} {medians[side]:7.3f}s {min(map(sum, found[side])):7.3f}s {parts} {ours / medians[side]:7.2f}x  {goal}")
    for side in sides:
        print(f"\nBefore the second step, {side}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in spent[side].items()))
    if split:
        print_split(split, ours)


# ---- calls ----

PARAMS, ELEMENTS = 64, 64


def median_us(call, prepare=lambda: None, finish=lambda: None, repeats=201):
    """Of call(n) for every parameter n, between what is not counted."""
    found = []
    for _ in range(repeats):
        prepare()
        begin = time.perf_counter()
        for number in range(PARAMS):
            call(number)
        found.append((time.perf_counter() - begin) / PARAMS * 1e6)
        finish()
    return statistics.median(found)


def call_costs(rank, world, out):
    """On one rank: no other is waited for. A bucket holds all gradients, as DeepSpeed's does."""
    import tessera_torch
    import torch
    import torch.distributed as dist
    from deepspeed.compile.config import CompileConfig
    tessera_torch.install()
    from tessera_torch import module as dc
    graph, ops = 1, torch.ops.dc
    dc.init(dist.group.WORLD, CompileConfig(), 1 << 20)
    shards = [torch.zeros(ELEMENTS) for _ in range(PARAMS)]
    gradient = torch.zeros(ELEMENTS)
    for number, shard in enumerate(shards):
        dc.register_z3_param(number, (ELEMENTS, ), shard, torch.empty(ELEMENTS), False, None)
    dc.register_graph_z3(graph, list(range(PARAMS)))
    no_data, copies = gradient.to("meta"), {}

    def gather(number):
        copies[number] = ops.allgather_param(shards[number], graph, number)

    def gather_all():
        for number in range(PARAMS):
            gather(number)

    def wait(number):
        ops.wait_allgather(copies[number], graph, number)

    def wait_all():
        gather_all()
        for number in range(PARAMS):
            wait(number)

    def release(number):
        ops.release_param(copies[number], graph, number, 1)

    def release_all():
        for number in range(PARAMS):
            release(number)
        copies.clear()

    # The kernel for tensors without data does nothing at all.
    empty = median_us(lambda number: ops.release_param(no_data, graph, number, 1))
    made = median_us(lambda number: torch.empty(ELEMENTS))
    found = {
        "allgather_param, gathers": median_us(gather, finish=lambda: [wait(n) for n in range(PARAMS)] and release_all()),
        "allgather_param, a copy is there": median_us(gather, wait_all, release_all),
        "wait_allgather": median_us(wait, gather_all, release_all),
        "release_param, the last": median_us(release, wait_all, copies.clear),
        "prefetch_params_fused, one": median_us(lambda n: ops.prefetch_params_fused(graph, [shards[n]], [n]),
                                                finish=lambda: wait_all() or release_all()),
        "reduce_grad": median_us(lambda number: ops.reduce_grad(gradient, graph, number), lambda: dc.start_backward(True),
                                 lambda: ops.end_backward(None, graph, False)),
    }
    dc.cleanup()
    out.put((empty, made, found))


def print_calls():
    out = ranks.context().SimpleQueue()
    ranks.run(call_costs, 1, out)
    empty, made, found = out.get()
    print(f"A call, {ELEMENTS * 4} bytes, one rank, no peers: us, and us beyond an empty op of the shim ({empty:.2f} us; "
          f"torch.empty takes {made:.2f}); goal: 5 us beyond\n")
    for name, cost in found.items():
        print(f"{name:36} {cost:7.2f} {cost - empty:7.2f}")


def main():
    options = dict(DEFAULTS)
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name not in DEFAULTS or not value:
            sys.exit(__doc__)
        options[name] = type(DEFAULTS[name])(value)
    if options["calls"]:
        print_calls()
    if options["rounds"]:
        compare_steps(options)


if __name__ == "__main__":
    main()
