//! What both passes of attention are made of: panels of 16 queries side by side. A panel of scores is `[keys,16]`, which is how
//! the kernel of products writes a tile and how it reads its second operand: probabilities are never copied to be used,
//! and every step of the softmax runs over 16 queries at once.

use crate::device::cpu::matmul::{COLS, Left, Output, ROWS, Source, View, pack, tile};
use crate::device::cpu::simd::{self, vectorised};

/// Queries of a panel.
pub(super) const PANEL: usize = COLS;
/// Queries of a block: panels that share packed keys and values.
pub(in crate::device::cpu) const QUERIES: usize = 64;
/// Keys of a block; whole tiles and whole panels.
pub(super) const KEYS: usize = 144;
const _: () = assert!(QUERIES.is_multiple_of(PANEL) && KEYS.is_multiple_of(PANEL) && KEYS.is_multiple_of(ROWS));

/// The next whole number of tiles.
pub(super) fn tiled(rows: usize) -> usize {
    rows.next_multiple_of(ROWS)
}

/// How many of `keys` keys from key `first_key` on the last query of a panel sees, and the last that all its queries see,
/// counted from `first_key`; below 0 there is none.
pub(super) fn seen(first_query: usize, first_key: usize, keys: usize) -> (usize, isize) {
    let all = first_query as isize - first_key as isize;
    (usize::try_from(all + PANEL as isize).unwrap_or(0).min(keys), all)
}

/// c `[rows,16]` := or += factor · aᵀ · b for a packed in panels `a_panel` numbers apart, and one panel b `[steps,16]`.
pub(super) fn panel_product(c: &mut [f32], a: (&[f32], usize), b: &[f32], factor: f32, accumulate: bool) {
    let (a, a_panel) = a;
    let steps = b.len() / PANEL;
    for (i, c) in c.chunks_exact_mut(ROWS * PANEL).enumerate() {
        let out = Output { c: c.as_mut_ptr(), row_stride: PANEL, factor, accumulate };
        // SAFETY: `c` is a whole tile, and the panel holds every step.
        #[expect(unsafe_code, reason = "the kernel writes through a pointer")]
        unsafe {
            tile(out, Left::packed(&a[i * a_panel..][..steps * ROWS]), b);
        }
    }
}

/// packed := panels of `W` rows of x `[rows,width]`, its columns the steps.
///
/// # Safety
/// Every element must be valid to read.
#[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
pub(super) unsafe fn pack_rows<const W: usize>(packed: &mut [f32], x: View<*const f32>, rows: usize, width: usize) {
    let View { pointer, row_stride, col_stride } = x;
    let x = Source { pointer, lane_stride: row_stride, step_stride: col_stride, lanes: rows, steps: width };
    // SAFETY: the caller's promise.
    unsafe { pack::<W>(packed, W * width, &x) };
}

/// packed := panels of `W` columns of x `[rows,width]`, its rows the steps.
///
/// # Safety
/// Every element must be valid to read.
#[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
pub(super) unsafe fn pack_columns<const W: usize>(packed: &mut [f32], x: View<*const f32>, rows: usize, width: usize) {
    // SAFETY: the caller's promise.
    unsafe { pack_rows::<W>(packed, x.transposed(), width, rows) };
}

/// Panel `panel` of packed `[key panels,QUERIES,16]` := a panel of scores `[keys,16]`, transposed.
pub(super) fn pack_scores(packed: &mut [f32], scores: &[f32], panel: usize) {
    let (lanes, steps) = (scores.len() / PANEL, PANEL);
    let x = Source { pointer: scores.as_ptr(), lane_stride: PANEL, step_stride: 1, lanes, steps };
    // SAFETY: the elements of x are those of `scores`.
    #[expect(unsafe_code, reason = "packing reads by pointer and stride")]
    unsafe {
        pack::<PANEL>(&mut packed[panel * PANEL * PANEL..], QUERIES * PANEL, &x);
    }
}

/// Rows of y `[count,width]` := or += the columns of a panel x `[width,16]`, each times its factor.
///
/// # Safety
/// Every element of y must be valid to write, and to read when adding.
#[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
pub(super) unsafe fn write_columns(y: View<*mut f32>, x: &[f32], count: usize, factors: &[f32; PANEL], add: bool) {
    let x = x.as_chunks::<PANEL>().0;
    for (i, factor) in factors.iter().enumerate().take(count) {
        // SAFETY: the caller's promise.
        let row = unsafe { std::slice::from_raw_parts_mut(y.pointer.wrapping_add(i * y.row_stride), x.len()) };
        for (y, x) in row.iter_mut().zip(x) {
            let value = x[i] * factor;
            *y = if add { *y + value } else { value };
        }
    }
}

vectorised! {
    /// A panel of scores `[keys,16]` becomes shares e^(score - max), with the greatest of the keys so far; sums and
    /// what was computed with an older maximum (out `[D,16]`) are brought to the new one. Lane `i` sees rows up to `all + i`.
    pub(super) fn softmax_panel(
        scores: &mut [f32],
        all: isize,
        max: &mut [f32; PANEL],
        sum: &mut [f32; PANEL],
        out: &mut [f32],
    ) {
        let rows = scores.as_chunks_mut::<PANEL>().0;
        let mut new = *max;
        for (row, scores) in rows.iter_mut().enumerate() {
            let hidden = row as isize - all;
            if hidden > 0 {
                // Lanes below `hidden` do not see this key.
                scores[..hidden as usize].fill(f32::NEG_INFINITY);
            }
            for i in 0..PANEL {
                new[i] = if scores[i] > new[i] { scores[i] } else { new[i] };
            }
        }
        let mut shrink = [0.0f32; PANEL];
        for i in 0..PANEL {
            shrink[i] = simd::exp_share(max[i] - new[i]);
            sum[i] *= shrink[i];
        }
        *max = new;
        for scores in rows {
            for i in 0..PANEL {
                let share = simd::exp_share(scores[i] - new[i]);
                scores[i] = share;
                sum[i] += share;
            }
        }
        for out in out.as_chunks_mut::<PANEL>().0 {
            for i in 0..PANEL {
                out[i] *= shrink[i];
            }
        }
    }

    /// `p`: a panel of scores becomes probabilities. `ds`: gradients of the probabilities become gradients of the scores.
    pub(super) fn softmax_backward_panel(
        p: &mut [f32],
        ds: &mut [f32],
        all: isize,
        log_sums: &[f32; PANEL],
        means: &[f32; PANEL],
        scale: f32,
    ) {
        let rows = p.as_chunks_mut::<PANEL>().0.iter_mut().zip(ds.as_chunks_mut::<PANEL>().0);
        for (row, (p, ds)) in rows.enumerate() {
            for i in 0..PANEL {
                let share = simd::exp_share(p[i] - log_sums[i]);
                p[i] = share;
                ds[i] = share * (ds[i] - means[i]) * scale;
            }
            let hidden = row as isize - all;
            if hidden > 0 {
                p[..hidden as usize].fill(0.0);
                ds[..hidden as usize].fill(0.0);
            }
        }
    }

    /// Dot products of rows of a and b `[count,width]`, `stride` apart; zero for the lanes beyond.
    pub(super) fn row_dots(a: &[f32], b: &[f32], stride: usize, width: usize, count: usize, dots: &mut [f32; PANEL]) {
        *dots = [0.0; PANEL];
        for (i, dot) in dots.iter_mut().enumerate().take(count) {
            let place = i * stride..i * stride + width;
            *dot = simd::dot(&a[place.clone()], &b[place]);
        }
    }
}
