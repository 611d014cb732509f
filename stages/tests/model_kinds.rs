//! The model kinds from exam to story, on the rehearsal: every row is accounted for, and the stories teach a depth-first search.

mod support;

use serde_json::{Map, Value, json};
use stages::draw::Draw;
use stages::llm::rehearsal::{Rehearsal, RehearsalSettings};
use stages::rows::Rows;
use stages::settings::Reader;
use stages::stage::{Artifact, Inputs, Outputs, Stage};
use stages::tablets::{ExamSettings, Problem, exam_rows, text};
use std::collections::HashSet;
use std::sync::Arc;
use support::FakeContext;

fn stage(settings: Value) -> Box<dyn Stage> {
    let mut fields = settings.as_object().unwrap().clone();
    let kind = fields.shift_remove("kind").unwrap();
    let mut reader = Reader::default();
    let read = stages::registry::kind(kind.as_str().unwrap()).unwrap().read;
    read(&fields, &mut reader).unwrap_or_else(|| panic!("{:?}", reader.mistakes))
}

fn mistakes(settings: Value) -> Vec<&'static str> {
    let mut fields = settings.as_object().unwrap().clone();
    let kind = fields.shift_remove("kind").unwrap();
    let mut reader = Reader::default();
    (stages::registry::kind(kind.as_str().unwrap()).unwrap().read)(&fields, &mut reader);
    reader.mistakes.iter().map(|mistake| mistake.code).collect()
}

/// A context in which every port that a stage may ask for leads to a rehearsal.
fn rehearsing(settings: RehearsalSettings) -> FakeContext {
    let mut context = FakeContext::new();
    for port in ["model", "verifier", "solver.0", "solver.1", "solver.2"] {
        context.models.insert(port.to_string(), Arc::new(Rehearsal::new(settings.clone())));
    }
    context
}

fn run(settings: Value, rows: Rows, context: &FakeContext) -> Outputs {
    let mut inputs = Inputs::default();
    inputs.0.insert("input".to_string(), Artifact::Rows(rows));
    stage(settings).run(inputs, context).unwrap()
}

fn table(outputs: &Outputs, name: &str) -> Rows {
    match &outputs.artifacts[name] {
        Artifact::Rows(rows) => rows.clone(),
        _ => panic!("`{name}` should be rows"),
    }
}

/// The kept rows, after checking that the report and both outputs account for each row that came in.
fn kept(settings: Value, rows: Rows, context: &FakeContext) -> Rows {
    let before: Vec<String> = rows.rows.iter().map(|row| row.id.clone()).collect();
    let outputs = run(settings, rows, context);
    let (kept, dropped) = (table(&outputs, ""), table(&outputs, "dropped"));
    let after: HashSet<&String> = kept.rows.iter().chain(&dropped.rows).map(|row| &row.id).collect();
    assert_eq!(after, before.iter().collect());
    let counts: Vec<usize> = outputs.report.tables[0].rows.iter().map(|line| line[1].parse().unwrap()).collect();
    assert_eq!(counts[0], before.len());
    assert_eq!(counts[1..].iter().sum::<usize>(), before.len(), "{:?}", outputs.report);
    for line in &outputs.report.tables[0].rows {
        eprintln!("{:>8}  {}", line[1], line[0]);
    }
    assert!(dropped.rows.iter().all(|row| dropped.text(row, "reason").is_ok_and(|reason| !reason.is_empty())));
    kept
}

fn exam(count: usize) -> Rows {
    let settings = stages::settings::Settings::read_fields(&Map::new(), &mut Reader::default()).unwrap();
    let settings: ExamSettings = settings;
    exam_rows(count, &settings, &Draw::new(7, "source"))
}

fn problems(count: usize, context: &FakeContext) -> Rows {
    let clear = kept(json!({"kind": "filter", "input": "x", "model": "m", "keep": ["pass"]}), exam(count), context);
    kept(json!({"kind": "reformat", "input": "x", "model": "m"}), clear, context)
}

fn verdicts(count: usize, context: &FakeContext) -> Rows {
    let chains = kept(json!({"kind": "cot", "input": "x", "model": "m"}), problems(count, context), context);
    kept(json!({"kind": "verify", "input": "x", "model": "m"}), chains, context)
}

const IN_ORDER: &str = r#"{"backtrack": 4, "correct": 2, "verify": 2, "explore": 0.2}"#;

fn search() -> Value {
    json!({"kind": "search", "input": "x", "model": "m", "rounds": 3, "attempts": 3,
        "strategies": serde_json::from_str::<Value>(IN_ORDER).unwrap()})
}

/// The chain that the measured prototype trained on: depth-first, a first choice said once.
fn depth_first(problem: &Problem) -> String {
    let leaves = problem.leaves();
    let solution = leaves.iter().position(|leaf| leaf.solves()).unwrap();
    let mut lines = Vec::new();
    for (index, leaf) in leaves[..=solution].iter().enumerate() {
        let again = index > 0 && leaves[index - 1].counts[0] == leaf.counts[0];
        if index > 0 {
            lines.push("Hmm, wait".to_string());
        }
        for which in usize::from(again)..3 {
            lines.push(format!("{}*{} {}", problem.strengths_mg[which], leaf.counts[which], leaf.left_mg[which]));
        }
    }
    lines.join("\n")
}

#[test]
fn stories_of_tablet_searches_are_the_chains_that_teach() {
    let context = rehearsing(RehearsalSettings::default());
    let verdicts = verdicts(2_000, &context);
    let at_once = share(&verdicts, |rows, row| row.cells[rows.position("verdict").unwrap()] == json!(true));
    assert!((0.30..0.46).contains(&at_once), "solved at once: {at_once}");
    let before = verdicts.len();
    let solved = kept(search(), verdicts, &context);
    let lost = 1.0 - solved.len() as f64 / before as f64;
    assert!((0.001..0.06).contains(&lost), "dropped: {lost}");

    let stories = kept(json!({"kind": "rewrite", "input": "x", "model": "m"}), solved.clone(), &context);
    let equal = share(&stories, |rows, row| {
        let problem = text::read_problem(rows.text(row, "problem").unwrap()).unwrap();
        rows.text(row, "thought").unwrap() == depth_first(&problem)
    });
    assert!(equal >= 0.9, "equal to depth-first chains: {equal}");
    let right = share(&stories, |rows, row| rows.text(row, "response").unwrap() == rows.text(row, "truth").unwrap());
    assert!(right >= 0.98, "right responses: {right}");
    let characters: usize = stories.rows.iter().map(|row| stories.text(row, "thought").unwrap().len()).sum();
    eprintln!(
        "at once {at_once:.3}, lost {lost:.3}, depth-first {equal:.3}, right {right:.3}, characters a thought {}",
        characters / stories.len()
    );

    let paths =
        kept(json!({"kind": "rewrite", "input": "x", "model": "m", "style": "simple"}), solved.clone(), &context);
    assert!(share(&paths, |rows, row| rows.text(row, "thought").unwrap().lines().count() == 3) == 1.0);
    let answers = kept(json!({"kind": "rewrite", "input": "x", "style": "answer"}), solved, &context);
    assert!(share(&answers, |rows, row| rows.text(row, "thought").unwrap().is_empty()) == 1.0);
    assert!(
        share(&answers, |rows, row| rows.text(row, "response").unwrap() == rows.text(row, "truth").unwrap()) == 1.0
    );
}

fn share(rows: &Rows, holds: impl Fn(&Rows, &stages::rows::Row) -> bool) -> f64 {
    rows.rows.iter().filter(|row| holds(rows, row)).count() as f64 / rows.len() as f64
}

#[test]
fn a_second_run_asks_nothing_and_gives_the_same() {
    let context = rehearsing(RehearsalSettings::default());
    let first = run(search(), verdicts(200, &context), &context);
    let calls = context.meter.read().calls;
    let second = run(search(), verdicts(200, &context), &context);
    assert_eq!(context.meter.read().calls, calls);
    assert_eq!(table(&first, ""), table(&second, ""));
    assert_eq!(first.report, second.report);
}

#[test]
fn mistakes_in_a_recipe_are_named() {
    for (settings, expected) in [
        (json!({"kind": "filter", "input": "x"}), vec!["one-of"]),
        (json!({"kind": "filter", "input": "x", "model": "m", "where": "true"}), vec!["one-of"]),
        (json!({"kind": "filter", "input": "x", "where": "question |"}), vec!["broken-expression"]),
        (json!({"kind": "filter", "input": "x", "model": "m", "keep": ["fine"]}), vec!["unknown-word"]),
        (json!({"kind": "cot", "input": "x"}), vec!["missing-key"]),
        (json!({"kind": "cot", "input": "x", "prompt": "none.md"}), vec!["missing-key", "missing-file"]),
        (json!({"kind": "rewrite", "input": "x"}), vec!["missing-key"]),
        (json!({"kind": "rewrite", "input": "x", "style": "answer"}), vec![]),
        (json!({"kind": "search", "input": "x", "model": "m", "strategies": {"explor": 1}}), vec!["unknown-key"]),
        (json!({"kind": "search", "input": "x", "model": "m", "strategies": {"explore": 0}}), vec!["out-of-range"]),
        (
            json!({"kind": "search", "input": "x", "model": "m", "strategies": {"explore": -1, "verify": 2}}),
            vec!["out-of-range"],
        ),
    ] {
        assert_eq!(mistakes(settings.clone()), expected, "{settings}");
    }
}

#[test]
fn a_default_that_is_written_out_is_the_same_node() {
    let plain = stage(json!({"kind": "search", "input": "x", "model": "m"}));
    let weights = json!({"correct": 1, "verify": 1.0, "backtrack": 1, "explore": 1});
    let written = stage(json!({"kind": "search", "input": "y", "model": "n", "rounds": 3, "strategies": weights}));
    assert_eq!(plain.settings(), written.settings());
}

/// Problems of another field: a question with options, as in a real exam.
fn foreign(count: usize) -> Rows {
    let mut rows = exam(count);
    let (question, options) = (rows.require("question").unwrap(), rows.require("options").unwrap());
    let (letter, answer) = (rows.require("answer_idx").unwrap(), rows.require("answer").unwrap());
    for (index, row) in rows.rows.iter_mut().enumerate() {
        row.cells[question] = json!(format!("Which vessel supplies region {index} of the following?"));
        row.cells[options] = json!({"A": "Aorta", "B": "Coeliac trunk", "C": "Vertebral artery"});
        row.cells[letter] = json!("B");
        row.cells[answer] = json!("Coeliac trunk");
    }
    let context = rehearsing(RehearsalSettings::default());
    let problems = kept(json!({"kind": "reformat", "input": "x", "model": "m"}), rows, &context);
    let chains = kept(json!({"kind": "cot", "input": "x", "model": "m"}), problems, &context);
    kept(json!({"kind": "verify", "input": "x", "model": "m"}), chains, &context)
}

fn never_right() -> FakeContext {
    rehearsing(RehearsalSettings {
        first_right: 0.0,
        repair: 0.0,
        verifier_error: 0.0,
        unparsable: 0.0,
        ..RehearsalSettings::default()
    })
}

fn only_false(rows: Rows) -> Rows {
    kept(json!({"kind": "filter", "input": "x", "where": "not verdict"}), rows, &FakeContext::new())
}

fn cell<'a>(rows: &'a Rows, row: &'a stages::rows::Row, column: &str) -> &'a Value {
    &row.cells[rows.require(column).unwrap()]
}

#[test]
fn a_search_of_foreign_problems_solves_most_and_drops_the_rest() {
    let rows = foreign(300);
    let context = rehearsing(RehearsalSettings::default());
    let solved = kept(json!({"kind": "search", "input": "x", "model": "m"}), rows, &context);
    assert!(solved.len() > 280, "{}", solved.len());
    let first = solved.rows.iter().filter_map(|row| cell(&solved, row, "strategies")[0].as_str());
    let first: Vec<&str> = first.collect();
    assert!(!first.contains(&"backtrack") && ["explore", "verify", "correct"].iter().all(|word| first.contains(word)));
    let stories = kept(json!({"kind": "rewrite", "input": "x", "model": "m"}), solved, &context);
    assert!(share(&stories, |rows, row| rows.text(row, "thought").unwrap().contains('\n')) == 1.0);
}

#[test]
fn what_is_never_solved_is_dropped_or_told() {
    let rows = only_false(foreign(60));
    let search = |also: Value| {
        let mut settings = json!({"kind": "search", "input": "x", "model": "m", "rounds": 2, "attempts": 2});
        also.as_object().unwrap().iter().for_each(|(key, value)| settings[key] = value.clone());
        run(settings, rows.clone(), &never_right())
    };
    let plain = table(&search(json!({})), "dropped");
    assert_eq!(plain.len(), rows.len());
    assert!(share(&plain, |rows, row| rows.text(row, "reason").unwrap() == "dropped after 2 attempts") == 1.0);
    let steps = |rows: &Rows, row| cell(rows, row, "chain").as_array().unwrap().len();
    // A fresh chain has 4 steps, each round adds 4 and removes the trailing one; keeping goes on from the first attempt's end.
    assert!(plain.rows.iter().all(|row| steps(&plain, row) == 4 + 2 * 3));
    let kept_on = table(&search(json!({"restart": "keep"})), "dropped");
    assert!(kept_on.rows.iter().all(|row| steps(&kept_on, row) == 4 + 4 * 3));
    let told = table(&search(json!({"reveal": true})), "");
    assert_eq!(told.len(), rows.len());
    assert!(share(&told, |rows, row| cell(rows, row, "told") == &json!(true)) == 1.0);
    assert!(share(&told, |rows, row| cell(rows, row, "verdict") == &json!(false)) == 1.0);
    assert!(share(&told, |rows, row| rows.text(row, "conclusion").unwrap() == "Coeliac trunk") == 1.0);
}

#[test]
fn a_row_whose_replies_never_parse_is_marked_and_kept_visible() {
    let context = rehearsing(RehearsalSettings { unparsable: 1.0, ..RehearsalSettings::default() });
    let rows = foreign(10);
    let outputs = run(json!({"kind": "cot", "input": "x", "model": "m", "asks": 2}), rows, &context);
    let dropped = table(&outputs, "dropped");
    assert_eq!((table(&outputs, "").len(), dropped.len(), context.meter.read().calls), (0, 10, 20));
    for row in &dropped.rows {
        assert_eq!(cell(&dropped, row, "marked"), &json!(true));
        assert!(dropped.text(row, "reason").unwrap().contains("asked 2 times"), "{row:?}");
    }
    let warnings = context.warnings.lock().unwrap();
    assert_eq!(*warnings, ["cot: none of 10 rows go on: 10 marked: no usable reply to cot"]);
}

#[test]
fn the_next_small_model_is_asked_only_while_all_before_solved() {
    let filter = json!({"kind": "filter", "input": "x", "drop_if_all_solve": ["a", "b", "c"], "min_length": 10});
    for (skill, calls) in [(0.0, 40), (1.0, 120)] {
        let context = rehearsing(RehearsalSettings { skill, ..RehearsalSettings::default() });
        // Three rehearsals with three identities, as three models of a recipe would be.
        let mut context = context;
        for (seed, port) in ["solver.0", "solver.1", "solver.2"].into_iter().enumerate() {
            let settings = RehearsalSettings { seed: seed as u64, skill, ..RehearsalSettings::default() };
            context.models.insert(port.to_string(), Arc::new(Rehearsal::new(settings)));
        }
        let kept = kept(filter.clone(), exam(40), &context);
        let called = context.meter.read().calls;
        assert!(called.abs_diff(calls) <= 12, "skill {skill}: {called} calls");
        assert!(if skill == 0.0 { kept.len() == 40 } else { kept.len() < 10 }, "skill {skill}: {} kept", kept.len());
    }
}

#[test]
fn an_expression_sees_the_columns() {
    let context = FakeContext::new();
    let filter = json!({"kind": "filter", "input": "x", "where": "answer_idx in ['A', 'B'] and question|length > 20"});
    let kept = kept(filter, exam(100), &context);
    assert!((30..70).contains(&kept.len()));
    let mut inputs = Inputs::default();
    inputs.0.insert("input".to_string(), Artifact::Rows(exam(1)));
    let failure = stage(json!({"kind": "filter", "input": "x", "where": "quetion != ''"})).run(inputs, &context);
    let message = failure.unwrap_err().to_string();
    assert!(message.contains("the columns are `question`"), "{message}");
}

/// A fingerprint of a kind's main output. When one changes, the rows of everybody's cache change with it: raise the kind's `version`
/// (or the rehearsal's `VERSION`, if that is what changed), then write the new value here.
fn fingerprint(rows: &Rows) -> String {
    let cells: Vec<(&str, &Vec<Value>)> = rows.rows.iter().map(|row| (row.id.as_str(), &row.cells)).collect();
    blake3::hash(json!(cells).to_string().as_bytes()).to_hex()[..16].to_string()
}

#[test]
fn outputs_change_only_with_a_version() {
    let context = rehearsing(RehearsalSettings::default());
    let exam = exam(300);
    let hard =
        kept(json!({"kind": "filter", "input": "x", "drop_if_all_solve": ["a", "b", "c"]}), exam.clone(), &context);
    let clear = kept(json!({"kind": "filter", "input": "x", "model": "m"}), hard.clone(), &context);
    let problems = kept(json!({"kind": "reformat", "input": "x", "model": "m"}), clear.clone(), &context);
    let chains = kept(json!({"kind": "cot", "input": "x", "model": "m"}), problems.clone(), &context);
    let verdicts = kept(json!({"kind": "verify", "input": "x", "model": "m"}), chains.clone(), &context);
    let solved = kept(search(), verdicts.clone(), &context);
    let stories = kept(json!({"kind": "rewrite", "input": "x", "model": "m"}), solved.clone(), &context);
    let paths =
        kept(json!({"kind": "rewrite", "input": "x", "model": "m", "style": "simple"}), solved.clone(), &context);
    let tables = [&exam, &hard, &clear, &problems, &chains, &verdicts, &solved, &stories, &paths];
    let found = tables.map(fingerprint);
    let expected = [
        "c2c94ed565cbf5f3",
        "83d356dbc6e0d66a",
        "ae479b5e67a0ff44",
        "2534099d6b8c13ae",
        "4725fa6560978c68",
        "f08bd68281cb1c0c",
        "316bebe5b49b02d1",
        "948c1ed176a6bfdf",
        "3a0dfee9a94d0f1e",
    ];
    assert_eq!(found, expected);
}
