#!/usr/bin/env python3
"""Pictures of rows as they are trained: docs/data-show-*.svg, from what `hone data show --json` prints.

    cargo build && python scripts/make_data_pictures.py target/debug/hone docs

Needs nothing but Python. The templates are those of crates/hone-data/testdata/labels, the tokenizer is the small one there.
"""
import html, json, os, shutil, subprocess, sys, tempfile, unicodedata

DATA = "crates/hone-data/testdata/labels"
# file name: (template, bos, eos, profile, row)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is Oslo a capital?"},
        {"role": "assistant", "content": "Yes, of Norway."}, {"role": "user", "content": "And Bern?"},
        {"role": "assistant", "content": "Yes, of Switzerland 🏔"}]
SUM = [{"role": "user", "content": "What is 12 + 30?"}, {"role": "assistant", "content": "42"}]
PICTURES = {
    "llama3": ("llama3", "<|begin_of_text|>", "<|end_of_text|>", "plain", CHAT),
    "qwen3": ("qwen3", None, "<|im_end|>", "plain", CHAT),
    "smollm2-emoji-think": ("smollm2", "<|im_start|>", "<|im_end|>", "emoji_think", SUM),
}
FONT, WIDTH, HEIGHT, COLUMNS = 14, 8.43, 22, 96
GROUND = {True: ("#1a7f37", "#2da44e"), False: ("#3d444d", "#545d68")}


def show(hone, template, bos, eos, profile, messages):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(f"{DATA}/templates/{template}.jinja", f"{folder}/chat_template.jinja")
        shutil.copy(f"{DATA}/tokenizer.json", f"{folder}/tokenizer.json")
        with open(f"{folder}/tokenizer_config.json", "w") as file:
            json.dump({"bos_token": bos, "eos_token": eos}, file)
        with open(f"{folder}/data.jsonl", "w") as file:
            file.write(json.dumps({"messages": messages}) + "\n")
        command = [hone, "--root", f"{folder}/none", "--json", "data", "show", f"{folder}/data.jsonl", "--model", folder, "--profile", profile]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["rows"][0]


def cells(text):
    """Columns that a text takes: emoji and other wide characters take two, joiners and marks none."""
    def width(c):
        if unicodedata.category(c) in ("Mn", "Cf"):
            return 0
        return 2 if unicodedata.east_asian_width(c) in "WF" or ord(c) >= 0x1F000 else 1
    return sum(map(width, text))


def boxes(tokens):
    """(line, column, columns, text, ground) of every token; one that holds line breaks is several boxes."""
    line = column = 0
    for number, token in enumerate(t for t in tokens if t["text"]):
        ground = GROUND[token["trained"]][number % 2]
        pieces = token["text"].split("\n")
        for i, piece in enumerate(pieces):
            piece = piece + "⏎" * (i + 1 < len(pieces))
            if piece:
                if column and column + cells(piece) > COLUMNS:
                    line, column = line + 1, 0
                yield line, column, cells(piece), piece, ground
                column += cells(piece)
            if i + 1 < len(pieces):
                line, column = line + 1, 0


def svg(row, title):
    parts, y = [], HEIGHT
    text = lambda x, y, fill, s: parts.append(f'<text x="{x:.1f}" y="{y + 15}" fill="{fill}" xml:space="preserve">{html.escape(s)}</text>')
    text(8, 4, "#c9d1d9", title)
    for number, example in enumerate(row["examples"], 1):
        of = f"example {number} of {len(row['examples'])}: " if len(row["examples"]) > 1 else ""
        text(8, y + 8, "#8b949e", f"{of}{len(example['tokens'])} tokens, {example['num_trained']} trained")
        y += HEIGHT + 12
        last = 0
        for line, column, columns, piece, ground in boxes(example["tokens"]):
            x, top = 8 + column * WIDTH, y + line * HEIGHT
            parts.append(f'<rect x="{x:.1f}" y="{top}" width="{columns * WIDTH:.1f}" height="{HEIGHT - 2}" rx="2" fill="{ground}"/>')
            text(x, top, "#ffffff", piece)
            last = line
        y += (last + 1) * HEIGHT
    text(8, y + 6, "#8b949e", "green: trained; grey: not trained")
    width, height = 16 + COLUMNS * WIDTH, y + HEIGHT + 14
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" font-family="ui-monospace, Menlo, Consolas, '
            f'DejaVu Sans Mono, monospace" font-size="{FONT}">\n<rect width="100%" height="100%" fill="#0d1117"/>\n' + "\n".join(parts) + "\n</svg>\n")


def main():
    hone, docs = sys.argv[1:]
    for name, (template, bos, eos, profile, messages) in PICTURES.items():
        row = show(hone, template, bos, eos, profile, messages)
        with open(os.path.join(docs, f"data-show-{name}.svg"), "w") as file:
            file.write(svg(row, f"hone data show: template {template}, profile {profile}"))


if __name__ == "__main__":
    main()
