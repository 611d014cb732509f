//! Servers that are not ours, driven through a recipe as users drive them. They take minutes to install and seconds to answer:
//! `tests/run --full` only.
//!
//! `transformers serve` sends no `[DONE]`, echoes the model as `path@main`, ignores `response_format` and `n`, answers 422 with
//! `{"detail": …}` and 500 in plain text, and tells in the middle of a stream where it fails. Its models here are tiny: what the
//! random one says is never of use and has to be dealt with, the other one has learnt to say `True`.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, Run};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROWS: u64 = 6;
/// Of a run that is disturbed on its way.
const MANY_ROWS: u64 = 24;
/// Requests in flight at most.
const CONCURRENCY: u64 = 2;
/// A loaded machine takes minutes to import PyTorch.
const START: Duration = Duration::from_secs(600);
/// What a warning of several models under one identity says.
const CHANGED: &str = "different models under one identity";

fn is_full() -> bool {
    std::env::var_os("DECOCT_TESTS_FULL").is_some()
}

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `transformers serve` on a free port, until it is dropped.
struct Serving {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Serving {
    fn start() -> Serving {
        let venv = output_of(&mut Command::new(house().join("tests/foreign/venv")));
        let venv = Path::new(venv.trim());
        let folder = tempfile::tempdir().unwrap();
        let make = house().join("tests/foreign/make_model.py");
        output_of(Command::new(venv.join("bin/python")).arg(make).arg(folder.path()));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut serve = Command::new(venv.join("bin/transformers"));
        serve.args(["serve", "--device", "cpu", "--host", "127.0.0.1", "--port", &port.to_string()]);
        serve.envs([("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1"), ("PYTHONUNBUFFERED", "1")]);
        serve.env("HF_HOME", folder.path().join("home"));
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        serve.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut serving = Serving { child: serve.spawn().unwrap(), port, folder };
        serving.await_answer();
        serving
    }

    fn await_answer(&mut self) {
        let started = Instant::now();
        while !self.get("/health").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            let is_alive = self.child.try_wait().unwrap().is_none();
            assert!(is_alive && started.elapsed() < START, "the server does not come up: {}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join("log")).unwrap()).into_owned()
    }

    /// Requests that it has answered with this status since it is up, by its own log.
    fn answered(&self, status: u16) -> u64 {
        let line = format!("\"POST /v1/chat/completions HTTP/1.1\" {status}");
        self.log().matches(&line).count() as u64
    }

    /// A judge of the given model over so many rows, with more settings of the model.
    fn kitchen(&self, model: &str, rows: u64, settings: &str) -> Kitchen {
        let (port, model) = (self.port, self.folder.path().join(model));
        let kitchen = Kitchen::new(&format!(
            "version: 1\n\
             models:\n  tiny: {{ provider: openai, model: \"{}\", base_url: \"http://127.0.0.1:{port}/v1\", identity: seed 7,\n          \
             temperature: 0, max_tokens: 24, concurrency: {CONCURRENCY}, tries: 2, pause_ms: 10{settings} }}\n\
             nodes:\n  exam:     {{ kind: source, path: exam.jsonl }}\n  \
             verdicts: {{ kind: verify, input: exam, model: tiny, asks: 2 }}\n",
            model.display()
        ));
        let line = |row| format!("{{\"conclusion\": \"sign {row}\", \"truth\": \"sign {row}\"}}\n");
        kitchen.write("exam.jsonl", &(0..rows).map(line).collect::<String>());
        kitchen
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Rows of both outputs with all that became of them.
fn rows(kitchen: &Kitchen) -> String {
    kitchen.says(&["show", "recipe.yaml", "verdicts", "--format", "json"])
        + &kitchen.says(&["show", "recipe.yaml", "verdicts.dropped", "--format", "json"])
}

/// All that a run told: with `--format json` warnings and failures are events.
fn said(run: &Run) -> String {
    run.events.iter().map(Value::to_string).chain([run.told.clone()]).collect::<Vec<_>>().join("\n")
}

fn usage(run: &Run) -> [u64; 3] {
    ["calls", "tokens_in", "tokens_out"].map(|figure| run.total(figure))
}

#[test]
fn transformers_serve_is_driven_through_a_recipe() {
    if !is_full() {
        return eprintln!("skipped: DECOCT_TESTS_FULL is not set");
    }
    let server = Serving::start();
    // `True` and the end take five tokens a row.
    assert_eq!(streamed_or_not_rows_and_usage_are_the_same(&server, "taught")[2], 5 * ROWS);
    streamed_or_not_rows_and_usage_are_the_same(&server, "random");
    what_it_ignores_changes_no_row(&server);
    a_refusal_stops_at_once_with_its_words(&server);
    what_it_stumbles_over_is_tried_again_and_is_its_fault(&server);
    what_was_answered_before_an_interruption_is_kept(&server, "-INT");
    what_was_answered_before_an_interruption_is_kept(&server, "-KILL");
    the_doctor_tells_what_it_does(&server);
}

fn streamed_or_not_rows_and_usage_are_the_same(server: &Serving, model: &str) -> [u64; 3] {
    let before = server.answered(200);
    let plain = server.kitchen(model, ROWS, "");
    let first = plain.run(&[]).expect_done();
    assert_eq!(server.answered(200) - before, first.total("calls"));
    assert!((ROWS..=2 * ROWS).contains(&first.total("calls")) && first.total("tokens_in") > 0, "{:?}", usage(&first));
    assert!(!said(&first).contains(CHANGED), "`path@main` is one name for all rows: {}", said(&first));
    assert_eq!(plain.run(&["--force", "verdicts"]).expect_done().total("calls"), 0, "everything is paid");

    let streamed = server.kitchen(model, ROWS, ", stream: true");
    let run = streamed.run(&[]).expect_done();
    assert_eq!((rows(&streamed), usage(&run)), (rows(&plain), usage(&first)), "a streamed answer is the same answer");
    let found_true = rows(&plain).matches("\"verdict\":true").count() as u64;
    assert_eq!(found_true, if model == "taught" { ROWS } else { 0 }, "{}", rows(&plain));
    usage(&first)
}

fn what_it_ignores_changes_no_row(server: &Serving) {
    let plain = server.kitchen("taught", ROWS, "");
    plain.run(&[]).expect_done();
    let ignored = ", reasoning_effort: low, extra_body: { n: 2, response_format: { type: json_object } }";
    let asked = server.kitchen("taught", ROWS, ignored);
    assert_eq!(asked.run(&[]).expect_done().total("calls"), ROWS);
    assert_eq!(rows(&asked), rows(&plain));
}

fn a_refusal_stops_at_once_with_its_words(server: &Serving) {
    let before = server.answered(422);
    let refused = server.kitchen("taught", ROWS, ", extra_body: { top_k: 5 }").run(&[]);
    let told = said(&refused);
    assert_eq!(refused.exit, 1, "{told}");
    for words in ["422", "Unexpected fields in the request: {'top_k'}", "`extra_body:`"] {
        assert!(told.contains(words), "`{words}` is not in\n{told}");
    }
    assert!(server.answered(422) - before <= CONCURRENCY, "it goes on asking");
}

/// It answers 500 where it cannot load a model, too, and then closes the connection without a word: what the second try meets may
/// be either.
fn what_it_stumbles_over_is_tried_again_and_is_its_fault(server: &Serving) {
    let unknown = server.kitchen("nowhere", 1, "");
    let once = unknown.run(&["--set=models.tiny.tries=1"]);
    assert_eq!(once.exit, 5, "{}", said(&once));
    assert!(said(&once).contains("the server answered 500: Internal Server Error"), "{}", said(&once));
    let twice = unknown.run(&[]);
    assert_eq!((twice.exit, twice.total("calls")), (5, 2), "{}", said(&twice));
    assert!(said(&twice).contains("(tried 2 times)"), "{}", said(&twice));

    let broken = server.kitchen("taught", ROWS, ", stream: true, extra_body: { stop: 7 }").run(&[]);
    assert_eq!(broken.exit, 5, "{}", said(&broken));
    assert!(said(&broken).contains("'int' object is not iterable (tried 2 times)"), "{}", said(&broken));
}

fn what_was_answered_before_an_interruption_is_kept(server: &Serving, signal: &str) {
    let before = server.answered(200);
    let kitchen = server.kitchen("taught", MANY_ROWS, "");
    let mut process = kitchen.command(&["run", "recipe.yaml", "--format", "json"]).spawn().unwrap();
    while server.answered(200) < before + 4 {
        assert!(process.try_wait().unwrap().is_none(), "the run ended early");
        std::thread::sleep(Duration::from_millis(5));
    }
    let seen = server.answered(200) - before;
    output_of(Command::new("kill").arg(signal).arg(process.id().to_string()));
    let code = process.wait_with_output().unwrap().status.code();
    assert_eq!(code, (signal == "-INT").then_some(130), "ended before it was interrupted, or otherwise");

    // The rest comes in pieces, and from the same model.
    let rest = kitchen.run(&["--set=models.tiny.stream=true"]).expect_done();
    let kept = MANY_ROWS - rest.total("calls");
    assert!(kept + CONCURRENCY >= seen, "{kept} kept of {seen}");
    if signal == "-INT" {
        assert_eq!(server.answered(200) - before, MANY_ROWS, "each row is answered once");
    }
    assert!(!said(&rest).contains(CHANGED), "{}", said(&rest));
    let undisturbed = server.kitchen("taught", MANY_ROWS, "");
    undisturbed.run(&[]).expect_done();
    assert_eq!(rows(&kitchen), rows(&undisturbed));
}

fn the_doctor_tells_what_it_does(server: &Serving) {
    let told =
        server.kitchen("random", ROWS, "").says(&["doctor", "recipe.yaml", "--model", "tiny", "--format", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    for (check, verdict, words) in [
        ("answers", "yes", "/random@main`, asked for `"),
        ("listed", "unknown", "no list of models (500)"),
        ("streaming", "yes", "ends without [DONE]"),
        ("json_schema", "no", "the schema is ignored"),
        ("seed", "yes", "one seed gave one answer, another seed another"),
        ("logprobs", "no", "the answer has none"),
        ("n", "no", "1 answer to a request for two"),
        ("usage", "yes", "tokens in, 24 out"),
        ("limits", "", "2 requests at a time by the recipe; the server tells none"),
        // Eight answers; a ninth call is made where the server has closed the connection on which it listed no models.
        ("this cost", "", "192 out: the recipe states no prices"),
    ] {
        let found = told["checks"].as_array().unwrap().iter().find(|one| one["check"] == check).unwrap();
        assert_eq!(found["verdict"].as_str().unwrap_or_default(), verdict, "{found}");
        assert!(found["found"].as_str().unwrap().contains(words), "{found}");
    }
}
