//! Every device against what PyTorch computes (`testdata/reference`, made by `scripts/make_reference.py`): logits, loss,
//! gradients, three AdamW steps and greedy continuations of each family, on a packed and masked batch.

use crate::common::{FAMILIES, Recorded, assert_close, assert_near, devices};
use hone_model::{AdamW, Config, HostWeights, Scorer, Trainer, TrainerOptions, device};

const OPTIONS: TrainerOptions = TrainerOptions::full(80, 80);

fn each(check: impl Fn(&str, &Recorded, &dyn Fn() -> Trainer, &dyn Fn() -> Scorer)) {
    for family in FAMILIES {
        let recorded = Recorded::load(family);
        let config = Config::from_dir(&recorded.model_dir).unwrap();
        let weights = HostWeights::load(&recorded.model_dir, &config).unwrap();
        for device in devices() {
            let open = || device::open(device, 2).unwrap();
            let trainer = || Trainer::new(open(), &config, &weights, &OPTIONS).unwrap();
            let scorer = || Scorer::new(open(), &config, &weights, &OPTIONS).unwrap();
            check(&format!("{family} on {device}"), &recorded, &trainer, &scorer);
        }
    }
}

#[test]
fn logits_and_loss_are_those_of_pytorch() {
    each(|what, recorded, _, scorer| {
        let mut scorer = scorer();
        assert_near(what, &scorer.logits(&recorded.batch).unwrap(), &recorded.tensors["logits"], 1e-4);
        let scores = scorer.score(&recorded.batch).unwrap();
        assert_eq!(scores.len(), 3);
        let tokens: u64 = scores.iter().map(|score| score.tokens).sum();
        assert_eq!(tokens, recorded.json["num_trained_tokens"].as_u64().unwrap());
        let nll: f64 = scores.iter().map(|score| score.nll_sum).sum();
        assert_close(what, nll / tokens as f64, recorded.number("loss"), 1e-4);
    });
}

#[test]
fn gradients_are_those_of_pytorch() {
    each(|what, recorded, trainer, _| {
        let mut trainer = trainer();
        trainer.zero_grad();
        let scale = 1.0 / recorded.number("num_trained_tokens") as f32;
        let stats = trainer.accumulate(&recorded.batch, scale).unwrap();
        assert_close(what, stats.loss_sum / stats.trained_tokens as f64, recorded.number("loss"), 1e-4);
        for (name, gradient) in trainer.gradients().unwrap() {
            let expected = &recorded.tensors[&format!("grad.{name}")];
            assert_near(&format!("{what}: gradient of {name}"), &gradient, expected, 1e-3);
        }
    });
}

#[test]
fn three_adamw_steps_are_those_of_pytorch() {
    each(|what, recorded, trainer, _| {
        let mut trainer = trainer();
        let scale = 1.0 / recorded.number("num_trained_tokens") as f32;
        let mean_loss = |trainer: &mut Trainer| {
            trainer.zero_grad();
            let stats = trainer.accumulate(&recorded.batch, scale).unwrap();
            stats.loss_sum / stats.trained_tokens as f64
        };
        for step in 0..3 {
            let loss = mean_loss(&mut trainer);
            assert_close(&format!("{what}: loss of step {step}"), loss, recorded.numbers("losses")[step], 1e-4);
            let norm = trainer.grad_norm().unwrap();
            assert_close(&format!("{what}: norm of step {step}"), norm, recorded.numbers("grad_norms")[step], 1e-3);
            let update = AdamW {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.1,
                step: step as u64 + 1,
                grad_scale: (1.0 / (norm + 1e-6)).min(1.0),
            };
            trainer.adamw_step(&update).unwrap();
        }
        for (name, values) in trainer.weights().unwrap().tensors {
            // Below this AdamW turns rounding into signs.
            let gradient = &recorded.tensors[&format!("grad.{name}")];
            let counts = |values: &[f32]| -> Vec<f32> {
                values.iter().zip(gradient).filter(|(_, g)| g.abs() > 1e-6).map(|(x, _)| *x).collect()
            };
            let expected = counts(&recorded.tensors[&format!("after.{name}")]);
            assert_near(&format!("{what}: {name} after three steps"), &counts(&values), &expected, 1e-3);
        }
        assert_close(what, mean_loss(&mut trainer), recorded.number("loss_after"), 1e-4);
    });
}

#[test]
fn greedy_continuations_are_those_of_pytorch() {
    each(|what, recorded, trainer, _| {
        let mut trainer = trainer();
        let list = |key: &str| -> Vec<u32> { recorded.numbers(key).iter().map(|&id| id as u32).collect() };
        let mut ids = list("greedy_prompt");
        for (step, (id, margin)) in list("greedy").into_iter().zip(recorded.numbers("greedy_margins")).enumerate() {
            let logits = trainer.next_logits(&ids).unwrap();
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            if margin > 1e-3 {
                assert_eq!(best as u32, id, "{what}: token {step}, margin {margin}");
            }
            ids.push(id);
        }
    });
}

#[test]
fn planned_bytes_are_what_the_arena_takes() {
    let recorded = Recorded::load("qwen3");
    let config = Config::from_dir(&recorded.model_dir).unwrap();
    let device = device::open("cpu", 2).unwrap();
    let train = Trainer::planned_bytes(&config, &OPTIONS, &*device).unwrap();
    let score = Scorer::planned_bytes(&config, &OPTIONS, &*device).unwrap();
    let parameters = 4 * config.num_parameters() as u64;
    assert!(train > 4 * parameters && score > parameters && score < train, "{train} {score} {parameters}");
}

/// SmolLM2's shape. Bytes beside weights, gradients and moments.
#[test]
fn memory_grows_with_the_length_alone_and_logits_are_never_held_whole() {
    let device = device::open("cpu", 2).unwrap();
    let beyond_static = |vocab_size: usize, length: usize| {
        let config = Config::from_json(&serde_json::json!({
            "model_type": "llama", "vocab_size": vocab_size, "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 100_000, "tie_word_embeddings": true, "hidden_act": "silu",
        }));
        let config = config.unwrap();
        let options = TrainerOptions::full(length, length);
        let all = Trainer::planned_bytes(&config, &options, &*device).unwrap();
        (all - 16 * config.num_parameters() as u64) as f64
    };
    let (short, long) = (beyond_static(49_152, 1024), beyond_static(49_152, 4096));
    assert!(long <= 4.2 * short, "{long} bytes at 4096, {short} at 1024");
    // One score of each pair of tokens, for one head of one layer, would already be 67 MB; all of them 18 GB.
    assert!(long < 4e9, "{long}");
    let logits = 4.0 * 4096.0 * f64::from(49_152 - 1_024);
    let more = long - beyond_static(1_024, 4096);
    assert!(more < 0.1 * logits, "{more} bytes for a larger vocabulary, {logits} for all logits");
}
