#!/usr/bin/env python3
"""Asks a running hone server from more clients than its slots and queue hold; the only error allowed is 429.

    python3 scripts/load_test.py http://127.0.0.1:8765 [--seconds 300] [--clients 100] [--key KEY] [--pid PID]

Half of the requests stream, one in ten is left in the middle. A 429 must carry Retry-After; the client waits a tenth of it.
Prints one line of JSON: answers by status, and with --pid the server's resident memory at the start, middle and end. Exit
code 1 when anything but 200 and 429 came, or nothing was answered.
"""
import argparse
import collections
import http.client
import json
import random
import sys
import threading
import time
import urllib.parse


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--key", default="none")
    parser.add_argument("--pid", type=int)
    arguments = parser.parse_args()
    counts, lock = collections.Counter(), threading.Lock()
    end = time.monotonic() + arguments.seconds
    memory = [resident_mb(arguments.pid)]
    threads = [threading.Thread(target=client, args=(arguments, n, end, counts, lock)) for n in range(arguments.clients)]
    for thread in threads:
        thread.start()
    time.sleep(arguments.seconds / 2)
    memory.append(resident_mb(arguments.pid))
    for thread in threads:
        thread.join()
    memory.append(resident_mb(arguments.pid))
    print(json.dumps({"answers": dict(counts), "resident_mb": memory}))
    wrong = {kind: count for kind, count in counts.items() if kind not in ("200", "429", "left")}
    sys.exit(bool(wrong) or counts["200"] == 0)


def client(arguments, number, end, counts, lock):
    draw = random.Random(number)
    while time.monotonic() < end:
        try:
            kind, wait = ask(arguments, draw)
        except (OSError, http.client.HTTPException, ValueError) as error:
            kind, wait = type(error).__name__, 0.1
        with lock:
            counts[kind] += 1
        time.sleep(wait)


def ask(arguments, draw):
    address = urllib.parse.urlsplit(arguments.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    body = {
        "messages": [{"role": "user", "content": f"[count] {draw.randrange(1000)}"}],
        "max_tokens": draw.randrange(1, 64),
        "stream": draw.random() < 0.5,
    }
    headers = {"content-type": "application/json", "authorization": f"Bearer {arguments.key}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if response.status == 200 and draw.random() < 0.1:
        response.read(1)
        connection.close()
        return "left", 0
    text = response.read().decode()
    connection.close()
    if response.status == 429:
        return "429", int(response.headers["Retry-After"]) / 10
    if response.status == 200 and body["stream"] and not text.endswith("data: [DONE]\n\n"):
        return "a stream without its end", 0
    if response.status == 200 and not body["stream"]:
        json.loads(text)["choices"][0]["message"]
    return str(response.status), 0


def resident_mb(pid):
    if pid is None:
        return None
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmRSS"))


main()
