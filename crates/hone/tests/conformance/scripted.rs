//! A model whose answers are known beforehand, made on the spot.
//!
//! Its residual is the one-hot embedding of the last token (attention and feed-forward add zero), so its head is a table
//! "logit of the next token, given the last one". Each script is a chain of tokens behind a start token such as
//! `[count]`; the chat template puts the first word of the last message at the end of the prompt, which starts it.

use hone_model::{Config, Dtype, HostWeights};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The name that clients ask for.
pub const MODEL_NAME: &str = "scripted";
/// Tokens of prompt and answer together.
pub const CONTEXT: usize = 512;
/// Logit of the scripted next token; all others have 0 (or less).
const SURE: f32 = 40.0;
const EPS: f32 = 1e-6;
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const END: &str = "<|im_end|>";

const TEMPLATE: &str = "{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n<tools>' + (tools | tojson) + '</tools>\\n\
Answer with <tool_call>\\n{\"name\": ..., \"arguments\": ...}\\n</tool_call><|im_end|>\\n' }}{%- endif %}\
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}\
{%- for call in message.tool_calls or [] %}{{- '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{%- endfor %}\
{{- '<|im_end|>\\n' }}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' + messages[-1].content.split(' ')[0] }}{%- endif %}";

/// Start tokens and what follows each, token by token; every chain ends with the end token unless it says where to go on.
fn chains() -> Vec<Vec<String>> {
    let own = |pieces: &[&str]| pieces.iter().map(|piece| (*piece).to_string()).collect::<Vec<_>>();
    let mut count = vec!["[count]".to_string()];
    count.extend((1..=100).map(|number| format!(" w{number}")));
    vec![
        count,
        own(&["[stop]", "al", "pha", " be", "ta", " gam", "ma"]),
        own(&["[accents]", "caf", "é", " na", "ï", "ve"]),
        own(&["[quote]", "say \"", "hi\"\n", "\tand \\"]),
        own(&[
            "[tool]",
            "<tool_call>",
            "\n{\"name\": \"get_weather\", ",
            "\"arguments\": {\"city\": \"Par",
            "is\", \"days\": 2}}",
            "\n</tool_call>",
        ]),
        own(&[
            "[said-tool]",
            "Let me ",
            "see.\n<tool",
            "_call>{\"name\": \"now\", \"arguments\"",
            ": {}}</tool",
            "_call> ",
        ]),
        own(&[
            "[two-tools]",
            "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": 1}}",
            "</tool_call>\n",
            "<tool_call>{\"arguments\": {}, \"name\": \"b\"}</tool_call>",
        ]),
        own(&["[bad-tool]", "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": }}\n</tool_call>"]),
        own(&["[open-tool]", "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\"", ": \"Rome\"}}"]),
        own(&["[nothing]"]),
    ]
}

/// Bytes of a text that are all different, so that each can be a token of its own: one to four bytes a character, and a
/// combining mark.
pub const MIXED: &str = "aé你😀e\u{301}";

/// Choices with their logits, given the last token.
fn branches() -> Vec<(&'static str, Vec<(&'static str, f32)>)> {
    vec![
        ("[dice]", vec![("heads", SURE + 0.75_f32.ln()), ("tails", SURE + 0.25_f32.ln())]),
        ("heads", vec![(END, SURE)]),
        ("tails", vec![(END, SURE)]),
        ("[song]", vec![(" la", SURE)]),
        (" la", vec![(" la", SURE), (" lu", SURE - 0.5)]),
        (" lu", vec![(" lu", SURE), (" la", SURE - 0.5)]),
        ("[coin]", vec![("H", SURE + 0.5_f32.ln()), ("T", SURE + 0.5_f32.ln())]),
        ("H", vec![("H", SURE + 0.5_f32.ln()), ("T", SURE + 0.5_f32.ln())]),
        ("T", vec![("H", SURE + 0.5_f32.ln()), ("T", SURE + 0.5_f32.ln())]),
    ]
}

/// Token ids by their text, as the tokenizer file has them.
pub struct Vocabulary {
    ids: BTreeMap<String, usize>,
    bytes: usize,
    pieces: Vec<String>,
    starts: Vec<String>,
}

impl Vocabulary {
    pub fn new() -> Vocabulary {
        let bytes = SPECIAL.len();
        let (mut starts, mut pieces) = (vec!["[mixed]".to_string()], Vec::new());
        let branches = branches();
        let from_branches =
            branches.iter().flat_map(|(from, to)| [*from].into_iter().chain(to.iter().map(|(to, _)| *to)));
        for text in chains().into_iter().flatten().chain(from_branches.map(str::to_string)) {
            let list = if text.starts_with('[') { &mut starts } else { &mut pieces };
            if text.len() > 1 && text != END && !list.contains(&text) {
                list.push(text);
            }
        }
        let mut ids: BTreeMap<String, usize> =
            SPECIAL.iter().enumerate().map(|(id, text)| (text.to_string(), id)).collect();
        for (index, text) in pieces.iter().chain(&starts).enumerate() {
            ids.insert(text.clone(), bytes + 256 + index);
        }
        Vocabulary { ids, bytes, pieces, starts }
    }

    /// Id of a token by its text; one ASCII character is its byte.
    pub fn id(&self, text: &str) -> usize {
        match (self.ids.get(text), text.as_bytes()) {
            (Some(id), _) => *id,
            (None, [byte]) => self.byte(*byte),
            _ => panic!("no token {text:?}"),
        }
    }

    fn byte(&self, byte: u8) -> usize {
        self.bytes + usize::from(byte)
    }

    fn len(&self) -> usize {
        self.bytes + 256 + self.pieces.len() + self.starts.len()
    }

    fn tokenizer(&self) -> Value {
        let mut vocab = Map::new();
        for (text, id) in SPECIAL.iter().zip(0..) {
            vocab.insert((*text).to_string(), json!(id));
        }
        for byte in 0..=255_u8 {
            vocab.insert(visible(&[byte]), json!(self.byte(byte)));
        }
        for piece in &self.pieces {
            vocab.insert(visible(piece.as_bytes()), json!(self.ids[piece]));
        }
        let added = |text: &str, id: usize, special: bool| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special})
        };
        let specials = SPECIAL.iter().map(|text| added(text, self.ids[*text], true));
        let starts = self.starts.iter().map(|text| added(text, self.ids[text], false));
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": specials.chain(starts).collect::<Vec<_>>(),
            "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": []},
        })
    }

    /// `[last][next]`.
    fn table(&self) -> Vec<Vec<f32>> {
        let end = self.id(END);
        let mut table = vec![vec![0.0; self.len()]; self.len()];
        table.iter_mut().for_each(|row| row[end] = SURE);
        let mut link = |from: usize, to: &[(usize, f32)]| {
            table[from].fill(0.0);
            to.iter().for_each(|(to, logit)| table[from][*to] = *logit);
        };
        for chain in chains() {
            let ids: Vec<usize> = chain.iter().map(|text| self.id(text)).chain([end]).collect();
            ids.windows(2).for_each(|pair| link(pair[0], &[(pair[1], SURE)]));
        }
        let mixed: Vec<usize> =
            [self.id("[mixed]")].into_iter().chain(MIXED.bytes().map(|byte| self.byte(byte))).chain([end]).collect();
        mixed.windows(2).for_each(|pair| link(pair[0], &[(pair[1], SURE)]));
        for (from, to) in branches() {
            link(self.id(from), &to.iter().map(|(to, logit)| (self.id(to), *logit)).collect::<Vec<_>>());
        }
        table
    }
}

/// The text that the byte-level alphabet shows bytes as (GPT-2's table).
fn visible(bytes: &[u8]) -> String {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u8> = (0..=255).filter(|byte| !printable(*byte)).collect();
    let show = |byte: u8| match hidden.iter().position(|other| *other == byte) {
        Some(index) => char::from_u32(256 + index as u32).unwrap(),
        None => char::from(byte),
    };
    bytes.iter().map(|byte| show(*byte)).collect()
}

/// Writes the model folder.
pub fn write(dir: &Path) {
    let vocabulary = Vocabulary::new();
    let size = vocabulary.len();
    let config = json!({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": size, "hidden_size": size,
        "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "max_position_embeddings": CONTEXT, "rms_norm_eps": EPS, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "hidden_act": "silu",
    });
    let parsed = Config::from_json(&config).unwrap();
    let mut weights = HostWeights::random(&parsed, 1);
    // The final norm multiplies a one-hot row by this.
    let scale = 1.0 / (1.0 / size as f32 + EPS).sqrt();
    let table = vocabulary.table();
    for (name, tensor) in &mut weights.tensors {
        let cell: Box<dyn Fn(usize) -> f32> = match name.as_str() {
            "model.embed_tokens.weight" => Box::new(|at| f32::from(u8::from(at / size == at % size))),
            "lm_head.weight" => Box::new(|at| table[at % size][at / size] / scale),
            name if name.contains("norm") => Box::new(|_| 1.0),
            _ => Box::new(|_| 0.0),
        };
        tensor.iter_mut().enumerate().for_each(|(at, value)| *value = cell(at));
    }
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "chat_template": TEMPLATE,
    });
    hone_disk::write_json(&dir.join("config.json"), &config).unwrap();
    hone_disk::write_json(&dir.join("tokenizer.json"), &vocabulary.tokenizer()).unwrap();
    hone_disk::write_json(&dir.join("tokenizer_config.json"), &tokenizer_config).unwrap();
    hone_disk::write_json(&dir.join("generation_config.json"), &json!({"eos_token_id": [2, 0]})).unwrap();
    let mut file = hone_disk::create_file(&dir.join("model.safetensors")).unwrap();
    weights.write(&parsed, Dtype::F32, &mut file).unwrap();
}
