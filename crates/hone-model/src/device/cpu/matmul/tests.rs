//! Products do not depend on threads, on other rows, or on how they are cut; the kernel's twins agree bit for bit.

use super::kernel::{COLS, Left, Output, ROWS, plain, tile};
#[cfg(target_arch = "x86_64")]
use super::{Block, kernel::pair::two_tiles, pairs, pairs_agree};
use super::{PACKING, matmul};
use crate::device::Span;
use rayon::ThreadPoolBuilder;

/// Numbers in -1..1 that fill no whole binary fractions.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i + seed) as f32 * 0.731).sin()).collect()
}

/// a `[m,k]` · b `[n,k]`ᵀ by `threads` threads.
fn product(threads: usize, a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
    let [a_shape, b_shape] = [a, b].map(|x| Span::f32(0, x.len()).matrix(k));
    let shape = Span::f32(0, a_shape.rows * b_shape.rows).matrix(b_shape.rows);
    let mut c = vec![f32::NAN; a_shape.rows * b_shape.rows];
    let mut packing = vec![f32::NAN; threads * PACKING];
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| matmul((&mut c, shape), (a, a_shape), (b, b_shape.transposed()), false, &mut packing));
    c
}

#[test]
fn an_output_depends_on_its_row_and_column_alone() {
    // Beyond one block of steps, rows and columns, none of them whole tiles.
    let (m, n, k) = (151, 1043, 401);
    let (a, b) = (numbers(m * k, 0), numbers(n * k, 5));
    let whole = product(1, &a, &b, k);
    for threads in [2, 3] {
        assert!(product(threads, &a, &b, k) == whole, "{threads} threads");
    }
    for (first, rows) in [(0, 1), (7, 13), (150, 1)] {
        let part = product(2, &a[first * k..(first + rows) * k], &b, k);
        assert!(part == whole[first * n..(first + rows) * n], "rows {first}..{}", first + rows);
    }
    let columns = product(2, &a, &b[1000 * k..], k);
    for (row, columns) in columns.chunks(n - 1000).enumerate() {
        assert!(columns == &whole[row * n + 1000..(row + 1) * n], "columns of row {row}");
    }
}

#[test]
fn a_sum_over_nothing_is_zero() {
    let mut c = [5.0f32; 6];
    let format = crate::device::NumberFormat::F32;
    let shape = |rows: usize, cols: usize| crate::device::Matrix {
        offset: 0,
        rows,
        cols,
        row_stride: cols,
        col_stride: 1,
        format,
    };
    let mut packing = vec![0.0; PACKING];
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| matmul((&mut c, shape(2, 3)), (&[], shape(2, 0)), (&[], shape(0, 3)), false, &mut packing));
    assert_eq!(c, [0.0; 6]);
}

#[test]
#[expect(unsafe_code, reason = "the kernel writes through a pointer")]
fn the_kernel_and_its_twin_have_the_same_bits() {
    for steps in [0, 1, 29] {
        for accumulate in [false, true] {
            let (a, b) = (numbers(steps * ROWS, 1), numbers(steps * COLS, 2));
            let mut results = [numbers(ROWS * 20, 3), numbers(ROWS * 20, 3)];
            for (result, twin) in results.iter_mut().zip([false, true]) {
                let out = Output { c: result.as_mut_ptr(), row_stride: 20, factor: 0.3, accumulate };
                // SAFETY: six rows of 16 of 20 numbers are inside the result, and the panel has as many steps as b.
                unsafe { if twin { plain::<true>(out, Left::packed(&a), &b) } else { tile(out, Left::packed(&a), &b) } }
            }
            let [found, expected] = results;
            let near = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5);
            #[cfg(target_arch = "x86_64")]
            let fused = crate::device::cpu::simd::has_avx2();
            #[cfg(not(target_arch = "x86_64"))]
            let fused = cfg!(target_arch = "aarch64");
            assert!(if fused { found == expected } else { near }, "{steps} steps, accumulate: {accumulate}");
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_kernel_of_two_tiles_has_the_bits_of_both() {
    let told = b"AVX-512 is not on this machine: its kernel of products was compiled, and NOT run\n";
    match pairs_agree() {
        // Not by `eprintln!`: it is told also where the output of tests is not shown.
        None => std::io::Write::write_all(&mut std::io::stderr(), told).unwrap(),
        Some(agree) => assert!(agree),
    }
}

/// With a plain stand-in for AVX-512: what is multiplied with what, and where it goes.
#[test]
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "blocks are written through pointers")]
fn pairs_of_tiles_cover_the_pairs_of_whole_panels_and_nothing_else() {
    let steps = 7;
    for (rows, cols, in_pairs) in [(6usize, 32usize, 32), (13, 70, 64), (5, 47, 32), (12, 31, 0)] {
        let a = numbers(rows.next_multiple_of(ROWS) * steps, 1);
        let b = numbers(cols.next_multiple_of(COLS) * steps, 2);
        let before = numbers(rows * cols, 3);
        let mut found = before.clone();
        let out = Output { c: found.as_mut_ptr(), row_stride: cols, factor: 1.0, accumulate: true };
        // SAFETY: the result holds the block.
        let done = unsafe { pairs(two_tiles, out, (Block::Packed { panels: &a, steps }, rows), (&b, cols), steps) };
        assert_eq!(done, in_pairs, "{rows} x {cols}");
        for (i, (found, before)) in found.iter().zip(&before).enumerate() {
            let (row, col) = (i / cols, i % cols);
            let factor = |packed: &[f32], lane: usize, lanes: usize, step: usize| {
                f64::from(packed[lane / lanes * lanes * steps + step * lanes + lane % lanes])
            };
            let products = (0..steps).map(|step| factor(&a, row, ROWS, step) * factor(&b, col, COLS, step));
            let sum = if col < in_pairs { products.sum() } else { 0.0 };
            assert!((f64::from(*found) - f64::from(*before) - sum).abs() < 1e-5, "{rows} x {cols}: {row}, {col}");
        }
    }
}
