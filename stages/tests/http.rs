//! The OpenAI-compatible client against a real HTTP server: shapes, faults, secrets, limits.

#[path = "../../tests/support/mod.rs"]
mod house;
mod support;

use house::model_faults::Faults;
use house::model_limits::{Allowance, Counting, Telling};
use house::model_server::{Behaviour, ModelServer};
use serde_json::{Value, json};
use stages::context::Context;
use stages::failure::Failure;
use stages::llm::{Endpoints, ModelSpec};
use stages::settings::Reader;
use support::{FakeContext, ask_all, question};

/// A context whose `model` is the server, with pauses short enough for tests.
fn context(server: &ModelServer, extra: Value) -> FakeContext {
    let mut entry = json!({
        "provider": "openai", "model": "m", "base_url": server.base_url(), "concurrency": 16,
        "pause_ms": 5, "pause_max_ms": 20, "timeout_ms": 5000,
    });
    entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    support::context_of(&entry)
}

#[test]
fn answers_come_in_order_over_kept_connections_within_the_limit() {
    let server = ModelServer::start(Behaviour { latency_ms: 2, ..Behaviour::default() });
    let context = context(&server, json!({}));
    let answers = ask_all(&context, 300).unwrap();
    assert!(answers.iter().all(|answer| answer == "True" || answer == "False"));
    assert!(answers.contains(&"True".to_string()) && answers.contains(&"False".to_string()));
    assert_eq!(server.calls(), 300);
    assert!((2..=16).contains(&server.in_flight_max()), "{}", server.in_flight_max());
    assert_eq!(ask_all(&context, 300).unwrap(), answers);
    assert_eq!(server.calls(), 300, "a second run is paid already");
    let reading = context.meter.read();
    assert!(reading.tokens_in > 0 && reading.tokens_out >= 300, "{reading:?}");
}

#[test]
fn a_fault_storm_changes_no_answer_and_pays_nothing_twice() {
    let calm = ModelServer::start(Behaviour::default());
    let expected = ask_all(&context(&calm, json!({})), 400).unwrap();
    let stormy = ModelServer::start(Behaviour { faults: Faults::storm(0.05), ..Behaviour::default() });
    let context = context(&stormy, json!({}));
    assert_eq!(ask_all(&context, 400).unwrap(), expected);
    let reading = context.meter.read();
    assert!((120..280).contains(&reading.retries), "half of the requests fail once: {reading:?}");
    assert_eq!(stormy.calls(), 400 + reading.retries);
    assert_eq!(stormy.paid_twice(), 0);
}

#[test]
fn an_outage_fails_the_node_as_remote_and_keeps_nothing() {
    let server = ModelServer::start(Behaviour { faults: Faults::outage(), ..Behaviour::default() });
    let context = context(&server, json!({"tries": 2}));
    let failure = ask_all(&context, 1000).unwrap_err();
    assert!(matches!(&failure, Failure::Remote(message) if message.contains("500")), "{failure:?}");
    assert!(server.calls() < 200, "{}", server.calls());
    assert_eq!(context.meter.read().tokens_in, 0);
}

#[test]
fn nobody_listening_is_told_in_words() {
    let server = ModelServer::start(Behaviour::default());
    let context = context(&server, json!({"tries": 1}));
    drop(server);
    let failure = ask_all(&context, 1).unwrap_err().to_string();
    assert!(failure.contains("no answer from the server"), "{failure}");
}

#[test]
fn a_hanging_server_runs_into_the_timeout() {
    for setting in ["timeout_ms", "read_timeout_ms"] {
        let faults = Faults { shares: vec![(1.0, house::model_faults::Fault::Hang { ms: 3000 })], times: 1 };
        let server = ModelServer::start(Behaviour { faults, ..Behaviour::default() });
        let started = std::time::Instant::now();
        assert_eq!(ask_all(&context(&server, json!({setting: 100})), 1).unwrap().len(), 1);
        assert!(started.elapsed().as_millis() < 2500, "{setting}");
    }
}

#[test]
fn a_key_is_sent_and_never_shown() {
    // Safe: set before any thread of this test reads it, and no other test names it.
    unsafe { std::env::set_var("DECOCT_TEST_KEY", "sk-secret") };
    let right = ModelServer::start(Behaviour { key: Some("sk-secret".to_string()), ..Behaviour::default() });
    ask_all(&context(&right, json!({"api_key_env": "DECOCT_TEST_KEY"})), 1).unwrap();
    assert_eq!(right.requests()[0].authorization.as_deref(), Some("Bearer sk-secret"));

    let wrong = ModelServer::start(Behaviour { key: Some("another".to_string()), ..Behaviour::default() });
    let failure = ask_all(&context(&wrong, json!({"api_key_env": "DECOCT_TEST_KEY"})), 500).unwrap_err();
    assert!(matches!(&failure, Failure::Recipe(message) if message.contains("Incorrect API key")), "{failure:?}");
    assert!(!failure.to_string().contains("sk-secret"), "{failure}");
    assert!(wrong.calls() <= 32, "stops at once, not after {} calls", wrong.calls());
}

#[test]
fn the_task_of_a_rehearsal_never_leaves() {
    let server = ModelServer::start(Behaviour::default());
    let context = context(&server, json!({"seed": 5}));
    ask_all(&context, 1).unwrap();
    let body = &server.requests()[0].body;
    let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["model", "messages", "seed"]);
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
}

#[test]
fn a_budget_is_never_passed() {
    let server = ModelServer::start(Behaviour::default());
    let prices = json!({"input_usd_per_million": 1000.0, "output_usd_per_million": 1000.0});
    let mut context = context(&server, json!({"max_tokens": 10, "prices": prices}));
    context.budget = std::sync::Arc::new(stages::llm::Budget::new(Some(1.0)));
    assert!(matches!(ask_all(&context, 1000), Err(Failure::Budget(_))));
    let reading = context.meter.read();
    assert!((0.5..=1.0).contains(&reading.cost_usd), "{reading:?}");
}

#[test]
fn a_streamed_answer_is_kept_as_one_that_came_whole() {
    for without_done in [false, true] {
        let server = ModelServer::start(Behaviour { without_done, ..Behaviour::default() });
        let mut streaming = context(&server, json!({"stream": true}));
        let answers = ask_all(&streaming, 100).unwrap();
        assert!(answers.iter().all(|answer| answer == "True" || answer == "False"));
        let reading = streaming.meter.read();
        assert!(reading.retries == 0 && reading.tokens_in > 0 && reading.tokens_out >= 100, "{reading:?}");
        assert_eq!(server.requests()[0].body["stream_options"], json!({"include_usage": true}));
        let whole = context(&server, json!({}));
        streaming.models = whole.models.clone();
        assert_eq!(ask_all(&streaming, 100).unwrap(), answers, "who does not stream reads what was streamed");
        assert_eq!(server.calls(), 100);
    }
}

#[test]
fn a_fault_storm_changes_no_streamed_answer() {
    let calm = ModelServer::start(Behaviour::default());
    let expected = ask_all(&context(&calm, json!({"stream": true})), 300).unwrap();
    let stormy = ModelServer::start(Behaviour { faults: Faults::storm(0.05), ..Behaviour::default() });
    let context = context(&stormy, json!({"stream": true}));
    assert_eq!(ask_all(&context, 300).unwrap(), expected);
    assert!(context.meter.read().retries > 50);
    assert_eq!(stormy.paid_twice(), 0);
}

#[test]
fn a_server_that_refuses_to_tell_a_streams_usage_is_asked_without() {
    let server = ModelServer::start(Behaviour { refuses: Some("stream_options"), ..Behaviour::default() });
    let context = context(&server, json!({"stream": true, "concurrency": 1}));
    assert_eq!(ask_all(&context, 50).unwrap().len(), 50);
    assert_eq!(server.calls(), 51, "it is refused once");
}

#[test]
fn a_format_that_the_server_refuses_stops_the_node_and_names_the_setting() {
    let server = ModelServer::start(Behaviour { refuses: Some("response_format"), ..Behaviour::default() });
    let context = context(&server, json!({}));
    let caller = context.caller("model").unwrap();
    let mut asked = question("Give me JSON");
    asked.format = stages::llm::ReplyFormat::Json;
    let failure = context.runtime.block_on(caller.ask(&asked)).unwrap_err();
    assert!(matches!(&failure, Failure::Recipe(words) if words.contains("unknown field `response_format`")));
    assert!(failure.to_string().contains("`structured: none`"), "{failure}");
    assert_eq!(server.calls(), 1);
}

/// Asks `requests` questions of a server that allows 600 in each `window_ms`; answers how much of the allowed rate was used, and which
/// share of the requests was refused.
fn against(counting: Counting, telling: Telling, window_ms: u64, requests: usize, extra: Value) -> (f64, f64) {
    let allowance = Allowance { requests: 600, window_ms, counting, telling };
    let server = ModelServer::start(Behaviour { allowance: Some(allowance), quiet: true, ..Behaviour::default() });
    let context = context(&server, extra);
    let started = std::time::Instant::now();
    assert_eq!(ask_all(&context, requests).unwrap().len(), requests);
    let allowed = 600.0 * started.elapsed().as_secs_f64() * 1000.0 / window_ms as f64;
    assert_eq!(server.calls(), requests as u64 + server.refused());
    (requests as f64 / allowed, server.refused() as f64 / server.calls() as f64)
}

/// 600 requests in four seconds, or with `tests/run --full` in a minute: for three such times.
#[test]
fn the_rate_that_a_server_allows_is_used_and_not_passed() {
    let window_ms = if std::env::var_os("DECOCT_TESTS_FULL").is_some() { 60_000 } else { 4_000 };
    let declared = json!({"requests_per_minute": 600.0 * 60_000.0 / window_ms as f64, "concurrency": 64});
    let cases = [
        (Telling::Nothing, declared.clone()),
        (Telling::RetryAfter, declared),
        (Telling::Headers, json!({"concurrency": 64})),
        (Telling::RetryAfter, json!({"concurrency": 8})),
    ];
    let countings = [Counting::FixedWindow, Counting::TokenBucket];
    let cases =
        countings.iter().flat_map(|counting| cases.iter().map(move |(telling, extra)| (counting, telling, extra)));
    std::thread::scope(|scope| {
        let runs: Vec<_> = cases
            .map(|(counting, telling, extra)| {
                let run = scope.spawn(move || against(*counting, *telling, window_ms, 1800, extra.clone()));
                (format!("{counting:?}, {telling:?}, {extra}"), run)
            })
            .collect();
        for (case, run) in runs {
            let (used, refused) = run.join().unwrap();
            println!("{case}: {:.1} % of the rate used, {:.2} % refused", used * 100.0, refused * 100.0);
            // A full bucket lets the first 600 through at once and then says no more than when the next one fits: what is in flight at
            // that moment is refused, and one or two more to find the rate. In the short time a request fits each 7 ms, which is what a
            // busy machine is late by. Whoever is told the limit, or when all is whole again, needs no such room.
            let must_be_found = case.starts_with("TokenBucket, RetryAfter, {\"concurrency\"") && window_ms < 60_000;
            let refused_max = if must_be_found { 0.02 } else { 0.01 };
            assert!(used >= 0.95 && refused < refused_max, "{case}: {used} used, {refused} refused");
        }
    });
}

#[test]
fn an_outage_pauses_all_rows_is_told_once_and_costs_no_row_its_tries() {
    let server = ModelServer::start(Behaviour { latency_ms: 3, ..Behaviour::default() });
    let context = context(&server, json!({"tries": 4}));
    let answers = std::thread::scope(|scope| {
        let run = scope.spawn(|| ask_all(&context, 600));
        wait_until(|| server.calls() >= 100);
        server.set_out(true);
        wait_until(|| !context.warnings.lock().unwrap().is_empty());
        let before = server.calls();
        wait_until(|| server.calls() >= before + 40);
        server.set_out(false);
        run.join().unwrap()
    });
    assert_eq!(answers.unwrap().len(), 600);
    let warnings = context.warnings.lock().unwrap();
    assert!(warnings.len() == 2, "{warnings:?}");
    assert!(warnings[0].contains("calls to it pause") && warnings[0].contains("503"), "{warnings:?}");
    assert!(warnings[1].contains("answers again"), "{warnings:?}");
}

#[test]
fn an_outage_without_end_fails_the_node_and_keeps_what_came() {
    let server = ModelServer::start(Behaviour { latency_ms: 3, ..Behaviour::default() });
    let context = context(&server, json!({"outage_ms": 300}));
    let failure = std::thread::scope(|scope| {
        let run = scope.spawn(|| ask_all(&context, 100_000));
        wait_until(|| server.calls() >= 100);
        server.set_out(true);
        run.join().unwrap().unwrap_err()
    });
    assert!(matches!(&failure, Failure::Remote(message) if message.contains("no answer")), "{failure:?}");
    let reading = context.meter.read();
    assert!(server.calls() < 1000 && reading.tokens_in > 0, "{} {reading:?}", server.calls());
}

/// Whether rows wait for their next try or for the server's limits.
#[test]
fn a_paused_node_can_be_stopped() {
    let backing_off = (json!({"pause_ms": 600_000, "pause_max_ms": 600_000}), true);
    let limited = (json!({"requests_per_minute": 0.01}), false);
    for (extra, is_out) in [backing_off, limited] {
        let server = ModelServer::start(Behaviour::default());
        server.set_out(is_out);
        let context = context(&server, extra);
        let started = std::time::Instant::now();
        let outcome = std::thread::scope(|scope| {
            let run = scope.spawn(|| ask_all(&context, 1000));
            wait_until(|| server.calls() >= 1);
            context.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
            run.join().unwrap()
        });
        assert!(matches!(outcome, Err(Failure::Cancelled)), "{outcome:?}");
        assert!(started.elapsed().as_secs() < 60, "it must not wait for a pause of minutes to end");
    }
}

/// Two entries of a recipe, two nodes, one server: they share its limits.
#[test]
fn entries_that_ask_one_server_share_its_limits() {
    let server = ModelServer::start(Behaviour { latency_ms: 5, ..Behaviour::default() });
    let endpoints = Endpoints::default();
    let context = |temperature: f64| {
        let entry = json!({
            "provider": "openai", "model": "m", "base_url": server.base_url(), "concurrency": 6, "temperature": temperature,
        });
        let spec = ModelSpec::read(entry.as_object().unwrap(), &mut Reader::default()).unwrap();
        let mut context = FakeContext::new();
        let model = spec.open_among(&endpoints, support::device(), None, context.runtime.handle()).unwrap();
        context.models.insert("model".to_string(), model);
        context
    };
    let (one, other) = (context(0.1), context(0.2));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| ask_all(&one, 150).unwrap());
        ask_all(&other, 150).unwrap();
        run.join().unwrap();
    });
    assert_eq!(server.calls(), 300);
    assert!((4..=6).contains(&server.in_flight_max()), "{}", server.in_flight_max());
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
