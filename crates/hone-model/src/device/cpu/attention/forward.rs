//! The forward pass: a block of queries of the heads that share a key/value head, against the keys block by block, with the
//! softmax's maximum and sum carried along.

use super::panels::{
    KEYS, PANEL, QUERIES, pack_columns, pack_rows, panel_product, seen, softmax_panel, tiled, write_columns,
};
use crate::device::Heads;
use crate::device::cpu::matmul::{ROWS, View};

/// Queries of one sequence, for the heads of one key/value head.
#[derive(Clone, Copy)]
pub(in crate::device::cpu) struct Stretch {
    pub(in crate::device::cpu) heads: Heads,
    /// `[count,group·D]`.
    pub(in crate::device::cpu) queries: View<*const f32>,
    /// `[positions,D]`, from position 0 on.
    pub(in crate::device::cpu) keys: View<*const f32>,
    /// As the keys.
    pub(in crate::device::cpu) values: View<*const f32>,
    /// `[count,group·D]`.
    pub(in crate::device::cpu) out: View<*mut f32>,
    /// Where the logarithms of the sums go, `[group,count]`, and how far heads are apart; null for nowhere.
    pub(in crate::device::cpu) lse: (*mut f32, usize),
    /// Position of the first query.
    pub(in crate::device::cpu) first: usize,
    /// At most [`QUERIES`].
    pub(in crate::device::cpu) count: usize,
}
// SAFETY: pointers into matrices that outlive the pass; stretches write places of their own.
#[expect(unsafe_code, reason = "stretches are shared out to threads")]
unsafe impl Sync for Stretch {}

/// What is carried from block to block for one panel of one head.
struct Carried<'a> {
    /// `[D,16]`, whole tiles.
    out: &'a mut [f32],
    max: &'a mut [f32; PANEL],
    sum: &'a mut [f32; PANEL],
}

/// Numbers of scratch that [`Stretch::run`] needs.
pub(in crate::device::cpu) fn scratch(heads: Heads) -> usize {
    let (d, group) = (heads.head_dim, heads.num_heads / heads.num_kv_heads);
    group * QUERIES * (d + tiled(d) + 2) + KEYS * (d + tiled(d) + PANEL)
}

impl Stretch {
    /// Writes `out` and `lse`.
    ///
    /// # Safety
    /// Every element of the operands must be valid to read or write, and no other thread may touch `out` and `lse`, nor
    /// write the others, meanwhile.
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    pub(in crate::device::cpu) unsafe fn run(&self, mut scratch: &mut [f32]) {
        let (d, group) = (self.heads.head_dim, self.heads.num_heads / self.heads.num_kv_heads);
        let (panels, scale) = (group * QUERIES / PANEL, 1.0 / (d as f32).sqrt());
        let mut take = |len: usize| scratch.split_off_mut(..len).expect("scratch is as long as planned");
        let (queries, keys, values) = (take(panels * d * PANEL), take(KEYS * d), take(KEYS * tiled(d)));
        let (scores, out) = (take(KEYS * PANEL), take(panels * tiled(d) * PANEL));
        let (max, sum) = (take(panels * PANEL), take(panels * PANEL));
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        out.fill(0.0);
        for (head, queries) in queries.chunks_exact_mut(QUERIES * d).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { pack_rows::<PANEL>(queries, self.queries.from(0, head * d), self.count, d) };
        }
        for first_key in (0..self.first + self.count).step_by(KEYS) {
            let num_keys = KEYS.min(self.first + self.count - first_key);
            // SAFETY: the caller's promise.
            unsafe {
                pack_rows::<ROWS>(keys, self.keys.from(first_key, 0), num_keys, d);
                pack_columns::<ROWS>(values, self.values.from(first_key, 0), num_keys, d);
            }
            let states = out.chunks_exact_mut(tiled(d) * PANEL).zip(max.as_chunks_mut().0).zip(sum.as_chunks_mut().0);
            for (panel, (((out, max), sum), queries)) in states.zip(queries.chunks_exact(d * PANEL)).enumerate() {
                let first_query = panel * PANEL % QUERIES;
                let (rows, all) = seen(self.first + first_query, first_key, num_keys);
                if first_query >= self.count || rows == 0 {
                    continue;
                }
                panel_product(&mut scores[..tiled(rows) * PANEL], (keys, d * ROWS), queries, scale, false);
                let scores = &mut scores[..rows * PANEL];
                softmax_panel(scores, all, max, sum, out);
                panel_product(out, (values, num_keys * ROWS), scores, 1.0, true);
            }
        }
        let states = out.chunks_exact_mut(tiled(d) * PANEL).zip(max.as_chunks_mut().0).zip(sum.as_chunks_mut().0);
        for (panel, ((out, max), sum)) in states.enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.finish(panel, &Carried { out: &mut out[..d * PANEL], max, sum }) };
        }
    }

    /// Writes the results of one panel.
    ///
    /// # Safety
    /// As for [`Stretch::run`].
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    unsafe fn finish(&self, panel: usize, carried: &Carried<'_>) {
        let (head, first_query) = (panel * PANEL / QUERIES, panel * PANEL % QUERIES);
        let count = PANEL.min(self.count.saturating_sub(first_query));
        let factors = carried.sum.map(|sum| 1.0 / sum);
        let out = self.out.from(first_query, head * self.heads.head_dim);
        // SAFETY: the caller's promise.
        unsafe { write_columns(out, carried.out, count, &factors, false) };
        let (lse, stride) = self.lse;
        if lse.is_null() {
            return;
        }
        for i in 0..count {
            // SAFETY: the caller's promise.
            unsafe { *lse.wrapping_add(head * stride + first_query + i) = carried.max[i] + carried.sum[i].ln() };
        }
    }
}
