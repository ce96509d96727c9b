#!/usr/bin/env python3
"""Asks a running hone server with the official OpenAI client, streaming and not.

    pip install openai
    python scripts/openai_client_check.py http://127.0.0.1:8765 [--model NAME] [--checkpoint checkpoint-N] [--key KEY]

Checks that both ways give the same greedy answer, that usage and finish reasons are there, that every answer and
every chunk carries the same checkpoint, and that errors arrive as the client's own exceptions. Prints the answer and
the checkpoint as one line of JSON. Exit code 0 when all holds, 1 with the reason when not.
"""

import argparse
import json
import sys

import openai


def check(condition, message):
    if not condition:
        sys.exit(f"openai_client_check: {message}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url", help="base URL of the server, without /v1")
    parser.add_argument("--model", help="the served name; default: the one that the server lists")
    parser.add_argument("--checkpoint", help="the checkpoint that must answer, e.g. checkpoint-100")
    parser.add_argument("--key", default="none", help="read key, where the server has keys")
    parser.add_argument("--prompt", default="Hello! How are you?")
    parser.add_argument("--max-tokens", type=int, default=32)
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url.rstrip("/") + "/v1", api_key=args.key, max_retries=0, timeout=300)

    listed = [model.id for model in client.models.list()]
    check(len(listed) == 1, f"the server lists {listed}, not one model")
    model = args.model or listed[0]
    check(model == listed[0], f"the server serves {listed[0]}, not {model}")
    check(client.models.retrieve(model).id == model, "the model cannot be retrieved by its name")

    request = dict(
        model=model,
        messages=[{"role": "user", "content": args.prompt}],
        temperature=0,
        max_tokens=args.max_tokens,
    )
    whole = client.chat.completions.create(**request)
    answer = whole.choices[0].message.content
    stamp = whole.system_fingerprint
    check(whole.choices[0].message.role == "assistant", "the role is not assistant")
    check(whole.choices[0].finish_reason in ("stop", "length"), f"finish_reason is {whole.choices[0].finish_reason}")
    check(whole.usage.prompt_tokens > 0 and 0 < whole.usage.completion_tokens <= args.max_tokens, f"usage is {whole.usage}")
    check(whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, "usage does not add up")
    check(stamp and stamp.startswith("checkpoint-"), f"system_fingerprint is {stamp!r}")
    if args.checkpoint:
        check(stamp.startswith(args.checkpoint + "-"), f"{stamp} answered, not {args.checkpoint}")

    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    check({chunk.system_fingerprint for chunk in chunks} == {stamp}, "chunks carry different checkpoints")
    check(chunks[0].choices[0].delta.role == "assistant", "the first chunk does not carry the role")
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    check(streamed == answer, f"streamed {streamed!r}, whole {answer!r}")
    check(chunks[-1].usage == whole.usage, f"streamed usage {chunks[-1].usage}, whole {whole.usage}")
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    check(reasons == [whole.choices[0].finish_reason], f"streamed finish reasons {reasons}")

    drawn = client.chat.completions.create(**{**request, "temperature": 1, "seed": 7, "n": 2, "logprobs": True, "top_logprobs": 2})
    check(len(drawn.choices) == 2, "n = 2 did not give two choices")
    check(drawn.choices[0].logprobs.content is not None, "logprobs are missing")
    completion = client.completions.create(model=model, prompt="Once", max_tokens=4, temperature=0)
    check(completion.choices[0].finish_reason in ("stop", "length"), "the completion has no finish reason")

    for expected, change in [
        (openai.NotFoundError, {"model": "no-such-model"}),
        (openai.BadRequestError, {"temperature": 9}),
        (openai.BadRequestError, {"max_tokens": 10**9}),
    ]:
        try:
            client.chat.completions.create(**{**request, **change})
        except expected as error:
            check(error.body and error.body.get("message"), f"{change}: the error has no message")
        else:
            sys.exit(f"openai_client_check: {change} was not refused")

    print(json.dumps({"checkpoint": stamp.rsplit("-", 1)[0], "system_fingerprint": stamp, "answer": answer}))


if __name__ == "__main__":
    main()
