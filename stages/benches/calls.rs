//! How fast model nodes are: whole nodes on the rehearsal, and a whole node over HTTP beside a bare loop on the same server.
//!
//! `cargo bench --workspace --bench calls [-- ROWS]`. Wall time and CPU time of this process, the loopback server's included.

#[path = "../../tests/support/mod.rs"]
mod house;
#[path = "../tests/support/mod.rs"]
mod support;

use futures::StreamExt;
use house::model_server::{Behaviour, ModelServer};
use serde_json::{Value, json};
use stages::draw::Draw;
use stages::llm::endpoint::Lane;
use stages::llm::openai::OpenAiSettings;
use stages::llm::{Endpoints, ModelSpec, Usage};
use stages::registry;
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::settings::{Reader, Setting, Settings};
use stages::stage::{Artifact, Inputs};
use stages::tablets::exam::{ExamSettings, exam_rows};
use std::sync::Arc;
use std::time::Instant;
use support::FakeContext;

const IN_FLIGHT: usize = 64;
/// A prompt and an answer of this size, as a verifier's are.
const PROMPT_BYTES: usize = 1_300;

fn main() {
    let rows = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(20_000);
    limiter();
    rehearsal(rows);
    http(rows, 0);
    http(rows.min(5_000), 50);
}

/// The recipe's model nodes one after another, each over all rows that reach it.
fn rehearsal(count: usize) {
    let settings = ExamSettings::read_fields(&serde_json::Map::new(), &mut Reader::default()).unwrap();
    let mut rows = exam_rows(count, &settings, &Draw::new(7, "bench"));
    println!("rehearsal, {count} exam questions");
    for (kind, extra) in [
        ("reformat", json!({})),
        ("cot", json!({})),
        ("verify", json!({})),
        ("search", json!({})),
        ("rewrite", json!({})),
    ] {
        let context = context(json!({"provider": "rehearsal"}));
        let before = rows.len();
        let (seconds, cpu_seconds, output) = timed(|| run(&context, kind, extra, rows));
        rows = output;
        let calls = context.meter.read().calls;
        tell(kind, before, calls, seconds, cpu_seconds);
    }
}

/// A `verify` node against the loopback server, then a loop that does nothing but send and receive the same requests.
fn http(count: usize, latency_ms: u64) {
    println!("HTTP, {IN_FLIGHT} in flight, {latency_ms} ms latency");
    let behaviour = Behaviour { latency_ms, quiet: true, ..Behaviour::default() };
    let server = ModelServer::start(behaviour);
    let entry = json!({"provider": "openai", "model": "m", "base_url": server.base_url(), "concurrency": IN_FLIGHT});
    let context = context(entry);
    let rows = conclusions(count);
    let (seconds, cpu_seconds, _) = timed(|| run(&context, "verify", json!({}), rows.clone()));
    tell("verify node", count, context.meter.read().calls, seconds, cpu_seconds);
    let (seconds, cpu_seconds, _) = timed(|| run(&context, "verify", json!({}), rows));
    tell("paid rerun", count, 0, seconds, cpu_seconds);
    let (seconds, cpu_seconds, ()) = timed(|| context.runtime.block_on(bare_loop(server.base_url(), count)));
    tell("bare reqwest", count, count as u64, seconds, cpu_seconds);
}

/// What admitting one request and taking its answer back costs, where nothing need be waited for.
fn limiter() {
    const REQUESTS: u32 = 1_000_000;
    println!("limiter, {REQUESTS} requests one after another");
    let declared = json!({"requests_per_minute": 1e12, "tokens_per_minute": 1e15});
    for (what, extra) in [("unlimited", json!({})), ("declared", declared)] {
        let mut fields = json!({"model": "m", "base_url": "http://127.0.0.1:9/v1"});
        fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let settings = OpenAiSettings::read(&fields, &mut Reader::default()).unwrap();
        let lane = Lane::new(Endpoints::default().at(&settings.base_url.0, None), &settings.model, settings.rules());
        let request = support::question(&"x".repeat(PROMPT_BYTES));
        let usage = Usage { tokens_in: 300, tokens_cached: 0, tokens_out: 300 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let pass = || async {
            for _ in 0..REQUESTS {
                lane.pass(&request, &usage).await.unwrap();
            }
        };
        let (seconds, _, ()) = timed(|| runtime.block_on(pass()));
        println!("  {what:<13} {:>7.0} ns/request", seconds * 1e9 / f64::from(REQUESTS));
    }
}

async fn bare_loop(base_url: String, count: usize) {
    let client = reqwest::Client::builder().pool_max_idle_per_host(IN_FLIGHT).tcp_nodelay(true).build().unwrap();
    let url = format!("{base_url}/chat/completions");
    let send = |index: usize| {
        let content = format!("{index:08} True False {}", "x".repeat(PROMPT_BYTES));
        let body = json!({"model": "m", "messages": [{"role": "user", "content": content}]});
        let post = client.post(&url).json(&body);
        tokio::spawn(async move { post.send().await.unwrap().bytes().await.unwrap().len() })
    };
    let answers = futures::stream::iter((0..count).map(send)).buffer_unordered(IN_FLIGHT);
    assert_eq!(answers.filter(|bytes| std::future::ready(*bytes.as_ref().unwrap() > 0)).count().await, count);
}

fn conclusions(count: usize) -> Rows {
    let text = |name: &str| Column { name: name.to_string(), column_type: ColumnType::Text };
    let mut rows = Rows::new(vec![text("conclusion"), text("truth")]);
    rows.rows.extend((0..count).map(|index| Row {
        id: format!("{index:016x}"),
        cells: vec![json!(format!("{index} {}", "x".repeat(PROMPT_BYTES / 2))), json!("the same")],
    }));
    rows
}

fn context(entry: Value) -> FakeContext {
    let mut context = FakeContext::new();
    let spec = ModelSpec::read(entry.as_object().unwrap(), &mut Reader::default()).unwrap();
    let model = spec.open(support::device(), None, context.runtime.handle()).unwrap();
    for port in ["model", "verifier"] {
        context.models.insert(port.to_string(), Arc::clone(&model));
    }
    context
}

fn run(context: &FakeContext, kind: &str, extra: Value, rows: Rows) -> Rows {
    let mut fields = json!({"input": "before", "model": "m"});
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let mut reader = Reader::default();
    let stage = (registry::kind(kind).unwrap().read)(fields.as_object().unwrap(), &mut reader);
    let stage = stage.unwrap_or_else(|| panic!("{:?}", reader.mistakes));
    let mut outputs = stage.run(Inputs([("input".to_string(), Artifact::Rows(rows))].into()), context).unwrap();
    match outputs.artifacts.shift_remove("") {
        Some(Artifact::Rows(rows)) => rows,
        other => panic!("{kind} gave {other:?}"),
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, f64, T) {
    let (start, cpu_start) = (Instant::now(), cpu_seconds());
    let result = work();
    (start.elapsed().as_secs_f64(), cpu_seconds() - cpu_start, result)
}

/// User and system time of this process so far, in the kernel's ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

fn tell(what: &str, rows: usize, calls: u64, seconds: f64, cpu_seconds: f64) {
    let rate = rows as f64 / seconds;
    let cpu_us = cpu_seconds * 1e6 / rows as f64;
    println!(
        "  {what:<13} {rows:>7} rows {calls:>7} calls {seconds:>7.2} s {rate:>9.0} rows/s {cpu_us:>7.1} CPU µs/row"
    );
}
