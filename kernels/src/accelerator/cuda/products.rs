//! Dense products by cuBLASLt, planned once a shape: the same algorithm and workspace each time, so the same bits.
//!
//! Ours are row-major, cuBLASLt's column-major: a row-major matrix is its own transpose there, so Cᵀ = op(B)ᵀ·op(A)ᵀ is asked
//! for, B first. Sums are f32, without TF32; factors are f32 or bf16.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreferenceAttributes_t as Wish,
};

use crate::accelerator::{Factor, Product};
use crate::{Layout, Precision, Write};

/// Values of cuBLAS's `cublasOperation_t`, which cuBLASLt takes as 32 bits.
const AS_IT_IS: i32 = 0;
const TRANSPOSED: i32 = 1;
/// What NVIDIA advises for Hopper; less on older ones costs nothing but the memory.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;
/// Beyond this cuBLASLt has no faster loads.
const ALIGNMENT_MAX: u64 = 256;

#[derive(Debug, Default)]
pub(super) struct Products {
    opened: Mutex<Opened>,
}

#[derive(Debug, Default)]
struct Opened {
    handle: Option<sys::cublasLtHandle_t>,
    /// An address on the device.
    workspace: Option<u64>,
    plans: HashMap<Key, Plan>,
}

/// All that the choice of an algorithm depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    is_half: bool,
    layout: Layout,
    shape: (usize, usize, usize),
    lines: (usize, usize),
    /// Bytes that the addresses of A, B and C are multiples of.
    alignments: [u64; 3],
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    c: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Key {
    fn of(product: &Product) -> Key {
        let Product { precision, layout, m, n, k, a, b, c, .. } = *product;
        let alignment = |address: u64| (1 << address.trailing_zeros()).min(ALIGNMENT_MAX);
        Key {
            is_half: precision == Precision::Bf16,
            layout,
            shape: (m, n, k),
            lines: (a.line, b.line),
            alignments: [a.address, b.address, c].map(alignment),
        }
    }
}

impl Products {
    /// The one workspace, allocated at first use.
    pub(super) fn workspace(&self, allocate: impl FnOnce(usize) -> u64) -> u64 {
        if let Some(workspace) = self.lock().workspace {
            return workspace;
        }
        let workspace = allocate(WORKSPACE_BYTES);
        *self.lock().workspace.insert(workspace)
    }

    /// # Errors
    /// What the library said.
    pub(super) fn compute(
        &self,
        product: &Product,
        workspace: u64,
        stream: cudarc::driver::sys::CUstream,
    ) -> Result<(), String> {
        let mut opened = self.lock();
        let handle = match opened.handle {
            Some(handle) => handle,
            None => *opened.handle.insert(result::create_handle().map_err(said)?),
        };
        let key = Key::of(product);
        let plan = match opened.plans.get(&key) {
            Some(&plan) => plan,
            None => Plan::new(handle, &key).map_err(said)?,
        };
        opened.plans.insert(key, plan);
        plan.run(handle, product, workspace, stream).map_err(said)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Opened> {
        self.opened.lock().expect("nothing panics inside")
    }

    /// Returns the workspace, which is to be freed.
    ///
    /// # Safety
    /// No product is running or asked for any more.
    pub(super) unsafe fn close(&self) -> Option<u64> {
        let mut opened = self.lock();
        for (_, plan) in opened.plans.drain() {
            // SAFETY: made by `Plan::new`, destroyed once.
            unsafe { plan.destroy() };
        }
        if let Some(handle) = opened.handle.take() {
            // SAFETY: made by `compute`, destroyed once.
            let _ = unsafe { result::destroy_handle(handle) };
        }
        opened.workspace.take()
    }
}

/// cuBLASLt's view of a factor, in its own column-major words: rows, columns, and whether it is used transposed.
fn factor_of_a(layout: Layout, (m, _, k): (usize, usize, usize)) -> (usize, usize, bool) {
    match layout {
        Layout::Nn | Layout::Nt => (k, m, false),
        Layout::Tn => (m, k, true),
    }
}

fn factor_of_b(layout: Layout, (_, n, k): (usize, usize, usize)) -> (usize, usize, bool) {
    match layout {
        Layout::Nn | Layout::Tn => (n, k, false),
        Layout::Nt => (k, n, true),
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, key: &Key) -> Result<Plan, CublasError> {
        let float = sys::cudaDataType_t::CUDA_R_32F;
        let of_factors = if key.is_half { sys::cudaDataType_t::CUDA_R_16BF } else { float };
        let (m, n, _) = key.shape;
        let product = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, float)?;
        let matrix = |(rows, columns, is_transposed): (usize, usize, bool), line: usize, first: Attribute| {
            set_operation(product, first, is_transposed)?;
            result::create_matrix_layout(of_factors, rows as u64, columns as u64, line as i64)
        };
        // Their first factor is our second.
        let b = matrix(factor_of_b(key.layout, key.shape), key.lines.1, Attribute::CUBLASLT_MATMUL_DESC_TRANSA)?;
        let a = matrix(factor_of_a(key.layout, key.shape), key.lines.0, Attribute::CUBLASLT_MATMUL_DESC_TRANSB)?;
        let c = result::create_matrix_layout(float, n as u64, m as u64, n as i64)?;
        let wishes = wishes(key)?;
        // SAFETY: all of these were made above.
        let found = unsafe { result::get_matmul_algo_heuristic(handle, product, b, a, c, c, wishes) };
        // SAFETY: made above, destroyed once.
        unsafe { result::destroy_matmul_pref(wishes) }?;
        Ok(Plan { product, a, b, c, algorithm: found?.algo })
    }

    fn run(
        &self,
        handle: sys::cublasLtHandle_t,
        product: &Product,
        workspace: u64,
        stream: cudarc::driver::sys::CUstream,
    ) -> Result<(), CublasError> {
        let alpha = 1.0f32;
        let beta = if product.write == Write::Accumulate { 1.0f32 } else { 0.0 };
        let at = |address: u64| address as *const c_void;
        let address = |factor: Factor| at(factor.address);
        // SAFETY: the contract checked the shapes against living views on this device; the plan is for this shape.
        unsafe {
            result::matmul(
                handle,
                self.product,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                address(product.b),
                self.b,
                address(product.a),
                self.a,
                at(product.c),
                self.c,
                product.c as *mut c_void,
                self.c,
                &raw const self.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
        }
    }

    /// # Safety
    /// It is not used any more.
    unsafe fn destroy(self) {
        // SAFETY: made by `new`, destroyed once.
        unsafe {
            let _ = result::destroy_matmul_desc(self.product);
            for matrix in [self.a, self.b, self.c] {
                let _ = result::destroy_matrix_layout(matrix);
            }
        }
    }
}

fn set_operation(product: sys::cublasLtMatmulDesc_t, which: Attribute, is_transposed: bool) -> Result<(), CublasError> {
    let operation = if is_transposed { TRANSPOSED } else { AS_IT_IS };
    // SAFETY: the description lives, and the attribute is an operation.
    unsafe { result::set_matmul_desc_attribute(product, which, (&raw const operation).cast(), size_of_val(&operation)) }
}

/// The workspace that there is, and how addresses are aligned: parts of a flat buffer may begin anywhere.
fn wishes(key: &Key) -> Result<sys::cublasLtMatmulPreference_t, CublasError> {
    let wishes = result::create_matmul_pref()?;
    let [a, b, c] = key.alignments.map(|alignment| alignment as u32);
    let workspace = WORKSPACE_BYTES as u64;
    let set = |which: Wish, value: *const c_void, bytes: usize| {
        // SAFETY: the wishes live, and the values have the attributes' widths: 64 bits for the workspace, 32 for alignments.
        unsafe { result::set_matmul_pref_attribute(wishes, which, value, bytes) }
    };
    set(Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), 8)?;
    set(Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (&raw const b).cast(), 4)?;
    set(Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (&raw const a).cast(), 4)?;
    set(Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (&raw const c).cast(), 4)?;
    set(Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (&raw const c).cast(), 4)?;
    Ok(wishes)
}

fn said(error: CublasError) -> String {
    format!("{:?}", error.0)
}
