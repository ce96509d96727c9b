//! Vector arithmetic: loops written so that the compiler vectorises them, compiled twice (for every x86-64, and for
//! AVX2 with FMA) and chosen when the program runs; once for aarch64, all of which has NEON. Sums run in 16 lanes in all of
//! them, so they agree bit for bit unless a kernel says that it uses fused multiply-add.

/// Lanes of a sum.
pub(super) const LANES: usize = 16;

/// Defines functions whose bodies are compiled for AVX2 and FMA as well, and run that way where the machine can.
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if $crate::device::cpu::simd::has_avx2() {
                    // SAFETY: the machine has the features that `wide` is compiled for; it is safe otherwise.
                    #[expect(unsafe_code, reason = "calling code for features that were found at run time")]
                    return unsafe { wide($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(super) use vectorised;

/// Whether the machine has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// Bytes of a cache line.
pub(super) const CACHE_LINE: usize = 64;

/// Asks the memory for bytes that are read soon, where the machine would not guess it. Only advice: they need not exist. On
/// x86-64 alone: Rust's function for aarch64 is not stable.
#[inline(always)]
pub(super) fn ask_for(start: *const u8, num_bytes: usize) {
    for at in (0..num_bytes).step_by(CACHE_LINE) {
        // SAFETY: the instruction reads nothing: an address that does not exist is passed over.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "prefetching takes a pointer")]
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(start.wrapping_add(at).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = start.wrapping_add(at);
    }
}

/// e^x to about 1e-7 relative; 0 or infinity never come out (arguments are clamped to -87..88), NaN stays NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Comparisons, because `max` and `min` would swallow NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // 1.5 · 2^23: adding it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    // ln 2 in two parts, the first exact in few bits.
    let r = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    // Cephes' polynomial for e^r on |r| <= ln 2 / 2.
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    (p * r * r + r + 1.0) * power
}

/// e^x for the x <= 0 of a softmax, 0 below -64: such a share is beyond f32's precision, and the zero keeps products
/// with it out of the slow range of denormal numbers.
#[inline(always)]
pub(super) fn exp_share(x: f32) -> f32 {
    let y = exp(x);
    if x < -64.0 { 0.0 } else { y }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sum of products.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for j in 0..LANES {
            lanes[j] += a[j] * b[j];
        }
    }
    let mut sum = fold(&lanes);
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum += a * b;
    }
    sum
}

/// Sum.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for j in 0..LANES {
            lanes[j] += x[j];
        }
    }
    let mut sum = fold(&lanes);
    for x in rest {
        sum += x;
    }
    sum
}

/// The greatest number; negative infinity for none. NaN is passed over.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for j in 0..LANES {
            lanes[j] = if x[j] > lanes[j] { x[j] } else { lanes[j] };
        }
    }
    let mut max = f32::NEG_INFINITY;
    for &x in lanes.iter().chain(rest) {
        max = if x > max { x } else { max };
    }
    max
}

/// Sum of the lanes, by halves.
#[inline(always)]
pub(super) fn fold(lanes: &[f32; LANES]) -> f32 {
    let mut half = [0.0f32; 8];
    for j in 0..8 {
        half[j] = lanes[j] + lanes[j + 8];
    }
    fold_half(&half)
}

/// Sum of half as many lanes, by halves.
#[inline(always)]
pub(super) fn fold_half(half: &[f32; LANES / 2]) -> f32 {
    ((half[0] + half[4]) + (half[2] + half[6])) + ((half[1] + half[5]) + (half[3] + half[7]))
}
