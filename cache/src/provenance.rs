//! Who made an output, when, and what it took: told to people, never part of a key or of a content hash.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// Name and version of the program.
    pub made_by: String,
    /// What the user calls the recipe; empty where unknown.
    pub pipeline: String,
    pub node: String,
    pub kind: String,
    /// Seconds since 1970.
    pub finished_at: u64,
    pub seconds: f64,
    /// Requests sent to a model for this output, a rehearsal's included.
    pub calls: u64,
    /// Replies that were found instead.
    pub calls_reused: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub cost_usd: f64,
    /// What a reader must know before believing the output, such as `rehearsal`.
    pub labels: Vec<String>,
    /// Device that computed it, such as `cpu` or a GPU's name.
    pub device: String,
    /// Counts and remarks of the stage, such as how many rows each rule removed.
    pub facts: Map<String, Value>,
}

/// Seconds since 1970; 0 on a clock before that.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
