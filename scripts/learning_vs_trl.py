#!/usr/bin/env python3
"""Does hone learn as TRL does? The same model, rows, order-free batch and hyperparameters; held-out response loss after.

    pip install torch transformers trl datasets
    cargo build --release -p hone
    python scripts/learning_vs_trl.py MODEL TRAIN.jsonl HELD_OUT.jsonl [--rows 500] [--epochs 2] [--hone target/release/hone]

TRAIN and HELD_OUT are `chat_sft_v1` files. Both sides train every parameter on all assistant turns with AdamW, in f32; the
held-out loss of both resulting folders, and of MODEL, is measured by `hone eval`, so that one ruler measures all. Exits
with 1 when hone's loss is more than 2 % above or below TRL's.
"""
import argparse, json, os, subprocess, sys, tempfile

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("model")
arguments.add_argument("train")
arguments.add_argument("held_out")
arguments.add_argument("--rows", type=int, default=500)
arguments.add_argument("--epochs", type=int, default=2)
arguments.add_argument("--batch", type=int, default=8)
arguments.add_argument("--rate", type=float, default=2e-5)
arguments.add_argument("--max-length", type=int, default=512)
arguments.add_argument("--hone", default="target/release/hone")
args = arguments.parse_args()


def mask(tokenizer, messages):
    """Ids and labels: of every assistant turn, what its rendering adds behind the generation prompt."""
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    labels = [-100] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            start = len(tokenizer.apply_chat_template(messages[:i], add_generation_prompt=True, return_dict=False))
            end = len(tokenizer.apply_chat_template(messages[: i + 1], return_dict=False))
            while end > start and tokenizer.decode(ids[end - 1 : end]).isspace():      # not what follows the end token
                end -= 1
            labels[start:end] = ids[start:end]
    return ids, labels


def by_trl(rows, out):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    examples = [dict(zip(("input_ids", "labels"), mask(tokenizer, row["messages"]))) for row in rows]
    examples = [e for e in examples if len(e["input_ids"]) <= args.max_length]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    config = SFTConfig(output_dir=out + ".trl", use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_steps=10,
                       num_train_epochs=args.epochs, per_device_train_batch_size=args.batch, learning_rate=args.rate,
                       lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1.0, optim="adamw_torch",
                       packing=False, gradient_checkpointing=False, max_length=None, seed=1,
                       dataset_kwargs={"skip_prepare_dataset": True})
    SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(examples), processing_class=tokenizer).train()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def hone(*words):
    done = subprocess.run([args.hone, "--json", *words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def held_out_loss(folder):
    return hone("eval", "--model", folder, "--suite", args.held_out)["suites"][0]["mean_nll"]


with tempfile.TemporaryDirectory() as folder:
    with open(args.train) as file:
        rows = [json.loads(line) for line in file][: args.rows]
    data = os.path.join(folder, "train.jsonl")
    with open(data, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    by_trl(rows, os.path.join(folder, "trl"))
    run = hone("train", data, "--model", args.model, "--out", os.path.join(folder, "run"), "--batch-size", str(args.batch),
               "--learning-rate", str(args.rate), "--epochs", str(args.epochs), "--max-length", str(args.max_length),
               "--set", "preview_steps=0", "--set", "save_steps=1000000")
    losses = {"before": held_out_loss(args.model), "trl": held_out_loss(os.path.join(folder, "trl")),
              "hone": held_out_loss(run["checkpoint"])}
losses["hone_over_trl"] = losses["hone"] / losses["trl"]
print(json.dumps(losses))
sys.exit(abs(losses["hone_over_trl"] - 1) > 0.02 or losses["hone"] >= losses["before"])
