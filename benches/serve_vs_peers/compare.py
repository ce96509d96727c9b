"""Runs hone's engine and llama.cpp in alternation and compares speed and memory. Called by `run`.

Per work it prints one line of JSON: {"work", "hone", "peer", "ratio", ...}: medians over the pairs in tokens/s (MB for
memory), and the median of the ratio within each pair, hone over peer. Higher is better but for memory and the first token.
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


def main():
    parser = argparse.ArgumentParser()
    for name in ("--hone", "--model", "--llama", "--gguf"):
        parser.add_argument(name, required=True)
    parser.add_argument("--json")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    for precision in ("f32", "bf16", "q8_0"):
        gguf = os.path.join(arguments.gguf, f"smollm2-{precision}.gguf")
        for work in ("prompt", "decode", "batch"):
            rows.extend(measure(work, precision, gguf, arguments))
    if arguments.json:
        document = {"machine": machine(), "threads": arguments.threads, "pairs": arguments.pairs, "rows": rows}
        with open(arguments.json, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")


def measure(work, precision, gguf, arguments):
    """Hone holds f32 weights: beside another precision of the peer its figure is the same work in f32, and says so."""
    pairs = []
    for number in range(arguments.pairs):
        sides = [("hone", lambda: hone(work, arguments)), ("peer", lambda: peer(work, gguf, arguments))]
        if number % 2:
            sides.reverse()
        pairs.append({name: side() for name, side in sides})
    names = {"prompt": "512 prompt tokens", "decode": "one stream", "batch": f"{STREAMS} streams"}
    rows = [row(f"{names[work]}, {precision}, tokens/s", "tokens_per_s", pairs)]
    if work == "prompt":
        for pair in pairs:
            for side in pair.values():
                side["first_token_s"] = 512 / side["tokens_per_s"]
        rows.append(row(f"first token after {names[work]}, {precision}, s", "first_token_s", pairs))
    if work == "decode":
        rows.append(row(f"peak memory, {names[work]}, {precision}, MB", "peak_mb", pairs))
    for line in rows:
        line["hone_precision"] = "f32"
        print(json.dumps(line), flush=True)
    return rows


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


def hone(work, arguments):
    command = [arguments.hone, "--model", arguments.model, "--threads", str(arguments.threads), "--work", work]
    return json.loads(run(command)[0])


def peer(work, gguf, arguments):
    threads = str(arguments.threads)
    if work == "batch":
        command = [os.path.join(arguments.llama, "batched-bench"), "-m", gguf, "-c", "2048", "-npp", "16", "-ntg", "64"]
        text, peak = run([*command, "-npl", str(STREAMS), "-t", threads, "-tb", threads, "-ngl", "0", "--output-format", "jsonl"])
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return {"tokens_per_s": lines[-1]["speed_tg"], "peak_mb": peak}
    count = ["-p", "512", "-n", "0"] if work == "prompt" else ["-p", "0", "-n", "64"]
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
