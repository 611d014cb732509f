//! Memory that an operation needs while it runs: a piece of the device's memory that is kept for the next one, grows to what the most
//! wanting operation takes at once, and is given back with the device.
//!
//! An operation's pieces lie on each other as on a stack. Work is done in the order of the calls, so what one operation has given
//! back is the next one's at once. Where a piece does not fit it gets memory of its own, until nothing is in use: then one piece of
//! memory, large enough for all that there was together, takes the place of the former ones.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Accelerator;

/// As a GPU aligns what it allocates.
const ALIGNMENT_BYTES: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Workspaces {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: Vec<Block>,
    /// The most bytes that were in use at once.
    most: usize,
}

/// What was allocated as one.
#[derive(Debug)]
struct Block {
    address: u64,
    bytes: usize,
    /// From the first address on, without gaps.
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    address: u64,
    bytes: usize,
    is_in_use: bool,
}

impl Workspaces {
    /// Memory of unspecified content, aligned to 256 bytes. Unwinds where the device has no more.
    pub(crate) fn take(&self, accelerator: &dyn Accelerator, bytes: usize) -> u64 {
        let whole = (bytes + accelerator.fence_bytes()).next_multiple_of(ALIGNMENT_BYTES);
        let mut state = self.lock();
        let is_scattered = state.is_idle() && state.blocks.len() > 1;
        let has_room = |block: &&mut Block| !is_scattered && block.bytes - block.used() >= whole;
        let address = match state.blocks.last_mut().filter(has_room) {
            Some(block) => block.push(whole),
            None => state.grow(accelerator, whole).push(whole),
        };
        let used = state.blocks.iter().map(Block::used).sum();
        state.most = state.most.max(used);
        accelerator.put_fence(address + bytes as u64);
        address
    }

    /// Gives back what [`Workspaces::take`] gave for as many bytes.
    pub(crate) fn give_back(&self, accelerator: &dyn Accelerator, address: u64, bytes: usize) {
        let mut state = self.lock();
        let mut pieces = state.blocks.iter_mut().map(|block| &mut block.pieces);
        let place = pieces.find_map(|pieces| Some((pieces.iter().position(|piece| piece.address == address)?, pieces)));
        let (index, pieces) = place.expect("it was taken");
        pieces[index].is_in_use = false;
        while pieces.last().is_some_and(|piece| !piece.is_in_use) {
            pieces.pop();
        }
        drop(state);
        accelerator.check_fence(address + bytes as u64, bytes);
    }

    /// Gives all memory back, by addresses and bytes, when the device goes.
    pub(crate) fn close(&self, mut free: impl FnMut(u64, usize)) {
        self.lock().blocks.drain(..).for_each(|block| free(block.address, block.bytes));
    }

    /// Whoever was stopped while taking has changed nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.blocks.iter().all(|block| block.pieces.is_empty())
    }

    /// A block with room for so many bytes, the last one.
    fn grow(&mut self, accelerator: &dyn Accelerator, whole: usize) -> &mut Block {
        let is_idle = self.is_idle();
        let bytes = if is_idle { self.most.max(whole) } else { whole };
        if is_idle {
            for block in self.blocks.drain(..) {
                accelerator.tally().remove(block.bytes);
                accelerator.free(block.address, block.bytes);
            }
        }
        let address = accelerator.allocate(bytes);
        accelerator.tally().add(bytes);
        self.blocks.push(Block { address, bytes, pieces: Vec::new() });
        self.blocks.last_mut().expect("one was pushed")
    }
}

impl Block {
    fn used(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    fn push(&mut self, bytes: usize) -> u64 {
        let address = self.address + self.used() as u64;
        self.pieces.push(Piece { address, bytes, is_in_use: true });
        address
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use crate::{Buffer, Device, Emulation, Stream};

    const LEN: usize = 1 << 18;
    /// Of a piece of [`LEN`] floats; its fence is small beside it.
    const BYTES: u64 = 4 * LEN as u64;

    /// How many pieces of [`LEN`] floats the device holds.
    fn held(stream: &Stream) -> u64 {
        let (now, _) = stream.device().memory_used().expect("it is an accelerator");
        assert!(now % BYTES < BYTES / 100, "{now}");
        now / BYTES
    }

    fn piece(stream: &Stream, lengths: usize) -> Buffer<f32> {
        stream.workspace(lengths * LEN)
    }

    #[test]
    fn memory_is_kept_and_grows_to_what_was_in_use_at_once() {
        let stream = Device::emulated(Emulation::default()).stream();
        let (first, second) = (piece(&stream, 1), piece(&stream, 2));
        assert_ne!(first.view().address(), second.view().address());
        assert_eq!(held(&stream), 3);
        drop((first, second));
        assert_eq!(held(&stream), 3, "it is kept");
        let (whole, part) = (piece(&stream, 2), piece(&stream, 1));
        assert_eq!(held(&stream), 3, "one piece of memory for all that there was");
        let address = part.view().address();
        drop(part);
        assert_eq!(piece(&stream, 1).view().address(), address, "what lies on top is used again");
        drop(whole);
    }

    #[test]
    fn what_lies_below_is_used_again_once_the_top_is_free() {
        let stream = Device::emulated(Emulation::default()).stream();
        drop(piece(&stream, 4));
        let (below, above) = (piece(&stream, 1), piece(&stream, 1));
        let address = below.view().address();
        drop(below);
        assert_ne!(piece(&stream, 1).view().address(), address, "something lies on it");
        drop(above);
        assert_eq!(piece(&stream, 1).view().address(), address);
        assert_eq!(held(&stream), 4);
    }

    #[test]
    fn content_means_nothing() {
        let stream = Device::emulated(Emulation::default()).stream();
        let mut first = piece(&stream, 1);
        stream.fill(first.view_mut(), 1.0);
        drop(first);
        assert!(stream.download(piece(&stream, 1).view()).iter().all(|value| value.is_nan()));
    }
}
