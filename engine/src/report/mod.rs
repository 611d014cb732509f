//! What a run tells: one stream of events, shown by one of several faces. Nothing else in this program talks while it runs.

pub mod cell;
pub mod egress;
pub mod forecast;
mod json;
pub mod paint;
mod plain;
pub mod table;
pub mod words;

pub use json::JsonReporter;
pub use plain::PlainReporter;

use crate::forecast::Totals;
use cache::SharingReport;
use serde::Serialize;
use stages::context::Progress;
use stages::llm::MeterReading;
use stages::report::Report;
use std::path::Path;

/// A face of the program. Called from several threads.
pub trait Reporter: Send + Sync {
    fn tell(&self, event: &Event);
}

pub enum Event<'a> {
    Begun {
        recipe: &'a Path,
        /// Profiles and `--set` as given, so that a run never hides how its recipe was bent.
        overrides: &'a [String],
        nodes: &'a [&'a str],
    },
    Started {
        node: &'a str,
        kind: &'a str,
        why: &'a str,
    },
    Progressed {
        node: &'a str,
        progress: &'a Progress,
        meter: MeterReading,
        seconds: f64,
    },
    Warned {
        node: Option<&'a str>,
        message: &'a str,
    },
    /// What went to and came from a shared store.
    Shared {
        place: &'a str,
        report: &'a SharingReport,
    },
    Settled(&'a NodeSummary),
    /// The budget was reached.
    Remains(&'a Remains<'a>),
    Ended(&'a RunSummary),
}

/// What is left to do when the money has run out.
pub struct Remains<'a> {
    pub spent_usd: f64,
    pub budget_usd: f64,
    /// Nodes that have not finished.
    pub nodes: Vec<&'a str>,
    /// Rows of these about which something is still to be asked.
    pub rows: u64,
    pub totals: &'a Totals,
    /// Goes on.
    pub command: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Found in the cache.
    Hit,
    Ran,
    Failed,
    /// Not tried: something before it failed, or the run was stopped.
    Skipped,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Hit => "hit",
            State::Ran => "ran",
            State::Failed => "failed",
            State::Skipped => "skipped",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Recheck {
    Same,
    Different,
}

/// What became of one node in this run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeSummary {
    pub node: String,
    pub kind: String,
    pub state: State,
    pub why: String,
    /// Rows of the first output; none for a model.
    pub rows: Option<u64>,
    /// Requests sent to a model in this run, a rehearsal's included.
    pub calls: u64,
    pub calls_reused: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub cost_usd: f64,
    pub seconds: f64,
    /// Content hash of the first output.
    pub output: Option<String>,
    /// What a reader must know before believing the output, such as `rehearsal`.
    pub labels: Vec<String>,
    /// Of a finished node that was executed again: whether the same came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recheck: Option<Recheck>,
    #[serde(skip_serializing_if = "report_is_empty")]
    pub report: Report,
}

impl NodeSummary {
    /// A node about which nothing more is known than that it is up to date.
    pub fn hit(node: String) -> NodeSummary {
        NodeSummary {
            node,
            kind: String::new(),
            state: State::Hit,
            why: String::new(),
            rows: None,
            calls: 0,
            calls_reused: 0,
            tokens_in: 0,
            tokens_out: 0,
            cost_usd: 0.0,
            seconds: 0.0,
            output: None,
            labels: Vec::new(),
            recheck: None,
            report: Report::default(),
        }
    }
}

fn report_is_empty(report: &Report) -> bool {
    report.tables.is_empty()
}

#[derive(Debug, Clone, PartialEq)]
pub struct RunSummary {
    pub ok: bool,
    pub seconds: f64,
    /// In topological order.
    pub nodes: Vec<NodeSummary>,
}

impl RunSummary {
    pub fn count(&self, state: State) -> usize {
        self.nodes.iter().filter(|node| node.state == state).count()
    }

    pub fn total<T: std::iter::Sum>(&self, of: impl Fn(&NodeSummary) -> T) -> T {
        self.nodes.iter().map(of).sum()
    }
}
