"""Measures a real `hone daemon` (see `run`). Prints a line per figure and, with --json, writes all of them."""

import argparse
import json
import os
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

# Longest wait for anything; far beyond every promise.
LIMIT_S = 60


class Daemon:
    """A workspace with a tiny model and a paused daemon: nothing trains while the inbox is measured."""

    def __init__(self, hone, folder, settings):
        self.hone, self.root = hone, folder / "root"
        pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        self.run("init", "--tiny", *pairs)
        self.run("pause", "--reason", "measured")
        self.process = None

    def run(self, *words):
        answer = subprocess.run([self.hone, "--root", self.root, *words], capture_output=True, text=True)
        if answer.returncode != 0:
            sys.exit(f"hone {' '.join(words)}: {answer.stderr}")
        return answer.stdout

    def start(self):
        with open(self.root.parent / "daemon.log", "ab") as log:
            self.process = subprocess.Popen(
                [self.hone, "--root", self.root, "daemon"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        started = time.perf_counter()
        while json.loads(self.run("status", "--json"))["daemon_pid"] != self.process.pid:
            if self.process.poll() is not None or time.perf_counter() - started > LIMIT_S:
                sys.exit(f"the daemon does not start: {(self.root.parent / 'daemon.log').read_text()}")
        return time.perf_counter() - started

    def stop(self):
        """By a signal, which leaves the pause as it is; after `hone stop` the next start would train."""
        self.process.terminate()
        self.process.wait(LIMIT_S)

    def database(self, mode="ro"):
        return sqlite3.connect(f"file:{self.root / 'hone.db'}?mode={mode}", uri=True, isolation_level=None)

    def renamed_to_queued_ms(self, count, first):
        """Milliseconds from each rename into the inbox to the commit that queues it, one file after the other."""
        outside = self.root.parent / "outside"
        outside.mkdir(exist_ok=True)
        database = self.database()
        figures = []
        for number in range(first, first + count):
            name = f"f{number}.jsonl"
            rows = [
                {"messages": [{"role": "user", "content": f"{number}/{row}?"}, {"role": "assistant", "content": "yes"}]}
                for row in range(20)
            ]
            (outside / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
            [highest] = database.execute("SELECT coalesce(max(id), 0) FROM jobs").fetchone()
            started = time.perf_counter()
            os.rename(outside / name, self.root / "inbox" / name)
            while database.execute("SELECT 1 FROM jobs WHERE id > ?", [highest]).fetchone() is None:
                if time.perf_counter() - started > LIMIT_S:
                    sys.exit(f"{name} is not queued: {(self.root.parent / 'daemon.log').read_text()[-3000:]}")
                time.sleep(0.001)
            figures.append((time.perf_counter() - started) * 1000)
        return figures

    def idle(self, seconds):
        """Share of one core in percent, and resident memory in MB, of a daemon with nothing to do."""
        # The files of before are still checked deeper in the background; that is work.
        due = "SELECT count(*) FROM datasets WHERE json_extract(body, '$.deep_check') = 'due'"
        database, started = self.database(), time.perf_counter()
        while database.execute(due).fetchone() != (0,):
            if time.perf_counter() - started > LIMIT_S:
                sys.exit(f"the background does not end: {(self.root.parent / 'daemon.log').read_text()[-3000:]}")
            time.sleep(0.5)
        time.sleep(5)
        before, started = self.processor_s(), time.perf_counter()
        time.sleep(seconds)
        share = (self.processor_s() - before) / (time.perf_counter() - started) * 100
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        return share, kilobytes * 1024 / 1e6

    def processor_s(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def fill_queue(self, num_jobs):
        """Copies of the newest job and its data set; the daemon must not run."""
        database = self.database("rw")
        for table in ("datasets", "jobs"):
            highest, state, body = database.execute(f"SELECT id, state, body FROM {table} ORDER BY id DESC").fetchone()
            body = json.loads(body)
            # Every copy has bytes of its own, as far as the daemon knows, and nothing more is to be checked of it.
            own = {"deep_check": "done", "check_started": False} if table == "datasets" else {}
            copies = (
                (id, state, json.dumps({**body, "id": id, **own, **({"blake3": f"{id:064x}"} if own else {})}))
                for id in range(highest + 1, highest + 1 + num_jobs)
            )
            database.execute("BEGIN")
            database.executemany(f"INSERT INTO {table} (id, state, body) VALUES (?, ?, ?)", copies)
            database.execute("COMMIT")
        counters = json.loads(database.execute("SELECT body FROM singletons WHERE name = 'counters'").fetchone()[0])
        counters["dataset"] += num_jobs
        counters["job"] += num_jobs
        database.execute("UPDATE singletons SET body = ? WHERE name = 'counters'", [json.dumps(counters)])
        database.close()


def calibrate(hone, folder):
    """Milliseconds of a synced write of 4 KiB, and of starting the program for nothing."""
    writes, starts = [], []
    for number in range(50):
        with open(folder / "synced", "wb") as file:
            file.write(os.urandom(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            writes.append((time.perf_counter() - started) * 1000)
    for number in range(20):
        started = time.perf_counter()
        subprocess.run([hone, "--version"], check=True, capture_output=True)
        starts.append((time.perf_counter() - started) * 1000)
    return statistics.median(writes), statistics.median(starts)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--files", type=int, default=30)
    parser.add_argument("--idle-sec", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=100_000)
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-bench-daemon-"))
    figures, broken = {}, []

    def tell(name, value, unit, promise=None):
        figures[name] = {"value": round(value, 3), "unit": unit, "promise": promise}
        kept = promise is None or value < promise
        note = "" if promise is None else f" (promise: below {promise} {unit}{'' if kept else ', NOT KEPT'})"
        print(f"{name}: {value:.2f} {unit}{note}", flush=True)
        if not kept:
            broken.append(name)

    try:
        synced_ms, start_ms = calibrate(args.hone, folder)
        tell("synced write of 4 KiB, median", synced_ms, "ms")
        tell("start of the program, median", start_ms, "ms")
        daemon = Daemon(args.hone, folder, {"queue.max_jobs": 10 * args.jobs, "queue.min_rows": 0})
        daemon.start()
        waits = daemon.renamed_to_queued_ms(args.files, 0)
        tell("renamed in to queued, median", statistics.median(waits), "ms", 200)
        tell("renamed in to queued, longest", max(waits), "ms")
        share, megabytes = daemon.idle(args.idle_sec)
        tell("idle daemon, share of a core", share, "%", 0.5)
        tell("idle daemon, resident memory", megabytes, "MB", 40)
        daemon.stop()
        daemon.fill_queue(args.jobs)
        pages = []
        for _ in range(10):
            started = time.perf_counter()
            page = json.loads(daemon.run("queue", "--json"))
            pages.append((time.perf_counter() - started) * 1000)
        assert len(page) == 50, len(page)
        tell(f"first page of {args.jobs:,} jobs, median", statistics.median(pages), "ms", 100)
        tell(f"start with {args.jobs:,} jobs", daemon.start(), "s")
        waits = daemon.renamed_to_queued_ms(args.files, args.files)
        tell(f"renamed in to queued beside {args.jobs:,} jobs, median", statistics.median(waits), "ms", 200)
        share, megabytes = daemon.idle(args.idle_sec)
        tell(f"idle beside {args.jobs:,} jobs, share of a core", share, "%")
        tell(f"idle beside {args.jobs:,} jobs, resident memory", megabytes, "MB")
        daemon.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": os.uname().machine, "cpus": os.cpu_count(), "figures": figures}, indent=2) + "\n")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
