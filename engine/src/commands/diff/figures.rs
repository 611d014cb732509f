//! Two generations of a node in numbers.

use crate::report::words::{dollars, duration, thousands};
use cache::{Manifest, Output};
use serde_json::{Value, json};

/// What a generation came to. Figures of the work are those of when it was done.
pub struct Figures {
    pub rows: Option<u64>,
    /// Share of the rows that went on, where the node drops any.
    pub accepted: Option<f64>,
    pub calls: u64,
    pub calls_reused: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub cost_usd: f64,
    pub seconds: f64,
}

impl Figures {
    /// Of `output`, and of the work behind it. A node without such an output, one that parts its rows, has the rows of all parts.
    pub fn of(manifest: &Manifest, output: &str) -> Figures {
        let rows = |name: &str| manifest.outputs.get(name).and_then(Output::rows);
        let share = |(kept, dropped): (u64, u64)| kept as f64 / (kept + dropped).max(1) as f64;
        let made = &manifest.provenance;
        Figures {
            rows: rows(output).or_else(|| manifest.outputs.values().map(Output::rows).sum()),
            accepted: rows("").zip(rows("dropped")).map(share),
            calls: made.calls,
            calls_reused: made.calls_reused,
            tokens_in: made.tokens_in,
            tokens_out: made.tokens_out,
            cost_usd: made.cost_usd,
            seconds: made.seconds,
        }
    }

    pub fn to_json(&self) -> Value {
        json!({"rows": self.rows, "accepted": self.accepted, "calls": self.calls, "calls_reused": self.calls_reused,
            "tokens_in": self.tokens_in, "tokens_out": self.tokens_out, "cost_usd": self.cost_usd,
            "seconds": self.seconds})
    }

    fn cells(&self) -> [(&'static str, String); 8] {
        let counted = |number: u64| if number == 0 { String::new() } else { thousands(number) };
        [
            ("rows", self.rows.map(thousands).unwrap_or_default()),
            ("accepted", self.accepted.map(|share| format!("{:.1} %", 100.0 * share)).unwrap_or_default()),
            ("calls", counted(self.calls)),
            ("replies found", counted(self.calls_reused)),
            ("tokens in", counted(self.tokens_in)),
            ("tokens out", counted(self.tokens_out)),
            ("cost", if self.cost_usd > 0.0 { dollars(self.cost_usd) } else { String::new() }),
            ("took", duration(self.seconds)),
        ]
    }
}

/// Rows of a table: what, old, new; without those that neither has.
pub fn table_rows(old: &Figures, new: &Figures) -> Vec<Vec<String>> {
    let pairs = old.cells().into_iter().zip(new.cells());
    let pairs = pairs.filter(|((_, old), (_, new))| !(old.is_empty() && new.is_empty()));
    pairs.map(|((what, old), (_, new))| vec![what.to_string(), or_none(old), or_none(new)]).collect()
}

/// Where only one of two has a figure, the other has none of it.
fn or_none(cell: String) -> String {
    if cell.is_empty() { "0".to_string() } else { cell }
}
