//! Runs tasks that were cut by shape alone, so that the number of threads never changes a result.

use std::ops::Range;

use rayon::prelude::*;

use crate::Stream;

/// Below this much arithmetic a hand-over to other threads costs more than it saves.
const INLINE_WORK: usize = 100_000;
/// Arithmetic that one task of [`for_each_rows`] should hold: some ten microseconds.
const TASK_WORK: usize = 200_000;

/// Calls `task` for `0..tasks`, in parallel where `work` (operations of all tasks) is worth it.
pub(crate) fn for_each_task(stream: &Stream, tasks: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
    if tasks < 2 || work < INLINE_WORK || stream.device().threads() == 1 {
        return (0..tasks).for_each(task);
    }
    stream.device().install(|| (0..tasks).into_par_iter().with_max_len(1).for_each(task));
}

/// Calls `task` with ranges that cover `0..rows`, whose length depends on `work_per_row` only.
pub(crate) fn for_each_rows(
    stream: &Stream,
    rows: usize,
    work_per_row: usize,
    task: impl Fn(Range<usize>) + Sync + Send,
) {
    let block = (TASK_WORK / work_per_row.max(1)).max(1);
    for_each_task(stream, rows.div_ceil(block), rows * work_per_row, |index| {
        task(index * block..rows.min((index + 1) * block))
    });
}

/// A slice that parallel tasks write in disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, T> {
    address: *mut T,
    len: usize,
    lifetime: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: who calls `range` promises that parts handed out at one time do not overlap.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { address: slice.as_mut_ptr(), len: slice.len(), lifetime: std::marker::PhantomData }
    }

    /// A part to write.
    ///
    /// # Safety
    /// No other part that lives at the same time may overlap it.
    #[inline(always)]
    pub(crate) unsafe fn range(self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice (checked), not overlapping (promised).
        unsafe { std::slice::from_raw_parts_mut(self.address.add(range.start), range.len()) }
    }

    /// The address of one element, for parts that interleave.
    #[inline(always)]
    pub(crate) fn address(self, index: usize) -> *mut T {
        assert!(index <= self.len);
        // SAFETY: inside the slice or one past it.
        unsafe { self.address.add(index) }
    }
}
