"""Runs hone's engine and llama.cpp in alternation and compares speed and memory. Called by `run`.

Per work it prints one line of JSON: {"work", "hone", "peer", "ratio", ...}: medians over the pairs in tokens/s (MB for
memory), and the median of the ratio within each pair, hone over peer. Higher is better but for memory and the first token.

`limit` is what this machine allows: for decoding the bytes of the weights over the read bandwidth, for prompts the
operations over the speed of one large product, for several streams the slower of both. Bandwidth and product are measured
beside every pair; `share` is hone's figure over the limit (medians of both).
"""
import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys

STREAMS = 8
PROMPT = 512
# llama.cpp's name of a format, and hone's.
FORMATS = {"f32": "f32", "bf16": "bf16", "q8_0": "int8"}
BYTES = {"f32": 4, "bf16": 2, "q8_0": 1 + 4 / 64}


def main():
    parser = argparse.ArgumentParser()
    for name in ("--hone", "--model", "--llama", "--gguf"):
        parser.add_argument(name, required=True)
    parser.add_argument("--json")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="f32, bf16 or q8_0, or several with commas")
    arguments = parser.parse_args()
    rows = []
    sizes = model_sizes(arguments.model)
    for precision in arguments.only.split(",") if arguments.only else FORMATS:
        gguf = os.path.join(arguments.gguf, f"smollm2-{precision}.gguf")
        for work in ("prompt", "decode", "batch"):
            rows.extend(measure(work, precision, gguf, sizes, arguments))
    if arguments.json:
        document = {"machine": machine(), "threads": arguments.threads, "pairs": arguments.pairs, "rows": rows}
        with open(arguments.json, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")


def measure(work, precision, gguf, sizes, arguments):
    pairs = []
    for number in range(arguments.pairs):
        sides = [("hone", lambda: hone(work, precision, arguments)), ("peer", lambda: peer(work, gguf, arguments))]
        if number % 2:
            sides.reverse()
        pair = {name: side() for name, side in sides}
        pair["machine"] = json.loads(run([arguments.hone, "--work", "limits", "--threads", str(arguments.threads)])[0])
        pair["limit"] = limit(work, precision, sizes, pair["machine"])
        pairs.append(pair)
    names = {"prompt": f"{PROMPT} prompt tokens", "decode": "one stream", "batch": f"{STREAMS} streams"}
    rows = [row(f"{names[work]}, {precision}, tokens/s", "tokens_per_s", pairs)]
    limits = [pair["limit"] for pair in pairs]
    rows[0]["limit"] = round(statistics.median(limits), 1)
    rows[0]["share"] = round(statistics.median(pair["hone"]["tokens_per_s"] / pair["limit"] for pair in pairs), 2)
    rows[0]["machine"] = [pair["machine"] for pair in pairs]
    if work == "prompt":
        for pair in pairs:
            for name in ("hone", "peer"):
                pair[name]["first_token_s"] = PROMPT / pair[name]["tokens_per_s"]
        rows.append(row(f"first token after {names[work]}, {precision}, s", "first_token_s", pairs))
    rows.append(row(f"peak memory, {names[work]}, {precision}, MB", "peak_mb", pairs))
    for line in rows:
        print(json.dumps(line), flush=True)
    return rows


def limit(work, precision, sizes, machine):
    """Tokens per second that the machine's bandwidth and arithmetic allow."""
    by_memory = machine["read_gb_per_s"] * 1e9 / (sizes["all"] * BYTES[precision])
    by_products = machine["product_gflops"] * 1e9 / (2 * sizes["all"])
    if work == "decode":
        return by_memory
    if work == "batch":
        return min(by_memory * STREAMS, by_products)
    # The head is computed for the last token alone; attention's products are over half of the pairs of tokens.
    per_token = 2 * (sizes["all"] - sizes["head"]) + 2 * 2 * sizes["attention"] * PROMPT / 2
    return machine["product_gflops"] * 1e9 / per_token


def model_sizes(folder):
    """Weights in all matrices, those of the head among them, and numbers of all queries of one token."""
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    qkv = hidden * width * (heads + 2 * config["num_key_value_heads"])
    layer = qkv + hidden * width * heads + 3 * hidden * config["intermediate_size"]
    head = hidden * config["vocab_size"]
    layers = config["num_hidden_layers"]
    return {"all": layers * layer + head, "head": head, "attention": layers * heads * width}


def row(name, key, pairs):
    median = lambda side: round(statistics.median(pair[side][key] for pair in pairs), 3)
    ratios = [pair["hone"][key] / pair["peer"][key] for pair in pairs]
    return {
        "work": name,
        "hone": median("hone"),
        "peer": median("peer"),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def hone(work, precision, arguments):
    command = [arguments.hone, "--model", arguments.model, "--threads", str(arguments.threads), "--work", work]
    text, peak = run([*command, "--weights", FORMATS[precision]])
    return {"tokens_per_s": json.loads(text)["tokens_per_s"], "peak_mb": peak}


def peer(work, gguf, arguments):
    threads = str(arguments.threads)
    if work == "batch":
        command = [os.path.join(arguments.llama, "batched-bench"), "-m", gguf, "-c", "2048", "-npp", "16", "-ntg", "64"]
        text, peak = run([*command, "-npl", str(STREAMS), "-t", threads, "-tb", threads, "-ngl", "0", "--output-format", "jsonl"])
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return {"tokens_per_s": lines[-1]["speed_tg"], "peak_mb": peak}
    count = ["-p", str(PROMPT), "-n", "0"] if work == "prompt" else ["-p", "0", "-n", "64"]
    command = [os.path.join(arguments.llama, "llama-bench"), "-m", gguf, "-t", threads, "-r", "1", "-ngl", "0", "-o", "json"]
    text, peak = run([*command, *count])
    return {"tokens_per_s": json.loads(text[text.index("[") :])[0]["avg_ts"], "peak_mb": peak}


def run(command):
    """Standard output, and the peak of resident memory in MB."""
    timed = ["/usr/bin/env", "python3", "-c", WATCHED, *command]
    result = subprocess.run(timed, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: {result.stderr[-2000:]}")
    peak = re.search(r"peak_kb=(\d+)", result.stderr)
    return result.stdout, round(int(peak.group(1)) / 1024, 1)


WATCHED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print('peak_kb=%d' % resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def machine():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    return f"{model.group(1) if model else platform.processor()}, {os.cpu_count()} cores"


main()
