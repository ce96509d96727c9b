//! How cuBLASLt computes products: found once for each shape.

use super::driver::{Operand, Product};
use super::hardware::PRODUCT_WORKSPACE_BYTES;
use crate::device::NumberFormat;
use anyhow::{Context, Result};
use cudarc::cublaslt::{result as blas, sys as blas_sys};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;

/// Shapes of products whose way of computing is remembered.
const MOST_PLANS: usize = 4096;

/// The plans so far.
#[derive(Default)]
pub(super) struct Plans {
    plans: HashMap<Shape, Plan>,
}

/// What decides how a product is computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    sizes: [usize; 3],
    /// Format, stride, by columns, alignment of a, b and c.
    operands: [(NumberFormat, usize, bool, u32); 3],
    accumulate: bool,
}

/// How a product is computed.
pub(super) struct Plan {
    pub(super) description: blas_sys::cublasLtMatmulDesc_t,
    /// Of b, a and c.
    pub(super) layouts: [blas_sys::cublasLtMatrixLayout_t; 3],
    pub(super) algorithm: blas_sys::cublasLtMatmulAlgo_t,
}

impl Plans {
    /// The plan of a product, made now if it is the first of its shape.
    pub(super) fn of(&mut self, handle: blas_sys::cublasLtHandle_t, product: &Product) -> Result<&Plan> {
        let aligned = |operand: Operand| 1 << operand.address.trailing_zeros().min(8);
        let key = |o: Operand| (o.format, o.stride, o.by_columns, aligned(o));
        let shape = Shape {
            sizes: [product.m, product.n, product.k],
            operands: [key(product.a), key(product.b), key(product.c)],
            accumulate: product.accumulate,
        };
        if self.plans.len() >= MOST_PLANS {
            self.plans.clear();
        }
        match self.plans.entry(shape) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                let plan = Plan::new(handle, product, shape.operands.map(|operand| operand.3))
                    .with_context(|| format!("plan a product of {} x {} x {}", product.m, product.n, product.k))?;
                Ok(place.insert(plan))
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.plans.clear();
    }
}

impl Plan {
    /// cuBLASLt counts by columns: it computes the transposes, cᵀ := bᵀ · aᵀ.
    fn new(handle: blas_sys::cublasLtHandle_t, product: &Product, alignments: [u32; 3]) -> Result<Plan> {
        use blas_sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        use blas_sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let Product { m, n, k, a, b, c, .. } = *product;
        let description = blas::create_matmul_desc(
            blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas_sys::cudaDataType::CUDA_R_32F,
        )?;
        let layout = |operand: Operand, rows: usize, cols: usize| {
            // By rows, `rows` x `cols` is `cols` x `rows` by columns.
            let (first, second) = if operand.by_columns { (rows, cols) } else { (cols, rows) };
            blas::create_matrix_layout(data_type(operand.format), first as u64, second as u64, operand.stride as i64)
        };
        let mut plan = Plan {
            description,
            layouts: [layout(b, k, n)?, layout(a, m, k)?, layout(c, m, n)?],
            algorithm: blas_sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        #[expect(unsafe_code, reason = "cuBLASLt's functions")]
        // SAFETY: handles are live; each attribute is given with its own type's size.
        unsafe {
            for (attribute, operand) in [(CUBLASLT_MATMUL_DESC_TRANSA, b), (CUBLASLT_MATMUL_DESC_TRANSB, a)] {
                // cublasOperation_t: 0 takes the matrix as it is, 1 its transpose.
                let operation = i32::from(operand.by_columns);
                let value = std::ptr::from_ref(&operation).cast();
                blas::set_matmul_desc_attribute(plan.description, attribute, value, size_of_val(&operation))?;
            }
            let preference = blas::create_matmul_pref()?;
            let set = |attribute, value: *const c_void, size| {
                blas::set_matmul_pref_attribute(preference, attribute, value, size)
            };
            let workspace = PRODUCT_WORKSPACE_BYTES;
            set(
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                std::ptr::from_ref(&workspace).cast(),
                size_of::<usize>(),
            )?;
            let [of_a, of_b, of_c] = alignments;
            for (attribute, alignment) in [
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_b),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_a),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_c),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_c),
            ] {
                set(attribute, std::ptr::from_ref(&alignment).cast(), size_of::<u32>())?;
            }
            let [first, second, result] = plan.layouts;
            let found = blas::get_matmul_algo_heuristic(handle, description, first, second, result, result, preference);
            blas::destroy_matmul_pref(preference)?;
            plan.algorithm = found?.algo;
        }
        Ok(plan)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "cuBLASLt's functions")]
        // SAFETY: each was made once.
        unsafe {
            let _ = blas::destroy_matmul_desc(self.description);
            for layout in self.layouts {
                let _ = blas::destroy_matrix_layout(layout);
            }
        }
    }
}

fn data_type(format: NumberFormat) -> blas_sys::cudaDataType {
    match format {
        NumberFormat::F32 => blas_sys::cudaDataType::CUDA_R_32F,
        NumberFormat::Bf16 => blas_sys::cudaDataType::CUDA_R_16BF,
    }
}
