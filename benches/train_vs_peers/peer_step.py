"""The same step as `train_step_bench`, by PyTorch + transformers; prints one line of JSON.

    peer_step.py --model DIR --rows R --length L --steps N --threads T --attention sdpa|eager [--lora RANK]

The first step is not counted. Step `s`, row `r`, position `p` is the id (s*7919 + r*31 + p*17 + 1) mod vocabulary.
"""
import argparse
import json
import resource
import time

import torch
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser()
    for name in ("--rows", "--length", "--steps", "--threads"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--attention", required=True)
    parser.add_argument("--lora", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.float32, attn_implementation=arguments.attention
    )
    model.train()
    model.config.use_cache = False
    if arguments.lora:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=arguments.lora, lora_alpha=2 * arguments.lora, lora_dropout=0.0, target_modules="all-linear")
        model = get_peft_model(model, lora)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.999), eps=1e-8, fused=True)
    vocabulary = model.config.vocab_size
    losses, seconds, cpu_seconds = [], [], []
    for step in range(arguments.steps + 1):
        rows = torch.arange(arguments.rows)[:, None] * 31 + torch.arange(arguments.length)[None, :] * 17
        ids = (rows + step * 7919 + 1) % vocabulary
        start, cpu_start = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step > 0:
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    seconds.sort()
    cpu_seconds.sort()
    tokens = arguments.rows * arguments.length
    result = {
        "attention": arguments.attention,
        "threads": arguments.threads,
        "parameters": sum(p.numel() for p in parameters),
        "tokens_per_s": tokens / seconds[len(seconds) // 2],
        "best_tokens_per_s": tokens / seconds[0],
        "step_ms": seconds[len(seconds) // 2] * 1e3,
        "cpu_ms": cpu_seconds[len(cpu_seconds) // 2] * 1e3,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "losses": losses,
    }
    print(json.dumps(result))


main()
