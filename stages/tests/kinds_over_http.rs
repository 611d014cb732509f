//! The model kinds against a real HTTP server, on questions that no rehearsal knows: every row is accounted for, faults change nothing.

#[path = "../../tests/support/mod.rs"]
mod house;
mod support;

use house::model_answers::Habits;
use house::model_faults::Faults;
use house::model_server::{Behaviour, ModelServer};
use serde_json::{Value, json};
use stages::llm::ModelSpec;
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::settings::Reader;
use stages::stage::{Artifact, Inputs};
use support::FakeContext;

const QUESTIONS: usize = 120;

fn exam() -> Rows {
    let column = |name: &str, column_type| Column { name: name.to_string(), column_type };
    let mut rows = Rows::new(vec![
        column("question", ColumnType::Text),
        column("options", ColumnType::Json),
        column("answer_idx", ColumnType::Text),
        column("answer", ColumnType::Text),
    ]);
    rows.rows.extend((0..QUESTIONS).map(|index| {
        let question = format!("A patient of {index} years has a fever and {} other signs. What is it?", index % 7 + 2);
        let options = json!({"A": "a cold", "B": format!("disease {index}"), "C": "measles", "D": "nothing"});
        let cells = vec![json!(question), options, json!("B"), json!(format!("disease {index}"))];
        Row { id: format!("exam-{index}"), cells }
    }));
    rows
}

fn context(server: &ModelServer) -> FakeContext {
    let entry = json!({
        "provider": "openai", "model": "m", "base_url": server.base_url(), "seed": 7, "concurrency": 32,
        "pause_ms": 2, "pause_max_ms": 10,
    });
    let mut context = FakeContext::new();
    let spec = ModelSpec::read(entry.as_object().unwrap(), &mut Reader::default()).unwrap();
    let model = spec.open(support::device(), None, context.runtime.handle()).unwrap();
    for port in ["model", "verifier", "solver.0", "solver.1", "solver.2"] {
        context.models.insert(port.to_string(), model.clone());
    }
    context
}

/// What goes on and what does not, after checking that together they are what came in.
fn run(context: &FakeContext, kind: &str, extra: Value, rows: Rows) -> (Rows, Rows) {
    let before: Vec<String> = rows.rows.iter().map(|row| row.id.clone()).collect();
    let mut fields = json!({"input": "before"});
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let mut reader = Reader::default();
    let stage = (stages::registry::kind(kind).unwrap().read)(fields.as_object().unwrap(), &mut reader);
    let stage = stage.unwrap_or_else(|| panic!("{:?}", reader.mistakes));
    let mut outputs = stage.run(Inputs([("input".to_string(), Artifact::Rows(rows))].into()), context).unwrap();
    let mut take = |name: &str| match outputs.artifacts.shift_remove(name) {
        Some(Artifact::Rows(rows)) => rows,
        other => panic!("{kind} gave {other:?}"),
    };
    let (kept, dropped) = (take(""), take("dropped"));
    let mut after: Vec<String> = kept.rows.iter().chain(&dropped.rows).map(|row| row.id.clone()).collect();
    after.sort_by_key(|id| before.iter().position(|known| known == id));
    assert_eq!(after, before, "{kind} accounts for every row once");
    (kept, dropped)
}

/// All model kinds in the recipe's order; every output on the way, kept and dropped.
fn recipe(context: &FakeContext) -> Vec<(Rows, Rows)> {
    let nodes = [
        ("filter", json!({"drop_if_all_solve": ["a", "b", "c"]})),
        ("filter", json!({"model": "m", "keep": ["pass"]})),
        ("reformat", json!({"model": "m"})),
        ("cot", json!({"model": "m"})),
        ("verify", json!({"model": "m"})),
        ("search", json!({"model": "m", "rounds": 2, "attempts": 2})),
        ("rewrite", json!({"model": "m"})),
    ];
    let mut rows = exam();
    nodes
        .into_iter()
        .map(|(kind, extra)| {
            let (kept, dropped) = run(context, kind, extra, rows.clone());
            rows = kept.clone();
            (kept, dropped)
        })
        .collect()
}

#[test]
fn every_row_of_a_foreign_exam_is_accounted_for() {
    let server = ModelServer::start(Behaviour::default());
    let context = context(&server);
    let outputs = recipe(&context);
    let (stories, _) = outputs.last().unwrap();
    assert!(stories.len() > QUESTIONS / 2, "{} stories", stories.len());
    let (problems, _) = &outputs[2];
    let first = &problems.rows[0];
    assert_eq!(problems.text(first, "truth").unwrap(), format!("disease {}", first.id.trim_start_matches("exam-")));
    for row in &stories.rows {
        assert!(stories.text(row, "thought").unwrap().contains('\n'));
        assert!(!stories.text(row, "response").unwrap().is_empty());
    }
    let (_, unsolved) = &outputs[5];
    assert!(unsolved.rows.iter().all(|row| !unsolved.text(row, "reason").unwrap().is_empty()));
    assert_eq!(server.paid_twice(), 0);
}

#[test]
fn a_fault_storm_gives_the_same_rows() {
    let calm = recipe(&context(&ModelServer::start(Behaviour::default())));
    let server = ModelServer::start(Behaviour { faults: Faults::storm(0.05), ..Behaviour::default() });
    let context = context(&server);
    assert_eq!(recipe(&context), calm);
    assert!(context.meter.read().retries > 100, "{:?}", context.meter.read());
    assert_eq!(server.paid_twice(), 0);
}

#[test]
fn replies_that_do_not_parse_are_asked_again_or_marked() {
    let habits = Habits { unparsable: 0.3, ..Habits::default() };
    let server = ModelServer::start(Behaviour { habits, ..Behaviour::default() });
    let context = context(&server);
    let outputs = recipe(&context);
    let marked = |rows: &Rows| {
        let column = rows.require("marked").unwrap();
        rows.rows.iter().filter(|row| row.cells[column] == json!(true)).count()
    };
    let marked: usize = outputs.iter().map(|(_, dropped)| marked(dropped)).sum();
    let stories = outputs.last().unwrap().0.len();
    assert!(
        (1..QUESTIONS / 3).contains(&marked),
        "{marked} rows never parsed: three asks, of which each fails in 30 of 100"
    );
    assert!(stories > QUESTIONS / 3, "{stories} stories");
    let calls = server.calls();
    assert_eq!(recipe(&context), outputs);
    assert_eq!(server.calls(), calls, "what never parsed is not asked again either");
}
