//! Stores made by earlier releases stay readable: every result, every reply. `tests/stores/make` made the ones beside it.

#[path = "support/kitchen.rs"]
mod kitchen;

use cache::tree::tree_content;
use cache::{Digest, Found, Manifest, Output, Placement, ReplyAddress, Store};
use kitchen::Kitchen;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const STORES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/stores");
/// What the recipe is called in histories, after its file.
const PIPELINE: &str = "recipe";

/// A store of an earlier release, in a place where it may be opened, with what the run that made it said of each node.
struct Old {
    kitchen: Kitchen,
    nodes: Vec<Value>,
}

/// One of each format that there has been.
fn old_stores() -> Vec<Old> {
    let mut formats: Vec<PathBuf> = std::fs::read_dir(STORES).unwrap().map(|entry| entry.unwrap().path()).collect();
    formats.retain(|path| path.is_dir());
    assert!(!formats.is_empty());
    formats.iter().map(|path| old(path)).collect()
}

fn old(original: &Path) -> Old {
    let kitchen = Kitchen::new(&std::fs::read_to_string(Path::new(STORES).join("recipe.yaml")).unwrap());
    copy(original, &kitchen.store());
    let finished = std::fs::read_to_string(original.with_extension("finished.json")).unwrap();
    let finished: Value = serde_json::from_str(&finished).unwrap();
    Old { kitchen, nodes: finished["nodes"].as_array().unwrap().clone() }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, target).unwrap();
        }
    }
}

impl Old {
    fn open(&self) -> Store {
        Store::open(&self.kitchen.store()).unwrap()
    }

    fn logs(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.kitchen.store().join("replies")).unwrap();
        files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().unwrap() == "log").collect()
    }
}

/// The manifest that the history of a node ends with.
fn manifest_of(store: &Store, node: &Value) -> Manifest {
    let name = node["node"].as_str().unwrap();
    let history = store.history(PIPELINE, name);
    let key = history.last().unwrap_or_else(|| panic!("`{name}` has no history")).key;
    store.lookup(&key).unwrap().intact().unwrap_or_else(|| panic!("the manifest of `{name}` is unreadable"))
}

fn check_output(store: &Store, manifest: &Manifest, name: &str, output: &Output) {
    match output {
        Output::Rows { content, rows, .. } => {
            let table = store.open_rows(manifest, name).unwrap().intact().expect("its rows are whole");
            let counted: usize = table.batches.iter().map(|batch| batch.num_rows()).sum();
            assert_eq!((table.content().unwrap(), counted as u64), (*content, *rows));
        }
        Output::Tree { content, files } => {
            let folder = tempfile::tempdir().unwrap();
            let placed = store.materialise(manifest, name, folder.path(), Placement::Copy).unwrap();
            assert_eq!((placed, tree_content(files)), (Found::Intact(()), *content));
        }
    }
}

#[test]
fn every_result_of_an_earlier_release_is_read_with_its_content() {
    for old in old_stores() {
        let store = old.open();
        for node in &old.nodes {
            let manifest = manifest_of(&store, node);
            for (name, output) in &manifest.outputs {
                check_output(&store, &manifest, name, output);
            }
            let contents: Vec<String> = manifest.outputs.values().map(|output| output.content().to_string()).collect();
            assert!(contents.iter().any(|content| node["output"] == content.as_str()), "{node}: {contents:?}");
            assert_eq!(manifest.provenance.kind, node["kind"].as_str().unwrap());
        }
        assert_eq!(store.keys().unwrap().len(), old.nodes.len());
    }
}

/// Where replies lie in a log, read from its index by nothing but the description of the format: a header of 16 bytes, the log's
/// size and the number of entries, then address, offset and length of each record, in all 44 bytes.
fn entries(log: &Path) -> Vec<(ReplyAddress, usize, usize)> {
    let index = std::fs::read(log.with_extension("idx")).unwrap();
    let entries = index[32..index.len() - 32].chunks(44);
    let entry = |bytes: &[u8]| {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let address = ReplyAddress(Digest::from_bytes(bytes[..32].try_into().unwrap()));
        (address, number(&bytes[32..40]), number(&bytes[40..]))
    };
    entries.map(entry).collect()
}

#[test]
fn every_reply_of_an_earlier_release_is_read_byte_for_byte() {
    const PREFIX_BYTES: usize = 48;
    for old in old_stores() {
        let mut expected = BTreeMap::new();
        for log in old.logs() {
            let bytes = std::fs::read(&log).unwrap();
            let reply = |(address, offset, length)| (address, bytes[offset + PREFIX_BYTES..offset + length].to_vec());
            expected.extend(entries(&log).into_iter().map(reply));
        }
        let calls: u64 = old.nodes.iter().map(|node| node["calls"].as_u64().unwrap()).sum();
        assert_eq!(expected.len() as u64, calls, "the store holds what was paid for");
        for with_index in [true, false] {
            for log in old.logs().iter().filter(|_| !with_index) {
                std::fs::remove_file(log.with_extension("idx")).unwrap();
            }
            let replies = old.open().replies().unwrap();
            assert_eq!(replies.len(), expected.len());
            for (address, reply) in &expected {
                assert_eq!(replies.get(address).as_ref(), Some(reply), "with an index: {with_index}");
            }
        }
    }
}

#[test]
fn an_earlier_store_is_well_and_goes_on_being_used() {
    for old in old_stores() {
        let verified = old.kitchen.says(&["cache", "verify"]);
        assert!(verified.contains("all is well"), "{verified}");
        let outputs = old.kitchen.run(&[]).expect_done().outputs();
        assert_eq!(old.kitchen.run(&[]).expect_done().outputs(), outputs);
        for node in &old.nodes {
            manifest_of(&old.open(), node);
        }
    }
}

/// The disaster: an old program half understands a new store, evicts what it cannot read, and writes beside it.
#[test]
fn a_store_of_a_newer_program_is_refused_by_every_command_and_stays_as_it_is() {
    let old = old_stores().pop().unwrap();
    let format = old.kitchen.store().join("format");
    std::fs::remove_file(&format).unwrap();
    std::fs::write(&format, "decoct-store 2\nwritten by decoct 7.1.0\n").unwrap();
    let before = old.kitchen.files();
    for arguments in [&["run", "recipe.yaml"][..], &["plan", "recipe.yaml"], &["cache", "verify"], &["cache", "stat"]] {
        let output = old.kitchen.decoct(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {told}");
        assert!(told.contains("`decoct-store 2, written by decoct 7.1.0`"), "{arguments:?}: {told}");
        assert!(told.contains("use a newer decoct"), "{arguments:?}: {told}");
    }
    assert_eq!(old.kitchen.files(), before);
}
