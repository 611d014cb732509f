//! The word to stop, carried by the task that a row runs in: a caller inside it starts no new call once it was said. And the way
//! back: what a call has to tell to whoever watches the rows.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

tokio::task_local! {
    static CURRENT: Halt;
}

/// Cheap to clone; every clone hears the same word.
#[derive(Clone)]
pub struct Halt {
    said: watch::Receiver<bool>,
    word: Arc<Word>,
}

/// Says the word.
pub struct Halter {
    word: Arc<Word>,
}

struct Word {
    sender: watch::Sender<bool>,
    notices: Mutex<Notices>,
}

/// What calls told: every sentence once.
#[derive(Default)]
struct Notices {
    all: Vec<Arc<str>>,
    taken: usize,
}

impl Halter {
    pub fn new() -> Halter {
        Halter { word: Arc::new(Word { sender: watch::channel(false).0, notices: Mutex::default() }) }
    }

    pub fn say(&self) {
        self.word.sender.send_replace(true);
    }

    pub fn said(&self) -> bool {
        *self.word.sender.borrow()
    }

    pub fn halt(&self) -> Halt {
        Halt { said: self.word.sender.subscribe(), word: self.word.clone() }
    }

    /// What calls told since this was last asked.
    pub fn notices(&self) -> Vec<Arc<str>> {
        let mut notices = self.word.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let news = notices.all[notices.taken..].to_vec();
        notices.taken = notices.all.len();
        news
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

/// Does `work`, or leaves it when told to stop: `None`.
pub async fn unless_said<F: Future>(work: F) -> Option<F::Output> {
    let Ok(mut said) = CURRENT.try_with(|halt| halt.said.clone()) else { return Some(work.await) };
    tokio::select! {
        biased;
        output = work => Some(output),
        _ = said.wait_for(|said| *said) => None,
    }
}

/// Tells whoever watches the rows, once for all of them. Outside of any crowd nobody listens.
pub fn tell(notice: &Arc<str>) {
    _ = CURRENT.try_with(|halt| {
        let mut notices = halt.word.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if !notices.all.contains(notice) {
            notices.all.push(notice.clone());
        }
    });
}

/// Stops all rows: what this one met, every other would meet too.
pub fn call_off() {
    _ = CURRENT.try_with(|halt| halt.word.sender.send_replace(true));
}
