//! A store under damage, under a race and on a bad disk: never wrong rows, never half a result.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use cache::{Error, Found, Manifest, Notice, Placement, Preimage, Provenance, Store, Table};

fn table(values: &[i64]) -> Table {
    let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
    Table::new(batch.schema(), vec![batch])
}

fn preimage(name: &str) -> Preimage {
    Preimage::new().text("kind", name)
}

fn publish(store: &Store, name: &str, values: &[i64]) -> Manifest {
    let mut publication = store.publish(preimage(name));
    publication.table("rows", &table(values)).unwrap();
    publication.commit(Provenance::default()).unwrap()
}

fn model_folder(root: &Path, seconds: &str) -> PathBuf {
    let folder = root.join("model");
    fs::create_dir_all(folder.join("tokenizer")).unwrap();
    for (name, text) in [("model.safetensors", "weights"), ("tokenizer/vocab.json", "{}"), ("timing.json", seconds)] {
        fs::write(folder.join(name), text).unwrap();
    }
    folder
}

fn with_store(test: impl FnOnce(&Store, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    test(&store, folder.path());
}

/// Overwrites a read-only file of the store.
fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_published_is_found_by_everyone() {
    with_store(|store, folder| {
        let manifest = publish(store, "a", &[1, 2, 3]);
        let other = Store::open(&folder.join("cache")).unwrap();
        assert_eq!(other.lookup(&manifest.key).unwrap(), Found::Intact(manifest.clone()));
        let rows = other.open_rows(&manifest, "rows").unwrap().intact().unwrap();
        assert_eq!(rows.concat().unwrap(), table(&[1, 2, 3]).concat().unwrap());
        assert_eq!(manifest.output("rows").unwrap().content(), table(&[1, 2, 3]).content().unwrap());
        assert_eq!(other.lookup(&preimage("b").action_key()).unwrap(), Found::Missing);
        assert!(other.verify(&|_| {}).unwrap().problems.is_empty());
    });
}

#[test]
fn a_publication_that_is_not_committed_is_not_there() {
    with_store(|store, _| {
        let mut publication = store.publish(preimage("a"));
        publication.table("rows", &table(&[1])).unwrap();
        let key = publication.key();
        drop(publication);
        assert_eq!(store.lookup(&key).unwrap(), Found::Missing);
    });
}

#[test]
fn a_stream_that_fails_half_way_publishes_nothing_and_leaves_no_file() {
    with_store(|store, _| {
        let mut publication = store.publish(preimage("a"));
        let rows = table(&[1]);
        let broken = [Ok(rows.batches[0].clone()), Err(Error::NotAFile { path: "broken".into() })];
        assert!(publication.rows("rows", rows.schema, broken).is_err());
        assert_eq!(fs::read_dir(store.layout().temporary()).unwrap().count(), 0);
        assert!(store.blobs().unwrap().is_empty());
    });
}

#[test]
fn a_damaged_blob_is_a_miss_and_can_be_made_again() {
    let flips: [fn(&mut Vec<u8>); 6] = [
        |bytes| bytes[0] ^= 1,
        |bytes| *bytes.last_mut().unwrap() ^= 128,
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        },
        |bytes| bytes.truncate(bytes.len() - 1),
        |bytes| bytes.push(0),
        |bytes| bytes.clear(),
    ];
    for flip in flips {
        with_store(|store, _| {
            let manifest = publish(store, "a", &[1, 2, 3]);
            let (blob, _) = manifest.output("rows").unwrap().blobs()[0];
            damage(&store.layout().blob(&blob), flip);
            let found = store.open_rows(&manifest, "rows").unwrap();
            assert_eq!(found.notice(), Some(Notice::Blob { blob, key: Some(manifest.key) }));
            assert_eq!(store.lookup(&manifest.key).unwrap(), Found::Missing);
            assert_eq!(publish(store, "a", &[1, 2, 3]).outputs, manifest.outputs);
            assert!(store.open_rows(&manifest, "rows").unwrap().intact().is_some());
        });
    }
}

#[test]
fn another_valid_blob_in_its_place_is_noticed() {
    with_store(|store, _| {
        let (one, two) = (publish(store, "a", &[1]), publish(store, "b", &[2]));
        let path = |manifest: &Manifest| store.layout().blob(&manifest.outputs["rows"].blobs()[0].0);
        fs::rename(path(&two), path(&one)).unwrap();
        assert!(store.open_rows(&one, "rows").unwrap().notice().is_some());
        assert!(store.open_rows(&two, "rows").unwrap().notice().is_some());
    });
}

#[test]
fn a_damaged_or_swapped_manifest_is_a_miss() {
    with_store(|store, _| {
        let (one, two) = (publish(store, "a", &[1]), publish(store, "b", &[2]));
        fs::rename(store.layout().manifest(&two.key), store.layout().manifest(&one.key)).unwrap();
        assert!(
            matches!(store.lookup(&one.key).unwrap(), Found::Damaged(Notice::Manifest { key, .. }) if key == one.key)
        );
        assert_eq!(store.lookup(&one.key).unwrap(), Found::Missing, "evicted");
        let three = publish(store, "c", &[3]);
        damage(&store.layout().manifest(&three.key), |bytes| bytes.truncate(40));
        assert_eq!(store.verify(&|_| {}).unwrap().problems.len(), 1);
    });
}

/// Content is known without its blob: one that no one opens may be gone.
#[test]
fn a_missing_blob_that_no_one_needs_is_no_miss() {
    with_store(|store, _| {
        let manifest = publish(store, "a", &[1]);
        let (blob, _) = manifest.outputs["rows"].blobs()[0];
        assert!(store.missing_blobs(&manifest).unwrap().is_empty());
        fs::remove_file(store.layout().blob(&blob)).unwrap();
        assert!(store.lookup(&manifest.key).unwrap().intact().is_some());
        assert_eq!(store.missing_blobs(&manifest).unwrap(), [blob]);
    });
}

#[test]
fn a_model_comes_back_as_it_was_and_its_times_are_not_content() {
    with_store(|store, folder| {
        let publish = |seconds: &str| {
            let mut publication = store.publish(preimage(seconds));
            publication.tree("model", &model_folder(folder, seconds), &["timing.json"]).unwrap();
            publication.commit(Provenance::default()).unwrap()
        };
        let (fast, slow) = (publish("1"), publish("2"));
        assert_eq!(fast.outputs["model"].content(), slow.outputs["model"].content());
        for how in [Placement::Link, Placement::Copy] {
            let target = folder.join(format!("{how:?}"));
            for _ in 0..2 {
                assert!(store.materialise(&slow, "model", &target, how).unwrap().intact().is_some());
            }
            assert_eq!(fs::read_to_string(target.join("tokenizer/vocab.json")).unwrap(), "{}");
            assert_eq!(fs::read_to_string(target.join("timing.json")).unwrap(), "2");
            let writable = fs::metadata(target.join("model.safetensors")).unwrap().permissions().mode() & 0o200 != 0;
            assert_eq!(writable, how == Placement::Copy, "{how:?}");
        }
    });
}

/// The disaster: a linked model file is edited in place and the edit becomes a cached result.
#[test]
fn an_edit_through_a_hard_link_is_never_served() {
    with_store(|store, folder| {
        let mut publication = store.publish(preimage("a"));
        publication.tree("model", &model_folder(folder, "1"), &[]).unwrap();
        let manifest = publication.commit(Provenance::default()).unwrap();
        let target = folder.join("out");
        assert!(store.materialise(&manifest, "model", &target, Placement::Link).unwrap().intact().is_some());
        let file = target.join("model.safetensors");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, "weightz").unwrap();
        let again = store.materialise(&manifest, "model", &folder.join("again"), Placement::Copy).unwrap();
        assert!(again.notice().is_some());
    });
}

#[test]
fn old_generations_stay() {
    with_store(|store, _| {
        let (old, new) = (publish(store, "old prompt", &[1]), publish(store, "new prompt", &[2]));
        assert!(store.lookup(&old.key).unwrap().intact().is_some());
        assert!(store.lookup(&new.key).unwrap().intact().is_some());
        assert_eq!(store.keys().unwrap().len(), 2);
    });
}

#[test]
fn checkpoints_survive_until_their_action_is_published() {
    with_store(|store, folder| {
        let key = preimage("a").action_key();
        fs::write(store.scratch(&key).unwrap().join("step-10"), "weights").unwrap();
        let reopened = Store::open(&folder.join("cache")).unwrap();
        assert!(reopened.scratch(&key).unwrap().join("step-10").exists());
        publish(&reopened, "a", &[1]);
        assert!(!store.layout().scratch(&key).exists());
    });
}

#[test]
fn writers_of_one_key_all_end_with_one_answer() {
    with_store(|store, _| {
        let made = std::sync::atomic::AtomicUsize::new(0);
        let work = || {
            let key = preimage("a").action_key();
            let _lock = store.lock(&key).unwrap();
            match store.lookup(&key).unwrap().intact() {
                Some(manifest) => manifest,
                None => {
                    made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    publish(store, "a", &[7])
                }
            }
        };
        let manifests: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(made.into_inner(), 1);
        assert!(manifests.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(fs::read_dir(store.layout().root().join("locks")).unwrap().count(), 0, "no lock file is left");
    });
}

/// Without the lock (a file system that has none) both do the work, both results are whole, one manifest wins.
#[test]
fn unlocked_writers_of_one_key_never_leave_half_a_result() {
    with_store(|store, _| {
        std::thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || {
                    for _ in 0..10 {
                        let adopted = publish(store, "a", &[worker]);
                        assert!(store.open_rows(&adopted, "rows").unwrap().intact().is_some());
                    }
                });
            }
        });
        assert!(store.verify(&|_| {}).unwrap().problems.is_empty());
    });
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    with_store(|store, folder| {
        fs::write(store.layout().format(), "decoct-store 2\n").unwrap();
        let error = Store::open(&folder.join("cache")).unwrap_err();
        assert!(
            matches!(error, Error::UnknownFormat { .. }) && error.to_string().contains("decoct-store 2"),
            "{error}"
        );
    });
}

#[test]
fn a_folder_that_cannot_be_written_says_where_and_what_next() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("cache")).unwrap_err().to_string();
    assert!(error.contains("file/cache") && error.contains("hint:"), "{error}");
}

/// Not a test of its own: what a spawned process does until it is killed.
#[test]
fn child_process() {
    let Ok(folder) = std::env::var("CACHE_TEST_FOLDER") else { return };
    let store = Store::open(Path::new(&folder)).unwrap();
    for number in 0.. {
        let name = number.to_string();
        let _lock = store.lock(&preimage(&name).action_key()).unwrap();
        publish(&store, &name, &[number]);
        println!("\npublished {number}");
    }
}

/// Each round kills a writer somewhere between two of its durable steps; the next one goes over the same keys.
#[test]
fn kill_9_while_publishing_leaves_whole_results_only() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..6_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_process", "--nocapture"])
            .env("CACHE_TEST_FOLDER", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut published = Vec::new();
        for number in lines.filter_map(|line| line.strip_prefix("published ")?.parse::<i64>().ok()) {
            published.push(number);
            if published.len() as u64 == round + 1 {
                std::thread::sleep(std::time::Duration::from_micros(900 * round));
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(store.verify(&|_| {}).unwrap().problems.is_empty(), "round {round}");
        assert!(published.len() as u64 > round);
        for number in published {
            let key = preimage(&number.to_string()).action_key();
            assert!(store.try_lock(&key).unwrap().is_some(), "a lock survived its process");
            let manifest = store.lookup(&key).unwrap().intact().expect("published before the kill");
            let rows = store.open_rows(&manifest, "rows").unwrap().intact().expect("blobs come before manifests");
            assert_eq!(rows.concat().unwrap(), table(&[number]).concat().unwrap());
        }
    }
}
