#!/usr/bin/env python3
"""Time of one GPT-2 124M training step in f32: tessera against torch, on the same cores, in one run.

    .venv/bin/python bench/step_vs_torch.py --tessera build/release/bin/tessera

Ours is `tessera bench step`, ZeRO-3 over two ranks of one thread. The rival is torch alone on two threads, which
shards nothing and so talks to nobody. Both train on the same number of sequences a step: forward, backward, clipping
by the global norm, AdamW. Rounds alternate ours and the rivals (A B C, A B C, ...), so that a slow minute of a shared
machine hits all of them; figures are medians over rounds, ratios are medians of each round's own ratio.

The rivals:
  torch        as installed, plus what costs its user one line: fused AdamW, SDPA, huge pages, memory that is kept
  torch tuned  also tells MKL that this processor is an Intel: on an AMD one it would leave AVX-512 unused
               (a preloaded function, built with cc; no such rival where there is no cc)
  compiled     tuned, the model through torch.compile; only with --compile

`others` is the share of the cores that other programs took meanwhile: read a figure only if it is small. On a shared
machine --patience lets each measurement wait for a quiet moment, and repeats it if the moment did not last.
"""
import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

VOCAB, POSITIONS, LAYERS, HEADS, DIM = 50257, 1024, 12, 12, 768
CORES = 2
WARM_UP = 2

# ---- the rival: one process for the whole run, which measures when it is told to ----


def build_model(torch):
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
            self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
            self.up, self.down = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

        def forward(self, x):
            b, t, _ = x.shape
            q, k, v = self.qkv(self.ln_1(x)).view(b, t, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(b, t, DIM))
            return x + self.down(functional.gelu(self.up(self.ln_2(x)), approximate="tanh"))

    class Gpt2(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(VOCAB, DIM), nn.Embedding(POSITIONS, DIM)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.ln_f = nn.LayerNorm(DIM)
            for p in self.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, std=0.02)

        def forward(self, tokens, targets):
            x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.ln_f(x), self.wte.weight)
            return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return Gpt2()


def torch_worker(options):
    """Reads step counts from stdin, answers each with a line of JSON: ms of every step, CPU seconds of all."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(CORES)
    model = build_model(torch)
    decay = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    loss_of = torch.compile(model) if options.worker == "compiled" else model

    def step():
        begin = time.perf_counter()
        tokens = torch.randint(VOCAB, (options.batch, options.seq))
        targets = torch.randint(VOCAB, (options.batch, options.seq))
        loss = loss_of(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return 1e3 * (time.perf_counter() - begin)

    for _ in range(WARM_UP):
        step()
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        cpu = time.process_time()
        times = [step() for _ in range(int(line))]
        print(json.dumps({"ms": times, "cpu": time.process_time() - cpu}), flush=True)


def preload_intel(folder):
    """A library with the one function by which MKL asks whether this is an Intel processor; None without cc."""
    library = os.path.join(folder, "mkl_intel.so")
    source = b"int mkl_serv_intel_cpu_true(void) { return 1; }"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library]
    try:
        done = subprocess.run(command, input=source, capture_output=True)
    except OSError:
        return None
    return library if done.returncode == 0 else None


def rival_environment(preload):
    """What FSDP and DDP users set, too: threads, huge pages, and an allocator that keeps freed memory."""
    settings = {
        "OMP_NUM_THREADS": str(CORES),
        "THP_MEM_ALLOC_ENABLE": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    }
    if preload:
        settings["LD_PRELOAD"] = preload
    return settings


class Rival:
    def __init__(self, name, environment, options):
        self.name = name
        command = [sys.executable, os.path.abspath(__file__), "--worker", name]
        command += ["--batch", str(options.batch), "--seq", str(options.seq)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **environment})
        self.version = self.answer()["torch"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early")
        return json.loads(line)

    def measure(self, steps):
        print(steps, file=self.process.stdin, flush=True)
        answer = self.answer()
        return statistics.median(answer["ms"]), answer["cpu"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- ours: one process a round ----


class Ours:
    name = "tessera"

    def __init__(self, options):
        self.program = [options.tessera, "bench", "step", "--model", "gpt2", "--seq", str(options.seq), "--ranks",
                        str(options.ranks), "--threads", str(CORES // options.ranks), "--batch",
                        str(options.batch // options.ranks)]

    def measure(self, steps):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(self.program + ["--steps", str(steps)], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = re.search(r"median ([0-9.]+) ms", done.stdout)
        if done.returncode != 0 or not found:
            raise SystemExit(f"{' '.join(self.program)}\n{done.stdout}{done.stderr}")
        return float(found.group(1)), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def close(self):
        pass


# ---- the run ----


def busy_seconds():
    """CPU seconds that all programs of this machine have used, and that were stolen from it."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        fields = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", file.read(), re.MULTILINE))
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}), {os.cpu_count()} cores"


def others_share(begin, busy, cpu):
    """Share of the cores that others had since `begin`, when `busy` had been used; `cpu` of it was ours."""
    return max(0.0, busy_seconds() - busy - cpu) / ((time.perf_counter() - begin) * os.cpu_count())


def wait_until_quiet(limit, deadline):
    while time.perf_counter() < deadline:
        busy, begin = busy_seconds(), time.perf_counter()
        time.sleep(1)
        if others_share(begin, busy, 0) <= limit:
            return


def measure(side, options):
    """Median ms of a step, and the share of the cores that others had meanwhile: the quietest of the tries."""
    limit, deadline = options.others / 100, time.perf_counter() + options.patience
    best = None
    while best is None or (best[1] > limit and time.perf_counter() < deadline):
        wait_until_quiet(limit, deadline)
        busy, begin = busy_seconds(), time.perf_counter()
        ms, cpu = side.measure(options.steps)
        tried = ms, others_share(begin, busy, cpu)
        if best is None or tried[1] < best[1]:
            best = tried
    return best


def run(options):
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            ours = Ours(options)
            sides.append(ours)
            sides.append(Rival("torch", rival_environment(None), options))
            print(f"machine   {processor()}, Linux {platform.release()}, torch {sides[1].version}")
            print(f"command   {' '.join(['step_vs_torch.py'] + sys.argv[1:])}")
            print(f"ours      {' '.join(['tessera'] + ours.program[1:])} --steps {options.steps}")
            preload = preload_intel(folder)
            if preload:
                sides.append(Rival("tuned", rival_environment(preload), options))
            if options.compile:
                sides.append(Rival("compiled", rival_environment(preload), options))
            rounds = []
            for number in range(options.rounds):
                rounds.append([measure(side, options) for side in sides])
                cells = [f"{s.name} {ms:7.1f} ms (others {100 * others:2.0f} %)"
                         for s, (ms, others) in zip(sides, rounds[-1])]
                print(f"round {number + 1:<3} {'   '.join(cells)}   load {os.getloadavg()[0]:.1f}", flush=True)
        finally:
            for side in sides:
                side.close()
    report(options, sides, rounds)


def report(options, sides, rounds):
    """Over the rounds that were quiet for every side; over all where none was."""
    quiet = [r for r in rounds if all(others <= options.others / 100 for _, others in r)]
    which = f"the {len(quiet)} quiet of {len(rounds)}" if quiet else f"{len(rounds)}, none quiet,"
    rounds = quiet or rounds
    tokens = options.batch * options.seq
    print(f"\n{options.batch} sequences of {options.seq} tokens a step; medians of rounds ({which}), each the median of "
          f"{options.steps} steps")
    print(f"{'':12}{'ms a step':>12}{'least':>10}{'tokens/s':>10}{'times ours':>12}{'others':>8}")
    for i, side in enumerate(sides):
        times = [r[i][0] for r in rounds]
        ratio = statistics.median(r[i][0] / r[0][0] for r in rounds)
        others = statistics.median(r[i][1] for r in rounds)
        median = statistics.median(times)
        print(f"{side.name:12}{median:12.1f}{min(times):10.1f}{1e3 * tokens / median:10.0f}{ratio:12.2f}"
              f"{100 * others:6.0f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tessera", default="build/release/bin/tessera", help="the program (default %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="sequences a step, over all ranks (default %(default)s)")
    parser.add_argument("--seq", type=int, default=64, help="tokens of a sequence (default %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, choices=(1, 2), help="our ranks (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="steps a round and side (default %(default)s)")
    parser.add_argument("--others", type=float, default=10, help="percent that counts as quiet (default %(default)s)")
    parser.add_argument("--patience", type=float, default=0, metavar="S",
                        help="seconds a measurement may wait for a quiet machine (default %(default)s)")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile (takes minutes to compile)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        torch_worker(options)
    elif options.batch % options.ranks != 0:
        parser.error(f"--batch {options.batch} is not divisible by --ranks {options.ranks}")
    else:
        run(options)


if __name__ == "__main__":
    main()
