//! Which examples each optimizer step of a job trains: a pure function of seed, job and number of
//! examples. It also fingerprints what was trained, so that two runs can be compared by one hash.

use hone_pipeline::ids::JobId;

#[cfg(test)]
mod tests;

/// The order of a job. A step never crosses the border of an epoch: the last step of an epoch may have
/// fewer examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Examples of the job (one pass).
    pub num_examples: usize,
    /// Examples of one optimizer step: batch size times accumulation.
    pub examples_per_step: usize,
    /// Passes.
    pub epochs: u32,
    /// Seed of the permutations.
    pub seed: u64,
    /// The job; another job has another order.
    pub job: JobId,
}

impl Order {
    /// Optimizer steps of one pass.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.num_examples.div_ceil(self.examples_per_step) as u64
    }

    /// Optimizer steps of the whole job.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.epochs)
    }

    /// The permutation of one epoch (from 0): example indices in the order of training. Examples are
    /// sorted by BLAKE3 of (seed, job, epoch, index), which every platform and version computes alike.
    #[must_use]
    pub fn epoch(&self, epoch: u64) -> Vec<usize> {
        let mut keyed: Vec<([u8; 32], usize)> =
            (0..self.num_examples).map(|index| (self.sort_key(epoch, index), index)).collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, index)| index).collect()
    }

    /// The examples of every step from `job_step` (from 0) to the end of the job.
    pub fn steps_from(&self, job_step: u64) -> impl Iterator<Item = Vec<usize>> + '_ {
        let per_epoch = self.steps_per_epoch().max(1);
        (job_step / per_epoch..u64::from(self.epochs)).flat_map(move |epoch| {
            let skipped = if epoch == job_step / per_epoch { job_step % per_epoch } else { 0 };
            let steps: Vec<Vec<usize>> = self
                .epoch(epoch)
                .chunks(self.examples_per_step)
                .skip(skipped as usize)
                .map(<[usize]>::to_vec)
                .collect();
            steps
        })
    }

    fn sort_key(&self, epoch: u64, index: usize) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"hone row order 1");
        for number in [self.seed, self.job.0, epoch, index as u64] {
            hasher.update(&number.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// Running BLAKE3 over the identities of trained examples, in order.
///
/// To recompute it by hand: write one line `NAME:LINE:ROWID:PART` per example of every step that was
/// taken (a step that was refused as non-finite included), in the order of training, each ended by `\n`,
/// and hash the text. `NAME` is the dataset, `LINE` the physical line of its file, `ROWID` the row's id as
/// 16 hexadecimal digits, and `PART` counts the examples that one row gave, from 0.
#[derive(Clone, Debug, Default)]
pub struct RowsDigest(blake3::Hasher);

impl RowsDigest {
    /// Adds one trained example.
    pub fn add(&mut self, name: &str, line: u64, row_id: u64, part: usize) {
        self.0.update(format!("{name}:{line}:{row_id:016x}:{part}\n").as_bytes());
    }

    /// The digest so far, hex.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
