//! An NVIDIA GPU: the arena in its memory, kernels of our own compiled when the device is opened, products by cuBLASLt.
//!
//! Two precisions. `cuda`: operands of products in bf16 (activations are held so, weights and residuals are f32 masters that are rounded
//! on their way into a product), sums, statistics, softmax, norms, loss and optimizer in f32. `cuda-f32`: everything in f32, products
//! too; slow, for comparing. Results do not depend on the order in which blocks run, so that equal calls give equal bits.
//!
//! The host only queues: nothing waits but [`Device::download`], [`Device::finish`] and [`Device::sum_of_squares`].

mod attention;
mod cached;
mod compiler;
mod driver;
mod hardware;
mod kernels;
mod lists;
mod norms;
mod plans;
mod products;
mod profile;
mod sums;

pub use compiler::keep_kernels_in;
pub use hardware::{Gpu, has_driver, missing};
pub use profile::{kernel_times, time_kernels};

use super::{
    AdamWUpdate, Attention, Cache, CacheFormat, CacheRows, Device, Dropout, HeadNorms, Heads, Matrix, NumberFormat,
    Room, Rotation, Span, WeightMatrix,
};
use anyhow::{Context, Result};
use driver::{AdamWNumbers, Address, Argument, Driver, HeadSizes, Launch, Pattern};
use lists::Lists;
use products::Conversions;

/// Threads of a block, but for kernels that say otherwise.
const THREADS: usize = 256;
/// Most blocks in the second and third direction of a grid.
const MOST_BLOCKS: usize = 65_535;
/// Most blocks for numbers in a row: enough to fill any GPU; kernels go on in strides.
const MOST_COLUMN_BLOCKS: usize = 1 << 16;
/// Bytes for partial sums.
const WORKSPACE_BYTES: usize = 64 << 20;
/// How products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// Operands in bf16, sums in f32.
    Bf16,
    /// All in f32.
    F32,
}

impl Precision {
    /// How keys and values are held: as the operands of products.
    pub(super) fn cache_format(self) -> CacheFormat {
        CacheFormat { numbers: self.operands(), is_paged: true }
    }

    fn operands(self) -> NumberFormat {
        match self {
            Precision::Bf16 => NumberFormat::Bf16,
            Precision::F32 => NumberFormat::F32,
        }
    }
}

/// The devices `cuda` and `cuda-f32`.
pub(super) struct Cuda {
    driver: Box<dyn Driver>,
    precision: Precision,
    arena: Address,
    /// For partial sums; see [`WORKSPACE_BYTES`].
    workspace: Address,
    lists: Lists,
    conversions: Conversions,
    /// The first call that went wrong since the last one that returned a `Result`.
    fault: Option<anyhow::Error>,
}

impl Cuda {
    /// The GPU of this machine.
    pub(super) fn open(precision: Precision) -> Result<Cuda> {
        Ok(Cuda::with_driver(Box::new(hardware::Hardware::open()?), precision))
    }

    fn with_driver(driver: Box<dyn Driver>, precision: Precision) -> Cuda {
        let (lists, conversions) = (Lists::default(), Conversions::default());
        Cuda { driver, precision, arena: 0, workspace: 0, lists, conversions, fault: None }
    }

    /// Notes a fault, to be told by the next call that can.
    fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.fault.get_or_insert(error);
        }
    }

    /// The fault that was noted.
    fn check(&mut self) -> Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }

    fn address(&self, span: Span) -> Address {
        self.arena + (span.offset * span.format.size()) as Address
    }

    fn at(&self, span: Span) -> Argument {
        Argument::Address(self.address(span))
    }

    /// A list of numbers in the GPU's memory.
    fn list(&mut self, numbers: &[u32]) -> Argument {
        match self.lists.put(&mut *self.driver, numbers) {
            Ok(address) => Argument::Address(address),
            Err(error) => {
                self.note(Err(error));
                Argument::Address(0)
            }
        }
    }

    fn launch(&mut self, kernel: &str, (grid, threads): ([usize; 3], usize), arguments: &[Argument]) {
        self.launch_with(kernel, (grid, threads, 0), arguments);
    }

    fn launch_with(
        &mut self,
        kernel: &str,
        (grid, threads, shared): ([usize; 3], usize, usize),
        arguments: &[Argument],
    ) {
        if self.fault.is_some() || grid.contains(&0) {
            return;
        }
        let grid = grid.map(|blocks| u32::try_from(blocks).expect("a grid of a layer's size"));
        let launch = Launch { kernel, grid, threads: threads as u32, shared: shared as u32, arguments };
        let result = self.driver.launch(&launch).with_context(|| format!("run kernel `{kernel}`"));
        self.note(result);
    }

    /// Whether kernels can treat eight numbers of these spans at once, in rows of `width`.
    fn is_wide(&self, spans: &[Span], width: usize) -> bool {
        width.is_multiple_of(8) && spans.iter().all(|span| self.address(*span).is_multiple_of(16))
    }

    /// Copies of what stood there before are of no use any more.
    fn written(&mut self, span: Span) {
        self.conversions.forget(span);
    }
}

/// `name_f32` or `name_bf16`.
fn by_format(name: &str, format: NumberFormat) -> String {
    match format {
        NumberFormat::F32 => format!("{name}_f32"),
        NumberFormat::Bf16 => format!("{name}_bf16"),
    }
}

/// Blocks for rows of `width` numbers, `each` of which a thread takes.
fn grid(rows: usize, width: usize, each: usize) -> ([usize; 3], usize) {
    ([width.div_ceil(THREADS * each).min(MOST_COLUMN_BLOCKS), rows.min(MOST_BLOCKS), 1], THREADS)
}

fn sizes(heads: Heads) -> HeadSizes {
    HeadSizes {
        num_heads: heads.num_heads as u32,
        num_kv_heads: heads.num_kv_heads as u32,
        head_dim: heads.head_dim as u32,
    }
}

impl Device for Cuda {
    fn name(&self) -> &'static str {
        match self.precision {
            Precision::Bf16 => "cuda",
            Precision::F32 => "cuda-f32",
        }
    }

    fn threads(&self) -> usize {
        1
    }

    fn reserve(&mut self, room: &Room) -> Result<()> {
        let bytes = self.bytes(room);
        (|| {
            self.arena = self.driver.allocate(room.len * 4)?;
            self.workspace = self.driver.allocate(WORKSPACE_BYTES)?;
            self.lists.allocate(&mut *self.driver)?;
            self.conversions.allocate(&mut *self.driver, self.precision, room)
        })()
        .with_context(|| format!("reserve {} MB of the GPU's memory", bytes / 1_000_000))
    }

    fn bytes(&self, room: &Room) -> u64 {
        let fixed = WORKSPACE_BYTES + lists::BYTES + hardware::PRODUCT_WORKSPACE_BYTES;
        (room.len * 4 + fixed + Conversions::bytes(self.precision, room)) as u64
    }

    fn free_memory(&self) -> Option<u64> {
        self.driver.free_memory()
    }

    fn activation_format(&self) -> NumberFormat {
        self.precision.operands()
    }

    fn cache_format(&self) -> CacheFormat {
        self.precision.cache_format()
    }

    fn logits_block(&self) -> usize {
        1 << 28
    }

    fn run(&mut self, work: &mut (dyn FnMut(&mut dyn Device) + Send)) {
        work(self);
    }

    fn finish(&mut self) -> Result<()> {
        self.check()?;
        self.driver.finish()
    }

    fn upload(&mut self, dst: Span, values: &[f32]) -> Result<()> {
        assert_eq!(dst.len, values.len(), "as many numbers as places");
        self.check()?;
        self.written(dst);
        let bytes: Vec<u8> = match dst.format {
            NumberFormat::F32 => return self.driver.upload(self.address(dst), bytes_of(values)),
            NumberFormat::Bf16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        };
        self.driver.upload(self.address(dst), &bytes)
    }

    fn download(&mut self, src: Span, values: &mut [f32]) -> Result<()> {
        assert_eq!(src.len, values.len(), "as many numbers as places");
        self.check()?;
        let mut bytes = vec![0; src.len * src.format.size()];
        self.driver.download(self.address(src), &mut bytes)?;
        match src.format {
            NumberFormat::F32 => {
                for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value = f32::from_le_bytes(bytes.try_into().expect("four bytes"));
                }
            }
            NumberFormat::Bf16 => {
                for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = half::bf16::from_le_bytes(bytes.try_into().expect("two bytes")).to_f32();
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, dst: Span, value: f32) {
        let pattern = match dst.format {
            NumberFormat::F32 => Pattern::Word(value.to_bits()),
            NumberFormat::Bf16 => Pattern::Half(half::bf16::from_f32(value).to_bits()),
        };
        let result = self.driver.fill(self.address(dst), pattern, dst.len);
        self.note(result);
        self.written(dst);
    }

    fn copy(&mut self, dst: Span, src: Span) {
        assert!(dst.len == src.len && dst.format == src.format, "a copy changes nothing");
        let result = self.driver.copy(self.address(dst), self.address(src), dst.len * dst.format.size());
        self.note(result);
        self.written(dst);
    }

    fn scale(&mut self, x: Span, factor: f32) {
        let wide = self.is_wide(&[x], x.len);
        let arguments = [self.at(x), Argument::F32(factor), Argument::U64(x.len as u64), Argument::U32(wide.into())];
        self.launch(&by_format("scale", x.format), grid(1, x.len, if wide { 8 } else { 1 }), &arguments);
        self.written(x);
    }

    fn dropout(&mut self, y: Span, x: Span, dropout: Dropout, accumulate: bool) {
        assert!(y.len == x.len && y.format == x.format, "dropout keeps lengths and formats");
        let arguments = [
            self.at(y),
            self.at(x),
            Argument::U64(dropout.seed),
            Argument::F32(dropout.rate),
            Argument::F32(1.0 / (1.0 - dropout.rate)),
            Argument::U32(accumulate.into()),
            Argument::U64(x.len as u64),
        ];
        self.launch(&by_format("dropout", x.format), grid(1, x.len, 1), &arguments);
        self.written(y);
    }

    fn matmul(&mut self, c: Matrix, a: Matrix, b: Matrix, accumulate: bool) {
        let result = self.multiply(c, a, b, accumulate).context("run a product");
        self.note(result);
        self.written(c.span());
    }

    fn store_weights(&mut self, w: WeightMatrix, first_row: usize, values: &[f32]) -> Result<()> {
        self.check()?;
        self.written(w.span);
        self.store(w, first_row, values)
    }

    fn gather_weights(&mut self, y: Span, w: WeightMatrix, rows: &[u32]) {
        self.take_rows(y, w, rows);
    }

    fn linear(&mut self, y: Matrix, x: Matrix, w: WeightMatrix, accumulate: bool) {
        let result = self.multiply_weights(y, x, w, accumulate).context("run a product with weights");
        self.note(result);
        self.written(y.span());
    }

    fn linear_by_row(&mut self, y: Matrix, x: Matrix, w: WeightMatrix) {
        self.multiply_by_row(y, x, w);
    }

    fn gather_rows(&mut self, y: Span, x: Span, rows: &[u32]) {
        assert!(y.format == x.format, "rows keep their format");
        let (n, width) = (rows.len(), y.len / rows.len().max(1));
        let list = self.list(rows);
        let arguments = [self.at(y), self.at(x), list, Argument::U64(n as u64), Argument::U64(width as u64)];
        self.launch(&by_format("gather_rows", x.format), grid(n, width, 1), &arguments);
        self.written(y);
    }

    fn scatter_add_rows(&mut self, x: Span, y: Span, rows: &[u32]) {
        assert_f32(&[x, y]);
        let width = y.len / rows.len().max(1);
        let groups = lists::Groups::of(rows);
        let [targets, starts, order] = [&groups.targets, &groups.starts, &groups.order].map(|list| self.list(list));
        let n = groups.targets.len();
        let (n_argument, width_argument) = (Argument::U64(n as u64), Argument::U64(width as u64));
        let arguments = [self.at(x), self.at(y), targets, starts, order, n_argument, width_argument];
        self.launch("scatter_add_rows", grid(n, width, 1), &arguments);
        self.written(x);
    }

    fn add_bias(&mut self, y: Span, bias: Span) {
        assert_f32(&[bias]);
        let (rows, width) = (y.len / bias.len.max(1), bias.len);
        let arguments = [self.at(y), self.at(bias), Argument::U64(rows as u64), Argument::U64(width as u64)];
        self.launch(&by_format("add_bias", y.format), grid(rows, width, 1), &arguments);
        self.written(y);
    }

    fn add_bias_backward(&mut self, dbias: Span, dy: Span) {
        assert_f32(&[dbias]);
        let inputs = [self.at(dy)];
        self.sum_of_rows(&by_format("column_sums", dy.format), dbias, dy.len / dbias.len.max(1), &inputs);
    }

    fn rms_norm(&mut self, y: Span, scale: Span, x: Span, w: Span, eps: f32) {
        self.norm(y, scale, x, w, Some(eps));
    }

    fn rms_norm_again(&mut self, y: Span, scale: Span, x: Span, w: Span) {
        self.norm(y, scale, x, w, None);
    }

    fn rms_norm_backward(&mut self, dx: Span, dw: Span, dy: Span, scale: Span, x: Span, w: Span) {
        self.norm_gradients([dx, dw], dy, scale, x, w);
    }

    fn rotate(&mut self, rotated: Span, scale: Span, qkv: Span, rotation: &Rotation<'_>, heads: Heads) {
        self.rotate_heads(rotated, scale, qkv, rotation, heads);
    }

    fn rotate_backward(
        &mut self,
        dqkv: Span,
        dnorms: Option<HeadNorms>,
        scale: Span,
        qkv: Span,
        rotation: &Rotation<'_>,
        heads: Heads,
    ) {
        self.rotate_gradients((dqkv, dnorms), scale, qkv, rotation, heads);
    }

    fn attention_workspace(&self, _max_segment: usize, _heads: Heads) -> usize {
        0
    }

    fn attention(&mut self, io: &Attention<'_>) {
        self.attention_forward(io);
    }

    fn attention_backward(&mut self, dqkv: Span, dout: Span, io: &Attention<'_>) {
        self.attention_gradients(dqkv, dout, io);
    }

    fn cache_store(&mut self, cache: Cache, rotated: Span, qkv: Span, rows: CacheRows<'_>, heads: Heads) {
        self.store_in_cache(cache, rotated, qkv, rows, heads);
    }

    fn cache_attention(&mut self, out: Span, rotated: Span, cache: Cache, rows: CacheRows<'_>, heads: Heads) {
        self.attend_to_cache(out, rotated, cache, rows, heads);
    }

    fn swiglu(&mut self, y: Span, gate_up: Span, intermediate: usize) {
        self.swiglu_kernel("swiglu", y, gate_up, intermediate);
    }

    fn swiglu_backward(&mut self, y: Span, gate_up: Span, intermediate: usize) {
        self.swiglu_kernel("swiglu_backward", y, gate_up, intermediate);
        self.written(gate_up);
    }

    fn cross_entropy(&mut self, logits: Span, losses: Span, correct: Span, targets: &[u32], grad_scale: Option<f32>) {
        assert_f32(&[losses, correct]);
        let width = logits.len / targets.len().max(1);
        let wide = self.is_wide(&[logits], width);
        let list = self.list(targets);
        let arguments = [
            self.at(logits),
            self.at(losses),
            self.at(correct),
            list,
            Argument::U64(width as u64),
            Argument::F32(grad_scale.unwrap_or(0.0)),
            Argument::U32(grad_scale.is_some().into()),
            Argument::U32(wide.into()),
        ];
        let threads = width.div_ceil(8).next_multiple_of(32).min(1024);
        self.launch(&by_format("cross_entropy", logits.format), ([targets.len(), 1, 1], threads), &arguments);
        self.written(logits);
    }

    fn sum_of_squares(&mut self, x: Span) -> Result<f64> {
        self.squares(x)
    }

    fn adamw(&mut self, w: Span, g: Span, m: Span, v: Span, update: &AdamWUpdate) {
        assert_f32(&[w, g, m, v]);
        let AdamWUpdate { grad_scale, beta1, beta2, step_size, second_correction, eps, keep } = *update;
        let numbers = AdamWNumbers { grad_scale, beta1, beta2, step_size, second_correction, eps, keep };
        // What does not fill an access of eight numbers goes number by number.
        let wide_len = if self.is_wide(&[w, g, m, v], 8) { w.len / 8 * 8 } else { 0 };
        for (start, len, wide) in [(0, wide_len, true), (wide_len, w.len - wide_len, false)] {
            let [w, g, m, v] = [w, g, m, v].map(|span| self.at(span.part(start, len)));
            let (len_argument, wide_argument) = (Argument::U64(len as u64), Argument::U32(wide.into()));
            let arguments = [w, g, m, v, Argument::AdamW(numbers), len_argument, wide_argument];
            self.launch("adamw", grid(1, len, if wide { 8 } else { 1 }), &arguments);
        }
        self.written(w);
        self.written(m);
        self.written(v);
    }
}

impl Cuda {
    fn swiglu_kernel(&mut self, kernel: &str, y: Span, gate_up: Span, intermediate: usize) {
        assert!(y.format == gate_up.format, "activations of one format");
        let rows = y.len / intermediate;
        let wide = self.is_wide(&[y, gate_up], intermediate);
        let (n, i) = (Argument::U64(rows as u64), Argument::U64(intermediate as u64));
        let arguments = [self.at(y), self.at(gate_up), n, i, Argument::U32(wide.into())];
        let grid = grid(rows, intermediate, if wide { 8 } else { 1 });
        self.launch(&by_format(kernel, y.format), grid, &arguments);
        self.written(y);
    }
}

fn assert_f32(spans: &[Span]) {
    assert!(spans.iter().all(|span| span.format == NumberFormat::F32), "these operands are held in 32 bits");
}

fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: every byte of a number is a byte.
    #[expect(unsafe_code, reason = "numbers are copied as bytes")]
    unsafe {
        values.align_to::<u8>().1
    }
}

#[cfg(test)]
mod emulated;
#[cfg(test)]
mod tests;
