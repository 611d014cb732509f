//! A key goes to its server and nowhere else: not to a screen, an event, a record, a reply, a core file or another server. What looks
//! like a key in a recipe is refused, and not repeated.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::Kitchen;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::sync::{Arc, Mutex};
use support::model_faults::{Fault, Faults};
use support::model_server::{Behaviour, ModelServer};

const KEY: &str = "sk-proj-4f9a1c77e2b84d0c9b3e";
/// What `base64` makes of the key, at each of the three ways in which it can fall on groups of three bytes.
const ENCODED: [&str; 3] = [
    "c2stcHJvai00ZjlhMWM3N2UyYjg0ZDBjOWIz",
    "NrLXByb2otNGY5YTFjNzdlMmI4NGQwYzli",
    "zay1wcm9qLTRmOWExYzc3ZTJiODRkMGM5YjNl",
];
const VARIABLE: &str = "DECOCT_TEST_SECRET";
const RECIPE: &str = "\
version: 1
models:
  teacher: { provider: openai, model: m, base_url: \"URL\", WHERE, concurrency: 4, tries: 3, pause_ms: 1, pause_max_ms: 2 }
nodes:
  exam:   { kind: source, path: exam.jsonl }
  chains: { kind: cot, input: exam, model: teacher }
";

/// The recipe with its key under `whence` and its model at `url`.
fn kitchen(url: &str, whence: &str) -> Kitchen {
    let kitchen = Kitchen::new(&RECIPE.replace("URL", url).replace("WHERE", whence));
    let line = |row| format!("{{\"problem\": \"What explains sign {row}?\", \"truth\": \"{row}\"}}\n");
    kitchen.write("exam.jsonl", &(0..12).map(line).collect::<String>());
    kitchen
}

fn key_file(kitchen: &Kitchen, name: &str, mode: u32) {
    kitchen.write(name, &format!("{KEY}\n"));
    std::fs::set_permissions(kitchen.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

fn decoct(kitchen: &Kitchen, arguments: &[&str], variable: bool) -> Output {
    let mut command = kitchen.command(arguments);
    command.env("RUST_BACKTRACE", "1").env_remove(VARIABLE);
    if variable {
        command.env(VARIABLE, KEY);
    }
    command.output().unwrap()
}

/// Nothing that a command said and nothing that lies in the folder holds `secret`, but the files named.
fn assert_nowhere(secret: &str, kitchen: &Kitchen, said: &[Output], but: &[&str]) {
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
    for output in said {
        for bytes in [&output.stdout, &output.stderr] {
            assert!(!holds(bytes), "`{secret}` is shown: {}", String::from_utf8_lossy(bytes));
        }
    }
    let files = kitchen::files_below(&kitchen.path(""));
    assert!(files.len() > 1);
    for file in files.iter().filter(|file| !but.iter().any(|name| file.ends_with(name))) {
        assert!(!holds(&std::fs::read(file).unwrap()), "`{secret}` lies in `{}`", file.display());
    }
}

fn assert_key_nowhere(kitchen: &Kitchen, said: &[Output]) {
    for secret in ENCODED.iter().copied().chain([KEY]) {
        assert_nowhere(secret, kitchen, said, &["the.key"]);
    }
}

/// Everything that looks at a run, and the run itself as given.
fn look_everywhere(kitchen: &Kitchen, run: &[&str], variable: bool) -> Vec<Output> {
    let commands: [&[&str]; 12] = [
        &["check", "recipe.yaml"],
        &["plan", "recipe.yaml"],
        run,
        &["run", "recipe.yaml"],
        &["plan", "recipe.yaml", "--format", "json"],
        &["show", "recipe.yaml", "chains", "--format", "json"],
        &["show", "recipe.yaml", "chains.dropped", "--format", "json"],
        &["trace", "recipe.yaml", "chains", "0", "--full"],
        &["trace", "recipe.yaml", "chains", "0", "--format", "json"],
        &["explain", "recipe.yaml", "chains", "--format", "json"],
        &["runs", "--format", "json"],
        &["cache", "stat"],
    ];
    commands.iter().map(|command| decoct(kitchen, command, variable)).collect()
}

#[test]
fn the_key_reaches_its_server_and_nothing_that_is_written() {
    let storm = |times| Faults {
        shares: vec![(0.5, Fault::RateLimited), (0.3, Fault::ServerError), (0.2, Fault::TruncatedJson)],
        times,
    };
    for (what, wanted, faults, exit) in [
        ("answers", KEY, Faults::default(), 0),
        ("storm", KEY, storm(1), 0),
        ("outage", KEY, Faults::outage(), 5),
        ("refusal", "another", Faults::default(), 1),
    ] {
        for variable in [true, false] {
            let server = ModelServer::start(Behaviour {
                key: Some(wanted.to_string()),
                faults: faults.clone(),
                ..Behaviour::default()
            });
            let whence =
                if variable { format!("api_key_env: {VARIABLE}") } else { "api_key_file: the.key".to_string() };
            let kitchen = kitchen(&server.base_url(), &whence);
            key_file(&kitchen, "the.key", 0o600);
            let said = look_everywhere(&kitchen, &["run", "recipe.yaml", "--format", "json"], variable);
            assert_eq!(said[2].status.code(), Some(exit), "{what}: {}", String::from_utf8_lossy(&said[2].stderr));
            let expected = format!("Bearer {KEY}");
            assert!(!server.requests().is_empty(), "{what}");
            for request in server.requests() {
                assert_eq!(request.authorization.as_deref(), Some(expected.as_str()), "{what}");
            }
            assert_key_nowhere(&kitchen, &said);
        }
    }
}

/// Answers every request with what `answer` makes of its whole text, and keeps what came.
fn server(answer: impl Fn(&str) -> String + Send + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, came) = (format!("http://{}/v1", listener.local_addr().unwrap()), Arc::new(Mutex::new(Vec::new())));
    let seen = came.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let request = read_request(&mut stream);
            let answer = answer(&request);
            seen.lock().unwrap().push(request);
            _ = stream.write_all(answer.as_bytes());
        }
    });
    (url, came)
}

fn read_request(stream: &mut std::net::TcpStream) -> String {
    let (mut text, mut chunk) = (String::new(), [0; 4096]);
    loop {
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            body.len() >= length.unwrap_or(0)
        });
        match if whole { Ok(0) } else { stream.read(&mut chunk) } {
            Ok(count) if count > 0 => text += &String::from_utf8_lossy(&chunk[..count]),
            _ => return text,
        }
    }
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[test]
fn a_server_that_sends_us_on_takes_neither_key_nor_row_along() {
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let (elsewhere, came_elsewhere) = server(|_| http("200 OK", "", "{}"));
        let (url, came) = server(move |_| http(status, &format!("location: {elsewhere}/chat/completions\r\n"), ""));
        let kitchen = kitchen(&url, &format!("api_key_env: {VARIABLE}"));
        let run = decoct(&kitchen, &["run", "recipe.yaml"], true);
        let told = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{told}");
        assert!(told.contains("sends us elsewhere") && told.contains("`base_url`"), "{told}");
        assert!(came.lock().unwrap().iter().all(|request| request.contains(&format!("Bearer {KEY}"))));
        assert_eq!(came_elsewhere.lock().unwrap().len(), 0, "{status}");
        assert_key_nowhere(&kitchen, &[run]);
    }
}

#[test]
fn a_key_that_stands_in_an_answer_is_not_kept_with_it() {
    let answer = |request: &str| {
        let header = request.lines().find(|line| line.starts_with("authorization")).unwrap_or_default().to_string();
        let choice = serde_json::json!({"message": {"content": format!("you said {header}")}, "finish_reason": "stop"});
        http("200 OK", "", &serde_json::json!({"model": header, "choices": [choice]}).to_string())
    };
    let (url, came) = server(answer);
    let kitchen = kitchen(&url, &format!("api_key_env: {VARIABLE}"));
    let said = look_everywhere(&kitchen, &["run", "recipe.yaml", "--format", "json"], true);
    assert!(said[2].status.success(), "{}", String::from_utf8_lossy(&said[2].stderr));
    assert!(came.lock().unwrap().iter().any(|request| request.contains(KEY)));
    let dropped = String::from_utf8_lossy(&said[6].stdout).into_owned();
    assert!(dropped.contains("Bearer ***"), "{dropped}");
    assert_key_nowhere(&kitchen, &said);
}

#[test]
fn a_key_file_that_others_may_read_stops_everything_before_anything_is_sent() {
    let server = ModelServer::start(Behaviour { key: Some(KEY.to_string()), ..Behaviour::default() });
    let kitchen = kitchen(&server.base_url(), "api_key_file: the.key");
    key_file(&kitchen, "the.key", 0o644);
    let run = decoct(&kitchen, &["run", "recipe.yaml"], false);
    let told = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2), "{told}");
    assert!(told.contains("bad-key") && told.contains("mode 0644") && told.contains("chmod 600 the.key"), "{told}");
    assert_eq!(server.calls(), 0);
    assert_key_nowhere(&kitchen, &[run]);
    key_file(&kitchen, "the.key", 0o400);
    assert!(decoct(&kitchen, &["run", "recipe.yaml"], false).status.success());
    // With the work done nobody calls, so nobody looks for a key.
    std::fs::remove_file(kitchen.path("the.key")).unwrap();
    assert!(decoct(&kitchen, &["run", "recipe.yaml"], false).status.success());
}

#[test]
fn what_looks_like_a_secret_in_a_recipe_is_refused_and_not_repeated() {
    const PASSWORD: &str = "hunter2hunter2";
    let (url, came) = server(|_| http("200 OK", "", "{}"));
    let with_login = url.replace("http://", &format!("http://anna:{PASSWORD}@"));
    let literal = format!("api_key: {KEY}");
    let mistaken = format!("api_key_env: {KEY}");
    let broken = format!("api_key: {KEY}, seed: [");
    for (base_url, whence, more, code) in [
        (with_login.as_str(), "seed: 1", vec![], "secret"),
        (url.as_str(), "seed: 1", vec![format!("--set=models.teacher.base_url={with_login}")], "secret"),
        (url.as_str(), literal.as_str(), vec![], "secret"),
        (url.as_str(), mistaken.as_str(), vec![], "secret"),
        (url.as_str(), "seed: 1", vec![format!("--set=models.teacher.api_key={KEY}")], "secret"),
        (url.as_str(), broken.as_str(), vec![], "not-yaml"),
    ] {
        let kitchen = kitchen(base_url, whence);
        for command in ["check", "plan", "run"] {
            for format in ["plain", "json"] {
                let mut arguments = vec![command, "recipe.yaml", "--format", format];
                arguments.extend(more.iter().map(String::as_str));
                let said = decoct(&kitchen, &arguments, false);
                let told = [said.stdout.clone(), said.stderr.clone()].concat();
                let told = String::from_utf8_lossy(&told);
                assert_eq!(said.status.code(), Some(2), "{told}");
                assert!(told.contains(code), "{told}");
                for secret in [KEY, PASSWORD] {
                    assert_nowhere(secret, &kitchen, std::slice::from_ref(&said), &["recipe.yaml"]);
                }
            }
        }
    }
    assert_eq!(came.lock().unwrap().len(), 0);
}

/// The disaster: a crash while requests are on their way leaves the key in a core file, which a crash reporter sends away.
#[test]
fn a_process_that_holds_a_key_leaves_no_core() {
    let abort = |whence: &str| {
        let server = ModelServer::start(Behaviour { latency_ms: 600_000, ..Behaviour::default() });
        let kitchen = kitchen(&server.base_url(), whence);
        let run = kitchen.command(&["run", "recipe.yaml"]);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$0\" \"$@\""])
            .arg(run.get_program())
            .args(run.get_args());
        shell.current_dir(kitchen.path("")).env(VARIABLE, KEY);
        shell.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = shell.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        while server.calls() == 0 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it asked");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // Safe: a signal to our own child, which has not been waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGABRT) };
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGABRT));
        (kitchen, status.core_dumped())
    };
    let (kitchen, is_dumped) = abort(&format!("api_key_env: {VARIABLE}"));
    assert!(!is_dumped);
    assert_key_nowhere(&kitchen, &[]);
    // The same without a key is dumped where this machine dumps at all: else the test above shows little here.
    let (_kitchen, is_dumped) = abort("seed: 1");
    println!("without a key, this machine leaves a core: {is_dumped}");
}
