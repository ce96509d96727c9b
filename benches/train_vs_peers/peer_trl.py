"""Steps of TRL's SFTTrainer on rows of token ids; prints one line of JSON like `peer_step.py`.

    peer_trl.py --model DIR --rows-file ROWS.jsonl --batch B --length L --steps N --threads T [--packing]

f32, no gradient checkpointing, AdamW, constant learning rate, rows in their order, `B` rows (or packed rows) per step: not
the trainer's defaults, which would be slow on a CPU. The first step is not counted. `losses` are those of the steps, per trained token;
with packing, which puts other rows together, there are none.
"""
import argparse
import json
import resource
import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.start, self.cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append((time.perf_counter() - self.start, time.process_time() - self.cpu))


def main():
    parser = argparse.ArgumentParser()
    for name in ("--batch", "--length", "--steps", "--threads"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows-file", required=True)
    parser.add_argument("--packing", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with open(arguments.rows_file) as file:
        rows = [json.loads(line) for line in file]
    labels = lambda row: [token if trained else -100 for token, trained in zip(row["ids"], row["trained"])]
    dataset = Dataset.from_list([{"input_ids": row["ids"], "labels": labels(row)} for row in rows])
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa")
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, max_length=arguments.length, packing=arguments.packing,
            per_device_train_batch_size=arguments.batch, gradient_accumulation_steps=1, max_steps=arguments.steps + 1,
            gradient_checkpointing=False, bf16=False, fp16=False, use_cpu=True, learning_rate=1e-4, lr_scheduler_type="constant",
            weight_decay=0.01, max_grad_norm=1.0, optim="adamw_torch_fused", logging_strategy="no", save_strategy="no",
            report_to="none", disable_tqdm=True, shuffle_dataset=False, dataloader_num_workers=0, average_tokens_across_devices=False,
        )
        clock, counts, losses = Clock(), [], []
        trainer = SFTTrainer(model=model, args=config, train_dataset=dataset, callbacks=[clock],
                             processing_class=AutoTokenizer.from_pretrained(arguments.model))
        # Order of rows as given, on both sides.
        trainer._get_train_sampler = lambda *args, **kwargs: torch.utils.data.SequentialSampler(trainer.train_dataset)
        inner = trainer.compute_loss

        def compute_loss(model, inputs, *args, **kwargs):
            counts.append(int((inputs["labels"][..., 1:] != -100).sum()))
            loss = inner(model, inputs, *args, **kwargs)
            losses.append((loss[0] if isinstance(loss, tuple) else loss).item())
            return loss

        trainer.compute_loss = compute_loss
        trainer.train()
    trained, wall, cpu = sum(counts[1:]), sum(step[0] for step in clock.steps[1:]), sum(step[1] for step in clock.steps[1:])
    print(json.dumps({
        "threads": arguments.threads,
        "tokens_per_s": trained / wall,
        "step_ms": wall / arguments.steps * 1e3,
        "cpu_ms": cpu / arguments.steps * 1e3,
        "trained_tokens": trained,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "losses": [] if arguments.packing else losses,
    }))


main()
