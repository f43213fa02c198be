#!/usr/bin/env bash
# From a clean clone to generated text: installs what is needed, builds, trains a small GPT over 2 ranks on the texts of Debian's
# package fortunes, and lets it write. At most 3 minutes of training.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

say "dependencies"
scripts/deps.sh build

say "build"
cmake --preset release >/dev/null
cmake --build --preset release --target tessera_cli
tessera=build/release/bin/tessera

out=out/quickstart
rm -rf "$out"
mkdir -p "$out"
say "training a byte-level GPT on /usr/share/games/fortunes, 2 ranks"
"$tessera" train --model gpt2-tiny --layers 4 --heads 4 --dim 128 --seq 128 \
    --data /usr/share/games/fortunes --ranks 2 --threads 1 --batch 8 --steps 4000 --lr 3e-3 --warmup 100 --max-time 170 \
    --out "$out" --metrics "$out/metrics.jsonl" --print-plan "$out/plan.txt"

say "what it writes"
for prompt in "The " "A man " "It is "; do
    "$tessera" generate --model "$out" --prompt "$prompt" --tokens 110 --temperature 0.6 --seed 1
done

say "where things are"
checkpoint=$(ls -d "$out"/step-* | sort -t- -k2 -n | tail -1)
echo "program     $tessera"
echo "checkpoint  $checkpoint"
echo "metrics     $out/metrics.jsonl"
echo "plan        $out/plan.txt    (look at it with: $tessera inspect $out/plan.txt)"
echo "more text:  $tessera generate --model $out --prompt \"Love is\" --tokens 100"
