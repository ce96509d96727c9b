//! The device for NVIDIA GPUs where there may be none: its kernels compile for every architecture, whole training steps and decoding
//! agree with the processor's, and the calls of a step are as few as they should be. With `HONE_TEST_GPU` the GPU of this machine
//! takes the emulator's place.

use super::emulated::Emulated;
use super::*;
use crate::device::{WeightFormat, open};
use crate::{
    AdamW, Batch, Config, Decoder, DecoderOptions, HostWeights, LoraConfig, Method, Region, Target, Trainer,
    TrainerOptions, WeightSource,
};
use serde_json::json;
use std::io::Write;
use std::sync::{Arc, Mutex};

/// In the order exact, rounded.
fn devices() -> [&'static str; 2] {
    if std::env::var_os("HONE_TEST_GPU").is_some() { ["cuda-f32", "cuda"] } else { ["emulated-f32", "emulated"] }
}

/// Heads that tensor cores take, widths that are wide and a vocabulary that is not.
fn config() -> Config {
    Config::from_json(&json!({
        "model_type": "qwen3", "vocab_size": 99, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "rope_theta": 10000.0,
    }))
    .unwrap()
}

/// Segments that fill tiles, end inside them and are shorter than one.
fn batch(config: &Config) -> Batch {
    let segments = vec![70, 5, 1, 64];
    let n: usize = segments.iter().sum();
    let ids: Vec<u32> = (0..n).map(|i| (i * 37 % config.vocab_size) as u32).collect();
    let mut targets: Vec<i32> =
        (0..n).map(|i| if i % 5 == 0 { -1 } else { (i * 11 % config.vocab_size) as i32 }).collect();
    let mut end = 0;
    for length in &segments {
        end += length;
        targets[end - 1] = -1;
    }
    Batch { ids, targets, segments }
}

fn lora() -> LoraConfig {
    use Target::{Down, Key, Output, Query, Up};
    LoraConfig { rank: 3, alpha: 6.0, dropout: 0.2, targets: vec![Query, Key, Output, Up, Down] }
}

const STEP: AdamW =
    AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, step: 1, grad_scale: 0.5 };

type Tensors = Vec<(String, Vec<f32>)>;

/// Loss, gradients and trained numbers of one step.
fn step(device: &str, method: &Method) -> (f64, Tensors, Tensors) {
    let config = config();
    let (weights, batch) = (HostWeights::random(&config, 5), batch(&config));
    let options = TrainerOptions { max_tokens: 140, max_segment_tokens: 128, method: method.clone() };
    let mut trainer = Trainer::new(open(device, 2).unwrap(), &config, &weights, &options).unwrap();
    trainer.zero_grad();
    let stats = trainer.accumulate(&batch, 1.0 / 50.0).unwrap();
    let gradients = trainer.gradients().unwrap();
    trainer.adamw_step(&STEP).unwrap();
    (stats.loss_sum / stats.trained_tokens as f64, gradients, trainer.trained().unwrap())
}

fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|x| f64::from(*x).powi(2)).sum();
    if difference == 0.0 { 0.0 } else { (difference / size).sqrt() }
}

// budget: 25 s
#[test]
fn a_training_step_is_that_of_the_processor() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    let with_lora = Method { lora: Some(lora()), ..Method::full() };
    let recomputed = Method { recompute: true, ..Method::full() };
    for method in [Method::full(), with_lora, recomputed] {
        let (loss, gradients, _) = step("cpu", &method);
        for (device, tolerance) in devices().into_iter().zip([1e-5, 3e-2]) {
            let (found_loss, found, _) = step(device, &method);
            assert!((found_loss - loss).abs() < tolerance * loss / 5.0, "{device}: loss {found_loss}, expected {loss}");
            for ((name, found), (_, expected)) in found.iter().zip(&gradients) {
                let distance = distance(found, expected);
                assert!(distance < tolerance, "{device}: gradient of {name} is off by {distance:.1e}");
            }
        }
    }
}

// budget: 6 s
#[test]
fn equal_steps_have_equal_bits() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    for device in devices() {
        let (first, again) = (step(device, &Method::full()), step(device, &Method::full()));
        assert!(first == again, "{device}");
    }
}

// budget: 14 s
#[test]
fn decoding_is_that_of_the_processor() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    let config = config();
    let weights = HostWeights::random(&config, 5);
    let prompt: Vec<u32> = (0..70).map(|i| i * 7 % 99).collect();
    for format in WeightFormat::ALL {
        let decode = |device: &str| -> Vec<f32> {
            let options = DecoderOptions { slots: 2, max_context: 80, format };
            let mut decoder = Decoder::new(open(device, 2).unwrap(), &config, &weights, &options).unwrap();
            let mut all = decoder.prefill(1, &prompt).unwrap();
            all.extend(decoder.prefill(0, &prompt[..3]).unwrap());
            for token in [4, 9] {
                all.extend(decoder.decode(&[(0, token), (1, token + 1)]).unwrap().concat());
            }
            all
        };
        let expected = decode("cpu");
        for (device, tolerance) in devices().into_iter().zip([1e-5, 2e-2]) {
            let distance = distance(&decode(device), &expected);
            assert!(distance < tolerance, "{device}, {}: logits are off by {distance:.1e}", format.name());
        }
    }
}

// budget: 4 s
#[test]
fn sequences_may_share_full_blocks_and_stand_anywhere() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    let config = config();
    let weights = HostWeights::random(&config, 5);
    let prompt: Vec<u32> = (0..41).map(|i| i * 7 % 99).collect();
    for (device, tolerance) in devices().into_iter().zip([1e-5, 2e-2]) {
        let options = DecoderOptions { slots: 2, max_context: 80, format: WeightFormat::F32 };
        let open = || open(device, 2).unwrap();
        let mut decoder = Decoder::with_cache(open(), &config, WeightSource::Host(&weights), &options, 9).unwrap();
        assert!(decoder.is_paged());
        let [long, short] = [[7, 2, 5, 0], [7, 2, 8, 3]].map(|blocks| Region::of(&blocks));
        decoder.attach(0, long.clone(), 0);
        let alone = decoder.prefill(0, &prompt).unwrap();
        // Two full blocks are shared, eight tokens copied, the last one computed.
        decoder.copy(&long, &short, 40);
        decoder.attach(1, short, 40);
        let after_copy = decoder.prefill(1, &prompt[40..]).unwrap();
        assert!(distance(&after_copy, &alone) < tolerance, "{device}: the copied beginning is the same");
        // They go on differently, and then alike: neither has written where the other stands.
        let tokens = [(3, 4), (8, 9), (1, 2), (6, 6)];
        let together: Vec<_> = tokens.iter().map(|&(a, b)| decoder.decode(&[(0, a), (1, b)]).unwrap()).collect();
        let mut plain = Decoder::new(open(), &config, &weights, &options).unwrap();
        for (slot, tokens) in [tokens.map(|pair| pair.0), tokens.map(|pair| pair.1)].iter().enumerate() {
            plain.prefill(slot, &prompt).unwrap();
            for (step, token) in tokens.iter().enumerate() {
                let expected = plain.decode(&[(slot, *token)]).unwrap().remove(0);
                let distance = distance(&together[step][slot], &expected);
                assert!(distance < tolerance, "{device}: sequence {slot}, step {step}: {distance:.1e}");
            }
        }
    }
}

/// The calls of one micro-batch, without the numbers behind them.
fn calls_of_a_micro_batch() -> Vec<String> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&calls);
    let driver = Emulated::recorded(move |call| log.lock().unwrap().push(call));
    let device = Box::new(Cuda::with_driver(Box::new(driver), Precision::Bf16));
    let config = config();
    let options = TrainerOptions::full(140, 128);
    let mut trainer = Trainer::new(device, &config, &HostWeights::random(&config, 5), &options).unwrap();
    trainer.zero_grad();
    calls.lock().unwrap().clear();
    trainer.accumulate(&batch(&config), 0.02).unwrap();
    let calls = calls.lock().unwrap();
    calls.clone()
}

#[test]
fn a_micro_batch_waits_for_nothing_but_its_losses() {
    let calls = calls_of_a_micro_batch();
    let waits: Vec<usize> =
        (0..calls.len()).filter(|&i| calls[i].starts_with("download") || calls[i] == "finish").collect();
    let last: Vec<usize> = (calls.len() - 3..calls.len()).collect();
    assert_eq!(waits, last, "losses and flags are read at the end, and nothing before");
    assert!(!calls.iter().any(|call| call.starts_with("allocate")), "memory is taken before the first step");
}

#[test]
fn attention_of_a_training_step_runs_on_tensor_cores_over_every_tile() {
    let calls = calls_of_a_micro_batch();
    // Segments of 70, 5, 1 and 64 rows are 1 + 1 + 1 + 1 tiles of 128, 2 + 1 + 1 + 1 of 64; two query heads, one key head.
    for (kernel, tiles, heads) in
        [("attention_forward_64", 4, 2), ("attention_backward_queries_64", 4, 2), ("attention_backward_keys_64", 5, 1)]
    {
        let expected = format!("{kernel} [{tiles}, {heads}, 1] x 128");
        assert_eq!(calls.iter().filter(|call| **call == expected).count(), 2, "{kernel}: once in each of two layers");
    }
    assert!(!calls.iter().any(|call| call.starts_with("attention_rows")));
}

#[test]
fn lists_that_were_just_put_are_not_put_again() {
    let uploads = calls_of_a_micro_batch().iter().filter(|call| call.starts_with("upload")).count();
    // Ids, rows, targets, positions, tiles; targets, starts and order of two scattered sums: less than one for each kernel that has some.
    assert!(uploads <= 14, "{uploads} lists for one micro-batch of two layers");
}

// budget: 16 s
#[test]
fn kernels_compile_for_every_architecture() {
    if let Err(error) = compiler::compile("sm_80") {
        let text = format!("{error:#}");
        assert!(text.contains("there is no NVRTC"), "{text}");
        let told = "NVRTC is not on this machine: the kernels were NOT compiled for GPUs \
                    (pip install nvidia-cuda-nvrtc, LD_LIBRARY_PATH)\n";
        // Not by `eprintln!`: it is told also where the output of tests is not shown.
        std::io::stderr().write_all(told.as_bytes()).unwrap();
        return;
    }
    if std::env::var_os("HONE_SLOW").is_some() {
        for architecture in ["sm_86", "sm_89", "sm_90"] {
            compiler::compile(architecture).unwrap();
        }
    }
}

#[test]
fn every_kernel_of_the_text_has_its_name_in_the_table() {
    let in_text = kernels::SOURCE.matches("__global__").count();
    // FORMATS and TENSOR_KERNELS name two and three in their definitions.
    let names = kernels::names();
    let formats = kernels::SOURCE.matches("\nFORMATS(").count();
    let tensors = kernels::SOURCE.matches("\nTENSOR_KERNELS(").count();
    assert_eq!(names.len(), in_text - 2 - 3 + 2 * formats + 3 * tensors);
}

#[test]
fn groups_keep_the_order_of_their_rows() {
    let groups = lists::Groups::of(&[4, 0, 4, 2, 4]);
    assert_eq!((groups.targets, groups.starts, groups.order), (vec![0, 2, 4], vec![0, 1, 2, 5], vec![1, 3, 0, 2, 4]));
}

#[test]
fn a_machine_without_a_gpu_says_what_it_lacks() {
    if std::env::var_os("HONE_TEST_GPU").is_some() {
        assert_eq!(missing(), Vec::<String>::new());
        return;
    }
    let Err(error) = open("cuda", 1).map(|_| ()) else { return };
    let text = format!("{error:#}");
    assert!(text.starts_with("this machine lacks for the device `cuda`: "), "{text}");
}
