#!/usr/bin/env python3
"""Makes crates/hone-model/testdata/gguf anew: small GGUF files and what importing them must give.

    pip install numpy gguf==0.19.0
    python scripts/make_gguf_fixtures.py

For each NAME: NAME.gguf, NAME.json (config, tokenizer, tokenizer_config, generation_config, source) and NAME.safetensors, made
by scripts/gguf_to_hf.py, which uses the `gguf` package of llama.cpp to dequantise. The tensors are held against a second way
as well: quantised and dequantised in Hugging Face order, never permuted.
"""
import hashlib, json, os, sys, tempfile

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gguf_to_hf as twin

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crates", "hone-model", "testdata", "gguf")
Q = gguf.GGMLQuantizationType
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER = 32, 4, 2, 8, 64
BASE = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["\u0120", "\u010a", "!", "."]
MERGES = ["t h", "th e", "\u0120 the", "i n", "in g"]
MADE = ["th", "the", "\u0120the", "in", "ing"]


def permute(w, heads):
    """Hugging Face order of llama's query and key rows to llama.cpp's, as llama.cpp's converter does it."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def vocabulary(special_first):
    """Tokens and types: the special tokens first (SmolLM2) or last (Qwen); one user-defined token, one unused."""
    normal = LETTERS + MADE
    special, extra = BASE, ["<think>"]
    tokens = special + normal + extra if special_first else normal + special + extra
    kind = {**{t: 3 for t in special}, **{t: 4 for t in extra}}
    tokens = tokens + ["[PAD0]"]
    return tokens, [5 if t == "[PAD0]" else kind.get(t, 1) for t in tokens]


def make(name, arch, pre, special_first, types, head, seed):
    rng = np.random.default_rng(seed)
    tokens, kinds = vocabulary(special_first)
    writer = gguf.GGUFWriter(os.path.join(OUT, name + ".gguf"), arch)
    writer.add_name("Tiny " + name)
    writer.add_license("apache-2.0")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6 if arch != "llama" else 1e-5)
    if arch == "qwen3":
        writer.add_key_length(HEAD_DIM)
        writer.add_value_length(HEAD_DIM)
    if arch != "qwen2":
        writer.add_rope_freq_base(1000000.0 if arch == "qwen3" else 130000.0)
    writer.add_array("general.languages", ["en"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(MERGES)
    if arch != "qwen2":
        writer.add_bos_token_id(tokens.index("<|im_start|>"))
        writer.add_unk_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    if pre != "llama-bpe":
        writer.add_chat_template(TEMPLATE)
    else:
        writer.add_add_bos_token(True)

    expected = {}

    def tensor(ours, theirs, shape, kind=None):
        w = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
        if kind is None:
            w = w + np.float32(1.0) if "norm" in ours else w
            kind = Q.F32
        data = quantize(w, kind)
        expected[theirs] = np.asarray(dequantize(data, kind), np.float32).reshape(shape)
        if arch == "llama" and ours.split(".")[-2] in ("attn_q", "attn_k"):
            data = permute(data, HEADS if "attn_q" in ours else KV_HEADS)
        writer.add_tensor(ours, np.ascontiguousarray(data), raw_dtype=kind)
        return w

    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    embedding = tensor("token_embd.weight", "model.embed_tokens.weight", (len(tokens), HIDDEN), types[0])
    layer = "model.layers.0."
    tensor("blk.0.attn_norm.weight", layer + "input_layernorm.weight", (HIDDEN,))
    for part, rows, kind in (("q", q, types[1]), ("k", kv, types[2]), ("v", kv, types[3])):
        tensor(f"blk.0.attn_{part}.weight", f"{layer}self_attn.{part}_proj.weight", (rows, HIDDEN), kind)
        if arch == "qwen2":
            tensor(f"blk.0.attn_{part}.bias", f"{layer}self_attn.{part}_proj.bias", (rows,))
        if arch == "qwen3" and part != "v":
            tensor(f"blk.0.attn_{part}_norm.weight", f"{layer}self_attn.{part}_norm.weight", (HEAD_DIM,))
    tensor("blk.0.attn_output.weight", layer + "self_attn.o_proj.weight", (HIDDEN, q), types[4])
    tensor("blk.0.ffn_norm.weight", layer + "post_attention_layernorm.weight", (HIDDEN,))
    tensor("blk.0.ffn_gate.weight", layer + "mlp.gate_proj.weight", (INNER, HIDDEN), types[5])
    tensor("blk.0.ffn_up.weight", layer + "mlp.up_proj.weight", (INNER, HIDDEN), types[6])
    tensor("blk.0.ffn_down.weight", layer + "mlp.down_proj.weight", (HIDDEN, INNER), types[7])
    tensor("output_norm.weight", "model.norm.weight", (HIDDEN,))
    if head == "same":  # the embedding quantised a second time, finer: it becomes the embedding
        data = quantize(embedding, Q.Q8_0)
        writer.add_tensor("output.weight", data, raw_dtype=Q.Q8_0)
        expected["model.embed_tokens.weight"] = np.asarray(dequantize(data, Q.Q8_0), np.float32).reshape(embedding.shape)
    if head == "other":
        tensor("output.weight", "lm_head.weight", embedding.shape, types[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def golden(name, expected):
    path = os.path.join(OUT, name + ".gguf")
    reader = gguf.GGUFReader(path)
    kv = {k: f.contents() for k, f in reader.fields.items()}
    weights = twin.convert_weights(reader, kv, "auto")
    assert sorted(weights) == sorted(expected), name
    for key, w in expected.items():
        assert np.array_equal(w, weights[key]), (name, key)
    twin.save(weights, os.path.join(OUT, name + ".safetensors"), "f32")
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["gguf_to_hf.py", path, folder]
        twin.main()
        read = lambda file: json.load(open(os.path.join(folder, file), encoding="utf-8"))
        value = {"config": read("config.json"), "tokenizer": read("tokenizer.json"),
                 "tokenizer_config": read("tokenizer_config.json"), "generation_config": read("generation_config.json"),
                 "source": read("SOURCE.json")}
    with open(os.path.join(OUT, name + ".json"), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


F32, F16, BF16, Q8, Q40, Q41 = Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1
os.makedirs(OUT, exist_ok=True)
golden("llama_smollm", make("llama_smollm", "llama", "smollm", True, [Q41, Q41, Q8, Q40, F16, BF16, F32, Q41], "same", 1))
golden("llama3_untied", make("llama3_untied", "llama", "llama-bpe", False, [Q8, F32, F16, Q8, Q8, Q8, Q8, Q8], "other", 2))
golden("qwen2", make("qwen2", "qwen2", "qwen2", False, [Q8, Q40, Q40, Q8, Q40, Q8, Q41, Q8], "none", 3))
golden("qwen3", make("qwen3", "qwen3", "qwen2", False, [F16, Q8, Q8, F16, Q8, Q8, Q8, Q8], "none", 4))
