//! Matrix products: packed operands, a tile of outputs in registers, blocks that fit the caches.
//!
//! The sum behind one output runs over k in order, in blocks of a size that depends on k alone: a result depends neither on
//! the number of threads nor on the other rows and columns of the product.

mod kernel;
mod pack;

use super::attention::share_out;
use crate::device::Matrix;
pub(super) use kernel::{COLS, Output, ROWS, tile};
pub(super) use pack::{Source, pack};

/// Most steps of a sum that are packed together: a panel of b stays in the first-level cache.
const MAX_DEPTH: usize = 384;
/// Most rows of a that are packed together (second-level cache); a multiple of `ROWS`.
const MAX_ROWS: usize = 144;
/// Most columns of b that are packed together; a multiple of `COLS`.
const MAX_COLS: usize = 1024;
/// Numbers of workspace of one thread.
pub(super) const PACKING: usize = MAX_DEPTH * (MAX_ROWS + MAX_COLS);
/// Multiplications below which a product is not worth another thread's attention.
const SMALL_PART: usize = 1 << 17;
/// Parts for each thread of a large product, so that one that is late does not keep the others waiting.
const PARTS_PER_THREAD: usize = 2;

/// A matrix by pointer and strides.
#[derive(Clone, Copy)]
pub(super) struct View<P> {
    pub(super) pointer: P,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// Sizes of a product `[m,n] = [m,k] [k,n]`.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// c := factor · a · b, or += when `accumulate`; c's columns stand side by side.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) sizes: Sizes,
    pub(super) c: View<*mut f32>,
    pub(super) a: View<*const f32>,
    pub(super) b: View<*const f32>,
    pub(super) factor: f32,
    pub(super) accumulate: bool,
}
// SAFETY: pointers into matrices that outlive the product; parts of one product write places of their own.
#[expect(unsafe_code, reason = "parts of a product are shared out to threads")]
unsafe impl Sync for Product {}

impl View<*const f32> {
    pub(super) fn new(pointer: *const f32, row_stride: usize, col_stride: usize) -> Self {
        View { pointer, row_stride, col_stride }
    }

    pub(super) fn transposed(self) -> Self {
        View { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    pub(super) fn from(self, row: usize, col: usize) -> Self {
        View { pointer: self.pointer.wrapping_add(row * self.row_stride + col * self.col_stride), ..self }
    }
}

impl View<*mut f32> {
    pub(super) fn new_mut(pointer: *mut f32, row_stride: usize) -> Self {
        View { pointer, row_stride, col_stride: 1 }
    }

    pub(super) fn from(self, row: usize, col: usize) -> Self {
        View { pointer: self.pointer.wrapping_add(row * self.row_stride + col * self.col_stride), ..self }
    }
}

/// c := a · b, or c += a · b, on slices that begin at each matrix's first element and hold all of it. `packing` is
/// [`PACKING`] numbers for each thread.
pub(super) fn matmul(
    c: (&mut [f32], Matrix),
    a: (&[f32], Matrix),
    b: (&[f32], Matrix),
    accumulate: bool,
    packing: &mut [f32],
) {
    let ((c, c_shape), (a, a_shape), (b, b_shape)) = (c, a, b);
    let sizes = Sizes { m: c_shape.rows, n: c_shape.cols, k: a_shape.cols };
    assert!(a_shape.rows == sizes.m && b_shape.rows == sizes.k && b_shape.cols == sizes.n, "sizes agree");
    for (len, shape) in [(c.len(), c_shape), (a.len(), a_shape), (b.len(), b_shape)] {
        assert!(len >= shape.span().len, "the slice holds the matrix");
    }
    let c = View { pointer: c.as_mut_ptr(), row_stride: c_shape.row_stride, col_stride: c_shape.col_stride };
    let a = View::new(a.as_ptr(), a_shape.row_stride, a_shape.col_stride);
    let b = View::new(b.as_ptr(), b_shape.row_stride, b_shape.col_stride);
    let mut whole = Product { sizes, c, a, b, factor: 1.0, accumulate };
    if c.col_stride != 1 {
        whole = whole.transposed();
    }
    let parts = whole.parts(rayon::current_num_threads());
    share_out(packing, PACKING, &parts, |packing, part| {
        // SAFETY: every element of the three matrices lies in its slice, as asserted, and the slices do not overlap because
        // `c` is borrowed for writing. Distinct elements of `c` are distinct numbers: its strides come from
        // `Span::matrix`, or its transpose. The parts are disjoint.
        #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
        unsafe {
            part.run(packing);
        }
    });
}

impl Product {
    /// The same product with rows and columns exchanged.
    fn transposed(self) -> Product {
        let Sizes { m, n, k } = self.sizes;
        let View { pointer, row_stride, col_stride } = self.c;
        let c = View { pointer, row_stride: col_stride, col_stride: row_stride };
        assert_eq!(c.col_stride, 1, "rows or columns of a result stand side by side");
        Product { sizes: Sizes { m: n, n: m, k }, c, a: self.b.transposed(), b: self.a.transposed(), ..self }
    }

    /// Cuts c into disjoint parts for `threads` threads.
    fn parts(self, threads: usize) -> Vec<Product> {
        let Sizes { m, n, k } = self.sizes;
        let (row_tiles, col_tiles) = (m.div_ceil(ROWS), n.div_ceil(COLS));
        let most = (m * n * k / SMALL_PART).max(1);
        let wanted = if threads == 1 { 1 } else { most.min(threads * PARTS_PER_THREAD) };
        // The cut that packs the fewest numbers.
        let packed = |rows: usize| m.div_ceil(rows) + n.div_ceil(wanted / rows);
        let rows =
            (1..=wanted).filter(|rows| wanted.is_multiple_of(*rows)).min_by_key(|&rows| packed(rows)).unwrap_or(1);
        let (row_parts, col_parts) = (rows.min(row_tiles).max(1), (wanted / rows).min(col_tiles).max(1));
        let mut parts = Vec::with_capacity(row_parts * col_parts);
        for i in 0..row_parts {
            let (first_row, end_row) = cut(i, row_parts, row_tiles, ROWS, m);
            for j in 0..col_parts {
                let (first_col, end_col) = cut(j, col_parts, col_tiles, COLS, n);
                parts.push(Product {
                    sizes: Sizes { m: end_row - first_row, n: end_col - first_col, k },
                    c: self.c.from(first_row, first_col),
                    a: self.a.from(first_row, 0),
                    b: self.b.from(0, first_col),
                    ..self
                });
            }
        }
        parts
    }

    /// Computes the product on this thread. `packing` is at least [`PACKING`] numbers.
    ///
    /// # Safety
    /// Every element of the three matrices must be valid to read (`a`, `b`, and `c` when accumulating) or write (`c`), and no
    /// other thread may touch `c`, nor any write `a` or `b`, meanwhile.
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    pub(super) unsafe fn run(&self, packing: &mut [f32]) {
        let Sizes { m, n, k } = self.sizes;
        debug_assert_eq!(self.c.col_stride, 1);
        let (packed_a, packed_b) = packing.split_at_mut(MAX_DEPTH * MAX_ROWS);
        let depth = k.div_ceil(k.div_ceil(MAX_DEPTH).max(1)).max(1);
        for col in (0..n).step_by(MAX_COLS) {
            let cols = MAX_COLS.min(n - col);
            // A sum over nothing is still written: one round without steps.
            for step in (0..k.max(1)).step_by(depth) {
                let steps = depth.min(k - step);
                let b = self.b.from(step, col);
                let (lane_stride, step_stride) = (b.col_stride, b.row_stride);
                let b = Source { pointer: b.pointer, lane_stride, step_stride, lanes: cols, steps };
                // SAFETY: the part is inside b.
                unsafe { pack::<COLS>(packed_b, COLS * steps, &b) };
                for row in (0..m).step_by(MAX_ROWS) {
                    let rows = MAX_ROWS.min(m - row);
                    let a = self.a.from(row, step);
                    let (lane_stride, step_stride) = (a.row_stride, a.col_stride);
                    let a = Source { pointer: a.pointer, lane_stride, step_stride, lanes: rows, steps };
                    let c = self.c.from(row, col);
                    let accumulate = self.accumulate || step > 0;
                    let out = Output { c: c.pointer, row_stride: c.row_stride, factor: self.factor, accumulate };
                    // SAFETY: the parts are inside a and c.
                    unsafe {
                        pack::<ROWS>(packed_a, ROWS * steps, &a);
                        block(out, (packed_a, rows), (packed_b, cols), steps);
                    }
                }
            }
        }
    }
}

/// Part `i` of `parts` of a side of `len` numbers in `tiles` tiles: its first number and the one after its last.
fn cut(i: usize, parts: usize, tiles: usize, tile: usize, len: usize) -> (usize, usize) {
    let edge = |i: usize| (tiles * i / parts * tile).min(len);
    (edge(i), edge(i + 1))
}

/// All tiles of a block of packed rows and columns.
///
/// # Safety
/// The block of `out` must be valid to read and write.
#[expect(unsafe_code, reason = "tiles of a matrix, by pointer and stride")]
unsafe fn block(out: Output, (a, rows): (&[f32], usize), (b, cols): (&[f32], usize), steps: usize) {
    for col in (0..cols).step_by(COLS) {
        let b = &b[col * steps..(col + COLS) * steps];
        for row in (0..rows).step_by(ROWS) {
            let a = &a[row * steps..(row + ROWS) * steps];
            let out = Output { c: out.c.wrapping_add(row * out.row_stride + col), ..out };
            let (rows, cols) = (ROWS.min(rows - row), COLS.min(cols - col));
            // SAFETY: the tile is inside the block, or its part that is inside is copied.
            unsafe {
                if rows == ROWS && cols == COLS {
                    tile(out, a, b);
                } else {
                    edge(out, a, b, rows, cols);
                }
            }
        }
    }
}

/// A tile of which only `rows` × `cols` are in the matrix.
///
/// # Safety
/// That part of `out` must be valid to read and write.
#[expect(unsafe_code, reason = "tiles of a matrix, by pointer and stride")]
unsafe fn edge(out: Output, a: &[f32], b: &[f32], rows: usize, cols: usize) {
    let mut whole = [0.0f32; ROWS * COLS];
    // SAFETY: the tile is an array of its own.
    unsafe { tile(Output { c: whole.as_mut_ptr(), row_stride: COLS, accumulate: false, ..out }, a, b) };
    for (r, values) in whole.as_chunks::<COLS>().0.iter().enumerate().take(rows) {
        // SAFETY: the part is the caller's promise.
        let row = unsafe { std::slice::from_raw_parts_mut(out.c.wrapping_add(r * out.row_stride), cols) };
        for (c, value) in row.iter_mut().zip(values) {
            *c = if out.accumulate { *c + value } else { *value };
        }
    }
}

#[cfg(test)]
mod tests;
