//! Matrix products: packed operands, a tile of outputs in registers, blocks that fit the caches.
//!
//! The sum behind one output runs over k in order, in blocks of a size that depends on k alone: a result depends neither on
//! the number of threads nor on the other rows and columns of the product.

mod kernel;
mod pack;

use super::attention::share_out;
use super::simd::{self, vectorised};
use crate::device::weights::Held;
use crate::device::{Matrix, WeightMatrix};
#[cfg(target_arch = "x86_64")]
pub(super) use kernel::pair::agrees as pairs_agree;
pub(super) use kernel::{COLS, Left, Output, ROWS, tile};
pub(super) use pack::{Source, pack};

/// Most steps of a sum that are packed together: a panel of b stays in the first-level cache.
const MAX_DEPTH: usize = 384;
/// Most rows of a that are packed together (second-level cache); a multiple of `ROWS`.
const MAX_ROWS: usize = 144;
/// Most columns of b that are packed together; a multiple of `COLS`.
const MAX_COLS: usize = 768;
/// Rows of a so many numbers apart (4 KiB) share the lines of the first-level cache: packed, they do not.
const CONFLICT: usize = 1024;
/// Up to so many columns such rows are read where they are as well: they are not read often enough to be worth packing.
const FEW_COLS: usize = 384;
/// Numbers of workspace of one thread.
pub(super) const PACKING: usize = MAX_DEPTH * (MAX_ROWS + MAX_COLS + COLS);
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

/// The right side of a product.
#[derive(Clone, Copy)]
enum Right<'a> {
    Numbers(View<*const f32>),
    /// Weights, transposed: column `c` are those of output `first + c`, `width` of them.
    Weights {
        held: Held<'a>,
        width: usize,
        first: usize,
    },
}

/// c := a · b, or += when `accumulate`; c's columns stand side by side.
#[derive(Clone, Copy)]
struct Product<'a> {
    sizes: Sizes,
    c: View<*mut f32>,
    a: View<*const f32>,
    b: Right<'a>,
    accumulate: bool,
}
// SAFETY: pointers into matrices that outlive the product; parts of one product write places of their own.
#[expect(unsafe_code, reason = "parts of a product are shared out to threads")]
unsafe impl Sync for Product<'_> {}

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
    let a = View::new(a.as_ptr(), a_shape.row_stride, a_shape.col_stride);
    let b = View::new(b.as_ptr(), b_shape.row_stride, b_shape.col_stride);
    let Sizes { m, n, k } = sizes;
    // Where a result's columns, not its rows, are contiguous, its transpose is computed.
    let (sizes, row_stride, a, b) = match (c_shape.row_stride, c_shape.col_stride) {
        (row_stride, 1) => (sizes, row_stride, a, b),
        (1, col_stride) => (Sizes { m: n, n: m, k }, col_stride, b.transposed(), a.transposed()),
        strides => panic!("neither rows nor columns of a result stand side by side: {strides:?}"),
    };
    let c = View::new_mut(c.as_mut_ptr(), row_stride);
    // SAFETY: every element of the three matrices lies in its slice, as asserted, and the slices do not overlap because
    // `c` is borrowed for writing. Distinct elements of `c` are distinct numbers: its strides come from
    // `Span::matrix`, or its transpose.
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    unsafe {
        Product { sizes, c, a, b: Right::Numbers(b), accumulate }.run_all(packing);
    }
}

/// y `[N,O]` := or += x `[N,I]` · w `[O,I]`ᵀ, as [`matmul`]. Weights are widened as they are packed.
pub(super) fn linear(
    y: (&mut [f32], Matrix),
    x: (&[f32], Matrix),
    w: (WeightMatrix, Held<'_>),
    accumulate: bool,
    packing: &mut [f32],
) {
    let ((y, y_shape), (x, x_shape), (w, held)) = (y, x, w);
    assert!(y_shape.rows == x_shape.rows && y_shape.cols == w.rows && x_shape.cols == w.cols, "sizes agree");
    assert!(y.len() >= y_shape.span().len && x.len() >= x_shape.span().len, "the slice holds the matrix");
    assert_eq!(y_shape.col_stride, 1, "rows of the result are contiguous");
    let b = match held {
        Held::F32(numbers) => Right::Numbers(View::new(numbers.as_ptr(), 1, w.cols)),
        held => Right::Weights { held, width: w.cols, first: 0 },
    };
    let (c, a) = (
        View::new_mut(y.as_mut_ptr(), y_shape.row_stride),
        View::new(x.as_ptr(), x_shape.row_stride, x_shape.col_stride),
    );
    // SAFETY: as in `matmul`; all weights are there, as `WeightMatrix::held` looked.
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    unsafe {
        Product { sizes: Sizes { m: x_shape.rows, n: w.rows, k: w.cols }, c, a, b, accumulate }.run_all(packing);
    }
}

impl Right<'_> {
    fn skip_columns(self, col: usize) -> Self {
        match self {
            Right::Numbers(view) => Right::Numbers(view.from(0, col)),
            Right::Weights { held, width, first } => Right::Weights { held, width, first: first + col },
        }
    }

    /// packed := the panels of `lanes` columns from `col` on, `steps` steps from `step` on. `scratch` is a panel's size.
    ///
    /// # Safety
    /// These elements must be valid to read.
    #[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
    unsafe fn pack(
        self,
        packed: &mut [f32],
        scratch: &mut [f32],
        (col, lanes): (usize, usize),
        (step, steps): (usize, usize),
    ) {
        match self {
            Right::Numbers(view) => {
                let View { pointer, row_stride, col_stride } = view.from(step, col);
                let b = Source { pointer, lane_stride: col_stride, step_stride: row_stride, lanes, steps };
                // SAFETY: the caller's promise.
                unsafe { pack::<COLS>(packed, COLS * steps, &b) };
            }
            Right::Weights { held, width, first } => {
                for lane in (0..lanes).step_by(COLS) {
                    let lanes = COLS.min(lanes - lane);
                    widen(&mut scratch[..lanes * steps], held, (width, first + col + lane), (step, steps));
                    let wide = Source { pointer: scratch.as_ptr(), lane_stride: steps, step_stride: 1, lanes, steps };
                    let panel = &mut packed[lane * steps..][..COLS * steps];
                    // SAFETY: so many numbers were just written.
                    unsafe { pack::<COLS>(panel, COLS * steps, &wide) };
                }
            }
        }
    }
}

vectorised! {
    /// into := the weights of several outputs (each of so many weights, from this one on): a part of each, from here on so long.
    fn widen(into: &mut [f32], held: Held<'_>, outputs: (usize, usize), part: (usize, usize)) {
        let ((width, first), (step, steps)) = (outputs, part);
        let lanes = into.len() / steps.max(1);
        for (row, into) in into.chunks_exact_mut(steps).enumerate() {
            // Rows lie far apart, so the machine does not guess what the next panel reads.
            let (next, size) = held.address(width, first + row + lanes, step);
            simd::ask_for(next, steps * size);
            held.read(width, first + row, step, into);
        }
    }
}

impl<'a> Product<'a> {
    /// Computes the product with the threads that are here. `packing` is [`PACKING`] numbers for each.
    ///
    /// # Safety
    /// As for [`Product::run`].
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    unsafe fn run_all(self, packing: &mut [f32]) {
        let parts = self.parts(rayon::current_num_threads());
        share_out(packing, PACKING, &parts, |packing, part| {
            // SAFETY: the caller's promise; the parts are disjoint.
            unsafe { part.run(packing) };
        });
    }

    /// Cuts c into disjoint parts for `threads` threads.
    fn parts(self, threads: usize) -> Vec<Product<'a>> {
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
                    b: self.b.skip_columns(first_col),
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
    unsafe fn run(&self, packing: &mut [f32]) {
        let Sizes { m, n, k } = self.sizes;
        debug_assert_eq!(self.c.col_stride, 1);
        let (packed_a, packing) = packing.split_at_mut(MAX_DEPTH * MAX_ROWS);
        let (packed_b, scratch) = packing.split_at_mut(MAX_DEPTH * MAX_COLS);
        let depth = k.div_ceil(k.div_ceil(MAX_DEPTH).max(1)).max(1);
        for col in (0..n).step_by(MAX_COLS) {
            let cols = MAX_COLS.min(n - col);
            // A sum over nothing is still written: one round without steps.
            for step in (0..k.max(1)).step_by(depth) {
                let steps = depth.min(k - step);
                // SAFETY: the part is inside b.
                unsafe { self.b.pack(packed_b, scratch, (col, cols), (step, steps)) };
                for row in (0..m).step_by(MAX_ROWS) {
                    let rows = MAX_ROWS.min(m - row);
                    let a = self.a.from(row, step);
                    let c = self.c.from(row, col);
                    let accumulate = self.accumulate || step > 0;
                    let out = Output { c: c.pointer, row_stride: c.row_stride, factor: 1.0, accumulate };
                    // SAFETY: the parts are inside a and c.
                    unsafe {
                        let a = left(a, (rows, steps), cols, packed_a);
                        block(out, (a, rows), (packed_b, cols), steps);
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

/// The rows of a block as tiles read them: where they are, or packed into `packed`.
///
/// # Safety
/// These rows and steps of a must be valid to read.
#[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
unsafe fn left<'a>(
    a: View<*const f32>,
    (rows, steps): (usize, usize),
    cols: usize,
    packed: &'a mut [f32],
) -> Block<'a> {
    if a.col_stride == 1 && (cols <= FEW_COLS || !a.row_stride.is_multiple_of(CONFLICT)) {
        return Block::InPlace { a, last_row: rows - 1 };
    }
    let (lane_stride, step_stride) = (a.row_stride, a.col_stride);
    // SAFETY: the caller's promise.
    unsafe {
        pack::<ROWS>(packed, ROWS * steps, &Source { pointer: a.pointer, lane_stride, step_stride, lanes: rows, steps })
    };
    Block::Packed { panels: packed, steps }
}

/// The rows of a block.
#[derive(Clone, Copy)]
enum Block<'a> {
    /// Panels of `ROWS` rows and so many steps.
    Packed { panels: &'a [f32], steps: usize },
    /// Steps stand side by side.
    InPlace { a: View<*const f32>, last_row: usize },
}

impl Block<'_> {
    /// The tile's rows from this one on; for those behind the last one, the last one.
    fn tile(self, row: usize) -> Left {
        match self {
            Block::Packed { panels, steps } => Left::packed(&panels[row * steps..(row + ROWS) * steps]),
            Block::InPlace { a, last_row } => {
                Left { rows: std::array::from_fn(|r| a.from(last_row.min(row + r), 0).pointer), step_stride: 1 }
            }
        }
    }
}

/// All tiles of a block of rows and packed columns.
///
/// # Safety
/// The block of `out` must be valid to read and write, and that of a to read.
#[expect(unsafe_code, reason = "tiles of a matrix, by pointer and stride")]
unsafe fn block(out: Output, (a, rows): (Block<'_>, usize), (b, cols): (&[f32], usize), steps: usize) {
    #[cfg(target_arch = "x86_64")]
    let done = if pairs_agree() == Some(true) {
        // SAFETY: the machine has AVX-512; the rest is the caller's promise.
        unsafe { pairs(kernel::pair::pair, out, (a, rows), (b, cols), steps) }
    } else {
        0
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    for col in (done..cols).step_by(COLS) {
        let b = &b[col * steps..(col + COLS) * steps];
        for row in (0..rows).step_by(ROWS) {
            let a = a.tile(row);
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

/// The tiles of whole panels of columns, two panels at a time by `pair`. How many columns those are.
///
/// # Safety
/// As for [`block`], and what `pair` asks of the machine.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "tiles of a matrix, by pointer and stride")]
unsafe fn pairs(
    pair: unsafe fn(Output, Left, &[f32]),
    out: Output,
    (a, rows): (Block<'_>, usize),
    (b, cols): (&[f32], usize),
    steps: usize,
) -> usize {
    const PAIR: usize = 2 * COLS;
    let done = cols / PAIR * PAIR;
    for col in (0..done).step_by(PAIR) {
        let b = &b[col * steps..(col + PAIR) * steps];
        for row in (0..rows).step_by(ROWS) {
            let a = a.tile(row);
            let out = Output { c: out.c.wrapping_add(row * out.row_stride + col), ..out };
            let rows = ROWS.min(rows - row);
            // SAFETY: both tiles are inside the block, or their parts that are inside are copied.
            unsafe {
                if rows == ROWS {
                    pair(out, a, b);
                } else {
                    let (left, right) = b.split_at(COLS * steps);
                    edge(out, a, left, rows, COLS);
                    edge(Output { c: out.c.wrapping_add(COLS), ..out }, a, right, rows, COLS);
                }
            }
        }
    }
    done
}

/// A tile of which only `rows` × `cols` are in the matrix.
///
/// # Safety
/// That part of `out` must be valid to read and write, and a to read.
#[expect(unsafe_code, reason = "tiles of a matrix, by pointer and stride")]
unsafe fn edge(out: Output, a: Left, b: &[f32], rows: usize, cols: usize) {
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
