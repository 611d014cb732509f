//! A store that a team shares: paid once by all, never wrong bytes, never half a result, whatever happens to the store between.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cache::{Error, Found, Manifest, Push, Put, Sharing, SharingOptions, Store, Transfer, Trust};
use support::{Faulty, Memory, Team, buckets, find, on_each_bucket, preimage, publish, read, snapshot, table};

fn blob_path(store: &Store, manifest: &Manifest) -> String {
    below_root(store, &store.layout().blob(&manifest.outputs["rows"].blobs()[0].0))
}

fn manifest_path(store: &Store, manifest: &Manifest) -> String {
    below_root(store, &store.layout().manifest(&manifest.key))
}

fn below_root(store: &Store, path: &Path) -> String {
    path.strip_prefix(store.layout().root()).unwrap().to_str().unwrap().to_owned()
}

fn silent(_: Transfer) {}

#[test]
fn what_one_machine_publishes_is_a_hit_on_another() {
    on_each_bucket(2, |name, team| {
        let (ours, theirs) = (team.machine(0), team.machine(1));
        let published = publish(&ours, "a", &[1, 2, 3]);
        assert_eq!(find(&theirs, "a"), Some(vec![1, 2, 3]), "{name}");
        assert_eq!(find(&theirs, "b"), None);
        let (sent, fetched) = (ours.sharing().unwrap().report().sent, theirs.sharing().unwrap().report().fetched);
        assert_eq!((sent.manifests, sent.blobs, fetched.manifests, fetched.blobs), (1, 1, 1, 1), "{name}");
        // From now on without the shared store.
        let alone = Store::open(theirs.layout().root()).unwrap();
        assert_eq!(alone.lookup(&published.key).unwrap(), Found::Intact(published));
        assert_eq!(find(&alone, "a"), Some(vec![1, 2, 3]));
        assert!(alone.verify(&|_| {}).unwrap().problems.is_empty());
    });
}

#[test]
fn what_is_here_costs_no_request() {
    let faulty = Arc::new(Faulty::new(Arc::new(Memory::default())));
    let team = Team::new(1, faulty.clone());
    let store = team.machine(0);
    publish(&store, "a", &[1]);
    faulty.is_dead.store(true, Ordering::SeqCst);
    let before = faulty.requests.load(Ordering::SeqCst);
    assert_eq!(find(&store, "a"), Some(vec![1]));
    assert_eq!(faulty.requests.load(Ordering::SeqCst), before);
}

/// The disaster: the manifest of one writer over the rows of another, or two machines that build on different answers for ever.
#[test]
fn writers_of_one_key_go_on_with_one_whole_answer() {
    const WRITERS: usize = 4;
    on_each_bucket(WRITERS, |name, team| {
        let machines: Vec<_> = (0..WRITERS).map(|member| team.machine(member)).collect();
        for round in 0..12 {
            let action = format!("round {round}");
            let rows = |writer: usize| vec![writer as i64; writer + 1];
            let adopted: Vec<Manifest> = std::thread::scope(|scope| {
                let write = |(writer, store)| publish(store, &action, &rows(writer));
                let writers = machines.iter().enumerate().map(|pair| scope.spawn(move || write(pair)));
                let writers: Vec<_> = writers.collect();
                writers.into_iter().map(|writer| writer.join().unwrap()).collect()
            });
            for (store, manifest) in machines.iter().zip(&adopted) {
                let found = read(store, manifest).expect("whole");
                assert_eq!(found, rows(found[0] as usize), "{name}: rows of two writers");
                assert_eq!(store.lookup(&manifest.key).unwrap().intact().as_ref(), Some(manifest), "{name}");
            }
            let there = find(&team.machine(0), &action).expect("whole there");
            assert!(
                adopted.iter().any(|manifest| manifest.outputs["rows"].content() == table(&there).content().unwrap())
            );
            if name != "careless folder" {
                assert!(adopted.windows(2).all(|pair| pair[0] == pair[1]), "{name}: different answers");
            }
        }
    });
}

#[test]
fn who_comes_second_adopts_what_is_there() {
    on_each_bucket(2, |name, team| {
        let (first, second) = (team.machine(0), team.machine(1));
        let kept = publish(&first, "a", &[1]);
        assert_eq!(publish(&second, "a", &[2]), kept, "{name}");
        assert_eq!(find(&second, "a"), Some(vec![1]));
        assert_eq!(second.sharing().unwrap().report().sent.blobs, 0, "{name}: nothing is sent in vain");
    });
}

/// `run --force` and `--retry-marked` would otherwise adopt the very result they were to replace.
#[test]
fn what_is_done_again_on_purpose_replaces_what_is_there() {
    on_each_bucket(2, |name, team| {
        publish(&team.machine(0), "a", &[1]);
        let second = team.machine(1);
        let mut publication = second.publish(preimage("a"));
        publication.table("rows", &table(&[2])).unwrap();
        publication.replace();
        publication.commit(Default::default()).unwrap();
        assert_eq!(find(&second, "a"), Some(vec![2]), "{name}");
        assert_eq!(find(&team.machine(0), "a"), Some(vec![2]), "{name}");
    });
}

/// A machine that wants the rows of an action and makes them if it must, as a run does.
fn obtain(store: &Store, name: &str, values: &[i64]) -> (Vec<i64>, usize) {
    for made in 0..3 {
        if let Some(found) = find(store, name) {
            return (found, made);
        }
        publish(store, name, values);
    }
    panic!("`{name}` is made again and again");
}

#[test]
fn damage_in_the_shared_store_is_a_miss_and_is_mended() {
    let changes: [(&str, fn(&mut Vec<u8>)); 7] = [
        ("first byte", |bytes| bytes[0] ^= 1),
        ("middle", |bytes| *bytes.iter_mut().nth_back(40).unwrap() ^= 4),
        ("last byte", |bytes| *bytes.last_mut().unwrap() ^= 128),
        ("truncated", |bytes| bytes.truncate(bytes.len() - 1)),
        ("emptied", Vec::clear),
        ("longer", |bytes| bytes.push(0)),
        ("other bytes of the same size", |bytes| bytes.fill(b'x')),
    ];
    for (change, apply) in changes {
        for path in [blob_path, manifest_path] {
            on_each_bucket(4, |name, team| {
                let first = team.machine(0);
                let manifest = publish(&first, "a", &[1, 2]);
                team.damage(&path(&first, &manifest), apply);
                assert_eq!(obtain(&team.machine(1), "a", &[7, 8]), (vec![7, 8], 1), "{name}, {change}");
                assert_eq!(obtain(&team.machine(2), "a", &[0]), (vec![7, 8], 0), "{name}, {change}: not mended");
                assert_eq!(obtain(&first, "a", &[0]), (vec![1, 2], 0), "{name}, {change}: its own is still good");
            });
        }
    }
}

#[test]
fn a_manifest_without_its_blobs_or_in_anothers_place_is_a_miss() {
    on_each_bucket(3, |name, team| {
        let first = team.machine(0);
        let (a, b) = (publish(&first, "a", &[1]), publish(&first, "b", &[2]));
        team.bucket.remove(&blob_path(&first, &a)).unwrap();
        assert_eq!(obtain(&team.machine(1), "a", &[7]), (vec![7], 1), "{name}");
        assert_eq!(obtain(&team.machine(2), "a", &[0]), (vec![7], 0), "{name}");

        let other = team.bucket.get(&manifest_path(&first, &a)).unwrap().unwrap();
        team.damage(&manifest_path(&first, &b), |bytes| *bytes = other);
        assert_eq!(obtain(&team.machine(1), "b", &[8]), (vec![8], 1), "{name}");
        // A blob that is another blob.
        let c = publish(&first, "c", &[3]);
        let other = team.bucket.get(&blob_path(&first, &b)).unwrap().unwrap();
        team.damage(&blob_path(&first, &c), |bytes| *bytes = other);
        assert_eq!(obtain(&team.machine(1), "c", &[9]), (vec![9], 1), "{name}");
    });
}

/// Equal work makes equal blobs: whoever has one mends a shared store that has lost it.
#[test]
fn a_blob_that_the_shared_store_lost_is_sent_again_by_whoever_has_it() {
    on_each_bucket(2, |name, team| {
        let first = team.machine(0);
        let manifest = publish(&first, "a", &[1]);
        team.bucket.remove(&blob_path(&first, &manifest)).unwrap();
        assert_eq!(publish(&team.machine(1), "a", &[1]), manifest, "{name}");
        assert_eq!(find(&team.machine(1), "a"), Some(vec![1]), "{name}");
    });
}

#[test]
fn a_damaged_blob_here_is_fetched_again() {
    on_each_bucket(1, |name, team| {
        let store = team.machine(0);
        let manifest = publish(&store, "a", &[1]);
        let path = store.layout().blob(&manifest.outputs["rows"].blobs()[0].0);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "damaged").unwrap();
        assert_eq!(find(&store, "a"), Some(vec![1]), "{name}");
        assert!(Store::open(store.layout().root()).unwrap().verify(&|_| {}).unwrap().problems.is_empty());
    });
}

#[test]
fn a_shared_store_that_goes_away_costs_no_finished_work_and_no_second_payment() {
    let faulty = Arc::new(Faulty::new(Arc::new(Memory::default())));
    let team = Team::new(2, faulty.clone());
    let (store, other) = (team.machine(0), team.machine(1));
    let key = preimage("a").action_key();
    faulty.is_dead.store(true, Ordering::SeqCst);
    assert!(matches!(store.sharing().unwrap().reach(), Err(Error::Remote { .. })));
    assert!(matches!(store.lookup(&key), Err(Error::Remote { .. })), "an outage is not a miss");
    publish(&store, "a", &[1]);
    publish(&store, "b", &[2]);
    assert_eq!(find(&store, "a"), Some(vec![1]), "what is finished is kept");
    let unsent = store.sharing().unwrap().report().unsent.unwrap();
    assert_eq!(unsent.results, 2);
    assert!(unsent.reason.contains("no answer"), "{}", unsent.reason);

    faulty.is_dead.store(false, Ordering::SeqCst);
    assert_eq!(find(&other, "a"), None);
    let absent = store.push(&[key, preimage("b").action_key(), preimage("c").action_key()], &silent).unwrap();
    assert_eq!(absent, [preimage("c").action_key()]);
    assert_eq!(store.sharing().unwrap().report().unsent, None, "made up for");
    assert_eq!((find(&other, "a"), find(&other, "b")), (Some(vec![1]), Some(vec![2])));
}

/// Any request may fail, also half way: then an error or a miss, never wrong bytes, and in the end everything is there.
#[test]
fn a_shared_store_that_fails_now_and_then_never_gives_wrong_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bucket) in buckets(folder.path()) {
        let team = Team::new(2, Arc::new(Faulty { fails_one_in: Some(20), ..Faulty::new(bucket) }));
        let (store, other) = (team.machine(0), team.machine(1));
        let names: Vec<_> = (0..10).map(|number| number.to_string()).collect();
        let keys: Vec<_> = names.iter().map(|name| preimage(name).action_key()).collect();
        for (number, name) in names.iter().enumerate() {
            publish(&store, name, &[number as i64]);
        }
        assert!(store.sharing().unwrap().report().unsent.is_some_and(|unsent| unsent.results > 0), "{name}");
        let mut failures = 0;
        let mut insist = |attempt: &dyn Fn() -> bool| {
            while !attempt() {
                failures += 1;
                assert!(failures < 10_000, "{name}: never ends");
            }
        };
        insist(&|| store.push(&keys, &silent).is_ok());
        insist(&|| other.pull(&keys, &silent).is_ok_and(|absent| absent.is_empty()));
        assert!(failures > 0, "{name}: nothing failed");
        for (number, name) in names.iter().enumerate() {
            assert_eq!(find(&other, name), Some(vec![number as i64]));
        }
        assert!(Store::open(other.layout().root()).unwrap().verify(&|_| {}).unwrap().problems.is_empty());
    }
}

#[test]
fn work_that_no_trusted_writer_signed_is_a_miss_and_counted_once() {
    on_each_bucket(1, |name, team| {
        let stranger = team.stranger();
        let forged = publish(&stranger, "a", &[666]);
        let unsigned = publish(&stranger, "b", &[666]);
        team.bucket.put(&manifest_path(&stranger, &unsigned), &unsigned.to_bytes(), Put::Replace).unwrap();
        let store = team.machine(0);
        for _ in 0..3 {
            assert_eq!((find(&store, "a"), find(&store, "b")), (None, None), "{name}");
        }
        let signer = stranger.sharing().unwrap().report().sent.manifests;
        assert_eq!(signer, 2);
        let refused = store.sharing().unwrap().report().refused;
        assert_eq!(refused.values().collect::<Vec<_>>(), [&1, &1], "{name}");
        assert!(refused.contains_key(&None) && refused.keys().any(Option::is_some));
        // Made here: then it is ours that others find.
        assert_ne!(publish(&store, "a", &[1]), forged);
        assert_eq!(find(&team.machine(0), "a"), Some(vec![1]), "{name}");
    });
}

/// The disaster: `--allow-unsigned` once, and the stranger's rows are trusted for ever.
#[test]
fn what_is_used_unsigned_is_not_kept() {
    on_each_bucket(1, |name, team| {
        publish(&team.stranger(), "a", &[5]);
        let daring = team.machine_with(0, Push::Always, true);
        assert_eq!(find(&daring, "a"), Some(vec![5]), "{name}");
        assert!(daring.keys().unwrap().is_empty(), "{name}");
        let careful = team.machine_at(daring.layout().root(), team.trust(0), Push::Always, false);
        assert_eq!(find(&careful, "a"), None, "{name}");
    });
}

#[test]
fn who_only_looks_writes_nothing() {
    on_each_bucket(2, |name, team| {
        publish(&team.machine(0), "a", &[1]);
        let store = team.machine(1).looking();
        let (before, there) = (snapshot(store.layout().root()), snapshot(team.folder.path()));
        for _ in 0..2 {
            assert_eq!(find(&store, "a"), Some(vec![1]), "{name}");
        }
        assert_eq!(snapshot(store.layout().root()), before, "{name}");
        assert_eq!(snapshot(team.folder.path()), there, "{name}");
    });
}

#[test]
fn push_and_pull_move_everything_once_and_say_how_far_they_are() {
    on_each_bucket(2, |name, team| {
        let (store, other) = (team.machine_with(0, Push::Manual, false), team.machine_with(1, Push::Never, false));
        let names: Vec<_> = (0..20).map(|number| number.to_string()).collect();
        let keys: Vec<_> = names.iter().map(|name| preimage(name).action_key()).collect();
        for (number, name) in names.iter().enumerate() {
            // Every second one has the rows of the one before: blobs are shared.
            publish(&store, name, &[number as i64 / 2]);
        }
        assert_eq!(find(&other, "0"), None, "{name}: sent although `manual`");
        for expected in [30, 0] {
            let steps = std::sync::Mutex::new(Vec::new());
            assert!(store.push(&keys, &|step| steps.lock().unwrap().push(step)).unwrap().is_empty());
            let steps = steps.into_inner().unwrap();
            assert!(steps.is_sorted_by(|a, b| a.done <= b.done && a.bytes <= b.bytes), "{name}");
            let last = steps.last().unwrap();
            assert_eq!((last.done, last.of), (expected, expected), "{name}");
        }
        let sent = store.sharing().unwrap().report().sent;
        assert_eq!((sent.manifests, sent.blobs), (20, 10), "{name}");
        assert!(other.pull(&keys, &silent).unwrap().is_empty());
        let alone = Store::open(other.layout().root()).unwrap();
        for (number, name) in names.iter().enumerate() {
            assert_eq!(find(&alone, name), Some(vec![number as i64 / 2]));
        }
    });
}

#[test]
fn a_shared_store_of_a_newer_program_is_refused() {
    on_each_bucket(1, |name, team| {
        let store = team.machine(0);
        store.sharing().unwrap().reach().unwrap();
        team.bucket.put("format", b"decoct-store 2\n", Put::Replace).unwrap();
        let error = store.sharing().unwrap().reach().unwrap_err();
        assert!(matches!(error, Error::UnknownFormat { .. }), "{name}: {error}");
        publish(&store, "a", &[1]);
        assert!(store.sharing().unwrap().report().unsent.is_some(), "{name}: written into");
        assert!(team.bucket.list("ac").unwrap().is_empty());
    });
}

#[test]
fn an_address_of_no_known_kind_is_refused() {
    let options = SharingOptions { push: Push::Always, trust: Arc::new(Trust::none()), allow_unsigned: false };
    let error = Sharing::open("ftp://host/store", options).unwrap_err().to_string();
    assert!(error.contains("ftp://host/store") && error.contains("hint: name a folder"), "{error}");
}

#[test]
fn all_of_this_holds_on_s3() {
    support::run_again_on_s3("all_of_this_holds_on_s3");
}
