//! Several runs on one store at the same time: each call is sent once, each node is made once, all end with all of it.

#[path = "support/asking.rs"]
mod asking;
#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;
#[path = "support/tracer/mod.rs"]
mod tracer;

use asking::{Asking, CONCURRENCY};
use kitchen::Run;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tracer::{Act, Kind, can_trace, trace};

const NODES: &str = "  \
  distinct: { kind: dedup, input: exam, by: problem }
  chains:   { kind: cot, input: distinct, model: teacher }
  halves:   { kind: split, input: chains, parts: { train: 0.5, test: 0.5 } }
  clean:    { kind: decontaminate, input: halves.train, against: [halves.test], characters: 200 }
";
const LATENCY_MS: u64 = 20;

/// Starts `count` runs at once; `more` are the arguments of each.
fn start(scene: &Asking, count: usize, more: impl Fn(usize) -> Vec<String>) -> Vec<Child> {
    let start = |process| {
        let more = more(process);
        scene.command(&more.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap()
    };
    (0..count).map(start).collect()
}

fn finish(processes: Vec<Child>) -> Vec<Run> {
    // Their events fit the pipes, so waiting for one after another blocks no one.
    processes.into_iter().map(|process| Run::of(&process.wait_with_output().unwrap()).expect_done()).collect()
}

fn assert_same(runs: &[Run]) {
    for run in runs {
        assert_eq!(run.outputs(), runs[0].outputs());
    }
}

#[test]
fn eight_processes_send_each_request_once_and_make_each_node_once() {
    let scene = Asking::new(NODES, 200, LATENCY_MS);
    let runs = finish(start(&scene, 8, |_| Vec::new()));
    assert_same(&runs);
    for (place, node) in runs[0].nodes.iter().enumerate() {
        let ran = runs.iter().filter(|run| run.nodes[place]["state"] == "ran").count();
        assert_eq!(ran, 1, "made more or less than once: {node}");
    }
    assert_eq!((scene.server.calls(), scene.server.paid_twice()), (200, 0));
    assert_eq!(runs.iter().map(|run| run.total("calls")).sum::<u64>(), 200);
    scene.check_store();
}

/// Their nodes differ in a limit that never matters, so that all of them ask, and what they ask is the same.
#[test]
fn eight_recipes_with_the_same_questions_pay_for_each_once() {
    let scene = Asking::new(NODES, 200, LATENCY_MS);
    let runs = finish(start(&scene, 8, |process| vec![format!("--set=nodes.chains.asks={}", process + 1)]));
    assert_same(&runs);
    assert!(runs.iter().all(|run| run.node("chains")["state"] == "ran"), "each has a node of its own");
    assert_eq!((scene.server.calls(), scene.server.paid_twice()), (200, 0));
    let figures = |name| runs.iter().map(|run| run.total(name)).sum::<u64>();
    assert_eq!((figures("calls"), figures("calls_reused")), (200, 7 * 200));
    scene.check_store();
}

#[test]
fn a_run_that_waits_for_a_killed_one_takes_over_its_node_and_its_calls() {
    for own_node in [false, true] {
        let scene = Asking::new(NODES, 200, LATENCY_MS);
        let mut first = scene.command(&[]).stdout(Stdio::null()).spawn().unwrap();
        wait_until("calls are in flight", || scene.server.calls() > 20);
        let second = start(&scene, 1, |_| own_node.then(|| "--set=nodes.chains.asks=2".into()).into_iter().collect());
        std::thread::sleep(Duration::from_millis(100));
        first.kill().unwrap();
        first.wait().unwrap();
        finish(second);
        let calls = scene.server.calls();
        assert!((200..=200 + CONCURRENCY).contains(&calls), "{calls} calls");
        scene.check_store();
    }
}

/// As on a network folder without a lock daemon: work may be done twice, and all of it is right.
#[test]
fn where_there_are_no_locks_runs_still_end_with_the_same_content() {
    if !can_trace() {
        return;
    }
    for error in [libc::EOPNOTSUPP, libc::ENOLCK] {
        let scene = Asking::new(NODES, 40, 5);
        let store = scene.kitchen.store();
        let run = || {
            let refuse = |step: &tracer::Step| if step.kind == Kind::Lock { Act::Fail(error) } else { Act::Go };
            Run::of(&trace(scene.command(&[]), &store, refuse).unwrap().output).expect_done()
        };
        let runs = std::thread::scope(|scope| {
            let runs = [(); 3].map(|()| scope.spawn(run));
            runs.map(|run| run.join().unwrap())
        });
        assert_same(&runs);
        let calls = scene.server.calls();
        assert!((40..=3 * 40).contains(&calls), "{calls} calls");
        scene.check_store();
        let again = scene.run(&[]).expect_done();
        assert_eq!((again.outputs(), scene.server.calls()), (runs[0].outputs(), calls));
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
