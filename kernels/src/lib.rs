//! Numbers only: devices, opaque buffers, and one folder per operation.
//!
//! Legend of every shape: **B** sequences of a batch, **T** tokens of all documents laid end to end, **N** chosen rows,
//! **H** query heads, **K** key/value heads, **D** width of one head, **F** width of the feed-forward layer,
//! **V** vocabulary, **d** width of the model. All matrices are row-major; `[T, d]` means T rows of d numbers.
//!
//! A contract takes a [`Stream`] and opaque views, never slices, so that a CPU and a GPU fit the same one; only the
//! `cpu.rs` beside each contract looks into memory, and only the `cuda.rs` beside it launches kernels of its `.cu`. Results do not depend on the number of threads: work is cut by
//! shape alone and every sum has one order.

mod accelerator;
pub mod adamw;
pub mod attention;
pub mod bias;
mod buffer;
pub mod columns;
mod cpu;
mod device;
pub mod dpo;
pub mod elementwise;
pub mod embedding;
mod failure;
pub mod gae;
pub mod head_norm;
pub mod logits;
pub mod logprob;
pub mod matmul;
pub mod norm;
pub mod philox;
pub mod ppo;
mod profile;
pub mod reduce;
pub mod rope;
pub mod rows;
pub mod sample;
mod shape;
pub mod swiglu;

pub use accelerator::cuda::Toolkit;
#[cfg(feature = "emulator")]
pub use accelerator::emulated::{Emulation, Schedule};
pub use accelerator::{Architecture, embedded, lock};
pub use buffer::{Buffer, Element, View, ViewMut};
pub use device::{Device, Precision, Stream};
pub use failure::{DeviceError, Version};
pub use matmul::{Layout, Prepared, Write, matmul, matmul_prepared};
pub use profile::Profile;
pub use shape::{Heads, Segments};
