//! A device: one arena of f32 numbers, and the few operations that a decoder needs.
//!
//! Operations name their operands by [`Span`], a range of the arena. Operands of one operation must not
//! overlap unless it says so; a wrong length is a bug of the caller and panics. Operations are queued in
//! order; a fault of the hardware shows at the next call that returns a `Result`.
//!
//! `reference` is plain loops, obviously right and slow; `cpu` is the fast twin. Both are deterministic: the
//! same calls with the same number of threads give the same bits.
//!
//! Letters: `N` rows (tokens), `H` columns, `A` query heads, `K` key/value heads, `D` numbers per head,
//! `I` intermediate size, `V` vocabulary, `P` positions.

mod cache;
mod cpu;
mod cuda;
mod reference;
mod weights;

pub use cache::{Cache, CacheFormat, CacheRow, CacheRows};
pub use cpu::not_run_on_hardware;
pub use cuda::{Gpu, keep_kernels_in, kernel_times, missing as missing_for_cuda, time_kernels};
pub use weights::{WeightFormat, WeightMatrix};

use anyhow::{Context, Result, bail};
use std::ops::Range;

/// What a device makes room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Numbers of 32 bits in the arena.
    pub len: usize,
    /// Numbers of the largest operand of a product that is held in 32 bits.
    pub largest_operand: usize,
    /// As above, of the smaller one where both operands are.
    pub second_operand: usize,
}

/// How the numbers of a span are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NumberFormat {
    /// 32 bits.
    #[default]
    F32,
    /// The upper half of 32 bits. Only devices that ask for it ([`Device::activation_format`],
    /// [`Device::cache_format`]) know this format.
    Bf16,
}

/// A range of a device's arena, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Index of the first number, counted in numbers of this format.
    pub offset: usize,
    /// How many.
    pub len: usize,
    /// How they are held.
    pub format: NumberFormat,
}

/// A matrix inside the arena: element (r, c) stands at `offset + r * row_stride + c * col_stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Index of element (0, 0).
    pub offset: usize,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
    /// How the numbers are held.
    pub format: NumberFormat,
}

/// Sizes of grouped-query attention. A row of `qkv` holds `A` queries, `K` keys, `K` values of `D` numbers
/// each; a row of `rotated` the `A` queries and `K` keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// `A`.
    pub num_heads: usize,
    /// `K`; divides `A`.
    pub num_kv_heads: usize,
    /// `D`; even.
    pub head_dim: usize,
}

/// RMS norms of single query and key heads (Qwen3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNorms {
    /// Weight of the query norm, `D`.
    pub query: Span,
    /// Weight of the key norm, `D`.
    pub key: Span,
    /// Added to the mean square.
    pub eps: f32,
}

/// Rotary position embedding of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Cosines then sines, `[P, D/2 + D/2]` (see [`crate::Rope::table`]).
    pub table: Span,
    /// Position of each row, `N`, each below `P`.
    pub positions: &'a [u32],
    /// Norms before the rotation, if the family has them.
    pub norms: Option<HeadNorms>,
}

/// Numbers of one AdamW update; see [`Device::adamw`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWUpdate {
    /// Each gradient is multiplied by this first.
    pub grad_scale: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Learning rate over the first bias correction.
    pub step_size: f32,
    /// One over the square root of the second bias correction.
    pub second_correction: f32,
    /// Added to the root.
    pub eps: f32,
    /// The weight is multiplied by this before the update (1 - lr * decay).
    pub keep: f32,
}

/// Which numbers a dropout keeps: number `i` of a span is kept or not by a hash of `seed` and `i` alone, so that the
/// backward pass, a recomputed forward pass and a resumed run see the same mask on every device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Names the mask.
    pub seed: u64,
    /// Share of the numbers that become 0, in 0..1; the others are divided by `1 - rate`.
    pub rate: f32,
}

/// The operations. `+=` in the documentation means that the result is added to what is there.
pub trait Device: Send {
    /// `cpu`, `cuda`, `cuda-f32` or `reference`.
    fn name(&self) -> &'static str;

    /// Number of threads that work.
    fn threads(&self) -> usize;

    /// Makes the arena, all zeros, once, before anything else.
    fn reserve(&mut self, room: &Room) -> Result<()>;

    /// Bytes of memory that [`Device::reserve`] takes.
    fn bytes(&self, room: &Room) -> u64 {
        room.len as u64 * 4
    }

    /// Bytes of the device's own memory that are free; none where it computes in the memory of the host.
    fn free_memory(&self) -> Option<u64> {
        None
    }

    /// How activations that are operands of products are best held.
    fn activation_format(&self) -> NumberFormat {
        NumberFormat::F32
    }

    /// How it holds a cache of keys and values; as [`cache_format`] says for its name.
    fn cache_format(&self) -> CacheFormat {
        CacheFormat::CONTIGUOUS
    }

    /// Most numbers of a block of logits that this device works well with.
    fn logits_block(&self) -> usize {
        1 << 24
    }

    /// Runs several operations with the device's threads entered once; the same as calling them outside.
    fn run(&mut self, work: &mut (dyn FnMut(&mut dyn Device) + Send));

    /// Waits until all is done and reports a fault of the hardware.
    fn finish(&mut self) -> Result<()>;

    /// dst := values (same length).
    fn upload(&mut self, dst: Span, values: &[f32]) -> Result<()>;

    /// values := src (same length).
    fn download(&mut self, src: Span, values: &mut [f32]) -> Result<()>;

    /// dst := value everywhere.
    fn fill(&mut self, dst: Span, value: f32);

    /// dst := src (same length).
    fn copy(&mut self, dst: Span, src: Span);

    /// x := x · factor.
    fn scale(&mut self, x: Span, factor: f32);

    /// y := x · mask / (1 - rate), or += when `accumulate`; same length.
    fn dropout(&mut self, y: Span, x: Span, dropout: Dropout, accumulate: bool);

    /// c := a · b, or c += a · b when `accumulate`; `[m,n] = [m,k] [k,n]`.
    fn matmul(&mut self, c: Matrix, a: Matrix, b: Matrix, accumulate: bool);

    /// Puts whole rows of weights into w `[O,I]`, from row `first_row` on.
    fn store_weights(&mut self, w: WeightMatrix, first_row: usize, values: &[f32]) -> Result<()>;

    /// y `[n,I]` := rows `rows[i]` of w `[O,I]`; `n` = `rows.len()`.
    fn gather_weights(&mut self, y: Span, w: WeightMatrix, rows: &[u32]);

    /// y `[N,O]` := x `[N,I]` · w `[O,I]`ᵀ, or += when `accumulate`, for many rows.
    fn linear(&mut self, y: Matrix, x: Matrix, w: WeightMatrix, accumulate: bool);

    /// y `[N,O]` := x `[N,I]` · w `[O,I]`ᵀ, for few rows, where the order of the sum behind one output depends on `I` alone:
    /// a row's result does not change when other rows share the call.
    fn linear_by_row(&mut self, y: Matrix, x: Matrix, w: WeightMatrix);

    /// y `[n,H]` := rows `rows[i]` of x `[*,H]`; `n` = `rows.len()`.
    fn gather_rows(&mut self, y: Span, x: Span, rows: &[u32]);

    /// Row `rows[i]` of x `[*,H]` += row `i` of y `[n,H]`; rows may repeat.
    fn scatter_add_rows(&mut self, x: Span, y: Span, rows: &[u32]);

    /// y `[N,H]` += bias `[H]` in each row.
    fn add_bias(&mut self, y: Span, bias: Span);

    /// dbias `[H]` += sum of the rows of dy `[N,H]`.
    fn add_bias_backward(&mut self, dbias: Span, dy: Span);

    /// scale `[N]` := 1 / sqrt(mean square of the row of x `[N,H]` + eps); y `[N,H]` := x · scale · w `[H]`.
    fn rms_norm(&mut self, y: Span, scale: Span, x: Span, w: Span, eps: f32);

    /// y := x · scale · w with the scales that [`Device::rms_norm`] left.
    fn rms_norm_again(&mut self, y: Span, scale: Span, x: Span, w: Span);

    /// dx `[N,H]` += and dw `[H]` +=, for dy `[N,H]` and what [`Device::rms_norm`] read and left.
    fn rms_norm_backward(&mut self, dx: Span, dw: Span, dy: Span, scale: Span, x: Span, w: Span);

    /// rotated `[N,(A+K)D]` := queries and keys of qkv `[N,(A+2K)D]`, each head normed if there are norms
    /// (scale `[N,A+K]` is left as by [`Device::rms_norm`]; unused otherwise), then rotated: with halves (a, b) of
    /// a head, cosines c and sines s of its position, (a·c - b·s, b·c + a·s).
    fn rotate(&mut self, rotated: Span, scale: Span, qkv: Span, rotation: &Rotation<'_>, heads: Heads);

    /// The gradient of [`Device::rotate`], in place in the query and key parts of dqkv `[N,(A+2K)D]`: on entry with
    /// respect to `rotated`, on return to `qkv`. `dnorms` (same `eps`) +=, if there are norms.
    fn rotate_backward(
        &mut self,
        dqkv: Span,
        dnorms: Option<HeadNorms>,
        scale: Span,
        qkv: Span,
        rotation: &Rotation<'_>,
        heads: Heads,
    );

    /// Numbers of workspace that attention over segments of up to `max_segment` tokens needs.
    fn attention_workspace(&self, max_segment: usize, heads: Heads) -> usize;

    /// Causal attention inside each segment. out `[N,AD]` := softmax(q · kᵀ / √D) · v; lse `[A,N]` := the
    /// logarithm of the softmax's sum, for the backward pass. Queries and keys come from `rotated`, values from `qkv`.
    fn attention(&mut self, io: &Attention<'_>);

    /// dqkv `[N,(A+2K)D]` := gradients with respect to rotated queries and keys, and values, for dout `[N,AD]` and
    /// what [`Device::attention`] read and left.
    fn attention_backward(&mut self, dqkv: Span, dout: Span, io: &Attention<'_>);

    /// Puts the keys (from rotated `[n,(A+K)D]`) and values (from qkv `[n,(A+2K)D]`) of each row at its place in the cache.
    fn cache_store(&mut self, cache: Cache, rotated: Span, qkv: Span, rows: CacheRows<'_>, heads: Heads);

    /// out `[n,AD]` := attention of each row's queries (from rotated `[n,(A+K)D]`) over its sequence's positions
    /// `0..=position`. A row's result does not depend on the other rows, but on whether one beside it is its neighbour in
    /// the same sequence (rows of a prompt may be computed by blocks).
    fn cache_attention(&mut self, out: Span, rotated: Span, cache: Cache, rows: CacheRows<'_>, heads: Heads);

    /// y `[N,I]` := silu(g) · u for rows (g, u) of gate_up `[N,2I]`.
    fn swiglu(&mut self, y: Span, gate_up: Span, intermediate: usize);

    /// In place: gate_up `[N,2I]` (g, u) becomes its gradient, and y `[N,I]`, which holds the gradient of
    /// [`Device::swiglu`]'s result, becomes that result.
    fn swiglu_backward(&mut self, y: Span, gate_up: Span, intermediate: usize);

    /// losses `[n]` := -log softmax(row of logits `[n,V]`) at its target; correct `[n]` := 1 where no logit is
    /// higher than the target's, else 0; `n` = `targets.len()`. With a `grad_scale`, logits become
    /// (softmax - one hot) · grad_scale; without, their content afterwards is unspecified.
    fn cross_entropy(&mut self, logits: Span, losses: Span, correct: Span, targets: &[u32], grad_scale: Option<f32>);

    /// Sum of the squares.
    fn sum_of_squares(&mut self, x: Span) -> Result<f64>;

    /// g' = g · grad_scale; m := β1 m + (1-β1) g'; v := β2 v + (1-β2) g'²;
    /// w := w · keep - step_size · m / (√v · second_correction + eps).
    fn adamw(&mut self, w: Span, g: Span, m: Span, v: Span, update: &AdamWUpdate);
}

/// Operands of attention; see [`Device::attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Result, `[N,AD]`.
    pub out: Span,
    /// Logarithm of each softmax's sum, `[A,N]`.
    pub lse: Span,
    /// Rotated queries and keys, `[N,(A+K)D]`.
    pub rotated: Span,
    /// Values are its last part, `[N,(A+2K)D]`.
    pub qkv: Span,
    /// Lengths of the segments; they sum to `N`.
    pub segments: &'a [usize],
    /// Sizes.
    pub heads: Heads,
    /// At least [`Device::attention_workspace`] numbers.
    pub workspace: Span,
}

/// What `auto` is on this machine; other names stand for themselves. With a driver it is the GPU, and whatever else is missing is
/// an error when it is opened: nobody should train on the processor without knowing.
#[must_use]
pub fn resolve(name: &str) -> &str {
    match name {
        "auto" if cuda::has_driver() => "cuda",
        "auto" => "cpu",
        _ => name,
    }
}

/// How operands of products are held on a device: `bf16` or `f32`.
#[must_use]
pub fn dtype(name: &str) -> &'static str {
    if resolve(name) == "cuda" { "bf16" } else { "f32" }
}

/// How a device holds a cache of keys and values ([`Device::cache_format`]), without opening it.
#[must_use]
pub fn cache_format(name: &str) -> CacheFormat {
    match resolve(name) {
        "cuda" => cuda::Precision::Bf16.cache_format(),
        "cuda-f32" => cuda::Precision::F32.cache_format(),
        #[cfg(test)]
        "emulated" => cuda::Precision::Bf16.cache_format(),
        #[cfg(test)]
        "emulated-f32" => cuda::Precision::F32.cache_format(),
        "reference" => reference::CACHE_FORMAT,
        _ => CacheFormat::CONTIGUOUS,
    }
}

/// Opens a device by name: `cpu`, `cuda`, `cuda-f32` or `reference`, or `auto`: `cuda` where the driver of an NVIDIA GPU is
/// installed, else `cpu`. `threads` 0 means all cores of the machine; a GPU takes no notice of it.
///
/// # Errors
/// An unknown name, threads that cannot be started, no GPU or something that its use needs.
pub fn open(name: &str, threads: usize) -> Result<Box<dyn Device>> {
    match name {
        "auto" if resolve(name) == "cuda" => {
            open("cuda", threads).context("open the GPU for `auto` (`cpu` uses the processor)")
        }
        "auto" | "cpu" => Ok(Box::new(cpu::Cpu::new(threads)?)),
        "cuda" => Ok(Box::new(cuda::Cuda::open(cuda::Precision::Bf16)?)),
        "cuda-f32" => Ok(Box::new(cuda::Cuda::open(cuda::Precision::F32)?)),
        "reference" => Ok(Box::new(reference::Reference::new())),
        #[cfg(test)]
        "emulated" => Ok(Box::new(cuda::Cuda::emulated(cuda::Precision::Bf16))),
        #[cfg(test)]
        "emulated-f32" => Ok(Box::new(cuda::Cuda::emulated(cuda::Precision::F32))),
        _ => bail!("unknown device `{name}`; known: auto, cpu, cuda, cuda-f32, reference"),
    }
}

impl NumberFormat {
    /// Bytes of one number.
    pub const fn size(self) -> usize {
        match self {
            NumberFormat::F32 => 4,
            NumberFormat::Bf16 => 2,
        }
    }
}

impl Span {
    /// Numbers of 32 bits.
    pub const fn f32(offset: usize, len: usize) -> Span {
        Span { offset, len, format: NumberFormat::F32 }
    }

    /// The range of an arena of f32 numbers.
    pub fn range(self) -> Range<usize> {
        assert!(self.format == NumberFormat::F32, "this device holds numbers of 32 bits");
        self.offset..self.offset + self.len
    }

    /// The whole span as a row-major matrix of rows of `cols` numbers.
    pub fn matrix(self, cols: usize) -> Matrix {
        assert!(cols > 0 && self.len.is_multiple_of(cols), "{} numbers are not rows of {cols}", self.len);
        Matrix {
            offset: self.offset,
            rows: self.len / cols,
            cols,
            row_stride: cols,
            col_stride: 1,
            format: self.format,
        }
    }

    /// The first `len` numbers.
    pub fn first(self, len: usize) -> Span {
        self.part(0, len)
    }

    /// `len` numbers from number `start` on.
    pub fn part(self, start: usize, len: usize) -> Span {
        assert!(start + len <= self.len, "{start} + {len} is beyond a span of {}", self.len);
        Span { offset: self.offset + start, len, ..self }
    }
}

impl Matrix {
    /// The transpose: the same numbers, rows and columns exchanged.
    pub fn transposed(self) -> Matrix {
        Matrix { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// `count` columns from column `start` on.
    pub fn columns(self, start: usize, count: usize) -> Matrix {
        assert!(start + count <= self.cols, "{start} + {count} is beyond {} columns", self.cols);
        Matrix { offset: self.offset + start * self.col_stride, cols: count, ..self }
    }

    /// The smallest span that holds all elements.
    pub fn span(self) -> Span {
        if self.rows == 0 || self.cols == 0 {
            return Span { offset: self.offset, len: 0, format: self.format };
        }
        let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
        Span { offset: self.offset, len: last + 1, format: self.format }
    }
}

impl Dropout {
    /// What number `index` is multiplied by: 0, or 1 / (1 - rate).
    pub(crate) fn factor(self, index: usize) -> f32 {
        let mut z = self.seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let uniform = ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32;
        if uniform < self.rate { 0.0 } else { 1.0 / (1.0 - self.rate) }
    }
}

impl Heads {
    /// Numbers in a row of queries: `AD`.
    pub fn query_width(self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Numbers in a row of keys, or of values: `KD`.
    pub fn kv_width(self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Numbers in a row of `rotated`: `(A+K)D`.
    pub fn rotated_width(self) -> usize {
        self.query_width() + self.kv_width()
    }

    /// Numbers in a row of `qkv`: `(A+2K)D`.
    pub fn qkv_width(self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }
}

#[cfg(test)]
mod tests;
