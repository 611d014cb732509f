//! Kernels and how they are launched: `ADD.launch(stream, Grid::over(len, 256), arguments![source, target, len])`.

use std::ffi::c_void;

use super::{Architecture, Place, TensorMap};
use crate::{Element, Stream, View, ViewMut};

/// One `.cu` file, a translation unit of its own behind the shared vocabulary.
#[derive(Debug)]
pub(crate) struct Source {
    /// The file's name without `.cu`.
    pub name: &'static str,
    pub text: &'static str,
    /// What it includes: the name between the quotes, and the text.
    pub headers: &'static [(&'static str, &'static str)],
    /// Whether it needs `wgmma`, so compiles for sm_90a alone.
    pub is_hopper_only: bool,
}

impl Source {
    /// A file that compiles for every architecture.
    pub(crate) const fn new(name: &'static str, text: &'static str) -> Source {
        Source { name, text, headers: &[], is_hopper_only: false }
    }

    /// The same with what `#include "…"` finds.
    pub(crate) const fn including(self, headers: &'static [(&'static str, &'static str)]) -> Source {
        Source { headers, ..self }
    }

    /// Whether it is for this architecture at all.
    pub(crate) fn compiles_for(&self, architecture: Architecture) -> bool {
        !self.is_hopper_only || architecture.has_warpgroup_products()
    }

    /// The same for sm_90a alone.
    pub(crate) const fn hopper_only(self) -> Source {
        Source { is_hopper_only: true, ..self }
    }
}

/// One `extern "C" __global__` function of a source.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub source: &'static Source,
    /// The function's name, unlike any other kernel's.
    pub name: &'static str,
}

impl Kernel {
    pub(crate) const fn new(source: &'static Source, name: &'static str) -> Kernel {
        Kernel { source, name }
    }

    /// Puts the kernel on the stream. Where nothing is to be done (a grid without blocks), nothing is.
    pub(crate) fn launch<const N: usize>(&'static self, stream: &Stream, grid: Grid, mut arguments: [Argument; N]) {
        let accelerator = stream.accelerator().expect("cuda.rs is for accelerators");
        for argument in &arguments {
            argument.check_place(accelerator.place(), self.name);
        }
        if grid.blocks.iter().all(|&blocks| blocks > 0) {
            accelerator.launch(self, grid, &mut arguments);
        }
    }
}

/// Blocks, threads of a block, and bytes of dynamic shared memory of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub blocks: [u32; 3],
    /// A multiple of 32.
    pub threads: u32,
    pub shared_bytes: u32,
}

impl Grid {
    /// Enough blocks that each item has a thread.
    pub(crate) fn over(items: usize, threads: u32) -> Grid {
        Grid::blocks(items.div_ceil(threads as usize), threads)
    }

    /// So many blocks in a row.
    pub(crate) fn blocks(blocks: usize, threads: u32) -> Grid {
        Grid::cube([blocks, 1, 1], threads)
    }

    /// Blocks in x, y and z. Only x may pass 65,535.
    pub(crate) fn cube(blocks: [usize; 3], threads: u32) -> Grid {
        let limits = [i32::MAX as usize, 65_535, 65_535];
        assert!(blocks.iter().zip(limits).all(|(&blocks, limit)| blocks <= limit), "a grid of {blocks:?} is too large");
        assert!(threads.is_multiple_of(32) && (32..=1024).contains(&threads), "blocks of {threads} threads");
        Grid { blocks: blocks.map(|blocks| blocks as u32), threads, shared_bytes: 0 }
    }

    /// The same with dynamic shared memory.
    pub(crate) fn shared(self, bytes: usize) -> Grid {
        Grid { shared_bytes: u32::try_from(bytes).expect("shared memory is small"), ..self }
    }
}

/// One parameter's value: what the kernel's C++ type has, bit for bit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// `const T*` or `T*`; none is a null pointer.
    Address(u64, Place),
    /// `u32` (also `bool` as 0 or 1).
    U32(u32),
    U64(u64),
    F32(f32),
    TensorMap(TensorMap),
}

impl Argument {
    /// Where the value lies, for the `void**` of a launch.
    pub(crate) fn pointer(&mut self) -> *mut c_void {
        match self {
            Argument::Address(value, _) | Argument::U64(value) => std::ptr::from_mut(value).cast(),
            Argument::U32(value) => std::ptr::from_mut(value).cast(),
            Argument::F32(value) => std::ptr::from_mut(value).cast(),
            Argument::TensorMap(value) => std::ptr::from_mut(value).cast(),
        }
    }

    /// Bytes of the value, to be held against the parameter's type.
    pub(crate) fn bytes(&self) -> u32 {
        match self {
            Argument::Address(..) | Argument::U64(_) => 8,
            Argument::U32(_) | Argument::F32(_) => 4,
            Argument::TensorMap(_) => size_of::<TensorMap>() as u32,
        }
    }

    fn check_place(&self, here: Place, kernel: &str) {
        if let Argument::Address(address, place) = self {
            assert!(*address == 0 || *place == here, "`{kernel}` was given memory of another device");
        }
    }
}

impl<T: Element> From<View<'_, T>> for Argument {
    fn from(view: View<'_, T>) -> Argument {
        Argument::Address(view.address(), view.place())
    }
}

impl<T: Element> From<ViewMut<'_, T>> for Argument {
    fn from(view: ViewMut<'_, T>) -> Argument {
        Argument::Address(view.view().address(), view.view().place())
    }
}

impl<V: Into<Argument>> From<Option<V>> for Argument {
    fn from(view: Option<V>) -> Argument {
        view.map_or(Argument::Address(0, Place::HOST), Into::into)
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Argument {
        Argument::U32(value)
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Argument {
        Argument::U32(value.into())
    }
}

/// Sizes are 64 bits wide in every kernel.
impl From<usize> for Argument {
    fn from(value: usize) -> Argument {
        Argument::U64(value as u64)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Argument {
        Argument::U64(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Argument {
        Argument::F32(value)
    }
}

impl From<TensorMap> for Argument {
    fn from(value: TensorMap) -> Argument {
        Argument::TensorMap(value)
    }
}

/// `arguments![source, target, len]`: values of a launch, each with the width of its Rust type (`u32` and `f32` 4 bytes, `u64`,
/// `usize` and views 8).
macro_rules! arguments {
    ($($value:expr),* $(,)?) => { [$($crate::accelerator::Argument::from($value)),*] };
}

pub(crate) use arguments;
