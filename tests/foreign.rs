//! Servers that are not ours, driven through a recipe as users drive them. They take minutes to install and seconds to answer:
//! `tests/run --full` only.
//!
//! `transformers serve` sends no `[DONE]`, echoes the model as `path@main`, ignores `response_format` and `n`, answers 422 with
//! `{"detail": …}` and 500 in plain text. Its model here is tiny and random: what it says is never of use, and has to be dealt with.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::Kitchen;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROWS: usize = 6;

fn is_full() -> bool {
    std::env::var_os("DECOCT_TESTS_FULL").is_some()
}

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `transformers serve` on a free port, until it is dropped.
struct Serving {
    child: Child,
    port: u16,
    model: PathBuf,
    _folder: tempfile::TempDir,
}

impl Serving {
    fn start() -> Serving {
        let venv = Command::new(house().join("tests/foreign/venv")).output().unwrap();
        assert!(venv.status.success(), "{}", String::from_utf8_lossy(&venv.stderr));
        let venv = PathBuf::from(String::from_utf8(venv.stdout).unwrap().trim());
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny");
        let mut make = Command::new(venv.join("bin/python"));
        let made = make.arg(house().join("tests/foreign/make_model.py")).arg(&model).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut serve = Command::new(venv.join("bin/transformers"));
        serve.args(["serve", "--host", "127.0.0.1", "--port", &port.to_string()]).env("HF_HUB_OFFLINE", "1");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        serve.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let serving = Serving { child: serve.spawn().unwrap(), port, model, _folder: folder };
        serving.await_answer();
        serving
    }

    fn await_answer(&self) {
        let started = Instant::now();
        while !self.get("/health").is_ok_and(|answer| answer.starts_with("HTTP/1.1 ")) {
            assert!(started.elapsed() < Duration::from_secs(180), "the server does not come up");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    }

    fn kitchen(&self, extra: &str) -> Kitchen {
        let (port, model) = (self.port, self.model.display());
        let kitchen = Kitchen::new(&format!(
            "version: 1\n\
             models:\n  tiny: {{ provider: openai, model: \"{model}\", base_url: \"http://127.0.0.1:{port}/v1\", identity: seed 7,\n          \
             temperature: 0, max_tokens: 24, concurrency: 2, tries: 2, pause_ms: 10{extra} }}\n\
             nodes:\n  exam:     {{ kind: source, path: exam.jsonl }}\n  \
             verdicts: {{ kind: verify, input: exam, model: tiny, asks: 2 }}\n"
        ));
        let line = |row| format!("{{\"conclusion\": \"sign {row}\", \"truth\": \"sign {row}\"}}\n");
        kitchen.write("exam.jsonl", &(0..ROWS).map(line).collect::<String>());
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

#[test]
fn transformers_serve_is_driven_through_a_recipe() {
    if !is_full() {
        return eprintln!("skipped: DECOCT_TESTS_FULL is not set");
    }
    let server = Serving::start();
    let plain = server.kitchen("");
    let first = plain.run(&[]).expect_done();
    let calls = first.total("calls");
    assert!((ROWS as u64..=2 * ROWS as u64).contains(&calls), "{calls} calls");
    assert!(first.total("tokens_in") > 0 && first.total("tokens_out") > 0, "usage is told");
    assert!(!first.told.contains("identity"), "`path@main` is one name for all rows: {}", first.told);
    assert_eq!(plain.run(&["--force", "verdicts"]).expect_done().total("calls"), 0, "everything is paid");

    // The same in pieces, and with fields that it ignores.
    let streamed = server.kitchen(", stream: true");
    streamed.run(&[]).expect_done();
    assert_eq!(rows(&streamed), rows(&plain), "a streamed answer is the same answer");
    server.kitchen(", extra_body: { n: 2 }").run(&[]).expect_done();

    // 422, with its words.
    let refused = server.kitchen(", extra_body: { messages: 7 }").run(&[]);
    assert!(refused.exit != 0 && refused.told.contains("422"), "{}", refused.told);

    // What it cannot load is its fault or the recipe's, never a row's.
    let unknown = server.kitchen("");
    unknown.edit("recipe.yaml", "tiny\"", "nowhere\"");
    let failed = unknown.run(&[]);
    assert!([2, 5].contains(&failed.exit), "exit {}: {}", failed.exit, failed.told);

    // What the doctor sees.
    let output = plain.decoct(&["doctor", "recipe.yaml", "--model", "tiny"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    for word in ["streaming", "json_schema", "seed", "logprobs"] {
        assert!(told.contains(word), "`{word}` is missing in\n{told}");
    }
}
