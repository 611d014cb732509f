//! Data files as a `source` reads them: JSON Lines, JSON lists, CSV; then as the store would keep them.
//!
//! Input: a byte that chooses the format, then the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use stages::rows::Rows;
use stages::stage::{Artifact, Inputs};
use std::path::PathBuf;
use std::sync::LazyLock;

const FORMATS: [&str; 3] = ["jsonl", "json", "csv"];

static FILE: LazyLock<PathBuf> = LazyLock::new(|| fuzz::scratch().join("data"));

fuzz_target!(|data: &[u8]| {
    let Some((format, file)) = data.split_first() else { return };
    let format = FORMATS[usize::from(*format) % FORMATS.len()];
    std::fs::write(&*FILE, file).unwrap();
    let Some(stage) = fuzz::stage("source", json!({"path": &*FILE, "format": format})) else { return };
    let outputs = stage.run(Inputs::default(), &*fuzz::context()).expect("what could be read can be given out");
    let Artifact::Rows(rows) = &outputs.artifacts[""] else { unreachable!("a source gives rows") };
    assert!(!rows.is_empty());
    // A name that our own id column has is refused here, with a sentence.
    let Ok(batch) = rows.to_batch() else { return };
    let back = Rows::from_batches(std::slice::from_ref(&batch)).expect("what we write we read");
    assert_eq!(&back, rows);
    cache::content_hash(&batch.schema(), [&batch]).expect("every cell has a hash");
});
