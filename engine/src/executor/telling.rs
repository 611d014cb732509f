//! What is told about a node: kept with its output as provenance, and summed up for the reporters.

use crate::forecast::measured::{MEASURED, Measured};
use crate::report::{NodeSummary, State};
use crate::spec::Node;
use cache::{ActionKey, Manifest, Provenance, RunNode};
use indexmap::IndexMap;
use serde_json::Value;
use stages::llm::Meter;
use stages::llm::served::Server;
use stages::report::Report;

/// Under which a stage's report is kept in its provenance.
const REPORT: &str = "report";
/// Under which it is kept which models a server named, where it named several.
const SERVED: &str = "served";

/// Name and version of this program.
pub const MADE_BY: &str = concat!("decoct ", env!("CARGO_PKG_VERSION"));

/// Who made an output, and what it took.
pub fn provenance(
    recipe: &str,
    node: &Node,
    report: &Report,
    rows_in: IndexMap<String, u64>,
    meter: &Meter,
    mut labels: Vec<String>,
    seconds: f64,
) -> Provenance {
    labels.sort();
    labels.dedup();
    let reading = meter.read();
    let report = serde_json::to_value(report).expect("a report is plain data");
    let measured = Measured { rows_in, tallies: meter.tallies.read() };
    let mut facts = serde_json::Map::from_iter([(REPORT.to_string(), report)]);
    let served = served(meter);
    if !served.is_empty() {
        facts.insert(SERVED.to_string(), Value::Object(served));
    }
    let measured = serde_json::to_value(measured).expect("counts are plain data");
    facts.insert(MEASURED.to_string(), measured);
    Provenance {
        made_by: MADE_BY.to_string(),
        pipeline: recipe.to_string(),
        node: node.name.clone(),
        kind: node.kind.name.to_string(),
        finished_at: cache::now_seconds(),
        seconds,
        calls: reading.calls,
        calls_reused: reading.calls_reused,
        tokens_in: reading.tokens_in,
        tokens_out: reading.tokens_out,
        cost_usd: reading.cost_usd,
        labels,
        device: String::new(),
        facts,
    }
}

/// By port, how many replies each model gave, where a server named several.
fn served(meter: &Meter) -> serde_json::Map<String, Value> {
    let counts = |(port, servers): (String, Vec<Server>)| {
        (port, servers.into_iter().map(|server| (server.name, Value::from(server.replies))).collect())
    };
    meter.served.changed().into_iter().map(counts).collect()
}

/// Of this run: a node that was found has no calls and took no time.
pub fn summary(
    node: &Node,
    manifest: Option<&Manifest>,
    state: State,
    why: String,
    meter: Option<&Meter>,
    seconds: f64,
) -> NodeSummary {
    let reading = meter.map(Meter::read).unwrap_or_default();
    let output = node.output("").and_then(|first| manifest?.outputs.get(&first.name));
    NodeSummary {
        node: node.name.clone(),
        kind: node.kind.name.to_string(),
        state,
        why,
        rows: output.and_then(cache::Output::rows),
        calls: reading.calls,
        calls_reused: reading.calls_reused,
        tokens_in: reading.tokens_in,
        tokens_out: reading.tokens_out,
        cost_usd: reading.cost_usd,
        seconds,
        output: output.map(|output| output.content().to_string()),
        labels: manifest.map(|manifest| manifest.provenance.labels.clone()).unwrap_or_default(),
        recheck: None,
        report: manifest.map(report_of).unwrap_or_default(),
    }
}

/// What the record of a run says about a finished node.
pub fn run_node(summary: &NodeSummary, key: ActionKey) -> RunNode {
    RunNode {
        node: summary.node.clone(),
        kind: summary.kind.clone(),
        key,
        state: summary.state.word().to_string(),
        calls: summary.calls,
        calls_reused: summary.calls_reused,
        cost_usd: summary.cost_usd,
        seconds: summary.seconds,
        at: cache::now_seconds(),
    }
}

/// What the stage told when it ran; empty where an older program kept it in another form.
pub fn report_of(manifest: &Manifest) -> Report {
    let report: Option<&Value> = manifest.provenance.facts.get(REPORT);
    report.and_then(|report| serde_json::from_value(report.clone()).ok()).unwrap_or_default()
}
