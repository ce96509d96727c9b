"""Training steps on an NVIDIA GPU: hone beside PyTorch (eager and torch.compile; bf16 autocast, sdpa), one after the other, a table and JSON.

    gpu.py --hone TRAIN_STEP_BENCH [--json FILE] [--steps N] [--only 1024|4096|lora]

Called by `run --device cuda`. `floor_ms` is 6 · parameters · tokens over what the largest product reaches in the same run.
"""

import argparse
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from side import run  # noqa: E402  (beside this folder)

# A step's rows, their length, and rows of a micro-batch: 16,384 tokens of the card's memory at a time.
WORKS = {
    "1024": {"rows": 32, "length": 1024, "micro": 16},
    "4096": {"rows": 8, "length": 4096, "micro": 4},
    "lora": {"rows": 32, "length": 1024, "micro": 16, "lora": 16},
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--json")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", choices=WORKS)
    arguments = parser.parse_args()
    results = []
    print(f"{'work':<10}{'side':<16}{'tokens/s':>12}{'step ms':>10}{'GB':>8}{'ratio':>8}")
    for name, work in WORKS.items():
        if arguments.only not in (None, name):
            continue
        hone = run([arguments.hone, "--device", "cuda", "--model", "qwen3-0.6b"], {**work, "steps": arguments.steps})
        sides = {"hone": hone}
        for side, extra in (("torch eager", []), ("torch compile", ["--compile"])):
            sides[side] = run([sys.executable, os.path.join(HERE, "peer_gpu.py"), *extra], {**work, "steps": arguments.steps})
        if "error" not in hone:
            tokens = work["rows"] * work["length"]
            hone["floor_ms"] = 6 * hone["parameters"] * tokens / (hone["product_gflops"] * 1e6)
        for side, result in sides.items():
            if "error" in result:
                print(f"{name:<10}{side:<16}{result['error']:>12}")
                continue
            ratio = hone.get("tokens_per_s", float("nan")) / result["tokens_per_s"]
            print(f"{name:<10}{side:<16}{result['tokens_per_s']:>12.0f}{result['step_ms']:>10.1f}{result['gpu_memory_bytes'] / 1e9:>8.1f}{ratio:>8.2f}")
        results.append({"work": name, **work, "sides": sides})
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)


main()
