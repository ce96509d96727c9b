#!/usr/bin/env python3
"""Holds a LoRA checkpoint of hone against peft and transformers.

    pip install torch transformers peft
    python scripts/peft_adapter_check.py CHECKPOINT [BASE]

The base model with `CHECKPOINT/adapter` loaded by peft must give the logits of the merged weights in CHECKPOINT itself.
BASE is by default the folder that the adapter's configuration names. Then peft saves the adapter again, into
CHECKPOINT.peft, for `hone`'s own reader.
"""
import json, os, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

checkpoint = sys.argv[1].rstrip("/")
with open(os.path.join(checkpoint, "adapter", "adapter_config.json")) as file:
    config = json.load(file)
base = sys.argv[2] if len(sys.argv) > 2 else config["base_model_name_or_path"]
load = lambda folder: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
merged, plain = load(checkpoint), load(base)
gen = torch.Generator().manual_seed(1)
ids = torch.randint(5, merged.config.vocab_size, (2, 48), generator=gen)
with torch.no_grad():
    without = plain(ids).logits
    adapted = PeftModel.from_pretrained(plain, os.path.join(checkpoint, "adapter")).eval()
    found, expected = adapted(ids).logits, merged(ids).logits
distance = lambda a, b: float((a - b).norm() / b.norm())
print(f"adapter over base against merged weights: {distance(found, expected):.2e}; base alone: {distance(without, expected):.2e}")
adapted.save_pretrained(checkpoint + ".peft")
assert distance(found, expected) < (1e-5 if merged.config.dtype in (None, torch.float32) else 2e-2)
assert distance(without, expected) > 1e-4, "the adapter changes nothing"
