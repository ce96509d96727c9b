#!/usr/bin/env python3
"""TRL's SFTTrainer in the place of hone's own trainer (docs/trainer.md): one slice of a job, from a checkpoint to the next.

    pip install torch transformers trl==1.16.0 datasets blake3
    hone init --model DIR --set 'trainer.command=["PYTHON", "examples/trainers/trl_trainer.py"]'

The daemon starts it as `… --request FILE`. It trains every assistant turn of `chat_sft_v1` rows (as a prompt with its
completion, under the model's own template) in JSONL files, with `batch_size`, `gradient_accumulation`, `epochs`,
`max_length`, `learning_rate`, `lr_schedule`, `warmup_steps`, `weight_decay`, `max_grad_norm` and `seed` of the job. It
leaves out the rows that are kept back for evaluation, mixes no earlier rows in, and knows nothing of LoRA, profiles
and previews. Within a job it goes on exactly where `transformers` does; a new job begins with new optimizer state.
"""
import argparse
import fcntl
import json
import os
import pathlib
import shutil
import socket
import sys
import threading

# What the contract says goes to stdout, and nothing else does.
CONTRACT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import blake3  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

SECONDS_BETWEEN_SIGNS_OF_LIFE = 5
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


class Refused(Exception):
    """A reason in the data or the settings: another try would end the same way."""


class Slice(TrainerCallback):
    """Reports steps, and ends the training at the next checkpoint."""

    def __init__(self, request, say):
        self.request, self.say = request, say
        self.asked_to_yield = threading.Event()
        self.first, self.job_step, self.total_steps, self.loss = request["position"]["job_step"], 0, 0, 0.0

    def number(self, job_step):
        from_number = self.request.get("number_from")
        return (self.request["parent"] if from_number is None else from_number) + job_step - self.first

    def on_step_end(self, args, state, control, **kwargs):
        every = self.request["settings"]["save_steps"]
        self.job_step, self.total_steps = state.global_step, state.max_steps
        if state.global_step >= state.max_steps or state.global_step % every == 0 or self.asked_to_yield.is_set():
            control.should_save = control.should_training_stop = True
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.loss = float(logs["loss"])
            self.say("step", {
                "step": self.number(state.global_step), "job_step": state.global_step, "total_steps": state.max_steps,
                "loss": self.loss, "learning_rate": logs.get("learning_rate", 0.0),
                "grad_norm": float(logs.get("grad_norm", 0.0)), "tokens_per_s": 0.0, "memory_bytes": 0, "at_ms": 0,
            })


def rows_of(file):
    if file["schema_id"] != "chat_sft_v1" or not file["path"].endswith(".jsonl"):
        raise Refused(f"{file['name']}: this trainer reads chat_sft_v1 in .jsonl files")
    with open(file["path"], encoding="utf-8-sig") as lines:
        for line in filter(str.strip, lines):
            messages = json.loads(line)["messages"]
            if any(set(message) - {"role", "content"} for message in messages):
                raise Refused(f"{file['name']}: this trainer reads messages of role and content alone")
            yield messages


def key(messages):
    """What names a row in `hone_train::kept_back`."""
    hasher = blake3.blake3(b"hone kept back 1")
    for part in ["chat", *(message[field] for message in messages for field in ("role", "content")), ""]:
        part = part.encode()
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.digest()


def kept_back(request):
    keys = set()
    for entry in request.get("kept_back", []):
        rows = [key(messages) for messages in rows_of(entry["file"])]
        num = min(int(len(rows) * entry["keep"]["share"]), entry["keep"]["max_rows"])
        keys.update(sorted(set(rows))[:num])
    return keys


def examples(request):
    """One for each assistant turn."""
    out_of_training = kept_back(request)
    for file in request["files"]:
        for messages in rows_of(file):
            if key(messages) not in out_of_training:
                for i, message in enumerate(messages):
                    if message["role"] == "assistant":
                        yield {"prompt": messages[:i], "completion": [message]}


def config(request, folder):
    settings = request["settings"]
    if settings["lr_schedule"] not in SCHEDULES:
        raise Refused(f"this trainer knows the schedules {', '.join(SCHEDULES)}")
    return SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=settings["batch_size"],
        gradient_accumulation_steps=settings["gradient_accumulation"], num_train_epochs=settings["epochs"],
        learning_rate=settings["learning_rate"], lr_scheduler_type=SCHEDULES[settings["lr_schedule"]],
        warmup_steps=settings["warmup_steps"], weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"], max_length=settings["max_length"], seed=settings["seed"],
        save_strategy="no", logging_steps=1, report_to=[], completion_only_loss=True, disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=settings["recompute"],
    )


def publish(folder):
    """Syncs a folder and writes its manifest last; gives the manifest's hash."""
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        files.append({"path": path.relative_to(folder).as_posix(), "size": len(data), "blake3": blake3.blake3(data).hexdigest()})
        sync(path)
    manifest = json.dumps({"format_version": 1, "files": sorted(files, key=lambda file: file["path"])}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    for path in [folder / "manifest.json", *(p for p in folder.rglob("*") if p.is_dir()), folder, folder.parent]:
        sync(path)
    return blake3.blake3(manifest).hexdigest()


def sync(path):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def train(request, say):
    root, position = pathlib.Path(request["root"]), request["position"]
    own = pathlib.Path(request["run_dir"]) / "trl"
    shutil.rmtree(own, ignore_errors=True)
    watcher = Slice(request, say)
    threading.Thread(target=listen, args=(watcher.asked_to_yield,), daemon=True).start()
    dtype = torch.float32
    model = AutoModelForCausalLM.from_pretrained(request["model_dir"], dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(request["model_dir"])
    rows = Dataset.from_list(list(examples(request)))
    trainer = SFTTrainer(model=model, args=config(request, own), train_dataset=rows, processing_class=tokenizer, callbacks=[watcher])
    resume = pathlib.Path(request["resume_dir"] or "") / "trl"
    trainer.train(resume_from_checkpoint=str(resume) if position["job_step"] > 0 else None)
    (saved,) = own.glob("checkpoint-*")

    staging, resume_staging = root / request["staging"], root / request["resume_staging"]
    for folder in (staging, resume_staging):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    # Files of the model that training does not change: configuration, tokenizer, template.
    for path in pathlib.Path(request["model_dir"]).iterdir():
        if path.suffix in (".json", ".jinja", ".txt", ".model") and path.name not in ("manifest.json", "lineage.json", "model.safetensors.index.json"):
            shutil.copy(path, staging / path.name)
    shutil.copy(saved / "model.safetensors", staging / "model.safetensors")
    shutil.copy(saved / "trainer_state.json", staging / "trainer_state.json")
    (staging / "lineage.json").write_text(json.dumps(request["lineage"]))
    shutil.copytree(saved, resume_staging / "trl")
    shutil.rmtree(own)
    steps, total = watcher.job_step, watcher.total_steps
    digest = f"{request['rows_digest']} trl {watcher.first}-{steps}".encode()
    per_step = request["settings"]["batch_size"] * request["settings"]["gradient_accumulation"]
    manifest_hash = publish(staging)
    publish(resume_staging)
    say("staged", {
        "checkpoint": watcher.number(steps), "parent": request["parent"], "job": request["job"],
        "staging": request["staging"], "resume_staging": request["resume_staging"], "manifest_hash": manifest_hash,
        "position": {"job_step": steps, "rows_trained": steps * per_step, "total_steps": total},
        "rows_digest": blake3.blake3(digest).hexdigest(), "train_loss": watcher.loss,
        "ends_job": steps >= total, "yielded": steps < total and watcher.asked_to_yield.is_set(),
    })


def listen(asked_to_yield):
    for line in sys.stdin:
        if "yield" in line:
            asked_to_yield.set()
    # The daemon is gone: nothing is published any more.
    os._exit(3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--request", type=pathlib.Path, required=True)
    request = json.loads(parser.parse_args().request.read_text())
    speaking = threading.Lock()

    def say(kind, body):
        with speaking:
            CONTRACT.write(json.dumps({"token": request["token"], "type": kind, **body}) + "\n")
            CONTRACT.flush()

    lock = open(pathlib.Path(request["run_dir"]) / "lock", "a+")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.truncate(0)
    lock.write(f"pid {os.getpid()} on host {socket.gethostname()}\n")
    lock.flush()
    done = threading.Event()

    def live():
        while not done.wait(SECONDS_BETWEEN_SIGNS_OF_LIFE):
            say("alive", {"phase": "training"})

    say("alive", {"phase": "loading"})
    signs = threading.Thread(target=live, daemon=True)
    signs.start()
    try:
        train(request, say)
    except Refused as reason:
        say("failed", {"reason": str(reason)})
        sys.exit(1)
    finally:
        done.set()
        signs.join()


if __name__ == "__main__":
    main()
