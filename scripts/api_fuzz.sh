#!/usr/bin/env bash
# Schemathesis over the server's own OpenAPI document: no answer may be a 500, every answer must be one that is described.
#
#   scripts/api_fuzz.sh http://127.0.0.1:8765 [schemathesis arguments]
#
# Installs schemathesis (pinned) into target/schemathesis. HONE_READ_KEY is sent where the server has keys; /admin is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
url=${1:?the URL of a running server}
shift
version=4.32.5
venv=target/schemathesis-$version
if [ ! -x "$venv/bin/schemathesis" ]; then
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip -q install "schemathesis==$version"
fi
exec "$venv/bin/schemathesis" run "$url/openapi.json" --url "$url" --exclude-path-regex '^/admin' --max-examples 100 \
  --checks not_a_server_error,status_code_conformance --header "Authorization: Bearer ${HONE_READ_KEY:-none}" "$@"
