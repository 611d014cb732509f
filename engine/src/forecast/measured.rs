//! What earlier work tells about work to come: kept as a fact with each result, and read from results of older programs as far as
//! they say something.

use super::range::Each;
use crate::executor::report_of;
use cache::{Manifest, Preimage};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stages::llm::Tally;

/// Under which it is kept in a result's provenance.
pub const MEASURED: &str = "measured";

/// What a node was given, and what its answers came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// By port, of inputs that are tables.
    pub rows_in: IndexMap<String, u64>,
    pub tallies: Vec<Tally>,
}

/// Earlier work as a measure, and how far it is one.
#[derive(Debug, Clone)]
pub struct Experience {
    /// Rows of the first input that is a table; `None` where an older program did not note it.
    pub rows_in: Option<f64>,
    pub rows_out: IndexMap<String, u64>,
    pub tallies: Vec<Tally>,
    /// Answers in all, and of the calls that were sent: how many, with their tokens.
    pub answers: f64,
    pub sent: f64,
    pub sent_tokens: [f64; 2],
    pub seconds: f64,
    /// Ports whose model is another by now.
    pub other_models: Vec<String>,
    pub same_settings: bool,
    /// By the name of the prompt: bytes that its template has grown by since.
    pub grown_bytes: IndexMap<String, f64>,
    /// Such as `as last time`.
    pub source: String,
}

impl Experience {
    /// Of finished work, for a node whose key would be made from `now`.
    pub fn of(manifest: &Manifest, now: &Preimage, source: String) -> Experience {
        let provenance = &manifest.provenance;
        let measured = provenance.facts.get(MEASURED).and_then(|fact| Measured::deserialize(fact).ok());
        let measured = measured.unwrap_or_default();
        let rows_in = measured.rows_in.values().next().copied().or_else(|| rows_in_report(manifest));
        let outputs = manifest.outputs.iter().filter_map(|(name, output)| Some((name.clone(), output.rows()?)));
        let before = &manifest.preimage;
        Experience {
            rows_in: rows_in.map(|rows| rows as f64),
            rows_out: outputs.collect(),
            tallies: measured.tallies,
            answers: (provenance.calls + provenance.calls_reused) as f64,
            sent: provenance.calls as f64,
            sent_tokens: [provenance.tokens_in as f64, provenance.tokens_out as f64],
            seconds: provenance.seconds,
            other_models: other_models(before, now),
            same_settings: before.get("settings") == now.get("settings"),
            grown_bytes: grown_bytes(before, now),
            source,
        }
    }

    /// Rows that were asked about at all: those of the question that most rows had.
    pub fn rows_asked(&self) -> f64 {
        self.tallies.iter().map(|tally| tally.calls.count).fold(0.0, f64::max)
    }

    pub fn is_same_model(&self, port: &str) -> bool {
        !self.other_models.iter().any(|other| other == port)
    }
}

/// The line of the report that says so; most kinds begin with it.
fn rows_in_report(manifest: &Manifest) -> Option<u64> {
    let report = report_of(manifest);
    let line = report.tables.first()?.rows.iter().find(|line| line.first().is_some_and(|what| what == "input"))?;
    line.get(1)?.parse().ok()
}

fn other_models(before: &Preimage, now: &Preimage) -> Vec<String> {
    let models = |preimage: &Preimage| preimage.get("models").and_then(Value::as_object).cloned().unwrap_or_default();
    let before = models(before);
    models(now).into_iter().filter(|(port, model)| before.get(port) != Some(model)).map(|(port, _)| port).collect()
}

fn grown_bytes(before: &Preimage, now: &Preimage) -> IndexMap<String, f64> {
    let prompts = |preimage: &Preimage| preimage.get("prompts").and_then(Value::as_object).cloned().unwrap_or_default();
    let length = |text: &Value| text.as_str().map_or(0.0, |text| text.len() as f64);
    let before = prompts(before);
    let grown = |(name, text): (String, Value)| Some((length(&text) - length(before.get(&name)?), name));
    prompts(now).into_iter().filter_map(grown).map(|(bytes, name)| (name, bytes)).collect()
}

/// Share of the slope that a line through one point of measure may be wrong by.
const SLOPE_ERROR: f64 = 0.25;
/// Prompts whose lengths differ by less than this share, in their deviation, tell no slope.
const LEAST_SPREAD: f64 = 0.01;

/// Tokens of a prompt of so many bytes, by a straight line through the measured ones (least squares): servers add a constant for the
/// template around each message.
pub fn tokens_of_prompt(tally: &Tally, bytes: f64) -> Each {
    let (count, mean_bytes) = (tally.bytes.count, tally.bytes.mean());
    let (off, spread) = (bytes - mean_bytes, tally.bytes.variance());
    let ratio = tally.tokens_per_byte();
    if spread.sqrt() < LEAST_SPREAD * mean_bytes || count < 3.0 {
        let variance = tally.tokens_in_variance().max(ROUNDING);
        let each =
            Each::measured((tally.tokens_in.mean() + ratio * off).max(0.0), variance, count, bytes.max(1.0) * 2.0);
        return Each { mean_variance: each.mean_variance + (SLOPE_ERROR * ratio * off).powi(2), ..each };
    }
    let covariance = (tally.bytes_by_tokens_in - count * mean_bytes * tally.tokens_in.mean()) / (count - 1.0);
    let slope = covariance / spread;
    let variance = (tally.tokens_in.variance() - slope * covariance).max(ROUNDING);
    let mean = (tally.tokens_in.mean() + slope * off).max(0.0);
    let each = Each::measured(mean, variance, count, bytes.max(1.0) * 2.0);
    Each { mean_variance: variance * (1.0 / count + off * off / (spread * (count - 1.0))), ..each }
}

/// Of tokens, which are whole.
const ROUNDING: f64 = 1.0 / 12.0;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stages::llm::Moments;

    fn tally(points: &[(f64, f64)]) -> Tally {
        let mut tally = Tally::default();
        for &(bytes, tokens) in points {
            tally.bytes.add(bytes);
            tally.tokens_in.add(tokens);
            tally.bytes_by_tokens_in += bytes * tokens;
        }
        tally
    }

    #[test]
    fn a_constant_around_each_prompt_is_seen() {
        let each = tokens_of_prompt(&tally(&[(400.0, 108.0), (800.0, 208.0), (1200.0, 308.0), (600.0, 158.0)]), 2000.0);
        assert!((each.mean - 508.0).abs() < 1e-6, "{each:?}");
    }

    #[test]
    fn prompts_of_one_length_tell_a_ratio_and_no_slope() {
        let like = tokens_of_prompt(&tally(&[(400.0, 100.0); 9]), 400.0);
        let longer = tokens_of_prompt(&tally(&[(400.0, 100.0); 9]), 480.0);
        assert_eq!((like.mean, longer.mean), (100.0, 120.0));
        assert!(longer.mean_variance > like.mean_variance + 20.0, "{longer:?}");
    }

    #[test]
    fn another_model_and_other_settings_are_noticed() {
        let record = |value: Value| -> Preimage { serde_json::from_value(value).unwrap() };
        let before =
            record(json!({"models": {"model": 1, "verifier": 2}, "settings": {"asks": 3}, "prompts": {"cot": "abc"}}));
        let now = record(
            json!({"models": {"model": 1, "verifier": 3}, "settings": {"asks": 2}, "prompts": {"cot": "abcde"}}),
        );
        assert_eq!(other_models(&before, &now), ["verifier"]);
        assert_eq!(grown_bytes(&before, &now)["cot"], 2.0);
    }

    #[test]
    fn what_an_older_program_noted_is_no_mistake() {
        let old: Measured = serde_json::from_value(json!({"rows_in": {"input": 3}, "unheard of": []})).unwrap();
        assert_eq!((old.rows_in["input"], old.tallies.len()), (3, 0));
        assert_eq!(Moments::default().mean(), 0.0);
    }
}
