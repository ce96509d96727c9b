"""The gates as a straightforward Python writes them: `json`, a loop over rows, `tokenizers.encode_batch`."""
import hashlib
import json
import os
import re
import sys
import time

ROLES = {"system", "user", "assistant", "tool"}
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
KNOWN = {"messages", "system_prompt", "tools", "tags", "difficulty", "metadata"}
WORD = re.compile(r"\w+")


def check(row):
    """The schema chat_sft_v1 and the quick content check; the problems of a row."""
    problems = []
    if not isinstance(row, dict):
        return ["row_not_object"]
    problems += ["column_unknown" for key, value in row.items() if key not in KNOWN and value is not None]
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        return problems + ["messages"]
    roles = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            problems.append("message")
            continue
        roles.append(message["role"])
        if message["role"] == "system" and i > 0:
            problems.append("system_not_first")
        if not message["content"].strip() and message["role"] in ("user", "assistant") and not message.get("tool_calls"):
            problems.append("content_empty")
        if CONTROL.search(message["content"]):
            problems.append("control_character")
    if "user" not in roles:
        problems.append("user_missing")
    if roles and roles[-1] != "assistant":
        problems.append("last_not_assistant")
    return problems


def render(messages):
    """The chat template of SmolLM2 as an f-string."""
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    if messages[0]["role"] != "system":
        text = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" + text
    return text


def main():
    level, path, model = sys.argv[1:4]
    tokenizer = None
    if level != "quick":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    start = time.perf_counter()
    problems, rows, tokens = [], 0, 0
    ids_digest = hashlib.sha256()
    seen, duplicates, batch = {}, 0, []
    signatures = {}
    digest = hashlib.blake2b()

    def flush():
        nonlocal tokens
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            tokens += len(encoding.ids)
            if level == "standard":
                ids_digest.update(b"".join(i.to_bytes(4, "little") for i in encoding.ids))
        batch.clear()

    with open(path, "rb") as file:
        for line_number, line in enumerate(file, 1):
            digest.update(line)
            if not line.strip():
                continue
            rows += 1
            try:
                row = json.loads(line)
            except ValueError:
                problems.append((line_number, "json"))
                continue
            found = check(row)
            problems += [(line_number, code) for code in found]
            if level == "quick" or found:
                continue
            texts = tuple(m["content"] for m in row["messages"])
            duplicates += seen.setdefault(hash(texts), line_number) != line_number
            batch.append(render(row["messages"]))
            if len(batch) == 1000:
                flush()
            if level == "deep":
                words = WORD.findall(" ".join(texts).lower())
                shingles = {hash(tuple(words[i : i + 5])) for i in range(len(words) - 4)}
                # 16 minimal hashes: a quarter of what hone takes, so that one run ends.
                minima = tuple(min(shingle * seed & 0xFFFFFFFF for shingle in shingles) for seed in range(3, 35, 2)) if shingles else ()
                for band in range(4):
                    signatures.setdefault((band, minima[band * 4 : band * 4 + 4]), []).append(line_number)
    if batch:
        flush()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "rows": rows, "problems": len(problems), "tokens": tokens, "ids": ids_digest.hexdigest()}))


main()
