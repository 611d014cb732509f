//! Second copies of requests whose answers take long: what they gain, and what they may never do.

#[path = "../../tests/support/mod.rs"]
mod house;
mod support;

use house::model_faults::{Fault, Faults};
use house::model_server::{Behaviour, ModelServer};
use serde_json::{Value, json};
use stages::failure::Failure;
use stages::llm::Budget;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::{FakeContext, ask_all};

const ROWS: usize = 200;

/// Answers this share of the distinct requests slowly, each for the first so many times that it comes.
fn slow_server(share: f64, ms: u64, times: u32) -> ModelServer {
    let faults = Faults { shares: vec![(share, Fault::SlowBody { ms })], times };
    ModelServer::start(Behaviour { faults, ..Behaviour::default() })
}

fn context(server: &ModelServer, extra: Value) -> FakeContext {
    let mut entry =
        json!({"provider": "openai", "model": "m", "base_url": server.base_url(), "concurrency": 16, "seed": 7});
    entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    support::context_of(&entry)
}

#[test]
fn a_few_slow_answers_hold_nobody_up() {
    let run = |extra: Value| {
        let server = slow_server(0.04, 3000, 1);
        let context = context(&server, extra);
        let started = Instant::now();
        let answers = ask_all(&context, ROWS).unwrap();
        (answers, started.elapsed(), server, context.meter.read())
    };
    let (expected, plain, server, _) = run(json!({}));
    assert!(server.calls() == ROWS as u64 && plain > Duration::from_secs(3), "some answer was slow: {plain:?}");
    let (answers, hedged, server, reading) = run(json!({"hedge": {"after_ms": 100, "at_most": 0.2}}));
    assert_eq!(answers, expected);
    assert!(hedged * 2 < plain, "{hedged:?} with copies, {plain:?} without");
    assert_eq!((reading.calls, reading.retries), (server.calls(), 0), "a copy is a call and no retry");
    let copies = server.calls() - ROWS as u64;
    assert!((1..=ROWS as u64 / 5).contains(&copies), "{copies}");
    let mut seen = std::collections::HashSet::new();
    let twice = server.requests().iter().filter(|request| !seen.insert(request.body.to_string())).count();
    assert_eq!(twice as u64, copies, "a copy is the same request, with the same seed");
}

#[test]
fn what_is_long_is_learnt_and_copies_stay_within_their_share() {
    let calm = ModelServer::start(Behaviour::default());
    let expected = ask_all(&context(&calm, json!({})), 2 * ROWS).unwrap();
    let server = slow_server(0.03, 500, 1);
    let context = context(&server, json!({"hedge": {"after": "p80"}}));
    assert_eq!(ask_all(&context, 2 * ROWS).unwrap(), expected);
    let copies = server.calls() - 2 * ROWS as u64;
    assert!((1..=2 * ROWS as u64 / 20).contains(&copies), "{copies}");
    assert_eq!(ask_all(&context, 2 * ROWS).unwrap(), expected);
    assert_eq!(context.meter.read().calls_reused, 2 * ROWS as u64, "one answer of each was kept");
}

/// Whatever the server bills of what it was sent, answered or left, is no more than the budget.
#[test]
fn the_budget_is_not_passed_by_copies() {
    let server = slow_server(1.0, 150, 1);
    let prices = json!({"input_usd_per_million": 1000.0, "output_usd_per_million": 1000.0});
    let hedge = json!({"after_ms": 20, "at_most": 1});
    let mut context = context(&server, json!({"prices": prices, "max_tokens": 4, "hedge": hedge}));
    let limit_usd = 4.0;
    context.budget = Arc::new(Budget::new(Some(limit_usd)));
    let failure = ask_all(&context, 10 * ROWS).unwrap_err();
    assert!(matches!(failure, Failure::Budget(_)), "{failure:?}");
    // As the server counts: a token is four bytes, and `True` or `False` are two.
    let billed_usd = |request: &house::model_server::Recorded| {
        (request.body["messages"].to_string().len() / 4 + 2) as f64 * 1000.0 / 1e6
    };
    let all_usd: f64 = server.requests().iter().map(billed_usd).sum();
    let reading = context.meter.read();
    assert!(all_usd <= limit_usd, "${all_usd} were sent, {reading:?}");
    assert!(reading.cost_usd <= limit_usd && reading.calls == server.calls(), "{reading:?}");
    assert!(server.paid_twice() > 10, "{} copies", server.paid_twice());
}

#[test]
fn the_word_to_stop_ends_both() {
    let server = slow_server(1.0, 400, u32::MAX);
    let context = context(&server, json!({"concurrency": 8, "hedge": {"after_ms": 20, "at_most": 1}}));
    let outcome = std::thread::scope(|scope| {
        let run = scope.spawn(|| ask_all(&context, 10 * ROWS));
        while server.calls() < 3 || context.meter.read().calls <= 8 {
            std::thread::sleep(Duration::from_millis(2));
        }
        context.cancelled.store(true, Ordering::Relaxed);
        run.join().unwrap()
    });
    assert!(matches!(outcome, Err(Failure::Cancelled)), "{outcome:?}");
    let calls = context.meter.read().calls;
    assert!(calls < 100, "{calls}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((context.meter.read().calls, server.calls()), (calls, calls), "nothing is sent any more");
}
