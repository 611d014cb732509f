//! What an accelerator does for the operations: memory, copies, launches and dense products, in the order of the calls.
//!
//! Two exist: `cuda` drives an NVIDIA GPU, `emulated` (cargo feature `emulator`) runs the same `.cu` files on the CPU.
//! An operation's `cuda.rs` packs arguments and launches [`Kernel`]s; nothing else knows which of the two it feeds.
//! What goes wrong in the middle of work unwinds with a [`crate::DeviceError`].

mod cubins;
pub(crate) mod cuda;
pub mod embedded;
#[cfg(feature = "emulator")]
pub(crate) mod emulated;
mod launch;
mod libraries;
pub mod lock;
mod nvrtc;
mod packs;
pub(crate) mod registry;
pub(crate) mod transfer;
pub(crate) mod workspaces;

pub(crate) use launch::{Argument, Grid, Kernel, Source, arguments};
pub(crate) use packs::{PACKS, PHILOX, Pack, PackedKernel, narrow};
pub(crate) use transfer::Pattern;
use workspaces::Workspaces;

use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Precision;
use crate::matmul::{Layout, Write};

/// What kernels are compiled for: `80` for sm_80, `90` for sm_90a, `100` for sm_100a.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture(pub u32);

/// What kernels are held to: the generations that take different ways, and the newest.
pub(crate) const ARCHITECTURES: [Architecture; 3] = [Architecture(80), Architecture(90), Architecture(100)];

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

impl std::fmt::Display for Architecture {
    /// As compilers spell it: with what only this generation has, where that is much.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let own = if matches!(self.0, 90 | 100) { "a" } else { "" };
        write!(f, "sm_{}{own}", self.0)
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

/// A factor of a product: its address, and elements from one line in memory to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor {
    pub address: u64,
    pub line: usize,
}

/// A dense product C`[m, n]` (= | +=) op(A)·op(B) as the contract checked it; C is f32 without gaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// What the factors are in memory.
    pub precision: Precision,
    pub layout: Layout,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Factor,
    pub b: Factor,
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

/// Bytes of an accelerator's buffers: how many there are, and the most there were.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    now: AtomicU64,
    most: AtomicU64,
}

impl Tally {
    pub(crate) fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.now.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

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

    /// What buffers take; they count themselves.
    fn tally(&self) -> &Tally;

    /// What operations need while they run.
    fn workspaces(&self) -> &Workspaces;

    /// Bytes that the vendor's library keeps beside buffers.
    fn library_bytes(&self) -> usize {
        0
    }

    /// Bytes behind a piece of memory that show whether a kernel wrote past its end. A GPU has none.
    fn fence_bytes(&self) -> usize {
        0
    }

    fn put_fence(&self, _address: u64) {}

    /// Panics where something was written behind a buffer of so many bytes.
    fn check_fence(&self, _address: u64, _bytes: usize) {}

    /// Writes the pattern `count` times.
    fn fill(&self, address: u64, pattern: Pattern, count: usize);

    fn upload(&self, source: &[u8], target: u64);

    /// Waits for all work before.
    fn download(&self, source: u64, target: &mut [u8]);

    fn copy(&self, source: u64, target: u64, bytes: usize);

    /// Puts a launch on the queue; arguments in the order of the kernel's parameters.
    fn launch(&self, kernel: &'static Kernel, grid: Grid, arguments: &mut [Argument]);

    /// Computes a product with the vendor's library; `false` where there is none, and a kernel must do it.
    fn product(&self, product: &Product) -> bool;

    fn tensor_map(&self, shape: TensorMapShape) -> TensorMap;

    fn synchronize(&self);

    /// Bytes that can still be allocated, where that is known.
    fn memory_free(&self) -> Option<u64>;

    /// Seconds that the device takes for what `work` puts on the queue.
    fn timed(&self, work: &mut dyn FnMut()) -> f64;

    /// How often each kernel was launched so far, by name.
    fn launches(&self) -> Vec<(&'static str, u64)>;
}
