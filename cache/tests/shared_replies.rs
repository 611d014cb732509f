//! Replies that travel: a team pays once for each, sees them while they come, and never takes a stranger's or a damaged one.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cache::{Claim, Preimage, Push, Put, Replies, ReplyAddress, Store};
use support::{Faulty, Memory, Team, on_each_bucket, snapshot};

fn address(number: usize) -> ReplyAddress {
    Preimage::new().with("number", number).reply_address()
}

fn reply(number: usize) -> Vec<u8> {
    format!("reply {number} ").repeat(number % 40 + 1).into_bytes()
}

fn put(replies: &Replies, numbers: std::ops::Range<usize>) {
    numbers.for_each(|number| replies.put(&address(number), &reply(number)).unwrap());
}

/// How many of `numbers` are there; what is there is right.
fn count(replies: &Replies, numbers: std::ops::Range<usize>) -> usize {
    let found = numbers.filter_map(|number| Some((number, replies.get(&address(number))?)));
    found.inspect(|(number, found)| assert_eq!(*found, reply(*number), "reply {number}")).count()
}

/// A test that hangs is a test that fails: generous, as machines are shared.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not so after a minute: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn objects(team: &Team) -> Vec<String> {
    let mut names: Vec<_> = team.bucket.list("replies").unwrap().into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

/// Sends replies in one go, where a courier on a slow machine makes several; the name of the one object they become.
fn pushed_at_once(team: &Team, numbers: std::ops::Range<usize>) -> String {
    let ours = team.machine_with(0, Push::Manual, false);
    put(&ours.replies().unwrap(), numbers);
    ours.push(&[], &|_| {}).unwrap();
    let [name] = objects(team).try_into().expect("one object");
    name
}

fn fetched(store: &Store) -> u64 {
    store.sharing().unwrap().report().fetched.replies
}

#[test]
fn what_one_run_pays_for_another_sees_while_both_go_on() {
    on_each_bucket(2, |name, team| {
        let (ours, theirs) = (team.machine(0), team.machine(1));
        let (paying, waiting) = (ours.replies().unwrap(), theirs.replies().unwrap());
        for round in 0..3 {
            let numbers = round * 50..(round + 1) * 50;
            put(&paying, numbers.clone());
            wait_until(name, || count(&waiting, numbers.clone()) == 50);
            assert!(matches!(waiting.claim(&address(round * 50)).unwrap(), Claim::Answered(_)), "{name}");
        }
        put(&waiting, 150..160);
        wait_until(name, || count(&paying, 0..160) == 160);
        drop((paying, waiting));
        // From now on without the shared store, and for who comes later.
        assert_eq!(count(&Store::open(theirs.layout().root()).unwrap().replies().unwrap(), 0..160), 160, "{name}");
        assert_eq!(count(&team.machine(1).replies().unwrap(), 0..160), 160, "{name}");
    });
}

/// A run of hours would leave thousands of objects for everyone to list; and what was fetched in pieces is not fetched again whole.
#[test]
fn a_run_leaves_few_objects_and_nothing_is_fetched_twice() {
    on_each_bucket(3, |name, team| {
        let (ours, theirs) = (team.machine(0), team.machine(1));
        let (paying, waiting) = (ours.replies().unwrap(), theirs.replies().unwrap());
        for number in 0..6 {
            put(&paying, number..number + 1);
            paying.flush().unwrap();
            wait_until(name, || count(&waiting, 0..number + 1) == number + 1);
        }
        assert_eq!(objects(team).len(), 6, "{name}");
        drop(paying);
        assert_eq!(objects(team).len(), 1, "{name}");
        drop(waiting);
        let before = fetched(&theirs);
        assert_eq!(count(&theirs.replies().unwrap(), 0..6), 6, "{name}");
        assert_eq!((before, fetched(&theirs)), (6, 6), "{name}");
        assert_eq!(count(&team.machine(2).replies().unwrap(), 0..6), 6, "{name}");
        assert_eq!(fetched(&ours), 0, "{name}: its own");
    });
}

#[test]
fn who_publishes_by_hand_sends_what_is_not_there_yet_and_passes_on_what_was_fetched() {
    on_each_bucket(2, |name, team| {
        let (ours, theirs) = (team.machine_with(0, Push::Manual, false), team.machine(1));
        put(&ours.replies().unwrap(), 0..10);
        assert_eq!(objects(team), [""; 0], "{name}");
        put(&ours.replies().unwrap(), 10..20);
        for expected in [20, 20] {
            ours.push(&[], &|_| {}).unwrap();
            assert_eq!(ours.sharing().unwrap().report().sent.replies, expected, "{name}");
        }
        assert_eq!(count(&theirs.replies().unwrap(), 0..20), 20, "{name}");

        // To another shared store, from someone who has them from the first.
        let elsewhere = Team { bucket: Arc::new(Memory::default()), ..Team::new(2, Arc::new(Memory::default())) };
        let passing = elsewhere.machine_at(theirs.layout().root(), elsewhere.trust(0), Push::Manual, false);
        passing.push(&[], &|_| {}).unwrap();
        assert_eq!(count(&elsewhere.machine(1).replies().unwrap(), 0..20), 20, "{name}");
    });
}

/// Merging is housekeeping on one machine: it neither hides from others what was not sent yet, nor sends or fetches anything twice.
#[test]
fn merged_logs_are_sent_once_and_what_they_hold_is_not_fetched_again() {
    // Each log repeats one long reply, so that merging is worth while.
    let pay = |store: &Store, log: usize| {
        let replies = store.replies().unwrap();
        put(&replies, 99..100);
        put(&replies, log * 10..(log + 1) * 10);
    };
    on_each_bucket(3, |name, team| {
        let (ours, theirs) = (team.machine_with(0, Push::Manual, false), team.machine(1));
        (0..3).for_each(|log| pay(&ours, log));
        ours.push(&[], &|_| {}).unwrap();
        assert_eq!(count(&theirs.replies().unwrap(), 0..100), 31, "{name}");
        for store in [&ours, &theirs] {
            assert_eq!(store.merge_replies(true).unwrap().logs_after, 1, "{name}");
        }
        ours.push(&[], &|_| {}).unwrap();
        assert_eq!(ours.sharing().unwrap().report().sent.replies, 33, "{name}: sent again");
        assert_eq!(count(&theirs.replies().unwrap(), 0..100), 31, "{name}");
        assert_eq!(fetched(&theirs), 33, "{name}: fetched again");

        // Merged before it was sent.
        (3..5).for_each(|log| pay(&ours, log));
        ours.merge_replies(true).unwrap();
        ours.push(&[], &|_| {}).unwrap();
        ours.push(&[], &|_| {}).unwrap();
        assert_eq!(count(&team.machine(2).replies().unwrap(), 0..100), 51, "{name}");
        assert_eq!(count(&ours.replies().unwrap(), 0..100), 51, "{name}");
        assert_eq!(fetched(&ours), 0, "{name}: its own");
    });
}

#[test]
fn damage_to_what_travels_is_a_miss_never_a_wrong_reply() {
    let changes: [(&str, fn(&mut Vec<u8>)); 7] = [
        ("label", |bytes| bytes[12] ^= 1),
        ("seal", |bytes| bytes[200] ^= 1),
        ("records", |bytes| *bytes.iter_mut().nth_back(300).unwrap() ^= 4),
        ("last byte", |bytes| *bytes.last_mut().unwrap() ^= 128),
        ("truncated", |bytes| bytes.truncate(bytes.len() - 1)),
        ("emptied", Vec::clear),
        ("longer", |bytes| bytes.push(0)),
    ];
    for (change, apply) in changes {
        on_each_bucket(2, |name, team| {
            let name_of_all = pushed_at_once(team, 0..20);
            team.damage(&format!("replies/{name_of_all}"), apply);
            let store = team.machine(1);
            let replies = store.replies().unwrap();
            assert_eq!(count(&replies, 0..20), 0, "{name}, {change}");
            assert_eq!(store.sharing().unwrap().report().damaged, 1, "{name}, {change}");
            // Paid again, and then good for everyone.
            put(&replies, 0..20);
            drop(replies);
            assert_eq!(count(&team.machine(0).replies().unwrap(), 0..20), 20, "{name}, {change}");
        });
    }
}

/// The disaster: a whole, well-signed object under another's name answers for it, or hides it.
#[test]
fn swapped_and_made_up_names_neither_answer_nor_hide() {
    on_each_bucket(2, |name, team| {
        let good = pushed_at_once(team, 0..20);
        let bytes = team.bucket.get(&format!("replies/{good}")).unwrap().unwrap();
        let (log, _) = good.split_once('.').unwrap();
        for made_up in ["00ff-1-0-0001.16-400", &format!("{log}.16-999999"), "x", "00ff.16-16"] {
            team.bucket.put(&format!("replies/{made_up}"), &bytes, Put::Replace).unwrap();
        }
        let store = team.machine(1);
        assert_eq!(count(&store.replies().unwrap(), 0..20), 20, "{name}");
        assert_eq!(store.sharing().unwrap().report().damaged, 2, "{name}");
        let logs = std::fs::read_dir(store.layout().replies()).unwrap();
        let logs = logs.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|found| found == "log"));
        assert_eq!(logs.count(), 1, "{name}");
    });
}

#[test]
fn a_strangers_replies_are_refused_once_and_borrowed_only_on_request() {
    on_each_bucket(1, |name, team| {
        put(&team.stranger().replies().unwrap(), 0..20);
        let store = team.machine(0);
        for _ in 0..2 {
            assert_eq!(count(&store.replies().unwrap(), 0..20), 0, "{name}");
        }
        let refused = store.sharing().unwrap().report().refused;
        assert_eq!(refused.into_values().collect::<Vec<_>>(), [1], "{name}");

        let daring = team.machine_with(0, Push::Always, true);
        assert_eq!(count(&daring.replies().unwrap(), 0..20), 20, "{name}");
        let careful = team.machine_at(daring.layout().root(), team.trust(0), Push::Always, false);
        assert_eq!(count(&careful.replies().unwrap(), 0..20), 0, "{name}");
    });
}

#[test]
fn who_only_looks_sees_all_replies_and_keeps_none() {
    on_each_bucket(2, |name, team| {
        put(&team.machine(0).replies().unwrap(), 0..20);
        let store = team.machine(1).looking();
        let before = snapshot(store.layout().root());
        assert_eq!(count(&store.replies().unwrap(), 0..20), 20, "{name}");
        assert_eq!(snapshot(store.layout().root()), before, "{name}");
    });
}

#[test]
fn a_shared_store_that_goes_away_in_mid_run_stops_no_call_and_loses_no_reply() {
    let faulty = Arc::new(Faulty::new(Arc::new(Memory::default())));
    let team = Team::new(2, faulty.clone());
    let (ours, theirs) = (team.machine(0), team.machine(1));
    let replies = ours.replies().unwrap();
    put(&replies, 0..10);
    replies.flush().unwrap();
    faulty.is_dead.store(true, Ordering::SeqCst);
    put(&replies, 10..20);
    replies.flush().unwrap();
    assert_eq!(count(&replies, 0..20), 20);
    let sharing = ours.sharing().unwrap();
    wait_until("told", || sharing.report().cut_off.is_some());
    drop(replies);
    let unsent = sharing.report().unsent.unwrap();
    assert!(unsent.replies && unsent.results == 0 && unsent.reason.contains("no answer"), "{unsent:?}");
    assert!(theirs.replies().is_err(), "an outage is not a miss");

    faulty.is_dead.store(false, Ordering::SeqCst);
    assert_eq!(count(&theirs.replies().unwrap(), 0..20), 10);
    ours.push(&[], &|_| {}).unwrap();
    assert_eq!(sharing.report().unsent, None, "made up for");
    assert_eq!(count(&theirs.replies().unwrap(), 0..20), 20);
}

/// A run that was killed, or whose store was out of reach, has begun to share its replies: the next run goes on with that.
#[test]
fn the_next_run_sends_what_an_earlier_one_left_and_nothing_that_was_never_shared() {
    let faulty = Arc::new(Faulty::new(Arc::new(Memory::default())));
    let team = Team::new(2, faulty.clone());
    let (ours, theirs) = (team.machine(0), team.machine(1));
    put(&Store::open(ours.layout().root()).unwrap().replies().unwrap(), 100..110);
    let replies = ours.replies().unwrap();
    put(&replies, 0..10);
    replies.flush().unwrap();
    faulty.is_dead.store(true, Ordering::SeqCst);
    put(&replies, 10..20);
    drop(replies);
    faulty.is_dead.store(false, Ordering::SeqCst);
    assert_eq!(count(&theirs.replies().unwrap(), 0..20), 10);

    ours.replies().unwrap().flush().unwrap();
    let replies = theirs.replies().unwrap();
    assert_eq!(count(&replies, 0..20), 20);
    assert_eq!(count(&replies, 100..110), 0, "of another project perhaps");
}

#[test]
fn a_shared_store_that_fails_now_and_then_carries_everything_in_the_end() {
    let team = Team::new(2, Arc::new(Faulty { fails_one_in: Some(3), ..Faulty::new(Arc::new(Memory::default())) }));
    let insist = |store: &Store| loop {
        if let Ok(replies) = store.replies() {
            return replies;
        }
    };
    let (paying, waiting) = (insist(&team.machine(0)), insist(&team.machine(1)));
    for number in 0..40 {
        put(&paying, number..number + 1);
        let _ = paying.flush();
    }
    wait_until("all there", || count(&waiting, 0..40) == 40);
}

#[test]
fn all_of_this_holds_on_s3() {
    support::run_again_on_s3("all_of_this_holds_on_s3");
}
