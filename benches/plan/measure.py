"""Plans and trains the same rows; see `run`.

A line of JSON per work: {"work", "rows", "steps", "planned_s", "measured_s", "time_ratio", "planned_bytes", "measured_bytes",
"memory_ratio"}. Ratios are measured over planned. The time is that of the steps after the first, scaled to all steps: the plan
leaves loading and saving out, and calibrates without its first micro-batch.
"""
import argparse
import json
import subprocess
import sys
import tempfile

MEMORY_TOLERANCE, TIME_TOLERANCE = 0.05, 0.20
# Flags of a run, and how many rows it takes: some dozen steps.
WORKS = {
    "full, micro-batches of 8": (["--batch-size", "8"], 96),
    "full, micro-batches of 2": (["--batch-size", "2"], 48),
    "full, layers computed again": (["--batch-size", "8", "--recompute"], 64),
    "LoRA r=16": (["--batch-size", "8", "--lora-rank", "16"], 96),
    "full, batch_size auto": (["--batch-size", "auto"], 96),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    lines = [measure(name, arguments, *WORKS[name]) for name in WORKS]
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(lines, file, indent=2)
            file.write("\n")
    off = [line["work"] for line in lines if not line["kept"]]
    if off:
        sys.exit(f"the plan was off: {'; '.join(off)}")


def measure(name, arguments, flags, num_rows):
    with tempfile.TemporaryDirectory() as folder:
        rows = f"{folder}/rows.jsonl"
        with open(arguments.rows) as source, open(rows, "w") as file:
            file.writelines(line for line, _ in zip(source, range(num_rows)))
        common = ["--model", arguments.model, *flags, rows]
        settings = ["--set", f"threads={arguments.threads}", "--set", "preview_steps=0", "--set", "epochs=1"]
        plan = told(arguments, [*settings, "plan", *common])[-1]
        run = told(arguments, [*settings, "train", "--out", f"{folder}/out", *common])
    micro = next(micro for micro in plan["micro_batches"] if micro["rows"] == plan["chosen"])
    steps = [line for line in run if line["type"] == "step"]
    first, last = steps[0], steps[-1]
    per_step = (last["at_ms"] - first["at_ms"]) / 1000 / (last["job_step"] - first["job_step"])
    line = {
        "work": name,
        "rows": plan["rows"],
        "steps": plan["steps"],
        "planned_s": micro["seconds"],
        "measured_s": per_step * plan["steps"],
        "planned_bytes": micro["peak_bytes"],
        "measured_bytes": run[-1]["peak_memory_bytes"],
    }
    line["time_ratio"] = line["measured_s"] / line["planned_s"]
    line["memory_ratio"] = line["measured_bytes"] / line["planned_bytes"]
    line["kept"] = abs(line["time_ratio"] - 1) <= TIME_TOLERANCE and abs(line["memory_ratio"] - 1) <= MEMORY_TOLERANCE
    print(json.dumps(line), flush=True)
    return line


def told(arguments, words):
    done = subprocess.run([arguments.hone, "--json", *words], check=True, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    return [json.loads(line) for line in done.stdout.splitlines()]


main()
