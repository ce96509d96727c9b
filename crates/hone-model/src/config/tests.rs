//! Which configurations are read, and which are refused by the key.

use super::*;
use expect_test::{Expect, expect};
use serde_json::json;

fn llama() -> Value {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 48,
        "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu",
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut config = llama();
    config[key] = value;
    config
}

#[track_caller]
fn refused(key: &str, value: Value, expected: Expect) {
    let error = Config::from_json(&with(key, value)).unwrap_err().to_string();
    assert!(error.contains(&format!("`{key}")), "{error} names {key}");
    expected.assert_eq(&error);
}

#[track_caller]
fn rope(key: &str, value: Value) -> Rope {
    Config::from_json(&with(key, value)).unwrap().rope
}

#[test]
fn sizes_are_read_and_derived() {
    let config = Config::from_json(&llama()).unwrap();
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (6, 2, 8));
    assert_eq!(config.rope, Rope { theta: 10_000.0, scaling: RopeScaling::Default });
    let wide = Config::from_json(&with("head_dim", json!(32))).unwrap();
    assert_eq!(wide.parameters()[2].shape, [192, 48]);
    let mut config = llama();
    config.as_object_mut().unwrap().remove("num_key_value_heads");
    assert_eq!(Config::from_json(&config).unwrap().num_kv_heads, 6);
}

#[test]
fn parameters_are_those_of_hugging_face() {
    let mut config = llama();
    config["num_hidden_layers"] = json!(1);
    config["tie_word_embeddings"] = json!(false);
    let config = Config::from_json(&config).unwrap();
    let list: Vec<String> = config
        .parameters()
        .iter()
        .map(|p| format!("{} {:?}{}", p.name, p.shape, if p.decay { "" } else { " no decay" }))
        .collect();
    expect![[r#"
        model.embed_tokens.weight [100, 48]
        model.layers.0.input_layernorm.weight [48] no decay
        model.layers.0.self_attn.q_proj.weight [48, 48]
        model.layers.0.self_attn.k_proj.weight [16, 48]
        model.layers.0.self_attn.v_proj.weight [16, 48]
        model.layers.0.self_attn.o_proj.weight [48, 48]
        model.layers.0.post_attention_layernorm.weight [48] no decay
        model.layers.0.mlp.gate_proj.weight [112, 48]
        model.layers.0.mlp.up_proj.weight [112, 48]
        model.layers.0.mlp.down_proj.weight [48, 112]
        model.norm.weight [48] no decay
        lm_head.weight [100, 48]"#]]
    .assert_eq(&list.join("\n"));
}

#[test]
fn what_would_change_the_function_is_refused_by_its_key() {
    refused(
        "model_type",
        json!("gpt2"),
        expect![[r#"config.json: `model_type` = "gpt2" is not supported (known: llama, qwen2, qwen3)"#]],
    );
    refused(
        "architectures",
        json!(["LlamaForSequenceClassification"]),
        expect![[
            r#"config.json: `architectures` = ["LlamaForSequenceClassification"] is not supported (only ["LlamaForCausalLM"] with this model_type)"#
        ]],
    );
    refused(
        "sliding_window",
        json!(4096),
        expect!["config.json: `sliding_window` = 4096 is not supported (only full attention)"],
    );
    refused(
        "use_sliding_window",
        json!(true),
        expect!["config.json: `use_sliding_window` = true is not supported (must be absent, null, false, 0 or empty)"],
    );
    refused(
        "layer_types",
        json!(["full_attention", "sliding_attention"]),
        expect![[
            r#"config.json: `layer_types` = ["full_attention","sliding_attention"] is not supported (only full_attention)"#
        ]],
    );
    refused(
        "num_experts",
        json!(8),
        expect!["config.json: `num_experts` = 8 is not supported (must be absent, null, false, 0 or empty)"],
    );
    refused(
        "num_local_experts",
        json!(8),
        expect!["config.json: `num_local_experts` = 8 is not supported (must be absent, null, false, 0 or empty)"],
    );
    refused(
        "hidden_act",
        json!("gelu"),
        expect![[r#"config.json: `hidden_act` = "gelu" is not supported (only silu)"#]],
    );
    refused(
        "mlp_bias",
        json!(true),
        expect!["config.json: `mlp_bias` = true is not supported (must be absent, null, false, 0 or empty)"],
    );
    refused(
        "attention_bias",
        json!(true),
        expect!["config.json: `attention_bias` = true is not supported (only qwen2 has biases)"],
    );
    refused(
        "attention_dropout",
        json!(0.1),
        expect!["config.json: `attention_dropout` = 0.1 is not supported (must be absent, null, false, 0 or empty)"],
    );
    refused(
        "partial_rotary_factor",
        json!(0.5),
        expect!["config.json: `partial_rotary_factor` = 0.5 is not supported (must be absent or 1)"],
    );
    refused(
        "rope_interleaved",
        json!(true),
        expect!["config.json: `rope_interleaved` = true is not supported (must be absent, null, false, 0 or empty)"],
    );
    refused(
        "quantization_config",
        json!({"quant_method": "gptq"}),
        expect![[
            r#"config.json: `quantization_config` = {"quant_method":"gptq"} is not supported (must be absent, null, false, 0 or empty)"#
        ]],
    );
    refused(
        "rope_scaling",
        json!({"rope_type": "longrope", "factor": 2.0}),
        expect![[
            r#"config.json: `rope_scaling.rope_type` = "longrope" is not supported (known: default, linear, llama3, yarn)"#
        ]],
    );
    refused(
        "rope_parameters",
        json!({"rope_type": "dynamic", "factor": 2.0}),
        expect![[
            r#"config.json: `rope_parameters.rope_type` = "dynamic" is not supported (known: default, linear, llama3, yarn)"#
        ]],
    );
}

#[test]
fn impossible_values_are_refused_by_their_key() {
    refused(
        "hidden_size",
        json!("48"),
        expect![[r#"config.json: `hidden_size` = "48" is not a whole number from 1 to 16777216"#]],
    );
    refused("hidden_size", json!(47), expect!["config.json: `hidden_size` = 47 is not a multiple of 6 heads"]);
    refused(
        "num_hidden_layers",
        json!(0),
        expect!["config.json: `num_hidden_layers` = 0 is not a whole number from 1 to 16777216"],
    );
    refused("num_hidden_layers", json!(2000), expect!["config.json: `num_hidden_layers` = 2000 is more than 1024"]);
    refused("num_key_value_heads", json!(4), expect!["config.json: `num_key_value_heads` = 4 does not divide 6 heads"]);
    refused("head_dim", json!(7), expect!["config.json: `head_dim` = 7 is odd"]);
    refused("rms_norm_eps", json!(-1.0), expect!["config.json: `rms_norm_eps` = -1.0 is not a positive number"]);
    refused(
        "tie_word_embeddings",
        json!("yes"),
        expect![[r#"config.json: `tie_word_embeddings` = "yes" is not true or false"#]],
    );
    refused("vocab_size", Value::Null, expect!["config.json lacks `vocab_size`"]);
    refused("rope_scaling", json!({"type": "linear"}), expect!["config.json lacks `rope_scaling.factor`"]);
    refused(
        "rope_scaling",
        json!({"type": "linear", "factor": "4"}),
        expect![[r#"config.json: `rope_scaling.factor` = "4" is not a positive number"#]],
    );
    refused("rope_scaling", json!(4), expect!["config.json: `rope_scaling` is not an object"]);
}

#[test]
fn keys_that_change_nothing_are_passed_over() {
    for (key, value) in [
        ("use_sliding_window", json!(false)),
        ("sliding_window", Value::Null),
        ("attention_dropout", json!(0.0)),
        ("pretraining_tp", json!(1)),
        ("use_cache", json!(true)),
        ("is_llama_config", json!(true)),
        ("torch_dtype", json!("bfloat16")),
        ("layer_types", json!(["full_attention", "full_attention"])),
        ("quantization_config", Value::Null),
        ("embedding_multiplier", json!(1.0)),
        ("activation", json!("swiglu")),
        ("max_window_layers", json!(28)),
        ("_name_or_path", json!("somewhere")),
        ("transformers_version", json!("4.45.0")),
        ("unsloth_fixed", json!(true)),
        ("auto_map", json!({"AutoConfig": "configuration_x.X"})),
        ("transformers.js_config", json!({"dtype": "q4"})),
        ("eos_token_id", json!([1, 2])),
        ("id2label", json!({"0": "LABEL_0"})),
        ("repetition_penalty", json!(1.0)),
    ] {
        assert_eq!(Config::from_json(&with(key, value)).unwrap(), Config::from_json(&llama()).unwrap(), "{key}");
    }
    // A window that is switched off, as Qwen2.5 carries it.
    let mut config = with("sliding_window", json!(32768));
    config["use_sliding_window"] = json!(false);
    Config::from_json(&config).unwrap();
}

#[test]
fn an_unknown_key_is_refused_unless_it_asks_for_nothing() {
    refused(
        "logit_softcap",
        json!(30.0),
        expect![
            "config.json: `logit_softcap` = 30.0 is not supported (an unknown key; delete it from config.json if it does not change what the model computes)"
        ],
    );
    refused(
        "quantization",
        json!({"bits": 4, "group_size": 64}),
        expect![[
            r#"config.json: `quantization` = {"bits":4,"group_size":64} is not supported (an unknown key; delete it from config.json if it does not change what the model computes)"#
        ]],
    );
    for value in [Value::Null, json!(false), json!(0), json!([]), json!({})] {
        let config = Config::from_json(&with("new_idea", value.clone())).unwrap();
        assert_eq!(config, Config::from_json(&llama()).unwrap(), "{value}");
    }
}

/// As published, but for names.
#[test]
fn configurations_of_well_known_models_are_read() {
    let smollm2 = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.42.3", "use_cache": true,
        "vocab_size": 49152, "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    });
    let llama = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256,
    });
    let qwen2 = json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
        "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936,
    });
    let qwen3 = json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
        "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151936,
    });
    let millions = |config: Value| Config::from_json(&config).unwrap().num_parameters() as f64 / 1e6;
    assert_eq!([smollm2, llama, qwen2, qwen3].map(|config| millions(config).round()), [135.0, 1236.0, 494.0, 596.0]);
}

#[test]
fn old_and_new_rope_keys_say_the_same() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
    let mut old = with("rope_scaling", scaling.clone());
    old["rope_theta"] = json!(500_000.0);
    let mut parameters = scaling;
    parameters["rope_theta"] = json!(500_000.0);
    let new = rope("rope_parameters", parameters);
    assert_eq!(Config::from_json(&old).unwrap().rope, new);
    assert_eq!(new.theta, 500_000.0);
    assert_eq!(
        rope("rope_scaling", json!({"type": "linear", "factor": 4.0})).scaling,
        RopeScaling::Linear { factor: 4.0 }
    );
    assert_eq!(rope("rope_scaling", Value::Null).scaling, RopeScaling::Default);
    assert_eq!(rope("rope_theta", json!(1e6)).theta, 1e6);
}

#[test]
fn yarn_defaults_are_those_of_transformers() {
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_max_positions, attention_factor } =
        rope("rope_scaling", json!({"type": "yarn", "factor": 4.0})).scaling
    else {
        panic!("yarn is read as yarn");
    };
    assert_eq!((factor, beta_fast, beta_slow, truncate, original_max_positions), (4.0, 32.0, 1.0, true, 64.0));
    // 0.1 ln 4 + 1.
    assert!((attention_factor - 1.138_629_436).abs() < 1e-9, "{attention_factor}");
}

#[test]
fn frequencies_follow_their_definitions() {
    let plain = Rope { theta: 10_000.0, scaling: RopeScaling::Default }.frequencies(4);
    assert_eq!(plain, (vec![1.0, 0.01], 1.0));
    let linear = Rope { theta: 10_000.0, scaling: RopeScaling::Linear { factor: 4.0 } }.frequencies(4);
    assert_eq!(linear, (vec![0.25, 0.0025], 1.0));
    let table = Rope { theta: 10_000.0, scaling: RopeScaling::Default }.table(2, 4);
    assert_eq!(table[..4], [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(table[4..], [1f64.cos() as f32, 0.01f64.cos() as f32, 1f64.sin() as f32, 0.01f64.sin() as f32]);
}

#[test]
fn an_unreadable_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = format!("{:#}", anyhow::Error::from(Config::from_dir(dir.path()).unwrap_err()));
    assert!(error.contains("config.json") && error.matches("No such file").count() == 1, "{error}");
    std::fs::write(dir.path().join("config.json"), "{\"model_type\": ").unwrap();
    let error = Config::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json is not a JSON object"), "{error}");
}
