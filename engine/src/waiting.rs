//! The threads on which calls wait for their answers, until this is dropped.

use std::io;
use std::thread::{self, JoinHandle};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

pub struct Waiting {
    handle: Handle,
    threads: Threads,
}

/// Held, and ended when dropped.
enum Threads {
    Many(#[allow(dead_code)] Runtime),
    One(Option<(oneshot::Sender<()>, JoinHandle<()>)>),
}

impl Waiting {
    pub fn on_every_core() -> io::Result<Waiting> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        Ok(Waiting { handle: runtime.handle().clone(), threads: Threads::Many(runtime) })
    }

    /// Cheaper than one thread of a pool: woken tasks stand in line, so that one kind of step is done for all connections that are
    /// ready before the next kind begins, and nothing is kept ready to be stolen by other threads.
    pub fn on_one_thread() -> io::Result<Waiting> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let drive = move || _ = runtime.block_on(ended);
        let thread = thread::Builder::new().name("calls".into()).spawn(drive)?;
        Ok(Waiting { handle, threads: Threads::One(Some((end, thread))) })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Threads::One(one) = &mut self.threads
            && let Some((end, thread)) = one.take()
        {
            _ = end.send(());
            _ = thread.join();
        }
    }
}
