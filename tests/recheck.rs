//! `run --recheck`: a finished node is executed again and gives the same, whatever its kind; where it does not, rows and tensors
//! are named, and nothing in the store is touched.

#[path = "support/kitchen.rs"]
mod kitchen;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use cache::{Found, Manifest, Placement, Provenance, Store, Table};
use kitchen::{Kitchen, Run};
use std::path::Path;
use std::sync::Arc;

const EVERY_KIND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/every_kind");

fn cooked(more: &[&str]) -> Kitchen {
    let kitchen = Kitchen::copy_of(Path::new(EVERY_KIND));
    kitchen.run(more).expect_done();
    kitchen
}

fn store(kitchen: &Kitchen) -> Store {
    Store::open(&kitchen.store()).unwrap()
}

fn manifest(kitchen: &Kitchen, node: &str) -> Manifest {
    let store = store(kitchen);
    let key = store.history("recipe", node).last().unwrap().key;
    let Ok(Found::Intact(manifest)) = store.lookup(&key) else { panic!("`{node}` is not in the store") };
    manifest
}

/// What was warned of a node.
fn warnings(run: &Run, node: &str) -> Vec<String> {
    let events = run.events.iter().filter(|event| event["event"] == "warning" && event["node"] == node);
    events.map(|event| event["message"].as_str().unwrap().to_string()).collect()
}

/// Names and times of all stored outputs and manifests.
fn stored(kitchen: &Kitchen) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let files = kitchen.files().into_iter().filter(|path| {
        let folder = path.strip_prefix(kitchen.store()).unwrap();
        folder.starts_with("cas") || folder.starts_with("ac")
    });
    files.map(|path| (path.clone(), std::fs::metadata(&path).unwrap().modified().unwrap())).collect()
}

#[test]
fn every_kind_gives_the_same_again_and_nothing_is_paid_or_published() {
    let kitchen = cooked(&[]);
    let before = stored(&kitchen);
    let nodes: Vec<String> =
        kitchen.run(&[]).expect_done().nodes.iter().map(|node| node["node"].as_str().unwrap().into()).collect();
    let wishes: Vec<String> = nodes.iter().map(|node| format!("--recheck={node}")).collect();
    let run = kitchen.run(&wishes.iter().map(String::as_str).collect::<Vec<_>>()).expect_done();
    for node in &run.nodes {
        assert_eq!((&node["state"], &node["recheck"]), (&"hit".into(), &"same".into()), "{node}");
    }
    assert_eq!(run.total("calls"), 0);
    assert!(run.total("calls_reused") > 0);
    assert_eq!(stored(&kitchen), before);
    assert!(kitchen.scratch_files().is_empty());
    let plain = kitchen.decoct(&["run", "recipe.yaml", "--recheck", "chains"]);
    let told = String::from_utf8(plain.stderr).unwrap();
    assert!(told.contains("rechecked: same"), "{told}");
}

/// Puts a table with every verdict turned round under the key of `verdicts`.
fn forge_verdicts(kitchen: &Kitchen) -> Vec<String> {
    let (store, manifest) = (store(kitchen), manifest(kitchen, "verdicts"));
    let open = |output| store.open_rows(&manifest, output).unwrap().intact().unwrap();
    let (table, dropped) = (open(""), open("dropped"));
    let place = table.schema.index_of("verdict").unwrap();
    let turned = |batch: &RecordBatch| {
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        let verdicts = columns[place].as_any().downcast_ref::<BooleanArray>().unwrap();
        columns[place] =
            Arc::new(verdicts.iter().map(|verdict| verdict.map(|verdict| !verdict)).collect::<BooleanArray>());
        RecordBatch::try_new(batch.schema(), columns).unwrap()
    };
    let forged = Table::new(table.schema.clone(), table.batches.iter().map(turned).collect());
    let mut publication = store.publish(manifest.preimage.clone());
    publication.table("", &forged).unwrap();
    publication.table("dropped", &dropped).unwrap();
    publication.commit(Provenance::default()).unwrap();
    let ids = table.batches.iter().flat_map(|batch| {
        let ids = batch.column_by_name("row_id").unwrap().as_any().downcast_ref::<arrow::array::StringArray>().unwrap();
        ids.iter().map(|id| id.unwrap().to_string()).collect::<Vec<_>>()
    });
    ids.collect()
}

#[test]
fn a_different_row_is_named_with_its_column_and_the_rest_is_counted() {
    let kitchen = cooked(&["--until", "verdicts"]);
    let ids = forge_verdicts(&kitchen);
    let before = stored(&kitchen);
    let run = kitchen.run(&["--until", "verdicts", "--recheck", "verdicts"]);
    assert_eq!(run.exit, 1, "{}", run.told);
    let node = run.node("verdicts");
    assert_eq!((&node["state"], &node["recheck"]), (&"failed".into(), &"different".into()));
    assert!(node["why"].as_str().unwrap().contains(&format!("`verdicts` has {} differences", ids.len())), "{node}");
    let told = warnings(&run, "verdicts");
    assert_eq!(told.len(), 6, "{told:?}");
    for (id, told) in ids.iter().zip(&told[..5]) {
        let places = [
            format!("row `{id}`, column `verdict`: `false` → `true`"),
            format!("row `{id}`, column `verdict`: `true` → `false`"),
        ];
        assert!(places.iter().any(|place| told.contains(place.as_str())), "{told}");
    }
    assert!(told[5].contains(&format!("{} more", ids.len() - 5)), "{}", told[5]);
    assert_eq!(stored(&kitchen), before, "the cached result stays");
}

#[test]
fn a_different_weight_is_named_by_its_tensor() {
    let kitchen = cooked(&["--until", "student"]);
    let (store, manifest) = (store(&kitchen), manifest(&kitchen, "student"));
    let mut publication = store.publish(manifest.preimage.clone());
    for output in ["", "base"] {
        let folder = kitchen.path(&format!("forged {output}"));
        store.materialise(&manifest, output, &folder, Placement::Copy).unwrap().intact().unwrap();
        if output.is_empty() {
            let path = folder.join("model.safetensors");
            let mut bytes = std::fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        publication.tree(output, &folder, &["timings.json"]).unwrap();
    }
    publication.commit(Provenance::default()).unwrap();
    let run = kitchen.run(&["--until", "student", "--recheck", "student"]);
    assert_eq!(run.exit, 1, "{}", run.told);
    let told = warnings(&run, "student");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("file `model.safetensors`, tensor `model."), "{told:?}");
    assert!(told[0].contains(": 1 of ") && told[0].contains("numbers differ, by "), "{told:?}");
}

#[test]
fn an_input_that_is_gone_is_made_again_first() {
    let kitchen = cooked(&["--until", "verdicts"]);
    lose(&kitchen, "halves");
    let run = kitchen.run(&["--until", "verdicts", "--recheck", "chains"]).expect_done();
    let shown = |node: &str| (run.node(node)["state"].clone(), run.node(node)["recheck"].clone());
    assert_eq!(shown("halves"), ("ran".into(), serde_json::Value::Null));
    assert_eq!(shown("chains"), ("hit".into(), "same".into()));
}

/// Removes the files of a node's outputs.
fn lose(kitchen: &Kitchen, node: &str) {
    for (blob, _) in manifest(kitchen, node).outputs.values().flat_map(cache::Output::blobs) {
        std::fs::remove_file(store(kitchen).layout().blob(&blob)).unwrap();
    }
}

#[test]
fn where_there_is_nothing_to_compare_with_it_says_so() {
    let kitchen = cooked(&["--until", "verdicts"]);
    lose(&kitchen, "chains");
    let run = kitchen.run(&["--until", "verdicts", "--recheck", "chains"]).expect_done();
    assert_eq!(run.node("chains")["recheck"], "same", "its hash is still known");
    assert!(warnings(&run, "chains")[0].contains("are gone"), "{:?}", run.events);
    let run = kitchen.run(&["--until", "chains", "--recheck", "chains"]).expect_done();
    assert_eq!((&run.node("chains")["state"], run.node("chains").get("recheck")), (&"ran".into(), None));
    assert!(warnings(&run, "chains")[0].contains("no cached result to compare with"), "{:?}", run.events);
    let unknown = kitchen.decoct(&["run", "recipe.yaml", "--recheck", "chans"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean `chains`?"));
}
