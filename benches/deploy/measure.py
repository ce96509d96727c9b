"""Measures deployments of a real trainer to a real server (see `run`). Prints a line per figure."""

import argparse
import http.client
import json
import os
import pathlib
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

# Longest wait for anything; far beyond every promise.
LIMIT_S = 1800
# What the figures are held against.
FIRST_TOKEN_S, RATE_SHARE, BATCH_GAIN = 5, 0.8, 4
SEED_S_PER_BYTE = 8 / 2.7e9
NUM_QUESTIONS, NUM_ALONE = 200, 20
# Evaluations in alternation with answers one after the other.
NUM_PAIRS = 3
# Tokens of an answer at most.
ANSWER_TOKENS = (8, 32, 64)


class Host:
    """A trainer's workspace, and a server with a root of its own that it deploys to by http."""

    def __init__(self, hone, model, folder):
        self.hone, self.folder, self.root, self.serve_root = hone, folder, folder / "trainer", folder / "server"
        # Words of the daemon, before its verb.
        self.port, self.processes, self.words = free_port(), [], []
        target = {"name": "far", "url": f"http://127.0.0.1:{self.port}", "transport": "http"}
        settings = {
            "deployment.targets": json.dumps([target]), "deployment.watch_sec": 0, "validation.auto_share": 0,
            "promotion.policy": "manual", "model_name": "bench", "batch_size": 1, "max_length": 64, "save_steps": 1,
            "lora.rank": 8, "epochs": 1, "preview_steps": 0, "queue.min_rows": 0, "replay.share": 0, "retention.keep_hours": 0,
        }
        pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        self.run("init", "--model", model, *pairs)

    def run(self, *words):
        answer = subprocess.run([self.hone, "--root", self.root, *words], capture_output=True, text=True)
        if answer.returncode != 0:
            sys.exit(f"hone {' '.join(map(str, words))}: {answer.stderr}")
        return answer.stdout

    def start(self, name, *words):
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen([self.hone, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def start_server(self):
        return self.start("serve", "--root", self.serve_root, "--set", "model_name=bench", "--set", "serve.slots=16",
                          "--set", "serve.max_context=256", "serve", "--listen", f"127.0.0.1:{self.port}")

    def start_daemon(self, *words):
        return self.start("daemon", "--root", self.root, *self.words, "daemon", *words)

    def start_bare(self, *processes):
        """A server that lacks everything, in place of these processes, and a daemon."""
        for process in processes:
            process.terminate()
            process.wait()
        shutil.rmtree(self.serve_root)
        started = self.start_server(), self.start_daemon()
        self.wait("the daemon", lambda status: status["daemon_pid"])
        return started

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()

    def status(self):
        return json.loads(self.run("status", "--json"))

    def wait(self, what, holds):
        started = time.perf_counter()
        while not holds(self.status()):
            if time.perf_counter() - started > LIMIT_S:
                sys.exit(f"{what}: not within {LIMIT_S} s; see {self.folder}")
            time.sleep(0.05)

    def serves(self, number):
        self.wait(f"checkpoint-{number} serves", lambda status: [d["checkpoint"] for d in status["live"]] == [number])

    def blobs(self):
        return {path.name: path.stat().st_size for path in (self.serve_root / "serve" / "blobs").iterdir() if path.is_file()}

    def submit(self, name, count):
        (self.folder / name).write_text(rows(name, count))
        self.run("submit", self.folder / name, "--no-wait")

    def hold_out(self):
        """From now on checkpoints are evaluated."""
        (self.root / "validation" / "held-out.jsonl").write_text(rows("first.jsonl", 20))

    def num_evaluated(self):
        return sum(bool(each["evaluation"]) for each in json.loads(self.run("checkpoints", "--json")) if each["checkpoint"]["id"] > 0)

    def ask(self, question, max_tokens):
        """The stamp of an answer and the seconds to its first token and to its end."""
        body = {"model": "bench", "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens,
                "temperature": 0, "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        started = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        stamp, first = response.getheader("x-hone-checkpoint"), None
        for line in response:
            if first is None and b'"content"' in line:
                first = time.perf_counter()
        return stamp, (first or time.perf_counter()) - started, time.perf_counter() - started

    def order(self, number):
        orders = json.loads(self.run("deployments", "--json"))
        return [order for order in orders if order["checkpoint"] == number][-1]

    def event_ms(self, kind, subject):
        database = sqlite3.connect(f"file:{self.root / 'hone.db'}?mode=ro", uri=True)
        query = "SELECT at_ms FROM events WHERE kind = ? AND subject = ? ORDER BY seq LIMIT 1"
        found = database.execute(query, [kind, subject]).fetchone()
        database.close()
        return found and found[0]


def rows(name, count):
    line = lambda i: {"messages": [{"role": "user", "content": f"{name}: what comes after {i}?"},
                                   {"role": "assistant", "content": f"{i + 1} comes after {i}."}]}
    return "".join(json.dumps(line(i)) + "\n" for i in range(count))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def first_token_s(host, number):
    """Seconds from `hone deploy` to the first token of an answer by that checkpoint, and bytes that travelled."""
    before, started = host.blobs(), time.perf_counter()
    host.run("deploy", str(number))
    while True:
        asked = time.perf_counter()
        stamp, first, _ = host.ask("What comes after 5?", 1)
        if stamp in (str(number), f"checkpoint-{number}"):
            break
        if asked - started > LIMIT_S:
            sys.exit(f"checkpoint-{number} never answers; see {host.folder}")
    seconds = asked + first - started
    host.serves(number)
    return seconds, sum(size for name, size in host.blobs().items() if name not in before)


def stage_s(order):
    return (dict(order["steps"])["stage"] - order["created_ms"]) / 1000


def raw_tcp_s(file, folder):
    """Seconds that the bytes of a file take over a bare connection into a synced file."""
    def receive(server):
        connection, _ = server.accept()
        with connection, open(folder / "raw", "wb") as sink:
            while piece := connection.recv(1 << 20):
                sink.write(piece)
            sink.flush()
            os.fsync(sink.fileno())
            connection.sendall(b"!")
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=receive, args=[server])
        thread.start()
        started = time.perf_counter()
        with socket.create_connection(server.getsockname()) as line, open(file, "rb") as source:
            line.sendfile(source)
            line.shutdown(socket.SHUT_WR)
            line.recv(1)
        seconds = time.perf_counter() - started
        thread.join()
    os.remove(folder / "raw")
    return seconds


def local_shell(folder):
    """A remote shell that runs the other side on this machine."""
    shell = folder / "rsh"
    shell.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    shell.chmod(0o755)
    return shell


def rsync_s(file, folder):
    """The same by `rsync --whole-file`."""
    shell = local_shell(folder)
    started = time.perf_counter()
    subprocess.run(["rsync", "--whole-file", "-e", shell, file, f"there:{folder / 'copied'}"], check=True)
    descriptor = os.open(folder / "copied", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    seconds = time.perf_counter() - started
    os.remove(folder / "copied")
    return seconds


def alone_per_s(host, max_tokens):
    """Answers per second, one after the other."""
    return NUM_ALONE / sum(host.ask(question(i * NUM_QUESTIONS // NUM_ALONE), max_tokens)[2] for i in range(NUM_ALONE))


def evaluation(host, num_questions, max_tokens, model):
    """Seconds of an `eval-job` that answers so many questions with `model` or else a checkpoint of the trainer's, its start and
    the loading of the model included, and tokens of an answer on average."""
    request = json.loads(next((host.root / "runs" / "evaluations").glob("*/request.json")).read_text())
    run = pathlib.Path(tempfile.mkdtemp(prefix="evaluation-", dir=host.folder))
    questions = [{"id": str(i), "messages": [{"role": "user", "content": question(i)}]} for i in range(num_questions)]
    request.update(run_dir=str(run), model_dir=model or request["model_dir"], suites=[], kept_back=[], questions=questions, keep_dir=None, max_answer_tokens=max_tokens)
    (run / "request.json").write_text(json.dumps(request))
    started = time.perf_counter()
    child = subprocess.Popen([host.hone, "child", "eval-job", "--request", run / "request.json"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    told = [json.loads(line) for line in child.stdout]
    seconds = time.perf_counter() - started
    child.wait()
    done = [message for message in told if message["type"] == "evaluated"]
    assert done and len(done[0]["answers"]) == num_questions, told[-1]
    return seconds, statistics.mean(answer["num_tokens"] for answer in done[0]["answers"])


def question(i):
    return f"What is {i} + {i}?"


def deployments(host, server, daemon, tell):
    """From an order to the first token, what travels and how fast, and a promotion while a long file trains."""
    for number, name in [(1, "first"), (2, "next"), (3, "third")]:
        seconds, sent = first_token_s(host, number)
        tell(f"{name} checkpoint of a LoRA job, order to first token", seconds, "s", seconds < FIRST_TOKEN_S, f"below {FIRST_TOKEN_S} s")
        tell(f"{name} checkpoint of a LoRA job, bytes sent", sent / 1e6, "MB")

    weights = max((host.root / "checkpoints" / "checkpoint-3").iterdir(), key=lambda path: path.stat().st_size)
    size = weights.stat().st_size
    stage_seconds, raw, rsync = [], [], []
    for _ in range(3):
        # The daemon sends a whole checkpoint.
        host.run("deploy", "2")
        host.serves(2)
        server, daemon = host.start_bare(daemon, server)
        host.run("deploy", "3")
        host.serves(3)
        order = host.order(3)
        stage_seconds.append((sum(host.blobs().values()), stage_s(order)))
        raw.append(raw_tcp_s(weights, host.folder))
        if shutil.which("rsync"):
            rsync.append(rsync_s(weights, host.folder))
    rate = statistics.median(sent / seconds for sent, seconds in stage_seconds)
    tell("whole checkpoint by http, rate", rate / 1e6, "MB/s")
    lines = {"raw TCP": raw}
    if rsync:
        lines["rsync --whole-file"] = rsync
    line_rates = {name: size / statistics.median(seconds) for name, seconds in lines.items()}
    for name, line_rate in line_rates.items():
        tell(f"{name} into a synced file, rate", line_rate / 1e6, "MB/s")
        tell(f"http beside {name}", rate / line_rate, "×", rate >= RATE_SHARE * line_rate, f"at least {RATE_SHARE}")
    if rsync:
        seconds, sent = [], 0
        target = {"name": "far", "url": f"http://127.0.0.1:{host.port}", "transport": "rsync",
                  "destination": f"there:{host.serve_root / 'serve'}", "rsh": str(local_shell(host.folder))}
        for _ in range(3):
            host.run("deploy", "2")
            host.serves(2)
            host.words = ["--set", f"deployment.targets={json.dumps([target])}"]
            server, daemon = host.start_bare(daemon, server)
            host.run("deploy", "3")
            host.serves(3)
            sent = sum(host.blobs().values())
            seconds.append(stage_s(host.order(3)))
        host.words = []
        tell("rsync target, whole checkpoint staged", statistics.median(seconds), "s")
        tell("the seed's 8 s for 2.7 GB, by bytes", sent * SEED_S_PER_BYTE, "s")
        tell("rsync target beside the seed's copy", statistics.median(seconds) / (sent * SEED_S_PER_BYTE), "×")
        tell("rsync target beside rsync itself", sent / statistics.median(seconds) / line_rates["rsync --whole-file"], "×")
    daemon.terminate()
    daemon.wait()

    # Promotions by evidence, while a long file trains.
    words = ["--set", "promotion.policy=not_worse", "--set", "learning_rate=0.0005", "--set", "save_steps=4", "--set", "promotion.on_regression=continue"]
    daemon = host.start_daemon(*words)
    host.submit("long.jsonl", 4000)
    host.wait("a promotion", lambda status: status["champion"] > 3 and status["live"] and status["live"][-1]["checkpoint"] == status["champion"])
    served = host.status()["champion"]
    published, order = host.event_ms("checkpoint_published", f"checkpoint-{served}"), host.order(served)
    seconds = (host.event_ms("deployed", f"deployment-{order['id']}") - published) / 1000
    is_training = any(job["state"]["state"] == "running" for job in host.status()["open_jobs"])
    assert is_training, "the long file ended too early"
    tell("published to served, with evaluation beside a long file", seconds, "s", seconds < 610, "evaluation.max_minutes (10) plus 10 s")
    daemon.terminate()
    daemon.wait()


def answers(host, name, model, tell):
    """Evaluations of `model`, or else a checkpoint of the trainer's, beside the server's answers one after the other."""
    for most in ANSWER_TOKENS:
        pairs = []
        for _ in range(NUM_PAIRS):
            alone = alone_per_s(host, most)
            seconds, mean = evaluation(host, NUM_QUESTIONS, most, model)
            pairs.append((alone, NUM_QUESTIONS / seconds))
        start, _ = evaluation(host, 1, 1, model)
        what = f"{name}, answers of at most {most} tokens ({mean:.1f} on average)"
        tell(f"{what}, one after the other", statistics.median(alone for alone, _ in pairs), "per s")
        tell(f"{what}, {NUM_QUESTIONS} by an evaluation", statistics.median(batched for _, batched in pairs), "per s")
        gains = [batched / alone for alone, batched in pairs]
        gain, each = statistics.median(gains), ", ".join(f"{gain:.2f}" for gain in gains)
        tell(f"{what}, evaluation beside single (pairs: {each})", gain, "×", gain >= BATCH_GAIN, f"at least {BATCH_GAIN}")
        tell(f"{what}, of that start, load and one answer", start, "s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hone", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", choices=["answers"])
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-bench-deploy-"))
    figures, broken = {}, []

    def tell(name, value, unit, kept=None, promise=""):
        figures[name] = {"value": round(value, 3), "unit": unit, "promise": promise, "kept": kept}
        note = "" if kept is None else f" (promise: {promise}, {'kept' if kept else 'NOT KEPT'})"
        print(f"{name}: {value:.2f} {unit}{note}", flush=True)
        if kept is False:
            broken.append(name)

    host = Host(args.hone, args.model, folder)
    try:
        server = host.start_server()
        daemon = host.start_daemon()
        host.serves(0)
        tell("base model, bytes sent", sum(host.blobs().values()) / 1e6, "MB")
        tell("base model, staged in", stage_s(host.order(0)), "s")
        host.hold_out()
        host.submit("first.jsonl", 3)
        host.wait("three checkpoints", lambda status: status["latest_checkpoint"] == 3 and not status["open_jobs"])
        host.wait("their evaluations", lambda _: host.num_evaluated() >= 3)
        # The model as it came answers at greater length than one trained on short answers.
        answers(host, "the model as it came", args.model, tell)
        if args.only != "answers":
            deployments(host, server, daemon, tell)
            answers(host, "a trained checkpoint", None, tell)
    finally:
        host.stop()
    shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": os.uname().machine, "cpus": os.cpu_count(), "figures": figures}, indent=2) + "\n")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
