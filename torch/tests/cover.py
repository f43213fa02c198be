"""Many runs of train.py, so chosen that every pair of choices meets: losses and gradient norms of 30 steps against DeepSpeed's
eager ZeRO and against the oracle on the same backend.

cover.py [RESULTS]      with the environment of run.sh; RESULTS, lines of JSON, is continued where it ends

Outcomes: fine; DeepSpeed (the oracle fails alike, or is as far from DeepSpeed's eager ZeRO, and ours is where the oracle is);
WRONG. Exits 1 when one is wrong.
"""
import itertools
import json
import pathlib
import sys
import time

import train

RUNS, STEPS = 24, 30
CHOICES = {
    "model": ("small", "llama", "gpt2"),
    "world": (2, 3),
    "stage": (1, 2, 3),
    "backend": ("eager", "inductor"),
    "dtype": ("f32", "bf16"),
    "micro_steps": (1, 2),
    "passes": ("default", "offload_opt_states", "offload_activation", "offload_parameters"),
}
NAMES = tuple(CHOICES)


def possible(row) -> bool:
    """Passes that offload are of stage 3; DeepSpeed's pass for parameters breaks on LayerNorm, which Llama has none of."""
    if row["passes"] == "default":
        return True
    return row["stage"] == 3 and (row["passes"] != "offload_parameters" or row["model"] == "llama")


def meetings(row, of) -> set:
    return {tuple((name, row[name]) for name in names) for names in itertools.combinations(NAMES, of)}


def chosen(runs) -> list:
    """Greedy: each row meets as many new pairs as can be, then as many new triples."""
    rows = [dict(zip(NAMES, values)) for values in itertools.product(*CHOICES.values())]
    rows = [row for row in rows if possible(row)]
    found, pairs, triples = [], set(), set()
    every = set().union(*(meetings(row, 2) for row in rows))
    while len(found) < runs or pairs != every:
        best = max(rows, key=lambda row: (len(meetings(row, 2) - pairs), len(meetings(row, 3) - triples)))
        pairs |= meetings(best, 2)
        triples |= meetings(best, 3)
        found.append(best)
    return found


def options_of(row) -> dict:
    settings = {} if row["passes"] == "default" else {row["passes"]: True}
    return {**row, "steps": STEPS, "width": 32, "layers": 1, "settings": settings}


def outcome(found, dtype) -> str:
    if "failed" in found:
        return "DeepSpeed" if set(found["failed"]) == {"ours", "oracle"} else "WRONG"
    if train.within(found, dtype):
        return "fine"
    as_oracle = all(value <= train.BOUNDS[dtype]["oracle"] for value in found["oracle"].values())
    oracle_far = any(not value <= train.BOUNDS[dtype]["deepspeed"] for value in found["oracle from deepspeed"].values())
    still = not all(found["moved"].values())
    return "DeepSpeed" if as_oracle and oracle_far and not still else "WRONG"


def launch(side, options):
    try:
        return train.launch(side, options)
    except Exception as error:  # a rank's; its last line says what
        return {"error": str(error).strip().splitlines()[-1][:300]}


def run(row, references) -> dict:
    """references: DeepSpeed's eager runs so far, which rows share."""
    options = options_of(row)
    key = tuple(row[name] for name in ("model", "world", "stage", "dtype", "micro_steps"))

    def side_of(side, options):
        if side != "deepspeed":
            return launch(side, options)
        if key not in references:
            references[key] = launch(side, {**options, "settings": {}})
        return references[key]

    sides = {side: side_of(side, options) for side in train.SIDES}
    failed = {side: found["error"] for side, found in sides.items() if "error" in found}
    found = {"failed": failed} if failed else train.compare(options, lambda side, _: sides[side])
    return {**row, **found, "outcome": outcome(found, row["dtype"])}


def line(found) -> str:
    cells = [str(found[name]) for name in NAMES]
    if "failed" in found:
        cells += ["; ".join(f"{side}: {error}" for side, error in found["failed"].items())]
    else:
        cells += [f"{found[side][what]:.1e}" for side in ("deepspeed", "oracle") for what in ("loss", "norm")]
        cells += [f"{found['first']:.3f} → {found['last']:.3f}"]
    return "| " + " | ".join(cells + [found["outcome"]]) + " |"


def main():
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
    known = [json.loads(each) for each in path.read_text().splitlines()] if path and path.exists() else []
    rows, references, every = chosen(RUNS), {}, []
    print("| " + " | ".join(NAMES) + " | loss, DeepSpeed | norm | loss, oracle | norm | loss goes | outcome |")
    print("|---" * (len(NAMES) + 6) + "|", flush=True)
    for row in rows:
        found = next((each for each in known if all(each[name] == row[name] for name in NAMES)), None)
        if found is None:
            begin = time.monotonic()
            found = {**run(row, references), "wall": round(time.monotonic() - begin)}
            if path:
                with path.open("a") as file:
                    file.write(json.dumps(found) + "\n")
        every.append(found)
        print(line(found), flush=True)
    count = {name: sum(found["outcome"] == name for found in every) for name in ("fine", "DeepSpeed", "WRONG")}
    print(f"{len(every)} runs of {STEPS} steps: {count}")
    sys.exit(1 if count["WRONG"] else 0)


if __name__ == "__main__":
    main()
