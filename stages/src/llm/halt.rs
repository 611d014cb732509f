//! The word to stop, carried by the task that a row runs in: a caller inside it starts no new call once it was said.

use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;

tokio::task_local! {
    static CURRENT: Halt;
}

/// Cheap to clone; every clone hears the same word.
#[derive(Clone)]
pub struct Halt {
    said: watch::Receiver<bool>,
}

/// Says the word.
pub struct Halter {
    sender: watch::Sender<bool>,
}

impl Halter {
    pub fn new() -> Halter {
        Halter { sender: watch::channel(false).0 }
    }

    pub fn say(&self) {
        self.sender.send_replace(true);
    }

    pub fn said(&self) -> bool {
        *self.sender.borrow()
    }

    pub fn halt(&self) -> Halt {
        Halt { said: self.sender.subscribe() }
    }
}

impl Default for Halter {
    fn default() -> Halter {
        Halter::new()
    }
}

impl Halt {
    /// Runs `work` so that [`halted`] and [`sleep`] inside it listen to this word.
    pub fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }
}

/// Whether the task this is called in was told to stop. Outside of any crowd nobody can say so.
pub fn halted() -> bool {
    CURRENT.try_with(|halt| *halt.said.borrow()).unwrap_or(false)
}

/// Sleeps, or wakes early when told to stop.
pub async fn sleep(pause: Duration) {
    match CURRENT.try_with(|halt| halt.said.clone()) {
        Ok(mut said) => _ = tokio::time::timeout(pause, said.wait_for(|said| *said)).await,
        Err(_) => tokio::time::sleep(pause).await,
    }
}
