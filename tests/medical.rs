//! The bundled recipe, run as its users run it: a first look, an edited prompt, real questions over HTTP, and kills at bad moments.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::{Kitchen, Run};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::model_answers::Habits;
use support::model_server::{Behaviour, ModelServer};

const PIPELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");
/// Sizes at which training takes a second and still does every kind of step.
const SMALL: &[&str] = &[
    "--set=nodes.student.epochs=2",
    "--set=nodes.student_simple.epochs=1",
    "--set=nodes.student_answer.epochs=1",
    "--set=nodes.graduate.rollouts=32",
    "--set=nodes.graduate.minibatch=16",
    "--set=nodes.graduate.max_new_tokens=60",
    "--set=nodes.score.max_new_tokens=60",
];

/// A copy of the recipe and its prompts that may be edited.
fn medical() -> Kitchen {
    let kitchen = Kitchen::new(&std::fs::read_to_string(Path::new(PIPELINES).join("medical.yaml")).unwrap());
    let prompts = kitchen.path("medical/prompts");
    std::fs::create_dir_all(&prompts).unwrap();
    for entry in std::fs::read_dir(Path::new(PIPELINES).join("medical/prompts")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, prompts.join(path.file_name().unwrap())).unwrap();
    }
    kitchen
}

fn with<'a>(common: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [common, more].concat()
}

/// The nodes of a run in the given state, in order.
fn nodes_in(run: &Run, state: &str) -> Vec<String> {
    let nodes = run.nodes.iter().filter(|node| node["state"] == state);
    nodes.map(|node| node["node"].as_str().unwrap().to_string()).collect()
}

#[test]
fn every_profile_is_sound_and_the_editors_schema_is_the_programs() {
    let kitchen = medical();
    for profile in ["openai", "local-server"] {
        let mut command = kitchen.command(&["check", "recipe.yaml", "--profile", profile]);
        let output = command.env("OPENAI_API_KEY", "any").output().unwrap();
        assert!(output.status.success(), "{profile}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let paper = kitchen.decoct(&["check", "recipe.yaml", "--profile", "paper"]);
    let told = String::from_utf8(paper.stderr).unwrap();
    assert!(told.contains("Qwen2.5-7B-Instruct") && told.contains("1 mistake "), "only the folder is missing: {told}");
    let schema = std::fs::read_to_string(Path::new(PIPELINES).join("recipe.schema.json")).unwrap();
    assert!(kitchen.says(&["schema"]) == schema, "run `decoct schema > pipelines/recipe.schema.json`");
}

#[test]
fn a_first_look_goes_from_exam_questions_to_a_score_and_a_second_one_sends_nothing() {
    let kitchen = medical();
    let look = with(SMALL, &["--limit", "200"]);
    let first = kitchen.run(&look).expect_done();
    assert_eq!(nodes_in(&first, "ran").len(), first.nodes.len());
    assert!(first.total("calls") > 500);
    let second = kitchen.run(&look).expect_done();
    assert_eq!(nodes_in(&second, "hit").len(), second.nodes.len());
    assert_eq!(second.total("calls"), 0);
    assert_eq!(second.outputs(), first.outputs());
    let score = kitchen.says(&with(&["show", "recipe.yaml", "score"], &look));
    for label in ["base", "answer only", "simple chain", "complex chain", "complex + PPO"] {
        assert!(score.contains(label), "`{label}` is missing in\n{score}");
    }
}

#[test]
fn one_word_in_the_prompt_of_rewrite_reruns_rewrite_and_nothing_whose_content_stays() {
    let kitchen = medical();
    let look = with(SMALL, &["--limit", "120"]);
    kitchen.run(&look).expect_done();
    kitchen.edit("medical/prompts/rewrite.md", "simple words", "plain words");
    let plan = kitchen.says(&with(&["plan", "recipe.yaml"], &look));
    let planned = plan.lines().find(|line| line.contains("stories")).unwrap();
    assert!(planned.contains("run") && planned.contains("prompt"), "{planned}");
    let states = kitchen.plan(&look);
    for (node, state) in
        [("solved", "hit"), ("paths", "hit"), ("stories", "run"), ("student", "waits"), ("score", "waits")]
    {
        assert!(states.split(' ').any(|said| said == format!("{node}:{state}")), "{node} should be {state}: {states}");
    }
    let run = kitchen.run(&look).expect_done();
    assert_eq!(nodes_in(&run, "ran"), ["stories"], "the rehearsal wrote the same stories: nothing below has changed");
    kitchen.edit("medical/prompts/rewrite.md", "plain words", "simple words");
    assert_eq!(kitchen.run(&look).expect_done().total("calls"), 0, "the old generation is still there");
}

/// The published demonstration data, where this checkout has it beside it.
fn real_questions() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/medical_problems.jsonl");
    if !path.exists() {
        eprintln!("skipped: `medical_problems.jsonl` is not beside this checkout");
    }
    path.exists().then(|| path.canonicalize().unwrap())
}

/// What lays real questions and a real HTTP server under the recipe.
fn over_http(server: &ModelServer, questions: &Path) -> Vec<String> {
    let mut settings = vec!["--profile=openai".to_string(), format!("--set=nodes.exam.path={}", questions.display())];
    for model in ["teacher", "judge", "small_a", "small_b", "small_c"] {
        settings.push(format!("--set=models.{model}.base_url={}", server.base_url()));
        settings.push(format!("--set=models.{model}.api_key_env=DECOCT_TEST_KEY"));
    }
    settings
}

fn http_run(kitchen: &Kitchen, arguments: &[String], more: &[&str]) -> Run {
    let arguments = arguments.iter().map(String::as_str).chain(more.iter().copied());
    let mut command = kitchen.command(&["run", "recipe.yaml", "--format", "json"]);
    Run::of(&command.args(arguments).env("DECOCT_TEST_KEY", "secret-of-the-test").output().unwrap())
}

/// outcome → rows, as `show` prints a node's counts.
fn counts(kitchen: &Kitchen, arguments: &[String], node: &str) -> Vec<(String, u64)> {
    let mut command = kitchen.command(&["show", "recipe.yaml", node, "--rows", "0"]);
    let output = command.args(arguments).env("DECOCT_TEST_KEY", "secret-of-the-test").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.lines().filter_map(|line| line.trim().rsplit_once(' '));
    pairs.filter_map(|(what, rows)| Some((what.trim().to_string(), rows.replace(',', "").parse().ok()?))).collect()
}

/// The input's count must be the sum of all outcomes; returns it.
fn accounted(counts: &[(String, u64)]) -> u64 {
    let input = counts.iter().find(|(what, _)| what == "input").expect("the input is counted").1;
    let outcomes: u64 = counts.iter().filter(|(what, _)| what != "input").map(|(_, rows)| rows).sum();
    assert_eq!(outcomes, input, "{counts:?}");
    input
}

#[test]
fn every_real_question_is_accounted_for_over_http() {
    let Some(questions) = real_questions() else { return };
    let server = ModelServer::start(Behaviour { key: Some("secret-of-the-test".into()), ..Behaviour::default() });
    let kitchen = medical();
    let arguments = over_http(&server, &questions);
    let run = http_run(&kitchen, &arguments, &["--until", "stories"]).expect_done();
    assert_eq!(run.total("calls"), server.calls());
    assert_eq!(run.node("exam")["rows"], 98);
    assert_eq!(accounted(&counts(&kitchen, &arguments, "hard")), run.node("distinct")["rows"].as_u64().unwrap());
    assert_eq!(accounted(&counts(&kitchen, &arguments, "clear")), run.node("hard")["rows"].as_u64().unwrap());
    assert_eq!(accounted(&counts(&kitchen, &arguments, "problems")), run.node("clear")["rows"].as_u64().unwrap());
    let searched = counts(&kitchen, &arguments, "solved");
    assert_eq!(accounted(&searched), run.node("verdicts")["rows"].as_u64().unwrap());
    assert!(searched.iter().any(|(what, _)| what == "solved at once"), "{searched:?}");
    assert!(searched.iter().any(|(what, _)| what.starts_with("solved in round")), "{searched:?}");
    let again = http_run(&kitchen, &arguments, &["--until", "stories"]).expect_done();
    assert_eq!(again.total("calls"), 0);
    assert_eq!(again.outputs(), run.outputs());
    for file in kitchen.files() {
        let bytes = std::fs::read(&file).unwrap();
        let leaked = bytes.windows(18).any(|window| window == b"secret-of-the-test");
        assert!(!leaked, "the key was written to `{}`", file.display());
    }
}

#[test]
fn a_missing_key_names_the_variable_and_spends_nothing() {
    let kitchen = medical();
    let mut command = kitchen.command(&["run", "recipe.yaml", "--profile", "openai", "--limit", "5"]);
    let output = command.env_remove("OPENAI_API_KEY").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("OPENAI_API_KEY"));
    assert_eq!(kitchen.blobs(), Vec::<PathBuf>::new());
}

#[test]
fn killed_in_the_middle_of_the_search_it_sends_only_what_had_no_reply() {
    let habits = Habits { accepts: 0.3, ..Habits::default() };
    let server = ModelServer::start(Behaviour { latency_ms: 15, habits: habits.clone(), ..Behaviour::default() });
    let kitchen = medical();
    let arguments = over_http(&server, &foreign_questions(&kitchen));
    let mut process = in_the_middle_of_the_search(&kitchen, &server, &arguments);
    process.kill().unwrap();
    process.wait().unwrap();
    let in_flight = server.in_flight_max();
    http_run(&kitchen, &arguments, &["--until", "solved"]).expect_done();
    let needed = calls_needed(&habits, "solved");
    assert!((needed..=needed + in_flight).contains(&server.calls()), "{} of {needed} + {in_flight}", server.calls());
}

#[test]
fn ctrl_c_keeps_every_finished_call_and_says_so_with_its_exit_code() {
    let habits = Habits { accepts: 0.3, ..Habits::default() };
    let server = ModelServer::start(Behaviour { latency_ms: 15, habits: habits.clone(), ..Behaviour::default() });
    let kitchen = medical();
    let arguments = over_http(&server, &foreign_questions(&kitchen));
    let mut process = in_the_middle_of_the_search(&kitchen, &server, &arguments);
    let interrupt = std::process::Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    assert_eq!(process.wait().unwrap().code(), Some(130));
    http_run(&kitchen, &arguments, &["--until", "solved"]).expect_done();
    assert_eq!(server.calls(), calls_needed(&habits, "solved"));
}

#[test]
fn a_budget_stops_before_it_is_passed_and_the_rest_is_paid_once() {
    let server = ModelServer::start(Behaviour::default());
    let kitchen = medical();
    let arguments = over_http(&server, &foreign_questions(&kitchen));
    let run = http_run(&kitchen, &arguments, &["--until", "stories", "--budget-usd", "0.20"]);
    assert_eq!(run.exit, 3, "{}", run.told);
    let spent: f64 = run.nodes.iter().map(|node| node["cost_usd"].as_f64().unwrap()).sum();
    assert!(0.0 < spent && spent <= 0.20, "{spent}");
    http_run(&kitchen, &arguments, &["--until", "stories"]).expect_done();
    assert_eq!(server.calls(), calls_needed(&Habits::default(), "stories"));
}

#[test]
fn a_reply_that_never_parses_marks_its_row_and_can_be_asked_for_again() {
    let habits = Habits { unparsable: 0.2, ..Habits::default() };
    let server = ModelServer::start(Behaviour { habits, ..Behaviour::default() });
    let kitchen = medical();
    let mut arguments = over_http(&server, &foreign_questions(&kitchen));
    arguments.push("--set=nodes.chains.asks=1".to_string());
    http_run(&kitchen, &arguments, &["--until", "chains"]).expect_done();
    let marked = |kitchen: &Kitchen| {
        let counts = counts(kitchen, &arguments, "chains");
        counts.iter().filter(|(what, _)| what.contains("marked")).map(|(_, rows)| rows).sum::<u64>()
    };
    let before = marked(&kitchen);
    assert!(before > 0, "{:?}", counts(&kitchen, &arguments, "chains"));
    assert_eq!(http_run(&kitchen, &arguments, &["--until", "chains"]).expect_done().total("calls"), 0);
    let retried = http_run(&kitchen, &arguments, &["--until", "chains", "--retry-marked", "chains"]).expect_done();
    assert_eq!(retried.total("calls"), before, "only what was marked is asked for again");
    assert_eq!(marked(&kitchen), 0);
}

/// 98 exam questions that are no tablet problems, as a file in the kitchen.
fn foreign_questions(kitchen: &Kitchen) -> PathBuf {
    let line = |row: usize| {
        let options = format!(r#"{{"A": "agent {row}", "B": "agent {}", "C": "rest", "D": "surgery"}}"#, row + 200);
        format!(
            "{{\"question\": \"A patient of {} years shows sign {row} after treatment {}. Which agent is given first?\", \
             \"options\": {options}, \"answer_idx\": \"A\", \"answer\": \"agent {row}\"}}\n",
            20 + row % 60,
            row * 7 + 3
        )
    };
    kitchen.write("questions.jsonl", &(0..98).map(line).collect::<String>());
    kitchen.path("questions.jsonl")
}

/// How many calls an undisturbed run sends to a server with these habits.
fn calls_needed(habits: &Habits, until: &str) -> u64 {
    let server = ModelServer::start(Behaviour { habits: habits.clone(), ..Behaviour::default() });
    let kitchen = medical();
    let arguments = over_http(&server, &foreign_questions(&kitchen));
    http_run(&kitchen, &arguments, &["--until", until]).expect_done();
    server.calls()
}

/// A run that was started and has had some, not all, of the replies of its search.
fn in_the_middle_of_the_search(kitchen: &Kitchen, server: &ModelServer, arguments: &[String]) -> std::process::Child {
    http_run(kitchen, arguments, &["--until", "verdicts"]).expect_done();
    let before = server.calls();
    let mut command = kitchen.command(&["run", "recipe.yaml", "--until", "solved"]);
    command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let process = command.args(arguments).env("DECOCT_TEST_KEY", "any").spawn().unwrap();
    wait_until("some calls of the search were answered", || server.calls() > before + 60);
    process
}

#[test]
fn killed_in_the_middle_of_training_it_ends_with_the_same_weights() {
    let kitchen = medical();
    let small = [
        "--limit=300",
        "--set=nodes.student.epochs=20",
        "--set=nodes.student.checkpoint_every=10",
        "--set=nodes.graduate.passes=6",
        "--set=nodes.graduate.rollouts=64",
        "--set=nodes.graduate.minibatch=32",
        "--set=nodes.graduate.max_new_tokens=80",
        "--set=nodes.graduate.checkpoint_every=1",
    ];
    let whole = with(&small, &["--until", "graduate"]);
    let undisturbed = kitchen.run(&with(&whole, &["--cache", "undisturbed"])).expect_done();
    kitchen.run(&with(&small, &["--until", "stories"])).expect_done();
    for node in ["student", "graduate"] {
        for _ in 0..2 {
            let mut process =
                kitchen.command(&with(&["run", "recipe.yaml"], &with(&small, &["--until", node]))).spawn().unwrap();
            wait_until("a checkpoint was written", || has_checkpoint(&kitchen));
            process.kill().unwrap();
            process.wait().unwrap();
        }
        kitchen.run(&with(&small, &["--until", node])).expect_done();
    }
    let resumed = kitchen.run(&whole).expect_done();
    assert_eq!(resumed.node("student")["output"], undisturbed.node("student")["output"]);
    assert_eq!(resumed.node("graduate")["output"], undisturbed.node("graduate")["output"]);
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(120), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn has_checkpoint(kitchen: &Kitchen) -> bool {
    kitchen.scratch_files().iter().any(|path| path.extension().is_some_and(|extension| extension == "checkpoint"))
}
