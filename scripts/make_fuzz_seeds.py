#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets (fuzz/seeds/). Needs `pip install pyarrow zstandard` for Parquet and zstd."""
import gzip
import io
import json
import os

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fuzz", "seeds")
CHAT = json.dumps({"messages": [{"role": "user", "content": "a é 🙂"}, {"role": "assistant", "content": "b\n"}]})
JSONL = {
    "good": f"{CHAT}\n{CHAT}\n".encode(),
    "bom_crlf_blank": f"\ufeff{CHAT}\r\n\r\n  \n{CHAT}".encode(),
    "bad_rows": b'{"messages":[]}\n[1]\n{"messages":[{"role":"bot","content":null}]}\n{\n"x"\n',
    "bytes": b"\xff\xfe\x00{\n\x00\x00\n",
    "deep": b"[" * 300 + b"\n" + b'{"a":' * 300,
    "long": b"{" + b"x" * 70_000 + b"\n" + CHAT.encode(),
}
CSV = {
    "messages": ('messages,difficulty\n"' + json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]).replace('"', '""') + '",easy\n').encode(),
    "quotes": b'messages\n"a ""b"" \n c"\n"open\n',
    "cells": b"\xef\xbb\xbfmessages,b\n1\n1,2,3\n,\n",
}


def main():
    for folder, files in {"jsonl": JSONL, "csv": CSV, "gzip": {}, "zstd": {}, "parquet": {}}.items():
        os.makedirs(os.path.join(ROOT, folder), exist_ok=True)
        for name, data in files.items():
            write(folder, name, data)
    for name in ["good", "bad_rows"]:
        write("gzip", name, gzip.compress(JSONL[name], mtime=0))
    write("gzip", "members", gzip.compress(JSONL["good"], mtime=0) * 2)
    write("gzip", "cut", gzip.compress(JSONL["good"], mtime=0)[:-4])
    write("gzip", "bomb", gzip.compress(b" " * (5 << 20), mtime=0))
    try:
        import zstandard

        data = b'{"text":"a"}\n{"prompt":"p","completion":"c"}\n'
        write("zstd", "good", zstandard.compress(data))
        write("zstd", "frames", zstandard.compress(data) * 2)
        write("zstd", "cut", zstandard.compress(data)[:-2])
    except ImportError:
        print("zstandard is not installed: no zstd seeds")
    try:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"instruction": ["a", "b", None], "output": ["x", "", "z"], "metadata": [{"source": "s"}, None, {"source": None}]})
        for compression in ["NONE", "SNAPPY", "GZIP", "ZSTD"]:
            out = io.BytesIO()
            pyarrow.parquet.write_table(table, out, compression=compression)
            write("parquet", compression.lower(), out.getvalue())
    except ImportError:
        print("pyarrow is not installed: no Parquet seeds")


def write(folder, name, data):
    with open(os.path.join(ROOT, folder, name), "wb") as file:
        file.write(data)


main()
