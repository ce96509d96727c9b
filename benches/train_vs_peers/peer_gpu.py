"""Training steps of PyTorch + transformers on a GPU, as its users run them: f32 master weights, bf16 autocast, sdpa attention, fused AdamW,
gradient clipping. Prints one line of JSON.

    peer_gpu.py --rows R --length L --micro ROWS --steps N [--compile] [--lora RANK] [--rows-file FILE [--packing]] [--device cuda|cpu]

A model of the shape of Qwen/Qwen3-0.6B with random weights (on the processor a toy); the batches are those of train_step_bench. The first
steps (two, and all that torch.compile takes) are not counted. With a file (lines of {"ids", "trained"}) each step takes the next R rows,
the longest first, pads ROWS of them at a time or packs them into micro-batches of ROWS · L tokens (positions that begin again, from which
transformers makes a mask of blocks), and trained tokens are counted.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

parser = argparse.ArgumentParser()
for name in ("rows", "length", "micro", "steps"):
    parser.add_argument(f"--{name}", type=int, required=True)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--lora", type=int)
parser.add_argument("--rows-file")
parser.add_argument("--packing", action="store_true")
parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
arguments = parser.parse_args()
is_gpu = arguments.device == "cuda"

torch.manual_seed(0)
torch.set_float32_matmul_precision("high")
shape = {
    "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
}
if not is_gpu:
    shape |= {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "head_dim": 64}
config = Qwen3Config(**shape)
model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().to(arguments.device).train()
model.config.use_cache = False
if arguments.lora:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(r=arguments.lora, lora_alpha=2 * arguments.lora, target_modules="all-linear"))
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
forward = torch.compile(model) if arguments.compile else model


def plain(step):
    """Micro-batches of rows of one length, each a dict of the model's inputs."""
    position = torch.arange(arguments.length)
    rows = [(step * 7919 + row * 31 + position * 17 + 1) % config.vocab_size for row in range(arguments.rows)]
    return [{"input_ids": ids, "labels": ids} for ids in torch.stack(rows).split(arguments.micro)]


def padded(rows):
    for first in range(0, len(rows), arguments.micro):
        part = rows[first : first + arguments.micro]
        pad = lambda values, fill: torch.tensor([row + [fill] * (len(part[0]["ids"]) - len(row)) for row in values])
        ids = [row["ids"] for row in part]
        is_real = pad([[1] * len(row) for row in ids], 0)
        yield {"input_ids": pad(ids, 0), "labels": pad([labels(row) for row in part], -100), "attention_mask": is_real}


def packed(rows):
    """Each row into the first micro-batch with room for it."""
    room, packs = arguments.micro * arguments.length, []
    for row in rows:
        place = next((pack for pack in packs if sum(len(each["ids"]) for each in pack) + len(row["ids"]) <= room), None)
        if place is None:
            packs.append(place := [])
        place.append(row)
    for pack in packs:
        if arguments.compile:
            # One shape for all: what is left is a row that nobody learns from.
            rest = room - sum(len(row["ids"]) for row in pack)
            pack = [*pack, {"ids": [0] * rest, "trained": [0] * rest}]
        flat = lambda lists: torch.tensor([[value for values in lists for value in values]])
        yield {
            "input_ids": flat(row["ids"] for row in pack), "labels": flat(labels(row) for row in pack),
            "position_ids": flat(range(len(row["ids"])) for row in pack),
        }


def labels(row):
    return [token if is_trained else -100 for token, is_trained in zip(row["ids"], row["trained"])]


def micro_batches(step):
    if not arguments.rows_file:
        return plain(step)
    rows = sorted(all_rows[step * arguments.rows :][: arguments.rows], key=lambda row: -len(row["ids"]))
    return list((packed if arguments.packing else padded)(rows))


def train_step(parts, tokens):
    total = 0.0
    for part in parts:
        part = {name: values.to(arguments.device) for name, values in part.items()}
        # A processor without bf16 takes minutes for it.
        with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=is_gpu):
            loss = forward(**part, num_items_in_batch=tokens).loss
        loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total.item()


def wait():
    if is_gpu:
        torch.cuda.synchronize()


if arguments.rows_file:
    with open(arguments.rows_file) as file:
        all_rows = [json.loads(line) for line in file]
losses, seconds, speeds = [], [], []
for step in range(arguments.steps + 2):
    parts = micro_batches(step)
    tokens = sum(int((part["labels"][:, 1:] != -100).sum()) for part in parts)
    wait()
    begun = time.perf_counter()
    losses.append(train_step(parts, tokens))
    wait()
    if step >= 2:
        seconds.append(time.perf_counter() - begun)
        speeds.append((tokens if arguments.rows_file else arguments.rows * arguments.length) / seconds[-1])
median = lambda values: sorted(values)[len(values) // 2]
free, total = torch.cuda.mem_get_info() if is_gpu else (0, 0)
print(json.dumps({
    "work": f"torch {'compile' if arguments.compile else 'eager'} {'qwen3-0.6b' if is_gpu else 'toy'} {arguments.rows}x{arguments.length} by {arguments.micro}"
            + (f", LoRA {arguments.lora}" if arguments.lora else "")
            + ("" if not arguments.rows_file else ", packed" if arguments.packing else ", padded"),
    "device": torch.cuda.get_device_name() if is_gpu else "cpu", "torch": torch.__version__,
    "tokens_per_s": median(speeds), "step_ms": median(seconds) * 1e3, "losses": losses,
    "gpu_memory_bytes": total - free, "peak_allocated_bytes": torch.cuda.max_memory_allocated() if is_gpu else 0,
}))
