//! Rules of training and scoring that hold whatever the numbers are: accumulation, repetition, resuming, refusals.

use crate::common::{Recorded, assert_close, assert_near, devices};
use hone_model::{AdamW, Batch, Config, HostWeights, Scorer, SegmentScore, Trainer, TrainerOptions, device};

const OPTIONS: TrainerOptions = TrainerOptions::full(200, 100);

fn model() -> (Config, HostWeights) {
    let recorded = Recorded::load("qwen3");
    let config = Config::from_dir(&recorded.model_dir).unwrap();
    let weights = HostWeights::load(&recorded.model_dir, &config).unwrap();
    (config, weights)
}

fn trainer(device: &str, threads: usize) -> Trainer {
    let (config, weights) = model();
    Trainer::new(device::open(device, threads).unwrap(), &config, &weights, &OPTIONS).unwrap()
}

fn scorer(device: &str) -> Scorer {
    let (config, weights) = model();
    Scorer::new(device::open(device, 2).unwrap(), &config, &weights, &OPTIONS).unwrap()
}

/// Eight segments of different lengths, each with a few targets.
fn segments() -> Vec<Batch> {
    (0..8u32)
        .map(|row| {
            let length = [1, 5, 17, 2, 31, 9, 24, 12][row as usize];
            let ids: Vec<u32> = (0..length).map(|t| (row * 37 + t * 11 + 3) % 160).collect();
            let target = |t: u32| if (t + row).is_multiple_of(3) { ((row * 5 + t * 7) % 160) as i32 } else { -1 };
            Batch { targets: (0..length).map(target).collect(), segments: vec![length as usize], ids }
        })
        .collect()
}

fn packed(parts: &[Batch]) -> Batch {
    let mut batch = Batch::default();
    for part in parts {
        batch.ids.extend(&part.ids);
        batch.targets.extend(&part.targets);
        batch.segments.extend(&part.segments);
    }
    batch
}

fn num_targets(batch: &Batch) -> u64 {
    batch.targets.iter().filter(|&&target| target >= 0).count() as u64
}

fn update(step: u64, grad_scale: f64) -> AdamW {
    AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step, grad_scale }
}

fn bits(tensors: &[(String, Vec<f32>)]) -> Vec<u32> {
    tensors.iter().flat_map(|(_, values)| values.iter().map(|x| x.to_bits())).collect()
}

#[test]
fn losses_and_gradients_do_not_depend_on_how_a_step_is_cut_into_micro_batches() {
    for device in devices() {
        let rows = segments();
        let total = num_targets(&packed(&rows));
        let step = |micro_batches: usize| {
            let mut trainer = trainer(device, 2);
            trainer.zero_grad();
            let (mut loss_sum, mut trained) = (0.0, 0);
            for part in rows.chunks(rows.len() / micro_batches) {
                let stats = trainer.accumulate(&packed(part), 1.0 / total as f32).unwrap();
                loss_sum += stats.loss_sum;
                trained += stats.trained_tokens;
            }
            assert_eq!(trained, total);
            (loss_sum, trainer.gradients().unwrap())
        };
        let (whole_loss, whole) = step(1);
        for micro_batches in [2, 4, 8] {
            let (loss, gradients) = step(micro_batches);
            assert_close(&format!("{device}, {micro_batches} micro-batches, loss"), loss, whole_loss, 1e-5);
            for ((name, found), (_, expected)) in gradients.iter().zip(&whole) {
                assert_near(&format!("{device}, {micro_batches} micro-batches, {name}"), found, expected, 1e-5);
            }
        }
    }
}

#[test]
fn the_same_steps_with_the_same_threads_give_the_same_bits() {
    for threads in [1, 3] {
        let run = || {
            let mut trainer = trainer("cpu", threads);
            let batch = packed(&segments());
            for step in 1..=3 {
                trainer.zero_grad();
                trainer.accumulate(&batch, 0.02).unwrap();
                let norm = trainer.grad_norm().unwrap();
                trainer.adamw_step(&update(step, 1.0 / norm)).unwrap();
            }
            bits(&trainer.weights().unwrap().tensors)
        };
        assert_eq!(run(), run(), "{threads} threads");
    }
}

#[test]
fn a_step_from_saved_state_equals_a_step_without_stopping() {
    let (config, _) = model();
    let batch = packed(&segments());
    let step = |trainer: &mut Trainer, number: u64| {
        trainer.zero_grad();
        trainer.accumulate(&batch, 0.02).unwrap();
        trainer.adamw_step(&update(number, 0.5)).unwrap();
    };
    let mut through = trainer("cpu", 2);
    step(&mut through, 1);
    let (weights, state) = (through.weights().unwrap(), through.optimizer_state().unwrap());
    assert_eq!(state.step, 1);
    let mut resumed = Trainer::new(device::open("cpu", 2).unwrap(), &config, &weights, &OPTIONS).unwrap();
    resumed.load_optimizer_state(&state).unwrap();
    step(&mut through, 2);
    step(&mut resumed, 2);
    assert_eq!(bits(&through.weights().unwrap().tensors), bits(&resumed.weights().unwrap().tensors));
    let (a, b) = (through.optimizer_state().unwrap(), resumed.optimizer_state().unwrap());
    assert_eq!((a.step, bits(&a.m), bits(&a.v)), (b.step, bits(&b.m), bits(&b.v)));
}

#[test]
fn state_of_another_model_is_refused_by_the_tensor() {
    let mut trainer = trainer("cpu", 1);
    let mut state = trainer.optimizer_state().unwrap();
    state.v[3].0 = "model.layers.9.self_attn.k_proj.weight".to_owned();
    let error = format!("{:#}", trainer.load_optimizer_state(&state).unwrap_err());
    assert!(error.contains("second moments") && error.contains("model.layers.9"), "{error}");
}

#[test]
fn one_batch_is_learnt_by_heart() {
    let mut trainer = trainer("cpu", 2);
    let batch = packed(&segments());
    let scale = 1.0 / num_targets(&batch) as f32;
    let mut last = 0.0;
    for step in 1..=60 {
        trainer.zero_grad();
        let stats = trainer.accumulate(&batch, scale).unwrap();
        last = stats.loss_sum / stats.trained_tokens as f64;
        let grad_scale = (1.0 / trainer.grad_norm().unwrap()).min(1.0);
        trainer.adamw_step(&AdamW { lr: 1e-2, ..update(step, grad_scale) }).unwrap();
    }
    assert!(last < 0.1, "the loss is still {last}");
    assert_eq!(trainer.accumulate(&batch, scale).unwrap().correct, num_targets(&batch));
}

#[test]
fn a_batch_without_targets_changes_nothing() {
    for device in devices() {
        let mut trainer = trainer(device, 1);
        trainer.zero_grad();
        let stats = trainer.accumulate(&Batch::plain(&[5, 6, 7]), 1.0).unwrap();
        assert_eq!((stats.loss_sum, stats.trained_tokens, stats.correct), (0.0, 0, 0));
        assert_eq!(trainer.grad_norm().unwrap(), 0.0);
        let scores = scorer(device).score(&Batch::plain(&[5, 6, 7])).unwrap();
        assert_eq!(scores, [SegmentScore::default()]);
    }
}

#[test]
fn a_segment_scores_alone_as_it_scores_in_a_pack() {
    for device in devices() {
        let mut scorer = scorer(device);
        let rows = segments();
        let together = scorer.score(&packed(&rows)).unwrap();
        for (row, together) in rows.iter().zip(together) {
            let alone = scorer.score(row).unwrap()[0];
            assert_eq!((alone.tokens, alone.correct), (together.tokens, together.correct));
            assert!(
                (alone.nll_sum - together.nll_sum).abs() < 1e-4 * (1.0 + together.nll_sum),
                "{alone:?} {together:?}"
            );
        }
    }
}

#[test]
fn a_token_does_not_see_what_comes_after_it() {
    for device in devices() {
        let mut scorer = scorer(device);
        let ids: Vec<u32> = (0..70).map(|t| (t * 13 + 5) % 160).collect();
        let mut changed = ids.clone();
        changed[69] = 1;
        let (before, after) =
            (scorer.logits(&Batch::plain(&ids)).unwrap(), scorer.logits(&Batch::plain(&changed)).unwrap());
        assert_eq!(before[..69 * 160], after[..69 * 160], "{device}");
        assert_ne!(before[69 * 160..], after[69 * 160..], "{device}");
    }
}

#[test]
fn next_logits_are_the_last_row_of_all_logits() {
    let ids: Vec<u32> = (0..40).map(|t| (t * 13 + 5) % 160).collect();
    let all = scorer("cpu").logits(&Batch::plain(&ids)).unwrap();
    let next = trainer("cpu", 2).next_logits(&ids).unwrap();
    assert_near("next logits", &next, &all[39 * 160..], 1e-6);
}

#[test]
fn token_losses_add_up_to_the_score() {
    let mut scorer = scorer("cpu");
    let batch = packed(&segments());
    let losses = scorer.token_losses(&batch).unwrap();
    assert_eq!(losses.len() as u64, num_targets(&batch));
    let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
    let scored: f64 = scorer.score(&batch).unwrap().iter().map(|score| score.nll_sum).sum();
    assert!((sum - scored).abs() < 1e-9, "{sum} {scored}");
}

#[test]
fn batches_that_do_not_fit_are_refused_with_the_reason() {
    let mut trainer = trainer("cpu", 1);
    let plain = Batch::plain(&[1, 2, 3]);
    let long: Vec<u32> = vec![1; 101];
    let wide = Batch { ids: vec![1; 201], targets: vec![-1; 201], segments: vec![67; 3] };
    let cases = [
        (Batch::default(), "a batch holds no token"),
        (wide, "a batch holds 201 tokens, 200 were planned"),
        (Batch::plain(&long), "segment 0 of a batch has 101 tokens, 100 were planned"),
        (Batch { targets: vec![-1], ..plain.clone() }, "a batch holds 3 ids but 1 targets"),
        (Batch { segments: vec![1, 1], ..plain.clone() }, "segments of a batch sum to 2 tokens, it holds 3"),
        (Batch { segments: vec![3, 0], ..plain.clone() }, "segment 1 of a batch is empty"),
        (Batch { ids: vec![1, 160, 3], ..plain.clone() }, "id 160 at token 1 is outside the vocabulary of 160"),
        (
            Batch { targets: vec![-1, -1, 160], ..plain.clone() },
            "target 160 at token 2 is outside the vocabulary of 160",
        ),
        (Batch { targets: vec![-2, -1, 1], ..plain }, "target -2 at token 0 is outside the vocabulary of 160"),
    ];
    for (batch, expected) in cases {
        assert_eq!(trainer.accumulate(&batch, 1.0).unwrap_err().to_string(), expected);
    }
}

#[test]
fn plans_beyond_the_model_are_refused() {
    let (config, weights) = model();
    let options = TrainerOptions::full(1000, 257);
    let error = Trainer::new(device::open("cpu", 1).unwrap(), &config, &weights, &options).err().unwrap();
    assert!(error.to_string().contains("longer than the model's 256 positions"), "{error}");
}

#[test]
fn a_number_that_is_not_finite_shows_in_loss_and_norm() {
    let (config, mut weights) = model();
    weights.tensors[2].1[0] = f32::NAN;
    let mut trainer = Trainer::new(device::open("cpu", 2).unwrap(), &config, &weights, &OPTIONS).unwrap();
    trainer.zero_grad();
    let stats = trainer.accumulate(&packed(&segments()), 0.02).unwrap();
    assert!(stats.loss_sum.is_nan());
    assert!(trainer.grad_norm().unwrap().is_nan());
}
