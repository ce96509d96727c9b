//! What the device asks of a GPU: memory, copies, launches of kernels, products. Everything is done in the order of the calls.
//!
//! [`super::hardware`] is the one that runs; the tests have one that runs the kernels on the processor.

use crate::device::NumberFormat;
use anyhow::Result;
use std::ffi::c_void;

/// A place in the GPU's memory, in bytes.
pub(super) type Address = u64;

/// The calls.
pub(super) trait Driver: Send {
    /// Bytes of memory that are free, if the GPU tells.
    fn free_memory(&self) -> Option<u64>;

    /// Bytes of memory, all zero, that are kept until the driver goes.
    fn allocate(&mut self, bytes: usize) -> Result<Address>;

    /// Puts bytes there; they can be reused after the call.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()>;

    /// Waits for all that was asked for, then reads.
    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()>;

    /// `count` numbers := a pattern of bits.
    fn fill(&mut self, to: Address, pattern: Pattern, count: usize) -> Result<()>;

    /// Copies bytes on the GPU; the ranges do not overlap.
    fn copy(&mut self, to: Address, from: Address, bytes: usize) -> Result<()>;

    /// Runs a kernel.
    fn launch(&mut self, launch: &Launch<'_>) -> Result<()>;

    /// Runs a product.
    fn product(&mut self, product: &Product) -> Result<()>;

    /// Waits for all that was asked for.
    fn finish(&mut self) -> Result<()>;
}

/// What memory is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Half(u16),
    Word(u32),
}

/// One run of a kernel.
#[derive(Clone, Debug)]
pub(super) struct Launch<'a> {
    pub(super) kernel: &'a str,
    pub(super) grid: [u32; 3],
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory.
    pub(super) shared: u32,
    pub(super) arguments: &'a [Argument],
}

/// An argument of a kernel, as the kernels declare it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Argument {
    Address(Address),
    U32(u32),
    U64(u64),
    F32(f32),
    Heads(HeadSizes),
    Attention(AttentionSizes),
    Cache(CacheSizes),
    AdamW(AdamWNumbers),
}

/// `HeadSizes` in norms.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HeadSizes {
    pub(super) num_heads: u32,
    pub(super) num_kv_heads: u32,
    pub(super) head_dim: u32,
}

/// `AttentionSizes` in attention.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AttentionSizes {
    pub(super) heads: HeadSizes,
    pub(super) scale: f32,
    pub(super) rows: u64,
}

/// `CacheSizes` in cached.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CacheSizes {
    pub(super) heads: HeadSizes,
    pub(super) block_len: u32,
    pub(super) scale: f32,
}

/// `AdamWNumbers` in pointwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AdamWNumbers {
    pub(super) grad_scale: f32,
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) step_size: f32,
    pub(super) second_correction: f32,
    pub(super) eps: f32,
    pub(super) keep: f32,
}

/// A matrix in the GPU's memory: rows (or columns, when `by_columns`) of consecutive numbers, `stride` numbers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Operand {
    pub(super) address: Address,
    pub(super) format: NumberFormat,
    pub(super) stride: usize,
    pub(super) by_columns: bool,
}

/// c `[m,n]` := a `[m,k]` · b `[k,n]`, or += when `accumulate`; sums in f32. c is by rows; a and b have one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) a: Operand,
    pub(super) b: Operand,
    pub(super) c: Operand,
    pub(super) accumulate: bool,
}

impl Argument {
    /// Where its value stands.
    pub(super) fn pointer(&self) -> *mut c_void {
        let pointer: *const c_void = match self {
            Argument::Address(x) | Argument::U64(x) => std::ptr::from_ref(x).cast(),
            Argument::U32(x) => std::ptr::from_ref(x).cast(),
            Argument::F32(x) => std::ptr::from_ref(x).cast(),
            Argument::Heads(x) => std::ptr::from_ref(x).cast(),
            Argument::Attention(x) => std::ptr::from_ref(x).cast(),
            Argument::Cache(x) => std::ptr::from_ref(x).cast(),
            Argument::AdamW(x) => std::ptr::from_ref(x).cast(),
        };
        pointer.cast_mut()
    }
}
