//! A recipe's text and what the command line lays over it, the whole way to typed nodes or to diagnostics drawn for people.
//!
//! Input: the recipe; then, each after a zero byte, what is laid over it: `a.b=value` as `--set`, anything else as `--profile`.
#![no_main]
#![allow(dead_code, unused_imports)] // the program uses more of these modules than the loader

#[path = "../../../engine/src/graph.rs"]
mod graph;
#[path = "../../../engine/src/spec/mod.rs"]
mod spec;

use libfuzzer_sys::{Corpus, fuzz_target};
use spec::Overrides;
use std::path::PathBuf;
use std::sync::LazyLock;

/// Where names in a recipe lead: a folder with one source and one prompt.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = fuzz::scratch();
    std::fs::write(folder.join("exam.jsonl"), "{\"question\": \"a\", \"answer\": \"1\"}\n").unwrap();
    std::fs::create_dir(folder.join("prompts")).unwrap();
    std::fs::write(folder.join("prompts/verify.md"), "{{ conclusion }} {{ truth }}").unwrap();
    folder
});

/// Files that block or never end when they are read. A recipe is its author's own, so that naming one is no attack.
const NO_FILES: [&[u8]; 3] = [b"/dev", b"/proc", b"/sys"];

fuzz_target!(|data: &[u8]| -> Corpus {
    if NO_FILES.iter().any(|name| data.windows(name.len()).any(|window| window == *name)) {
        return Corpus::Reject;
    }
    let mut parts = data.split(|byte| *byte == 0);
    let path = FOLDER.join("recipe.yaml");
    std::fs::write(&path, parts.next().unwrap_or_default()).unwrap();
    let words = parts.map(|part| String::from_utf8_lossy(part).into_owned());
    let (set, profile) = words.partition(|word| word.contains('='));
    match spec::load(&path, &Overrides { profile, set, limit: Some(1) }, None) {
        Ok(recipe) => {
            drop((graph::Graph::build(&recipe), recipe.missing_environment(recipe.nodes.keys().map(String::as_str))))
        }
        Err(diagnostics) => {
            assert!(diagnostics.has_errors(), "a recipe is refused with a reason");
            assert_eq!(diagnostics.to_json().len(), diagnostics.list.len());
            diagnostics.render(true);
        }
    }
    Corpus::Keep
});
