//! Attention by blocks of queries and keys: probabilities exist for one block of one head at a time and are computed again in
//! the backward pass from the logarithms of their sums. Memory does not grow with the square of a segment.
//!
//! The order of sums behind a result depends on positions alone: neither on the number of threads nor on other queries.

mod backward;
mod forward;
mod panels;

use super::matmul::View;
use crate::device::Heads;
use backward::Share;
pub(super) use forward::{Stretch, scratch as forward_scratch};
use panels::KEYS;
pub(super) use panels::QUERIES;
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Segments longer than this are shared out by blocks of keys as well in the backward pass: few of them, with few
/// key/value heads, would leave threads without work.
const LONG: usize = 3 * KEYS;

/// What both passes read.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    /// `[N,(A+K)D]`.
    pub(super) rotated: &'a [f32],
    /// `[N,(A+2K)D]`.
    pub(super) qkv: &'a [f32],
    pub(super) segments: &'a [usize],
    pub(super) heads: Heads,
}

/// What the backward pass reads beside: `[N,AD]`, `[N,AD]`, `[A,N]`.
#[derive(Clone, Copy)]
pub(super) struct Results<'a> {
    pub(super) dout: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) lse: &'a [f32],
}

/// A segment: its first row and its length.
#[derive(Clone, Copy)]
struct Segment {
    first: usize,
    length: usize,
}

impl Inputs<'_> {
    fn num_rows(&self) -> usize {
        self.rotated.len() / self.heads.rotated_width()
    }

    /// First query head of a key/value head.
    fn first_head(&self, kv_head: usize) -> usize {
        kv_head * (self.heads.num_heads / self.heads.num_kv_heads)
    }

    /// Queries of a key/value head from a row on.
    fn queries(&self, row: usize, kv_head: usize) -> View<*const f32> {
        let start = row * self.heads.rotated_width() + self.first_head(kv_head) * self.heads.head_dim;
        View::new(self.rotated[start..].as_ptr(), self.heads.rotated_width(), 1)
    }

    fn keys(&self, segment: Segment, kv_head: usize) -> View<*const f32> {
        let column = self.heads.query_width() + kv_head * self.heads.head_dim;
        let start = segment.first * self.heads.rotated_width() + column;
        View::new(self.rotated[start..].as_ptr(), self.heads.rotated_width(), 1)
    }

    fn values(&self, segment: Segment, kv_head: usize) -> View<*const f32> {
        let column = self.heads.rotated_width() + kv_head * self.heads.head_dim;
        let start = segment.first * self.heads.qkv_width() + column;
        View::new(self.qkv[start..].as_ptr(), self.heads.qkv_width(), 1)
    }

    fn check(&self) {
        let rows: usize = self.segments.iter().sum();
        assert_eq!(self.rotated.len(), rows * self.heads.rotated_width(), "rotated holds the segments' rows");
        assert_eq!(self.qkv.len(), rows * self.heads.qkv_width(), "qkv holds the segments' rows");
    }

    fn segments(&self) -> impl Iterator<Item = Segment> {
        self.segments.iter().scan(0, |next, &length| {
            let first = *next;
            *next += length;
            Some(Segment { first, length })
        })
    }
}

/// Numbers of workspace for `threads` threads: scratch of each, and gradients of queries of one long segment.
pub(super) fn workspace(threads: usize, max_segment: usize, heads: Heads) -> usize {
    let second = if max_segment > LONG { max_segment * heads.query_width() } else { 0 };
    threads * scratch(heads) + second
}

fn scratch(heads: Heads) -> usize {
    forward::scratch(heads).max(backward::scratch(heads))
}

pub(super) fn forward(out: &mut [f32], lse: &mut [f32], io: &Inputs<'_>, workspace: &mut [f32]) {
    io.check();
    let (num_rows, heads) = (io.num_rows(), io.heads);
    assert_eq!(out.len(), num_rows * heads.query_width(), "out holds every row");
    assert_eq!(lse.len(), num_rows * heads.num_heads, "lse holds every row and head");
    let mut stretches = Vec::new();
    for segment in io.segments() {
        for kv_head in 0..heads.num_kv_heads {
            for first in (0..segment.length).step_by(QUERIES) {
                let (row, head) = (segment.first + first, io.first_head(kv_head));
                let place = row * heads.query_width() + head * heads.head_dim;
                stretches.push(Stretch {
                    heads,
                    queries: io.queries(row, kv_head),
                    keys: io.keys(segment, kv_head),
                    values: io.values(segment, kv_head),
                    out: View::new_mut(out[place..].as_mut_ptr(), heads.query_width()),
                    lse: (lse[head * num_rows + row..].as_mut_ptr(), num_rows),
                    first,
                    count: QUERIES.min(segment.length - first),
                });
            }
        }
    }
    // The longest first, so that no thread is left with one at the end.
    stretches.sort_by_key(|stretch| std::cmp::Reverse(stretch.first));
    share_out(workspace, scratch(heads), &stretches, |scratch, stretch| {
        // SAFETY: `check` and the asserts hold the lengths, so the views' elements are inside their slices; each stretch
        // writes the rows and columns of `out` and `lse` that are its own.
        #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
        unsafe {
            stretch.run(scratch);
        }
    });
}

/// dqkv `[N,(A+2K)D]` := the gradient.
pub(super) fn backward(dqkv: &mut [f32], io: &Inputs<'_>, results: &Results<'_>, workspace: &mut [f32]) {
    io.check();
    let (num_rows, heads) = (io.num_rows(), io.heads);
    assert_eq!(dqkv.len(), num_rows * heads.qkv_width(), "dqkv holds every row");
    assert_eq!(results.dout.len(), num_rows * heads.query_width(), "dout holds every row");
    assert_eq!(results.out.len(), num_rows * heads.query_width(), "out holds every row");
    assert_eq!(results.lse.len(), num_rows * heads.num_heads, "lse holds every row and head");
    let (workspace, second) = workspace.split_at_mut(rayon::current_num_threads() * scratch(heads));
    let mut shares = Vec::new();
    for segment in io.segments().filter(|segment| segment.length <= LONG) {
        shares.extend((0..heads.num_kv_heads).map(|kv_head| share(dqkv, io, results, segment, kv_head)));
    }
    shares.sort_by_key(|share| std::cmp::Reverse(share.length));
    run_shares(workspace, heads, &shares);
    for segment in io.segments().filter(|segment| segment.length > LONG) {
        shares.clear();
        for kv_head in 0..heads.num_kv_heads {
            // Every other block of keys: their gradients of queries go to a place of their own and are added at the end.
            let even = Share { step: 2, ..share(dqkv, io, results, segment, kv_head) };
            let place = &mut second[io.first_head(kv_head) * heads.head_dim..];
            let dqueries = View::new_mut(place.as_mut_ptr(), heads.query_width());
            shares.extend([even, Share { first_block: 1, dqueries, ..even }]);
        }
        run_shares(workspace, heads, &shares);
        let rows = &mut dqkv[segment.first * heads.qkv_width()..][..segment.length * heads.qkv_width()];
        // Queries before the second block of keys saw nothing of it.
        let rows =
            rows.par_chunks_exact_mut(heads.qkv_width()).zip(second.par_chunks_exact(heads.query_width())).skip(KEYS);
        rows.for_each(|(row, second)| {
            for (dquery, second) in row.iter_mut().zip(second) {
                *dquery += second;
            }
        });
    }
}

/// All blocks of keys of a segment and key/value head.
fn share<'a>(dqkv: &mut [f32], io: &Inputs<'_>, results: &Results<'a>, segment: Segment, kv_head: usize) -> Share<'a> {
    let (heads, head) = (io.heads, io.first_head(kv_head));
    let (row, d) = (segment.first, heads.head_dim);
    let place = row * heads.query_width() + head * d;
    let mut columns =
        |column: usize| View::new_mut(dqkv[row * heads.qkv_width() + column..].as_mut_ptr(), heads.qkv_width());
    Share {
        heads,
        length: segment.length,
        queries: io.queries(row, kv_head),
        keys: io.keys(segment, kv_head),
        values: io.values(segment, kv_head),
        out: &results.out[place..],
        dout: &results.dout[place..],
        lse: &results.lse[head * io.num_rows() + row..],
        num_rows: io.num_rows(),
        dqueries: columns(head * d),
        dkeys: columns(heads.query_width() + kv_head * d),
        dvalues: columns(heads.rotated_width() + kv_head * d),
        first_block: 0,
        step: 1,
    }
}

fn run_shares(workspace: &mut [f32], heads: Heads, shares: &[Share<'_>]) {
    share_out(workspace, scratch(heads), shares, |scratch, share| {
        // SAFETY: `check` and the asserts of `backward` hold the lengths, so the views' elements are inside their slices; each
        // share writes the rows and columns that are its own.
        #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
        unsafe {
            share.run(scratch);
        }
    });
}

/// Runs `work` on every task, each thread with a part of the workspace, `part` numbers long. Which thread does which
/// task does not matter to the result: a task writes places of its own, and its own scratch before it reads it.
pub(super) fn share_out<T: Sync>(
    workspace: &mut [f32],
    part: usize,
    tasks: &[T],
    work: impl Fn(&mut [f32], &T) + Sync,
) {
    // Other threads are woken only for what they can do; decoding often has no task here.
    match tasks {
        [] => return,
        [task] => return work(&mut workspace[..part], task),
        _ => {}
    }
    let next = AtomicUsize::new(0);
    let threads = rayon::current_num_threads();
    workspace.par_chunks_exact_mut(part).take(threads).with_max_len(1).for_each(|scratch| {
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(scratch, task);
        }
    });
}
