"""Runs hone's gates and Python's in alternation and compares speed, memory and results. Called by `run`.

Per level it prints one line of JSON: {"level", "bytes", "hone_s", "python_s", "ratio", "peak_memory_bytes", ...}. Times are
medians over the pairs, `ratio` is the median of python_s / hone_s within each pair (above 1: hone is faster),
`peak_memory_bytes` is hone's largest. Time is that of the check itself, without starting the program, on both sides.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MEGABYTES = {"quick": 300, "standard": 30, "deep": 100}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--json")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--megabytes", type=int)
    parser.add_argument("--only", choices=list(MEGABYTES))
    arguments = parser.parse_args()
    lines = []
    for level in [arguments.only] if arguments.only else MEGABYTES:
        size = (arguments.megabytes or MEGABYTES[level]) * 1_000_000
        lines.append(measure(level, data_file(arguments.work, size), arguments))
        print(json.dumps(lines[-1]), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def measure(level, path, arguments):
    hone, python = [], []
    for _ in range(arguments.pairs):
        hone.append(run([arguments.hone, level, path, arguments.model]))
        python.append(run([sys.executable, os.path.join(HERE, "python_gates.py"), level, path, arguments.model]))
        same = ["rows"] + (["tokens", "ids"] if level == "standard" else [])
        for key in same:
            if hone[-1][key] != python[-1][key]:
                sys.exit(f"{level}: {key} differ: hone {hone[-1][key]}, Python {python[-1][key]}")
    size = os.path.getsize(path)
    hone_s = statistics.median(result["seconds"] for result in hone)
    return {
        "level": level,
        "bytes": size,
        "hone_s": round(hone_s, 4),
        "python_s": round(statistics.median(result["seconds"] for result in python), 4),
        "ratio": round(statistics.median(p["seconds"] / h["seconds"] for h, p in zip(hone, python)), 2),
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in hone),
        "hone_bytes_per_s": round(size / hone_s),
        "rows": hone[-1]["rows"],
        "pairs": arguments.pairs,
        "cores": len(os.sched_getaffinity(0)),
    }


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def data_file(work, size):
    """Conversations of words that repeat as those of a language do (Zipf), with numbers, code and other scripts."""
    path = os.path.join(work, f"gates-{size}.jsonl")
    if os.path.exists(path) and os.path.getsize(path) >= size:
        return path
    rng = random.Random(7)
    syllables = ["ka", "re", "to", "mi", "na", "so", "lu", "ve", "di", "pa", "chi", "bra", "ste", "gol", "fen", "wor", "tis", "al", "en", "or"]
    frequent = "the of and to a in is it you that he was for on are with as his they be at one have this".split()
    rare = ["".join(rng.choice(syllables) for _ in range(rng.randint(1, 4))) for _ in range(30_000)]
    words = frequent + rare
    weights = [1 / (rank + 3) for rank in range(len(words))]
    cumulative = [sum_ for sum_ in __import__("itertools").accumulate(weights)]
    extras = ["12", "1984", "3.5", "x_1 = f(y)\n", "Grüße", "猫が好き", "naïve", "🙂", "don't", "\"so\"", "it's"]

    def text(length):
        chosen = rng.choices(words, cum_weights=cumulative, k=length)
        for i in range(rng.randrange(12), length, 23):
            chosen[i] = rng.choice(extras)
        for i in range(9, length, 11):
            chosen[i] += "." if i % 3 else ",\n"
        return " ".join(chosen).capitalize()

    with open(path + ".part", "w") as file:
        written = 0
        while written < size:
            messages = []
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                messages.append({"role": "user", "content": text(rng.randint(8, 60))})
                messages.append({"role": "assistant", "content": text(rng.randint(20, 220))})
            line = json.dumps({"messages": messages}, ensure_ascii=False) + "\n"
            file.write(line)
            written += len(line.encode())
    os.rename(path + ".part", path)
    return path


if __name__ == "__main__":
    main()
