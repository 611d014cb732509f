//! A node played through with kept replies: which calls are paid already, and which questions have no reply.

use crate::executor::artifacts::Trouble;
use crate::executor::looking::Looking;
use crate::spec::{Node, Recipe};
use serde_json::Value;
use stages::llm::{LanguageModel, Reply, Request, Tallies, Tally, Watcher};
use stages::stage::{Artifact, Inputs, Outputs};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What a play through some rows showed.
pub struct Played {
    /// Rows that were played through to their end.
    pub outputs: Outputs,
    /// Of the replies that are kept.
    pub paid: Vec<Tally>,
    /// One a row that cannot go on.
    pub unanswered: Vec<Unanswered>,
}

/// The question at which a row stands.
#[derive(Clone)]
pub struct Unanswered {
    pub address: [u8; 32],
    pub port: Arc<str>,
    pub question: &'static str,
    pub bytes: usize,
    /// Answers that the row had before.
    pub answers: Vec<(Arc<str>, &'static str, u64)>,
}

/// Plays `node` through.
///
/// # Errors
/// As [`Looking::play`].
pub fn play(looking: &Looking, recipe: &Recipe, node: &Node, inputs: Inputs, retry: bool) -> Result<Played, Trouble> {
    let log = Arc::new(Log::default());
    let watcher = |port: &str, model: &dyn LanguageModel| {
        let (identity, reads_task) = (model.identity(), model.reads_task());
        Arc::new(Watch { port: port.into(), identity, reads_task, log: log.clone() })
    };
    let mut outputs = looking.play(recipe, node, inputs, retry, watcher)?;
    let mut stopped = std::mem::take(&mut *log.stopped.lock().unwrap_or_else(PoisonError::into_inner));
    // In the order of their addresses: rows come from several threads.
    stopped.unanswered.sort_unstable_by_key(|unanswered| unanswered.address);
    for artifact in outputs.artifacts.values_mut() {
        if let Artifact::Rows(rows) = artifact {
            rows.rows.retain(|row| !stopped.rows.contains(&row.id));
        }
    }
    Ok(Played { outputs, paid: log.paid.read(), unanswered: stopped.unanswered })
}

#[derive(Default)]
struct Log {
    paid: Tallies,
    stopped: Mutex<Stopped>,
}

#[derive(Default)]
struct Stopped {
    rows: HashSet<String>,
    unanswered: Vec<Unanswered>,
}

struct Watch {
    port: Arc<str>,
    identity: Value,
    reads_task: bool,
    log: Arc<Log>,
}

impl Watcher for Watch {
    fn answered(&self, request: &Request, reply: &Reply, _: Option<&str>) {
        self.log.paid.note(&self.port, request, &reply.usage);
    }

    fn unanswered(&self, request: &Request) {
        let task = request.task.as_ref().expect("stages ask about rows");
        let unanswered = Unanswered {
            address: request.address(&self.identity, self.reads_task),
            port: self.port.clone(),
            question: task.name,
            bytes: request.bytes(),
            answers: self.log.paid.of_row(request),
        };
        let mut stopped = self.log.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.rows.insert(task.row_id.clone());
        stopped.unanswered.push(unanswered);
    }
}
