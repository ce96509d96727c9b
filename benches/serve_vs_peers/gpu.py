"""Decoding on an NVIDIA GPU: hone beside transformers (and vLLM where it is installed), a table and JSON.

    gpu.py --hone DECODE_BENCH [--json FILE] [--device cuda] [--tokens N]

Called by `run --device cuda`. Qwen3-0.6B's shape, random weights in bf16. `of bandwidth` is hone's: bytes of weights and cache that a
step must read, over what a copy reaches in the same run.
"""
import argparse
import importlib.util
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from side import run  # noqa: E402  (beside this folder)

WORKS = [{"streams": 1, "context": 128}, {"streams": 1, "context": 4096}, {"streams": 32, "context": 512}]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json")
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    engines = ["transformers", "transformers-static"] + (["vllm"] if importlib.util.find_spec("vllm") else [])
    results = []
    print(f"{'streams':>8}{'context':>8}  {'side':<22}{'tokens/s':>10}{'step ms':>10}{'ratio':>8}{'of bandwidth':>14}")
    for work in WORKS:
        sides = {f"hone {dtype}": run([arguments.hone, "--device", arguments.device, "--format", dtype], {**work, "tokens": arguments.tokens}) for dtype in ("bf16", "int8")}
        sides |= {engine: run([sys.executable, os.path.join(HERE, "peer_gpu.py"), "--engine", engine, "--device", arguments.device], {**work, "tokens": arguments.tokens}) for engine in engines}
        for side, result in sides.items():
            place = f"{work['streams']:>8}{work['context']:>8}  {side:<22}"
            if "error" in result:
                print(f"{place}{result['error']:>10}")
                continue
            ratio = sides["hone bf16"].get("tokens_per_s", float("nan")) / result["tokens_per_s"]
            share = f"{result['share_of_bandwidth']:>14.2f}" if "share_of_bandwidth" in result else ""
            print(f"{place}{result['tokens_per_s']:>10.0f}{result['step_ms']:>10.2f}{ratio:>8.2f}{share}", flush=True)
        results.append({**work, "sides": sides})
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)


main()
