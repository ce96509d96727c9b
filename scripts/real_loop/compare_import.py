#!/usr/bin/env python3
"""Holds what `hone model import` made against its independent twin `scripts/gguf_to_hf.py`, tensor by tensor.

    compare_import.py HONE_DIR TWIN_DIR
"""
import json
import os
import sys

import torch
from safetensors.torch import load_file


def main():
    ours, twin = sys.argv[1:]
    a, b = (load_file(os.path.join(folder, "model.safetensors")) for folder in (ours, twin))
    if sorted(a) != sorted(b):
        sys.exit(f"the names of tensors differ: {sorted(set(a) ^ set(b))[:10]}")
    for name in a:
        if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name]):
            sys.exit(f"{name} differs")
    tokenizers = [json.load(open(os.path.join(folder, "tokenizer.json"), encoding="utf-8")) for folder in (ours, twin)]
    if tokenizers[0] != tokenizers[1]:
        keys = [key for key in tokenizers[1] if tokenizers[0].get(key) != tokenizers[1][key]]
        sys.exit(f"tokenizer.json differs in {keys}")
    print(f"import: {len(a)} tensors and the tokenizer equal the twin's")


main()
