#!/usr/bin/env bash
# The conformance table (crates/hone/tests/conformance/cases.jsonl) by OpenAI's own clients against the real server.
#
#   scripts/openai_clients.sh [install]
#
# Installs `openai` for Python and for Node (pinned below) into target/openai-clients, then runs the tests that use them.
# `install` only installs and prints the two variables that the tests read. HONE_OPENAI_PYTHON names an interpreter that
# has the client already. A client that cannot be installed (no network, no Node) is named and left out.
set -euo pipefail
cd "$(dirname "$0")/.."
python_version=3.57.0
node_version=6.49.0
folder=$PWD/target/openai-clients
mkdir -p "$folder"

python=${HONE_OPENAI_PYTHON:-$folder/python-$python_version/bin/python}
if [ ! -x "$python" ]; then
  python3 -m venv "$folder/python-$python_version" && "$python" -m pip -q install "openai==$python_version" >&2 || python=
fi
node=$folder/node-$node_version
if [ ! -e "$node/node_modules/openai/package.json" ]; then
  mkdir -p "$node" && (cd "$node" && npm install --silent --no-audit --no-fund --ignore-scripts -E "openai@$node_version" >&2) || node=
fi
[ -n "$python" ] || echo "skipped: the cases of the Python client (openai $python_version cannot be installed here)" >&2
[ -n "$node" ] || echo "skipped: the cases of the Node client (openai $node_version cannot be installed here)" >&2
if [ "${1:-}" = install ]; then
  echo "HONE_OPENAI_PYTHON=$python"
  echo "HONE_OPENAI_NODE=$node"
  exit 0
fi
${python:+env HONE_OPENAI_PYTHON="$python"} ${node:+env HONE_OPENAI_NODE="$node"} \
  cargo test -p hone --test conformance -- client
