//! The backward pass: a block of keys and values of one key/value head, against the queries block by block; probabilities are
//! computed again from the logarithms of their sums.

use super::panels::{
    KEYS, PANEL, QUERIES, pack_columns, pack_rows, pack_scores, panel_product, row_dots, seen, softmax_backward_panel,
    tiled, write_columns,
};
use crate::device::Heads;
use crate::device::cpu::matmul::{ROWS, View};

/// One segment and key/value head.
#[derive(Clone, Copy)]
pub(super) struct Share<'a> {
    pub(super) heads: Heads,
    pub(super) length: usize,
    /// `[length,group·D]`.
    pub(super) queries: View<*const f32>,
    /// `[length,D]`.
    pub(super) keys: View<*const f32>,
    /// `[length,D]`.
    pub(super) values: View<*const f32>,
    /// Result and its gradient, from the segment's first row and this share's first column on.
    pub(super) out: &'a [f32],
    pub(super) dout: &'a [f32],
    /// From the segment's first row and this share's first head on; heads are `num_rows` apart.
    pub(super) lse: &'a [f32],
    pub(super) num_rows: usize,
    /// `[length,group·D]`: added to by every block of keys but the share's first.
    pub(super) dqueries: View<*mut f32>,
    /// `[length,D]`.
    pub(super) dkeys: View<*mut f32>,
    /// `[length,D]`.
    pub(super) dvalues: View<*mut f32>,
    /// Its first block of keys, and every how many one is its own.
    pub(super) first_block: usize,
    pub(super) step: usize,
}
// SAFETY: pointers into matrices that outlive the pass; shares write places of their own.
#[expect(unsafe_code, reason = "shares are handed to threads")]
unsafe impl Sync for Share<'_> {}

/// Packed operands and what they become.
struct Buffers<'a> {
    keys: &'a mut [f32],
    values: &'a mut [f32],
    key_columns: &'a mut [f32],
    queries: &'a mut [f32],
    dout: &'a mut [f32],
    query_columns: &'a mut [f32],
    dout_columns: &'a mut [f32],
    p: &'a mut [f32],
    ds: &'a mut [f32],
    packed_p: &'a mut [f32],
    packed_ds: &'a mut [f32],
    dqueries: &'a mut [f32],
    dkeys: &'a mut [f32],
    dvalues: &'a mut [f32],
}

/// Numbers of scratch that [`Share::run`] needs.
pub(super) fn scratch(heads: Heads) -> usize {
    let d = heads.head_dim;
    KEYS * (2 * d + 3 * tiled(d) + 2 * PANEL + 2 * QUERIES) + 2 * QUERIES * (d + tiled(d)) + tiled(d) * PANEL
}

impl<'a> Buffers<'a> {
    fn new(mut scratch: &'a mut [f32], d: usize) -> Buffers<'a> {
        let mut take = |len: usize| scratch.split_off_mut(..len).expect("scratch is as long as planned");
        Buffers {
            keys: take(KEYS * d),
            values: take(KEYS * d),
            key_columns: take(KEYS * tiled(d)),
            queries: take(QUERIES * d),
            dout: take(QUERIES * d),
            query_columns: take(QUERIES * tiled(d)),
            dout_columns: take(QUERIES * tiled(d)),
            p: take(KEYS * PANEL),
            ds: take(KEYS * PANEL),
            packed_p: take(KEYS * QUERIES),
            packed_ds: take(KEYS * QUERIES),
            dqueries: take(tiled(d) * PANEL),
            dkeys: take(KEYS * tiled(d)),
            dvalues: take(KEYS * tiled(d)),
        }
    }
}

impl Share<'_> {
    /// Writes gradients of this share's keys and values, and its part of those of the queries.
    ///
    /// # Safety
    /// Every element of the operands must be valid to read or write, and no other thread may touch `dqueries` and the
    /// share's rows of `dkeys` and `dvalues`, nor write the others, meanwhile.
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    pub(super) unsafe fn run(&self, scratch: &mut [f32]) {
        let (d, group) = (self.heads.head_dim, self.heads.num_heads / self.heads.num_kv_heads);
        let mut buffers = Buffers::new(scratch, d);
        for first_key in (self.first_block * KEYS..self.length).step_by(self.step * KEYS) {
            let num_keys = KEYS.min(self.length - first_key);
            buffers.dkeys.fill(0.0);
            buffers.dvalues.fill(0.0);
            // SAFETY: the caller's promise.
            unsafe {
                pack_rows::<ROWS>(buffers.keys, self.keys.from(first_key, 0), num_keys, d);
                pack_rows::<ROWS>(buffers.values, self.values.from(first_key, 0), num_keys, d);
                pack_columns::<ROWS>(buffers.key_columns, self.keys.from(first_key, 0), num_keys, d);
                for head in 0..group {
                    for first_query in (first_key / QUERIES * QUERIES..self.length).step_by(QUERIES) {
                        self.block(&mut buffers, head, first_query, (first_key, num_keys));
                    }
                }
                let panels = buffers.dkeys.chunks_exact(tiled(d) * PANEL);
                for (i, (dkeys, dvalues)) in panels.zip(buffers.dvalues.chunks_exact(tiled(d) * PANEL)).enumerate() {
                    let count = PANEL.min(num_keys.saturating_sub(i * PANEL));
                    let row = first_key + i * PANEL;
                    write_columns(self.dkeys.from(row, 0), &dkeys[..d * PANEL], count, &[1.0; PANEL], false);
                    write_columns(self.dvalues.from(row, 0), &dvalues[..d * PANEL], count, &[1.0; PANEL], false);
                }
            }
        }
    }

    /// One block of queries of one head against a block of keys.
    ///
    /// # Safety
    /// As for [`Share::run`].
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    unsafe fn block(&self, buffers: &mut Buffers<'_>, head: usize, first_query: usize, keys: (usize, usize)) {
        let d = self.heads.head_dim;
        let num_queries = QUERIES.min(self.length - first_query);
        let dout = View::new(self.dout[self.place(first_query, head)..].as_ptr(), self.heads.query_width(), 1);
        let queries = self.queries.from(first_query, head * d);
        // SAFETY: the caller's promise.
        unsafe {
            pack_rows::<PANEL>(buffers.queries, queries, num_queries, d);
            pack_rows::<PANEL>(buffers.dout, dout, num_queries, d);
            pack_columns::<ROWS>(buffers.query_columns, queries, num_queries, d);
            pack_columns::<ROWS>(buffers.dout_columns, dout, num_queries, d);
            for panel in 0..num_queries.div_ceil(PANEL) {
                self.panel(buffers, head, (first_query, panel), keys);
            }
        }
        let num_panels = keys.1.div_ceil(PANEL);
        let add = |sums: &mut [f32], columns: &[f32], packed: &[f32]| {
            let sums = sums.chunks_exact_mut(tiled(d) * PANEL).take(num_panels);
            for (sums, packed) in sums.zip(packed.chunks_exact(QUERIES * PANEL)) {
                panel_product(sums, (columns, num_queries * ROWS), &packed[..num_queries * PANEL], 1.0, true);
            }
        };
        add(buffers.dvalues, buffers.dout_columns, buffers.packed_p);
        add(buffers.dkeys, buffers.query_columns, buffers.packed_ds);
    }

    /// Probabilities of one panel, their gradients, and what the queries get of them.
    ///
    /// # Safety
    /// As for [`Share::run`].
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    unsafe fn panel(
        &self,
        buffers: &mut Buffers<'_>,
        head: usize,
        (first_query, panel): (usize, usize),
        (first_key, num_keys): (usize, usize),
    ) {
        let d = self.heads.head_dim;
        let scale = 1.0 / (d as f32).sqrt();
        let query = first_query + panel * PANEL;
        let count = PANEL.min(self.length - query);
        let (rows, all) = seen(query, first_key, num_keys);
        let (p, ds) = (&mut *buffers.p, &mut *buffers.ds);
        if rows > 0 {
            let place = panel * PANEL * d..(panel + 1) * PANEL * d;
            let tiles = tiled(rows) * PANEL;
            panel_product(&mut p[..tiles], (buffers.keys, d * ROWS), &buffers.queries[place.clone()], scale, false);
            panel_product(&mut ds[..tiles], (buffers.values, d * ROWS), &buffers.dout[place], 1.0, false);
            let (mut log_sums, mut means) = ([0.0; PANEL], [0.0; PANEL]);
            log_sums[..count].copy_from_slice(&self.lse[head * self.num_rows + query..][..count]);
            let place = self.place(query, head);
            row_dots(&self.out[place..], &self.dout[place..], self.heads.query_width(), d, count, &mut means);
            let (p, ds) = (&mut p[..rows * PANEL], &mut ds[..rows * PANEL]);
            softmax_backward_panel(p, ds, all, &log_sums, &means, scale);
            panel_product(buffers.dqueries, (buffers.key_columns, num_keys * ROWS), ds, 1.0, false);
            let dqueries = self.dqueries.from(query, head * d);
            let add = first_key > self.first_block * KEYS;
            // SAFETY: the caller's promise.
            unsafe { write_columns(dqueries, &buffers.dqueries[..d * PANEL], count, &[1.0; PANEL], add) };
        }
        p[rows * PANEL..num_keys * PANEL].fill(0.0);
        ds[rows * PANEL..num_keys * PANEL].fill(0.0);
        pack_scores(buffers.packed_p, &p[..num_keys * PANEL], panel);
        pack_scores(buffers.packed_ds, &ds[..num_keys * PANEL], panel);
    }

    /// Where a query's row and head stand in `out` and `dout`.
    fn place(&self, query: usize, head: usize) -> usize {
        query * self.heads.query_width() + head * self.heads.head_dim
    }
}
