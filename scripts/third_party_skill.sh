#!/usr/bin/env bash
# The worked third-party skill (examples/skills/reasoning_gym_skill.py) under the contract and inside the loop's data path:
#
#   scripts/third_party_skill.sh PYTHON      (a Python that has reasoning-gym 0.1.25; HONE_BIN names a built `hone`)
#
# It starts the server on a free port and checks that `hone skill conform` finds no fault, and that `hone data generate` brings a
# file of it into the inbox of a fresh workspace.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$1
if [ -n "${HONE_BIN:-}" ]; then
  hone=$HONE_BIN
else
  (cd "$root" && cargo build --quiet -p hone)
  target=$(cd "$root" && cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
  hone=$target/debug/hone
fi
work=$(mktemp -d)
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
"$python" "$root/examples/skills/reasoning_gym_skill.py" "$port" 2>"$work/skill.log" &
skill=$!
finish() { kill "$skill" 2>/dev/null || true; wait "$skill" 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT
url=http://127.0.0.1:$port
for _ in $(seq 300); do
  python3 -c 'import sys,urllib.request; urllib.request.urlopen(sys.argv[1])' "$url/health" 2>/dev/null && break
  kill -0 "$skill" 2>/dev/null || { cat "$work/skill.log" >&2; exit 1; }
  sleep 0.1
done

"$hone" skill conform "$url"
"$hone" --root "$work/root" init --tiny --set "skills=[{\"name\": \"reasoning\", \"url\": \"$url\"}]"
"$hone" --root "$work/root" data generate --skill reasoning --force --count 100
rows=$(find "$work/root/inbox" -name '*.jsonl' -exec cat {} + | wc -l)
[ "$rows" = 100 ] || { echo "third-party skill: $rows rows are in the inbox, not 100" >&2; exit 1; }
echo "third-party skill: conforms, and 100 rows of it are in the inbox"
