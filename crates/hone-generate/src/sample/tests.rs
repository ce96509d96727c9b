//! Expected values are worked out by hand.

use super::*;

fn sampler(sampling: Sampling, prompt: &[u32]) -> Sampler {
    Sampler::new(&sampling, prompt)
}

/// Logits whose softmax is (0.5, 0.3, 0.15, 0.05).
fn logits() -> Vec<f32> {
    [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln).to_vec()
}

/// How often each token comes in `draws` draws with different seeds.
fn counts(sampling: &Sampling, draws: u64) -> [u64; 4] {
    let mut counts = [0; 4];
    for seed in 0..draws {
        let token = sampler(Sampling { seed, ..sampling.clone() }, &[]).choose(&logits());
        counts[token as usize] += 1;
    }
    counts
}

/// Counts of 4000 draws lie within five standard deviations of what the shares say; a share of 0 never comes.
#[track_caller]
fn check(sampling: &Sampling, shares: [f64; 4]) {
    let draws = 4000;
    for (token, (&count, share)) in counts(sampling, draws).iter().zip(shares).enumerate() {
        let (mean, deviation) = (share * draws as f64, (share * (1.0 - share) * draws as f64).sqrt());
        assert!((count as f64 - mean).abs() <= 5.0 * deviation, "token {token}: {count} instead of {mean}");
    }
}

fn warm() -> Sampling {
    Sampling { temperature: 1.0, ..Sampling::default() }
}

#[test]
fn draws_follow_the_probabilities() {
    check(&warm(), [0.5, 0.3, 0.15, 0.05]);
    // Temperature 0.5 squares them: 0.25, 0.09, 0.0225, 0.0025 over 0.365.
    check(&Sampling { temperature: 0.5, ..warm() }, [0.25, 0.09, 0.0225, 0.0025].map(|x| x / 0.365));
}

#[test]
fn cuts_leave_the_rest_in_proportion() {
    check(&Sampling { top_k: 2, ..warm() }, [0.625, 0.375, 0.0, 0.0]);
    // 0.5 does not reach 0.6, 0.5 + 0.3 does.
    check(&Sampling { top_p: 0.6, ..warm() }, [0.625, 0.375, 0.0, 0.0]);
    check(&Sampling { top_p: 0.4, ..warm() }, [1.0, 0.0, 0.0, 0.0]);
    // At least 0.2 of the best: 0.1.
    check(&Sampling { min_p: 0.2, ..warm() }, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0]);
    // After top_k 3 the shares are over 0.95, of which 0.8 is 0.76: the first two.
    check(&Sampling { top_k: 3, top_p: 0.8, ..warm() }, [0.625, 0.375, 0.0, 0.0]);
    // All cuts at their loosest change nothing.
    check(&Sampling { top_k: 4, top_p: 1.0, min_p: 0.0, ..warm() }, [0.5, 0.3, 0.15, 0.05]);
}

#[test]
fn greedy_takes_the_lowest_id_on_a_tie() {
    assert_eq!(sampler(Sampling::default(), &[]).choose(&[1.0, 3.0, 3.0, -1.0]), 1);
}

#[test]
fn a_seed_fixes_the_draws() {
    let draws = |seed| {
        let mut sampler = sampler(Sampling { seed, ..warm() }, &[]);
        (0..40).map(|_| sampler.choose(&logits())).collect::<Vec<u32>>()
    };
    assert_eq!(draws(1), draws(1));
    assert_ne!(draws(1), draws(2));
}

#[test]
fn penalties_change_the_logits_as_stated() {
    let sampling =
        Sampling { presence_penalty: 0.5, frequency_penalty: 0.25, repetition_penalty: 2.0, ..Sampling::default() };
    let mut sampler = sampler(sampling, &[0, 1]);
    // Prompt tokens: 4 / 2 and -1 * 2. Token 2 is new.
    let mut logits = [4.0, -1.0, 3.0];
    sampler.penalise(&mut logits);
    assert_eq!(sampler.choose(&logits), 2);
    assert_eq!(logits, [2.0, -2.0, 3.0]);
    // Token 2 was generated once: 3 / 2 - 0.5 - 0.25.
    let mut logits = [0.0, 0.0, 3.0];
    sampler.penalise(&mut logits);
    assert_eq!(sampler.choose(&logits), 2);
    assert_eq!(logits, [0.0, 0.0, 0.75]);
    // Twice: 3 / 2 - 0.5 - 2 * 0.25; the other penalties do not touch prompt tokens.
    let mut logits = [1.0, 0.0, 3.0];
    sampler.penalise(&mut logits);
    assert_eq!(sampler.choose(&logits), 0);
    assert_eq!(logits, [0.5, 0.0, 0.5]);
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let (chosen, top) = log_probabilities(&logits(), 2, 2);
    assert!((chosen - 0.15_f32.ln()).abs() < 1e-6);
    assert_eq!(top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1]);
    assert!((top[0].1 - 0.5_f32.ln()).abs() < 1e-6 && (top[1].1 - 0.3_f32.ln()).abs() < 1e-6);
    assert!(log_probabilities(&logits(), 0, 0).1.is_empty());
    assert_eq!(log_probabilities(&logits(), 0, 20).1.len(), 4);
}

#[test]
fn the_highest_logit_is_found_wherever_it_stands_and_the_first_of_several() {
    for len in [1, 15, 16, 17, 50] {
        for at in 0..len {
            let mut logits = vec![-3.0; len];
            logits[at] = 2.0;
            assert_eq!(argmax(&logits), at as u32, "{len}");
            logits[len - 1] = 2.0;
            assert_eq!(argmax(&logits), at as u32, "{len}");
        }
    }
    assert_eq!(argmax(&[f32::NEG_INFINITY, -1e30, f32::NEG_INFINITY]), 1);
}

#[test]
fn a_logit_that_is_not_finite_is_found_wherever_it_stands() {
    for len in [1, 16, 37] {
        let finite = vec![f32::MAX; len];
        assert_eq!(not_finite(&finite), None);
        for at in 0..len {
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut logits = finite.clone();
                logits[at] = wrong;
                assert_eq!(not_finite(&logits), Some(at), "{len} {wrong}");
            }
        }
    }
}
