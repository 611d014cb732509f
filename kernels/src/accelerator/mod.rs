//! What an accelerator does for the operations: memory, copies, launches and dense products, in the order of the calls.
//!
//! Two exist: [`cuda`] drives an NVIDIA GPU, `emulated` (cargo feature `emulator`) runs the same `.cu` files on the CPU.
//! An operation's `cuda.rs` packs arguments and launches [`Kernel`]s; nothing else knows which of the two it feeds.
//! What goes wrong in the middle of work unwinds with a [`DeviceError`], which [`crate::attempt`] turns into a `Result`.

#[cfg(feature = "emulator")]
pub(crate) mod emulated;
mod launch;
mod packs;
pub(crate) mod registry;
pub(crate) mod transfer;

pub(crate) use launch::{Argument, Grid, Kernel, Source, arguments};
pub(crate) use packs::{PACKS, Pack, PackedKernel, narrow};
pub(crate) use transfer::Pattern;

use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::matmul::{Layout, Write};

/// What kernels are compiled for: `80` for sm_80, `90` for sm_90a, `100` for sm_100a.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture(pub u32);

impl Architecture {
    /// Ampere: `mma.sync` and `cp.async`, which everything later has too.
    pub const AMPERE: Architecture = Architecture(80);
    /// Hopper, the only one with `wgmma`.
    pub const HOPPER: Architecture = Architecture(90);

    /// Whether `wgmma` and its way to shared memory are there.
    pub(crate) fn has_warpgroup_products(self) -> bool {
        self == Architecture::HOPPER
    }
}

/// Where memory lives: the host, or one accelerator of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

impl Place {
    pub(crate) const HOST: Place = Place(0);

    /// A place that nobody has yet.
    pub(crate) fn unused() -> Place {
        static LAST: AtomicU32 = AtomicU32::new(0);
        Place(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// A dense product C`[m, n]` (= | +=) op(A)·op(B) as the contract checked it; addresses of f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub layout: Layout,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: u64,
    pub b: u64,
    pub write: Write,
    pub c: u64,
}

/// Parts of a row-major matrix that the tensor memory accelerator copies to shared memory, and how it lays them there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorMapShape {
    /// The first element, 16-byte aligned.
    pub address: u64,
    pub rows: u64,
    /// Elements (bf16) of a row.
    pub columns: u64,
    /// From one row's first byte to the next one's, a multiple of 16.
    pub stride_bytes: u64,
    pub box_rows: u32,
    /// 64 elements at most: one row of the 128-byte swizzle.
    pub box_columns: u32,
}

/// The descriptor that a kernel takes by value, as `const __grid_constant__ TensorMap`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct TensorMap(pub [u64; 16]);

/// One ordered queue of work on memory of its own. Addresses are the accelerator's.
pub(crate) trait Accelerator: Send + Sync + Debug {
    /// As the command line spells it.
    fn name(&self) -> String;

    fn place(&self) -> Place;

    fn architecture(&self) -> Architecture;

    /// Memory of unspecified content, aligned to 256 bytes; at least one byte is asked for.
    fn allocate(&self, bytes: usize) -> u64;

    /// Gives back what [`Accelerator::allocate`] gave, once the work before has ended.
    fn free(&self, address: u64, bytes: usize);

    /// Writes the pattern `count` times.
    fn fill(&self, address: u64, pattern: Pattern, count: usize);

    fn upload(&self, source: &[u8], target: u64);

    /// Waits for all work before.
    fn download(&self, source: u64, target: &mut [u8]);

    fn copy(&self, source: u64, target: u64, bytes: usize);

    /// Puts a launch on the queue; arguments in the order of the kernel's parameters.
    fn launch(&self, kernel: &'static Kernel, grid: Grid, arguments: &mut [Argument]);

    fn tensor_map(&self, shape: TensorMapShape) -> TensorMap;

    fn synchronize(&self);

    /// How often each kernel was launched so far, by name.
    fn launches(&self) -> Vec<(&'static str, u64)>;
}
