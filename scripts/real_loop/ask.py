#!/usr/bin/env python3
"""Asks a hone server with the official `openai` client, not streaming and streaming.

    ask.py BASE_URL MODEL CHECKPOINT

Both replies must be the same greedy text, carry the stamp of CHECKPOINT (`checkpoint-N-<manifest>`), and end properly.
"""
import sys

import openai

QUESTION = [{"role": "user", "content": "Hi! How are you doing today?"}]


def main():
    base_url, model, checkpoint = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=300)
    names = [entry.id for entry in client.models.list()]
    assert model in names, f"/v1/models lists {names}, not {model}"
    options = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 48}

    whole = client.chat.completions.create(**options)
    stamped(whole.system_fingerprint, checkpoint)
    choice = whole.choices[0]
    assert choice.finish_reason in ("stop", "length"), choice.finish_reason
    assert choice.message.content.strip(), "the reply is empty"
    assert whole.usage.completion_tokens > 0

    texts, reasons = [], []
    for chunk in client.chat.completions.create(**options, stream=True):
        stamped(chunk.system_fingerprint, checkpoint)
        for part in chunk.choices:
            texts.append(part.delta.content or "")
            reasons += [part.finish_reason] if part.finish_reason else []
    assert reasons == [choice.finish_reason], reasons
    assert len(texts) > 2, "it did not stream"
    assert "".join(texts) == choice.message.content, ("".join(texts), choice.message.content)
    print(f"{whole.system_fingerprint} says: {choice.message.content!r}")


def stamped(fingerprint, checkpoint):
    assert fingerprint and fingerprint.startswith(checkpoint + "-"), f"stamped {fingerprint}, expected {checkpoint}-…"


main()
