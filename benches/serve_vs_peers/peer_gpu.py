"""Decoding by transformers or vLLM, with random weights in bf16: one line of JSON, as `decode_bench` prints it.

    peer_gpu.py [--engine transformers|transformers-static|vllm] [--device cuda|cpu] [--tiny] [--streams N] [--context N] [--tokens N]

The shape is Qwen3-0.6B's (`--tiny`: a toy, for trying the script without a GPU). A step's time is that of so many tokens less that
of one, so that the prompt is left out. `transformers-static` has the static cache, which transformers compiles on a GPU.
"""
import argparse
import json
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--engine", choices=("transformers", "transformers-static", "vllm"), default="transformers")
parser.add_argument("--device", default="cuda")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--streams", type=int, default=1)
parser.add_argument("--context", type=int, default=128)
parser.add_argument("--tokens", type=int, default=64)
args = parser.parse_args()

SHAPE = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "rope_theta": 1e6, "hidden_act": "silu", "torch_dtype": "bfloat16",
}
if args.tiny:
    SHAPE |= {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
PROMPTS = [[position * 17 % SHAPE["vocab_size"] for position in range(args.context)]] * args.streams


def by_transformers(is_static):
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    torch.manual_seed(1)
    config = Qwen3Config(**{key: value for key, value in SHAPE.items() if key not in ("architectures", "model_type", "torch_dtype")})
    config._attn_implementation = "sdpa"
    with torch.device(args.device):
        model = Qwen3ForCausalLM(config).to(torch.bfloat16).eval()
    if args.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    ids = torch.tensor(PROMPTS, device=args.device)
    more = {"cache_implementation": "static"} if is_static else {}

    def generate(count):
        with torch.no_grad():
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=0, eos_token_id=None, **more)
        if args.device == "cuda":
            torch.cuda.synchronize()

    return generate, lambda: torch.cuda.max_memory_allocated() if args.device == "cuda" else None


def by_vllm():
    import vllm
    folder = tempfile.TemporaryDirectory()
    with open(f"{folder.name}/config.json", "w") as file:
        json.dump(SHAPE, file)
    engine = vllm.LLM(folder.name, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=args.context + args.tokens + 1, enable_prefix_caching=False)

    def generate(count):
        settings = vllm.SamplingParams(temperature=0.0, min_tokens=count, max_tokens=count, ignore_eos=True, detokenize=False)
        engine.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], settings, use_tqdm=False)

    return generate, lambda: None


def timed(generate, count):
    begun = time.perf_counter()
    generate(count)
    return time.perf_counter() - begun


generate, memory = by_vllm() if args.engine == "vllm" else by_transformers(args.engine == "transformers-static")
for count in (1, args.tokens + 1):
    generate(count)
one = sorted(timed(generate, 1) for _ in range(3))[1]
all_tokens = sorted(timed(generate, args.tokens + 1) for _ in range(3))[1]
step = (all_tokens - one) / args.tokens
print(json.dumps({"engine": args.engine, "step_ms": step * 1e3, "tokens_per_s": args.streams / step, "prompt_tokens_per_s": args.streams * args.context / one, "gpu_memory_bytes": memory()}))
