//! The order of rows: every example once per epoch, the same from anywhere.

use super::*;

fn order(num_examples: usize, examples_per_step: usize, epochs: u32) -> Order {
    Order { num_examples, examples_per_step, epochs, seed: 42, job: JobId(3) }
}

#[test]
fn every_example_is_trained_once_per_epoch() {
    for (num_examples, per_step, epochs) in [(1, 1, 1), (7, 3, 2), (8, 4, 3), (5, 9, 2), (100, 7, 1)] {
        let order = order(num_examples, per_step, epochs);
        let steps: Vec<Vec<usize>> = order.steps_from(0).collect();
        assert_eq!(steps.len() as u64, order.total_steps());
        let mut seen: Vec<usize> = steps.concat();
        assert_eq!(seen.len(), num_examples * epochs as usize);
        for epoch in seen.chunks_mut(num_examples) {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..num_examples).collect::<Vec<_>>());
        }
        assert!(steps.iter().all(|step| !step.is_empty() && step.len() <= per_step));
    }
}

#[test]
fn starting_in_the_middle_gives_the_rest() {
    let order = order(7, 3, 3);
    let all: Vec<Vec<usize>> = order.steps_from(0).collect();
    for start in 0..=all.len() {
        assert_eq!(order.steps_from(start as u64).collect::<Vec<_>>(), all[start..], "from step {start}");
    }
}

#[test]
fn seed_job_and_epoch_each_change_the_order() {
    let base = order(50, 5, 2);
    assert_ne!(base.epoch(0), (0..50).collect::<Vec<_>>(), "it is shuffled");
    assert_ne!(base.epoch(0), base.epoch(1));
    assert_ne!(base.epoch(0), Order { seed: 43, ..base.clone() }.epoch(0));
    assert_ne!(base.epoch(0), Order { job: JobId(4), ..base.clone() }.epoch(0));
    assert_eq!(base.epoch(0), base.clone().epoch(0));
}

#[test]
fn no_examples_give_no_steps() {
    assert_eq!(order(0, 4, 2).total_steps(), 0);
    assert_eq!(order(0, 4, 2).steps_from(0).count(), 0);
}

#[test]
fn the_digest_is_the_hash_of_the_lines() {
    let mut digest = RowsDigest::default();
    digest.add("dataset-3", 17, 0xab, 0);
    digest.add("dataset-4", 1, 0x0123_4567_89ab_cdef, 2);
    let text = "dataset-3:17:00000000000000ab:0\ndataset-4:1:0123456789abcdef:2\n";
    assert_eq!(digest.hex(), blake3::hash(text.as_bytes()).to_hex().to_string());
}
