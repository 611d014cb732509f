//! How a recipe's questions are put and its replies read, as a server and a store see it: forms, examples, conversations, streams.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::{Kitchen, Run};
use serde_json::{Value, json};
use support::model_answers::Habits;
use support::model_server::{Behaviour, ModelServer};

const ROWS: u64 = 6;

/// A first chain for each row, by a model with `settings` and a node with `more`.
fn chains(server: &ModelServer, settings: &str, more: &str) -> Kitchen {
    let url = server.base_url();
    let model = format!("{{ provider: openai, model: m, base_url: \"{url}\", concurrency: 1, {settings} }}");
    let kitchen = Kitchen::new(&format!(
        "version: 1\nmodels:\n  teacher: {model}\nnodes:\n  exam: {{ kind: source, path: exam.jsonl }}\n  \
         chains: {{ kind: cot, input: exam, model: teacher, {more} }}\n"
    ));
    let talk = |row| {
        json!([{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": format!("What explains sign {row} best?")}])
    };
    let line = |row| json!({"problem": format!("What explains sign {row}?"), "talk": talk(row)}).to_string() + "\n";
    kitchen.write("exam.jsonl", &(0..ROWS).map(line).collect::<String>());
    kitchen.write("shots.jsonl", "{\"user\": \"What explains a cough?\", \"assistant\": \"{\\\"CoT\\\": []}\"}\n");
    kitchen
}

fn done(kitchen: &Kitchen) -> Run {
    kitchen.run(&[]).expect_done()
}

/// All that a run has told, events included.
fn told(run: &Run) -> String {
    run.events.iter().map(Value::to_string).collect::<String>() + &run.told
}

/// Who says what in the last request.
fn said(server: &ModelServer) -> Vec<(String, String)> {
    let body = server.requests().last().unwrap().body.clone();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    body["messages"].as_array().unwrap().iter().map(|one| (text(&one["role"]), text(&one["content"]))).collect()
}

#[test]
fn a_model_that_changes_under_one_identity_is_told_with_its_rows() {
    let server = ModelServer::start(Behaviour { reloads_after: Some(4), ..Behaviour::default() });
    let kitchen = chains(&server, "", "");
    let told_first = told(&done(&kitchen));
    let whole = "the server of `teacher` named 2 different models under one identity";
    assert!(told_first.contains(whole) && told_first.contains("`identity:`"), "{told_first}");
    for each in ["4 replies by `m loopback`", "2 replies by `m reloaded`"] {
        assert!(told_first.contains(each), "{told_first}");
    }
    let steady = ModelServer::start(Behaviour::default());
    assert!(!told(&done(&chains(&steady, "", ""))).contains("different models"));
}

#[test]
fn a_schema_is_sent_in_the_servers_dialect_and_costs_only_what_it_changes() {
    let server = ModelServer::start(Behaviour::default());
    let kitchen = chains(&server, "structured: schema, dialect: vllm", "");
    assert_eq!(done(&kitchen).total("calls"), ROWS);
    let body = server.requests()[0].body.clone();
    assert_eq!(body["structured_outputs"]["json"]["required"], json!(["CoT"]));
    assert!(body.get("response_format").is_none(), "{body}");
    kitchen.edit("recipe.yaml", "structured: schema, dialect: vllm", "json_mode: true, stream: true, dialect: vllm");
    assert_eq!(done(&kitchen).total("calls"), ROWS);
    assert_eq!(server.requests().last().unwrap().body["response_format"], json!({"type": "json_object"}));
    for (from, free) in [
        ("json_mode: true", "structured: json"),
        ("stream: true", "stream: false"),
        ("dialect: vllm", "correct: false"),
    ] {
        kitchen.edit("recipe.yaml", from, free);
        assert_eq!(done(&kitchen).total("calls"), 0, "{free}");
    }
}

#[test]
fn examples_and_conversations_go_before_the_question_and_count_by_what_they_say() {
    let server = ModelServer::start(Behaviour::default());
    let kitchen = chains(&server, "system: Be exact.", "examples: shots.jsonl, messages: talk");
    done(&kitchen);
    let said = said(&server);
    let roles: Vec<&str> = said.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant", "user"]);
    let begins = ["Be exact.", "What explains a cough?", "{\"CoT\": []}", "Hello.", "Hello!", "Solve the problem"];
    assert!(said.iter().zip(begins).all(|((_, text), begin)| text.starts_with(begin)), "{said:?}");
    let shown = kitchen.says(&["show", "recipe.yaml", "chains", "--format", "json"]);
    let first: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert_eq!(first["problem"], "What explains sign 0 best?");
    let same = kitchen.read("shots.jsonl");
    kitchen.write("moved.jsonl", &same);
    kitchen.edit("recipe.yaml", "shots.jsonl", "moved.jsonl");
    assert_eq!(done(&kitchen).total("calls"), 0, "a file counts by its bytes");
    kitchen.write("moved.jsonl", &same.replace("cough", "rash"));
    assert_eq!(done(&kitchen).total("calls"), ROWS);
    assert_eq!(self::said(&server)[1].1, "What explains a rash?");
}

#[test]
fn a_reply_that_cannot_be_used_goes_back_with_the_reason() {
    let habits = Habits { unparsable: 1.0, ..Habits::default() };
    let server = ModelServer::start(Behaviour { habits, ..Behaviour::default() });
    let kitchen = chains(&server, "", "");
    assert_eq!(done(&kitchen).total("calls"), 2 * ROWS);
    let said = said(&server);
    assert_eq!(said[1], ("assistant".to_string(), "Let me think about that for a while longer.".to_string()));
    assert!(said[2].1.starts_with("That reply could not be used: the reply holds no JSON object."), "{said:?}");
    kitchen.edit("recipe.yaml", "model: teacher, ", "model: teacher, asks: 2");
    assert_eq!(done(&kitchen).total("calls"), 0, "what was asked is found again");
}
