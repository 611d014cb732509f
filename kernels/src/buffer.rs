//! Opaque device memory: owned buffers and borrowed views of them, which know where they live.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::accelerator::{Accelerator, Place};

/// One cache line and one AVX-512 register: rows start where loads are cheapest.
const ALIGNMENT_BYTES: usize = 64;

mod sealed {
    pub trait Sealed {}
}

/// A number that buffers can hold. All-zero bits are its zero.
pub trait Element: sealed::Sealed + Copy + PartialEq + Send + Sync + std::fmt::Debug + 'static {
    /// A value that no correct result has, for memory that was never written.
    const POISON: Self;
}

macro_rules! elements {
    ($($type:ty => $poison:expr),* $(,)?) => {
        $(impl sealed::Sealed for $type {}
        impl Element for $type {
            const POISON: $type = $poison;
        })*
    };
}

elements! {
    f32 => f32::NAN,
    f64 => f64::NAN,
    half::bf16 => half::bf16::NAN,
    u16 => 0xdead,
    u32 => 0xdead_dead,
    i32 => 0xdead_dead_u32 as i32,
    u64 => 0xdead_dead_dead_dead,
}

/// Owned memory of a device: `len` elements, aligned to 64 bytes (256 on an accelerator).
#[derive(Debug)]
pub struct Buffer<T: Element> {
    address: NonNull<T>,
    len: usize,
    /// Whose memory it is; `None` is the host's.
    home: Option<Arc<dyn Accelerator>>,
    /// Whether it goes back to the home's workspaces.
    is_workspace: bool,
}

// SAFETY: a buffer owns its memory as a `Vec` does; views borrow it.
unsafe impl<T: Element> Send for Buffer<T> {}
unsafe impl<T: Element> Sync for Buffer<T> {}

impl<T: Element> Buffer<T> {
    /// Zeros in the host's memory.
    pub(crate) fn zeroed(len: usize) -> Buffer<T> {
        if len == 0 {
            return Buffer { address: NonNull::dangling(), len, home: None, is_workspace: false };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above zero, and zero bits are a valid value of every `Element`.
        let address = unsafe { alloc_zeroed(layout) }.cast::<T>();
        let address = NonNull::new(address).unwrap_or_else(|| handle_alloc_error(layout));
        Buffer { address, len, home: None, is_workspace: false }
    }

    /// Memory of an accelerator, of unspecified content. Unwinds with a [`crate::DeviceError`] where it has no more.
    pub(crate) fn on(accelerator: &Arc<dyn Accelerator>, len: usize) -> Buffer<T> {
        Self::from(accelerator, len, false, |bytes| {
            let address = accelerator.allocate(bytes);
            accelerator.tally().add(bytes);
            address
        })
    }

    /// The same from what the accelerator keeps for operations, until the buffer is dropped.
    pub(crate) fn workspace(accelerator: &Arc<dyn Accelerator>, len: usize) -> Buffer<T> {
        Self::from(accelerator, len, true, |bytes| accelerator.workspaces().take(&**accelerator, bytes))
    }

    fn from(
        accelerator: &Arc<dyn Accelerator>,
        len: usize,
        is_workspace: bool,
        take: impl FnOnce(usize) -> u64,
    ) -> Buffer<T> {
        let home = Some(accelerator.clone());
        if len == 0 {
            return Buffer { address: NonNull::dangling(), len, home, is_workspace };
        }
        let address = take(Self::layout(len).size()) as usize;
        let address = NonNull::new(std::ptr::without_provenance_mut(address));
        Buffer { address: address.expect("no memory begins at 0"), len, home, is_workspace }
    }

    fn place(&self) -> Place {
        self.home.as_ref().map_or(Place::HOST, |accelerator| accelerator.place())
    }

    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer length overflows");
        Layout::from_size_align(bytes, ALIGNMENT_BYTES).expect("buffer length overflows")
    }

    /// How many elements it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it, to read.
    pub fn view(&self) -> View<'_, T> {
        View { address: self.address.as_ptr(), len: self.len, place: self.place(), lifetime: PhantomData }
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.address.as_ptr(), len: self.len, place: self.place(), lifetime: PhantomData }
    }

    /// A part of it, to read.
    pub fn slice(&self, range: Range<usize>) -> View<'_, T> {
        self.view().slice(range)
    }

    /// A part of it, to write.
    pub fn slice_mut(&mut self, range: Range<usize>) -> ViewMut<'_, T> {
        self.view_mut().slice(range)
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        match &self.home {
            Some(accelerator) => {
                let (address, bytes) = (self.address.as_ptr().addr() as u64, Self::layout(self.len).size());
                if self.is_workspace {
                    return accelerator.workspaces().give_back(&**accelerator, address, bytes);
                }
                accelerator.tally().remove(bytes);
                accelerator.free(address, bytes);
            }
            // SAFETY: allocated by `zeroed` with this very layout.
            None => unsafe { dealloc(self.address.as_ptr().cast(), Self::layout(self.len)) },
        }
    }
}

/// Borrowed device memory, to read.
#[derive(Debug)]
pub struct View<'a, T: Element> {
    address: *const T,
    len: usize,
    place: Place,
    lifetime: PhantomData<&'a [T]>,
}

impl<T: Element> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Element> Copy for View<'_, T> {}

// SAFETY: a view is a shared borrow of plain numbers.
unsafe impl<T: Element> Send for View<'_, T> {}
unsafe impl<T: Element> Sync for View<'_, T> {}

impl<'a, T: Element> View<'a, T> {
    /// How many elements it covers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of it.
    pub fn slice(self, range: Range<usize>) -> View<'a, T> {
        check_range(&range, self.len);
        View { address: self.address.wrapping_add(range.start), len: range.len(), ..self }
    }

    /// Where it begins, as an accelerator counts; 0 where it covers nothing.
    pub(crate) fn address(self) -> u64 {
        if self.len == 0 { 0 } else { self.address.addr() as u64 }
    }

    pub(crate) fn place(self) -> Place {
        self.place
    }

    /// The memory itself; only `cpu.rs` files may look. That an accelerator's memory comes here is our mistake: work meant
    /// for it would be done on the CPU.
    pub(crate) fn host(self) -> &'a [T] {
        assert_host(self.place);
        // SAFETY: address and length come from a living host buffer that this view borrows.
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }
}

/// Borrowed device memory, to write.
#[derive(Debug)]
pub struct ViewMut<'a, T: Element> {
    address: *mut T,
    len: usize,
    place: Place,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: an exclusive borrow of plain numbers.
unsafe impl<T: Element> Send for ViewMut<'_, T> {}
unsafe impl<T: Element> Sync for ViewMut<'_, T> {}

impl<'a, T: Element> ViewMut<'a, T> {
    /// How many elements it covers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same memory, to read.
    pub fn view(&self) -> View<'_, T> {
        View { address: self.address, len: self.len, place: self.place, lifetime: PhantomData }
    }

    /// The same memory for a shorter while.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.address, len: self.len, place: self.place, lifetime: PhantomData }
    }

    /// A part of it.
    pub fn slice(self, range: Range<usize>) -> ViewMut<'a, T> {
        check_range(&range, self.len);
        ViewMut { address: self.address.wrapping_add(range.start), len: range.len(), ..self }
    }

    /// Two parts that do not overlap: `[0, middle)` and `[middle, len)`.
    pub fn split_at(self, middle: usize) -> (ViewMut<'a, T>, ViewMut<'a, T>) {
        check_range(&(0..middle), self.len);
        let tail = self.address.wrapping_add(middle);
        (ViewMut { len: middle, ..self }, ViewMut { address: tail, len: self.len - middle, ..self })
    }

    /// The memory itself; only `cpu.rs` files may look, see [`View::host`].
    pub(crate) fn host(self) -> &'a mut [T] {
        assert_host(self.place);
        // SAFETY: address and length come from a living host buffer that this view borrows exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.len) }
    }
}

fn assert_host(place: Place) {
    assert!(place == Place::HOST, "memory of an accelerator was read on the CPU");
}

fn check_range(range: &Range<usize>, len: usize) {
    assert!(range.start <= range.end && range.end <= len, "range {range:?} outside a view of {len} elements");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_zero() {
        for len in [0, 1, 3, 17, 4096] {
            let buffer = Buffer::<f32>::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.view().host().iter().all(|&value| value == 0.0));
            assert!(len == 0 || (buffer.view().address as usize).is_multiple_of(ALIGNMENT_BYTES));
        }
    }

    #[test]
    fn parts_are_what_their_ranges_say() {
        let mut buffer = Buffer::<u32>::zeroed(6);
        let (head, tail) = buffer.view_mut().split_at(2);
        head.host().fill(1);
        tail.slice(1..4).host().fill(2);
        assert_eq!(buffer.view().host(), [1, 1, 0, 2, 2, 2]);
        assert_eq!(buffer.slice(1..4).host(), [1, 0, 2]);
    }

    #[test]
    #[should_panic(expected = "range 3..7 outside a view of 6 elements")]
    fn a_range_past_the_end_is_our_mistake() {
        Buffer::<u32>::zeroed(6).slice(3..7);
    }
}
