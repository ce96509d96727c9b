#!/usr/bin/env python3
"""Reference values for the tests of crates/hone-model: tiny decoder models computed with PyTorch and transformers
(and peft for LoRA).

    pip install torch==2.15.0 transformers==5.24.0 peft safetensors numpy
    python scripts/make_reference.py crates/hone-model/testdata/reference

For each family it writes OUT_DIR/<name>/:
  model/            a Hugging Face directory (config.json, model.safetensors, f32, random weights, fixed seed)
  batch.safetensors input_ids [B,T] i64, labels [B,T] i64 (-100 = not trained; not shifted), position_ids [B,T] i64,
                    segment_ids [B,T] i64 (rows are packed: attention stays inside a segment, positions restart)
  expect.safetensors logits [B,T,V] f32; grad.<parameter> f32 (of the mean loss over trained tokens);
                    after.<parameter> f32 (after the three optimizer steps below); for LoRA also
                    lora_grad.<parameter> and lora_after.<parameter> (three steps, weight decay 0.1 on all of them)
  expect.json       loss, losses of 3 steps of AdamW(lr 1e-2, betas 0.9/0.999, eps 1e-8, weight decay 0.1 on every
                    parameter with 2 dimensions or more) with gradient norm clipped to 1.0, the norms before clipping,
                    greedy continuation of a prompt with the margin of each choice, and versions
The loss is the sum over trained tokens divided by their number, tokens predicted from their left context only.
"""
import json, os, sys
import numpy as np
import torch, transformers
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

torch.set_num_threads(2)
V = 160
COMMON = dict(vocab_size=V, num_hidden_layers=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
FAMILIES = {
    "llama_tied": (LlamaForCausalLM, LlamaConfig(hidden_size=48, intermediate_size=112, num_attention_heads=6,
                   num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, rms_norm_eps=1e-5,
                   rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, **COMMON)),
    "llama3_rope": (LlamaForCausalLM, LlamaConfig(hidden_size=48, intermediate_size=112, num_attention_heads=6,
                   num_key_value_heads=2, head_dim=8, tie_word_embeddings=False, rms_norm_eps=1e-5,
                   rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                    "high_freq_factor": 4.0, "original_max_position_embeddings": 32}, **COMMON)),
    "llama_linear_rope": (LlamaForCausalLM, LlamaConfig(hidden_size=48, intermediate_size=112, num_attention_heads=6,
                   num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, rms_norm_eps=1e-5,
                   rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}, **COMMON)),
    "qwen3_yarn_rope": (Qwen3ForCausalLM, Qwen3Config(hidden_size=64, intermediate_size=144, num_attention_heads=4,
                   num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, rms_norm_eps=1e-6,
                   rope_parameters={"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
                                    "original_max_position_embeddings": 32}, **COMMON)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(hidden_size=64, intermediate_size=144, num_attention_heads=4,
                   num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-6,
                   rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **COMMON)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(hidden_size=64, intermediate_size=144, num_attention_heads=4,
                   num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, rms_norm_eps=1e-6,
                   rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **COMMON)),
    "qwen3_untied": (Qwen3ForCausalLM, Qwen3Config(hidden_size=64, intermediate_size=144, num_attention_heads=4,
                   num_key_value_heads=1, head_dim=16, tie_word_embeddings=False, rms_norm_eps=1e-6,
                   rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **COMMON)),
}


def batch(gen):
    """Two rows of 40: lengths 23+17 and 40; a third of the tokens trained."""
    ids = torch.randint(3, V, (2, 40), generator=gen)
    seg = torch.zeros(2, 40, dtype=torch.long)
    seg[0, 23:] = 1
    pos = torch.arange(40).repeat(2, 1)
    pos[0, 23:] = torch.arange(17)
    labels = ids.clone()
    train = torch.rand(2, 40, generator=gen) < 0.4
    labels[~train] = -100
    labels[0, 0] = labels[0, 23] = labels[1, 0] = -100          # the first token of a segment has no left context
    return ids, labels, pos, seg


def mask4d(seg):
    t = seg.shape[1]
    same = seg[:, :, None] == seg[:, None, :]
    causal = torch.tril(torch.ones(t, t, dtype=torch.bool))
    allow = (same & causal)[:, None]
    return torch.zeros(allow.shape).masked_fill(~allow, torch.finfo(torch.float32).min)


def loss_of(model, ids, labels, pos, seg):
    logits = model(input_ids=ids, position_ids=pos, attention_mask=mask4d(seg), use_cache=False).logits
    lp = torch.log_softmax(logits[:, :-1].float(), -1)
    target = labels[:, 1:]
    keep = target != -100
    nll = -lp.gather(-1, target.clamp(min=0)[..., None])[..., 0]
    return (nll * keep).sum() / keep.sum(), logits


def main(out):
    for name, (cls, cfg) in FAMILIES.items():
        cfg._attn_implementation = "eager"
        torch.manual_seed(20251125)
        model = cls(cfg).float()
        with torch.no_grad():                                    # make norms and biases count
            for n, p in model.named_parameters():
                if p.dim() == 1:
                    p.add_(0.2 * torch.randn_like(p))
                else:
                    p.copy_(torch.randn_like(p) * 0.08)
        d = os.path.join(out, name)
        model.save_pretrained(os.path.join(d, "model"), safe_serialization=True)
        gen = torch.Generator().manual_seed(7)
        ids, labels, pos, seg = batch(gen)
        save_file({"input_ids": ids, "labels": labels, "position_ids": pos, "segment_ids": seg}, os.path.join(d, "batch.safetensors"))
        exp, js = {}, {"torch": torch.__version__, "transformers": transformers.__version__}
        loss, logits = loss_of(model, ids, labels, pos, seg)
        loss.backward()
        js["loss"], exp["logits"] = loss.item(), logits.detach().contiguous()
        js["num_trained_tokens"] = int((labels[:, 1:] != -100).sum())
        for n, p in model.named_parameters():
            exp["grad." + n] = p.grad.clone()
        prompt = ids[1:2, :9]
        with torch.no_grad():
            g = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False, eos_token_id=None)
            top = model(input_ids=g, use_cache=False).logits[0, 8:-1].float().topk(2, -1).values
        js["greedy_prompt"], js["greedy"] = prompt[0].tolist(), g[0, 9:].tolist()
        js["greedy_margins"] = (top[:, 0] - top[:, 1]).tolist()     # first minus second logit at each step
        # LoRA: same loss, base frozen
        try:
            import copy
            from peft import LoraConfig, get_peft_model
            torch.manual_seed(3)
            lm = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, bias="none",
                                target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
            with torch.no_grad():
                for n, p in lm.named_parameters():
                    if "lora_B" in n:
                        p.copy_(torch.randn_like(p) * 0.05)
            lm.zero_grad()
            lm.save_pretrained(os.path.join(d, "adapter"))
            ll, _ = loss_of(lm, ids, labels, pos, seg)
            ll.backward()
            js["lora_loss"] = ll.item()
            for n, p in lm.named_parameters():
                if p.grad is not None and "lora_" in n:
                    exp["lora_grad." + n.replace(".default", "")] = p.grad.clone()
            opt = torch.optim.AdamW([p for p in lm.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
            js["lora_losses"] = []
            for _ in range(3):
                opt.zero_grad()
                ll, _ = loss_of(lm, ids, labels, pos, seg)
                ll.backward()
                torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
                opt.step()
                js["lora_losses"].append(ll.item())
            for n, p in lm.named_parameters():
                if p.requires_grad:
                    exp["lora_after." + n.replace(".default", "")] = p.detach().clone()
        except ImportError:
            js["lora_loss"] = None
        # three optimizer steps
        decay = [p for p in model.parameters() if p.dim() >= 2]
        plain = [p for p in model.parameters() if p.dim() < 2]
        opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
                                lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
        losses, norms = [], []
        for _ in range(3):
            opt.zero_grad()
            loss, _ = loss_of(model, ids, labels, pos, seg)
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            opt.step()
            losses.append(loss.item())
        js["losses"], js["grad_norms"] = losses, norms
        with torch.no_grad():
            js["loss_after"] = loss_of(model, ids, labels, pos, seg)[0].item()
        for n, p in model.named_parameters():
            exp["after." + n] = p.detach().clone()
        save_file({k: v.contiguous() for k, v in exp.items()}, os.path.join(d, "expect.safetensors"))
        json.dump(js, open(os.path.join(d, "expect.json"), "w"), indent=1)
        print(name, js["loss"], js["lora_loss"], losses, js["loss_after"])


main(sys.argv[1])
