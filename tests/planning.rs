//! What `plan` foresees against what the run then does: states and reasons, calls within their range, tokens within their interval
//! nine times in ten; and that looking costs nothing.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::{Kitchen, Run};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use support::model_answers::Habits;
use support::model_server::{Behaviour, ModelServer};

const PIPELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");
const RECIPE: &str = "\
version: 1
params: { seed: 7 }
prompts: prompts
models:
  teacher: { provider: openai, model: large, seed: 3, base_url: \"URL\", max_tokens: 900, prices: { input_usd_per_million: 2.5, output_usd_per_million: 10 } }
  judge:   { provider: openai, model: small, base_url: \"URL\", max_tokens: 900, prices: { input_usd_per_million: 0.5, output_usd_per_million: 2 } }
nodes:
  exam:     { kind: source, path: exam.jsonl }
  chains:   { kind: cot, input: exam, model: teacher }
  verdicts: { kind: verify, input: chains, model: judge }
  solved:   { kind: search, input: verdicts, model: teacher, verifier: judge, rounds: 2, attempts: 2 }
  stories:  { kind: rewrite, input: solved, model: teacher }
";

/// A recipe beside its server.
struct Scene {
    kitchen: Kitchen,
    server: ModelServer,
}

fn lines(rows: std::ops::Range<usize>) -> String {
    let line = |row: usize| {
        let signs = "a sign that stays, ".repeat(1 + row % 7);
        format!(
            "{{\"problem\": \"Which agent is given first for {signs}and sign {row}?\", \"truth\": \"agent {row}\"}}\n"
        )
    };
    rows.map(line).collect()
}

impl Scene {
    fn new(habits: Habits, rows: usize) -> Scene {
        let server = ModelServer::start(Behaviour { habits, ..Behaviour::default() });
        let kitchen = Kitchen::new(&RECIPE.replace("URL", &server.base_url()));
        kitchen.write("exam.jsonl", &lines(0..rows));
        copy_prompts(&kitchen, "prompts");
        Scene { kitchen, server }
    }
}

fn copy_prompts(kitchen: &Kitchen, folder: &str) {
    std::fs::create_dir_all(kitchen.path(folder)).unwrap();
    for entry in std::fs::read_dir(Path::new(PIPELINES).join("medical/prompts")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, kitchen.path(folder).join(path.file_name().unwrap())).unwrap();
    }
}

fn foreseen(kitchen: &Kitchen, more: &[&str]) -> Value {
    serde_json::from_str(&kitchen.says(&[&["plan", "recipe.yaml", "--format", "json"], more].concat())).unwrap()
}

fn holds(range: &Value, value: f64) -> bool {
    let bound = |name: &str| range[name].as_f64();
    bound("low").is_none_or(|low| low <= value + 1e-6) && bound("high").is_none_or(|high| value <= high + 1e-6)
}

/// States, reasons, rows and calls of the run must be as the plan said; whether the tokens of the whole run lie in its interval.
fn check(what: &str, plan: &Value, run: &Run) -> bool {
    for planned in plan["nodes"].as_array().unwrap() {
        let name = planned["node"].as_str().unwrap();
        let ran = run.node(name);
        let story = || format!("{what}, `{name}`: {planned:#}\n{ran:#}");
        match planned["state"].as_str().unwrap() {
            "hit" => assert_eq!(ran["state"], "hit", "{}", story()),
            "run" => assert_eq!((ran["state"].as_str(), &ran["why"]), (Some("ran"), &planned["why"]), "{}", story()),
            "waits" => assert!(["hit", "ran"].contains(&ran["state"].as_str().unwrap()), "{}", story()),
            other => panic!("{other}"),
        }
        assert!(holds(&planned["calls_new"], ran["calls"].as_f64().unwrap()), "{}", story());
        if let (Some(_), Some(rows)) = (planned["rows_out"].as_object(), ran["rows"].as_f64()) {
            assert!(holds(&planned["rows_out"], rows), "{}", story());
        }
    }
    assert!(holds(&plan["totals"]["calls_new"], run.total("calls") as f64), "{what}");
    let inside = |planned: &str, ran: &str| {
        let (interval, tokens) = (&plan["totals"][planned], run.total(ran) as f64);
        let inside = holds(interval, tokens);
        if !inside {
            eprintln!("{what}: {tokens} {ran} are outside of {interval}");
        }
        inside
    };
    inside("tokens_in_new", "tokens_in") & inside("tokens_out_new", "tokens_out")
}

type Edit = (&'static str, &'static str, &'static str, &'static str);

/// File, from, to: one after the other, each on top of the ones before.
const EDITS: [Edit; 7] = [
    ("a prompt at the head", "prompts/cot.md", "Solve the problem", "Do solve the problem"),
    ("a prompt in the middle", "prompts/search.md", "\n", " \n"),
    ("two prompts", "prompts/verify.md", "Compare a model's", "Now compare a model's"),
    ("a prompt at the end", "prompts/rewrite.md", "\n", " \n"),
    ("fewer asks", "recipe.yaml", "kind: cot, input", "kind: cot, asks: 2, input"),
    ("more attempts", "recipe.yaml", "attempts: 2", "attempts: 3"),
    ("the judge's temperature", "recipe.yaml", "model: small,", "model: small, temperature: 0.5,"),
];

#[test]
fn what_a_plan_foresees_is_what_the_run_then_does() {
    let (mut plans, mut inside) = (0, 0);
    for (accepts, unparsable, rows) in [(0.45, 0.0, 60), (0.3, 0.1, 60), (0.7, 0.02, 120)] {
        let scene = Scene::new(Habits { accepts, unparsable, ..Habits::default() }, rows);
        let mut step = |what: &str| {
            let before = scene.server.calls();
            let plan = foreseen(&scene.kitchen, &[]);
            assert_eq!(scene.server.calls(), before, "{what}: a plan sends nothing");
            let run = scene.kitchen.run(&[]).expect_done();
            plans += 1;
            inside += usize::from(check(&format!("{what}, accepts {accepts}"), &plan, &run));
        };
        step("cold");
        for (what, file, from, to) in EDITS {
            scene.kitchen.edit(file, from, to);
            step(what);
        }
        scene.kitchen.write("exam.jsonl", &lines(0..rows + 5));
        step("five rows added");
    }
    assert!(plans >= 20 && 10 * inside >= 9 * plans, "tokens inside their interval in {inside} of {plans} plans");
}

/// The part that asks, at a size that takes seconds.
const SMALL: &[&str] = &["--limit=200", "--until=stories", "--until=paths"];

#[test]
fn the_bundled_recipe_cold_and_edited_costs_what_its_plan_says() {
    let kitchen = Kitchen::new(&std::fs::read_to_string(Path::new(PIPELINES).join("medical.yaml")).unwrap());
    copy_prompts(&kitchen, "medical/prompts");
    let mut inside = Vec::new();
    let mut step = |what: &str| {
        let plan = foreseen(&kitchen, SMALL);
        inside.push(check(what, &plan, &kitchen.run(SMALL).expect_done()));
    };
    step("cold");
    step("nothing to do");
    for (prompt, from, to) in [
        ("reformat", "without seeing any options", "without any options in sight"),
        ("cot", "Solve the problem", "Do solve the problem"),
        ("search", "have written down", "have put down"),
        ("rewrite", "simple words", "plain words"),
    ] {
        kitchen.edit(&format!("medical/prompts/{prompt}.md"), from, to);
        step(prompt);
    }
    kitchen.edit("recipe.yaml", "rounds: 3", "rounds: 2");
    step("fewer rounds");
    kitchen.edit("recipe.yaml", "keep: [pass]", "keep: [pass, too_simple]");
    step("other labels");
    assert!(10 * inside.iter().filter(|&&inside| inside).count() >= 9 * inside.len(), "{inside:?}");
}

/// Every file below the store with its size and time.
fn listing(kitchen: &Kitchen) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut all = Vec::new();
    let mut folders = vec![kitchen.store()];
    while let Some(folder) = folders.pop() {
        let of = |path: &Path| path.metadata().unwrap();
        all.push((folder.clone(), 0, of(&folder).modified().unwrap()));
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => all.push((path.clone(), of(&path).len(), of(&path).modified().unwrap())),
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_plan_sends_and_writes_nothing_and_reads_no_key() {
    let scene = Scene::new(Habits { unparsable: 0.1, ..Habits::default() }, 30);
    foreseen(&scene.kitchen, &[]);
    assert!(!scene.kitchen.store().exists(), "a cold plan makes no store");
    scene.kitchen.run(&["--until", "verdicts"]).expect_done();
    // The index of the last log is what the next run would write.
    for path in scene.kitchen.files().iter().filter(|path| path.extension().is_some_and(|kind| kind == "idx")) {
        std::fs::remove_file(path).unwrap();
    }
    scene.kitchen.edit("recipe.yaml", "base_url:", "api_key_env: DECOCT_TEST_UNSET, base_url:");
    scene.kitchen.edit("recipe.yaml", "kind: cot, input", "kind: cot, asks: 2, input");
    let (files, calls) = (listing(&scene.kitchen), scene.server.calls());
    let output = scene.kitchen.decoct(&["plan", "recipe.yaml", "--format", "json"]);
    let plan: Value = serde_json::from_str(String::from_utf8_lossy(&output.stdout).lines().next().unwrap()).unwrap();
    let chains = &plan["nodes"][1];
    assert_eq!((chains["calls"].as_u64(), chains["state"].as_str()), (Some(0), Some("run")), "{chains}");
    assert!(chains["calls_paid"].as_u64().unwrap() >= 30, "{chains}");
    assert_eq!(output.status.code(), Some(2), "that the key is missing is said all the same");
    assert_eq!(listing(&scene.kitchen), files);
    assert_eq!(scene.server.calls(), calls);
}

#[test]
fn a_row_that_was_added_is_the_only_one_to_be_paid() {
    let scene = Scene::new(Habits::default(), 40);
    scene.kitchen.run(&["--until", "verdicts"]).expect_done();
    scene.kitchen.write("exam.jsonl", &lines(0..41));
    let plan = foreseen(&scene.kitchen, &["--until", "verdicts"]);
    let new = |node: usize| plan["nodes"][node]["calls"].as_u64().unwrap();
    assert_eq!((new(1), new(2)), (1, 1), "{plan:#}");
    assert_eq!(plan["nodes"][1]["calls_paid"], 40);
    check("one row more", &plan, &scene.kitchen.run(&["--until", "verdicts"]).expect_done());
}

#[test]
fn a_price_that_is_not_known_is_not_zero() {
    let scene = Scene::new(Habits::default(), 5);
    scene.kitchen.edit("recipe.yaml", ", prices: { input_usd_per_million: 0.5, output_usd_per_million: 2 }", "");
    let plan = foreseen(&scene.kitchen, &[]);
    assert!(plan["nodes"][1]["cost_usd"].as_f64().unwrap() > 0.0, "{plan:#}");
    assert!(plan["nodes"][2]["cost_usd"].is_null() && plan["totals"]["cost_usd_new"].is_null(), "{plan:#}");
    assert!(scene.kitchen.says(&["plan", "recipe.yaml"]).contains("unknown"));
}

#[test]
fn a_plan_fits_a_terminal() {
    let scene = Scene::new(Habits::default(), 25);
    for arguments in [&["plan", "recipe.yaml"][..], &["plan", "recipe.yaml", "--limit", "9", "--set", "params.seed=8"]]
    {
        let text = scene.kitchen.says(arguments);
        let table: Vec<&str> = text.lines().skip_while(|line| !line.contains("why")).take(7).collect();
        assert_eq!(table.len(), 7, "{text}");
        assert!(table.iter().all(|line| line.chars().count() <= 100), "{text}");
        scene.kitchen.run(&[]).expect_done();
    }
}

#[test]
fn a_run_that_reached_its_budget_says_what_is_left_and_what_that_will_cost() {
    let scene = Scene::new(Habits::default(), 60);
    let whole: f64 = {
        let twin = Scene::new(Habits::default(), 60);
        twin.kitchen.run(&[]).expect_done().nodes.iter().map(|node| node["cost_usd"].as_f64().unwrap()).sum()
    };
    let budget = format!("{:.4}", whole / 2.0);
    let run = scene.kitchen.run(&["--budget-usd", &budget]);
    assert_eq!(run.exit, 3, "{}", run.told);
    let remains = run.events.iter().find(|event| event["event"] == "remains").expect("what remains is told");
    let spent = remains["spent_usd"].as_f64().unwrap();
    assert!(0.0 < spent && spent <= whole / 2.0, "{remains:#}");
    assert!(!remains["nodes"].as_array().unwrap().is_empty() && remains["rows"].as_u64() > Some(0), "{remains:#}");
    let command = remains["command"].as_str().unwrap();
    assert!(command.starts_with("decoct run recipe.yaml") && command.contains("--budget-usd"), "{command}");
    let before = scene.server.calls();
    let rest = scene.kitchen.run(&[]).expect_done();
    assert_eq!(scene.server.paid_twice(), 0);
    let calls = (scene.server.calls() - before) as f64;
    assert!(holds(&remains["totals"]["calls_new"], calls), "{calls}: {remains:#}");
    let cost: f64 = rest.nodes.iter().map(|node| node["cost_usd"].as_f64().unwrap()).sum();
    assert!(holds(&remains["totals"]["cost_usd_new"], cost), "{cost}: {remains:#}");
}

#[test]
fn a_budget_below_the_plan_is_warned_of_before_anything_is_spent() {
    let scene = Scene::new(Habits::default(), 60);
    scene.kitchen.run(&["--until", "chains"]).expect_done();
    scene.kitchen.edit("prompts/cot.md", "Solve the problem", "Do solve the problem");
    let run = scene.kitchen.run(&["--until", "chains", "--budget-usd", "0.001"]);
    let warned = run
        .events
        .iter()
        .position(|event| event["event"] == "warning" && event["message"].to_string().contains("$0.0010"));
    let started = run.events.iter().position(|event| event["event"] == "started");
    assert!(warned.is_some() && warned < started, "{:?}", run.events);
    assert_eq!(run.exit, 3);
}

/// Prices of the recipe's table hold where a model states none; they move no key.
#[test]
fn a_table_of_prices_prices_the_models_that_state_none() {
    let scene = Scene::new(Habits::default(), 6);
    let before = foreseen(&scene.kitchen, &["--until", "verdicts"]);
    let own = [
        "input_usd_per_million: 2.5, output_usd_per_million: 10",
        "input_usd_per_million: 0.5, output_usd_per_million: 2",
    ];
    for prices in own {
        scene.kitchen.edit("recipe.yaml", &format!(", prices: {{ {prices} }}"), "");
    }
    let cost = |plan: &Value| plan["totals"]["cost_usd_new"]["expected"].as_f64();
    assert_eq!(cost(&foreseen(&scene.kitchen, &["--until", "verdicts"])), None);
    // The whole name wins over a pattern, the longer pattern over the shorter.
    let table = format!(
        "prices: {{ \"*\": {{ input_usd_per_million: 900, output_usd_per_million: 900 }}, \"lar*\": {{ {} }}, small: {{ {} }} }}\nnodes:\n",
        own[0], own[1]
    );
    scene.kitchen.edit("recipe.yaml", "nodes:\n", &table);
    let after = foreseen(&scene.kitchen, &["--until", "verdicts"]);
    assert_eq!(cost(&before), cost(&after));
    assert!(cost(&after).unwrap() > 0.0);
    let plan = scene.kitchen.says(&["plan", "recipe.yaml"]);
    assert!(plan.contains("`teacher`: $2.5 in, $10 out a million tokens, by `lar*`"), "{plan}");
    assert!(plan.contains("`judge`: $0.5 in, $2 out a million tokens, by `small`"), "{plan}");
    // A profile may bring other prices; finished work does not mind.
    scene.kitchen.run(&["--until", "verdicts", "--budget-usd", "5"]).expect_done();
    let dearer = "--set=prices.small.input_usd_per_million=7";
    assert_eq!(scene.kitchen.plan(&["--until", "verdicts", dearer]), "exam:hit chains:hit verdicts:hit");
}
