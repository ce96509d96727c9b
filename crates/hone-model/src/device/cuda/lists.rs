//! Short lists of indices (positions, rows, targets) on their way to the GPU: each is put behind the last in a ring of memory, and one
//! that was just put is not put again.

use super::driver::{Address, Driver};
use anyhow::{Result, ensure};

/// Bytes of the ring.
pub(super) const BYTES: usize = 32 << 20;
/// Lists begin at multiples of this.
const ALIGNMENT: usize = 256;
/// Lists that are remembered: a layer uses the same few over and over.
const REMEMBERED: usize = 12;

/// The ring.
#[derive(Default)]
pub(super) struct Lists {
    memory: Address,
    next: usize,
    /// The oldest first.
    recent: Vec<(Vec<u32>, Address)>,
}

impl Lists {
    pub(super) fn allocate(&mut self, driver: &mut dyn Driver) -> Result<()> {
        *self = Lists { memory: driver.allocate(BYTES)?, ..Lists::default() };
        Ok(())
    }

    /// Where the list stands: until so many others were put that the ring is full.
    pub(super) fn put(&mut self, driver: &mut dyn Driver, numbers: &[u32]) -> Result<Address> {
        if let Some((_, address)) = self.recent.iter().find(|(list, _)| list == numbers) {
            return Ok(*address);
        }
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        ensure!(
            bytes.len() <= BYTES / 4,
            "a list of {} indices does not fit the {BYTES} bytes for them",
            numbers.len()
        );
        if self.next + bytes.len() > BYTES {
            // What was put before may be overwritten now; copies and kernels are in order, so nobody reads it any more.
            self.next = 0;
            self.recent.clear();
        }
        let address = self.memory + self.next as Address;
        driver.upload(address, &bytes)?;
        self.next = (self.next + bytes.len()).next_multiple_of(ALIGNMENT);
        if self.recent.len() == REMEMBERED {
            self.recent.remove(0);
        }
        self.recent.push((numbers.to_vec(), address));
        Ok(address)
    }
}

/// Rows that are added to the same row, in their order.
pub(super) struct Groups {
    /// The rows that are added to, each once.
    pub(super) targets: Vec<u32>,
    /// Where each target's rows begin in `order`, and the end of the last.
    pub(super) starts: Vec<u32>,
    pub(super) order: Vec<u32>,
}

impl Groups {
    /// Row i is added to row `rows[i]`.
    pub(super) fn of(rows: &[u32]) -> Groups {
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_by_key(|&i| rows[i as usize]);
        let (mut targets, mut starts) = (Vec::new(), Vec::new());
        for (place, &i) in order.iter().enumerate() {
            let target = rows[i as usize];
            if targets.last() != Some(&target) {
                targets.push(target);
                starts.push(place as u32);
            }
        }
        starts.push(order.len() as u32);
        Groups { targets, starts, order }
    }
}
