#!/usr/bin/env python3
"""Mean negative log-likelihood of the assistant's tokens of a `chat_sft_v1` file, by transformers in f32.

    hf_nll.py MODEL_DIR FILE

A token of the rendered conversation counts when it lies between the rendered prompt of an assistant's turn (with
generation prompt) and the end of that turn's end token. Prints {"mean_nll", "trained_tokens", "rows"}.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    folder, path = sys.argv[1:]
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    nll, count, rows = 0.0, 0, 0
    with open(path, encoding="utf-8") as file, torch.inference_mode():
        for line in file:
            ids, trained = encode(tokenizer, json.loads(line)["messages"])
            losses = torch.nn.functional.cross_entropy(
                model(torch.tensor([ids])).logits[0, :-1].double(), torch.tensor(ids[1:]), reduction="none"
            )
            mask = torch.tensor(trained[1:])
            nll += losses[mask].sum().item()
            count += int(mask.sum())
            rows += 1
    print(json.dumps({"mean_nll": nll / count, "trained_tokens": count, "rows": rows}))


def encode(tokenizer, messages):
    render = lambda part, prompt: tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=prompt)
    text = render(messages, False)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            start = len(render(messages[:index], True))
            upto = render(messages[: index + 1], False)
            assert text.startswith(upto) and text.startswith(render(messages[:index], True)), "prefixes are prefixes"
            spans.append((start, len(upto.rstrip())))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = lambda a, b: any(start <= a and b <= end for start, end in spans)
    return encoded["input_ids"], [inside(a, b) for a, b in encoded["offset_mapping"]]


main()
