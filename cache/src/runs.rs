//! What each run did, node by node: a root of sweeps, and what two runs are compared by. Provenance, never identity.
//!
//! One file a run, named by when it began; a sealed line of JSON for the run and one for each finished node. Its writer holds a lock
//! on it as long as it lives. A line that is torn or damaged costs only itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::{AtPath, Result};
use crate::hash::ActionKey;
use crate::line::{sealed, unsealed};
use crate::lock::FileLock;
use crate::provenance::now_seconds;
use crate::store::Store;
use crate::survey::{self, files_in, is_held, name_of};

/// What a run is told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunHead {
    /// Seconds since 1970.
    pub began_at: u64,
    /// Name and version of the program.
    pub made_by: String,
    /// What the user calls the recipe.
    pub pipeline: String,
    /// The recipe's path as it was typed.
    pub recipe: String,
    /// What was laid over the recipe, as it was typed.
    pub overrides: Vec<String>,
}

/// One node of a run that came to a good end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunNode {
    pub node: String,
    pub kind: String,
    pub key: ActionKey,
    /// `hit` or `ran`.
    pub state: String,
    pub calls: u64,
    pub calls_reused: u64,
    pub cost_usd: f64,
    pub seconds: f64,
    /// Seconds since 1970.
    pub at: u64,
}

/// A run as its record tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Of its record: the newer the run, the later in the alphabet.
    pub name: String,
    /// Empty if that line is lost.
    pub head: RunHead,
    /// In the order in which they were finished.
    pub nodes: Vec<RunNode>,
    /// Lines that cannot be read.
    pub lost_lines: u64,
    /// Whether its process lives.
    pub is_live: bool,
    /// When the last line was written.
    pub modified: SystemTime,
}

impl Run {
    pub fn keys(&self) -> impl Iterator<Item = ActionKey> {
        self.nodes.iter().map(|node| node.key)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
enum Line {
    Run(RunHead),
    Node(RunNode),
}

/// The record of this run, open for as long as it goes on.
#[derive(Debug)]
pub struct RunRecord {
    path: PathBuf,
    /// Writing begins only once the lock is held: an empty record without a lock is no one's, and may be swept.
    file: Mutex<FileLock>,
}

impl RunRecord {
    /// Notes a finished node.
    ///
    /// # Errors
    /// If the record cannot be written; the work itself is not touched by that.
    pub fn node(&self, node: &RunNode) -> Result<()> {
        self.write(&Line::Node(node.clone()))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self, line: &Line) -> Result<()> {
        let text = format!("{}\n", sealed(line));
        let lock = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = lock.file();
        file.write_all(text.as_bytes()).at("write", &self.path)
    }
}

impl Store {
    /// Begins the record of a run. Until it is dropped, all that it names stays, however a sweep is set.
    ///
    /// # Errors
    /// If the store cannot be written to.
    pub fn begin_run(&self, head: &RunHead) -> Result<RunRecord> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let (began, process) = (now_seconds(), std::process::id());
        let name = format!("{began:010x}-{process:x}-{:x}.jsonl", COUNTER.fetch_add(1, Ordering::Relaxed));
        let path = self.layout().runs().join(name);
        let file = Mutex::new(FileLock::acquire(&path)?);
        let record = RunRecord { path, file };
        record.write(&Line::Run(head.clone()))?;
        Ok(record)
    }

    /// Every run on record, oldest first.
    ///
    /// # Errors
    /// If the records cannot be listed or read.
    pub fn runs(&self) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for (path, stamp) in files_in(&self.layout().runs())? {
            let is_live = is_held(&path);
            let Some(bytes) = survey::unless_gone(fs::read(&path)).at("read", &path)? else { continue };
            if let Some(name) = name_of(&path).strip_suffix(".jsonl") {
                runs.push(Run { is_live, ..parse(name, &bytes, stamp.modified) });
            }
        }
        Ok(runs)
    }
}

fn parse(name: &str, bytes: &[u8], modified: SystemTime) -> Run {
    let empty = RunHead::default();
    let mut run =
        Run { name: name.to_owned(), head: empty, nodes: Vec::new(), lost_lines: 0, is_live: false, modified };
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match unsealed(line) {
            Some(Line::Run(head)) => run.head = head,
            Some(Line::Node(node)) => run.nodes.push(node),
            None => run.lost_lines += 1,
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Preimage;

    fn node(name: &str) -> RunNode {
        RunNode {
            node: name.to_owned(),
            kind: "cot".into(),
            key: Preimage::new().text("node", name).action_key(),
            state: "ran".into(),
            calls: 3,
            calls_reused: 1,
            cost_usd: 0.5,
            seconds: 1.25,
            at: 7,
        }
    }

    fn with_store(test: impl FnOnce(&Store)) {
        let folder = tempfile::tempdir().unwrap();
        test(&Store::open(folder.path()).unwrap());
    }

    #[test]
    fn a_run_is_read_while_it_goes_on_and_after() {
        with_store(|store| {
            let head =
                RunHead { pipeline: "medical".into(), overrides: vec!["--limit 3".into()], ..RunHead::default() };
            let record = store.begin_run(&head).unwrap();
            record.node(&node("exam")).unwrap();
            let during = store.runs().unwrap();
            assert!(during[0].is_live, "its writer lives");
            record.node(&node("chains")).unwrap();
            drop(record);
            store.begin_run(&RunHead::default()).unwrap();
            let after = store.runs().unwrap();
            assert_eq!((after.len(), after[0].is_live, after[0].lost_lines), (2, false, 0));
            assert_eq!((&after[0].head, &after[0].nodes), (&head, &vec![node("exam"), node("chains")]));
        });
    }

    #[test]
    fn a_torn_line_costs_only_itself() {
        with_store(|store| {
            let record = store.begin_run(&RunHead::default()).unwrap();
            for name in ["exam", "chains"] {
                record.node(&node(name)).unwrap();
            }
            let path = record.path().to_owned();
            drop(record);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("exam", "exan") + "{\"line\":\"no").unwrap();
            let run = &store.runs().unwrap()[0];
            assert_eq!((run.lost_lines, &run.nodes), (2, &vec![node("chains")]));
        });
    }
}
