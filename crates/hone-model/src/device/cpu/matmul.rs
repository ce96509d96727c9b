//! Matrix products, by the `gemm` crate.

use crate::device::Matrix;
use gemm::Parallelism;

/// A matrix by pointer and strides, as [`gemm::gemm`] takes it.
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

impl View<*const f32> {
    pub(super) fn new(pointer: *const f32, row_stride: usize, col_stride: usize) -> Self {
        View { pointer, row_stride, col_stride }
    }
}

impl View<*mut f32> {
    pub(super) fn new_mut(pointer: *mut f32, row_stride: usize, col_stride: usize) -> Self {
        View { pointer, row_stride, col_stride }
    }
}

/// c := a · b, or c += a · b, on slices that begin at each matrix's first element and hold all of it.
pub(super) fn matmul(c: (&mut [f32], Matrix), a: (&[f32], Matrix), b: (&[f32], Matrix), accumulate: bool) {
    let ((c, c_shape), (a, a_shape), (b, b_shape)) = (c, a, b);
    let sizes = Sizes { m: c_shape.rows, n: c_shape.cols, k: a_shape.cols };
    assert!(a_shape.rows == sizes.m && b_shape.rows == sizes.k && b_shape.cols == sizes.n, "sizes agree");
    for (len, shape) in [(c.len(), c_shape), (a.len(), a_shape), (b.len(), b_shape)] {
        assert!(len >= shape.span().len, "the slice holds the matrix");
    }
    let c = View::new_mut(c.as_mut_ptr(), c_shape.row_stride, c_shape.col_stride);
    let a = View::new(a.as_ptr(), a_shape.row_stride, a_shape.col_stride);
    let b = View::new(b.as_ptr(), b_shape.row_stride, b_shape.col_stride);
    // SAFETY: every element of the three matrices lies in its slice, as asserted, and the slices do not overlap
    // because `c` is borrowed for writing. Distinct elements of `c` are distinct numbers: its strides come from
    // `Span::matrix`, or its transpose.
    #[expect(unsafe_code, reason = "gemm takes pointers and strides")]
    unsafe {
        product(sizes, c, a, b, 1.0, accumulate, Parallelism::Rayon(rayon::current_num_threads()));
    }
}

/// c := factor · a · b, or c += factor · a · b.
///
/// # Safety
/// Every element of the three matrices must be valid to read (`a`, `b`, and `c` when accumulating) or write (`c`), and no
/// other thread may touch `c`, nor any write `a` or `b`, meanwhile.
#[expect(unsafe_code, reason = "gemm takes pointers and strides")]
pub(super) unsafe fn product(
    sizes: Sizes,
    c: View<*mut f32>,
    a: View<*const f32>,
    b: View<*const f32>,
    factor: f32,
    accumulate: bool,
    parallelism: Parallelism,
) {
    let Sizes { m, n, k } = sizes;
    let stride = |stride: usize| stride as isize;
    let keep = if accumulate { 1.0 } else { 0.0 };
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.pointer,
            stride(c.col_stride),
            stride(c.row_stride),
            accumulate,
            a.pointer,
            stride(a.col_stride),
            stride(a.row_stride),
            b.pointer,
            stride(b.col_stride),
            stride(b.row_stride),
            keep,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}
