//! Blocks: a long random run never gives one out twice, and everything comes back.

use super::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

#[test]
fn a_region_is_the_first_run_that_fits() {
    let mut pool = Pool::new(8);
    let at = |region: Region| (region.first, region.num_blocks);
    let first = pool.allocate(17).unwrap();
    let second = pool.allocate(1).unwrap();
    assert_eq!((at(first), at(second)), ((0, 2), (2, 1)));
    pool.free(first);
    assert_eq!(at(pool.allocate(48).unwrap()), (3, 3));
    assert_eq!(at(pool.allocate(32).unwrap()), (0, 2));
    assert!(pool.allocate(33).is_none());
    let last = pool.allocate(32).unwrap();
    assert_eq!(at(pool.shrink(last, 5)), (6, 1));
    assert_eq!(at(pool.allocate(16).unwrap()), (7, 1));
}

#[test]
fn no_block_is_given_out_twice() {
    let mut random = ChaCha12Rng::seed_from_u64(1);
    let mut pool = Pool::new(50);
    let mut held: Vec<Region> = Vec::new();
    for _ in 0..5000 {
        if random.next_u64() % 2 == 0 {
            let wanted = 1 + random.next_u64() as usize % 199;
            if let Some(region) = pool.allocate(wanted) {
                assert!(region.capacity() >= wanted && region.first + region.num_blocks <= 50);
                let apart = |other: &Region| {
                    other.first + other.num_blocks <= region.first || region.first + region.num_blocks <= other.first
                };
                assert!(held.iter().all(apart), "{region:?} beside {held:?}");
                held.push(region);
            }
        } else if !held.is_empty() {
            let region = held.swap_remove(random.next_u64() as usize % held.len());
            pool.free(region);
        }
    }
    held.drain(..).for_each(|region| pool.free(region));
    assert_eq!(pool.allocate(50 * CACHE_BLOCK).unwrap().num_blocks, 50);
}
