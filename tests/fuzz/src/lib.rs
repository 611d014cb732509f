//! What the fuzz targets share: a folder to write in, a stage made from settings, a world around it.

#[path = "../../../stages/tests/support/mod.rs"]
pub mod support;

use serde_json::Value;
use stages::rows::Rows;
use stages::settings::Reader;
use stages::stage::{Artifact, Inputs, Stage};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard};
use support::FakeContext;

/// An empty folder, in memory where the system has such a place: a target writes thousands of files a second.
///
/// One for each target and process: a fuzzer ends without tidying up, so that the next one of its name does it.
pub fn scratch() -> PathBuf {
    let program = std::env::current_exe().expect("a program has a path");
    let memory = PathBuf::from("/dev/shm");
    let parent =
        if memory.is_dir() { memory } else { program.parent().expect("a program lies in a folder").to_owned() };
    let name = program.file_name().expect("a program has a name").to_string_lossy().into_owned();
    let folder = parent.join(format!("decoct-fuzz-{name}-{}", std::process::id()));
    _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).expect("a folder to write in");
    folder
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
