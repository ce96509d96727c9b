"""Measures a real `hone monitor` (see `run`). Prints a line per figure."""

import argparse
import http.client
import json
import os
import pathlib
import selectors
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

NUM_CLIENTS, EVENTS_PER_S = 100, 10
MAX_SHARE, MAX_MB, MAX_UNIFIED_MS = 5, 60, 20
LIMIT_S = 120


class Monitor:
    def __init__(self, hone, root):
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        with open(root.parent / "monitor.log", "ab") as log:
            command = [hone, "--root", root, "monitor", "--listen", f"127.0.0.1:{self.port}"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        started = time.perf_counter()
        while True:
            try:
                return self.get("/api/health") and None
            except OSError:
                if time.perf_counter() - started > LIMIT_S:
                    sys.exit("the monitor does not start")
                time.sleep(0.02)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        connection.request("GET", path)
        return connection.getresponse().read()

    def processor_s(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self, name):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name + ":")) * 1024 / 1e6

    def is_whole(self):
        sources = json.loads(self.get("/api/unified"))["sources"]
        return all(sources[name]["data"] and not sources[name]["error"] for name in ("queue", "checkpoints", "training_status"))

    def wait_until_whole(self):
        started = time.perf_counter()
        while not self.is_whole():
            if time.perf_counter() - started > LIMIT_S:
                sys.exit("the monitor never knows the workspace")
            time.sleep(0.1)
        return time.perf_counter() - started

    def unified_ms(self, count):
        """Milliseconds of /api/unified over one connection, while nothing changes, refreshes of sources included."""
        connection, figures = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S), []
        for _ in range(count):
            started = time.perf_counter()
            connection.request("GET", "/api/unified")
            connection.getresponse().read()
            figures.append((time.perf_counter() - started) * 1000)
            time.sleep(0.02)
        return figures

    def stop(self):
        self.process.terminate()
        self.process.wait()


def streams(monitor, root, seconds):
    """Share of one core in percent while all clients listen, and milliseconds from an event's commit to each client."""
    database = sqlite3.connect(root / "hone.db", isolation_level=None)
    [last] = database.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
    selector, buffers = selectors.DefaultSelector(), {}
    for _ in range(NUM_CLIENTS):
        client = socket.create_connection(("127.0.0.1", monitor.port))
        client.sendall(f"GET /api/events?after={last} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
        buffers[client] = b""
    committed, waits, received = {}, [], 0

    def listen(until):
        nonlocal received
        while (left := until - time.perf_counter()) > 0:
            for key, _ in selector.select(left):
                at = time.perf_counter()
                buffers[key.fileobj] += key.fileobj.recv(1 << 16)
                *lines, buffers[key.fileobj] = buffers[key.fileobj].split(b"\n")
                for line in lines:
                    if line.startswith(b"data:"):
                        received += 1
                        waits.append((at - committed[json.loads(line[5:])["message"]]) * 1000)

    listen(time.perf_counter() + 2)
    before, started = monitor.processor_s(), time.perf_counter()
    total = seconds * EVENTS_PER_S
    for number in range(total):
        message = f"event {number} of {started}"
        database.execute("INSERT INTO events (at_ms, severity, kind, subject, message) VALUES (?, 'info', 'measured', 'job-1', ?)",
                         [int(time.time() * 1000), message])
        committed[message] = time.perf_counter()
        listen(started + (number + 1) / EVENTS_PER_S)
    share = (monitor.processor_s() - before) / (time.perf_counter() - started) * 100
    ended = time.perf_counter()
    while received < total * NUM_CLIENTS and time.perf_counter() < ended + LIMIT_S:
        listen(time.perf_counter() + 0.2)
    for client in buffers:
        client.close()
    database.close()
    return share, waits, received, total * NUM_CLIENTS


def workspace(hone, folder):
    """A workspace whose tiny model was trained on one file, so that there is something of every kind."""
    root = folder / "root"
    run = lambda *words: subprocess.run([hone, "--root", root, *words], check=True, capture_output=True)
    settings = {"batch_size": 8, "max_length": 128, "save_steps": 5, "queue.settle_sec": 0.1, "validation.auto_share": 0}
    run("init", "--tiny", *[word for pair in settings.items() for word in ("--set", "=".join(map(str, pair)))])
    row = lambda i: json.dumps({"messages": [{"role": "user", "content": f"What comes after {i}?"}, {"role": "assistant", "content": f"{i + 1}."}]}) + "\n"
    (root / "validation" / "held-out.jsonl").write_text("".join(row(1000 + i) for i in range(12)))
    daemon = subprocess.Popen([hone, "--root", root, "daemon"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (folder / "file.jsonl").write_text("".join(row(i) for i in range(80)))
    run("submit", folder / "file.jsonl")
    started = time.perf_counter()
    while True:
        status = json.loads(subprocess.run([hone, "--root", root, "status", "--json"], check=True, capture_output=True).stdout)
        if status["latest_checkpoint"] == 10 and "checkpoint-10" in status["evaluations"] and not status["open_jobs"]:
            break
        if time.perf_counter() - started > LIMIT_S:
            sys.exit(subprocess.run([hone, "--root", root, "status"], capture_output=True, text=True).stdout + "nothing was trained")
        time.sleep(0.1)
    run("stop")
    daemon.wait()
    return root


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--fill", required=True)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, default=30)
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-bench-monitor-"))
    figures, broken = {}, []

    def tell(name, value, unit, promise=None):
        kept = promise is None or value < promise
        figures[name] = {"value": round(value, 3), "unit": unit, "promise": promise}
        print(f"{name}: {value:.2f} {unit}" + ("" if promise is None else f" (promise: below {promise} {unit}{'' if kept else ', NOT KEPT'})"), flush=True)
        if not kept:
            broken.append(name)

    def measure(where, promised_mb):
        monitor = Monitor(args.hone, root)
        tell(f"{where}: until everything is shown", monitor.wait_until_whole(), "s")
        unified = monitor.unified_ms(200)
        tell(f"{where}: warm /api/unified, median", statistics.median(unified), "ms", MAX_UNIFIED_MS)
        tell(f"{where}: warm /api/unified, 95 of 100 within", statistics.quantiles(unified, n=20)[-1], "ms")
        share, waits, received, expected = streams(monitor, root, args.seconds)
        assert received == expected, f"{received} of {expected} events arrived"
        tell(f"{where}: {NUM_CLIENTS} streams at {EVENTS_PER_S} events/s, share of a core", share, "%", MAX_SHARE)
        tell(f"{where}: from commit to client, median", statistics.median(waits), "ms")
        tell(f"{where}: resident memory", monitor.megabytes("VmRSS"), "MB", promised_mb)
        tell(f"{where}: peak memory", monitor.megabytes("VmHWM"), "MB")
        monitor.stop()

    try:
        root = workspace(args.hone, folder)
        measure("small workspace", MAX_MB)
        subprocess.run([sys.executable, args.fill, root / "hone.db", "5000", "10000", "100000"], check=True)
        measure("large workspace", MAX_MB)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": os.uname().machine, "cpus": os.cpu_count(), "figures": figures}, indent=2) + "\n")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
