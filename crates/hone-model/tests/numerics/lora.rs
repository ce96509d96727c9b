//! LoRA on every device against `peft` (`testdata/reference/*/adapter`), and its rules: what is frozen, merging, dropout,
//! resuming; and that recomputing layers changes no bit.

use crate::common::{FAMILIES, Recorded, assert_close, assert_near, devices, distance};
use hone_model::{AdamW, Adapter, Batch, Config, Dtype, HostWeights, LoraConfig, Method};
use hone_model::{Scorer, Stored, Target, Trainer, TrainerOptions, device};

struct Case {
    what: String,
    device: &'static str,
    recorded: Recorded,
    config: Config,
    weights: HostWeights,
    adapter: Adapter,
}

impl Case {
    fn load(family: &str, device: &'static str) -> Case {
        let recorded = Recorded::load(family);
        let config = Config::from_dir(&recorded.model_dir).unwrap();
        let weights = HostWeights::load(&recorded.model_dir, &config).unwrap();
        let adapter = Adapter::load(&recorded.model_dir.with_file_name("adapter"), &config).unwrap();
        Case { what: format!("{family} on {device}"), device, recorded, config, weights, adapter }
    }

    fn options(&self, change: impl Fn(&mut Method)) -> TrainerOptions {
        let mut method = Method { lora: Some(self.adapter.lora.clone()), ..Method::default() };
        change(&mut method);
        TrainerOptions { method, ..TrainerOptions::full(80, 80) }
    }

    fn trainer(&self, change: impl Fn(&mut Method)) -> Trainer {
        let open = device::open(self.device, 2).unwrap();
        let mut trainer = Trainer::new(open, &self.config, &self.weights, &self.options(change)).unwrap();
        trainer.load_adapter(&self.adapter).unwrap();
        trainer
    }

    fn scale(&self) -> f32 {
        1.0 / self.recorded.number("num_trained_tokens") as f32
    }

    fn mean_loss(&self, trainer: &mut Trainer) -> f64 {
        trainer.zero_grad();
        let stats = trainer.accumulate(&self.recorded.batch, self.scale()).unwrap();
        stats.loss_sum / stats.trained_tokens as f64
    }

    /// As in `scripts/make_reference.py`.
    fn step(&self, trainer: &mut Trainer, number: u64) -> f64 {
        let loss = self.mean_loss(trainer);
        let norm = trainer.grad_norm().unwrap();
        let (lr, grad_scale) = (1e-2, (1.0 / (norm + 1e-6)).min(1.0));
        let update = AdamW { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step: number, grad_scale };
        trainer.adamw_step(&update).unwrap();
        loss
    }
}

fn each(check: impl Fn(&Case)) {
    for family in FAMILIES {
        for device in devices() {
            check(&Case::load(family, device));
        }
    }
}

fn bits(tensors: &[(String, Vec<f32>)]) -> Vec<u32> {
    tensors.iter().flat_map(|(_, values)| values.iter().map(|x| x.to_bits())).collect()
}

#[test]
fn loss_and_gradients_are_those_of_peft() {
    each(|case| {
        let mut trainer = case.trainer(|_| {});
        let loss = case.mean_loss(&mut trainer);
        assert_close(&case.what, loss, case.recorded.number("lora_loss"), 1e-4);
        let gradients = trainer.gradients().unwrap();
        let recorded = case.recorded.tensors.keys().filter(|name| name.starts_with("lora_grad.")).count();
        assert_eq!(gradients.len(), recorded, "{}: as many trained tensors as in peft", case.what);
        for (name, gradient) in gradients {
            let expected = &case.recorded.tensors[&format!("lora_grad.{name}")];
            assert_near(&format!("{}: gradient of {name}", case.what), &gradient, expected, 1e-3);
        }
    });
}

#[test]
fn three_adamw_steps_are_those_of_peft() {
    each(|case| {
        let mut trainer = case.trainer(|_| {});
        for (number, expected) in case.recorded.numbers("lora_losses").into_iter().enumerate() {
            let loss = case.step(&mut trainer, number as u64 + 1);
            assert_close(&format!("{}: loss of step {number}", case.what), loss, expected, 1e-4);
        }
        for (name, values) in trainer.trained().unwrap() {
            // Below this AdamW turns rounding into signs.
            let gradient = &case.recorded.tensors[&format!("lora_grad.{name}")];
            let counts = |values: &[f32]| -> Vec<f32> {
                values.iter().zip(gradient).filter(|(_, g)| g.abs() > 1e-6).map(|(x, _)| *x).collect()
            };
            let expected = counts(&case.recorded.tensors[&format!("lora_after.{name}")]);
            assert_near(&format!("{}: {name} after three steps", case.what), &counts(&values), &expected, 1e-3);
        }
    });
}

#[test]
fn merged_weights_compute_what_the_adapter_computes_also_after_a_reload() {
    each(|case| {
        let mut trainer = case.trainer(|_| {});
        let with_adapter = trainer.next_logits(&case.recorded.batch.ids[..30]).unwrap();
        let without = {
            let open = device::open(case.device, 2).unwrap();
            let mut plain = Trainer::new(open, &case.config, &case.weights, &TrainerOptions::full(80, 80)).unwrap();
            plain.next_logits(&case.recorded.batch.ids[..30]).unwrap()
        };
        assert!(distance(&without, &with_adapter) > 1e-3, "{}: the adapter changes something", case.what);
        let dir = tempfile::tempdir().unwrap();
        let mut file = std::fs::File::create(dir.path().join("model.safetensors")).unwrap();
        let all = Stored::Weights((0..case.config.parameters().len()).collect());
        trainer.write(&all, Dtype::F32, &mut file).unwrap();
        let reloaded = HostWeights::load(dir.path(), &case.config).unwrap();
        assert_eq!(reloaded.tensors, trainer.weights().unwrap().tensors);
        let open = device::open(case.device, 2).unwrap();
        let mut scorer = Scorer::new(open, &case.config, &reloaded, &TrainerOptions::full(80, 80)).unwrap();
        let logits = scorer.logits(&Batch::plain(&case.recorded.batch.ids[..30])).unwrap();
        let last = &logits[29 * case.config.vocab_size..];
        assert_near(&format!("{}: merged logits", case.what), last, &with_adapter, 1e-5);
        let scores = scorer.score(&case.recorded.batch).unwrap();
        let nll: f64 = scores.iter().map(|score| score.nll_sum).sum();
        let tokens: u64 = scores.iter().map(|score| score.tokens).sum();
        assert_close(&case.what, nll / tokens as f64, case.recorded.number("lora_loss"), 1e-4);
    });
}

#[test]
fn the_model_stays_as_it_is_and_costs_no_gradients_and_no_moments() {
    let case = Case::load("llama_tied", "cpu");
    let mut trainer = case.trainer(|_| {});
    case.step(&mut trainer, 1);
    let mut stored = Vec::new();
    trainer.write(&Stored::Base, Dtype::F32, &mut stored).unwrap();
    let mut original = Vec::new();
    case.weights.write(&case.config, Dtype::F32, &mut original).unwrap();
    assert_eq!(stored, original, "not a bit of the frozen weights moved");
    let open = device::open("cpu", 2).unwrap();
    let bytes = |method: Method| {
        let options = TrainerOptions { method, ..TrainerOptions::full(80, 80) };
        Trainer::planned_bytes(&case.config, &options, &*open).unwrap() as i64
    };
    let lora = bytes(Method { lora: Some(case.adapter.lora.clone()), ..Method::default() });
    let parameters = 4 * case.config.num_parameters() as i64;
    let adapter: i64 = 4 * case.adapter.tensors.iter().map(|(_, values)| values.len() as i64).sum::<i64>();
    // Seven rows of rank 4 for each token and layer and the widest group again; alignment.
    let low_rows = 4 * 80 * 4 * (7 * case.config.num_layers as i64 + 3);
    let expected = bytes(Method::default()) - 3 * parameters + 4 * adapter + low_rows;
    assert!((lora - expected).abs() < 4096, "{lora} bytes planned, expected {expected}");
}

#[test]
fn recomputing_layers_changes_no_bit_and_takes_less_memory() {
    for family in ["qwen3", "llama_tied"] {
        for device in devices() {
            let case = Case::load(family, device);
            let dropped = LoraConfig { dropout: 0.2, ..case.adapter.lora.clone() };
            for lora in [None, Some(case.adapter.lora.clone()), Some(dropped)] {
                let run = |recompute: bool| {
                    let method = Method { recompute, lora: lora.clone(), ..Method::default() };
                    let options = TrainerOptions { method, ..TrainerOptions::full(80, 80) };
                    let open = device::open(device, 2).unwrap();
                    let bytes = Trainer::planned_bytes(&case.config, &options, &*open).unwrap();
                    let mut trainer = Trainer::new(open, &case.config, &case.weights, &options).unwrap();
                    let losses: Vec<u64> = (1..=2).map(|n| case.step(&mut trainer, n).to_bits()).collect();
                    (losses, bits(&trainer.gradients().unwrap()), bits(&trainer.trained().unwrap()), bytes)
                };
                let (keeps, again) = (run(false), run(true));
                assert_eq!(keeps.0, again.0, "{}: losses with {lora:?}", case.what);
                let differ = keeps.1.iter().zip(&again.1).filter(|(a, b)| a != b).count();
                assert_eq!(differ, 0, "{}: gradients with {lora:?}", case.what);
                assert!(keeps.2 == again.2, "{}: trained tensors with {lora:?}", case.what);
                assert!(again.3 < keeps.3, "{}: {} bytes again, {} kept", case.what, again.3, keeps.3);
            }
        }
    }
}

#[test]
fn frozen_parameters_stay_and_the_others_get_the_gradients_of_a_full_run() {
    for device in devices() {
        for frozen in [vec!["model.embed_tokens.weight"], vec!["*.k_proj.*", "*norm.weight"], vec!["model.layers.0.*"]]
        {
            let case = Case::load("qwen3", device);
            let method = Method { frozen: frozen.iter().map(|s| (*s).to_owned()).collect(), ..Method::default() };
            let run = |method: Method| {
                let options = TrainerOptions { method, ..TrainerOptions::full(80, 80) };
                let open = device::open(device, 2).unwrap();
                let mut trainer = Trainer::new(open, &case.config, &case.weights, &options).unwrap();
                case.mean_loss(&mut trainer);
                let gradients = trainer.gradients().unwrap();
                case.step(&mut trainer, 1);
                (gradients, trainer.weights().unwrap())
            };
            let ((full, _), (some, after)) = (run(Method::default()), run(method));
            assert!(some.len() < full.len());
            for (name, gradient) in &some {
                let (_, expected) = full.iter().find(|(found, _)| found == name).unwrap();
                assert_near(&format!("{device}, {frozen:?}: {name}"), gradient, expected, 1e-6);
            }
            for ((name, before), (_, after)) in case.weights.tensors.iter().zip(&after.tensors) {
                let is_trained = some.iter().any(|(trained, _)| trained == name);
                assert_eq!(before != after, is_trained, "{device}, {frozen:?}: {name} moved");
            }
        }
    }
}

#[test]
fn patterns_that_freeze_nothing_or_everything_are_refused() {
    let case = Case::load("qwen3", "cpu");
    let error = |method: Method| {
        let options = TrainerOptions { method, ..TrainerOptions::full(80, 80) };
        let open = device::open("cpu", 1).unwrap();
        Trainer::new(open, &case.config, &case.weights, &options).err().unwrap().to_string()
    };
    let frozen = |pattern: &str| Method { frozen: vec![pattern.to_owned()], ..Method::default() };
    assert!(error(frozen("lm_head*")).contains("`lm_head*` of frozen parameters fits none"));
    assert!(error(frozen("*")).contains("every parameter is frozen"));
    let both = Method { lora: Some(case.adapter.lora.clone()), ..frozen("*norm*") };
    assert!(error(both).contains("LoRA freezes every parameter"));
}

#[test]
fn dropout_is_seeded_the_same_on_every_device_and_keeps_the_expectation() {
    let case = Case::load("qwen3", "cpu");
    let dropped = LoraConfig { dropout: 0.3, ..case.adapter.lora.clone() };
    let losses = |device: &'static str, seed: u64| -> Vec<f64> {
        let case = Case { device, ..Case::load("qwen3", device) };
        let mut trainer = case.trainer(|method| (method.lora, method.seed) = (Some(dropped.clone()), seed));
        let mut losses = vec![case.mean_loss(&mut trainer)];
        // Another micro-batch of the same step has another mask.
        losses.push(trainer.accumulate(&case.recorded.batch, case.scale()).unwrap().loss_sum);
        losses
    };
    let (first, again, other) = (losses("cpu", 1), losses("cpu", 1), losses("cpu", 2));
    assert_eq!(first, again);
    assert!((first[0] - other[0]).abs() > 1e-6, "another seed, another mask");
    let tokens = case.recorded.number("num_trained_tokens");
    assert!((first[0] - first[1] / tokens).abs() > 1e-6, "another micro-batch, another mask");
    for (a, b) in first.iter().zip(losses("reference", 1)) {
        assert_close("both devices drop the same", *a, b, 1e-5);
    }
    let without = case.recorded.number("lora_loss");
    // Noise in the logits makes the mean loss a little higher, never much.
    let mean: f64 = (0..40).map(|seed| losses("cpu", seed)[0]).sum::<f64>() / 40.0;
    assert!((0.0..0.06).contains(&(mean - without)), "mean loss {mean} under dropout, {without} without");
    let mut trainer = case.trainer(|method| method.lora = Some(dropped.clone()));
    let plain = case.trainer(|_| {}).next_logits(&case.recorded.batch.ids[..20]).unwrap();
    assert_eq!(
        trainer.next_logits(&case.recorded.batch.ids[..20]).unwrap(),
        plain,
        "nothing is dropped but in training"
    );
}

#[test]
fn gradients_under_dropout_are_the_slope_of_the_loss() {
    let case = Case::load("qwen2", "reference");
    let dropped = LoraConfig { dropout: 0.3, ..case.adapter.lora.clone() };
    let mut trainer = case.trainer(|method| method.lora = Some(dropped.clone()));
    case.mean_loss(&mut trainer);
    let gradients = trainer.gradients().unwrap();
    for index in [0, 3, 8, 13, 20, 27] {
        let (name, gradient) = &gradients[index];
        let size: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let mut loss_at = |distance: f64| {
            let mut moved = case.adapter.clone();
            for (x, g) in moved.tensors[index].1.iter_mut().zip(gradient) {
                *x += (distance * f64::from(*g) / size) as f32;
            }
            trainer.load_adapter(&moved).unwrap();
            case.mean_loss(&mut trainer)
        };
        let slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
        assert_close(&format!("{name}: slope"), slope, size, 2e-2);
    }
}

#[test]
fn a_step_from_saved_adapter_and_state_equals_a_step_without_stopping() {
    let case = Case::load("llama_tied", "cpu");
    let dropout = |method: &mut Method| method.lora.as_mut().unwrap().dropout = 0.1;
    let mut through = case.trainer(dropout);
    case.step(&mut through, 1);
    let dir = tempfile::tempdir().unwrap();
    let [m, v] = [(Stored::FirstMoments, "m"), (Stored::SecondMoments, "v")].map(|(what, name)| {
        let path = dir.path().join(name);
        through.write(&what, Dtype::F32, &mut std::fs::File::create(&path).unwrap()).unwrap();
        path
    });
    let adapter = through.adapter().unwrap().unwrap();
    let mut resumed = case.trainer(dropout);
    resumed.load_adapter(&adapter).unwrap();
    resumed.load_moments(&m, &v, 1).unwrap();
    case.step(&mut through, 2);
    case.step(&mut resumed, 2);
    assert_eq!(bits(&through.trained().unwrap()), bits(&resumed.trained().unwrap()));
    assert_eq!(through.optimizer_state().unwrap(), resumed.optimizer_state().unwrap());
    let fewer = LoraConfig { targets: vec![Target::Query, Target::Value], ..case.adapter.lora.clone() };
    let options =
        TrainerOptions { method: Method { lora: Some(fewer), ..Method::default() }, ..TrainerOptions::full(80, 80) };
    let open = device::open("cpu", 1).unwrap();
    let mut other = Trainer::new(open, &case.config, &case.weights, &options).unwrap();
    let error = format!("{:#}", other.load_moments(&m, &v, 1).unwrap_err());
    assert!(error.contains("is not one that is trained"), "{error}");
    assert!(format!("{:#}", other.load_adapter(&adapter).unwrap_err()).contains("28 tensors given, expected 8"));
}
