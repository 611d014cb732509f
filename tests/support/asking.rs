//! A kitchen whose recipe asks the loopback server, and what must hold of its store whatever became of a run.

#![allow(dead_code, reason = "each test file uses its own share of this")]

use crate::kitchen::{Kitchen, Run};
use crate::support::model_server::{Behaviour, ModelServer};
use cache::{Found, Store};
use std::path::Path;
use std::process::Command;

/// Requests in flight at most: what a kill may cost.
pub const CONCURRENCY: u64 = 4;

const MODELS: &str = "\
version: 1
models:
  teacher: { provider: openai, model: m, base_url: \"http://127.0.0.1:1/v1\", concurrency: 4 }
nodes:
  exam:     { kind: source, path: exam.jsonl }
";

pub struct Asking {
    pub kitchen: Kitchen,
    pub server: ModelServer,
}

impl Asking {
    /// The model, `exam` with `rows` problems and their truth, and `nodes` as YAML; every answer takes `latency_ms`.
    pub fn new(nodes: &str, rows: usize, latency_ms: u64) -> Asking {
        let kitchen = Kitchen::new(&format!("{MODELS}{nodes}"));
        let line =
            |row| format!("{{\"problem\": \"What explains sign {row} best?\", \"truth\": \"Explanation {row}.\"}}\n");
        kitchen.write("exam.jsonl", &(0..rows).map(line).collect::<String>());
        Asking { kitchen, server: ModelServer::start(Behaviour { latency_ms, ..Behaviour::default() }) }
    }

    /// `decoct run`, asking this server.
    pub fn command(&self, more: &[&str]) -> Command {
        let base_url = format!("--set=models.teacher.base_url={}", self.server.base_url());
        self.kitchen.command(&[&["run", "recipe.yaml", "--format", "json", &base_url], more].concat())
    }

    pub fn run(&self, more: &[&str]) -> Run {
        Run::of(&self.command(more).output().unwrap())
    }

    /// Nothing is half published, and no lock has outlived its process. Changes nothing.
    pub fn check_store(&self) {
        let root = self.kitchen.store();
        assert_unlocked(&root);
        if !root.join("format").exists() {
            return assert!(self.kitchen.blobs().is_empty(), "work in a store that is not one yet");
        }
        let store = Store::open(&root).unwrap();
        for (blob, _) in store.blobs().unwrap() {
            assert!(store.open_blob(&blob).unwrap().is_some(), "blob `{blob}` is not what it is called");
        }
        for key in store.keys().unwrap() {
            let Found::Intact(manifest) = store.lookup(&key).unwrap() else { panic!("manifest `{key}` is damaged") };
            assert_eq!(store.missing_blobs(&manifest).unwrap(), [], "of manifest `{key}`");
        }
    }

    /// Nothing but finished work is left over, beside files that were being written when a process died.
    pub fn check_scratch(&self) {
        assert_eq!(
            std::fs::read_dir(self.kitchen.store().join("scratch")).unwrap().count(),
            0,
            "checkpoints are left over"
        );
    }
}

/// Every lock can be had at once: those on whole files, and those on bytes.
fn assert_unlocked(store: &Path) {
    for entry in std::fs::read_dir(store.join("locks")).into_iter().flatten() {
        let path = entry.unwrap().path();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        assert!(file.try_lock().is_ok(), "`{}` is still locked", path.display());
    }
    if let Ok(calls) = std::fs::File::options().write(true).open(store.join("claims/calls")) {
        // SAFETY: all zeros is a value of it, and means every byte of the file.
        let mut all: libc::flock = unsafe { std::mem::zeroed() };
        all.l_type = libc::F_WRLCK as libc::c_short;
        // SAFETY: the file is open, and `all` is only read.
        let locked = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&calls), libc::F_OFD_SETLK, &all) };
        assert_eq!(locked, 0, "a call is still claimed");
    }
}
