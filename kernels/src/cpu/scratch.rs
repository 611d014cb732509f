//! Scratch memory that a thread keeps between calls, safe under work stealing (a nested call gets a piece of its own).

use std::cell::RefCell;

use crate::Buffer;

thread_local! {
    static KEPT: RefCell<Vec<Buffer<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Floats from which on memory is rounded up to multiples of as many.
const GRAIN: usize = 1 << 16;

/// Floats that are kept where so many were wanted: some more, so that a slightly larger piece finds room.
pub(crate) fn kept(len: usize) -> usize {
    if len < GRAIN { len.next_power_of_two() } else { len.next_multiple_of(GRAIN) }
}

/// Calls `work` with `len` floats of unspecified content.
pub(crate) fn with<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let last = KEPT.with_borrow_mut(|pieces| pieces.pop());
    let mut buffer = last.filter(|buffer| buffer.len() >= len).unwrap_or_else(|| Buffer::zeroed(kept(len)));
    let result = work(buffer.slice_mut(0..len).host());
    KEPT.with_borrow_mut(|pieces| pieces.push(buffer));
    result
}
