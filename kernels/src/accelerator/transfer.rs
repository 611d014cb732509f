//! What a stream does with memory of an accelerator: zeros, values up and down, copies, fills.

use super::Accelerator;
use crate::{Element, View, ViewMut};

/// What memory is filled with, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Half(u16),
    Word(u32),
}

pub(crate) fn zero<T: Element>(accelerator: &dyn Accelerator, target: ViewMut<'_, T>) {
    let (address, bytes) = here(accelerator, target.view());
    match bytes % 4 {
        0 => accelerator.fill(address, Pattern::Word(0), bytes / 4),
        _ => accelerator.fill(address, Pattern::Half(0), bytes / 2),
    }
}

pub(crate) fn fill<T: Element>(accelerator: &dyn Accelerator, target: ViewMut<'_, T>, value: T) {
    let (address, bytes) = here(accelerator, target.view());
    let word = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    match bytes_of(&[value]) {
        &[low, high] => accelerator.fill(address, Pattern::Half(u16::from_ne_bytes([low, high])), bytes / 2),
        value if value.chunks(4).all(|part| part == &value[..4]) => {
            accelerator.fill(address, Pattern::Word(word(value)), bytes / 4);
        }
        _ => accelerator.upload(bytes_of(&vec![value; target.len()]), address),
    }
}

pub(crate) fn write<T: Element>(accelerator: &dyn Accelerator, target: ViewMut<'_, T>, values: &[T]) {
    let (address, _) = here(accelerator, target.view());
    accelerator.upload(bytes_of(values), address);
}

pub(crate) fn read<T: Element>(accelerator: &dyn Accelerator, source: View<'_, T>) -> Vec<T> {
    let (address, _) = here(accelerator, source);
    let mut values = vec![T::POISON; source.len()];
    accelerator.download(address, bytes_of_mut(&mut values));
    values
}

pub(crate) fn copy<T: Element>(accelerator: &dyn Accelerator, source: View<'_, T>, target: ViewMut<'_, T>) {
    let ((source, bytes), (target, _)) = (here(accelerator, source), here(accelerator, target.view()));
    accelerator.copy(source, target, bytes);
}

/// Address and bytes of a view that lives here.
fn here<T: Element>(accelerator: &dyn Accelerator, view: View<'_, T>) -> (u64, usize) {
    assert!(view.place() == accelerator.place(), "{} was given memory of another device", accelerator.name());
    (view.address(), view.len() * size_of::<T>())
}

fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    // SAFETY: elements are plain numbers without padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_of_mut<T: Element>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: elements are plain numbers without padding, and every bit pattern is one.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
