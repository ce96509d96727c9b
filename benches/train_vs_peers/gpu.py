"""Training steps on an NVIDIA GPU: hone beside PyTorch (eager and torch.compile; bf16 autocast, sdpa), one after the other, a table and JSON.

    gpu.py --hone TRAIN_STEP_BENCH [--json FILE] [--steps N] [--only 1024|4096|lora|packed] [--micro auto|N] [--device cuda|cpu]

Called by `run --device cuda`. `micro` is how many rows of the work's length the card holds at a time. `auto` begins with 16,384 tokens
and halves them, for each side by itself, until that side runs. `floor ms`: 6 · parameters · tokens (4 with LoRA, which needs no
gradients of the weights below) over what the largest product reaches in the same run. `packed`: rows of uneven length, the second half of each
trained, tokens/s of trained tokens; hone packs them, PyTorch pads them or packs them as hone does. `--device cpu` tries all of it with a toy.
"""

import argparse
import json
import os
import random
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from side import run  # noqa: E402  (beside this folder)

# A step's rows, their (greatest) length, and rows of a micro-batch to begin with.
WORKS = {
    "1024": {"rows": 32, "length": 1024, "micro": 16},
    "4096": {"rows": 8, "length": 4096, "micro": 4},
    "lora": {"rows": 32, "length": 1024, "micro": 16, "lora": 16},
    "packed": {"rows": 64, "length": 1024, "micro": 16, "lora": 16},
}
# Lengths on the processor are so much shorter.
TOY = 16
PLAIN_PEERS = {"torch eager": [], "torch compile": ["--compile"]}
PACKED_PEERS = {"torch pads": [], "torch packs": ["--packing"], "torch packs, compile": ["--packing", "--compile"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--json")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", choices=WORKS)
    parser.add_argument("--micro", type=lambda text: text if text == "auto" else int(text), default="auto")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    results = []
    print(f"{'work':<8}{'side':<22}{'micro':>6}{'tokens/s':>12}{'step ms':>10}{'floor ms':>10}{'GB':>8}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name, work in WORKS.items():
            if arguments.only in (None, name):
                results.append({"work": name, **measure(name, work, arguments, folder)})
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)


def measure(name, work, arguments, folder):
    """Runs all sides of a work, hone first, and prints a line for each."""
    is_toy = arguments.device == "cpu"
    work = {**work, "length": work["length"] // TOY if is_toy else work["length"]}
    flags = {"rows": work["rows"], "steps": arguments.steps, "device": arguments.device}
    if "lora" in work:
        flags["lora"] = work["lora"]
    is_packed = name == "packed"
    if is_packed:
        flags["rows-file"] = os.path.join(folder, "rows.jsonl")
        write_uneven_rows(flags["rows-file"], (arguments.steps + 2) * work["rows"], work["length"])
    model = "qwen3-3.7m" if is_toy else "qwen3-0.6b"

    def hone(micro):
        # With a file of rows the length is that of a micro-batch, which rows are packed into.
        sizes = {"length": micro * work["length"]} if is_packed else {"length": work["length"], "micro": micro}
        return run([arguments.hone, "--model", model], {**flags, **sizes})

    def peer(extra):
        command = [sys.executable, os.path.join(HERE, "peer_gpu.py"), *extra]
        return lambda micro: run(command, {**flags, "length": work["length"], "micro": micro})

    starts = {"hone": hone, **{side: peer(extra) for side, extra in (PACKED_PEERS if is_packed else PLAIN_PEERS).items()}}
    sides = {}
    for side, start in starts.items():
        sides[side] = largest(start, work["micro"], arguments.micro)
        ours = sides["hone"]
        if "error" not in ours:
            # The share counts 6 for each parameter.
            ours["floor_ms"] = ours["share_of_limit"] * ours["step_ms"] * (4 / 6 if "lora" in work else 1)
        show(name, side, sides[side], ours)
    return {**work, "sides": sides}


def largest(start, first, asked):
    """What a side says with so many rows at a time as were asked for, or with the most of `first`, half of it, … that it runs with."""
    micro = first if asked == "auto" else asked
    while True:
        result = {**start(micro), "micro": micro}
        if "error" not in result or asked != "auto" or micro == 1:
            return result
        micro //= 2


def show(name, side, result, hone):
    place = f"{name:<8}{side:<22}{result['micro']:>6}"
    if "error" in result:
        print(f"{place}{result['error']:>12}", flush=True)
        return
    ratio = hone.get("tokens_per_s", float("nan")) / result["tokens_per_s"]
    floor, gb = hone.get("floor_ms", float("nan")), (result["gpu_memory_bytes"] or 0) / 1e9
    print(f"{place}{result['tokens_per_s']:>12.0f}{result['step_ms']:>10.1f}{floor:>10.1f}{gb:>8.1f}{ratio:>8.2f}", flush=True)


def write_uneven_rows(path, count, length):
    """Rows of a sixteenth of `length` and more, few of them as long as that: lines of {"ids", "trained"}."""
    chance = random.Random(1)
    with open(path, "w") as file:
        for _ in range(count):
            size = min(length, length // 16 + int(chance.expovariate(4 / length)))
            # Ids that the toy knows as well.
            ids = [chance.randrange(2048) for _ in range(size)]
            trained = [0] * (size // 2) + [1] * (size - size // 2)
            file.write(json.dumps({"ids": ids, "trained": trained}) + "\n")


main()
