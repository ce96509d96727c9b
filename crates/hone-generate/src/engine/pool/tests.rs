//! Blocks: a long random run never gives one out that is held, and everything comes back.

use super::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

fn blocks(region: &Region) -> Vec<u32> {
    region.blocks().to_vec()
}

#[test]
fn a_region_is_the_first_run_that_fits() {
    let mut pool = Pool::new(8, false);
    let first = pool.allocate(&[], 17).unwrap();
    let second = pool.allocate(&[], 1).unwrap();
    assert_eq!((blocks(&first), blocks(&second)), (vec![0, 1], vec![2]));
    pool.free(&first);
    assert_eq!(blocks(&pool.allocate(&[], 48).unwrap()), [3, 4, 5]);
    assert_eq!(blocks(&pool.allocate(&[], 32).unwrap()), [0, 1]);
    assert!(pool.allocate(&[], 33).is_none());
    let last = pool.allocate(&[], 32).unwrap();
    assert_eq!(blocks(&pool.shrink(&last, 5)), [6]);
    assert_eq!(blocks(&pool.allocate(&[], 16).unwrap()), [7]);
    assert!(pool.shareable(&second, 16).is_empty());
}

#[test]
fn a_paged_region_is_made_of_any_free_blocks_and_shares_full_ones() {
    let mut pool = Pool::new(6, true);
    let [first, middle, last] = [32, 16, 16].map(|num_tokens| pool.allocate(&[], num_tokens).unwrap());
    pool.free(&middle);
    // Blocks 2, 4 and 5 are free; one full block and a half are alike.
    let shared = pool.shareable(&first, 24);
    assert_eq!(shared, [0]);
    let second = pool.allocate(shared, 60).unwrap();
    assert_eq!(blocks(&second), [0, 2, 4, 5]);
    assert!(pool.allocate(&[], 1).is_none());
    pool.free(&first);
    assert_eq!(blocks(&pool.allocate(&[], 16).unwrap()), [1], "the shared block is held still");
    pool.free(&last);
    assert_eq!(blocks(&pool.shrink(&second, 16)), [0]);
    assert!(pool.allocate(&[], 5 * 16).is_none());
    assert_eq!(blocks(&pool.allocate(&[], 4 * 16).unwrap()), [2, 3, 4, 5]);
}

#[test]
fn no_block_is_given_out_while_it_is_held() {
    for is_paged in [false, true] {
        let mut random = ChaCha12Rng::seed_from_u64(1);
        let mut pool = Pool::new(50, is_paged);
        let mut held: Vec<Region> = Vec::new();
        let mut num_refused = 0;
        for _ in 0..5000 {
            let random_one = |random: &mut ChaCha12Rng, of: usize| random.next_u64() as usize % of;
            if random.next_u64().is_multiple_of(2) {
                let wanted = 1 + random_one(&mut random, 199);
                let source = held.get(random_one(&mut random, held.len() + 1)).cloned();
                let shared = source.map_or(Vec::new(), |source| {
                    let alike = wanted.min(source.capacity());
                    pool.shareable(&source, random_one(&mut random, alike)).to_vec()
                });
                let num_free = pool.users.iter().filter(|users| **users == 0).count();
                let Some(region) = pool.allocate(&shared, wanted) else {
                    let need = wanted.div_ceil(CACHE_BLOCK) - shared.len();
                    assert!(!is_paged || need > num_free, "{need} of {num_free} free blocks refused");
                    num_refused += 1;
                    continue;
                };
                let own = &region.blocks()[shared.len()..];
                assert!(region.capacity() >= wanted && (is_paged || region.is_run()));
                assert!(own.iter().all(|block| held.iter().all(|other| !other.blocks().contains(block))), "{region:?}");
                held.push(region);
            } else if !held.is_empty() {
                let region = held.swap_remove(random_one(&mut random, held.len()));
                pool.free(&region);
            }
        }
        assert!(num_refused > 100, "the cache was full at times: {num_refused}");
        held.drain(..).for_each(|region| pool.free(&region));
        assert_eq!(pool.allocate(&[], 50 * CACHE_BLOCK).unwrap().blocks().len(), 50);
    }
}
