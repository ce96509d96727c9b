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

fuzz() { # DOCUMENT URL [ARGUMENTS]
  # It writes notes of its own into the folder where it runs.
  (cd "$venv" && bin/schemathesis run "$1" --url "$2" --exclude-path-regex '^/admin' \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method \
    --header "Authorization: Bearer ${HONE_READ_KEY:-none}" "${@:3}")
}

# The document for requests that the model answers: what only the server knows, and what fields mean together, is said here.
of_answers() { # URL
  python3 - "$1" <<'PYTHON'
import json, sys, urllib.request

read = lambda path: json.load(urllib.request.urlopen(sys.argv[1] + path))
document, served = read("/openapi.json"), read("/v1/models")["data"][0]["id"]
document["paths"] = {path: item for path, item in document["paths"].items() if path.endswith("completions")}
schemas = document["components"]["schemas"]
few = {"type": "integer", "minimum": 1, "maximum": 16}
text = {"type": "string", "minLength": 1, "maxLength": 40}
roles = {"enum": ["system", "user", "assistant"]}
message = {"type": "object", "properties": {"role": roles, "content": text}, "required": ["role", "content"]}
ids = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 1, "maxItems": 40}
fields = {
    "ChatRequest": {"max_completion_tokens": few, "messages": {"type": "array", "items": message, "minItems": 1, "maxItems": 3}},
    "CompletionRequest": {"prompt": {"anyOf": [text, ids]}},
}
for name, limited in fields.items():
    properties = schemas[name]["properties"]
    properties |= {"model": {"const": served}, "max_tokens": few, **limited}
    # Each of these needs another field, or a schema that means something.
    for needy in ["stream_options", "tool_choice", "top_logprobs", "response_format", "chat_template_kwargs"]:
        properties.pop(needy, None)
    schemas[name]["required"] = [*schemas[name]["required"], "model", "max_tokens"]
    schemas[name]["additionalProperties"] = False
json.dump(document, sys.stdout)
PYTHON
}

if [ $# != 0 ]; then
  fuzz "$1/openapi.json" "$@"
  exit
fi

if [ -z "${HONE_BIN:-}" ]; then
  cargo build --quiet -p hone
  HONE_BIN=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/debug/hone
fi
work=$(mktemp -d)
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
"$HONE_BIN" --root "$work/root" init --tiny --set "serve.listen=127.0.0.1:$port" --set serve.max_context=256 \
  --set serve.default_max_tokens=16 >/dev/null
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
of_answers "$url" >"$work/answers.json"
look() { fuzz "$1" "$url" --seed 1 --max-examples 30 --request-timeout 60 --no-color "${@:2}"; }
if ! look "$url/openapi.json" || ! look "$work/answers.json" --mode positive --max-examples 100 || ! kill -0 "$server"; then
  tail -n 40 "$work/serve.log" >&2
  exit 1
fi
