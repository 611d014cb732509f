//! The thread that carries replies to and fro while a run makes calls, so that a colleague's run need not make them again.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::post::Post;
use crate::error::Result;

/// Dropping it sends the rest.
pub(crate) struct Courier {
    route: Arc<Route>,
    thread: Option<JoinHandle<()>>,
}

struct Route {
    post: Mutex<Post>,
    stopped: Mutex<bool>,
    bell: Condvar,
}

impl Courier {
    /// Fetches what is there before it returns; then goes to and fro, unless `only_once`.
    ///
    /// # Errors
    /// If the first fetch fails.
    pub fn start(mut post: Post, only_once: bool) -> Result<Self> {
        post.fetch()?;
        let route = Arc::new(Route { post: Mutex::new(post), stopped: Mutex::new(false), bell: Condvar::new() });
        let walk = |route: Arc<Route>| move || route.walk();
        let thread = std::thread::Builder::new().name("reply courier".into());
        let thread = if only_once { None } else { thread.spawn(walk(route.clone())).ok() };
        Ok(Self { route, thread })
    }

    /// Sends now what waits to be sent.
    pub fn hurry(&self) {
        lock(&self.route.post).send_or_note();
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        *lock(&self.route.stopped) = true;
        self.route.bell.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        lock(&self.route.post).finish_or_note();
    }
}

impl Route {
    fn walk(&self) {
        let (shortest, longest) = lock(&self.post).round_ms().into_inner();
        let mut pause_ms = shortest;
        while !self.is_stopped_within(pause_ms) {
            let any = lock(&self.post).round();
            // A store that has been quiet is asked less often: each request has its price.
            pause_ms = if any { shortest } else { (pause_ms * 3 / 2 + 1).min(longest) };
        }
    }

    fn is_stopped_within(&self, pause_ms: u64) -> bool {
        let pause = Duration::from_millis(pause_ms);
        let waited = self.bell.wait_timeout_while(lock(&self.stopped), pause, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
