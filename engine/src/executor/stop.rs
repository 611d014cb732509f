//! Being asked to stop: the first ctrl-C finishes what is in flight and keeps it, the second ends the program at once.

use crate::failure::Exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Listens for ctrl-C and for a polite kill, from now to the end of the program; `tell` is called at the first.
    pub fn listen(&self, runtime: &tokio::runtime::Handle, tell: impl Fn() + Send + 'static) {
        let stop = self.clone();
        runtime.spawn(async move {
            signal().await;
            stop.0.store(true, Ordering::Relaxed);
            tell();
            signal().await;
            // Everything finished lies in the store already; destructors have nothing to add.
            std::process::exit(Exit::Interrupted as i32);
        });
    }
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut stream) => stream.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate => {}
    }
}

#[cfg(not(unix))]
async fn signal() {
    let _ = tokio::signal::ctrl_c().await;
}
