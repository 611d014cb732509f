//! The table of edits: what each costs in calls, counted at the server, and which nodes run. Every number is the ideal one: what a
//! cache that forgets nothing and confuses nothing would pay.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::{Kitchen, Run};
use std::path::Path;
use support::model_answers::Habits;
use support::model_server::{Behaviour, ModelServer};

const PROMPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/medical/prompts");
const ALL: &str = "exam chains verdicts";
const ROWS: usize = 20;

const RECIPE: &str = "\
version: 1
params: { seed: 7 }
prompts: prompts
models:
  teacher: { provider: openai, model: large, base_url: \"URL\" }
  judge:   { provider: openai, model: small, base_url: \"URL\" }
nodes:
  exam:     { kind: source, path: exam.jsonl }
  chains:   { kind: cot, input: exam, model: teacher }
  verdicts: { kind: verify, input: chains, model: judge }
";

/// Line `row` of the source: no two are alike.
fn line(row: usize) -> String {
    format!("{{\"problem\": \"Which agent is given first for sign {row}?\", \"truth\": \"agent {row}\"}}\n")
}

fn lines(rows: std::ops::Range<usize>) -> String {
    rows.map(line).collect()
}

/// Answers that depend on the question alone, so that an edit changes rows only where it should.
fn steady() -> Behaviour {
    Behaviour { habits: Habits { steady: true, ..Habits::default() }, ..Behaviour::default() }
}

/// A kitchen beside its server; nothing has run yet.
struct Scene {
    kitchen: Kitchen,
    server: ModelServer,
}

impl Scene {
    fn new(rows: usize, behaviour: Behaviour) -> Scene {
        let server = ModelServer::start(behaviour);
        let kitchen = Kitchen::new(&RECIPE.replace("URL", &server.base_url()));
        kitchen.write("exam.jsonl", &lines(0..rows));
        std::fs::create_dir(kitchen.path("prompts")).unwrap();
        for name in ["cot.md", "verify.md", "search.md"] {
            std::fs::copy(Path::new(PROMPTS).join(name), kitchen.path("prompts").join(name)).unwrap();
        }
        Scene { kitchen, server }
    }

    fn cooked(rows: usize, behaviour: Behaviour) -> Scene {
        let scene = Scene::new(rows, behaviour);
        scene.expect("cold", &[], 2 * rows as u64, ALL);
        scene
    }

    /// Runs, and compares what it cost at the server with what it should.
    fn expect(&self, name: &str, more: &[&str], calls: u64, ran: &str) -> Run {
        let before = self.server.calls();
        let run = self.kitchen.run(more).expect_done();
        let sent = self.server.calls() - before;
        assert_eq!((sent, nodes_that_ran(&run).as_str()), (calls, ran), "{name}");
        assert_eq!(run.total("calls"), sent, "{name}: the summary counts what was sent");
        run
    }
}

fn nodes_that_ran(run: &Run) -> String {
    let ran = run.nodes.iter().filter(|node| node["state"] == "ran");
    ran.map(|node| node["node"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

type Edit<'a> = &'a dyn Fn(&Kitchen);

/// An edit of a finished recipe: the calls it costs and the nodes that run.
fn check(name: &str, edit: Edit, calls: u64, ran: &str) {
    check_steps(ROWS, steady(), &[(name, edit, calls, ran)]);
}

/// One edit after another.
fn check_steps(rows: usize, behaviour: Behaviour, steps: &[(&str, Edit, u64, &str)]) {
    let scene = Scene::cooked(rows, behaviour);
    for (name, edit, calls, ran) in steps {
        edit(&scene.kitchen);
        scene.expect(name, &[], *calls, ran);
    }
}

/// An edit, and the same edit taken back, which must cost nothing.
fn check_and_revert(name: &str, file: &str, from: &str, to: &str, calls: u64, ran: &str) {
    let edit: Edit = &|kitchen| kitchen.edit(file, from, to);
    let revert: Edit = &|kitchen| kitchen.edit(file, to, from);
    check_steps(ROWS, steady(), &[(name, edit, calls, ran), ("taken back", revert, 0, "")]);
}

fn replaces<'a>(file: &'a str, from: &'a str, to: &'a str) -> impl Fn(&Kitchen) + 'a {
    move |kitchen| kitchen.edit(file, from, to)
}

fn recipe<'a>(from: &'a str, to: &'a str) -> impl Fn(&Kitchen) + 'a {
    replaces("recipe.yaml", from, to)
}

/// The table of `peers.md`: where others pay twice or serve what is stale.
#[test]
fn the_cases_that_others_get_wrong() {
    check("unchanged", &|_| {}, 0, "");
    check_and_revert(
        "cosmetic edit of the first prompt",
        "prompts/cot.md",
        "Solve the problem",
        "Do solve the problem",
        20,
        "chains",
    );
    check_and_revert(
        "edit of the second prompt",
        "prompts/verify.md",
        "Compare a model's",
        "Now compare a model's",
        20,
        "verdicts",
    );
    check("one row added", &|kitchen| kitchen.write("exam.jsonl", &lines(0..21)), 2, ALL);
    check("content replaced at the same path", &|kitchen| kitchen.write("exam.jsonl", &lines(50..70)), 40, ALL);
    let one_of_hundred: Edit = &|kitchen| kitchen.edit("exam.jsonl", &line(40), &line(500));
    check_steps(100, steady(), &[("1 % of the rows changed", one_of_hundred, 2, ALL)]);
}

#[test]
fn what_changes_no_meaning_costs_nothing() {
    check("node renamed", &recipe("chains", "thoughts"), 0, "");
    check("model renamed", &recipe("teacher", "professor"), 0, "");
    check("commented", &recipe("nodes:", "# what is done\nnodes:   # in this order"), 0, "");
    check(
        "reformatted",
        &recipe(
            "{ kind: cot, input: exam, model: teacher }",
            "\n    model: teacher\n    'kind': \"cot\"\n    input: exam",
        ),
        0,
        "",
    );
    check(
        "nodes in another order",
        &recipe("nodes:\n  exam:     { kind: source, path: exam.jsonl }", "nodes:")
            .then(&append("  exam: { kind: source, path: exam.jsonl }\n")),
        0,
        "",
    );
    check("defaults written out", &recipe("model: judge }", "model: judge, asks: 3, drop_false: false }"), 0, "");
    check(
        "defaults of a model written out",
        &recipe("model: large,", "model: large, json_mode: true, temperature: null, system: null,"),
        0,
        "",
    );
    check(
        "a value named once and used",
        &recipe("model: large", "model: \"${name}\"").then(&recipe("seed: 7", "seed: 7, name: large")),
        0,
        "",
    );
    check("another seed where nothing draws", &recipe("seed: 7", "seed: 8"), 0, "");
    check("an empty profile", &append("profiles: { other: { params: { seed: 9 } } }\n"), 0, "");
}

#[test]
fn what_happens_to_a_file_counts_by_its_bytes_alone() {
    let moved = |kitchen: &Kitchen| std::fs::rename(kitchen.path("exam.jsonl"), kitchen.path("moved.jsonl")).unwrap();
    let copied = |kitchen: &Kitchen| kitchen.write("moved.jsonl", &kitchen.read("exam.jsonl"));
    let read_there = recipe("path: exam.jsonl", "path: moved.jsonl");
    check("touched", &|kitchen| touch(&kitchen.path("exam.jsonl")), 0, "");
    check("written again", &|kitchen| kitchen.write("exam.jsonl", &lines(0..ROWS)), 0, "");
    check("moved", &moved.then(&read_there), 0, "");
    check("copied", &copied.then(&read_there), 0, "");
    check("prompt touched", &|kitchen| touch(&kitchen.path("prompts/cot.md")), 0, "");
    check(
        "prompts moved",
        &|kitchen| {
            std::fs::rename(kitchen.path("prompts"), kitchen.path("wording")).unwrap();
            kitchen.edit("recipe.yaml", "prompts: prompts", "prompts: wording");
        },
        0,
        "",
    );
}

#[test]
fn where_and_how_patiently_a_model_is_asked_costs_nothing() {
    for setting in [
        "concurrency: 3",
        "timeout_ms: 5000",
        "connect_timeout_ms: 900",
        "tries: 2",
        "pause_ms: 7",
        "pause_max_ms: 70",
        "prices: { input_usd_per_million: 2.5, output_usd_per_million: 10 }",
    ] {
        check(setting, &recipe("model: large,", &format!("model: large, {setting},")), 0, "");
    }
    let elsewhere = ModelServer::start(Behaviour { latency_ms: 30, ..steady() });
    let scene = Scene::cooked(ROWS, steady());
    scene.kitchen.edit("recipe.yaml", &scene.server.base_url(), &elsewhere.base_url());
    scene.expect("another, slower server under another address", &[], 0, "");
    assert_eq!(elsewhere.calls(), 0);
    for arguments in [&["--jobs", "1"], &["--jobs", "3"], &["--device", "cpu"], &["--budget-usd", "0"]] {
        scene.expect(&arguments.join(" "), arguments, 0, "");
    }
}

#[test]
fn what_changes_answers_pays_for_the_stage_that_asks() {
    for setting in [
        "identity: b",
        "temperature: 0.5",
        "top_p: 0.9",
        "seed: 1",
        "max_tokens: 900",
        "system: Be brief.",
        "reasoning_effort: low",
        "json_mode: false",
        "extra_body: { top_k: 5 }",
    ] {
        check_and_revert(setting, "recipe.yaml", "model: large,", &format!("model: large, {setting},"), 20, "chains");
    }
    check_and_revert("model name", "recipe.yaml", "model: large,", "model: larger,", 20, "chains");
    check_and_revert("the judge's model name", "recipe.yaml", "model: small,", "model: smaller,", 20, "verdicts");
    let other: Edit = &recipe("model: large,", "model: larger,");
    check_steps(ROWS, Behaviour::default(), &[("another model with other answers", other, 40, "chains verdicts")]);
}

#[test]
fn rows_that_come_go_or_move_pay_for_themselves() {
    check("a row duplicated", &|kitchen| kitchen.write("exam.jsonl", &(lines(0..ROWS) + &line(3))), 0, ALL);
    check("rows reordered", &|kitchen| kitchen.write("exam.jsonl", &(lines(10..ROWS) + &lines(0..10))), 0, ALL);
    check("a row removed", &|kitchen| kitchen.write("exam.jsonl", &lines(1..ROWS)), 0, ALL);
    check("a truth corrected", &recipe_row("agent 4\"", "agent four\""), 1, ALL);
    let scene = Scene::new(ROWS, steady());
    scene.expect("a sample", &["--limit", "5"], 10, ALL);
    scene.expect("a larger sample", &["--limit", "12"], 14, ALL);
    scene.expect("all rows", &[], 16, ALL);
    scene.expect("the first sample again", &["--limit", "5"], 0, "");
}

/// Replies are kept raw and apart from what was read in them. (A changed parser of the program itself is `stages/tests/calls.rs`.)
#[test]
fn another_reading_of_the_same_replies_costs_no_call() {
    check_and_revert(
        "false rows are dropped",
        "recipe.yaml",
        "model: judge }",
        "model: judge, drop_false: true }",
        0,
        "verdicts",
    );
    check_and_revert("fewer asks", "recipe.yaml", "model: teacher }", "model: teacher, asks: 2 }", 0, "chains");
    check(
        "a second node with the same questions",
        &append("  again: { kind: verify, input: chains, model: judge, drop_false: true }\n"),
        0,
        "again",
    );
    check("results disowned, replies not", &recipe("version: 1", "version: 1\nsalt: again"), 0, ALL);
}

/// Each attempt of a search is a sample of its own: what one cold run of the larger search pays is paid in two parts.
#[test]
fn more_samples_pay_for_the_new_ones() {
    let habits = Habits { accepts: 0.3, ..Habits::default() };
    let behaviour = || Behaviour { habits: habits.clone(), ..Behaviour::default() };
    let search = |attempts: u32| {
        format!(
            "  solved: {{ kind: search, input: verdicts, model: teacher, verifier: judge, rounds: 1, attempts: {attempts} }}\n"
        )
    };
    let paid = |attempts: &[u32]| {
        let scene = Scene::new(ROWS, behaviour());
        scene.kitchen.edit("recipe.yaml", "model: large,", "model: large, seed: 3,");
        let recipe = scene.kitchen.read("recipe.yaml");
        for attempts in attempts {
            scene.kitchen.write("recipe.yaml", &(recipe.clone() + &search(*attempts)));
            scene.kitchen.run(&[]).expect_done();
        }
        assert_eq!(scene.server.paid_twice(), 0);
        scene.server.calls()
    };
    let (one, two) = (paid(&[1]), paid(&[2]));
    assert!(one < two, "a second attempt asks something new: {one}, {two}");
    assert_eq!(paid(&[1, 2]), two);
    assert_eq!(paid(&[2, 1, 2]), two);
}

/// Times, rates and money are told and kept, and are no part of what came out.
#[test]
fn a_slower_machine_and_another_price_make_the_same_rows() {
    let outputs = |behaviour: Behaviour, prices: &str, arguments: &[&str]| {
        let scene = Scene::new(ROWS, behaviour);
        scene.kitchen.edit("recipe.yaml", "model: large,", &format!("model: large, {prices}"));
        scene.expect("cold", arguments, 40, ALL).outputs()
    };
    let prices = "prices: { input_usd_per_million: 2.5, output_usd_per_million: 10 }, max_tokens: 900,";
    let expected = outputs(steady(), "max_tokens: 900,", &[]);
    assert_eq!(outputs(Behaviour { latency_ms: 40, ..steady() }, prices, &["--jobs", "1"]), expected);
}

/// Two edits as one.
trait Then: Fn(&Kitchen) {
    fn then<'a>(&'a self, next: &'a dyn Fn(&Kitchen)) -> impl Fn(&Kitchen) + 'a
    where
        Self: Sized,
    {
        move |kitchen| {
            self(kitchen);
            next(kitchen);
        }
    }
}

impl<F: Fn(&Kitchen)> Then for F {}

fn append(text: &str) -> impl Fn(&Kitchen) + '_ {
    move |kitchen| kitchen.write("recipe.yaml", &(kitchen.read("recipe.yaml") + text))
}

fn recipe_row<'a>(from: &'a str, to: &'a str) -> impl Fn(&Kitchen) + 'a {
    replaces("exam.jsonl", from, to)
}

fn touch(path: &Path) {
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(soon).unwrap();
}
