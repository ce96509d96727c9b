"""Training steps of PyTorch + transformers on a GPU, as its users run them: f32 master weights, bf16 autocast, sdpa attention, fused AdamW,
gradient clipping. Prints one line of JSON.

    peer_gpu.py --rows R --length L --micro ROWS --steps N [--compile] [--lora RANK]

A model of the shape of Qwen/Qwen3-0.6B with random weights; the batches are those of train_step_bench. The first steps (two, and all that
torch.compile takes) are not counted.
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
arguments = parser.parse_args()

torch.manual_seed(0)
torch.set_float32_matmul_precision("high")
config = Qwen3Config(
    vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
    num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, rms_norm_eps=1e-6, tie_word_embeddings=True,
)
model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().cuda().train()
model.config.use_cache = False
if arguments.lora:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(r=arguments.lora, lora_alpha=2 * arguments.lora, target_modules="all-linear"))
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
forward = torch.compile(model) if arguments.compile else model


def batch(step):
    position = torch.arange(arguments.length)
    rows = [(step * 7919 + row * 31 + position * 17 + 1) % config.vocab_size for row in range(arguments.rows)]
    return torch.stack(rows).cuda()


def train_step(step):
    ids = batch(step)
    tokens = arguments.rows * (arguments.length - 1)
    total = 0.0
    for part in ids.split(arguments.micro):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = forward(input_ids=part, labels=part, num_items_in_batch=tokens).loss
        loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total.item()


losses, seconds = [], []
for step in range(arguments.steps + 2):
    torch.cuda.synchronize()
    begun = time.perf_counter()
    losses.append(train_step(step))
    torch.cuda.synchronize()
    if step >= 2:
        seconds.append(time.perf_counter() - begun)
seconds.sort()
step_s = seconds[len(seconds) // 2]
free, total = torch.cuda.mem_get_info()
print(json.dumps({
    "work": f"torch {'compile' if arguments.compile else 'eager'} qwen3-0.6b {arguments.rows}x{arguments.length} by {arguments.micro}"
            + (f", LoRA {arguments.lora}" if arguments.lora else ""),
    "device": torch.cuda.get_device_name(), "torch": torch.__version__,
    "tokens_per_s": arguments.rows * arguments.length / step_s, "step_ms": step_s * 1e3, "losses": losses,
    "gpu_memory_bytes": total - free, "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
}))
