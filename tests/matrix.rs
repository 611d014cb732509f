//! A matrix: variants share what they have in common, stand in one table, and an edit of one value touches one variant.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, Run};
use serde_json::Value;

const RECIPE: &str = "\
version: 1
params: { seed: 7 }
matrix: { rounds: [1, 3] }
models:
  teacher: { provider: rehearsal }
nodes:
  exam:     { kind: source, generate: tablets, rows: 60 }
  problems: { kind: reformat, input: exam, model: teacher }
  halves:   { kind: split, input: problems, parts: { train: 0.8, test: 0.2 } }
  chains:   { kind: cot, input: halves.train, model: teacher }
  verdicts: { kind: verify, input: chains, model: teacher }
  solved:   { kind: search, input: verdicts, model: teacher, verifier: teacher, rounds: '${rounds}' }
  stories:  { kind: rewrite, input: solved, model: teacher }
  student:  { kind: sft, input: stories, epochs: '${epochs}', matrix: { epochs: { short: 1, long: 2 } },
              base: { architecture: qwen2, layers: 1, hidden: 32, heads: 2, kv_heads: 1, tokenizer: { train: words, size: 300 } } }
  score:    { kind: eval, input: halves.test, models: { base: student.base, student: student }, max_new_tokens: 4, modes: [greedy] }
";

const SHARED: [&str; 5] = ["exam", "problems", "halves", "chains", "verdicts"];
const STUDENTS: [&str; 4] = [
    "student/rounds=1,epochs=short",
    "student/rounds=1,epochs=long",
    "student/rounds=3,epochs=short",
    "student/rounds=3,epochs=long",
];

fn state_of<'a>(states: &'a str, node: &str) -> &'a str {
    let found = states.split(' ').find_map(|one| one.strip_prefix(node)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no `{node}` in {states}"))
}

fn nodes_that(states: &str, state: &str) -> Vec<String> {
    let in_state = |one: &str| one.rsplit_once(':').filter(|(_, of)| *of == state).map(|(node, _)| node.to_string());
    states.split(' ').filter_map(in_state).collect()
}

#[test]
fn common_work_is_done_once_and_results_stand_in_one_table() {
    let kitchen = Kitchen::new(RECIPE);
    let run = kitchen.run(&[]).expect_done();
    assert_eq!(run.nodes.len(), SHARED.len() + 2 + 2 + STUDENTS.len() + 1, "{}", run.states());
    let figure = |run: &Run, node: &str, figure: &str| run.node(node)[figure].as_u64().unwrap();
    let alone = |rounds: &str| {
        let plain = RECIPE.replace("matrix: { rounds: [1, 3] }", "").replace("'${rounds}'", rounds);
        Kitchen::new(&plain).run(&["--until", "stories"]).expect_done()
    };
    let arms = [("solved/rounds=1", alone("1")), ("solved/rounds=3", alone("3"))];
    for node in SHARED {
        assert_eq!(figure(&run, node, "calls"), figure(&arms[0].1, node, "calls"), "{node}");
        assert_eq!(run.node(node)["output"], arms[0].1.node(node)["output"], "{node}");
    }
    let mut saved = 0;
    for (node, alone) in &arms {
        assert_eq!(run.node(node)["output"], alone.node("solved")["output"], "names are no part of a result");
        let asked = |run: &Run, node: &str| figure(run, node, "calls") + figure(run, node, "calls_reused");
        assert_eq!(asked(&run, node), asked(alone, "solved"), "{node}");
        saved += figure(alone, "solved", "calls") - figure(&run, node, "calls");
    }
    assert!(saved > 0, "the first attempts begin alike, and are paid once");

    let told = kitchen.says(&["show", "recipe.yaml", "score"]);
    let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    let head = lines.iter().position(|line| line.starts_with(&["model", "rounds", "epochs"])).expect(&told);
    let arms: Vec<&[&str]> = lines[head + 2..].iter().take(8).map(|line| &line[..3]).collect();
    for arm in
        [["student", "1", "short"], ["student", "1", "long"], ["student", "3", "short"], ["student", "3", "long"]]
    {
        assert_eq!(arms.iter().filter(|line| **line == arm).count(), 1, "{arm:?} in\n{told}");
    }
    let rows: Vec<Value> = kitchen
        .says(&["show", "recipe.yaml", "score", "--format", "json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |label: &str| rows.iter().filter(|row| row["model"] == label).cloned().collect::<Vec<Value>>();
    let long = of("student/rounds=3,epochs=long");
    assert!(!long.is_empty() && rows.len() == 8 * long.len(), "{} of {}", long.len(), rows.len());
    assert!(long.iter().all(|row| row["rounds"] == "3" && row["epochs"] == "long"), "{:?}", long[0]);
}

#[test]
fn an_edit_of_one_value_touches_its_variant_only_and_a_new_value_none() {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.run(&[]).expect_done();
    assert_eq!(nodes_that(&kitchen.plan(&[]), "hit").len(), 14);

    kitchen.edit("recipe.yaml", "long: 2", "long: 3");
    let plan = kitchen.plan(&[]);
    assert_eq!(nodes_that(&plan, "run"), [STUDENTS[1], STUDENTS[3]]);
    assert_eq!(nodes_that(&plan, "waits"), ["score"]);

    kitchen.edit("recipe.yaml", "long: 3", "long: 2, longer: 4");
    let plan = kitchen.plan(&[]);
    assert_eq!(nodes_that(&plan, "run"), ["student/rounds=1,epochs=longer", "student/rounds=3,epochs=longer"]);
    assert!(STUDENTS.iter().all(|student| state_of(&plan, student) == "hit"), "{plan}");

    // One value alone, and no matrix at all, find the same work.
    for set in ["matrix.rounds=[3]", "params.rounds=3"] {
        let plan = kitchen.plan(&["--set", set, "--until", "solved"]);
        assert_eq!(plan, "exam:hit problems:hit halves:hit chains:hit verdicts:hit solved/rounds=3:hit", "{set}");
    }
    kitchen.edit("recipe.yaml", "matrix: { rounds: [1, 3] }\n", "");
    kitchen.edit("recipe.yaml", "'${rounds}'", "3");
    assert_eq!(state_of(&kitchen.plan(&[]), "solved"), "hit");
}

#[test]
fn a_name_means_a_variant_or_all_of_them() {
    let kitchen = Kitchen::new(RECIPE);
    let run = kitchen.run(&["--until", "stories/rounds=1"]).expect_done();
    assert_eq!(run.states().split(' ').next_back(), Some("stories/rounds=1:ran"));
    let run = kitchen.run(&["--until", "student/epochs=short", "--force", "solved"]).expect_done();
    assert_eq!(nodes_that(&run.states(), "ran").iter().filter(|node| node.starts_with("solved")).count(), 2);
    assert_eq!(run.nodes.iter().filter(|node| node["kind"] == "sft").count(), 2);

    assert!(
        kitchen
            .says(&["show", "recipe.yaml", "solved/rounds=3", "--rows", "1"])
            .starts_with("solved/rounds=3 · search")
    );
    assert!(kitchen.says(&["show", "recipe.yaml", "student.base/epochs=short,rounds=1"]).contains("sft"));
    let edited = "matrix.rounds={ '1': 2, '3': 3 }";
    let told = kitchen.says(&["explain", "recipe.yaml", "solved/rounds=1", "--set", edited, "--format", "json"]);
    let story: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(story["roots"][0]["path"], "settings.rounds", "{story}");
    let told =
        kitchen.says(&["diff", "recipe.yaml:solved/rounds=1", "recipe.yaml:solved/rounds=3", "--format", "json"]);
    assert!(serde_json::from_str::<Value>(&told).is_ok());
    kitchen.says(&["cache", "pin", "recipe.yaml", "--until", "solved", "--name", "both"]);
    let pins: Value = serde_json::from_str(&kitchen.says(&["cache", "pin", "--list", "--format", "json"])).unwrap();
    let keys = pins["pins"][0]["keys"].as_object().unwrap();
    assert!(["solved/rounds=1", "solved/rounds=3", "exam"].iter().all(|node| keys.contains_key(*node)), "{keys:?}");

    for (arguments, expected) in [
        (&["show", "recipe.yaml", "solved"][..], "name one of them: `solved/rounds=1`, `solved/rounds=3`"),
        (&["explain", "recipe.yaml", "student/rounds=3"], "`student/rounds=3` has 2 variants"),
        (&["show", "recipe.yaml", "solved/rounds=2"], "did you mean `solved/rounds=1`?"),
        (&["run", "recipe.yaml", "--until", "solved/round=1"], "did you mean `solved/rounds=1`?"),
    ] {
        let output = kitchen.decoct(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(expected), "{arguments:?}: {told}");
    }
}
