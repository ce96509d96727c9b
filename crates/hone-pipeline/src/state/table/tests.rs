//! A table is an ordered map whose copies are their own.

use super::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Thing {
    activity: u8,
    value: u64,
}

impl Entity for Thing {
    fn activity(&self) -> Activity {
        [Activity::Moving, Activity::Waiting, Activity::Settled][usize::from(self.activity.min(2))]
    }
}

#[test]
fn a_table_says_what_an_ordered_map_says_and_a_copy_keeps_what_it_had() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (mut table, mut map) = (Table::default(), BTreeMap::new());
    let mut copies = Vec::new();
    for round in 0..2_000 {
        let id = JobId(rng.random_range(0..500));
        let thing = Thing { activity: rng.random_range(0..20), value: round };
        table.insert(id, thing.clone());
        map.insert(id, thing);
        if round % 250 == 0 {
            copies.push((table.clone(), map.clone()));
        }
    }
    copies.push((table, map));
    for (table, map) in &copies {
        assert!(table.iter().eq(map.iter()));
        assert!(table.keys().rev().eq(map.keys().rev()));
        assert!(table.values().rev().eq(map.values().rev()));
        let is = |num: u8| move |thing: &&Thing| thing.activity < num;
        assert!(table.active().eq(map.values().filter(is(2))));
        assert!(table.active().rev().eq(map.values().rev().filter(is(2))));
        assert!(table.moving().eq(map.values().filter(is(1))));
        assert!(table.moving().rev().eq(map.values().rev().filter(is(1))));
        assert_eq!(table.num_active(), map.values().filter(is(2)).count());
        assert_eq!((table.len(), table.is_empty()), (map.len(), map.is_empty()));
        for id in (0..500).map(JobId) {
            assert_eq!(table.get(&id), map.get(&id));
        }
        assert_eq!(*table, map.clone().into_iter().collect());
        // What older versions of hone wrote as a map is read, and the other way round.
        let written = serde_json::to_string(map).unwrap();
        assert_eq!(serde_json::to_string(table).unwrap(), written);
        assert_eq!(serde_json::from_str::<Table<JobId, Thing>>(&written).unwrap(), *table);
    }
}
