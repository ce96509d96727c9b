//! Each operation of every device against its plain twin on odd shapes, and gradients against finite differences.

mod differences;
mod twins;

use super::*;

/// Shapes of heads: grouped queries, one key/value head, one for each query head.
const HEADS: [Heads; 4] = [
    Heads { num_heads: 6, num_kv_heads: 2, head_dim: 8 },
    Heads { num_heads: 3, num_kv_heads: 1, head_dim: 34 },
    Heads { num_heads: 2, num_kv_heads: 2, head_dim: 64 },
    Heads { num_heads: 2, num_kv_heads: 1, head_dim: 128 },
];
/// Wider heads take another kernel of the GPU when decoding: small, for the emulator is slow.
const WIDE_HEADS: Heads = Heads { num_heads: 1, num_kv_heads: 1, head_dim: 160 };

/// A device and the spans handed out of it so far.
struct Lab {
    device: Box<dyn Device>,
    next: usize,
    seed: u64,
    /// Whether spans begin at round addresses.
    is_aligned: bool,
}

impl Lab {
    fn new(name: &str, threads: usize) -> Lab {
        let mut device = open(name, threads).unwrap();
        device.reserve(&Room { len: 1 << 21, largest_operand: 1 << 18, second_operand: 1 << 18 }).unwrap();
        Lab { device, next: 0, seed: 1, is_aligned: false }
    }

    /// Equal calls on equal labs give equal numbers, about uniform in -1..1.
    fn random(&mut self, len: usize) -> Span {
        let values: Vec<f32> = (0..len).map(|_| self.number()).collect();
        self.given(&values)
    }

    fn given(&mut self, values: &[f32]) -> Span {
        self.given_as(values, NumberFormat::F32)
    }

    /// As [`Lab::random`], held as the device likes activations; numbers that bf16 holds exactly, on every device.
    fn activation(&mut self, len: usize) -> Span {
        self.random_as(len, self.device.activation_format())
    }

    /// Numbers that bf16 holds exactly, in a format.
    fn random_as(&mut self, len: usize, format: NumberFormat) -> Span {
        let values: Vec<f32> = (0..len).map(|_| half::bf16::from_f32(self.number()).to_f32()).collect();
        self.given_as(&values, format)
    }

    fn given_as(&mut self, values: &[f32], format: NumberFormat) -> Span {
        let per_word = 4 / format.size();
        let span = Span { offset: self.next * per_word, len: values.len(), format };
        // A gap of one keeps later spans off round addresses.
        self.next += values.len().div_ceil(per_word) + 1;
        if self.is_aligned {
            self.next = self.next.next_multiple_of(16);
        }
        self.device.upload(span, values).unwrap();
        span
    }

    /// Random weights, in a format.
    fn weights(&mut self, rows: usize, cols: usize, format: WeightFormat) -> WeightMatrix {
        let values: Vec<f32> = (0..rows * cols).map(|_| self.number()).collect();
        let span = self.given(&vec![0.0; format.len(rows, cols)]);
        let w = WeightMatrix { span, rows, cols, format };
        self.device.store_weights(w, 0, &values).unwrap();
        w
    }

    fn number(&mut self) -> f32 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn read(&mut self, span: Span) -> Vec<f32> {
        let mut values = vec![0.0; span.len];
        self.device.download(span, &mut values).unwrap();
        values
    }
}

/// Norm of the difference over the norm of what is expected.
#[track_caller]
fn assert_near(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|x| f64::from(*x).powi(2)).sum();
    let distance = if difference == 0.0 { 0.0 } else { (difference / size).sqrt() };
    assert!(distance <= tolerance, "{what}: off by {distance:.2e}, allowed {tolerance:.0e}");
}

fn positions(segments: &[usize]) -> Vec<u32> {
    segments.iter().flat_map(|&length| 0..length as u32).collect()
}

#[test]
fn unknown_devices_are_refused_by_name() {
    let error = open("abacus", 1).err().unwrap().to_string();
    assert_eq!(error, "unknown device `abacus`; known: auto, cpu, cuda, cuda-f32, reference");
}

#[test]
fn a_cache_is_planned_as_the_opened_device_holds_it() {
    for name in ["cpu", "reference", "emulated", "emulated-f32"] {
        assert_eq!(open(name, 1).unwrap().cache_format(), cache_format(name), "{name}");
    }
    assert_eq!(
        (cache_format("cuda"), cache_format("cuda-f32")),
        (cache_format("emulated"), cache_format("emulated-f32"))
    );
}

#[test]
fn results_are_named_after_what_computes_them() {
    assert_eq!(["cpu", "reference", "cuda-f32", "cuda"].map(dtype), ["f32", "f32", "f32", "bf16"]);
    // Never `auto`: what that is differs from machine to machine.
    assert!(["cpu", "cuda"].contains(&resolve("auto")));
    assert_eq!(resolve("cuda-f32"), "cuda-f32");
}

#[test]
fn matrices_cover_their_span() {
    let span = Span::f32(5, 12);
    assert_eq!(span.matrix(4).span(), span);
    assert_eq!(span.matrix(4).transposed().span(), span);
    assert_eq!(span.matrix(4).transposed().transposed(), span.matrix(4));
}
