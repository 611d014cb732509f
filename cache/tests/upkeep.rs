//! Sweeps, pins, usage and verification: nothing that is needed goes, what goes is what was said, and damage is found.

use std::any::Any;
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use cache::{
    ActionKey, Error, Found, Manifest, Pin, Placement, Preimage, Problem, Provenance, RunHead, RunNode, Share, Store,
    SweepOptions, Table,
};

const AT_ONCE: SweepOptions = SweepOptions { grace: Duration::ZERO };

fn with_store(test: impl FnOnce(&Store, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    test(&store, folder.path());
}

fn table(values: &[i64]) -> Table {
    let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
    Table::new(batch.schema(), vec![batch])
}

fn preimage(name: &str) -> Preimage {
    Preimage::new().text("kind", name)
}

/// One generation of `node`, called `name`.
fn publish(store: &Store, name: &str, node: &str, values: &[i64]) -> Manifest {
    let mut publication = store.publish(preimage(name));
    publication.table("rows", &table(values)).unwrap();
    let (pipeline, node) = ("medical".to_owned(), node.to_owned());
    let provenance = Provenance { pipeline, node, finished_at: cache::now_seconds(), ..Provenance::default() };
    let manifest = publication.commit(provenance).unwrap();
    store.remember("medical", &manifest.provenance.node, &manifest.key, cache::now_seconds()).unwrap();
    manifest
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Bytes on disk: each file once, however many names it has.
fn bytes_below(folder: &Path) -> u64 {
    let metadata: Vec<_> = files(folder).iter().map(|path| fs::symlink_metadata(path).unwrap()).collect();
    let mut seen = HashSet::new();
    metadata.iter().filter(|metadata| seen.insert(metadata.ino())).map(|metadata| metadata.len()).sum()
}

fn age(path: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
    File::open(path).unwrap().set_modified(then).unwrap();
}

fn age_all(store: &Store, days: u64) {
    files(store.layout().root()).iter().for_each(|path| age(path, days));
}

fn run_of(store: &Store, manifest: &Manifest) -> cache::RunRecord {
    let record = store.begin_run(&RunHead::default()).unwrap();
    let node = RunNode {
        node: manifest.provenance.node.clone(),
        kind: "cot".into(),
        key: manifest.key,
        state: "hit".into(),
        calls: 0,
        calls_reused: 0,
        cost_usd: 0.0,
        seconds: 0.0,
        at: cache::now_seconds(),
    };
    record.node(&node).unwrap();
    record
}

fn pin_of(manifest: &Manifest) -> Pin {
    let keys = [("chains".to_owned(), manifest.key)].into();
    let nothing = String::new;
    Pin { name: "paper".into(), at: 1, pipeline: nothing(), recipe: nothing(), overrides: vec![], keys }
}

fn is_there(store: &Store, manifest: &Manifest) -> bool {
    let found = store.lookup(&manifest.key).unwrap().intact();
    found.is_some_and(|manifest| store.open_rows(&manifest, "rows").unwrap().intact().is_some())
}

/// Sweeps and checks that the disk agrees with what was said before and after.
fn sweep(store: &Store, roots: &[ActionKey], options: SweepOptions) -> Share {
    let plan = store.plan_sweep(&BTreeSet::from_iter(roots.iter().copied()), &options).unwrap();
    let before = bytes_below(store.layout().root());
    let swept = store.sweep(&plan).unwrap();
    assert_eq!(before - bytes_below(store.layout().root()), plan.total.bytes, "what was said is what is freed");
    assert_eq!((swept.removed, swept.spared), (plan.total, 0));
    swept.removed
}

#[test]
fn what_a_root_names_stays_and_nothing_else() {
    type Setup = fn(&Store, &Manifest) -> (Vec<ActionKey>, Box<dyn Any>);
    let month = SweepOptions::default();
    let check = |name: &str, setup: Setup, options: SweepOptions, stays: bool| {
        with_store(|store, _| {
            let manifest = publish(store, "a", "chains", &[1, 2, 3]);
            age_all(store, 60);
            let (roots, _guard) = setup(store, &manifest);
            sweep(store, &roots, options);
            assert_eq!(is_there(store, &manifest), stays, "{name}");
            assert_eq!(store.history("medical", "chains").len(), usize::from(stays), "{name}: its history");
        });
    };
    let nothing: Setup = |_, _| (vec![], Box::new(()));
    check("no root", nothing, month, false);
    check("a recipe names it", |_, manifest| (vec![manifest.key], Box::new(())), AT_ONCE, true);
    check("a recipe names another", |_, _| (vec![preimage("b").action_key()], Box::new(())), month, false);
    let pinned: Setup = |store, manifest| {
        store.pin(&pin_of(manifest)).unwrap();
        age_all(store, 60);
        (vec![], Box::new(()))
    };
    check("an old pin", pinned, AT_ONCE, true);
    let unpinned: Setup = |store, manifest| {
        store.pin(&pin_of(manifest)).unwrap();
        assert!(store.unpin("paper").unwrap());
        (vec![], Box::new(()))
    };
    check("a pin that was removed", unpinned, month, false);
    let used: Setup = |store, manifest| {
        drop(run_of(store, manifest));
        (vec![], Box::new(()))
    };
    check("used by a run of today", used, month, true);
    check("used by a run of today, without grace", used, AT_ONCE, false);
    let long_ago: Setup = |store, manifest| {
        drop(run_of(store, manifest));
        age_all(store, 40);
        (vec![], Box::new(()))
    };
    check("used by a run of long ago", long_ago, month, false);
    let running: Setup = |store, manifest| {
        let record = run_of(store, manifest);
        age_all(store, 40);
        (vec![], Box::new(record))
    };
    check("used by a run that still goes on", running, AT_ONCE, true);
    let locked: Setup = |store, manifest| (vec![], Box::new(store.lock(&manifest.key).unwrap()));
    check("someone works on it", locked, AT_ONCE, true);
    let young: Setup = |store, manifest| {
        age(&store.layout().manifest(&manifest.key), 20);
        (vec![], Box::new(()))
    };
    check("finished within the grace period", young, month, true);
    check(
        "finished before a shorter grace period",
        young,
        SweepOptions { grace: Duration::from_secs(7 * 86_400) },
        false,
    );
}

#[test]
fn a_shared_blob_stays_as_long_as_one_generation_needs_it() {
    with_store(|store, _| {
        let one = publish(store, "a", "chains", &[1, 2, 3]);
        let two = publish(store, "b", "verdicts", &[1, 2, 3]);
        assert_eq!(store.blobs().unwrap().len(), 1);
        age_all(store, 60);
        sweep(store, &[two.key], AT_ONCE);
        assert!(!is_there(store, &one) && is_there(store, &two));
        sweep(store, &[], AT_ONCE);
        assert!(store.blobs().unwrap().is_empty());
    });
}

/// The disaster: the disk is full, the sweep says it freed gigabytes, and the disk is still full.
#[test]
fn a_file_with_a_name_outside_the_store_frees_nothing() {
    with_store(|store, folder| {
        let model = folder.join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("weights"), vec![7; 100_000]).unwrap();
        let mut publication = store.publish(preimage("student"));
        publication.tree("model", &model, &[]).unwrap();
        let manifest = publication.commit(Provenance::default()).unwrap();
        let outside = folder.join("linked");
        assert_eq!(store.materialise(&manifest, "model", &outside, Placement::Link).unwrap(), Found::Intact(()));
        age_all(store, 60);
        let plan = store.plan_sweep(&BTreeSet::new(), &AT_ONCE).unwrap();
        assert!(plan.total.bytes < 100_000, "{:?}", plan.total);
        assert_eq!(store.sweep(&plan).unwrap().removed, plan.total);
        assert_eq!(fs::read(outside.join("weights")).unwrap().len(), 100_000);
    });
}

#[test]
fn checkpoints_go_when_no_one_is_busy_with_them() {
    with_store(|store, _| {
        let manifest = publish(store, "a", "student", &[1]);
        let (left, busy, rooted) = (preimage("left"), preimage("busy"), preimage("rooted"));
        for (preimage, checkpoint) in [(&left, "1"), (&busy, "22"), (&rooted, "333")] {
            let scratch = store.scratch(&preimage.action_key()).unwrap();
            fs::create_dir(scratch.join("inputs")).unwrap();
            fs::write(scratch.join("work"), checkpoint).unwrap();
            let (blob, _) = manifest.outputs["rows"].blobs()[0];
            fs::hard_link(store.layout().blob(&blob), scratch.join("inputs/rows")).unwrap();
            age_all(store, 60);
            age(&scratch, 60);
        }
        let empty = store.scratch(&preimage("empty").action_key()).unwrap();
        age(&empty, 60);
        let _lock = store.lock(&busy.action_key()).unwrap();
        let plan = store.plan_sweep(&BTreeSet::from([rooted.action_key()]), &SweepOptions::default()).unwrap();
        assert_eq!(plan.scratch, Share { files: 2, bytes: 1 }, "a link frees nothing while the file has other names");
        sweep(store, &[rooted.action_key()], AT_ONCE);
        let exists = |preimage: &Preimage| store.layout().scratch(&preimage.action_key()).exists();
        assert_eq!([exists(&left), exists(&busy), exists(&rooted), empty.exists()], [false, true, true, false]);
    });
}

/// A sweep that died between the two steps.
#[test]
fn blobs_without_a_manifest_are_taken_by_the_next_sweep() {
    with_store(|store, _| {
        let manifest = publish(store, "a", "chains", &[1, 2, 3]);
        let young = publish(store, "b", "chains", &[4]);
        age_all(store, 60);
        for manifest in [&manifest, &young] {
            fs::remove_file(store.layout().manifest(&manifest.key)).unwrap();
        }
        age(&store.layout().blob(&young.outputs["rows"].blobs()[0].0), 1);
        let plan = store.plan_sweep(&BTreeSet::new(), &SweepOptions::default()).unwrap();
        assert_eq!((plan.orphans.files, plan.nodes.len()), (1, 0));
        sweep(store, &[], SweepOptions::default());
        assert_eq!(store.blobs().unwrap().len(), 1, "what a publication may be about to name stays");
    });
}

/// The disaster: a blob is swept between its own arrival and that of its manifest.
#[test]
fn a_publication_in_progress_is_not_hit_even_without_grace() {
    with_store(|store, _| {
        let _lock = store.lock(&preimage("a").action_key()).unwrap();
        let mut publication = store.publish(preimage("a"));
        publication.table("rows", &table(&[1, 2, 3])).unwrap();
        assert!(store.plan_sweep(&BTreeSet::new(), &AT_ONCE).unwrap().is_empty());
        let manifest = publication.commit(Provenance::default()).unwrap();
        assert!(store.plan_sweep(&BTreeSet::new(), &AT_ONCE).unwrap().is_empty());
        assert!(is_there(store, &manifest));
    });
}

#[test]
fn what_came_into_use_after_the_plan_stays() {
    let check = |name: &str, meanwhile: fn(&Store, &Manifest) -> Box<dyn Any>, still_there: &str| {
        with_store(|store, _| {
            let manifest = publish(store, "a", "chains", &[1, 2, 3]);
            age_all(store, 60);
            let plan = store.plan_sweep(&BTreeSet::new(), &AT_ONCE).unwrap();
            let _guard = meanwhile(store, &manifest);
            let swept = store.sweep(&plan).unwrap();
            assert!(swept.spared > 0 && swept.removed.bytes < plan.total.bytes, "{name}");
            let kept = store.lookup(&preimage(still_there).action_key()).unwrap().intact().expect(name);
            assert!(is_there(store, &kept), "{name}");
        });
    };
    check("made again", |store, _| Box::new(publish(store, "a", "chains", &[1, 2, 3])), "a");
    check("the same rows under another key", |store, _| Box::new(publish(store, "b", "chains", &[1, 2, 3])), "b");
    check("a run found it", |store, manifest| Box::new(run_of(store, manifest)), "a");
    check("someone took its lock", |store, manifest| Box::new(store.lock(&manifest.key).unwrap()), "a");
    let pin = |store: &Store, manifest: &Manifest| -> Box<dyn Any> {
        store.pin(&pin_of(manifest)).unwrap();
        Box::new(())
    };
    check("it was pinned", pin, "a");
}

#[test]
fn two_sweeps_at_once_free_each_file_once() {
    with_store(|store, _| {
        for number in 0..40 {
            publish(store, &number.to_string(), "chains", &[number]);
        }
        let plan = || store.plan_sweep(&BTreeSet::new(), &AT_ONCE).unwrap();
        let (plans, before) = ([plan(), plan()], bytes_below(store.layout().root()));
        let swept = std::thread::scope(|scope| {
            plans.each_ref().map(|plan| scope.spawn(|| store.sweep(plan).unwrap())).map(|thread| thread.join().unwrap())
        });
        assert_eq!(swept[0].removed.bytes + swept[1].removed.bytes, plans[0].total.bytes);
        assert_eq!(before - bytes_below(store.layout().root()), plans[0].total.bytes);
    });
}

/// Writers and readers that no lock and no record protects: a sweep may take all they have, but only whole files, and no call fails.
#[test]
fn beside_a_sweep_a_reader_gets_all_or_a_miss() {
    with_store(|store, folder| {
        let model = folder.join("model");
        fs::create_dir(&model).unwrap();
        (0..5).for_each(|number| fs::write(model.join(format!("part{number}")), vec![number; 3_000]).unwrap());
        let (done, writers) = (AtomicBool::new(false), AtomicUsize::new(2));
        let work = |placement: Placement, name: &'static str| {
            let mut found = [0, 0];
            // As long as it takes to be swept away and to be spared: how they meet is up to the machine.
            for round in 0..10_000 {
                if round >= 150 && !found.contains(&0) {
                    break;
                }
                let mut publication = store.publish(preimage(name));
                publication.tree("model", &model, &[]).unwrap();
                publication.table("rows", &table(&[1, 2, 3])).unwrap();
                let manifest = publication.commit(Provenance::default()).unwrap();
                let rows = store.open_rows(&manifest, "rows").unwrap();
                rows.intact().inspect(|rows| assert_eq!(rows.concat().unwrap(), table(&[1, 2, 3]).concat().unwrap()));
                let place = folder.join(format!("{name}{round}"));
                let is_whole = store.materialise(&manifest, "model", &place, placement).unwrap().intact().is_some();
                found[usize::from(is_whole)] += 1;
                for path in files(&place) {
                    assert_eq!(fs::read(&path).unwrap(), fs::read(model.join(path.file_name().unwrap())).unwrap());
                }
            }
            done.store(writers.fetch_sub(1, Ordering::SeqCst) == 1, Ordering::SeqCst);
            found
        };
        let sweeping = || {
            let mut removed = 0;
            while !done.load(Ordering::SeqCst) {
                let plan = store.plan_sweep(&BTreeSet::new(), &AT_ONCE).unwrap();
                removed += store.sweep(&plan).unwrap().removed.files;
                std::thread::sleep(Duration::from_millis(removed % 8));
            }
            removed
        };
        let (removed, found) = std::thread::scope(|scope| {
            let writers = [(Placement::Link, "linked"), (Placement::Copy, "copied")];
            let writers = writers.map(|(placement, name)| scope.spawn(move || work(placement, name)));
            (scope.spawn(sweeping).join().unwrap(), writers.map(|writer| writer.join().unwrap()))
        });
        assert!(removed > 0 && found[0][1] + found[1][1] > 0, "they did not meet: {removed} removed, {found:?}");
    });
}

#[test]
fn a_damaged_pin_stops_the_sweep() {
    with_store(|store, _| {
        let manifest = publish(store, "a", "chains", &[1]);
        store.pin(&pin_of(&manifest)).unwrap();
        flip(&store.layout().pin("paper"), 30);
        let refused = store.plan_sweep(&BTreeSet::new(), &AT_ONCE);
        assert!(matches!(refused, Err(Error::DamagedPin { .. })), "{refused:?}");
    });
}

/// A killed process leaves its lock file, which holds nothing.
#[test]
fn locks_of_the_dead_go_and_those_of_the_living_stay() {
    with_store(|store, _| {
        let [dead, living] = ["dead", "living"].map(|name| preimage(name).action_key());
        fs::write(store.layout().lock(&dead), "").unwrap();
        let lock = store.lock(&living).unwrap();
        age_all(store, 60);
        sweep(store, &[], SweepOptions::default());
        let exists = |key: &ActionKey| store.layout().lock(key).exists();
        assert_eq!([exists(&dead), exists(&living)], [false, true]);
        assert!(store.try_lock(&living).unwrap().is_none());
        drop(lock);
    });
}

#[test]
fn usage_counts_every_byte_once_and_by_node() {
    with_store(|store, _| {
        publish(store, "a", "chains", &[1, 2, 3]);
        publish(store, "b", "chains", &[1, 2, 3, 4]);
        let shared = publish(store, "c", "stories", &[1, 2, 3]);
        let manifests = |nodes: &[&Manifest]| -> u64 {
            nodes.iter().map(|manifest| fs::metadata(store.layout().manifest(&manifest.key)).unwrap().len()).sum()
        };
        let replies = store.replies().unwrap();
        for text in ["one", "two", "one"] {
            replies.put(&preimage(text).reply_address(), text.as_bytes()).unwrap();
        }
        drop(replies);
        let usage = store.usage().unwrap();
        let stories = usage.nodes.iter().find(|node| node.node == "stories").unwrap();
        assert_eq!((stories.generations, stories.shared_bytes), (1, shared.bytes()), "counted at the newest");
        assert_eq!(stories.bytes, shared.bytes() + manifests(&[&shared]));
        let chains = usage.nodes.iter().find(|node| node.node == "chains").unwrap();
        assert_eq!((chains.generations, chains.shared_bytes), (2, 0));
        assert_eq!((usage.replies.replies, usage.replies.logs), (2, 1));
        assert_eq!(usage.total.bytes, bytes_below(store.layout().root()));
        let parts = [usage.orphans, usage.scratch, usage.temporary, usage.records, usage.rest];
        let parts: u64 = parts.iter().map(|share| share.bytes).sum();
        let nodes: u64 = usage.nodes.iter().map(|node| node.bytes).sum();
        assert_eq!(parts + nodes + usage.replies.bytes, usage.total.bytes, "the parts are the whole: {usage:?}");
    });
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 0x10;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_of_every_kind_of_file_is_found_and_repaired_once() {
    let check = |name: &str,
                 which: fn(&Store, &Manifest) -> PathBuf,
                 at: usize,
                 expected: fn(&Problem) -> bool,
                 is_lost: bool| {
        with_store(|store, _| {
            let manifest = publish(store, "a", "chains", &[1, 2, 3]);
            publish(store, "b", "verdicts", &[4]);
            let replies = store.replies().unwrap();
            (0..3).for_each(|number| replies.put(&preimage(&number.to_string()).reply_address(), b"yes").unwrap());
            drop((replies, run_of(store, &manifest)));
            store.pin(&pin_of(&manifest)).unwrap();
            let clean = store.verify(&|_| {}).unwrap();
            assert_eq!((clean.problems.len(), clean.replies, clean.lost.len()), (0, 3, 0), "{name}");
            assert_eq!((clean.blobs.files, clean.manifests.files, clean.records.files), (2, 2, 4));
            flip(&which(store, &manifest), at);
            let found = store.verify(&|_| {}).unwrap();
            assert!(found.problems.len() == 1 && expected(&found.problems[0]), "{name}: {:?}", found.problems);
            let lost = found.lost.iter().map(|(_, node)| node.as_str()).collect::<Vec<_>>();
            assert_eq!(lost, if is_lost { vec!["chains"] } else { vec![] }, "{name}");
            let again = store.verify(&|_| {}).unwrap();
            let evicted =
                matches!(found.problems[0], Problem::Blob(_) | Problem::Manifest { .. } | Problem::Index { .. });
            assert_eq!(again.problems.is_empty(), evicted, "{name}: {:?}", again.problems);
        });
    };
    for at in [0, 50, usize::MAX] {
        check(
            "a blob",
            |store, manifest| store.layout().blob(&manifest.outputs["rows"].blobs()[0].0),
            at,
            |problem| matches!(problem, Problem::Blob(_)),
            true,
        );
        let manifest_of = |store: &Store, manifest: &Manifest| store.layout().manifest(&manifest.key);
        check("a manifest", manifest_of, at, |problem| matches!(problem, Problem::Manifest { .. }), true);
    }
    let log = |store: &Store, _: &Manifest| with_ending(&store.layout().replies(), ".log");
    for at in [3, 40, usize::MAX] {
        check("a log", log, at, |problem| matches!(problem, Problem::Log { .. }), false);
    }
    let index = |store: &Store, _: &Manifest| with_ending(&store.layout().replies(), ".idx");
    for at in [0, 40, usize::MAX] {
        check("an index", index, at, |problem| matches!(problem, Problem::Index { .. }), false);
    }
    let history = |store: &Store, _: &Manifest| store.layout().history("medical", "chains");
    check("a history", history, 3, |problem| matches!(problem, Problem::Record { .. }), false);
    let run = |store: &Store, _: &Manifest| with_ending(&store.layout().runs(), ".jsonl");
    check("a run", run, 40, |problem| matches!(problem, Problem::Record { .. }), false);
    let pin = |store: &Store, _: &Manifest| store.layout().pin("paper");
    check("a pin", pin, 40, |problem| matches!(problem, Problem::Pin { .. }) && !problem.is_repaired(), false);
}

fn with_ending(folder: &Path, ending: &str) -> PathBuf {
    files(folder).into_iter().find(|path| path.to_str().unwrap().ends_with(ending)).unwrap()
}

#[test]
fn verification_tells_how_far_it_is() {
    with_store(|store, _| {
        (0..20).for_each(|number| drop(publish(store, &number.to_string(), "chains", &[number])));
        let furthest = std::sync::Mutex::new((0, 0));
        store
            .verify(&|progress| {
                let mut furthest = furthest.lock().unwrap();
                *furthest = (furthest.0.max(progress.done_bytes), progress.total_bytes);
            })
            .unwrap();
        let (done, total) = furthest.into_inner().unwrap();
        assert!(done == total && total > 0, "{done} of {total}");
    });
}
