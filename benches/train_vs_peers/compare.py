"""Runs hone's step and PyTorch's in alternation and compares speed, memory and losses. Called by `run`.

Per work it prints one line of JSON: {"work", "hone", "peer", "ratio_tokens", "ratio_memory", ...}. `hone` and `peer` are
the medians over the pairs; ratios are medians of the ratio within each pair, hone over peer (tokens: higher is better,
memory: lower is better). The peer uses the faster of its two attention implementations, measured first.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LOSS_TOLERANCE = 1e-3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--smollm2", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--json")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["smollm2", "qwen3"])
    arguments = parser.parse_args()
    works = []
    if arguments.only != "qwen3":
        works.append({"work": "SmolLM2-135M 4x256", "model": arguments.smollm2, "rows": 4, "length": 256, "steps": 3})
    if arguments.only != "smollm2":
        works.append({"work": "Qwen3 3.7M 16x128", "model": tiny_qwen3(arguments.work), "rows": 16, "length": 128, "steps": 12})
    rows = [measure(work, arguments) for work in works]
    table(rows)
    if arguments.json:
        import torch
        import transformers

        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        document = {"machine": machine(), "versions": versions, "threads": arguments.threads, "rows": rows}
        with open(arguments.json, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
    if not all(row["losses_agree"] for row in rows):
        sys.exit(f"the losses differ by more than {LOSS_TOLERANCE}")


def measure(work, arguments):
    def hone():
        return run([arguments.hone], work, work["steps"], arguments.threads)

    def peer(attention, steps):
        command = [sys.executable, os.path.join(HERE, "peer_step.py"), "--attention", attention]
        return run(command, work, steps, arguments.threads)

    attention = max(("sdpa", "eager"), key=lambda name: peer(name, 1 + work["steps"] // 2)["tokens_per_s"])
    pairs = []
    for number in range(arguments.pairs):
        # Whoever runs first alternates, so that neither always meets the cooler machine.
        if number % 2 == 0:
            pair = (hone(), peer(attention, work["steps"]))
        else:
            pair = tuple(reversed((peer(attention, work["steps"]), hone())))
        pairs.append(pair)
        print(f"{work['work']}: pair {number + 1} of {arguments.pairs}: "
              f"{pair[0]['tokens_per_s']:.1f} and {pair[1]['tokens_per_s']:.1f} tokens/s", file=sys.stderr)
    worst = max(abs(a - b) for h, p in pairs for a, b in zip(h["losses"], p["losses"], strict=True))
    median = lambda side, key: statistics.median(pair[side][key] for pair in pairs)
    ratio = lambda key: statistics.median(pair[0][key] / pair[1][key] for pair in pairs)
    summary = lambda side: {key: median(side, key) for key in ("tokens_per_s", "step_ms", "peak_memory_bytes")}
    row = {
        "work": work["work"],
        "hone": summary(0),
        "peer": {**summary(1), "attention": attention},
        "ratio_tokens": ratio("tokens_per_s"),
        "ratio_memory": ratio("peak_memory_bytes"),
        "ratios_tokens": [pair[0]["tokens_per_s"] / pair[1]["tokens_per_s"] for pair in pairs],
        "loss_difference": worst,
        "losses_agree": worst <= LOSS_TOLERANCE,
        "losses": pairs[0][0]["losses"],
        "product_gflops": statistics.median(pair[0]["product_gflops"] for pair in pairs),
    }
    print(json.dumps(row), flush=True)
    return row


def run(command, work, steps, threads):
    sizes = ["--rows", work["rows"], "--length", work["length"], "--steps", steps, "--threads", threads]
    command = [*command, "--model", work["model"], *map(str, sizes)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
                   "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def tiny_qwen3(work):
    """A random model of 3.7 M parameters; both sides load the same folder."""
    folder = os.path.join(work, "qwen3-3.7m")
    if os.path.exists(os.path.join(folder, "config.json")):
        return folder
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=2048, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=True,
    )
    shutil.rmtree(folder + ".new", ignore_errors=True)
    Qwen3ForCausalLM(config).to(torch.float32).save_pretrained(folder + ".new")
    os.replace(folder + ".new", folder)
    return folder


def table(rows):
    print(f"{'work':<22}{'hone tok/s':>12}{'peer tok/s':>12}{'ratio':>8}{'hone MiB':>10}{'peer MiB':>10}{'ratio':>8}{'loss diff':>11}")
    for row in rows:
        mib = [row[side]["peak_memory_bytes"] / 2**20 for side in ("hone", "peer")]
        print(f"{row['work']:<22}{row['hone']['tokens_per_s']:>12.1f}{row['peer']['tokens_per_s']:>12.1f}"
              f"{row['ratio_tokens']:>8.2f}{mib[0]:>10.0f}{mib[1]:>10.0f}{row['ratio_memory']:>8.2f}{row['loss_difference']:>11.1e}")


def machine():
    model = "unknown"
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform()}


main()
