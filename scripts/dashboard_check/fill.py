"""Fills a workspace's database with many jobs, checkpoints and events: fill.py HONE_DB JOBS CHECKPOINTS EVENTS.

Rows are copies of what is there with other numbers, so their shape is always the current one."""

import json
import sqlite3
import sys

path, jobs, checkpoints, events = sys.argv[1], *map(int, sys.argv[2:5])
db = sqlite3.connect(path, isolation_level=None)
db.execute("BEGIN")


def newest(table):
    state, body = db.execute(f"SELECT state, body FROM {table} ORDER BY id DESC LIMIT 1").fetchone()
    return state, json.loads(body)


state, body = newest("jobs")
for number in range(10_000, 10_000 + jobs):
    body["id"] = number
    db.execute("INSERT INTO jobs (id, state, body) VALUES (?, ?, ?)", (number, state, json.dumps(body)))
state, body = newest("checkpoints")
evaluation = newest("evaluations")
for number in range(100_000, 100_000 + checkpoints):
    body["id"] = number
    db.execute("INSERT INTO checkpoints (id, state, body) VALUES (?, ?, ?)", (number, state, json.dumps(body)))
    evaluation[1]["checkpoint"] = number
    db.execute("INSERT INTO evaluations (id, state, body) VALUES (?, ?, ?)", (number, evaluation[0], json.dumps(evaluation[1])))
for number in range(events):
    db.execute(
        "INSERT INTO events (at_ms, severity, kind, subject, message) VALUES (?, 'info', 'filled', 'job-1', ?)",
        (number, f"event {number} of a long life"),
    )
db.execute("COMMIT")
