//! A team on one shared store: what one has paid for, the others find; what no one they trust has made, they do not use.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::{Kitchen, Run, questions};
use std::path::Path;
use support::model_server::{Behaviour, ModelServer};

const ROWS: usize = 60;

/// A model node and one that needs it, against `server`, with the shared store at `remote`.
fn recipe(server: &ModelServer, remote: &Path, more: &str) -> String {
    format!(
        "\
version: 1
cache: {{ remote: {remote}{more} }}
models:
  teacher: {{ provider: openai, base_url: \"{url}\", model: m, concurrency: 8 }}
nodes:
  exam:   {{ kind: source, path: exam.jsonl }}
  chains: {{ kind: cot, input: exam, model: teacher }}
  halves: {{ kind: split, input: chains, parts: {{ train: 0.5, test: 0.5 }} }}
",
        remote = remote.display(),
        url = server.base_url()
    )
}

/// One person's machine: a store and keys of its own.
fn machine(recipe: &str) -> Kitchen {
    let kitchen = Kitchen::new(recipe);
    let problem = |line: &str| line.replace("\"question\"", "\"problem\"");
    kitchen.write("exam.jsonl", &questions(ROWS).lines().map(|line| problem(line) + "\n").collect::<String>());
    kitchen
}

/// `reader` uses the work of `writer` from now on.
fn trust(reader: &Kitchen, writer: &Kitchen) {
    let key = writer.says(&["cache", "trust", "init"]);
    reader.says(&["cache", "trust", "add", "colleague", key.trim()]);
}

struct Team {
    server: ModelServer,
    remote: tempfile::TempDir,
}

impl Team {
    fn new(behaviour: Behaviour) -> Team {
        Team { server: ModelServer::start(behaviour), remote: tempfile::tempdir().unwrap() }
    }

    fn machine(&self, more: &str) -> Kitchen {
        machine(&recipe(&self.server, self.remote.path(), more))
    }

    /// Names of what the shared store holds.
    fn files(&self, part: &str) -> usize {
        walk(&self.remote.path().join(part))
    }
}

fn walk(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}

const ALL_HIT: &str = "exam:hit chains:hit halves:hit";

#[test]
fn what_one_has_paid_for_the_other_finds() {
    let team = Team::new(Behaviour::default());
    let (anna, ben) = (team.machine(""), team.machine(""));
    trust(&ben, &anna);
    let first = anna.run(&[]).expect_done();
    assert_eq!(team.server.calls(), ROWS as u64);
    assert_eq!(ben.plan(&[]), ALL_HIT, "a plan looks into the shared store");
    assert!(!ben.store().exists(), "a plan keeps nothing");
    let second = ben.run(&[]).expect_done();
    assert_eq!((second.states().as_str(), second.outputs()), (ALL_HIT, first.outputs()));
    assert_eq!(team.server.calls(), ROWS as u64, "nothing was asked again");
    let shown = |kitchen: &Kitchen| kitchen.says(&["show", "recipe.yaml", "halves.train", "--format", "json"]);
    assert_eq!(shown(&ben), shown(&anna));
    assert!(second.told.is_empty() || !second.told.contains("warning"), "{}", second.told);
}

#[test]
fn replies_travel_too() {
    let team = Team::new(Behaviour::default());
    let (anna, ben) = (team.machine(""), team.machine(""));
    trust(&ben, &anna);
    anna.run(&["--set", "nodes.chains.columns.answer=reply"]);
    anna.run(&[]).expect_done();
    ben.edit(
        "recipe.yaml",
        "halves:",
        "again:  { kind: cot, input: exam, model: teacher, stream: other, seed: 5 }\n  halves:",
    );
    let run = ben.run(&[]).expect_done();
    assert_eq!(
        team.server.calls(),
        ROWS as u64,
        "the same questions in another node were answered by replies: {}",
        run.told
    );
}

#[test]
fn work_of_strangers_is_made_again_and_said_once() {
    let team = Team::new(Behaviour::default());
    let (anna, ben) = (team.machine(""), team.machine(""));
    anna.run(&[]).expect_done();
    let key = anna.says(&["cache", "trust", "init"]);
    let calls = team.server.calls();
    let run = ben.run(&[]).expect_done();
    assert_eq!(team.server.calls(), 2 * calls);
    let warnings: Vec<&serde_json::Value> = run.events.iter().filter(|event| event["event"] == "warning").collect();
    let told: Vec<&str> = warnings.iter().filter_map(|event| event["message"].as_str()).collect();
    let about: Vec<&&str> = told.iter().filter(|message| message.contains("not signed by a trusted writer")).collect();
    assert_eq!(about.len(), 1, "{told:?}");
    assert!(about[0].contains(&format!("decoct cache trust add NAME {}", key.trim())), "{}", about[0]);
}

#[test]
fn under_strict_trust_the_work_of_strangers_ends_the_run_before_anything_is_spent() {
    let team = Team::new(Behaviour::default());
    team.machine("").run(&[]).expect_done();
    let calls = team.server.calls();
    let ben = team.machine(", trust: strict");
    assert_eq!(ben.run(&[]).exit, 4);
    assert_eq!(team.server.calls(), calls);
    let output = ben.decoct(&["run", "recipe.yaml"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("trust: strict") && told.contains("cache trust add NAME decoct1:"), "{told}");
    assert_eq!(ben.run(&["--allow-unsigned"]).expect_done().states(), ALL_HIT);
    assert_eq!(ben.run(&[]).exit, 4, "nothing of it was kept");
    assert_eq!(ben.run(&["--no-remote"]).expect_done().total("calls"), ROWS as u64);
}

#[test]
fn a_shared_store_out_of_reach_stops_before_anything_is_spent() {
    let team = Team::new(Behaviour::default());
    let ben = team.machine("");
    let blocked = team.remote.path().join("file");
    std::fs::write(&blocked, "no folder").unwrap();
    let elsewhere = format!("cache.remote={}/below", blocked.display());
    let run = ben.run(&["--set", &elsewhere]);
    assert_eq!((run.exit, team.server.calls()), (5, 0), "{}", run.told);
    assert!(run.told.contains("--no-remote"), "{}", run.told);
    ben.run(&["--set", &elsewhere, "--no-remote"]).expect_done();
}

#[test]
fn what_is_sent_and_when_is_the_recipes_word() {
    for (push, sent) in [("always", true), ("manual", false), ("never", false)] {
        let team = Team::new(Behaviour::default());
        let anna = team.machine(&format!(", push: {push}"));
        anna.run(&[]).expect_done();
        assert_eq!(team.files("ac") > 0, sent, "{push}");
        assert_eq!(team.files("replies") > 0, sent, "{push}");
        anna.says(&["cache", "push", "recipe.yaml", "--until", "chains"]);
        assert_eq!(team.files("ac"), if sent { 3 } else { 2 }, "{push}: pushed on purpose");
        assert!(team.files("replies") > 0, "{push}: replies are pushed too");
    }
}

#[test]
fn pull_fetches_a_node_and_what_it_needs() {
    let team = Team::new(Behaviour::default());
    let (anna, ben) = (team.machine(""), team.machine(""));
    trust(&ben, &anna);
    anna.run(&[]).expect_done();
    ben.says(&["cache", "pull", "recipe.yaml", "--until", "chains"]);
    assert_eq!(ben.plan(&["--no-remote"]), "exam:hit chains:hit halves:run");
    let run = ben.run(&["--no-remote", "--force", "chains"]).expect_done();
    assert_eq!((run.total("calls"), run.total("calls_reused")), (0, ROWS as u64), "replies were fetched too");
    let lonely = machine("version: 1\nnodes: { exam: { kind: source, path: exam.jsonl } }\n");
    let output = lonely.decoct(&["cache", "pull", "recipe.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("names no shared store"));
}

/// Both start at once and ask the same questions. What is truly in flight at the same time may be paid twice, the rest may not.
#[test]
fn two_machines_at_once_share_the_work_and_end_alike() {
    let team = Team::new(Behaviour { latency_ms: 150, ..Behaviour::default() });
    let (anna, ben) = (team.machine(""), team.machine(""));
    trust(&ben, &anna);
    trust(&anna, &ben);
    // Two questions at a time: the run lasts far longer than a reply's way through the shared store, also on a busy machine.
    let arguments = ["run", "recipe.yaml", "--format", "json", "--set", "models.teacher.concurrency=2"];
    let start = |kitchen: &Kitchen| kitchen.command(&arguments).spawn().unwrap();
    let both = [start(&anna), start(&ben)].map(|process| Run::of(&process.wait_with_output().unwrap()).expect_done());
    assert_eq!(both[0].outputs(), both[1].outputs());
    let calls = team.server.calls();
    assert!(calls < 2 * ROWS as u64, "{calls} calls for {ROWS} rows: nothing was shared");
    assert_eq!(anna.run(&[]).expect_done().states(), ALL_HIT);
    assert_eq!(ben.run(&[]).expect_done().states(), ALL_HIT);
}
