//! How GGUF stores numbers, and how they become f32. Quantised types go by blocks of 32 numbers of one row.

use anyhow::{Result, bail};
use half::{bf16, f16};

/// A storage type that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Storage {
    F32,
    F16,
    Bf16,
    /// Scale d (f16), then 32 signed bytes q: d · q.
    Q8_0,
    /// Scale d (f16), then 32 halves of bytes q (low halves first): d · (q - 8).
    Q4_0,
    /// Scale d and minimum m (f16), then 32 halves of bytes q (low halves first): d · q + m.
    Q4_1,
}

impl Storage {
    /// The type of a code in the table of tensors; types that are not read are refused by name.
    pub fn from_code(code: u32) -> Result<Storage> {
        let refused = match code {
            0 => return Ok(Storage::F32),
            1 => return Ok(Storage::F16),
            2 => return Ok(Storage::Q4_0),
            3 => return Ok(Storage::Q4_1),
            8 => return Ok(Storage::Q8_0),
            30 => return Ok(Storage::Bf16),
            6 => "Q5_0",
            7 => "Q5_1",
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            12 => "Q4_K",
            13 => "Q5_K",
            14 => "Q6_K",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            other => bail!("unknown storage type {other}"),
        };
        bail!("storage type {refused} is not supported; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are")
    }

    /// Its name in llama.cpp.
    pub fn name(self) -> &'static str {
        match self {
            Storage::F32 => "F32",
            Storage::F16 => "F16",
            Storage::Bf16 => "BF16",
            Storage::Q8_0 => "Q8_0",
            Storage::Q4_0 => "Q4_0",
            Storage::Q4_1 => "Q4_1",
        }
    }

    /// Numbers in a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Storage::F32 => (1, 4),
            Storage::F16 | Storage::Bf16 => (1, 2),
            Storage::Q8_0 => (32, 34),
            Storage::Q4_0 => (32, 18),
            Storage::Q4_1 => (32, 20),
        }
    }

    /// The numbers that whole blocks hold.
    pub fn dequantise(self, bytes: &[u8]) -> Vec<f32> {
        let (block_len, block_bytes) = self.block();
        assert!(bytes.len().is_multiple_of(block_bytes), "the caller reads whole blocks");
        let mut values = Vec::with_capacity(bytes.len() / block_bytes * block_len);
        for block in bytes.chunks_exact(block_bytes) {
            match self {
                Storage::F32 => values.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                Storage::F16 => values.push(half_at(block, 0)),
                Storage::Bf16 => values.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                Storage::Q8_0 => {
                    let scale = half_at(block, 0);
                    values.extend(block[2..].iter().map(|&q| f32::from(q as i8) * scale));
                }
                Storage::Q4_0 => {
                    let scale = half_at(block, 0);
                    values.extend(halves(&block[2..]).map(|q| scale * (f32::from(q) - 8.0)));
                }
                Storage::Q4_1 => {
                    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
                    values.extend(halves(&block[4..]).map(|q| scale * f32::from(q) + minimum));
                }
            }
        }
        values
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// All low halves of the bytes, then all high ones.
fn halves(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}
