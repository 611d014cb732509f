//! The face for programs: one JSON event a line on stdout, the last is `finished`.

use super::{Event, NodeSummary, Reporter, RunSummary, forecast};
use cache::Moved;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Mutex;

#[derive(Default)]
pub struct JsonReporter {
    /// Events of several threads must not mix within a line.
    writing: Mutex<()>,
}

impl Reporter for JsonReporter {
    fn tell(&self, event: &Event) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut stdout = std::io::stdout().lock();
        // A closed pipe ends the telling, never the run: its work is worth keeping.
        let _ = writeln!(stdout, "{}", to_json(event)).and_then(|()| stdout.flush());
    }
}

fn to_json(event: &Event) -> Value {
    match event {
        Event::Begun { recipe, overrides, nodes } => {
            json!({"event": "begun", "recipe": recipe.display().to_string(), "overrides": overrides, "nodes": nodes})
        }
        Event::Started { node, kind, why } => json!({"event": "started", "node": node, "kind": kind, "why": why}),
        Event::Progressed { node, progress, meter, seconds } => json!({
            "event": "progress", "node": node, "done": progress.done, "total": progress.total, "unit": progress.unit,
            "note": progress.note, "calls": meter.calls, "calls_reused": meter.calls_reused, "tokens_in": meter.tokens_in,
            "tokens_out": meter.tokens_out, "cost_usd": meter.cost_usd, "seconds": seconds,
        }),
        Event::Warned { node, message } => json!({"event": "warning", "node": node, "message": message}),
        Event::Shared { place, report } => json!({
            "event": "shared", "place": place, "fetched": moved(&report.fetched), "sent": moved(&report.sent),
            "unsent": report.unsent.as_ref().map(|unsent| unsent.results), "refused": report.refused.values().sum::<u64>(),
            "damaged": report.damaged,
        }),
        Event::Settled(summary) => with_event("node", summary),
        Event::Remains(remains) => json!({
            "event": "remains", "spent_usd": remains.spent_usd, "budget_usd": remains.budget_usd, "nodes": remains.nodes,
            "rows": remains.rows, "totals": forecast::totals_to_json(remains.totals), "command": remains.command,
        }),
        Event::Ended(summary) => finished(summary),
    }
}

fn moved(moved: &Moved) -> Value {
    json!({"results": moved.manifests, "blobs": moved.blobs, "replies": moved.replies, "bytes": moved.bytes})
}

fn with_event(event: &str, summary: &NodeSummary) -> Value {
    let mut value = json!({"event": event});
    if let (Value::Object(into), Value::Object(fields)) = (&mut value, json!(summary)) {
        into.extend(fields);
    }
    value
}

fn finished(summary: &RunSummary) -> Value {
    json!({"event": "finished", "ok": summary.ok, "seconds": summary.seconds, "nodes": summary.nodes})
}
