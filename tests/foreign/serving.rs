//! A server that is not ours, on a free port, and recipes that ask it.

use crate::kitchen::{Kitchen, Run};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Of a run that is disturbed on its way.
pub const MANY_ROWS: u64 = 24;
/// Requests in flight at most.
pub const CONCURRENCY: u64 = 2;
/// A loaded machine takes minutes to import PyTorch.
const START: Duration = Duration::from_secs(600);
/// What a warning of several models under one identity says.
pub const CHANGED: &str = "different models under one identity";

pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What servers stand on: their Python environment, and a folder with the two models that they serve.
pub struct Bench {
    venv: PathBuf,
    pub folder: tempfile::TempDir,
}

impl Bench {
    /// In the environment of this name, with models of so many query heads, 64 wide together.
    pub fn new(venv: &str, heads: u32) -> Bench {
        let venv = output_of(Command::new(house().join("tests/foreign/venv")).arg(venv));
        let bench = Bench { venv: PathBuf::from(venv.trim()), folder: tempfile::tempdir().unwrap() };
        output_of(bench.python("make_model.py").arg(bench.folder.path()).arg(heads.to_string()));
        bench
    }

    /// A script of ours.
    pub fn python(&self, script: &str) -> Command {
        let mut command = self.program("python");
        command.arg(house().join("tests/foreign").join(script));
        command
    }

    pub fn program(&self, name: &str) -> Command {
        Command::new(self.venv.join("bin").join(name))
    }
}

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that has come up, until it is dropped.
pub struct Serving {
    child: Child,
    pub port: u16,
    log: PathBuf,
}

impl Serving {
    /// `is_up` is a page that it answers once it serves.
    pub fn start(mut serve: Command, port: u16, log: PathBuf, is_up: &str) -> Serving {
        let file = std::fs::File::create(&log).unwrap();
        // What it starts in turn ends with it.
        serve.process_group(0);
        serve.env("PYTHONUNBUFFERED", "1").stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut serving = Serving { child: serve.spawn().unwrap(), port, log };
        let started = Instant::now();
        while !serving.get(is_up).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            let is_alive = serving.child.try_wait().unwrap().is_none();
            assert!(is_alive && started.elapsed() < START, "the server does not come up: {}", serving.log());
            std::thread::sleep(Duration::from_millis(200));
        }
        serving
    }

    fn get(&self, path: &str) -> std::io::Result<String> {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
    }

    /// What it answers to a question that no recipe asks.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json");
        let answer = self.exchange(&format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn exchange(&self, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Requests that it has answered with this status since it is up, by its own log.
    pub fn answered(&self, status: u16) -> u64 {
        let line = format!("\"POST /v1/chat/completions HTTP/1.1\" {status}");
        self.log().matches(&line).count() as u64
    }

    /// A judge by this model over so many rows, with more settings of the model.
    pub fn kitchen(&self, model: &str, rows: u64, settings: &str) -> Kitchen {
        let verdicts = "verdicts: { kind: verify, input: exam, model: tiny, asks: 2 }";
        self.kitchen_with(model, rows, settings, verdicts)
    }

    /// The same with a node of one's own.
    pub fn kitchen_with(&self, model: &str, rows: u64, settings: &str, node: &str) -> Kitchen {
        let port = self.port;
        let tokens = if settings.contains("max_tokens") { "" } else { ", max_tokens: 24" };
        let kitchen = Kitchen::new(&format!(
            "version: 1\n\
             models:\n  tiny: {{ provider: openai, model: \"{model}\", base_url: \"http://127.0.0.1:{port}/v1\", identity: seed 7,\n          \
             temperature: 0, concurrency: {CONCURRENCY}, tries: 2, pause_ms: 10{tokens}{settings} }}\n\
             nodes:\n  exam:     {{ kind: source, path: exam.jsonl }}\n  {node}\n"
        ));
        let line =
            |row| format!("{{\"question\": \"q{row}\", \"conclusion\": \"sign {row}\", \"truth\": \"sign {row}\"}}\n");
        kitchen.write("exam.jsonl", &(0..rows).map(line).collect::<String>());
        kitchen
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        _ = self.child.wait();
    }
}

/// Rows of both outputs with all that became of them.
pub fn rows(kitchen: &Kitchen) -> String {
    kitchen.says(&["show", "recipe.yaml", "verdicts", "--format", "json"])
        + &kitchen.says(&["show", "recipe.yaml", "verdicts.dropped", "--format", "json"])
}

/// All that a run told: with `--format json` warnings and failures are events.
pub fn said(run: &Run) -> String {
    run.events.iter().map(Value::to_string).chain([run.told.clone()]).collect::<Vec<_>>().join("\n")
}

pub fn usage(run: &Run) -> [u64; 3] {
    ["calls", "tokens_in", "tokens_out"].map(|figure| run.total(figure))
}

/// Interrupted by this signal while some rows are answered and others are not, and run again with its answers in pieces.
pub fn what_was_answered_before_an_interruption_is_kept(server: &Serving, model: &str, settings: &str, signal: &str) {
    let before = server.answered(200);
    let kitchen = server.kitchen(model, MANY_ROWS, settings);
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
    let undisturbed = server.kitchen(model, MANY_ROWS, settings);
    undisturbed.run(&[]).expect_done();
    assert_eq!(rows(&kitchen), rows(&undisturbed));
}

/// What a filter asks for as JSON.
pub const LABELS: &str = "verdicts: { kind: filter, input: exam, model: tiny, asks: 1 }";

/// To a prompt beyond so many tokens OpenAI's words are said, once.
pub fn a_prompt_that_is_too_long_stops_at_once(server: &Serving, model: &str, context: &str) {
    let kitchen = server.kitchen(model, 1, "");
    let long = "sign ".repeat(1000);
    kitchen.write("exam.jsonl", &format!("{{\"conclusion\": \"{long}\", \"truth\": \"a\"}}\n"));
    let before = server.answered(400);
    let refused = kitchen.run(&[]);
    let (told, words) = (said(&refused), format!("This model's maximum context length is {context} tokens"));
    assert_eq!(refused.exit, 1, "{told}");
    assert!(told.contains(&words), "`{words}` is not in\n{told}");
    assert_eq!(server.answered(400) - before, 1);
}

/// What the doctor tells: of each check its verdict and some of its words.
pub fn expect_of_the_doctor(kitchen: &Kitchen, expected: &[(&str, &str, &str)]) {
    let told = kitchen.says(&["doctor", "recipe.yaml", "--model", "tiny", "--format", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    for (check, verdict, words) in expected {
        let found = told["checks"].as_array().unwrap().iter().find(|one| one["check"] == *check).unwrap();
        assert_eq!(found["verdict"].as_str().unwrap_or_default(), *verdict, "{found}");
        assert!(found["found"].as_str().unwrap().contains(words), "{found}");
    }
}
