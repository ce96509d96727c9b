"""The conformance table by OpenAI's own Python client: client.py URL cases.json. Prints failing cases, then a count."""

import json
import sys

import openai

KNOWN = {
    "model", "messages", "prompt", "temperature", "max_tokens", "max_completion_tokens", "top_p", "n", "stop", "seed",
    "stream", "stream_options", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs",
    "response_format", "tools", "tool_choice", "echo", "suffix", "best_of", "user", "store", "metadata", "service_tier",
}
ERRORS = {400: openai.BadRequestError, 404: openai.NotFoundError, 401: openai.AuthenticationError}


def step(value, part):
    if isinstance(value, list):
        return value[int(part)]
    return value[part]


def matches(expected, value, path):
    missing = object()
    try:
        for part in path.split("."):
            value = step(value, part)
    except (KeyError, IndexError, TypeError, ValueError):
        value = missing
    if isinstance(expected, dict) and len(expected) == 1:
        name, wanted = next(iter(expected.items()))
        if name == "absent":
            # The client shows a field that did not come as None.
            return value is missing or value is None
        rules = {
            "starts": lambda: value.startswith(wanted),
            "ends": lambda: value.endswith(wanted),
            "has": lambda: wanted in value,
            "len": lambda: len(value) == wanted,
            "type": lambda: isinstance(value, {"string": str, "number": (int, float), "object": dict, "null": type(None)}[wanted]),
            "near": lambda: abs(value - wanted) < 0.005,
            "in": lambda: value in wanted,
            "below": lambda: value < wanted,
            "json": lambda: json.loads(value) is not None,
        }
        if name in rules:
            return value is not missing and rules[name]()
    return value == expected


def call(client, case, body):
    if case["method"] == "GET":
        if case["path"] == "/v1/models":
            return client.models.list()
        return client.models.retrieve(case["path"].removeprefix("/v1/models/"))
    known = {key: value for key, value in body.items() if key in KNOWN and value is not None}
    extra = {key: value for key, value in body.items() if key not in KNOWN or value is None}
    create = client.chat.completions.create if "chat" in case["path"] else client.completions.create
    return create(**known, extra_body=extra)


def collect(stream):
    events = [chunk.model_dump(exclude_unset=True) for chunk in stream]
    joined = []
    for event in events:
        for choice in event["choices"]:
            while len(joined) <= choice["index"]:
                joined.append({"content": "", "finish_reason": None, "tool_calls": None})
            one = joined[choice["index"]]
            delta = choice.get("delta") or {}
            one["content"] += delta.get("content") or choice.get("text") or ""
            one["finish_reason"] = choice.get("finish_reason") or one["finish_reason"]
            for part in delta.get("tool_calls") or []:
                one["tool_calls"] = one["tool_calls"] or []
                if len(one["tool_calls"]) == part["index"]:
                    one["tool_calls"].append({"name": part["function"]["name"], "arguments": ""})
                one["tool_calls"][part["index"]]["arguments"] += part["function"].get("arguments") or ""
    return {"events": events, "joined": joined, "content": joined[0]["content"] if joined else ""}


def text_of(choice):
    return (choice["message"]["content"] if "message" in choice else choice["text"]) or ""


def as_stream(client, case, whole):
    body = case["body"]
    if body.get("seed") is None and body.get("temperature") != 0:
        return
    stream = collect(call(client, case, {**body, "stream": True}))
    for choice, streamed in zip(whole["choices"], stream["joined"], strict=True):
        assert text_of(choice) == streamed["content"], f"streamed {streamed['content']!r}, whole {text_of(choice)!r}"
        assert choice["finish_reason"] == streamed["finish_reason"], "streamed finish_reason differs"
        calls = (choice.get("message") or {}).get("tool_calls") or []
        functions = [{"name": c["function"]["name"], "arguments": c["function"]["arguments"]} for c in calls]
        assert functions == (streamed["tool_calls"] or []), "streamed tool calls differ"


def run(client, case):
    try:
        answer = call(client, case, case["body"] or {})
        if (case["body"] or {}).get("stream") is True:
            body = collect(answer)
        else:
            body = answer.model_dump(exclude_unset=True)
        status = 200
    except openai.APIStatusError as error:
        status = error.status_code
        body = {"error": error.body}
        assert isinstance(error, ERRORS.get(status, openai.APIStatusError)), f"raised {type(error)}"
    assert status == case["status"], f"status {status}, expected {case['status']}: {body}"
    for path, expected in case["expect"].items():
        assert matches(expected, body, path), f"{path}: expected {expected} in {body}"
    if status == 200 and case["method"] == "POST" and not case["body"].get("stream"):
        as_stream(client, case, body)


def main():
    url, path = sys.argv[1:]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    cases = [case for case in cases if not case["only"] or "python" in case["only"]]
    held = 0
    for case in cases:
        try:
            run(client, case)
            held += 1
        except AssertionError as error:
            print(f"{case['name']}: {error}")
    print(f"{held} of {len(cases)} cases hold for openai {openai.__version__}")
    sys.exit(held < len(cases))


main()
