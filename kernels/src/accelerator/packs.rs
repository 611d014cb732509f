//! The host's side of `packs.cuh`: when rows can be read four numbers at once, and grids that cover them.

use super::{Grid, Kernel, Source};

/// For [`Source::including`].
pub(crate) const PACKS: (&str, &str) = ("packs.cuh", include_str!("packs.cuh"));

/// Threads of a block whose kernel says nothing else.
const THREADS: usize = 256;
/// Numbers of one 128-bit access.
const PACK: usize = 4;

pub(crate) const PHILOX: (&str, &str) = ("philox.cuh", include_str!("philox.cuh"));

/// A kernel that moves four numbers at once, and its twin for rows that lie otherwise.
#[derive(Debug)]
pub(crate) struct PackedKernel {
    four: Kernel,
    one: Kernel,
}

impl PackedKernel {
    pub(crate) const fn new(source: &'static Source, four: &'static str, one: &'static str) -> PackedKernel {
        PackedKernel { four: Kernel::new(source, four), one: Kernel::new(source, one) }
    }

    pub(crate) fn of(&'static self, pack: Pack) -> &'static Kernel {
        if pack.0 == PACK { &self.four } else { &self.one }
    }
}

/// How many numbers a thread moves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pack(pub usize);

impl Pack {
    /// For rows whose starts and parts lie multiples of `widths` apart, in memory that begins at these addresses.
    pub(crate) fn of(widths: &[usize], addresses: &[u64]) -> Pack {
        let bytes = (PACK * size_of::<f32>()) as u64;
        let fits = widths.iter().all(|width| width.is_multiple_of(PACK)) && addresses.iter().all(|a| a % bytes == 0);
        Pack(if fits { PACK } else { 1 })
    }

    /// x counts rows, y the blocks that share the columns of a row.
    pub(crate) fn over_rows(self, rows: usize, columns: usize) -> Grid {
        let threads = columns.div_ceil(self.0);
        let block = threads.next_multiple_of(32).clamp(32, THREADS);
        Grid::cube([rows, threads.div_ceil(block), 1], block as u32)
    }

    /// So many numbers in blocks of 256 threads, whatever is behind the last whole pack included.
    pub(crate) fn over(self, len: usize) -> Grid {
        Grid::over(len.div_ceil(self.0), THREADS as u32)
    }
}

/// A size that kernels take in 32 bits.
pub(crate) fn narrow(size: usize) -> u32 {
    u32::try_from(size).unwrap_or_else(|_| panic!("a width of {size} is more than kernels count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_packed_where_each_of_them_is_aligned() {
        let check = |widths: &[usize], addresses: &[u64], pack| assert_eq!(Pack::of(widths, addresses), Pack(pack));
        check(&[8, 4], &[0x100, 0x110], 4);
        check(&[], &[0x40], 4);
        check(&[8, 6], &[0x100], 1);
        check(&[8], &[0x100, 0x104], 1);
    }

    #[test]
    fn grids_cover_every_column() {
        let check = |pack, columns, blocks, threads| {
            let grid = Pack(pack).over_rows(7, columns);
            assert_eq!((grid.blocks, grid.threads), ([7, blocks, 1], threads), "{columns} by {pack}");
        };
        check(1, 1, 1, 32);
        check(4, 128, 1, 32);
        check(4, 132, 1, 64);
        check(1, 257, 2, 256);
        check(4, 2052, 3, 256);
    }
}
