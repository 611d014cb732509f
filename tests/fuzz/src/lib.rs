//! What the fuzz targets share: a folder to write in, a stage made from settings, a world around it.

#[path = "../../../stages/tests/support/mod.rs"]
#[allow(clippy::new_without_default)] // the fakes of the stages' own tests, where nobody sees them
pub mod support;

use serde_json::Value;
use stages::rows::Rows;
use stages::settings::Reader;
use stages::stage::{Artifact, Inputs, Stage};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard};
use support::FakeContext;

/// An empty folder of its own. A fuzzer ends without tidying up: `tests/fuzz/run` says where, and does it.
pub fn scratch() -> PathBuf {
    tempfile::tempdir().expect("a folder to write in").keep()
}

/// The stage of `kind` with these settings, unless they are wrong.
pub fn stage(kind: &str, settings: Value) -> Option<Box<dyn Stage>> {
    let kind = stages::registry::kind(kind).expect("a kind there is");
    let mut reader = Reader::default();
    let stage = (kind.read)(settings.as_object().expect("settings are a mapping"), &mut reader);
    assert!(stage.is_some() || !reader.mistakes.is_empty(), "settings are refused with a reason");
    stage
}

/// The one context of this process; its threads live as long.
pub fn context() -> MutexGuard<'static, FakeContext> {
    static CONTEXT: LazyLock<Mutex<FakeContext>> = LazyLock::new(|| Mutex::new(FakeContext::new()));
    CONTEXT.lock().expect("a panic ends the process")
}

pub fn input(rows: Rows) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.0.insert("input".to_string(), Artifact::Rows(rows));
    inputs
}
