//! Every member works once a round, awake or asleep, and what a job borrows outlives it.

use super::*;

#[test]
fn every_member_works_once_in_each_round() {
    for threads in 1..=4 {
        let mut team = Team::new(threads).unwrap();
        for round in 0..2000 {
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            team.run(&|member| {
                counts[member].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "round {round} of {threads}");
        }
    }
}

#[test]
fn members_that_sleep_are_woken() {
    let mut team = Team::new(3).unwrap();
    let count = AtomicUsize::new(0);
    for round in 1..=20 {
        // All who are going to sleep do.
        while team.shared.sleepers.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        team.run(&|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 3 * round);
    }
}

#[test]
fn a_panic_of_a_member_is_one_of_the_caller_and_the_others_end_first() {
    let mut team = Team::new(2).unwrap();
    let ended = AtomicUsize::new(0);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        team.run(&|member| {
            assert!(member == 0, "on purpose");
            ended.fetch_add(1, Ordering::Relaxed);
        });
    }));
    assert!(caught.is_err());
    assert_eq!(ended.load(Ordering::Relaxed), 1);
}
