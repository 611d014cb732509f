//! A plan with its forecast, as a table for people and as JSON for programs.

use super::table;
use super::words::{dollars, duration, roughly, shortened};
use crate::forecast::range::Range;
use crate::forecast::{Foreseen, Totals};
use serde_json::{Value, json};

/// Columns of a terminal that a table keeps within.
const WIDTH: usize = 100;
/// A reason is cut to no less than this.
const WHY_WIDTH: usize = 16;

/// What is said about one node.
pub struct Line<'a> {
    pub node: &'a str,
    pub kind: &'a str,
    pub state: &'static str,
    pub why: String,
    pub foreseen: &'a Foreseen,
}

const COLUMNS: [&str; 9] = ["", "node", "rows", "calls", "paid", "tokens", "cost", "time", "why"];

/// The table, the sum of it, and where its numbers are from.
pub fn lines(lines: &[Line], totals: &Totals) -> Vec<String> {
    let mut rows: Vec<Vec<String>> = lines.iter().map(Line::cells).collect();
    let mut columns: Vec<String> = COLUMNS.map(str::to_string).to_vec();
    for index in
        (2..COLUMNS.len() - 1).rev().filter(|&index| rows.iter().all(|row| row[index].is_empty())).collect::<Vec<_>>()
    {
        columns.remove(index);
        rows.iter_mut().for_each(|row| _ = row.remove(index));
    }
    cut_reasons(&columns, &mut rows);
    let mut all = table::lines(&columns, &rows);
    let count = |state: &str| lines.iter().filter(|line| line.state == state).count();
    all.push(String::new());
    all.push(format!("{} hit, {} to run, {} waiting for them", count("hit"), count("run"), count("waits")));
    all.extend(totals_in_words(totals));
    all.extend(notes(lines));
    all
}

/// What is to be made, with the interval that holds it nine times in ten, and what is paid.
pub fn totals_in_words(totals: &Totals) -> Vec<String> {
    let mut parts = Vec::new();
    if totals.calls.high > 0.0 {
        parts.push(format!("calls {}", within(&totals.calls, (totals.calls.low, totals.calls.high), roughly)));
        let [tokens_in, tokens_out] = [&totals.tokens_in, &totals.tokens_out].map(|tokens| likely(tokens, roughly));
        parts.push(format!("tokens {tokens_in} in, {tokens_out} out"));
        parts.push(match &totals.cost {
            Some(cost) => format!("cost {}", likely(cost, dollars)),
            None => "cost unknown: `prices:` are missing".to_string(),
        });
    }
    if totals.seconds.high > 0.0 || totals.untimed > 0 {
        let untimed = match totals.untimed {
            0 => String::new(),
            1 => ", beside 1 node that was never timed".to_string(),
            more => format!(", beside {more} nodes that were never timed"),
        };
        parts.push(match totals.seconds.high > 0.0 {
            true => format!("time {} one node after the other{untimed}", likely(&totals.seconds, duration)),
            false => "time unknown: nothing like it was ever timed".to_string(),
        });
    }
    let mut lines = Vec::new();
    if !parts.is_empty() {
        lines.push("to come (in brackets: calls from least to most, the rest nine times in ten):".to_string());
        lines.extend(parts.into_iter().map(|part| format!("  {part}")));
    }
    if totals.paid.calls > 0 {
        let tokens = roughly((totals.paid.tokens_in + totals.paid.tokens_out) as f64);
        lines.push(format!("paid already: calls {}, tokens {tokens}", roughly(totals.paid.calls as f64)));
    }
    lines
}

/// Where the numbers are from; nodes of whom the same is to be said stand together.
fn notes(lines: &[Line]) -> Vec<String> {
    let mut notes: Vec<(&str, Vec<&str>)> = Vec::new();
    for (basis, node) in
        lines.iter().flat_map(|line| line.foreseen.basis.iter().map(|basis| (basis.as_str(), line.node)))
    {
        match notes.iter_mut().find(|(known, _)| *known == basis) {
            Some((_, nodes)) => nodes.push(node),
            None => notes.push((basis, vec![node])),
        }
    }
    let rests = lines.iter().any(|line| !line.foreseen.rests_if.is_empty());
    let rests = rests.then(|| "what waits has nothing to do where it is given what it was given before".to_string());
    let head = (!notes.is_empty()).then(|| "where this is from (~ is an expectation):".to_string());
    let notes = notes.into_iter().map(|(basis, nodes)| format!("  {}: {basis}", nodes.join(", ")));
    rests.into_iter().chain(head).chain(notes).collect()
}

/// Reasons give way so that no line is wider than a terminal; `explain` tells them whole.
fn cut_reasons(columns: &[String], rows: &mut [Vec<String>]) {
    let why = columns.len() - 1;
    let width = |index: usize| {
        rows.iter().map(|row| row[index].chars().count()).chain([columns[index].chars().count()]).max().unwrap_or(0) + 2
    };
    let room = WIDTH.saturating_sub((0..why).map(width).sum()).max(WHY_WIDTH);
    rows.iter_mut().for_each(|row| row[why] = shortened(&row[why], room));
}

impl Line<'_> {
    fn cells(&self) -> Vec<String> {
        let foreseen = self.foreseen;
        let rows = match (&foreseen.rows_in, &foreseen.rows_out) {
            (None, None) => String::new(),
            (None, Some(rows)) => about(rows, roughly),
            (Some(rows), None) => format!("{} →", about(rows, roughly)),
            (Some(rows), Some(out)) => format!("{} → {}", about(rows, roughly), about(out, roughly)),
        };
        let some = |text: String, is_there: bool| if is_there { text } else { String::new() };
        let asks = foreseen.calls.high > 0.0;
        let tokens = foreseen.tokens_in + foreseen.tokens_out;
        let cost = foreseen.cost.map_or("unknown".to_string(), |cost| about(&cost, dollars));
        let time = foreseen.seconds.map_or("?".to_string(), |seconds| about(&seconds, duration));
        vec![
            self.state.to_string(),
            self.node.to_string(),
            rows,
            some(within(&foreseen.calls, (foreseen.calls.low, foreseen.calls.high), roughly), asks),
            some(roughly(foreseen.paid.calls as f64), foreseen.paid.calls > 0),
            some(about(&tokens, roughly), asks),
            some(cost, asks && foreseen.cost.is_none_or(|cost| cost.high > 0.0)),
            some(time, self.state != "hit"),
            self.why.clone(),
        ]
    }

    fn to_json(&self) -> Value {
        let Foreseen {
            rows_in,
            rows_out,
            paid,
            calls,
            tokens_in,
            tokens_out,
            cost,
            seconds,
            basis,
            rests_if,
            rows_to_ask,
            rows_kept_back,
        } = self.foreseen;
        let whole = |range: &Range| range.expected.round() as u64;
        json!({
            "node": self.node, "kind": self.kind, "state": self.state, "why": self.why,
            "rows": rows_out.as_ref().map(whole), "rows_in": rows_in.as_ref().map(bounds),
            "rows_out": rows_out.as_ref().map(bounds),
            "calls": whole(calls), "calls_new": bounds(calls), "calls_paid": paid.calls,
            "tokens_in": whole(tokens_in), "tokens_out": whole(tokens_out),
            "tokens_in_new": interval(tokens_in), "tokens_out_new": interval(tokens_out),
            "tokens_in_paid": paid.tokens_in, "tokens_out_paid": paid.tokens_out,
            "cost_usd": cost.map(|cost| cost.expected), "cost_usd_new": cost.as_ref().map(interval),
            "cost_usd_paid": paid.cost_usd,
            "seconds": seconds.map(|seconds| seconds.expected), "seconds_new": seconds.as_ref().map(interval),
            "rows_to_ask": rows_to_ask, "rows_kept_back": rows_kept_back, "basis": basis, "rests_if": rests_if,
        })
    }
}

/// One object: what each node would do and cost, and all of them together. `low` and `high` of rows and calls are certain, those of
/// tokens, money and seconds hold nine times in ten.
pub fn to_json(overrides: &[String], lines: &[Line], totals: &Totals) -> Value {
    let nodes: Vec<Value> = lines.iter().map(Line::to_json).collect();
    json!({"event": "plan", "overrides": overrides, "nodes": nodes, "totals": totals_to_json(totals)})
}

pub fn totals_to_json(totals: &Totals) -> Value {
    let Totals { paid, calls, tokens_in, tokens_out, cost, seconds, untimed } = totals;
    json!({
        "calls_new": bounds(calls), "calls_paid": paid.calls,
        "tokens_in_new": interval(tokens_in), "tokens_out_new": interval(tokens_out),
        "tokens_in_paid": paid.tokens_in, "tokens_out_paid": paid.tokens_out,
        "cost_usd_new": cost.as_ref().map(interval), "cost_usd_paid": paid.cost_usd,
        "seconds_new": interval(seconds), "nodes_untimed": untimed,
    })
}

fn bounds(range: &Range) -> Value {
    json!({"low": range.low, "expected": range.expected, "high": range.high})
}

fn interval(range: &Range) -> Value {
    json!({"low": range.likely_low, "expected": range.expected, "high": range.likely_high})
}

fn about(range: &Range, words: fn(f64) -> String) -> String {
    if range.is_exact() { words(range.expected) } else { format!("~{}", words(range.expected)) }
}

/// `~58 (50–60)`.
fn within(range: &Range, (low, high): (f64, f64), words: fn(f64) -> String) -> String {
    let (low, high, about) = (words(low), words(high), about(range, words));
    if low == high { about } else { format!("{about} ({low}–{high})") }
}

fn likely(range: &Range, words: fn(f64) -> String) -> String {
    within(range, (range.likely_low, range.likely_high), words)
}
