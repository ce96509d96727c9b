//! On every device and every reference model: the cache changes nothing, and neither does company.

use super::*;
use crate::selftest::decoding::{relative_distance, rounded};
use crate::{Batch, Scorer, TrainerOptions, device};
use std::path::PathBuf;

const DEVICES: [&str; 2] = ["reference", "cpu"];
const MODELS: [&str; 7] =
    ["llama_tied", "llama3_rope", "llama_linear_rope", "qwen2", "qwen3", "qwen3_untied", "qwen3_yarn_rope"];
/// Greedy tokens must be PyTorch's where its first and second logit differ by more than this.
const CLEAR_MARGIN: f64 = 1e-3;

struct Fixture {
    config: Config,
    weights: HostWeights,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    margins: Vec<f64>,
}

fn fixture(name: &str) -> Fixture {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/reference").join(name);
    let expect: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("expect.json")).unwrap()).unwrap();
    let config = Config::from_dir(&dir.join("model")).unwrap();
    let weights = HostWeights::load(&dir.join("model"), &config).unwrap();
    let ids = |key: &str| serde_json::from_value(expect[key].clone()).unwrap();
    let margins = serde_json::from_value(expect["greedy_margins"].clone()).unwrap();
    Fixture { config, weights, prompt: ids("greedy_prompt"), greedy: ids("greedy"), margins }
}

impl Fixture {
    fn decoder(&self, device: &str, slots: usize, max_context: usize) -> Decoder {
        self.decoder_in(device, slots, max_context, WeightFormat::F32)
    }

    fn decoder_in(&self, device: &str, slots: usize, max_context: usize, format: WeightFormat) -> Decoder {
        let device = device::open(device, 2).unwrap();
        let options = DecoderOptions { slots, max_context, format };
        Decoder::new(device, &self.config, &self.weights, &options).unwrap()
    }
}

fn for_each_format(check: impl Fn(&str, &str, &Fixture, WeightFormat)) {
    for format in WeightFormat::ALL {
        for_each(|device, name, f| check(device, name, f, format));
    }
}

fn for_each(check: impl Fn(&str, &str, &Fixture)) {
    for device in DEVICES {
        for name in MODELS {
            check(device, name, &fixture(name));
        }
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[test]
fn greedy_tokens_are_those_of_pytorch() {
    for_each(|device, name, f| {
        let mut decoder = f.decoder(device, 1, 64);
        let mut logits = decoder.prefill(0, &f.prompt).unwrap();
        let mut compared = 0;
        for (&expected, &margin) in f.greedy.iter().zip(&f.margins) {
            if margin <= CLEAR_MARGIN {
                break;
            }
            assert_eq!(argmax(&logits), expected, "{device} {name}: token {compared}");
            compared += 1;
            logits = decoder.decode(&[(0, expected)]).unwrap().remove(0);
        }
        assert!(compared >= 10, "{name}: only {compared} tokens have a clear margin");
    });
}

#[test]
fn the_cache_equals_the_full_forward_pass() {
    for_each_format(|device, name, f, format| {
        let ids: Vec<u32> = f.prompt.iter().chain(&f.greedy).copied().collect();
        let options = TrainerOptions::full(ids.len(), ids.len());
        let weights = rounded(&f.config, &f.weights, format);
        let mut scorer = Scorer::new(device::open(device, 2).unwrap(), &f.config, &weights, &options).unwrap();
        let full = scorer.logits(&Batch::plain(&ids)).unwrap();
        let full = |t: usize| &full[t * f.config.vocab_size..(t + 1) * f.config.vocab_size];
        let mut decoder = f.decoder_in(device, 3, 64, format);
        let (mut at, mut logits) = (f.prompt.len() - 1, decoder.prefill(1, &f.prompt).unwrap());
        loop {
            let difference = relative_distance(&logits, full(at));
            assert!(difference < 1e-4, "{device} {name} {format:?}: {difference} at {at}");
            assert_eq!(argmax(&logits), argmax(full(at)), "{device} {name} {format:?} at {at}");
            at += 1;
            if at == ids.len() {
                break;
            }
            logits = decoder.decode(&[(1, ids[at])]).unwrap().remove(0);
        }
        assert_eq!(decoder.length(1), ids.len());
    });
}

#[test]
fn a_decoded_row_has_the_same_bits_alone_and_in_company() {
    for_each_format(|device, name, f, format| {
        let prompts: Vec<Vec<u32>> = vec![f.prompt.clone(), f.prompt[..1].to_vec(), f.greedy[..7].to_vec()];
        let mut together = f.decoder_in(device, 5, 40, format);
        // Slots in another order than the rows, and one slot left empty.
        let slots = [4, 0, 2];
        for (slot, prompt) in slots.into_iter().zip(&prompts) {
            together.prefill(slot, prompt).unwrap();
        }
        let mut alone: Vec<Decoder> = prompts
            .iter()
            .map(|prompt| {
                let mut decoder = f.decoder_in(device, 1, 64, format);
                decoder.prefill(0, prompt).unwrap();
                decoder
            })
            .collect();
        for step in 0..6 {
            let tokens: Vec<u32> = (0..3).map(|i| f.greedy[step + 2 * i]).collect();
            let rows: Vec<(usize, u32)> = slots.into_iter().zip(tokens.iter().copied()).collect();
            let logits = together.decode(&rows).unwrap();
            for (i, decoder) in alone.iter_mut().enumerate() {
                let expected = decoder.decode(&[(0, tokens[i])]).unwrap().remove(0);
                assert!(logits[i] == expected, "{device} {name} {format:?}: step {step}, sequence {i}");
            }
        }
    });
}

#[test]
fn a_prompt_in_one_piece_equals_token_by_token() {
    for_each(|device, name, f| {
        let mut decoder = f.decoder(device, 2, 64);
        let whole = decoder.prefill(0, &f.prompt).unwrap();
        let mut last = Vec::new();
        for &id in &f.prompt {
            last = decoder.decode(&[(1, id)]).unwrap().remove(0);
        }
        assert_eq!(argmax(&whole), argmax(&last), "{device} {name}");
        let difference = relative_distance(&whole, &last);
        assert!(difference < 1e-5, "{device} {name}: {difference}");
    });
}

#[test]
fn a_prompt_longer_than_one_pass_is_taken_in_parts() {
    for device in DEVICES {
        // 256 rows go through together: this prompt takes two passes, and its last one has a single row.
        let f = fixture("llama_tied");
        let mut config = f.config.clone();
        config.max_positions = 512;
        let f = Fixture { config, ..f };
        let ids: Vec<u32> = (0..257).map(|i| (i * 37 % 160) as u32).collect();
        let mut decoder = f.decoder(device, 1, 300);
        let in_parts = decoder.prefill(0, &ids).unwrap();
        decoder.reset(0);
        decoder.prefill(0, &ids[..100]).unwrap();
        let continued = decoder.prefill(0, &ids[100..]).unwrap();
        let difference = relative_distance(&in_parts, &continued);
        assert!(difference < 1e-5, "{device}: {difference}");
        assert_eq!(decoder.length(0), 257);
    }
}

#[test]
fn a_slot_can_be_used_again() {
    for_each(|device, name, f| {
        let mut decoder = f.decoder(device, 1, 64);
        let first = decoder.prefill(0, &f.prompt).unwrap();
        decoder.decode(&[(0, 7)]).unwrap();
        decoder.reset(0);
        assert_eq!(decoder.length(0), 0);
        assert!(decoder.prefill(0, &f.prompt).unwrap() == first, "{device} {name}");
    });
}

#[test]
fn refuses_what_does_not_fit_and_keeps_the_slots() {
    let f = fixture("qwen3");
    let mut decoder = f.decoder("reference", 2, 4);
    let error = |result: Result<Vec<f32>>| result.unwrap_err().to_string();
    assert_eq!(
        error(decoder.prefill(0, &[1, 2, 3, 4, 5])),
        "slot 0 holds 0 tokens, with 5 more it needs 5, its limit is 4"
    );
    assert_eq!(error(decoder.prefill(2, &[1])), "there is no slot 2: there are 2");
    assert_eq!(error(decoder.prefill(0, &[160])), "token id 160 is outside the vocabulary of 160");
    assert_eq!(error(decoder.prefill(0, &[])), "no token to add to slot 0");
    assert_eq!(decoder.length(0), 0);
    decoder.prefill(0, &[1, 2, 3, 4]).unwrap();
    decoder.prefill(1, &[1]).unwrap();
    let error = |result: Result<Vec<Vec<f32>>>| result.unwrap_err().to_string();
    assert_eq!(
        error(decoder.decode(&[(1, 5), (0, 5)])),
        "slot 0 holds 4 tokens, with 1 more it needs 5, its limit is 4"
    );
    assert_eq!(error(decoder.decode(&[(1, 5), (1, 6)])), "slot 1 stands twice in one call");
    assert_eq!(error(decoder.prefill_all(&[(1, &[5]), (1, &[6])])), "slot 1 stands twice in one call");
    assert_eq!(decoder.length(1), 1, "a refused call changes no slot");
    assert!(decoder.decode(&[]).unwrap().is_empty());
}

#[test]
fn refuses_sizes_that_cannot_be() {
    let f = fixture("qwen3");
    let plan = |slots, max_context| {
        let options = DecoderOptions { slots, max_context, format: WeightFormat::F32 };
        Decoder::planned_bytes(&f.config, &options, CacheFormat::CONTIGUOUS).map_err(|e| e.to_string())
    };
    assert!(plan(1, 257).unwrap_err().contains("longer than the model's 256 positions"));
    assert!(plan(0, 4).unwrap_err().contains("above 0"));
    assert!(plan(usize::MAX, 256).unwrap_err().contains("ask for fewer or shorter slots"));
    // Each further slot costs its cache (two layers of 4 positions, keys and values of 2 heads of 32) and its logits.
    let (one, two) = (plan(257, 4).unwrap(), plan(258, 4).unwrap());
    assert!(two - one >= 4 * (2 * 4 * 2 * 64 + 160), "{one} {two}");
}

#[test]
fn a_copied_prefix_goes_on_like_the_original() {
    for_each(|device, name, f| {
        let length = f.prompt.len();
        let mut decoder = f.decoder(device, 2, 2 * CACHE_BLOCK);
        let whole = decoder.prefill(0, &f.prompt).unwrap();
        let [from, to] = [0, 2].map(|first| Region::run(first, 2));
        decoder.copy(&from, &to, length - 1);
        decoder.attach(1, to, length - 1);
        let last = decoder.prefill(1, &f.prompt[length - 1..]).unwrap();
        let difference = relative_distance(&last, &whole);
        assert!(difference < 1e-5, "{device} {name}: {difference}");
        assert_eq!((decoder.length(0), decoder.length(1)), (length, length));
        // Both go on alike, and neither writes where the other stands.
        let next = decoder.decode(&[(0, f.greedy[0]), (1, f.greedy[0])]).unwrap();
        assert!(relative_distance(&next[0], &next[1]) < 1e-5, "{device} {name}");
    });
}

#[test]
fn a_prompt_in_two_parts_gives_the_same_bits_as_in_one() {
    // What reuse of a prompt's beginning relies on: parts end at multiples of 4 and leave at least 4 tokens.
    let f = fixture("qwen3");
    for format in WeightFormat::ALL {
        let mut decoder = f.decoder_in("cpu", 2, 256, format);
        for length in [40, 65, 90, 129, 193, 230, 256] {
            let ids: Vec<u32> = (0..length).map(|at| (at * 7 + 3) % f.config.vocab_size as u32).collect();
            decoder.reset(0);
            let whole = decoder.prefill(0, &ids).unwrap();
            for split in (4..=ids.len() - 4).step_by(4) {
                decoder.reset(1);
                decoder.prefill(1, &ids[..split]).unwrap();
                let last = decoder.prefill(1, &ids[split..]).unwrap();
                let same = last.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{format:?} {length} split at {split}: {}", relative_distance(&last, &whole));
            }
        }
    }
}

#[test]
fn prompts_taken_in_together_have_the_bits_of_each_alone() {
    let f = fixture("qwen3");
    let prompt = |number: usize, length: usize| -> Vec<u32> {
        (0..length).map(|at| ((at * 7 + number * 13 + 3) % f.config.vocab_size) as u32).collect()
    };
    // Shorter and longer than a pass, ending on its border and beside it, one token, and some with a beginning that is there.
    let lengths = [(0, 5), (0, 1), (16, 40), (0, 200), (0, 64), (60, 65), (4, 256), (0, 129), (0, 1), (0, 33)];
    for format in WeightFormat::ALL {
        let mut together = f.decoder_in("cpu", lengths.len() + 1, 256, format);
        let mut alone = f.decoder_in("cpu", 1, 256, format);
        let prompts: Vec<Vec<u32>> = (0..).zip(lengths).map(|(i, (_, length))| prompt(i, length)).collect();
        let mut parts: Vec<(usize, &[u32])> = Vec::new();
        for (slot, ((held, _), ids)) in lengths.iter().zip(&prompts).enumerate() {
            if *held > 0 {
                together.prefill(slot, &ids[..*held]).unwrap();
            }
            parts.push((slot, &ids[*held..]));
        }
        parts.reverse();
        let mut logits = together.prefill_all(&parts).unwrap();
        logits.reverse();
        for (slot, (ids, logits)) in prompts.iter().zip(&logits).enumerate() {
            alone.reset(0);
            let expected = alone.prefill(0, ids).unwrap();
            assert!(*logits == expected, "{format:?} {slot}: {}", relative_distance(logits, &expected));
            // What they left in the cache is the same too.
            let next = together.decode(&[(slot, 5)]).err().map(|error| error.to_string());
            assert_eq!(next.is_some(), ids.len() == 256, "{next:?}");
            assert_eq!(together.length(slot), (ids.len() + 1).min(256));
        }
    }
}

#[test]
fn what_follows_prompts_taken_in_together_is_what_follows_each_alone() {
    let f = fixture("llama_tied");
    let prompts = [&f.prompt[..], &f.greedy[..9], &f.prompt[..2]];
    let mut together = f.decoder("cpu", 3, 64);
    let parts: Vec<(usize, &[u32])> = prompts.iter().enumerate().map(|(slot, ids)| (slot, *ids)).collect();
    together.prefill_all(&parts).unwrap();
    let next = together.decode(&[(2, 7), (0, 7), (1, 7)]).unwrap();
    for (logits, ids) in next.iter().zip([prompts[2], prompts[0], prompts[1]]) {
        let mut alone = f.decoder("cpu", 1, 64);
        alone.prefill(0, ids).unwrap();
        assert!(*logits == alone.decode(&[(0, 7)]).unwrap()[0]);
    }
}

#[test]
fn weights_from_a_folder_are_those_from_memory() {
    for name in ["qwen2", "qwen3_untied"] {
        let f = fixture(name);
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/reference").join(name).join("model");
        for format in WeightFormat::ALL {
            let options = DecoderOptions { slots: 1, max_context: 64, format };
            let open = || device::open("cpu", 2).unwrap();
            let mut streamed = Decoder::with_cache(open(), &f.config, WeightSource::Folder(&dir), &options, 4).unwrap();
            streamed.attach(0, Region::run(0, 4), 0);
            let mut whole = f.decoder_in("cpu", 1, 64, format);
            let [a, b] = [&mut streamed, &mut whole].map(|decoder| decoder.prefill(0, &f.prompt).unwrap());
            assert!(a == b, "{name} {format:?}");
        }
    }
}

#[test]
fn smaller_formats_take_less_memory() {
    let f = fixture("qwen3");
    let [f32, bf16, int8] = WeightFormat::ALL.map(|format| {
        let options = DecoderOptions { slots: 1, max_context: 16, format };
        Decoder::planned_bytes(&f.config, &options, CacheFormat::CONTIGUOUS).unwrap()
    });
    let matrices: usize = f.config.parameters().iter().filter(|spec| spec.shape.len() == 2).map(|s| s.len()).sum();
    let matrices = matrices as u64;
    assert_eq!(f32 - bf16, 2 * matrices);
    // Three bytes less for each weight, but for the scales: at least one for 64 weights.
    assert!(f32 - int8 > matrices * 5 / 2 && f32 - int8 <= 3 * matrices - 4 * matrices / 64, "{f32} {int8} {matrices}");
}
