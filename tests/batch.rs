//! The Batch API: half the price, a day's patience, and no request billed twice whatever becomes of the client.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::{Kitchen, Run};
use std::process::Stdio;
use support::batch_server::{BatchServer, Silence};
use support::model_server::{Behaviour, ModelServer};

const RECIPE: &str = "\
version: 1
models:
  teacher: { provider: openai, model: m, base_url: \"http://127.0.0.1:1/v1\", batch: true, batch_poll_ms: 20, batch_requests: 400,
             prices: { input_usd_per_million: 2, output_usd_per_million: 8 } }
nodes:
  exam:   { kind: source, path: exam.jsonl }
  chains: { kind: cot, input: exam, model: teacher }
";
const ROWS: usize = 1000;

fn kitchen(rows: usize) -> Kitchen {
    let kitchen = Kitchen::new(RECIPE);
    let line =
        |row| format!("{{\"problem\": \"What explains sign {row} best?\", \"truth\": \"Explanation {row}.\"}}\n");
    kitchen.write("exam.jsonl", &(0..rows).map(line).collect::<String>());
    kitchen
}

fn arguments(base_url: &str) -> Vec<String> {
    let url = format!("--set=models.teacher.base_url={base_url}");
    ["run", "recipe.yaml", "--format", "json", &url].map(str::to_string).to_vec()
}

fn run(kitchen: &Kitchen, server: &BatchServer) -> Run {
    let arguments = arguments(&server.base_url());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Run::of(&kitchen.command(&arguments).output().unwrap()).expect_done()
}

/// What the same recipe gives when every question is asked by itself.
fn one_by_one(rows: usize) -> Run {
    let (kitchen, server) = (kitchen(rows), ModelServer::start(Behaviour::default()));
    let mut arguments = arguments(&server.base_url());
    arguments.push("--set=models.teacher.batch=false".to_string());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Run::of(&kitchen.command(&arguments).output().unwrap()).expect_done()
}

fn assert_billed_once(server: &BatchServer, requests: u64, when: &str) {
    let billed = server.billed();
    assert_eq!(billed.values().filter(|&&times| times != 1).count(), 0, "billed more than once: {when}");
    assert_eq!(billed.len() as u64, requests);
    assert_eq!(server.chats(), 0, "nothing was asked but through batches");
}

#[test]
fn a_batch_gives_the_rows_of_single_calls_at_half_the_price() {
    let (kitchen, server) = (kitchen(ROWS), BatchServer::start());
    let (batched, single) = (run(&kitchen, &server), one_by_one(ROWS));
    assert_eq!(batched.node("chains")["output"], single.node("chains")["output"]);
    assert_billed_once(&server, single.total("calls"), "undisturbed");
    assert!(server.batches() >= 3, "no batch is larger than `batch_requests`: {}", server.batches());
    let cost = |run: &Run| run.node("chains")["cost_usd"].as_f64().unwrap();
    assert!((cost(&batched) / cost(&single) - 0.5).abs() < 1e-9, "{} {}", cost(&batched), cost(&single));
    assert_eq!(run(&kitchen, &server).total("calls"), 0);
    let left = kitchen::files_below(&kitchen.store().join("batches"));
    assert!(left.is_empty(), "the journal is empty when all is done: {left:?}");
}

#[test]
fn whoever_is_killed_in_any_phase_pays_once() {
    let single = one_by_one(ROWS);
    for phase in [
        Silence::BeforeUpload,
        Silence::AfterUpload,
        Silence::BeforeCreate,
        Silence::AfterCreate,
        Silence::AtLook,
        Silence::HalfResults,
        Silence::AllResults,
    ] {
        let (kitchen, server) = (kitchen(ROWS), BatchServer::start());
        server.fall_silent(phase);
        let started = std::time::Instant::now();
        let arguments = arguments(&server.base_url());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = kitchen.command(&arguments);
        let mut killed = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        server.await_silence();
        killed.kill().unwrap();
        killed.wait().unwrap();
        eprintln!("{phase:?} killed after {:?}", started.elapsed());
        let run = run(&kitchen, &server);
        assert_eq!(run.node("chains")["output"], single.node("chains")["output"], "killed at {phase:?}");
        assert_billed_once(&server, single.total("calls"), &format!("killed at {phase:?}"));
        eprintln!("{phase:?} done after {:?}", started.elapsed());
    }
}

/// A window that ends half done: what was answered counts, the rest is asked again.
#[test]
fn what_expires_is_asked_again_and_nothing_else() {
    let (kitchen, server) = (kitchen(300), BatchServer::start());
    server.let_expire(40);
    let (batched, single) = (run(&kitchen, &server), one_by_one(300));
    assert_eq!(batched.node("chains")["output"], single.node("chains")["output"]);
    let billed = server.billed();
    assert_eq!(billed.values().filter(|&&times| times == 2).count(), 40);
    assert_eq!(billed.values().filter(|&&times| times > 2).count(), 0);
}
