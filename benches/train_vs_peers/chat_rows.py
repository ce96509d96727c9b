"""Writes chat rows as token ids: `chat_rows.py DATASET.json MODEL_DIR OUT.jsonl COUNT MAX_LENGTH`.

DATASET.json is the one of the `chitchat-dataset` package (conversations of two people, in turns of several short
messages). Whoever speaks first is the user, the other the assistant. Each line of the output is {"ids", "trained"}: the
conversation under the model's own chat template, and 1 for each token of an assistant turn, its end token included.
Rows longer than MAX_LENGTH are left out, none is cut.
"""
import json
import sys

from transformers import AutoTokenizer


def main():
    dataset, model, out, count, max_length = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(model)
    with open(dataset) as file:
        conversations = json.load(file)
    rows = []
    for conversation in conversations.values():
        row = encode(tokenizer, turns(conversation))
        if row and len(row["ids"]) <= int(max_length):
            rows.append(row)
        if len(rows) == int(count):
            break
    with open(out, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def turns(conversation):
    """[{role, content}], ending with the assistant."""
    messages = []
    user = None
    for turn in conversation["messages"]:
        for message in turn:
            user = user or message["sender"]
            role = "user" if message["sender"] == user else "assistant"
            if messages and messages[-1]["role"] == role:
                messages[-1]["content"] += "\n" + message["text"]
            else:
                messages.append({"role": role, "content": message["text"]})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return messages


def encode(tokenizer, messages):
    if len(messages) < 2:
        return None
    render = lambda messages, prompt: tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    text, ids, trained = "", [], []

    def add(rendered, train):
        nonlocal text
        assert rendered.startswith(text), "a template whose prefixes grow"
        part = tokenizer(rendered[len(text):], add_special_tokens=False)["input_ids"]
        text = rendered
        ids.extend(part)
        trained.extend([train] * len(part))

    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        add(render(messages[:i], True), 0)
        # The turn with its end token; what the template puts after it is not trained.
        whole = render(messages[: i + 1], False)
        add(whole[: whole.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)], 1)
    return {"ids": ids, "trained": trained}


main()
