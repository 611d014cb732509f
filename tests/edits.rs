//! The table of edits: what each costs in calls, counted at the server, which nodes run, and what `explain` and `plan` say of it.
//! Every number is the ideal one: what a cache that forgets nothing and confuses nothing would pay. Every explanation names the
//! edited field, from what to what, and nothing else.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::{Kitchen, Run};
use serde_json::Value;
use std::path::Path;
use support::model_answers::Habits;
use support::model_server::{Behaviour, ModelServer};

const PROMPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/medical/prompts");
const ALL: &str = "exam chains verdicts";
const FILE: &str = "exam: source file changed";
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

    /// Before the run: `told` is `node: what changed`, more than one after `; `, and the reasons of the plan are the same words.
    fn explains(&self, name: &str, more: &[&str], told: &str) {
        let mut expected: Vec<&str> = told.split("; ").filter(|one| !one.is_empty()).collect();
        for node in
            list(&self.object(&["plan", "recipe.yaml"], more)["nodes"]).iter().filter(|one| one["state"] == "run")
        {
            let why = format!("{}: {}", text(&node["node"]), text(&node["why"]));
            assert!(expected.contains(&why.as_str()), "{name}: the plan says `{why}`");
        }
        expected.retain(|one| !one.ends_with("first run"));
        let roots = self.roots("verdicts", more);
        let mut roots: Vec<String> =
            roots.iter().map(|root| format!("{}: {}", text(&root["node"]), text(&root["told"]))).collect();
        roots.sort();
        assert_eq!(roots, expected, "{name}");
    }

    /// The edits at the beginning of what `explain` tells.
    fn roots(&self, node: &str, more: &[&str]) -> Vec<Value> {
        list(&self.object(&["explain", "recipe.yaml", node], more)["roots"]).to_vec()
    }

    fn object(&self, command: &[&str], more: &[&str]) -> Value {
        serde_json::from_str(&self.kitchen.says(&[command, &["--format", "json"], more].concat())).unwrap()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn nodes_that_ran(run: &Run) -> String {
    let ran = run.nodes.iter().filter(|node| node["state"] == "ran");
    ran.map(|node| node["node"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

type Edit<'a> = &'a dyn Fn(&Kitchen);

/// An edit of a finished recipe: the calls it costs, the nodes that run, and how it is told.
fn check(name: &str, edit: Edit, calls: u64, ran: &str, told: &str) {
    check_steps(ROWS, steady(), &[(name, edit, calls, ran, told)]);
}

/// An edit that nothing depends on.
fn check_free(name: &str, edit: Edit) {
    check(name, edit, 0, "", "");
}

/// One edit after another.
fn check_steps(rows: usize, behaviour: Behaviour, steps: &[(&str, Edit, u64, &str, &str)]) -> Scene {
    let scene = Scene::cooked(rows, behaviour);
    for (name, edit, calls, ran, told) in steps {
        edit(&scene.kitchen);
        scene.explains(name, &[], told);
        scene.expect(name, &[], *calls, ran);
    }
    scene
}

/// An edit that makes one node run, and the same edit taken back, which must cost nothing and is told the other way round.
fn check_and_revert(name: &str, file: &str, from: &str, to: &str, calls: u64, ran: &str, told: &str) {
    let scene = check_steps(ROWS, steady(), &[(name, &replaces(file, from, to), calls, ran, told)]);
    let there = scene.roots(ran, &[]);
    scene.kitchen.edit(file, to, from);
    let back = scene.roots(ran, &[]);
    assert_eq!((there.len(), back.len()), (1, 1), "{name}: {there:?} {back:?}");
    for (one, other) in [("node", "node"), ("path", "path"), ("old", "new"), ("new", "old")] {
        assert_eq!(there[0][one], back[0][other], "{name}: taken back");
    }
    scene.expect(&format!("{name}, taken back"), &[], 0, "");
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
    check_free("unchanged", &|_| {});
    check_and_revert(
        "cosmetic edit of the first prompt",
        "prompts/cot.md",
        "Solve the problem",
        "Do solve the problem",
        20,
        "chains",
        "chains: prompt `cot` changed",
    );
    check_and_revert(
        "edit of the second prompt",
        "prompts/verify.md",
        "Compare a model's",
        "Now compare a model's",
        20,
        "verdicts",
        "verdicts: prompt `verify` changed",
    );
    check("one row added", &|kitchen| kitchen.write("exam.jsonl", &lines(0..21)), 2, ALL, FILE);
    check("content replaced at the same path", &|kitchen| kitchen.write("exam.jsonl", &lines(50..70)), 40, ALL, FILE);
    let one_of_hundred: Edit = &|kitchen| kitchen.edit("exam.jsonl", &line(40), &line(500));
    check_steps(100, steady(), &[("1 % of the rows changed", one_of_hundred, 2, ALL, FILE)]);
}

#[test]
fn what_changes_no_meaning_costs_nothing() {
    check_free("node renamed", &recipe("chains", "thoughts"));
    check_free("model renamed", &recipe("teacher", "professor"));
    check_free("commented", &recipe("nodes:", "# what is done\nnodes:   # in this order"));
    check_free(
        "reformatted",
        &recipe(
            "{ kind: cot, input: exam, model: teacher }",
            "\n    model: teacher\n    'kind': \"cot\"\n    input: exam",
        ),
    );
    check_free(
        "nodes in another order",
        &recipe("nodes:\n  exam:     { kind: source, path: exam.jsonl }", "nodes:")
            .then(&append("  exam: { kind: source, path: exam.jsonl }\n")),
    );
    check_free("defaults written out", &recipe("model: judge }", "model: judge, asks: 3, drop_false: false }"));
    check_free(
        "defaults of a model written out",
        &recipe("model: large,", "model: large, json_mode: true, temperature: null, system: null,"),
    );
    check_free(
        "a value named once and used",
        &recipe("model: large", "model: \"${name}\"").then(&recipe("seed: 7", "seed: 7, name: large")),
    );
    check_free("another seed where nothing draws", &recipe("seed: 7", "seed: 8"));
    check_free("an empty profile", &append("profiles: { other: { params: { seed: 9 } } }\n"));
}

#[test]
fn what_happens_to_a_file_counts_by_its_bytes_alone() {
    let moved = |kitchen: &Kitchen| std::fs::rename(kitchen.path("exam.jsonl"), kitchen.path("moved.jsonl")).unwrap();
    let copied = |kitchen: &Kitchen| kitchen.write("moved.jsonl", &kitchen.read("exam.jsonl"));
    let read_there = recipe("path: exam.jsonl", "path: moved.jsonl");
    check_free("touched", &|kitchen| touch(&kitchen.path("exam.jsonl")));
    check_free("written again", &|kitchen| kitchen.write("exam.jsonl", &lines(0..ROWS)));
    check_free("moved", &moved.then(&read_there));
    check_free("copied", &copied.then(&read_there));
    check_free("prompt touched", &|kitchen| touch(&kitchen.path("prompts/cot.md")));
    check_free("prompts moved", &|kitchen| {
        std::fs::rename(kitchen.path("prompts"), kitchen.path("wording")).unwrap();
        kitchen.edit("recipe.yaml", "prompts: prompts", "prompts: wording");
    });
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
        check_free(setting, &recipe("model: large,", &format!("model: large, {setting},")));
    }
    let elsewhere = ModelServer::start(Behaviour { latency_ms: 30, ..steady() });
    let scene = Scene::cooked(ROWS, steady());
    scene.kitchen.edit("recipe.yaml", &scene.server.base_url(), &elsewhere.base_url());
    scene.explains("another, slower server under another address", &[], "");
    scene.expect("another, slower server under another address", &[], 0, "");
    assert_eq!(elsewhere.calls(), 0);
    for arguments in [&["--jobs", "1"], &["--jobs", "3"], &["--device", "cpu"], &["--budget-usd", "0"]] {
        scene.expect(&arguments.join(" "), arguments, 0, "");
    }
}

#[test]
fn what_changes_answers_pays_for_the_stage_that_asks() {
    for (setting, told) in [
        ("identity: b", "identity changed (nothing → b)"),
        ("temperature: 0.5", "temperature changed (nothing → 0.5)"),
        ("top_p: 0.9", "top_p changed (nothing → 0.9)"),
        ("seed: 1", "seed changed (nothing → 1)"),
        ("max_tokens: 900", "max_tokens changed (nothing → 900)"),
        ("system: Be brief.", "system changed (nothing → Be brief.)"),
        ("reasoning_effort: low", "reasoning_effort changed (nothing → low)"),
        ("json_mode: false", "json_mode changed (true → false)"),
        ("extra_body: { top_k: 5 }", "extra_body.top_k changed (nothing → 5)"),
    ] {
        let (to, told) = (format!("model: large, {setting},"), format!("chains: model model.{told}"));
        check_and_revert(setting, "recipe.yaml", "model: large,", &to, 20, "chains", &told);
    }
    let larger = "chains: model model.model changed (large → larger)";
    check_and_revert("model name", "recipe.yaml", "model: large,", "model: larger,", 20, "chains", larger);
    let smaller = "verdicts: model model.model changed (small → smaller)";
    check_and_revert(
        "the judge's model name",
        "recipe.yaml",
        "model: small,",
        "model: smaller,",
        20,
        "verdicts",
        smaller,
    );
    let other: Edit = &recipe("model: large,", "model: larger,");
    check_steps(
        ROWS,
        Behaviour::default(),
        &[("another model with other answers", other, 40, "chains verdicts", larger)],
    );
}

#[test]
fn rows_that_come_go_or_move_pay_for_themselves() {
    check("a row duplicated", &|kitchen| kitchen.write("exam.jsonl", &(lines(0..ROWS) + &line(3))), 0, ALL, FILE);
    check("rows reordered", &|kitchen| kitchen.write("exam.jsonl", &(lines(10..ROWS) + &lines(0..10))), 0, ALL, FILE);
    check("a row removed", &|kitchen| kitchen.write("exam.jsonl", &lines(1..ROWS)), 0, ALL, FILE);
    check("a truth corrected", &recipe_row("agent 4\"", "agent four\""), 1, ALL, FILE);
    let scene = Scene::new(ROWS, steady());
    scene.expect("a sample", &["--limit", "5"], 10, ALL);
    for (name, more, calls, ran, told) in [
        ("a larger sample", &["--limit", "12"][..], 14, ALL, "exam: limit 5 → 12"),
        ("all rows", &[], 16, ALL, "exam: limit 12 → nothing"),
        ("the first sample again", &["--limit", "5"], 0, "", "exam: limit nothing → 5"),
    ] {
        scene.explains(name, more, told);
        scene.expect(name, more, calls, ran);
    }
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
        "verdicts: drop_false false → true",
    );
    let fewer = "chains: asks 3 → 2";
    check_and_revert("fewer asks", "recipe.yaml", "model: teacher }", "model: teacher, asks: 2 }", 0, "chains", fewer);
    check(
        "a second node with the same questions",
        &append("  again: { kind: verify, input: chains, model: judge, drop_false: true }\n"),
        0,
        "again",
        "again: first run",
    );
    let salted = "chains: salt nothing → again; exam: salt nothing → again; verdicts: salt nothing → again";
    check("results disowned, replies not", &recipe("version: 1", "version: 1\nsalt: again"), 0, ALL, salted);
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

/// What a key writes otherwise than the recipe is told in the recipe's words.
#[test]
fn a_part_of_a_mapping_is_told_by_its_name() {
    let scene = Scene::new(ROWS, steady());
    let more = "  halves: { kind: split, input: verdicts, parts: { sft: 0.5, rl: 0.25 } }
  solved: { kind: search, input: halves.sft, model: teacher, strategies: { explore: 1, correct: 2 } }
";
    append(more)(&scene.kitchen);
    scene.kitchen.run(&[]).expect_done();
    for (node, from, to, told) in [
        ("halves", "rl: 0.25", "rl: 0.5", "parts.rl 0.25 → 0.5"),
        ("halves", "rl: 0.25", "rl: 5", "parts.rl 0.25 → 5"),
        ("halves", "rl: 0.25", "rl: 0.25, test: 0.125", "parts.test nothing → 0.125"),
        ("solved", "correct: 2", "correct: 3", "strategies.correct 2.0 → 3.0"),
        ("solved", "model: teacher, strategies", "model: teacher, reveal: true, strategies", "reveal false → true"),
    ] {
        scene.kitchen.edit("recipe.yaml", from, to);
        let roots: Vec<Value> = scene.roots(node, &[]).into_iter().filter(|root| root["node"] == node).collect();
        assert_eq!(roots.iter().map(|root| text(&root["told"])).collect::<Vec<_>>(), [told], "{to}");
        scene.kitchen.edit("recipe.yaml", to, from);
    }
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
