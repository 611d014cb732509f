//! What the CPU twins share: tasks cut by shape, scratch memory, vector loops and the matrix-product tile.

pub(crate) mod gemm;
pub(crate) mod parallel;
pub(crate) mod scratch;
pub(crate) mod simd;
pub(crate) mod softmax;
pub(crate) mod sums;
pub(crate) mod transpose;
pub(crate) mod vector;
