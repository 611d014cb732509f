//! A server that fails in every way it can: what comes out is what would have come without, and nothing is paid twice.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::{Kitchen, Run};
use support::model_faults::{Fault, Faults};
use support::model_server::{Behaviour, ModelServer};

const ROWS: usize = 20_000;
/// Well above what an answer takes on a busy machine: an answer that came too late would be paid twice.
const TIMEOUT_MS: u64 = 3_000;

const RECIPE: &str = "\
version: 1
models:
  teacher: { provider: openai, model: m, concurrency: 256, timeout_ms: 3000, pause_ms: 5, pause_max_ms: 50,
             base_url: \"http://127.0.0.1:1/v1\" }
nodes:
  exam:   { kind: source, path: exam.jsonl }
  chains: { kind: cot, input: exam, model: teacher }
";

/// Each at 5 %, once for each request that is hit.
fn storm() -> Faults {
    use Fault::*;
    let all = [
        RateLimited,
        RateLimitedFor { ms: 20 },
        ServerError,
        BadGateway,
        Reset,
        TruncatedJson,
        SlowBody { ms: 100 },
        Hang { ms: 2 * TIMEOUT_MS },
        EmptyChoices,
        NullContent,
        NotJson,
    ];
    Faults { shares: all.into_iter().map(|fault| (0.05, fault)).collect(), times: 1 }
}

fn run(server: &ModelServer) -> Run {
    let kitchen = Kitchen::new(RECIPE);
    let line =
        |row| format!("{{\"problem\": \"What explains sign {row} best?\", \"truth\": \"Explanation {row}.\"}}\n");
    kitchen.write("exam.jsonl", &(0..ROWS).map(line).collect::<String>());
    kitchen.run(&[&format!("--set=models.teacher.base_url={}", server.base_url())]).expect_done()
}

#[test]
fn a_fault_storm_changes_no_byte_and_pays_nothing_twice() {
    let server = |faults| ModelServer::start(Behaviour { faults, quiet: true, ..Behaviour::default() });
    let (calm, stormy) = (server(Faults::default()), server(storm()));
    let (expected, found) = (run(&calm), run(&stormy));
    assert_eq!(found.node("chains")["rows"], ROWS, "complete");
    assert_eq!(found.outputs(), expected.outputs(), "in order, to the byte");
    assert_eq!(calm.calls(), ROWS as u64);
    assert_eq!(stormy.calls(), found.total("calls"));
    let failed = stormy.calls() - ROWS as u64;
    assert!((9_000..11_000).contains(&failed), "half of the requests fail once: {failed}");
    assert_eq!(stormy.paid_twice(), 0);
}
