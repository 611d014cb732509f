//! `decoct doctor`: what is observed of a server is told, whatever the server says of itself; no key is shown, and exits tell whose
//! fault it is.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::Kitchen;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};

const KEY: &str = "sk-doctor-7d1f09ab";

/// How a server of the test behaves.
#[derive(Clone, Copy)]
enum Manner {
    /// Does everything that is asked.
    Able,
    /// Ignores what it does not know, streams without `[DONE]`, calls itself something else, counts no tokens.
    Plain,
    /// Answers 422 with `detail` to every field beyond the plainest, and 500 in plain text to a request for two answers.
    Strict,
    /// Knows no such key, and repeats it.
    Refusing,
    /// Breaks every stream off with an error, as `transformers serve` does where generating fails; its fingerprint is empty.
    Breaking,
    /// Does everything, but takes a schema in llama.cpp's dialect only and stumbles over OpenAI's, as llama-cpp-python does.
    BareSchema,
    /// Does everything, with white space behind what a schema demands until the tokens are used up, and draws twice only where it
    /// draws: vLLM.
    Spacious,
    /// Is overloaded for good.
    Down,
}

/// Answers on a thread of its own until the process ends; keeps the request bodies.
fn server(manner: Manner) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = bodies.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (head, body) = read_request(&mut stream);
            let answer = match serde_json::from_str::<Value>(&body) {
                Ok(body) => {
                    seen.lock().unwrap().push(body.clone());
                    respond(manner, &head, &body)
                }
                Err(_) => list(manner),
            };
            _ = stream.write_all(answer.as_bytes());
        }
    });
    (url, bodies)
}

fn read_request(stream: &mut TcpStream) -> (String, String) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return (head.to_string(), body.to_string());
            }
        }
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => bytes.extend(&chunk[..count]),
            _ => return (text, String::new()),
        }
    }
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn list(manner: Manner) -> String {
    match manner {
        Manner::Able | Manner::BareSchema | Manner::Spacious => {
            http("200 OK", "", r#"{"data": [{"id": "large"}, {"id": "small"}]}"#)
        }
        Manner::Plain => http("200 OK", "", r#"{"data": [{"id": "path/to/it"}]}"#),
        _ => http("404 Not Found", "", "no such page"),
    }
}

fn respond(manner: Manner, head: &str, body: &Value) -> String {
    let asks = |field: &str| !body[field].is_null();
    match manner {
        Manner::Able => able(body, &body["response_format"]["json_schema"]["schema"]),
        Manner::BareSchema if body["response_format"]["type"] == "json_schema" => {
            let words = json!({"error": {"message": "1 validation error:\n  'loc': ('body', 'response_format')\n\n  File \"app.py\""}});
            http("500 Internal Server Error", "", &words.to_string())
        }
        Manner::BareSchema => able(body, &body["response_format"]["schema"]),
        Manner::Spacious if asks("n") && body["temperature"] != 1 => {
            http("400 Bad Request", "", r#"{"error": {"message": "n must be 1 when using greedy sampling"}}"#)
        }
        Manner::Spacious if asks("response_format") => {
            let whole = able(body, &body["response_format"]["json_schema"]["schema"]);
            let mut answer: Value = serde_json::from_str(whole.split_once("\r\n\r\n").unwrap().1).unwrap();
            let said = answer["choices"][0]["message"]["content"].as_str().unwrap().trim_end_matches('}').to_owned();
            answer["choices"][0]["message"]["content"] = (said + &"\r".repeat(90)).into();
            answer["choices"][0]["finish_reason"] = "length".into();
            http("200 OK", "", &answer.to_string())
        }
        Manner::Spacious => able(body, &Value::Null),
        Manner::Plain if asks("stream") => {
            let piece = |text: &str, end: Value| {
                format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}, "finish_reason": end}]}))
            };
            http(
                "200 OK",
                "content-type: text/event-stream\r\n",
                &(piece("1 2", Value::Null) + &piece("3", json!("stop"))),
            )
        }
        Manner::Plain => http("200 OK", "", &json!({"model": "path@main", "choices": [choice("ready")]}).to_string()),
        Manner::Strict if asks("n") => http("500 Internal Server Error", "", "Internal Server Error"),
        Manner::Strict if ["stream", "response_format", "seed", "logprobs"].iter().any(|field| asks(field)) => {
            http("422 Unprocessable Entity", "", r#"{"detail": "Unexpected keys in the request"}"#)
        }
        Manner::Strict => http("200 OK", "", &json!({"choices": [choice("ready")]}).to_string()),
        Manner::Breaking if asks("stream") => {
            let begun = json!({"choices": [{"index": 0, "delta": {"role": "assistant"}}]});
            let broken = format!("data: {begun}\n\ndata: {{\"error\": \"out of memory\"}}\n\n");
            http("200 OK", "content-type: text/event-stream\r\n", &broken)
        }
        Manner::Breaking => {
            let answer = json!({"model": "large@main", "system_fingerprint": "", "choices": [choice("ready")]});
            http("200 OK", "", &answer.to_string())
        }
        Manner::Refusing => {
            let sent = head.lines().find(|line| line.starts_with("authorization")).unwrap_or_default();
            http("401 Unauthorized", "", &json!({"error": {"message": format!("no such key: {sent}")}}).to_string())
        }
        Manner::Down => http("503 Service Unavailable", "retry-after-ms: 1\r\n", "try later"),
    }
}

fn choice(text: &str) -> Value {
    json!({"message": {"role": "assistant", "content": text}, "finish_reason": "stop"})
}

fn able(body: &Value, schema: &Value) -> String {
    if body["stream"] == true {
        let piece = format!("data: {}\n\n", json!({"choices": [{"delta": {"content": "1"}, "finish_reason": "stop"}]}));
        return http("200 OK", "content-type: text/event-stream\r\n", &(piece + "data: [DONE]\n\n"));
    }
    let mut choice = choice("ready");
    if let Some((name, property)) = schema["properties"].as_object().and_then(|all| all.iter().next()) {
        choice["message"]["content"] = json!({name: property["enum"][0]}).to_string().into();
    }
    if let Some(seed) = body["seed"].as_u64() {
        choice["message"]["content"] = format!("letters of {seed}").into();
    }
    if body["logprobs"] == true {
        choice["logprobs"] = json!({"content": [{"token": "ready", "logprob": -0.1}]});
    }
    let choices = vec![choice; body["n"].as_u64().unwrap_or(1) as usize];
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 2});
    let answer = json!({"model": "large", "system_fingerprint": "fp_1", "choices": choices, "usage": usage});
    http("200 OK", "x-ratelimit-limit-requests: 500\r\nx-ratelimit-remaining-requests: -1\r\n", &answer.to_string())
}

fn kitchen(url: &str) -> Kitchen {
    let kitchen = Kitchen::new(&format!(
        "version: 1\nmodels:\n  teacher: {{ provider: openai, model: large, base_url: \"{url}\", api_key_env: DECOCT_TEST_DOCTOR, \
         pause_ms: 1, concurrency: 7, requests_per_minute: 90, tokens_per_minute: 1e5, seed: 5, prices: {{ input_usd_per_million: 1000, output_usd_per_million: 1000 }} }}\n  \
         stand_in: {{ provider: rehearsal }}\nnodes:\n  exam: {{ kind: source, path: exam.jsonl }}\n"
    ));
    kitchen.write("exam.jsonl", "{\"problem\": \"a secret of the patient\"}\n");
    kitchen
}

fn doctor(kitchen: &Kitchen, more: &[&str]) -> Output {
    let output = kitchen.command(&[&["doctor"], more].concat()).env("DECOCT_TEST_DOCTOR", KEY).output().unwrap();
    for bytes in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(bytes).contains(KEY), "{}", String::from_utf8_lossy(bytes));
    }
    output
}

/// What was found by check: verdict and words.
fn found(output: &Output) -> impl Fn(&str) -> (String, String) + use<> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    move |check| {
        let checks = told["checks"].as_array().unwrap();
        let found = checks.iter().find(|one| one["check"] == check).unwrap_or_else(|| panic!("no `{check}`: {told}"));
        (found["verdict"].as_str().unwrap_or_default().to_string(), found["found"].as_str().unwrap().to_string())
    }
}

#[test]
fn a_dialect_that_the_server_knows_is_found() {
    let (url, bodies) = server(Manner::BareSchema);
    let kitchen = kitchen(&url);
    let output = doctor(&kitchen, &["recipe.yaml", "--model", "teacher", "--format", "json"]);
    let (verdict, detail) = found(&output)("json_schema");
    assert_eq!(verdict, "no", "{detail}");
    let words = "the server answered 500: 1 validation error: 'loc': ('body', 'response_format') File \"app.py\"";
    assert_eq!(detail, format!("{words}; it is obeyed with `dialect: llamacpp`"));
    let calls = bodies.lock().unwrap().len();
    assert!(found(&output)("this cost").1.starts_with(&format!("{calls} calls, ")));

    let named = ["--set", "models.teacher.dialect=llamacpp", "--set", "models.teacher.structured=schema"];
    let output = doctor(&kitchen, &[&["recipe.yaml", "--model", "teacher", "--format", "json"], &named[..]].concat());
    assert_eq!(found(&output)("json_schema").0, "yes", "{}", found(&output)("json_schema").1);
    // Two tries that failed, and the one that was obeyed, have become one.
    assert_eq!(bodies.lock().unwrap().len(), 2 * calls - 2);
}

#[test]
fn what_a_server_does_is_told_and_not_what_it_says() {
    let expected = [
        (Manner::Able, ["yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes"]),
        (Manner::Spacious, ["yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes"]),
        (Manner::Plain, ["yes", "no", "yes", "no", "unknown", "no", "no", "no"]),
        (Manner::Strict, ["yes", "unknown", "no", "no", "no", "no", "unknown", "no"]),
        (Manner::Breaking, ["yes", "unknown", "unknown", "no", "unknown", "no", "no", "no"]),
    ];
    for (manner, verdicts) in expected {
        let (url, bodies) = server(manner);
        let output = doctor(&kitchen(&url), &["recipe.yaml", "--model", "teacher", "--format", "json"]);
        let found = found(&output);
        let checks = ["answers", "listed", "streaming", "json_schema", "seed", "logprobs", "n", "usage"];
        for (check, verdict) in checks.into_iter().zip(verdicts) {
            assert_eq!(found(check).0, verdict, "{check}: {}", found(check).1);
        }
        assert!(found("latency").1.contains("first byte"), "{}", found("latency").1);
        let declared = "7 requests at a time, 90 requests a minute, 100000 tokens a minute by the recipe";
        assert!(found("limits").1.starts_with(declared), "{}", found("limits").1);
        let bodies = bodies.lock().unwrap();
        assert!(bodies.iter().all(|body| !body.to_string().contains("patient")), "no row is sent");
        assert!(found("this cost").1.starts_with(&format!("{} calls, ", bodies.len())), "{}", found("this cost").1);
    }
}

#[test]
fn the_details_are_there_for_people() {
    let (url, _) = server(Manner::Able);
    let output = doctor(&kitchen(&url), &["recipe.yaml", "--model", "teacher"]);
    let told = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "`teacher`: `large` at http://127.0.0.1",
        "as `large`, fingerprint `fp_1`",
        "ends with [DONE]",
        "x-ratelimit-limit-requests: 500, x-ratelimit-remaining-requests: -1",
        "8 calls, 70 tokens in, 14 out: $0.08",
    ] {
        assert!(told.contains(expected), "`{expected}` is not in\n{told}");
    }
    let (url, _) = server(Manner::Plain);
    let told = String::from_utf8(doctor(&kitchen(&url), &["recipe.yaml", "--model", "teacher"]).stdout).unwrap();
    assert!(told.contains("as `path@main`, asked for `large`") && told.contains("ends without [DONE]"), "{told}");
    let (url, _) = server(Manner::Spacious);
    let told = String::from_utf8(doctor(&kitchen(&url), &["recipe.yaml", "--model", "teacher"]).stdout).unwrap();
    assert!(told.contains("obeys a schema, then came white space until it was cut off"), "{told}");
    let (url, _) = server(Manner::Breaking);
    let told = String::from_utf8(doctor(&kitchen(&url), &["recipe.yaml", "--model", "teacher"]).stdout).unwrap();
    assert!(told.contains("the server answered with an error: out of memory"), "{told}");
    assert!(!told.contains("fingerprint"), "{told}");
}

#[test]
fn exits_tell_whose_fault_it_is() {
    for (manner, exit, expected) in [(Manner::Refusing, 2, "no such key"), (Manner::Down, 5, "503")] {
        let (url, bodies) = server(manner);
        let output = doctor(&kitchen(&url), &["recipe.yaml", "--model", "teacher"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{told}");
        assert!(told.contains(expected), "{told}");
        assert!(bodies.lock().unwrap().len() <= 2, "it goes on asking");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let kitchen = kitchen(&format!("http://{nobody}/v1"));
    assert_eq!(doctor(&kitchen, &["recipe.yaml", "--model", "teacher"]).status.code(), Some(5));
    let misspelt = doctor(&kitchen, &["recipe.yaml", "--model", "techer"]);
    assert_eq!(misspelt.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&misspelt.stderr).contains("did you mean `teacher`?"));
    let keyless =
        kitchen.command(&["doctor", "recipe.yaml", "--model", "teacher"]).env_remove("DECOCT_TEST_DOCTOR").output();
    assert_eq!(keyless.unwrap().status.code(), Some(2));
}

#[test]
fn the_recipe_of_the_folder_is_taken_where_there_is_one() {
    let (url, _) = server(Manner::Able);
    let kitchen = kitchen(&url);
    assert!(doctor(&kitchen, &["--model", "teacher"]).status.success());
    assert!(doctor(&kitchen, &["--model", "stand_in"]).status.success());
    kitchen.write("second.yaml", "");
    let output = doctor(&kitchen, &["--model", "teacher"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("decoct doctor RECIPE --model NAME"));
}

#[test]
fn this_machine_is_looked_at_and_nothing_is_written() {
    let kitchen = kitchen("http://127.0.0.1:9/v1");
    let found = found(&doctor(&kitchen, &["--format", "json"]));
    assert_eq!(found("version").1, env!("CARGO_PKG_VERSION"));
    assert!(found("processor").1.contains("cores"), "{}", found("processor").1);
    assert_eq!(found("store").0, "yes");
    for check in ["memory", "device", "room", "certificates"] {
        assert!(!found(check).1.is_empty(), "{check}");
    }
    assert!(!kitchen.store().exists());
    // A file stands where the store should be made.
    kitchen.write("file", "");
    let output = kitchen.command(&["doctor"]).env("DECOCT_CACHE", kitchen.path("file/store")).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stdout));
}
