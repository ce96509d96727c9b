#!/usr/bin/env python3
"""Leaves the loop alone under bad conditions: a file a second, and SIGKILL to a random process every few seconds.

    scripts/soak.py [--seconds N] [--seed N] [--hone BINARY] [--json FILE]        # an hour by default

A workspace with the tiny model, `hone daemon` and `hone serve` as real processes, started again at once after each kill;
retention is set to a minute, so that in ten minutes everything that grows has had its time many times. At the end the
feeding and the killing stop, and then: every file was accepted once, the database is whole, the ledger agrees
with the disk, and (in runs of five minutes and more) memory, open files and disk of the last third are those of the
middle third. The records of the database stay for ever; how much they grow is told apart. Exit code 1: something of
this is not so. Only the standard library is needed, and cargo where --hone is not given.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

# Runs that are shorter say nothing about growth.
FLAT_FROM_S = 300
# How long the work that is left may take at the end.
SETTLE_S = 300
SECONDS_BETWEEN_KILLS = (4, 15)
# Retention of a minute, housekeeping every few seconds.
SETTINGS = {
    "max_length": 128,
    "batch_size": 8,
    "learning_rate": "1e-3",
    "preview_steps": 0,
    "save_steps": 8,
    "snapshot_time": "null",
    "promotion.on_regression": "continue",
    "queue.max_jobs": 100000,
    "retention.keep_hours": 0.017,
    "retention.min_age_min": 0.2,
    "retention.datasets_days": 0.0007,
    "retention.rejected_days": 0.0007,
    "retention.runs_days": 0.0007,
    "retention.logs_days": 0.0007,
    "limits.housekeeping_sec": 5,
    "limits.retry_backoff_sec": 0.2,
    # Kills from outside must not use up a job's tries.
    "limits.max_tries": 100,
    "deployment.watch_sec": 0,
    "validation.level": "quick",
    "serve.max_context": 256,
}


class Soak:
    def __init__(self, hone, folder, seed):
        self.hone, self.folder, self.root = hone, folder, folder / "root"
        self.chance = random.Random(seed)
        self.roles, self.submitted, self.num_kills, self.samples = {}, [], 0, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pairs = [f"{key}={value}" for key, value in {**SETTINGS, "serve.listen": f"127.0.0.1:{port}"}.items()]
        self.run("init", "--tiny", *(word for pair in pairs for word in ("--set", pair)))
        (folder / "outside").mkdir()
        held_out = [row("held out", number) for number in range(16)]
        (self.root / "validation" / "held-out.jsonl").write_text("".join(held_out))

    def run(self, *words):
        answer = subprocess.run([self.hone, "--root", self.root, *words], capture_output=True, text=True)
        if answer.returncode != 0:
            sys.exit(f"hone {' '.join(words)}: {answer.stderr}")
        return answer.stdout

    def start(self, role):
        with open(self.folder / f"{role}.log", "ab") as log:
            command = [self.hone, "--root", self.root, role]
            self.roles[role] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def keep_running(self):
        for role in ("serve", "daemon"):
            if role not in self.roles or self.roles[role].poll() is not None:
                self.start(role)

    def feed(self, number):
        name, text = f"f{number}.jsonl", "".join(row(number, line) for line in range(self.chance.randrange(4, 24)))
        self.submitted.append(name)
        if number % 2 == 0:
            (self.folder / "outside" / name).write_text(text)
            os.rename(self.folder / "outside" / name, self.root / "inbox" / name)
        else:
            (self.root / "inbox" / name).write_text(text)

    def kill(self):
        """The daemon, its children or the server, as chance has it."""
        daemon = self.roles["daemon"].pid
        children = [pid for pid, parent in processes() if parent == daemon]
        choice = self.chance.choice([[daemon], children, children, [self.roles["serve"].pid]])
        for pid in choice:
            try:
                os.kill(pid, signal.SIGKILL)
                self.num_kills += 1
            except ProcessLookupError:
                pass
        for role in self.roles.values():
            role.poll()

    def sample(self, elapsed):
        daemon = self.roles["daemon"].pid
        try:
            status = pathlib.Path(f"/proc/{daemon}/status").read_text()
            memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1000
            files = len(os.listdir(f"/proc/{daemon}/fd"))
        except (FileNotFoundError, StopIteration, ProcessLookupError):
            return
        records = sum(file.stat().st_size for file in self.root.glob("hone.db*"))
        # Unlike `rglob`, this stands that folders go while it looks.
        disk = sum(size_of(pathlib.Path(folder, name)) for folder, _, names in os.walk(self.root) for name in names) - records
        self.samples.append({"s": elapsed, "memory_mb": memory, "files": files, "disk_mb": disk / 1e6, "records_mb": records / 1e6})

    def query(self, sql):
        with sqlite3.connect(f"file:{self.root / 'hone.db'}?mode=ro", uri=True, timeout=30) as database:
            return database.execute(sql).fetchall()

    def settle(self):
        """Waits until every file has its verdict and every job its end."""
        started = time.monotonic()
        while time.monotonic() - started < SETTLE_S:
            self.keep_running()
            waiting = list((self.root / "inbox").glob("*.jsonl"))
            under_way = self.query("SELECT count(*) FROM datasets WHERE state IN ('arriving', 'checking')")[0][0]
            open_jobs = self.query("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")[0][0]
            if not waiting and under_way == 0 and open_jobs == 0:
                return []
            time.sleep(1)
        return [f"after {SETTLE_S} s {len(waiting)} files wait, {under_way} are checked, {open_jobs} jobs are open"]

    def stop(self):
        for role in ("daemon", "serve"):
            self.roles[role].send_signal(signal.SIGTERM)
        for role in ("daemon", "serve"):
            self.roles[role].wait(60)

    def problems(self):
        problems = []
        accepted = [json.loads(body)["inbox_path"] for (body,) in self.query("SELECT body FROM datasets WHERE state = 'accepted'")]
        for name in self.submitted:
            count = accepted.count(name)
            if count != 1:
                problems.append(f"{name} is accepted {count} times")
        failed = self.query("SELECT body FROM jobs WHERE state = 'failed'")
        problems += [f"a job failed: {json.loads(body)['state']}" for (body,) in failed]
        integrity = self.query("PRAGMA integrity_check")[0][0]
        if integrity != "ok":
            problems.append(f"the database: {integrity}")
        problems += json.loads(self.run("checkpoints", "verify", "--json"))["problems"]
        return problems

    def growth(self):
        """The middle third and the last third of the run; what grew."""
        if not self.samples or self.samples[-1]["s"] < FLAT_FROM_S:
            return []
        third = self.samples[-1]["s"] / 3
        problems = []
        for figure, slack in (("memory_mb", 5), ("files", 5), ("disk_mb", 20)):
            middle = statistics.median(s[figure] for s in self.samples if third <= s["s"] < 2 * third)
            last = statistics.median(s[figure] for s in self.samples if s["s"] >= 2 * third)
            if last > middle * 1.2 + slack:
                problems.append(f"{figure} grows: {middle:.1f} in the middle third, {last:.1f} in the last")
        return problems


def row(one, two):
    messages = [{"role": "user", "content": f"add {one} {two}"}, {"role": "assistant", "content": f"{two} and {one}"}]
    return json.dumps({"messages": messages}) + "\n"


def processes():
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(") ", 1)[1].split()
                yield int(entry.name), int(fields[1])
            except (FileNotFoundError, ProcessLookupError):
                pass


def size_of(path):
    try:
        info = path.lstat()
        return info.st_blocks * 512 // max(info.st_nlink, 1) if path.is_file() else 0
    except FileNotFoundError:
        return 0


def build():
    repository = pathlib.Path(__file__).resolve().parent.parent
    subprocess.run(["cargo", "build", "--quiet", "--release", "-p", "hone"], cwd=repository, check=True)
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=repository, check=True, capture_output=True
    )
    return f"{json.loads(metadata.stdout)['target_directory']}/release/hone"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hone")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-soak-"))
    soak = Soak(os.path.abspath(args.hone) if args.hone else build(), folder, args.seed)
    started, number, next_kill = time.monotonic(), 0, 5.0
    try:
        while (elapsed := time.monotonic() - started) < args.seconds:
            soak.keep_running()
            if number <= elapsed:
                soak.feed(number)
                number += 1
                if number % 5 == 0:
                    soak.sample(elapsed)
            if elapsed >= next_kill:
                soak.kill()
                next_kill = elapsed + soak.chance.uniform(*SECONDS_BETWEEN_KILLS)
            time.sleep(0.05)
        problems = soak.settle() + soak.growth()
        settled = time.monotonic() - started - args.seconds
        soak.stop()
        problems += soak.problems()
    finally:
        for role in soak.roles.values():
            role.kill()
    last = soak.samples[-1] if soak.samples else {}
    figures = {
        "files": number, "kills": soak.num_kills, "settled_after_s": round(settled, 1), "seed": args.seed,
        "checkpoints": soak.query("SELECT max(id) FROM checkpoints")[0][0], "last": last,
        "records_kb_per_file": round(last.get("records_mb", 0) * 1000 / max(number, 1), 2),
    }
    print(json.dumps(figures))
    print("\n".join(problems) or "nothing is lost, nothing is double, nothing grows")
    if args.json:
        args.json.write_text(json.dumps({**figures, "problems": problems, "samples": soak.samples}, indent=1) + "\n")
    if problems:
        sys.exit(f"the workspace stays in {folder}")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
