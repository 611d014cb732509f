//! A row's whole story: every call that was made for it, once and in order, as it was put and as it was answered; and what is said
//! where something is missing.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::Kitchen;
use serde_json::Value;
use std::path::Path;
use support::model_answers::Habits;
use support::model_server::{Behaviour, ModelServer};

const PROMPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/medical/prompts");
const EVERY_KIND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/every_kind");
const ROWS: usize = 30;

/// From question to story, on a server.
const SERVED: &str = "\
version: 1
params: { seed: 7 }
prompts: prompts
models:
  weak:    { provider: openai, model: tiny, base_url: \"URL\" }
  teacher: { provider: openai, model: large, base_url: \"URL\", prices: { input_usd_per_million: 2, output_usd_per_million: 8 } }
  judge:   { provider: openai, model: small, base_url: \"URL\", system: Be strict. }
nodes:
  exam:     { kind: source, path: exam.jsonl }
  hard:     { kind: filter, input: exam, drop_if_all_solve: [weak] }
  clear:    { kind: filter, input: hard, model: teacher }
  problems: { kind: reformat, input: clear, model: teacher }
  chains:   { kind: cot, input: problems, model: teacher }
  verdicts: { kind: verify, input: chains, model: judge }
  solved:   { kind: search, input: verdicts, model: teacher, verifier: judge, rounds: 2, attempts: 2 }
  stories:  { kind: rewrite, input: solved, model: teacher }
";

/// The same way by rehearsal, and a seed for what draws.
const REHEARSED: &str = "\
version: 1
params: { seed: 7 }
prompts: prompts
models:
  teacher: { provider: rehearsal, slip: 0.1, unparsable: 0.05 }
nodes:
  exam:     { kind: source, generate: tablets, rows: 24 }
  clear:    { kind: filter, input: exam, model: teacher }
  problems: { kind: reformat, input: clear, model: teacher }
  chains:   { kind: cot, input: problems, model: teacher }
  verdicts: { kind: verify, input: chains, model: teacher }
  solved:   { kind: search, input: verdicts, model: teacher, rounds: 1, attempts: 2 }
  stories:  { kind: rewrite, input: solved, model: teacher }
";

fn kitchen(recipe: &str) -> Kitchen {
    let kitchen = Kitchen::new(recipe);
    std::fs::create_dir(kitchen.path("prompts")).unwrap();
    for entry in std::fs::read_dir(PROMPTS).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, kitchen.path("prompts").join(path.file_name().unwrap())).unwrap();
    }
    kitchen
}

/// Finished, on a server that now and then says nothing useful at first.
fn served() -> (Kitchen, ModelServer) {
    let habits = Habits { unparsable: 0.25, accepts: 0.25, ..Habits::default() };
    let server = ModelServer::start(Behaviour { habits, ..Behaviour::default() });
    let kitchen = kitchen(&SERVED.replace("URL", &server.base_url()));
    let line = |row: usize| {
        format!(
            "{{\"question\": \"Which agent treats sign s{row}s first?\", \"answer\": \"Agent a{row}a\", \"answer_idx\": \"B\", \
             \"options\": {{\"A\": \"Agent x{row}x\", \"B\": \"Agent a{row}a\", \"C\": \"Agent y{row}y\", \"D\": \"Agent z{row}z\"}}}}\n"
        )
    };
    kitchen.write("exam.jsonl", &(0..ROWS).map(line).collect::<String>());
    kitchen.run(&[]).expect_done();
    (kitchen, server)
}

fn rehearsed() -> Kitchen {
    let kitchen = kitchen(REHEARSED);
    kitchen.run(&[]).expect_done();
    kitchen
}

fn traced(kitchen: &Kitchen, node: &str, row: &str) -> Value {
    serde_json::from_str(&kitchen.says(&["trace", "recipe.yaml", node, row, "--format", "json"])).unwrap()
}

/// Rows as `show` gives them.
fn rows(kitchen: &Kitchen, output: &str) -> Vec<Value> {
    let told = kitchen.says(&["show", "recipe.yaml", output, "--format", "json"]);
    told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn id(row: &Value) -> &str {
    row["row_id"].as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn calls(story: &Value) -> Vec<&Value> {
    list(&story["steps"]).iter().flat_map(|step| list(&step["calls"])).filter(|call| call["again"] == false).collect()
}

fn step<'s>(story: &'s Value, node: &str) -> &'s Value {
    list(&story["steps"]).iter().find(|step| step["node"] == node).unwrap_or_else(|| panic!("no `{node}`: {story}"))
}

fn prompt(call: &Value) -> &str {
    call["messages"][0]["content"].as_str().unwrap()
}

#[test]
fn every_call_that_the_server_saw_is_told_once_and_in_order() {
    let (kitchen, server) = served();
    let seen = server.requests();
    let asked = |one: &&Value| one["role"] == "user";
    let first =
        |body: &Value| list(&body["messages"]).iter().find(asked).unwrap()["content"].as_str().unwrap().to_string();
    let (mut told, mut unusable, mut again) = (0, 0, 0);
    for (number, row) in rows(&kitchen, "exam").iter().enumerate() {
        let [sign, agent] = [format!("s{number}s"), format!("a{number}a")];
        let of_row = |text: &String| text.contains(&sign) || text.contains(&agent);
        let expected: Vec<String> = seen.iter().map(|request| first(&request.body)).filter(of_row).collect();
        let story = traced(&kitchen, "stories", id(row));
        let calls = calls(&story);
        assert_eq!(calls.iter().map(|call| prompt(call)).collect::<Vec<_>>(), expected, "row {number}");
        assert_eq!(story["calls"], expected.len());
        for call in &calls {
            let is_unusable = call["reply"] == "Let me think about that for a while longer.";
            let expected = if is_unusable && call["question"] != "solve" && call["question"] != "respond" {
                "unusable"
            } else {
                "read"
            };
            assert_eq!(call["state"], expected, "{call}");
            assert_eq!(
                call["served_by"],
                format!("{} loopback", call["identity"]["settings"]["model"].as_str().unwrap())
            );
            assert!(call["tokens_in"].as_u64() > Some(0) && call["rehearsal"] == false, "{call}");
            assert_eq!(call["cost_usd"].is_number(), call["model"] == "teacher", "{call}");
        }
        told += calls.len();
        unusable += calls.iter().filter(|call| call["state"] == "unusable").count();
        again += calls.iter().filter(|call| call["ask"].as_u64() > Some(0)).count();
    }
    assert_eq!(told as u64, server.calls(), "no call belongs to no row");
    assert!(unusable > 3 && again >= unusable, "some questions were put again: {unusable}, {again}");
}

#[test]
fn a_search_is_told_with_its_attempts_rounds_and_strategies() {
    let (kitchen, _server) = served();
    let solved = [rows(&kitchen, "solved"), rows(&kitchen, "solved.dropped")].concat();
    assert!(solved.iter().any(|row| row["attempt"] == 2), "some need a second attempt");
    for row in &solved {
        let story = traced(&kitchen, "solved", id(row));
        let calls = list(&step(&story, "solved")["calls"]);
        let last_attempt = |call: &&Value| {
            call["attempt"] == row["attempt"] && call["question"] == "search" && call["state"] == "read"
        };
        let strategies: Vec<&Value> = calls.iter().filter(last_attempt).map(|call| &call["strategy"]).collect();
        assert_eq!(strategies, list(&row["strategies"]).iter().collect::<Vec<_>>());
        let verdicts: Vec<&str> = calls
            .iter()
            .filter(|call| call["question"] == "verify" && call["state"] == "read")
            .map(|call| call["reply"].as_str().unwrap())
            .collect();
        let is_last_true = verdicts.last().map_or(row["verdict"] == true, |last| *last == "True");
        assert_eq!(is_last_true, row["verdict"] == true, "{verdicts:?}");
        assert!(verdicts.iter().rev().skip(1).all(|verdict| *verdict == "False"), "it stops at the first that is true");
        let outcome = step(&story, "solved")["outcome"].as_str().unwrap();
        assert!(outcome.contains("solved") || outcome == "dropped after 2 attempts", "{outcome}");
    }
}

#[test]
fn all_stories_together_hold_every_call_of_the_run_and_nothing_is_sent_or_written() {
    let kitchen = kitchen(REHEARSED);
    let made = kitchen.run(&[]).expect_done();
    let before = kitchen.files();
    let mut told = 0;
    for row in rows(&kitchen, "exam") {
        let story = traced(&kitchen, "stories", id(&row));
        assert!(calls(&story).iter().all(|call| call["rehearsal"] == true && call["state"] != "gone"));
        assert!(list(&story["steps"]).iter().all(|step| step["remark"].is_null()), "{story}");
        told += calls(&story).len() as u64;
    }
    assert_eq!(told, made.total("calls"));
    assert_eq!(kitchen.files(), before);
}

#[test]
fn each_step_shows_what_came_and_what_changed() {
    let kitchen = rehearsed();
    let last = &rows(&kitchen, "stories")[2];
    let story = traced(&kitchen, "stories", "2");
    assert_eq!((&story["row_id"], &story["reached"]), (&last["row_id"], &Value::Bool(true)));
    let nodes: Vec<&str> = list(&story["steps"]).iter().map(|step| step["node"].as_str().unwrap()).collect();
    assert_eq!(nodes, ["exam", "clear", "problems", "chains", "verdicts", "solved", "stories"]);
    let columns = |node: &str| {
        let changes = list(&step(&story, node)["rows"][0]["changes"]).iter();
        changes.map(|change| change["column"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(columns("clear"), Vec::<String>::new());
    assert_eq!(columns("problems"), ["problem", "truth"]);
    assert_eq!(columns("chains"), ["chain", "conclusion"]);
    assert_eq!(columns("stories"), ["thought", "response", "style"]);
    assert_eq!(list(&step(&story, "stories")["rows"])[0]["row"]["thought"], last["thought"]);
    assert_eq!(story, traced(&kitchen, "stories", &id(last)[..12]), "by the beginning of its id");
}

/// Keys, ages and ids differ between machines and releases; the rest is what a reader sees.
#[test]
fn the_page_reads_well() {
    let kitchen = rehearsed();
    let plain = kitchen.says(&["trace", "recipe.yaml", "solved", "1"]);
    let masked = |line: &str| match line.split_once("  @") {
        Some((step, _)) => format!("{step}  @KEY"),
        None => line.to_string(),
    };
    insta::assert_snapshot!("page", plain.lines().map(masked).collect::<Vec<_>>().join("\n"));
    let full = kitchen.says(&["trace", "recipe.yaml", "solved", "1", "--full"]);
    assert!(full.len() > plain.len() && !full.contains("--full"), "{full}");
    let story = traced(&kitchen, "solved", "1");
    let quoted = prompt(calls(&story)[0]).trim_end().lines().map(|line| format!("    > {line}\n")).collect::<String>();
    assert!(full.contains(&quoted), "{full}");
    assert!(!plain.contains('\x1b'), "no colours where nobody sees them");
}

#[test]
fn the_object_holds_what_a_program_needs() {
    let kitchen = rehearsed();
    let mut story = traced(&kitchen, "verdicts", "0");
    for step in story["steps"].as_array_mut().unwrap() {
        step["key"] = "KEY".into();
        step["finished_at"] = 0.into();
    }
    insta::assert_snapshot!("object", serde_json::to_string_pretty(&story).unwrap());
}

#[test]
fn a_row_that_was_dropped_is_followed_to_where_it_went() {
    let kitchen = rehearsed();
    for node in ["clear", "solved"] {
        let dropped = &rows(&kitchen, &format!("{node}.dropped"))[0];
        let story = traced(&kitchen, "stories", id(dropped));
        assert_eq!(story["reached"], false);
        let reason = dropped["reason"].as_str().unwrap();
        assert_eq!(story["end"], format!("it did not reach `stories`: `{node}` dropped it: {reason}"));
        assert_eq!(list(&story["steps"]).last().unwrap()["node"], node);
        assert_eq!(step(&story, node)["rows"][0]["output"], "dropped");
        let own = traced(&kitchen, &format!("{node}.dropped"), "0");
        assert_eq!((&own["row_id"], &own["reached"]), (&story["row_id"], &Value::Bool(true)));
        assert_eq!(own["steps"], story["steps"]);
    }
}

/// Over every kind: what is drawn, parted, mixed under a new id, trained on and examined.
#[test]
fn a_row_is_followed_through_every_kind() {
    let kitchen = Kitchen::copy_of(Path::new(EVERY_KIND));
    kitchen.run(&[]).expect_done();
    let nodes = |story: &Value| {
        let steps = list(&story["steps"]).iter().map(|step| step["node"].as_str().unwrap().to_string());
        steps.collect::<Vec<_>>().join(" ")
    };
    let way = "exam distinct hard clear problems clean halves";
    let lessons = rows(&kitchen, "lessons");
    let mut renamed = 0;
    for (number, lesson) in lessons.iter().enumerate() {
        let story = traced(&kitchen, "lessons", &number.to_string());
        let from = lesson["from"].as_str().unwrap();
        assert_eq!(nodes(&story), format!("{way} chains verdicts solved {from} lessons"));
        let before = step(&story, "lessons")["came_in_as"].as_str().unwrap();
        renamed += usize::from(before != id(lesson));
        let of = rows(&kitchen, from).into_iter().find(|row| id(row) == before).unwrap();
        assert_eq!(of["thought"], lesson["thought"]);
    }
    assert!(renamed > 0, "three tellings of one problem have three ids");
    let taught = traced(&kitchen, "student", id(&lessons[0]));
    assert_eq!(step(&taught, "student")["outcome"], "it was trained on this row");
    assert_eq!(taught["reached"], true);
    let answers = rows(&kitchen, "score");
    let problem = id(&answers[0]).split(' ').next().unwrap();
    let story = traced(&kitchen, "score", problem);
    assert_eq!(nodes(&story), format!("{way} score"));
    let asked = answers.iter().filter(|row| id(row).starts_with(problem)).count();
    assert_eq!(list(&step(&story, "score")["rows"]).len(), asked);
    assert_eq!(list(&step(&traced(&kitchen, "score", "0"), "score")["rows"]).len(), 1);
    let rl = &rows(&kitchen, "halves.rl")[0];
    assert_eq!(nodes(&traced(&kitchen, "graduate", id(rl))), format!("{way} graduate"));
    let rest = traced(&kitchen, "stories", problem);
    assert_eq!(rest["end"], "it did not reach `stories`: no node on the way there reads `halves.test`");
}

/// The disaster: prompts are shown that were never sent.
#[test]
fn an_earlier_generation_is_told_with_its_own_prompts_and_settings() {
    let kitchen = rehearsed();
    let first = traced(&kitchen, "chains", "0");
    let key = step(&first, "chains")["key"].as_str().unwrap().to_string();
    let told = prompt(calls(&first).last().unwrap()).to_string();
    kitchen.edit("prompts/cot.md", "Solve the problem", "Do solve the problem");
    kitchen.edit(
        "recipe.yaml",
        "kind: cot, input: problems, model: teacher",
        "kind: cot, input: problems, model: teacher, asks: 5",
    );
    let stale = traced(&kitchen, "chains", "0");
    assert_eq!(step(&stale, "chains")["current"], false);
    let why = step(&stale, "chains")["stale"].as_str().unwrap();
    assert!(why.contains("prompt `cot` changed") && why.contains("asks 5") | why.contains("asks 3 → 5"), "{why}");
    assert_eq!(prompt(calls(&stale).last().unwrap()), told);
    assert_eq!(step(&stale, "problems")["current"], true, "what lies before the edit is up to date");
    kitchen.run(&[]).expect_done();
    let now = traced(&kitchen, "chains", "0");
    assert!(prompt(calls(&now).last().unwrap()).starts_with("Do solve the problem"));
    let named = traced(&kitchen, &format!("chains@{}", &key[..10]), "0");
    assert_eq!(
        (&step(&named, "chains")["key"], step(&named, "chains")["calls"].clone()),
        (&key.into(), step(&first, "chains")["calls"].clone())
    );
    let searched = traced(&kitchen, "solved", "0");
    kitchen.edit("recipe.yaml", "attempts: 2 }", "attempts: 2, strategies: { explore: 1 } }");
    let stale = traced(&kitchen, "solved", "0");
    assert_eq!(
        step(&stale, "solved")["calls"],
        step(&searched, "solved")["calls"],
        "by the strategies that were drawn then"
    );
    assert!(step(&stale, "solved")["stale"].as_str().unwrap().starts_with("strategies.backtrack 1.0 → 0.0"), "{stale}");
    kitchen.edit("recipe.yaml", "slip: 0.1", "slip: 0.2");
    let other = traced(&kitchen, "chains", "0");
    assert_eq!(step(&other, "chains")["calls"], step(&now, "chains")["calls"], "of the model as it was");
    let told = kitchen.says(&["trace", "recipe.yaml", "chains", "0"]);
    assert!(told.contains("an earlier generation; the recipe as it stands has another: "), "{told}");
}

#[test]
fn replies_that_are_gone_are_said_to_be_gone() {
    let kitchen = rehearsed();
    let whole = traced(&kitchen, "stories", "0");
    std::fs::remove_dir_all(kitchen.store().join("replies")).unwrap();
    let story = traced(&kitchen, "stories", "0");
    for (step, before) in list(&story["steps"]).iter().zip(list(&whole["steps"])) {
        assert_eq!(step["rows"], before["rows"], "rows are shown all the same");
        let asked = !list(&before["calls"]).is_empty();
        let gone: Vec<&Value> = list(&step["calls"]).iter().map(|call| &call["state"]).collect();
        assert_eq!(gone, if asked { vec!["gone"] } else { vec![] });
        assert_eq!(step["remark"].is_string(), asked);
    }
    let told = kitchen.says(&["trace", "recipe.yaml", "stories", "0"]);
    assert!(told.contains("no longer kept"), "{told}");
}

#[test]
fn what_is_not_there_is_said_with_the_next_step() {
    let kitchen = kitchen(REHEARSED);
    let says = |node: &str, row: &str, expected: &str| {
        let output = kitchen.decoct(&["trace", "recipe.yaml", node, row]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{node} {row}: {told}");
        assert!(told.contains(expected), "{node} {row}: {told}");
    };
    says("stories", "0", "`decoct run recipe.yaml --until stories` makes it");
    kitchen.run(&[]).expect_done();
    let id = id(&rows(&kitchen, "exam")[0]).to_string();
    let mistyped = format!("{}{}{}", &id[..5], if &id[5..6] == "0" { "1" } else { "0" }, &id[6..]);
    says("stories", &mistyped, &format!("did you mean `{id}`?"));
    says("stories", "100000", "numbered from 0; `decoct show recipe.yaml stories --format json` shows them");
    says("stoires", "0", "did you mean `stories`?");
    says("solved.droped", "0", "did you mean `dropped`?");
    says("solved@ffffffffffff", "0", "no finished work of `solved`");
    let ids: Vec<String> =
        rows(&kitchen, "exam").iter().map(|row| row["row_id"].as_str().unwrap().to_string()).collect();
    let mut letters = "abcdef".chars().map(String::from);
    let shared = letters.find(|letter| ids.iter().filter(|id| id.starts_with(letter)).count() > 1);
    says("exam", &shared.expect("24 ids, 16 beginnings"), "write more of it");
}
