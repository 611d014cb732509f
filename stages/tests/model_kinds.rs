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
        Artifact::Model(_) => panic!("`{name}` should be rows"),
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
