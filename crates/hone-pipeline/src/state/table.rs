//! Entities by their number, in blocks that copies share: copying a table of a hundred thousand jobs costs as much as
//! naming its blocks, and changing a copy copies one block. `decide` works on a copy of the state, and effects keep the
//! copy that they were started with.
//!
//! Every block counts its entities by their [`Activity`], so that neither what is settled long ago nor what waits in a
//! long queue is looked at again and again. An entity changes only by [`Table::insert`].

use crate::ids::{CheckpointId, DatasetId, DeploymentId, JobId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// Numbers of one block.
const BLOCK: u64 = 64;

/// The number of an entity.
pub trait Id: Copy + Ord {
    /// As a plain number.
    fn number(self) -> u64;
}

/// Whether something is still to happen with an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing by itself.
    Settled,
    /// It waits for its turn, among many perhaps.
    Waiting,
    /// It is on its way: few are at a time.
    Moving,
}

/// What lies in a table.
pub trait Entity: Clone {
    /// Whether something is still to happen with it.
    fn activity(&self) -> Activity;
}

/// See the module.
#[derive(Clone, PartialEq)]
pub struct Table<K, V> {
    blocks: BTreeMap<u64, Arc<Block<K, V>>>,
}

#[derive(Clone, PartialEq)]
struct Block<K, V> {
    entities: BTreeMap<K, V>,
    num_waiting: usize,
    num_moving: usize,
}

impl<K, V> Block<K, V> {
    fn count(&mut self, activity: Activity) -> Option<&mut usize> {
        match activity {
            Activity::Settled => None,
            Activity::Waiting => Some(&mut self.num_waiting),
            Activity::Moving => Some(&mut self.num_moving),
        }
    }
}

impl<K: Id, V: Entity> Table<K, V> {
    /// Puts an entity in, in the place of an older one of that number.
    pub fn insert(&mut self, id: K, entity: V) {
        let block = Arc::make_mut(self.blocks.entry(id.number() / BLOCK).or_default());
        if let Some(num) = block.count(entity.activity()) {
            *num += 1;
        }
        if let Some(old) = block.entities.insert(id, entity)
            && let Some(num) = block.count(old.activity())
        {
            *num -= 1;
        }
    }

    /// Those that wait or move, by number.
    pub fn active(&self) -> impl DoubleEndedIterator<Item = &V> {
        let blocks = self.blocks.values().filter(|block| block.num_waiting + block.num_moving > 0);
        blocks.flat_map(|block| block.entities.values()).filter(|entity| entity.activity() != Activity::Settled)
    }

    /// Those that move, by number.
    pub fn moving(&self) -> impl DoubleEndedIterator<Item = &V> {
        let blocks = self.blocks.values().filter(|block| block.num_moving > 0);
        blocks.flat_map(|block| block.entities.values()).filter(|entity| entity.activity() == Activity::Moving)
    }

    /// How many [`Table::active`] has, without a look at them.
    #[must_use]
    pub fn num_active(&self) -> usize {
        self.blocks.values().map(|block| block.num_waiting + block.num_moving).sum()
    }
}

impl<K: Id, V> Table<K, V> {
    /// The entity of a number.
    #[must_use]
    pub fn get(&self, id: &K) -> Option<&V> {
        self.blocks.get(&(id.number() / BLOCK))?.entities.get(id)
    }

    /// Whether there is one of this number.
    #[must_use]
    pub fn contains_key(&self, id: &K) -> bool {
        self.get(id).is_some()
    }
}

impl<K, V> Table<K, V> {
    /// All entities, by number.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.blocks.values().flat_map(|block| block.entities.values())
    }

    /// All numbers, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.blocks.values().flat_map(|block| block.entities.keys())
    }

    /// All of it, by number.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.blocks.values().flat_map(|block| block.entities.iter())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.values().map(|block| block.entities.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl<K, V> Default for Block<K, V> {
    fn default() -> Self {
        Block { entities: BTreeMap::new(), num_waiting: 0, num_moving: 0 }
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { blocks: BTreeMap::new() }
    }
}

impl<K: Id, V> Index<&K> for Table<K, V> {
    type Output = V;

    fn index(&self, id: &K) -> &V {
        self.get(id).expect("no entity has this number")
    }
}

impl<K: Id, V: Entity> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entities: I) -> Self {
        let mut table = Table::default();
        entities.into_iter().for_each(|(id, entity)| table.insert(id, entity));
        table
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, K: Id + DeserializeOwned, V: Entity + DeserializeOwned> Deserialize<'de> for Table<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<K, V>::deserialize(deserializer)?.into_iter().collect())
    }
}

macro_rules! ids {
    ($($name:ident),*) => {
        $(impl Id for $name {
            fn number(self) -> u64 {
                self.0
            }
        })*
    };
}

ids!(DatasetId, JobId, CheckpointId, DeploymentId);
