#!/usr/bin/env python3
"""Loss curves of 20 optimizer steps by TRL's SFTTrainer (and peft), for crates/hone-model/testdata/curves.

    pip install torch transformers trl peft datasets
    python scripts/make_training_curves.py crates/hone-model/testdata

Model: reference/qwen3 (tiny, random). Rows: made up, uneven, only the last part of each trained. No
shuffling: steps take the rows in order. Two curves: every parameter; LoRA that starts from reference/qwen3/adapter. The
losses are means over the trained tokens of a step, as the trainer logs them.
"""
import json, os, sys
import torch, transformers, trl, peft
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer
from peft import PeftModel

torch.set_num_threads(2)
STEPS, MICRO, ACCUMULATION, LR, DECAY = 20, 2, 2, 5e-3, 0.01


def rows():
    gen = torch.Generator().manual_seed(11)
    out = []
    for _ in range(STEPS * MICRO * ACCUMULATION):
        length = int(torch.randint(8, 60, (1,), generator=gen))
        # A pattern that can be learnt: each id follows from the one before, but for a little noise.
        ids = [int(torch.randint(3, 160, (1,), generator=gen))]
        for _ in range(length - 1):
            noise = int(torch.randint(0, 3, (1,), generator=gen))
            ids.append(3 + (ids[-1] * 5 + noise) % 157)
        out.append({"ids": ids, "prompt": int(torch.randint(1, length - 1, (1,), generator=gen))})
    return out


class InOrder(SFTTrainer):
    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)


class Record(TrainerCallback):
    def __init__(self):
        self.losses, self.norms, self.rates = [], [], []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])
            self.norms.append(float(logs["grad_norm"]))
            self.rates.append(logs["learning_rate"])


def train(model, data):
    words = {f"t{i}": i for i in range(160)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0")),
                                        pad_token="t0", eos_token="t2", bos_token="t1")
    dataset = Dataset.from_list([
        {"input_ids": row["ids"], "labels": [-100] * row["prompt"] + row["ids"][row["prompt"]:]} for row in data])
    config = SFTConfig(output_dir="/tmp/hone-curves", use_cpu=True, bf16=False, fp16=False, report_to=[], save_strategy="no",
                       logging_steps=1, max_steps=STEPS, per_device_train_batch_size=MICRO,
                       gradient_accumulation_steps=ACCUMULATION, learning_rate=LR, lr_scheduler_type="linear",
                       warmup_steps=0, weight_decay=DECAY, max_grad_norm=1.0, optim="adamw_torch", packing=False,
                       gradient_checkpointing=False, max_length=None, seed=1,
                       disable_tqdm=True, dataset_kwargs={"skip_prepare_dataset": True})
    record = Record()
    trainer = InOrder(model=model, args=config, train_dataset=dataset, processing_class=tokenizer, callbacks=[record])
    trainer.train()
    return {"losses": record.losses, "grad_norms": record.norms, "learning_rates": record.rates}


def main(testdata):
    base = os.path.join(testdata, "reference", "qwen3")
    data = rows()
    load = lambda: AutoModelForCausalLM.from_pretrained(os.path.join(base, "model"), dtype=torch.float32, attn_implementation="eager")
    out = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__, "peft": peft.__version__},
           "micro_batch": MICRO, "accumulation": ACCUMULATION, "learning_rate": LR, "weight_decay": DECAY, "rows": data}
    out["full"] = train(load(), data)
    out["lora"] = train(PeftModel.from_pretrained(load(), os.path.join(base, "adapter"), is_trainable=True), data)
    os.makedirs(os.path.join(testdata, "curves"), exist_ok=True)
    with open(os.path.join(testdata, "curves", "qwen3.json"), "w") as file:
        json.dump(out, file)
        file.write("\n")
    print(out["full"]["losses"], out["lora"]["losses"], out["full"]["learning_rates"][:3])


main(sys.argv[1])
