"""Runs hone's step and its peers' in alternation and compares speed, memory and losses. Called by `run`.

Per work it prints one line of JSON: {"work", "hone", "peer", "ratio_tokens", "ratio_memory", ...}. `hone` and `peer` are
the medians over the pairs; ratios are medians of the ratio within each pair, hone over peer (tokens: higher is better,
memory: lower is better). `ratio_cpu` is the same for processor time per step, peer over hone, which programs beside the
measurement disturb less (with one thread; with more, a peer's threads that wait may count). PyTorch uses the faster of its two
attention implementations, measured first. The rows of chat count trained tokens; hone packs and reads the same rows as the peer. Losses
of a peer that packs are not compared: its steps have other rows.
"""
import argparse
import glob
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LOSS_TOLERANCE = 1e-3
WORKS = ["smollm2", "qwen3", "lora", "chat", "long"]
CHAT_LENGTH = 1024
CHAT_BATCH = 8


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--smollm2", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--json")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=WORKS)
    arguments = parser.parse_args()
    rows = []
    for work in works(arguments):
        row = measure(work, arguments)
        if work["length"] == 4096:
            row["memory_growth"] = memory_growth(arguments, row)
        print(json.dumps(row), flush=True)
        rows.append(row)
    table(rows)
    if arguments.json:
        import peft
        import torch
        import transformers
        import trl

        versions = {module.__name__: module.__version__ for module in (torch, transformers, peft, trl)}
        document = {"machine": machine(), "versions": versions, "threads": arguments.threads, "rows": rows}
        with open(arguments.json, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
    if any(row["losses_agree"] is False for row in rows):
        sys.exit(f"the losses differ by more than {LOSS_TOLERANCE}")


def works(arguments):
    def wanted(name):
        return arguments.only in (None, name)

    smollm2 = {"model": arguments.smollm2, "lora": None, "length": 256, "rows": 4, "steps": 3}
    if wanted("smollm2"):
        yield {**smollm2, "work": "SmolLM2-135M 4x256"}
    if wanted("qwen3"):
        yield {**smollm2, "work": "Qwen3 3.7M 16x128", "model": tiny_qwen3(arguments.work), "rows": 16, "length": 128, "steps": 12}
    if wanted("lora"):
        yield {**smollm2, "work": "SmolLM2-135M LoRA r=16 4x256", "lora": 16}
    if wanted("chat"):
        chat = {**smollm2, "rows": CHAT_BATCH, "length": CHAT_LENGTH, "rows_file": chat_rows(arguments)}
        yield {**chat, "work": "chat rows, TRL pads", "packing": False}
        yield {**chat, "work": "chat rows, TRL packs", "packing": True}
    if wanted("long"):
        yield {**smollm2, "work": "SmolLM2-135M 1x4096", "rows": 1, "length": 4096, "steps": 1}


def measure(work, arguments):
    """One row of the table."""
    attention = None
    if "rows_file" not in work:
        speed = lambda name: peer(work, arguments, name, 1 + work["steps"] // 2)["tokens_per_s"]
        attention = "sdpa" if work["length"] > 1024 else max(("sdpa", "eager"), key=speed)
    pairs = []
    for number in range(arguments.pairs):
        sides = [lambda: hone(work, arguments), lambda: peer(work, arguments, attention, work["steps"])]
        # Whoever runs first alternates, so that neither always meets the cooler machine.
        order = (0, 1) if number % 2 == 0 else (1, 0)
        results = {side: sides[side]() for side in order}
        pairs.append((results[0], results[1]))
        print(f"{work['work']}: pair {number + 1} of {arguments.pairs}: "
              f"{results[0]['tokens_per_s']:.1f} and {results[1]['tokens_per_s']:.1f} tokens/s", file=sys.stderr)
    # New adapters differ in their random numbers: only the loss before the first update is the same.
    compared = 1 if work["lora"] else None
    losses = [zip(h["losses"][:compared], p["losses"][:compared]) for h, p in pairs if p["losses"]]
    worst = max((abs(a - b) for pair in losses for a, b in pair), default=None)
    median = lambda side, key: statistics.median(pair[side][key] for pair in pairs)
    ratio = lambda key: statistics.median(pair[0][key] / pair[1][key] for pair in pairs)
    keys = ("tokens_per_s", "step_ms", "cpu_ms", "peak_memory_bytes")
    summary = lambda side: {key: median(side, key) for key in keys}
    hone_summary = {**summary(0), "product_gflops": median(0, "product_gflops")}
    if not work["lora"] and "rows_file" not in work:
        hone_summary["share_of_limit"] = median(0, "share_of_limit")
    return {
        "work": work["work"],
        "hone": hone_summary,
        "peer": {**summary(1), "attention": attention},
        "ratio_tokens": ratio("tokens_per_s"),
        "ratio_memory": ratio("peak_memory_bytes"),
        "ratio_cpu": statistics.median(pair[1]["cpu_ms"] / pair[0]["cpu_ms"] for pair in pairs),
        "ratios_tokens": [pair[0]["tokens_per_s"] / pair[1]["tokens_per_s"] for pair in pairs],
        "loss_difference": worst,
        # Unknown where there was nothing to compare.
        "losses_agree": None if worst is None else worst <= LOSS_TOLERANCE,
        "losses": pairs[0][0]["losses"],
    }


def hone(work, arguments):
    extra = ["--rows-file", work["rows_file"]] if "rows_file" in work else []
    return run([arguments.hone, *extra, "--rows", str(work["rows"])], work, work["steps"], arguments.threads)


def peer(work, arguments, attention, steps):
    if "rows_file" in work:
        # A packed row is four or five rows.
        batch = 2 if work["packing"] else work["rows"]
        command = [sys.executable, os.path.join(HERE, "peer_trl.py"), "--rows-file", work["rows_file"], "--batch", str(batch)]
        return run([*command, *(["--packing"] if work["packing"] else [])], work, steps, arguments.threads)
    command = [sys.executable, os.path.join(HERE, "peer_step.py"), "--attention", attention, "--rows", str(work["rows"])]
    return run(command, work, steps, arguments.threads)


def memory_growth(arguments, row):
    """(peak - weights, gradients and moments) of hone at 4096 over that at 1024: 4 where memory grows linearly."""
    work = {"model": arguments.smollm2, "lora": None, "rows": 1, "length": 1024, "steps": 1}
    short = hone(work, arguments)
    static = 16 * short["parameters"]
    return (row["hone"]["peak_memory_bytes"] - static) / (short["peak_memory_bytes"] - static)


def chat_rows(arguments):
    path = os.path.join(arguments.work, f"chat-{CHAT_LENGTH}.jsonl")
    if not os.path.exists(path):
        # The data file of the package, without running the package.
        dataset = glob.glob(os.path.join(sys.prefix, "lib", "python*", "site-packages", "chitchat_dataset", "dataset.json"))
        dataset = os.environ.get("HONE_CHITCHAT") or dataset[0]
        command = [sys.executable, os.path.join(HERE, "chat_rows.py"), dataset, arguments.smollm2, path + ".new", "128", str(CHAT_LENGTH)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        os.replace(path + ".new", path)
    return path


def run(command, work, steps, threads):
    sizes = ["--length", work["length"], "--steps", steps, "--threads", threads]
    if work["lora"]:
        sizes += ["--lora", work["lora"]]
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
    print(f"{'work':<30}{'hone tok/s':>12}{'peer tok/s':>12}{'ratio':>8}{'cpu':>8}{'hone MiB':>10}{'peer MiB':>10}{'ratio':>8}{'loss diff':>14}")
    for row in rows:
        mib = [row[side]["peak_memory_bytes"] / 2**20 for side in ("hone", "peer")]
        difference = "not compared" if row["loss_difference"] is None else f"{row['loss_difference']:.1e}"
        print(f"{row['work']:<30}{row['hone']['tokens_per_s']:>12.1f}{row['peer']['tokens_per_s']:>12.1f}"
              f"{row['ratio_tokens']:>8.2f}{row['ratio_cpu']:>8.2f}{mib[0]:>10.0f}{mib[1]:>10.0f}{row['ratio_memory']:>8.2f}{difference:>14}")


def machine():
    model = "unknown"
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform()}


main()
