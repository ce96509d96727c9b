#!/usr/bin/env bash
# Schemathesis over the server's own OpenAPI document: no answer may be a 500, every answer must be one that is described.
#
#   scripts/api_fuzz.sh [URL [schemathesis arguments]]
#
# Without a URL it makes a workspace with the tiny model, has a server of its own serve it, and looks for about a minute, with
# a fixed seed (HONE_BIN names a built `hone`). Schemathesis is installed (pinned) into target/; where it cannot be had (no
# Python, no PyPI) this ends with 3. HONE_READ_KEY is sent where the server has keys; /admin is left out. Ends with 0 only
# where nothing was found.
set -euo pipefail
cd "$(dirname "$0")/.."
version=4.32.5
venv=target/schemathesis-$version
if [ ! -x "$venv/bin/schemathesis" ]; then
  { python3 -m venv "$venv" && "$venv/bin/python" -m pip -q install "schemathesis==$version"; } || {
    echo "skipped: schemathesis $version cannot be installed here" >&2
    exit 3
  }
fi

fuzz() { # URL [ARGUMENTS]
  # It writes notes of its own into the folder where it runs.
  (cd "$venv" && bin/schemathesis run "$1/openapi.json" --url "$1" --exclude-path-regex '^/admin' --max-examples 100 \
    --checks not_a_server_error,status_code_conformance --header "Authorization: Bearer ${HONE_READ_KEY:-none}" "${@:2}")
}

if [ $# != 0 ]; then
  fuzz "$@"
  exit
fi

if [ -z "${HONE_BIN:-}" ]; then
  cargo build --quiet -p hone
  HONE_BIN=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/debug/hone
fi
work=$(mktemp -d)
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
"$HONE_BIN" --root "$work/root" init --tiny --set "serve.listen=127.0.0.1:$port" --set serve.max_context=256 >/dev/null
"$HONE_BIN" --root "$work/root" serve 2>"$work/serve.log" &
server=$!
"$HONE_BIN" --root "$work/root" daemon 2>"$work/daemon.log" &
daemon=$!
finish() {
  kill "$server" "$daemon" 2>/dev/null || true
  wait "$server" "$daemon" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
# The daemon deploys the untrained model, and is not needed any more.
for _ in $(seq 600); do
  python3 -c 'import sys,urllib.request; urllib.request.urlopen(sys.argv[1])' "$url/ready" 2>/dev/null && ready=1 && break
  kill -0 "$server" && kill -0 "$daemon" || break
  sleep 0.1
done
if [ -z "${ready:-}" ]; then
  cat "$work/serve.log" "$work/daemon.log" >&2
  exit 1
fi
kill "$daemon"
if ! fuzz "$url" --seed 1 --max-time 60 --no-color || ! kill -0 "$server"; then
  tail -n 40 "$work/serve.log" >&2
  exit 1
fi
