"""The works of `run`; see there."""

import argparse
import json
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from loop import Loop, free_ports

# The loop feeds itself: a new file is asked for as soon as the last one is trained, and nobody is there to look at a
# checkpoint that is worse than the one before.
FED = {"auto_generate.enabled": True, "auto_generate.cooldown_sec": 1, "promotion.on_regression": "continue", "preview_steps": 0}
# Files of some thousand rows, a few passes over each; an answer of Binary is a short line.
BINARY = {"auto_generate.count": 4000, "epochs": 4, "save_steps": 250, "evaluation.max_answer_tokens": 48}
TARGET_LEVEL = 3


def settings(args, **own):
    return {**FED, "seed": args.seed, "threads": args.threads, "serve.threads": 1, **own}


def climb(args, folder, skill, minutes, ends, model=None, **own):
    """A loop from its workspace on until `ends(skill)` or the time is over; it is stopped then. Returns it and the last look."""
    loop = Loop(args.hone, folder, skill, settings(args, **own), model)
    loop.start()
    try:
        return loop, loop.watch(minutes, ends)
    finally:
        loop.stop()


def binary(args, folder):
    """The whole climb."""
    loop, skill = climb(args, folder / "binary", "binary", args.minutes, lambda skill: skill["level"] >= TARGET_LEVEL, **BINARY)
    return [loop.report(skill)], skill["level"] >= TARGET_LEVEL


def syllo(args, folder):
    """One level, as far as the time goes."""
    model = folder / "syllo-model"
    if not model.exists():
        hone(args, "model", "new", str(model), "--skills", "syllo", "--vocabulary", "2048", "--hidden", "192", "--layers", "4", "--heads", "6")
    made = json.loads(hone(args, "model", "info", str(model)))
    own = {"batch_size": 32, "learning_rate": 1e-3, "max_length": 512, "save_steps": 500, "auto_generate.count": 5000,
           "epochs": 2, "evaluation.max_answer_tokens": 256}
    loop, skill = climb(args, folder / "syllo", "syllo", args.minutes, lambda skill: skill["level"] >= 2, model, **own)
    return [{"parameters": made["parameters"], **loop.report(skill)}], True


# Steps beyond the one that reached level 2.
FORK_STEPS = 2500


def replay(args, folder):
    """From one workspace at level 2 on, with replay and without."""
    loop, skill = climb(args, folder / "replay", "binary", args.minutes, lambda skill: skill["level"] >= 2, **BINARY)
    if skill["level"] < 2:
        raise SystemExit("Binary level 2 was not reached in time: there is nothing to fork")
    fork_step = skill["moves"][-1]["checkpoint"]
    lines = []
    for name, share in [("with", 0.1), ("without", 0.0)]:
        root = folder / f"replay-{name}"
        if not root.exists():
            shutil.copytree(loop.root, root, ignore=shutil.ignore_patterns("run", "logs", loop.kept.name))
        own = {**BINARY, "replay.share": share, "auto_generate.replay_share": share}
        fork, skill = climb(args, root, "binary", args.minutes, lambda skill: newest(skill) >= fork_step + FORK_STEPS, **own)
        lines.append({"replay_share": share, "fork_step": fork_step, **fork.report(skill), "sealed": sealed(fork)})
    return lines, True


def newest(skill):
    return max((each["checkpoint"] for each in skill["history"]), default=0)


def sealed(loop):
    """Share of right answers to the fixed questions of each level, by checkpoint."""
    shares = {}
    for each in json.loads(loop.run("checkpoints", "--json")):
        for suite in (each.get("evaluation") or {}).get("suites", []):
            if suite.get("share_right") is not None:
                shares.setdefault(suite["suite"], []).append([each["checkpoint"]["id"], round(suite["share_right"], 4)])
    return shares


PACKING_ROWS, PACKING_STEPS = 32, 300
# Sums in another order differ in the last bits, and training makes such differences grow until the curves only scatter about the
# same course: so the first steps are held together one by one, the last ones on average.
EARLY_STEPS, EARLY_TOLERANCE = 50, 1e-3
LATE_STEPS, LATE_TOLERANCE = 100, 0.1


def packing(args, folder):
    """The same steps with 32 rows side by side in a micro-batch, with two micro-batches of 16 and with 32 of one row."""
    model, rows = folder / "packing-model", folder / "packing.jsonl"
    hone(args, "model", "new", str(model))
    write_rows(args, rows, PACKING_ROWS * PACKING_STEPS)
    runs = {}
    for name, batch, accumulation in [("packed", PACKING_ROWS, 1), ("halves", PACKING_ROWS // 2, 2), ("alone", 1, PACKING_ROWS)]:
        own = {"batch_size": batch, "gradient_accumulation": accumulation, "learning_rate": 1e-3, "save_steps": PACKING_STEPS,
               "preview_steps": 0, "threads": args.threads, "seed": args.seed}
        flags = [flag for key, value in own.items() for flag in ("--set", f"{key}={value}")]
        before, used = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        told = hone(args, *flags, "train", str(rows), "--model", str(model), "--out", str(folder / name))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        losses = [each["loss"] for each in map(json.loads, told.splitlines()) if each["type"] == "step"]
        runs[name] = {"losses": losses, "seconds": time.time() - before,
                      "processor_seconds": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime}
    lines, well = [], True
    for name in ("packed", "halves"):
        pairs = list(zip(runs[name]["losses"], runs["alone"]["losses"], strict=True))
        early = max(abs(a - b) for a, b in pairs[:EARLY_STEPS])
        late = [statistics.mean(losses) for losses in zip(*pairs[-LATE_STEPS:])]
        well &= early <= EARLY_TOLERANCE and abs(late[0] / late[1] - 1) <= LATE_TOLERANCE
        together = next((step for step, (a, b) in enumerate(pairs) if abs(a - b) > EARLY_TOLERANCE), len(pairs))
        lines.append({"beside_alone": name, "steps": len(pairs), "first_steps_apart": early, "steps_together": together, "last_steps_mean": late})
    lines.append({"processor_seconds": {name: round(run["processor_seconds"], 1) for name, run in runs.items()},
                  "losses": {name: [round(loss, 4) for loss in run["losses"][::10]] for name, run in runs.items()}})
    return lines, well


def write_rows(args, path, count):
    """Binary level 2, straight from its server."""
    port = free_ports(1)[0]
    server = subprocess.Popen([args.hone, "skill", "serve", "binary", "--listen", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
    try:
        url, body = f"http://127.0.0.1:{port}", {"level": 2, "count": count, "seed": args.seed, "split": "train"}
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{url}/health")
                break
            except OSError:
                time.sleep(0.1)
        asked = urllib.request.Request(f"{url}/generate", json.dumps(body).encode(), {"content-type": "application/json"})
        samples = json.load(urllib.request.urlopen(asked))["samples"]
    finally:
        server.terminate()
        server.wait()
    path.write_text("".join(json.dumps({"messages": each["messages"]}) + "\n" for each in samples))


def hone(args, *arguments):
    return subprocess.run([args.hone, "--json", *arguments], check=True, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL).stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", choices=list(WORKS))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path)
    args = parser.parse_args()
    folder = args.keep or pathlib.Path(tempfile.mkdtemp(prefix="hone-curriculum-"))
    folder.mkdir(parents=True, exist_ok=True)
    well = True
    for name in [args.only] if args.only else list(WORKS):
        lines, held = WORKS[name](args, folder)
        well &= held
        for line in lines:
            text = json.dumps({"work": name, "seed": args.seed, "threads": args.threads, **line})
            print(text, flush=True)
            if args.json:
                with args.json.open("a") as out:
                    out.write(text + "\n")
    if not args.keep:
        shutil.rmtree(folder)
    sys.exit(0 if well else 1)


WORKS = {"binary": binary, "syllo": syllo, "replay": replay, "packing": packing}

if __name__ == "__main__":
    main()
