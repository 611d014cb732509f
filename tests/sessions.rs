//! What an author does between two runs: edit a prompt and see twenty rows side by side, compare two runs, look at rows.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::Kitchen;
use serde_json::Value;
use std::path::{Path, PathBuf};
use support::model_answers::Habits;
use support::model_server::{Behaviour, ModelServer};

const PIPELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");
const EVERY_KIND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/every_kind");
/// Where `docs/make` wants the session written down.
const TRANSCRIPT: &str = "DECOCT_TRANSCRIPT";

/// The bundled recipe with its prompts, asking a server that answers at once and finds every question fit.
struct Author {
    kitchen: Kitchen,
    server: ModelServer,
    transcript: Vec<String>,
}

impl Author {
    fn new() -> Author {
        let habits = Habits { passes: 1.0, chatty: 0.0, ..Habits::default() };
        let server = ModelServer::start(Behaviour { habits, ..Behaviour::default() });
        let recipe = std::fs::read_to_string(Path::new(PIPELINES).join("medical.yaml")).unwrap();
        let kitchen = Kitchen::new("");
        std::fs::create_dir_all(kitchen.path("pipelines/medical/prompts")).unwrap();
        kitchen.write("pipelines/medical.yaml", &(recipe + &profile(&server.base_url())));
        for entry in std::fs::read_dir(Path::new(PIPELINES).join("medical/prompts")).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            std::fs::copy(&path, kitchen.path("pipelines/medical/prompts").join(path.file_name().unwrap())).unwrap();
        }
        Author { kitchen, server, transcript: Vec::new() }
    }

    /// Types a command; what both streams said, and the requests that it sent.
    fn types(&mut self, line: &str) -> (String, u64) {
        let before = self.server.calls();
        let arguments: Vec<&str> = line.split(' ').skip(1).collect();
        let started = std::time::Instant::now();
        let output = self.kitchen.command(&arguments).env("COLUMNS", "120").output().unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let told = String::from_utf8([output.stderr, output.stdout].concat()).unwrap();
        assert!(output.status.success(), "{line}: {told}");
        let sent = self.server.calls() - before;
        let cost = format!("# {seconds:.2} s, {sent} requests");
        self.transcript.extend([format!("$ {line}"), told.trim_end().to_string(), cost, String::new()]);
        (told, sent)
    }
}

/// A model behind the loopback server, under every name.
fn profile(base_url: &str) -> String {
    let model = |name: &str| format!("      {name}: {{ provider: openai, base_url: \"{base_url}\", model: {name} }}\n");
    let models: String = ["teacher", "judge", "small_a", "small_b", "small_c"].map(model).concat();
    format!("  here:\n    models:\n{models}")
}

/// Costs what the edit touches, and no more; the clock of it is the transcript's to show.
#[test]
fn from_an_edited_prompt_to_twenty_changed_rows() {
    let mut author = Author::new();
    let run = "decoct run pipelines/medical.yaml --profile here --limit 20 --until problems";
    let (_, cold) = author.types(run);
    assert!(cold >= 60, "three small models, a label and a new wording for each of twenty rows: {cold}");
    let prompt = "pipelines/medical/prompts/reformat.md";
    let (from, to) =
        ("Turn the multiple-choice question below", "As an examiner, turn the multiple-choice question below");
    author.kitchen.edit(prompt, from, to);
    author.transcript.push(format!("$ sed -i 's/{from}/{to}/' {prompt}\n"));
    let (plan, sent) = author.types("decoct plan pipelines/medical.yaml --profile here --limit 20 --until problems");
    assert!(plan.contains("prompt `reformat` changed") && sent == 0, "{plan}");
    let (_, edited) = author.types(run);
    assert_eq!(edited, 20, "only the questions that read the edited prompt");
    let diff = "decoct diff pipelines/medical.yaml:problems --profile here --limit 20 --rows 20";
    let (told, sent) = author.types(diff);
    assert_eq!((sent, told.matches("\nrow ").count()), (0, 20), "{told}");
    if let Some(path) = std::env::var_os(TRANSCRIPT) {
        std::fs::write(path, author.transcript.join("\n")).unwrap();
    }
}

fn cooked() -> Kitchen {
    let kitchen = Kitchen::copy_of(Path::new(EVERY_KIND));
    kitchen.run(&[]).expect_done();
    kitchen
}

fn object(kitchen: &Kitchen, arguments: &[&str]) -> Value {
    serde_json::from_str(&kitchen.says(&[arguments, &["--format", "json"]].concat())).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

#[test]
fn two_runs_are_compared_node_by_node() {
    let kitchen = cooked();
    assert_eq!(kitchen.decoct(&["diff", "last"]).status.code(), Some(2), "there is one run only");
    kitchen.edit("recipe.yaml", "verifier: judge }", "verifier: judge, rounds: 1 }");
    kitchen.edit("recipe.yaml", "iterations: 2", "iterations: 3");
    kitchen.run(&[]).expect_done();
    let runs = object(&kitchen, &["runs"]);
    let names: Vec<&str> = list(&runs["runs"]).iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2);
    let changes = object(&kitchen, &["diff", "last~1", "last"]);
    assert_eq!((&changes["old"]["name"], &changes["new"]["name"]), (&names[1].into(), &names[0].into()));
    let node = |name: &str| list(&changes["nodes"]).iter().find(|one| one["node"] == name).unwrap().clone();
    let told = |name: &str| {
        let all = node(name)["differences"].clone();
        list(&all).iter().map(|one| one["told"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told("chains"), Vec::<String>::new());
    assert_eq!((&node("chains")["old"]["state"], &node("chains")["new"]["state"]), (&"ran".into(), &"hit".into()));
    assert_eq!(told("solved"), ["rounds 3 → 1"]);
    assert!(told("graduate").contains(&"iterations 2 → 3".to_string()), "{:?}", told("graduate"));
    for side in ["old", "new"] {
        assert_eq!(list(&node("score")[side]["scores"]).len(), 2, "an evaluation's tables: {}", node("score"));
        assert!(node("solved")[side]["rows"].as_u64() > Some(0));
        assert_eq!(node("halves")[side]["rows"], node("clean")[side]["rows"], "all parts together");
    }
    let plain = kitchen.says(&["diff", "last"]);
    assert!(plain.contains("rounds 3 → 1") && plain.contains("score · accuracy on 6 problems"), "{plain}");
    assert!(plain.contains("ran → hit"), "{plain}");
    assert_eq!(object(&kitchen, &["diff", names[1], names[0]]), changes, "by their names");
    let listed = kitchen.says(&["runs", "--rows", "1"]);
    assert!(listed.contains("last ") && listed.contains("1 earlier run"), "{listed}");
    for (arguments, expected) in [
        (&["diff", "last~7"][..], "there are 2 runs on record"),
        (&["diff", "nothing"], "`decoct runs` names them"),
        (&["diff", "last", "last", "--format", "csv"], "no table of rows"),
    ] {
        let output = kitchen.decoct(arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(expected), "{arguments:?}: {told}");
    }
}

#[test]
fn two_versions_are_compared_in_numbers_and_in_every_format() {
    let kitchen = cooked();
    kitchen.edit("recipe.yaml", "verifier: judge }", "verifier: judge, rounds: 1, attempts: 1 }");
    kitchen.run(&["--until", "solved"]).expect_done();
    let changes = object(&kitchen, &["diff", "recipe.yaml:solved"]);
    for (side, attempts) in [("old", 3), ("new", 1)] {
        let version = &changes[side];
        let (rows, accepted) = (version["rows"].as_f64().unwrap(), version["accepted"].as_f64().unwrap());
        assert!((accepted - rows / 24.0).abs() < 1e-9 && version["seconds"].as_f64() > Some(0.0), "{version}");
        assert!(attempts == 3 || accepted < changes["old"]["accepted"].as_f64().unwrap(), "patience pays: {changes}");
    }
    let removed = list(&changes["removed"]).len();
    assert!(removed > 0, "{changes}");
    let csv = kitchen.says(&["diff", "recipe.yaml:solved", "--format", "csv"]);
    let cells: usize = list(&changes["changed"]).iter().map(|row| list(&row["cells"]).len()).sum();
    let added = list(&changes["added"]).len();
    assert_eq!(csv.lines().next(), Some("row_id,change,column,old,new"));
    assert_eq!(csv.matches(",removed,").count(), removed);
    assert_eq!(csv.matches(",changed,").count() + csv.matches(",added,").count(), cells + added);
    let plain = kitchen.says(&["diff", "recipe.yaml:solved"]);
    assert!(plain.contains("accepted") && plain.contains("tokens out") && plain.contains(" removed"), "{plain}");
}

#[test]
fn changed_texts_stand_side_by_side_where_there_is_room() {
    let kitchen = cooked();
    kitchen.edit("recipe.yaml", "teacher: { provider: rehearsal }", "teacher: { provider: rehearsal, slip: 0.9 }");
    kitchen.run(&["--until", "chains"]).expect_done();
    let told = |columns: &str| {
        let output = kitchen.command(&["diff", "recipe.yaml:chains"]).env("COLUMNS", columns).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (wide, narrow) = (told("120"), told("80"));
    assert!(wide.contains(" │ ") && wide.contains("{+"), "{wide}");
    assert!(wide.lines().all(|line| line.chars().count() <= 120), "{wide}");
    assert!(!narrow.contains(" │ ") && narrow.contains("\n    - ") && narrow.contains("\n    + "), "{narrow}");
}

/// `show` against its contract: every format, to stdout and to a file, of every output.
#[test]
fn a_finished_output_is_shown_in_every_format() {
    let kitchen = cooked();
    let show = |more: &[&str]| kitchen.says(&[&["show", "recipe.yaml"], more].concat());
    assert_eq!(show(&["short.dropped", "--rows", "1", "--format", "json"]).lines().count(), 1);
    assert!(show(&["halves"]).contains("first 10 of 24 rows"), "the first output, ten rows");
    assert_eq!(show(&["halves.test", "--format", "csv"]).lines().count(), 7);
    let first = show(&["chains", "--row", "0"]);
    let id = first.lines().next().unwrap().strip_prefix("row_id: ").unwrap();
    assert_eq!(show(&["chains", "--row", id]), first);
    assert_eq!(show(&["chains", "--row", &id[..10]]), first, "the beginning of an id will do, as in `trace`");
    let row: Value = serde_json::from_str(&show(&["chains", "--row", "0", "--format", "json"])).unwrap();
    assert_eq!(row["row_id"], id);
    for (file, beginning) in
        [("a.json", "[\n{\"row_id\""), ("a.jsonl", "{\"row_id\""), ("a.csv", "row_id,"), ("a.txt", "chains · cot")]
    {
        show(&["chains", "-o", file]);
        assert!(kitchen.read(file).starts_with(beginning), "{file}: {}", kitchen.read(file));
    }
    show(&["chains", "-o", "a.parquet"]);
    assert_eq!(std::fs::read(kitchen.path("a.parquet")).unwrap()[..4], *b"PAR1");
    show(&["student", "-o", "models/ours"]);
    assert!(
        kitchen.read("models/ours/config.json").contains("qwen2")
            && kitchen.path("models/ours/model.safetensors").is_file()
    );
    show(&["student", "-o", "metrics.csv"]);
    assert!(kitchen.read("metrics.csv").starts_with("row_id,"), "its metrics are rows");
    let metrics = show(&["student", "--format", "json", "--rows", "1"]);
    assert!(metrics.contains("\"loss\":"), "{metrics}");
    for (arguments, expected) in [
        (&["chains", "--row", "24"][..], "numbered from 0"),
        (&["chains", "--row", "zz"], "numbered from 0"),
        (&["chains", "-o", "a.xyz"], "`--format json|csv|parquet|table`"),
        (&["halves.tset"], "did you mean `test`?"),
        (&["student", "-o", "models/ours"], "`models/ours` is there already"),
        (&["student", "-o", "recipe.yaml"], "`recipe.yaml` is there already"),
    ] {
        let output = kitchen.decoct(&[&["show", "recipe.yaml"], arguments].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(expected), "{arguments:?}: {told}");
    }
}
