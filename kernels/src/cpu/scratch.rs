//! Scratch memory that a thread keeps between calls, safe under work stealing (a nested call gets a piece of its own).

use std::cell::RefCell;

use crate::Buffer;

thread_local! {
    static KEPT: RefCell<Vec<Buffer<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `len` floats of unspecified content.
pub(crate) fn with<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let kept = KEPT.with_borrow_mut(|kept| kept.pop());
    let mut buffer =
        kept.filter(|buffer| buffer.len() >= len).unwrap_or_else(|| Buffer::zeroed(len.next_power_of_two()));
    let result = work(buffer.slice_mut(0..len).host());
    KEPT.with_borrow_mut(|kept| kept.push(buffer));
    result
}
