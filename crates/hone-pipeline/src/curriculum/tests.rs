//! Tests of `curriculum`: rules one by one, then simulated learners.

use super::*;

fn evaluation(checkpoint: u64, level: u32, percent: u64) -> SkillEvaluation {
    SkillEvaluation {
        checkpoint: CheckpointId(checkpoint),
        version: "1".to_string(),
        level,
        seed: checkpoint,
        questions: 300,
        solved: 3 * percent,
        at_ms: checkpoint,
        ..SkillEvaluation::default()
    }
}

fn at_level(level: u32) -> SkillProgress {
    SkillProgress { level, total_levels: 7, ..SkillProgress::new("s") }
}

/// Records evaluations of checkpoints 1, 2, … and returns the levels after each.
fn levels(mut progress: SkillProgress, evaluations: &[SkillEvaluation]) -> Vec<u32> {
    let settings = CurriculumSettings::default();
    let step = |evaluation: &SkillEvaluation| {
        progress = record(&progress, evaluation.clone(), &settings).0;
        progress.level
    };
    evaluations.iter().map(step).collect()
}

/// Levels after evaluations with these accuracies in percent, each at the level of its time.
fn climb(start: SkillProgress, percents: &[u64]) -> Vec<u32> {
    let settings = CurriculumSettings::default();
    let mut progress = start;
    let mut levels = Vec::new();
    for (checkpoint, percent) in (1..).zip(percents) {
        progress = record(&progress, evaluation(checkpoint, progress.level, *percent), &settings).0;
        levels.push(progress.level);
    }
    levels
}

#[test]
fn three_evaluations_of_80_percent_on_average_go_up() {
    assert_eq!(climb(at_level(1), &[79, 80, 81]), [1, 1, 2]);
    assert_eq!(climb(at_level(1), &[79, 80, 80]), [1, 1, 1]);
    // Only the last three count.
    assert_eq!(climb(at_level(1), &[10, 80, 80, 80]), [1, 1, 1, 2]);
}

#[test]
fn evidence_begins_anew_with_each_level() {
    assert_eq!(climb(at_level(1), &[90, 90, 90, 90, 90, 90]), [1, 1, 2, 2, 2, 3]);
}

#[test]
fn below_half_goes_down_and_never_below_level_1() {
    assert_eq!(climb(at_level(3), &[49, 49, 49]), [3, 3, 2]);
    assert_eq!(climb(at_level(3), &[50, 50, 50]), [3, 3, 3]);
    assert_eq!(climb(at_level(1), &[0, 0, 0, 0]), [1, 1, 1, 1]);
}

#[test]
fn a_model_that_arrives_at_a_level_is_not_sent_back_while_it_climbs() {
    let after = |percents: &[u64]| *climb(at_level(1), &[&[90; 3], percents].concat()).last().unwrap();
    // It knows little of the new level at first: two windows, and longer where the second is surely better.
    assert_eq!(after(&[10; 5]), 2);
    assert_eq!(after(&[10; 6]), 1);
    assert_eq!(after(&[10, 10, 10, 20, 20, 20]), 2);
    assert_eq!(after(&[10, 10, 10, 12, 12, 12]), 1);
    assert_eq!(after(&[10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40]), 2);
    assert_eq!(after(&[10, 10, 10, 20, 20, 20, 20, 20, 20]), 1);
    // Average 49 %, but at 60 % and climbing (the course of a real run).
    assert_eq!(after(&[34, 44, 43, 60]), 2);
    assert_eq!(after(&[34, 44, 43, 60, 45, 44]), 1);
    // Once it was above the floor, the floor holds.
    assert_eq!(after(&[55, 40, 40, 40]), 1);
    // Whom a person put there has to hold the level at once.
    let by_hand = set_level(&at_level(1), 2, "by hand", 0);
    assert_eq!(*climb(by_hand, &[10, 10, 10]).last().unwrap(), 1);
}

#[test]
fn the_top_level_stays() {
    assert_eq!(climb(at_level(7), &[100; 6]), [7; 6]);
    // Before the number of levels is known there is no way up.
    assert_eq!(climb(SkillProgress::new("s"), &[100; 4]), [1; 4]);
}

#[test]
fn after_a_step_back_the_way_up_takes_longer_until_the_lost_level_is_passed() {
    let mut percents = vec![90; 3]; // up to 2
    percents.extend([20; 6]); // back to 1
    percents.extend([90; 6]); // twice as many for 2
    percents.extend([90; 6]); // and for 3
    percents.extend([90; 3]); // as before for 4
    let levels = climb(at_level(1), &percents);
    let expected = [1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4];
    assert_eq!(levels, expected);
}

#[test]
fn one_checkpoint_counts_once() {
    let again = |seed| SkillEvaluation { seed, ..evaluation(1, 1, 100) };
    assert_eq!(levels(at_level(1), &[again(1), again(2), again(3), again(4)]), [1; 4]);
    // The same evaluation told twice changes nothing at all.
    let settings = CurriculumSettings::default();
    let (once, _) = record(&at_level(1), again(1), &settings);
    assert_eq!(record(&once, again(1), &settings), (once.clone(), None));
}

#[test]
fn thin_cut_and_unreadable_evaluations_move_nothing_up() {
    let thin = |n| SkillEvaluation { questions: 299, solved: 299, ..evaluation(n, 1, 0) };
    let errored = |n| SkillEvaluation { questions: 310, solved: 299, errored: 11, ..evaluation(n, 1, 0) };
    let cut = |n| SkillEvaluation { cut: 31, ..evaluation(n, 1, 85) };
    let unreadable = |n| SkillEvaluation { unparsed: 31, ..evaluation(n, 1, 85) };
    let other_level = |n| evaluation(n, 2, 100);
    let makers: [&dyn Fn(u64) -> SkillEvaluation; 5] = [&thin, &errored, &cut, &unreadable, &other_level];
    for make in makers {
        assert_eq!(levels(at_level(1), &[make(1), make(2), make(3)]), [1, 1, 1], "{:?}", make(1));
    }
    let few_errors = |n| SkillEvaluation { questions: 310, solved: 240, errored: 10, ..evaluation(n, 1, 0) };
    assert_eq!(levels(at_level(1), &[few_errors(1), few_errors(2), few_errors(3)]), [1, 1, 2]);
}

#[test]
fn unreadable_answers_are_wrong_and_cut_ones_tell_nothing() {
    let unreadable = |n| SkillEvaluation { unparsed: 300, ..evaluation(n, 3, 0) };
    assert_eq!(levels(at_level(3), &[unreadable(1), unreadable(2), unreadable(3)]), [3, 3, 2]);
    let cut = |n| SkillEvaluation { cut: 300, ..evaluation(n, 3, 0) };
    assert_eq!(levels(at_level(3), &[cut(1), cut(2), cut(3)]), [3, 3, 3]);
}

#[test]
fn a_level_may_name_its_own_threshold() {
    let own = |n| SkillEvaluation { pass_threshold: Some(0.6), ..evaluation(n, 1, 60) };
    assert_eq!(levels(at_level(1), &[own(1), own(2), own(3)]), [1, 1, 2]);
}

#[test]
fn a_person_sets_the_level_and_evidence_begins_anew() {
    let settings = CurriculumSettings::default();
    let (one, _) = record(&at_level(3), evaluation(1, 3, 90), &settings);
    let (two, _) = record(&one, evaluation(2, 3, 90), &settings);
    let set = set_level(&two, 3, "by hand", 9);
    assert_eq!(record(&set, evaluation(3, 3, 90), &settings).0.level, 3);
    assert_eq!((set.moves[0].from, set.moves[0].to, set.moves[0].checkpoint), (3, 3, None));
}

#[test]
fn history_is_bounded() {
    let settings = CurriculumSettings::default();
    let mut progress = at_level(1);
    for checkpoint in 0..2 * MAX_HISTORY as u64 {
        progress = record(&progress, evaluation(checkpoint, 1, 60), &settings).0;
    }
    assert_eq!(progress.history.len(), MAX_HISTORY);
    assert_eq!(progress.history.last().unwrap().checkpoint, CheckpointId(2 * MAX_HISTORY as u64 - 1));
}

/// SplitMix64: millions of draws in a moment also without optimisation.
struct Draws(u64);

impl Draws {
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A learner whose true accuracy depends on the number of the evaluation and the level; questions are drawn.
fn simulate(seed: u64, num_evaluations: u64, start: u32, accuracy: impl Fn(u64, u32, &mut Draws) -> f64) -> Vec<u32> {
    let settings = CurriculumSettings::default();
    let mut rng = Draws(seed << 32);
    let mut progress = at_level(start);
    let mut levels = Vec::new();
    for checkpoint in 0..num_evaluations {
        let true_accuracy = accuracy(checkpoint, progress.level, &mut rng).clamp(0.0, 1.0);
        let solved = (0..300).filter(|_| rng.share() < true_accuracy).count() as u64;
        let drawn = SkillEvaluation { solved, ..evaluation(checkpoint, progress.level, 0) };
        progress = record(&progress, drawn, &settings).0;
        levels.push(progress.level);
    }
    levels
}

const NUM_LEARNERS: u64 = 300;

/// Of [`NUM_LEARNERS`] learners, the share for which `what` holds of the levels they went through.
fn share(what: impl Fn(&[u32]) -> bool, learner: impl Fn(u64) -> Vec<u32>) -> f64 {
    (0..NUM_LEARNERS).filter(|seed| what(&learner(*seed))).count() as f64 / NUM_LEARNERS as f64
}

fn num_moves(levels: &[u32]) -> usize {
    levels.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

#[test]
fn a_steady_learner_climbs_to_the_top_and_stays() {
    // Ten points better with every evaluation at a level, from 60 %: enough for a level in at most 7 evaluations.
    let learner = |seed| {
        simulate(seed, 80, 1, |n, level, _| (0.6 + 0.1 * (n as f64 - 8.0 * f64::from(level - 1)).max(0.0)).min(0.95))
    };
    assert_eq!(share(|levels| levels.last() == Some(&7) && num_moves(levels) == 6, learner), 1.0);
}

#[test]
fn a_plateau_below_the_threshold_is_rarely_taken_for_passed() {
    // A true 75 % within 30 evaluations: the bound of the contract is 5 %.
    let learner = |seed| simulate(seed, 30, 1, |_, _, _| 0.75);
    assert!(share(|levels| levels.contains(&2), learner) <= 0.05);
}

#[test]
fn a_lucky_set_does_not_carry_a_learner_over() {
    // A true 70 %, and every tenth set of questions happens to suit it (85 %): the three then average 75 %.
    let learner = |seed| simulate(seed, 60, 1, |n, _, _| if n % 10 == 5 { 0.85 } else { 0.7 });
    assert!(share(|levels| levels.contains(&2), learner) <= 0.05);
}

#[test]
fn a_real_drop_is_demoted_within_three_evaluations() {
    // At level 3 with a true 70 %, then a fall to 30 %.
    let learner = |seed| simulate(seed, 10, 3, |n, _, _| if n < 7 { 0.7 } else { 0.3 });
    assert_eq!(share(|levels| levels[..7].iter().all(|l| *l == 3) && levels[9] == 2, learner), 1.0);
}

#[test]
fn a_forgetting_learner_goes_down_level_by_level_and_up_again() {
    // Good, then all is forgotten for 12 evaluations, then good again.
    let learner = |seed| simulate(seed, 80, 1, |n, _, _| if (20..32).contains(&n) { 0.1 } else { 0.92 });
    let comes_back = |levels: &[u32]| levels[19] == 7 && levels[31] == 3 && *levels.last().unwrap() >= 6;
    assert_eq!(share(comes_back, learner), 1.0);
}

#[test]
fn a_noisy_learner_does_not_flap() {
    // Level 1 at a true 82 %, level 2 at a true 48 %, each with ten points of noise: the edge on both sides.
    let learner = |seed| {
        simulate(seed, 100, 1, |_, level, rng| {
            let noise = 0.2 * rng.share() - 0.1;
            noise + if level == 1 { 0.82 } else { 0.48 }
        })
    };
    // A cycle without caution takes 6 evaluations: 33 moves in 100. With it at most 12 up and 3 down: about 14.
    assert_eq!(share(|levels| num_moves(levels) <= 16, learner), 1.0);
}
