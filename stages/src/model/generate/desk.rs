//! Where requests come from and answers go, while workers generate.

use super::{Finish, Generation, Request, Watch};
use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What all workers of a generation turn to.
pub trait Desk: Sync {
    /// A worker begins.
    fn come(&self) {}

    /// A worker has ended, or broken down.
    fn leave(&self) {}

    /// Before one that has broken down leaves: nothing will come of what it had, and the others are to end.
    fn break_down(&self) {}

    /// Steps for which a lane stays free until others are, so that more prompts are read at once. Where nothing is gained by one answer
    /// before the last one, that is for ever.
    fn patience(&self) -> usize {
        usize::MAX
    }

    /// The next request. `None` where there is none now. Who has nothing else to do says so (`is_idle`): it may be kept waiting for
    /// one, and goes home where it is given none.
    fn next(&self, is_idle: bool) -> Option<Entering<'_>>;

    /// A token was drawn for a request: what has come of it so far, whose `finish` says nothing yet. Ends the answer by saying how it
    /// ended.
    fn drawn(&self, request: usize, generation: &Generation) -> Option<Finish>;

    fn ended(&self, request: usize, generation: Generation);
}

/// A request that enters, under a number of its own.
pub struct Entering<'a> {
    pub request: usize,
    pub prompt: Cow<'a, [u32]>,
    pub seed: u64,
}

/// A worker at a desk; it leaves also where it breaks down.
pub(super) struct Present<'a>(&'a dyn Desk);

impl<'a> Present<'a> {
    pub fn at(desk: &'a dyn Desk) -> Present<'a> {
        desk.come();
        Present(desk)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.break_down();
        }
        self.0.leave();
    }
}

/// Requests that are all there from the start.
pub(super) struct List<'a> {
    requests: &'a [Request<'a>],
    watch: &'a Watch<'a>,
    next: AtomicUsize,
    done: Mutex<Vec<(usize, Generation)>>,
}

impl<'a> List<'a> {
    pub fn new(requests: &'a [Request<'a>], watch: &'a Watch<'a>) -> List<'a> {
        List { requests, watch, next: AtomicUsize::new(0), done: Mutex::new(Vec::with_capacity(requests.len())) }
    }

    /// In the order of the requests.
    pub fn finish(self) -> Vec<Generation> {
        let mut done = self.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(request, _)| *request);
        done.into_iter().map(|(_, generation)| generation).collect()
    }
}

impl Desk for List<'_> {
    fn next(&self, _: bool) -> Option<Entering<'_>> {
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let &Request { prompt, seed } = self.requests.get(request)?;
        Some(Entering { request, prompt: Cow::Borrowed(prompt), seed })
    }

    fn drawn(&self, request: usize, generation: &Generation) -> Option<Finish> {
        (self.watch)(request, generation)
    }

    fn ended(&self, request: usize, generation: Generation) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push((request, generation));
    }
}
