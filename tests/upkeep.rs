//! Looking after a store, as a user does it: what takes space, what may go, what is kept, and that no run ever notices.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, Run, questions};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

const RECIPE: &str = "\
version: 1
params: { seed: 7 }
nodes:
  exam:     { kind: source, path: exam.jsonl }
  distinct: { kind: dedup, input: exam, by: question }
  halves:   { kind: split, input: distinct, parts: { train: 0.5, test: 0.5 } }
  both:     { kind: mix, inputs: [halves.train, halves.test] }
";

fn cooked() -> Kitchen {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.write("exam.jsonl", &questions(200));
    kitchen.run(&[]).expect_done();
    kitchen
}

/// The whole store as it would look after `days` without anyone touching it.
fn age(kitchen: &Kitchen, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
    kitchen.files().iter().for_each(|path| File::open(path).unwrap().set_modified(then).unwrap());
}

fn json(kitchen: &Kitchen, arguments: &[&str]) -> Value {
    serde_json::from_str(&kitchen.says(&[arguments, &["--format", "json"]].concat())).unwrap()
}

fn bytes_of(files: &[PathBuf]) -> u64 {
    files.iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

/// Nodes that a sweep report names, sorted.
fn swept_nodes(report: &Value) -> String {
    let nodes = report["nodes"].as_array().unwrap();
    let mut names: Vec<&str> = nodes.iter().map(|node| node["node"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.join(" ")
}

#[test]
fn a_sweep_removes_nothing_until_it_is_told_to_and_then_what_it_said() {
    let kitchen = cooked();
    kitchen.edit("recipe.yaml", "seed: 7", "seed: 8");
    kitchen.run(&[]).expect_done();
    kitchen.write("recipe.yaml", RECIPE);
    age(&kitchen, 60);
    let before = bytes_of(&kitchen.files());
    let said = json(&kitchen, &["cache", "sweep", "recipe.yaml"]);
    assert_eq!((swept_nodes(&said).as_str(), bytes_of(&kitchen.files())), ("both halves", before));
    assert_eq!((&said["freed_bytes"], &said["kept_generations"]), (&Value::Null, &Value::from(4)));
    let done = json(&kitchen, &["cache", "sweep", "recipe.yaml", "--yes"]);
    assert_eq!(done["freed_bytes"], said["would_free_bytes"]);
    assert_eq!(Value::from(before - bytes_of(&kitchen.files())), said["would_free_bytes"]);
    assert_eq!(kitchen.run(&[]).expect_done().states(), "exam:hit distinct:hit halves:hit both:hit");
}

#[test]
fn what_keeps_finished_work_from_a_sweep() {
    let all = "both distinct exam halves";
    let check = |name: &str, setup: &dyn Fn(&Kitchen), arguments: &[&str], expected: &str| {
        let kitchen = cooked();
        age(&kitchen, 60);
        setup(&kitchen);
        let report = json(&kitchen, &[&["cache", "sweep", "--yes"], arguments].concat());
        assert_eq!(swept_nodes(&report), expected, "{name}");
        let plan = kitchen.plan(&[]);
        let lost = plan.split(' ').filter(|node| !node.ends_with(":hit")).count();
        assert_eq!(lost, expected.split_whitespace().count(), "{name}: {plan}");
    };
    let nothing = |_: &Kitchen| {};
    check("nothing", &nothing, &[], all);
    check("a longer grace period", &nothing, &["--grace", "90d"], "");
    check("its recipe", &nothing, &["recipe.yaml"], "");
    check("its recipe, bent", &nothing, &["recipe.yaml", "--set", "params.seed=8"], "");
    let run = |kitchen: &Kitchen| drop(kitchen.run(&[]).expect_done());
    check("a run that found all of it", &run, &[], "");
    let run_of_a_part = |kitchen: &Kitchen| drop(kitchen.run(&["--until", "distinct"]).expect_done());
    check("a run that found a part", &run_of_a_part, &[], "both halves");
    let pin = |kitchen: &Kitchen| {
        kitchen.says(&["cache", "pin", "recipe.yaml"]);
        age(kitchen, 60);
    };
    check("a pin", &pin, &["--grace", "0s"], "");
    let pin_of_a_part = |kitchen: &Kitchen| {
        kitchen.says(&["cache", "pin", "recipe.yaml", "--until", "distinct", "--name", "data"]);
        age(kitchen, 60);
    };
    check("a pin of a part", &pin_of_a_part, &[], "both halves");
    let unpin = |kitchen: &Kitchen| {
        pin(kitchen);
        kitchen.says(&["cache", "pin", "--remove", "recipe"]);
    };
    check("a pin that was removed", &unpin, &[], all);
}

/// An edit that was not run yet: what each node had last may become the right result again (early cutoff, an edit taken back).
#[test]
fn a_recipe_keeps_what_its_nodes_had_last() {
    let kitchen = cooked();
    age(&kitchen, 60);
    kitchen.write("exam.jsonl", &questions(201));
    let report = json(&kitchen, &["cache", "sweep", "recipe.yaml", "--yes"]);
    assert_eq!(swept_nodes(&report), "");
    kitchen.write("exam.jsonl", &questions(200));
    assert_eq!(kitchen.plan(&[]), "exam:hit distinct:hit halves:hit both:hit");
}

#[test]
fn pins_are_listed_replaced_and_refused() {
    let kitchen = cooked();
    kitchen.says(&["cache", "pin", "recipe.yaml", "--set", "params.seed=7", "--name", "paper"]);
    kitchen.says(&["cache", "pin", "recipe.yaml", "--until", "exam", "--name", "paper"]);
    let list = json(&kitchen, &["cache", "pin", "--list"]);
    let pins = list["pins"].as_array().unwrap();
    assert_eq!((pins.len(), pins[0]["keys"].as_object().unwrap().len()), (1, 1));
    let table = kitchen.says(&["cache", "pin", "--list"]);
    assert!(table.contains("paper") && table.contains("recipe.yaml"), "{table}");
    let check = |arguments: &[&str], exit: i32, expected: &str| {
        let output = kitchen.decoct(&[&["cache", "pin"], arguments].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
    };
    check(&["recipe.yaml", "--set", "params.seed=8"], 2, "`halves` is not finished");
    check(&["recipe.yaml", "--name", "a/b"], 4, "cannot be the name of a pin");
    check(&["recipe.yaml", "--until", "exm"], 2, "no node `exm`");
    check(&["--remove", "nothing"], 2, "there is no pin `nothing`");
    check(&[], 2, "<RECIPE>");
}

#[test]
fn the_statistics_name_every_node_and_add_up() {
    let kitchen = cooked();
    kitchen.edit("recipe.yaml", "seed: 7", "seed: 8");
    kitchen.run(&[]).expect_done();
    let usage = &json(&kitchen, &["cache", "stat"])["usage"];
    let nodes = usage["nodes"].as_array().unwrap();
    let generations = |name: &str| nodes.iter().find(|node| node["node"] == name).unwrap()["generations"].clone();
    assert_eq!([generations("exam"), generations("both")], [Value::from(1), Value::from(2)]);
    assert_eq!(usage["total"]["bytes"], Value::from(bytes_of(&kitchen.files())));
    let table = kitchen.says(&["cache", "stat"]);
    for expected in ["pipeline", "recipe", "halves", "generations", "in all, in"] {
        assert!(table.contains(expected), "{table}");
    }
    assert!(!table.contains("sweep --yes"), "nothing is old: {table}");
    age(&kitchen, 60);
    assert!(kitchen.says(&["cache", "stat"]).contains("`decoct cache sweep --yes` would free"));
}

/// Many short runs leave many short logs; together they are one, and nothing is paid again.
#[test]
fn merged_replies_free_what_was_said_and_answer_as_before() {
    let kitchen = Kitchen::new(
        "version: 1\nmodels: { teacher: { provider: rehearsal } }\nnodes:\n  \
         exam: { kind: source, generate: tablets, rows: 100 }\n  \
         problems: { kind: reformat, input: exam, model: teacher }\n",
    );
    for limit in ["4", "8", "12", "16", "20", "24", "28", "32"] {
        kitchen.run(&["--limit", limit]).expect_done();
    }
    let logs = || kitchen.files().iter().filter(|path| path.extension().is_some_and(|ending| ending == "log")).count();
    let before = bytes_of(&kitchen.files());
    let said = json(&kitchen, &["cache", "sweep", "--replies"]);
    assert_eq!((logs(), bytes_of(&kitchen.files())), (8, before), "a rehearsal");
    let done = json(&kitchen, &["cache", "sweep", "--replies", "--yes"]);
    assert_eq!((logs(), &done["freed_bytes"]), (1, &said["would_free_bytes"]));
    assert_eq!(Value::from(before - bytes_of(&kitchen.files())), said["would_free_bytes"]);
    assert!(kitchen.says(&["cache", "verify"]).contains("all is well"));
    let again = kitchen.run(&["--limit", "32", "--force", "problems"]).expect_done();
    assert_eq!((again.total("calls"), again.total("calls_reused") >= 32), (0, true));
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_is_found_dropped_and_made_again() {
    let kitchen = cooked();
    let expected = kitchen.run(&[]).expect_done().outputs();
    assert!(kitchen.says(&["cache", "verify"]).contains("all is well"));
    kitchen.blobs().iter().for_each(|path| flip(path));
    let text = kitchen.says(&["cache", "verify"]);
    let made_again = "made again when a run needs them: both, distinct, exam, halves of `recipe`";
    assert!(text.contains(made_again) && text.contains("all repaired"), "{text}");
    assert_eq!(kitchen.run(&["--no-stat-cache"]).expect_done().outputs(), expected);
    let report = json(&kitchen, &["cache", "verify"]);
    assert_eq!(report["problems"], Value::Array(vec![]), "{report}");
}

/// The only damage that is not repaired: nobody else knows what a pin keeps.
#[test]
fn a_damaged_pin_ends_with_4_until_it_is_removed() {
    let kitchen = cooked();
    kitchen.says(&["cache", "pin", "recipe.yaml"]);
    flip(&kitchen.store().join("pins/recipe.json"));
    for arguments in [&["cache", "verify"][..], &["cache", "sweep"]] {
        let output = kitchen.decoct(arguments);
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {told}");
        assert!(told.contains("cache pin --remove recipe"), "{arguments:?}: {told}");
    }
    kitchen.says(&["cache", "pin", "--remove", "recipe"]);
    kitchen.says(&["cache", "verify"]);
}

/// How long runs and sweeps are set against each other.
fn contest() -> Duration {
    let is_full = std::env::var_os("DECOCT_TESTS_FULL").is_some();
    Duration::from_secs(if is_full { 60 } else { 6 })
}

/// Without grace, and on one folder: what a run is busy with is never taken from it, and what is taken before it starts is made again.
#[test]
fn sweeps_in_the_middle_of_runs_cost_time_never_rows() {
    let kitchen = cooked();
    let recipes = ["seed: 7", "seed: 8", "seed: 9"].map(|seed| {
        let name = format!("{}.yaml", seed.replace(": ", ""));
        kitchen.write(&name, &RECIPE.replace("seed: 7", seed));
        name
    });
    let start = |recipe: &str| kitchen.command(&["run", recipe, "--format", "json"]).spawn().unwrap();
    let finish = |process: Child| Run::of(&process.wait_with_output().unwrap()).expect_done();
    let expected = recipes.each_ref().map(|recipe| finish(start(recipe)).outputs());
    let (until, mut made_again) = (Instant::now() + contest(), 0);
    let mut freed = 0;
    while Instant::now() < until {
        let sweeps = [(); 2].map(|()| {
            kitchen.command(&["cache", "sweep", "--grace", "0s", "--yes", "--format", "json"]).spawn().unwrap()
        });
        let runs = recipes.each_ref().map(|recipe| start(recipe));
        for (run, expected) in runs.map(finish).iter().zip(&expected) {
            assert_eq!(&run.outputs(), expected);
            made_again += run.nodes.iter().filter(|node| node["state"] == "ran").count();
        }
        for sweep in sweeps {
            let output = sweep.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            freed += report["freed_bytes"].as_u64().unwrap();
        }
    }
    assert!(made_again > 0 && freed > 0, "the sweeps met nothing");
    assert!(kitchen.says(&["cache", "verify"]).contains("all is well"));
}
