//! The calls that a node has still to make, with their tokens and what they cost: from the questions that are known to have no reply,
//! and from how many followed such questions before.

use super::measured::{Experience, tokens_of_prompt};
use super::play::Unanswered;
use super::range::{Each, Range};
use stages::kinds::prompt_of_question;
use stages::llm::{ModelSpec, Tally, Usage};
use stages::stage::Outlook;
use std::collections::BTreeMap;

/// What is assumed where nothing was measured.
const BYTES_PER_TOKEN: f64 = 4.0;
const TOKENS_OUT: f64 = 256.0;
const TOKENS_OUT_MAX: f64 = 4096.0;
/// Bytes of a row in a prompt, beside the prompt's own.
const ROW_BYTES: f64 = 1000.0;
const ROW_BYTES_MAX: f64 = 32_000.0;

/// What is known of a node's questions.
#[derive(Default)]
pub struct Asked {
    /// Rows that wait for an answer which is not kept.
    pub pending: f64,
    /// Those of their questions that this node alone asks, each once.
    pub first: Vec<Unanswered>,
    /// Answers that these rows had before, by port and question.
    pub had: BTreeMap<(String, String), f64>,
    /// Rows that are not known yet.
    pub unknown: Range,
    /// Bytes of the node's longest prompt, for where nothing was measured.
    pub prompt_bytes: f64,
    /// Factor on the calls at most, for rows that are asked again.
    pub again: f64,
}

#[derive(Debug, Clone, Default)]
pub struct Calls {
    pub calls: Range,
    pub tokens_in: Range,
    pub tokens_out: Range,
    /// US dollars; `None` where a price is not known.
    pub cost: Option<Range>,
    pub basis: Vec<String>,
}

/// One question to one model, as far as it is forecast.
struct Channel {
    port: String,
    calls: Range,
    tokens_in: Range,
    tokens_out: Range,
}

pub fn forecast<'a>(
    asked: &Asked,
    outlook: impl Fn(f64) -> Outlook,
    experience: Option<&Experience>,
    spec: impl Fn(&str) -> &'a ModelSpec,
    first_port: &str,
) -> Calls {
    let most = asked.again * (outlook(asked.pending).most as f64 + outlook(asked.unknown.high).most as f64);
    let most = (most - asked.had.values().sum::<f64>()).max(asked.first.len() as f64);
    if most == 0.0 {
        return Calls { cost: Some(Range::ZERO), ..Calls::default() };
    }
    let measured = experience.filter(|experience| experience.rows_asked() > 0.0 && experience.rows_in.is_some());
    let (channels, basis) = match measured {
        Some(experience) => by_question(asked, experience, most, &spec),
        None => assumed(asked, &outlook, experience, most, first_port, &spec),
    };
    let total = |of: fn(&Channel) -> Range| channels.iter().map(of).sum::<Range>();
    Calls {
        calls: total(|channel| channel.calls).within(asked.first.len() as f64, most),
        tokens_in: total(|channel| channel.tokens_in),
        tokens_out: total(|channel| channel.tokens_out),
        cost: channels.iter().map(|channel| cost(channel, spec(&channel.port))).sum(),
        basis: vec![basis],
    }
}

/// Each question as often, and its answers as long, as they were before.
fn by_question<'a>(
    asked: &Asked,
    experience: &Experience,
    most: f64,
    spec: &impl Fn(&str) -> &'a ModelSpec,
) -> (Vec<Channel>, String) {
    let answers: f64 = experience.tallies.iter().map(|tally| tally.calls.sum).sum();
    let channel = |tally: &Tally| {
        let first: Vec<f64> = asked.first.iter().filter(|one| is_of(one, tally)).map(|one| one.bytes as f64).collect();
        let mut rest = rest(asked, experience, tally, first.len() as f64, most * tally.calls.sum / answers.max(1.0));
        if spec(&tally.port).label().is_some() {
            // A rehearsal says the same to a reworded prompt: what follows may be kept.
            rest = rest.or_none();
        }
        let calls = Range::exactly(first.len() as f64) + rest;
        let is_same_model = experience.is_same_model(&tally.port);
        let tokens_out_max = spec(&tally.port).tokens_out_max().map_or(f64::INFINITY, |most| most as f64);
        let out = Each::measured(
            tally.tokens_out.mean(),
            tally.tokens_out.variance(),
            tally.tokens_out.count,
            tokens_out_max,
        );
        let first_bytes = first.iter().sum::<f64>() / (first.len() as f64).max(1.0);
        let grown = experience.grown_bytes.get(prompt_of_question(&tally.question)).copied().unwrap_or(0.0);
        let rest_bytes = if first.is_empty() { tally.bytes.mean() + grown } else { first_bytes };
        let later = Each { variance: tally.tokens_in.variance(), ..tokens_of_prompt(tally, rest_bytes) };
        let mut tokens_in =
            Range::exactly(first.len() as f64).sum_of(&tokens_of_prompt(tally, first_bytes)) + rest.sum_of(&later);
        let mut tokens_out = calls.sum_of(&out);
        if !is_same_model {
            // Another model has another tokenizer and other habits: the measure is a guess, only the bounds hold.
            let bytes = first.iter().sum::<f64>() + rest.likely_high * rest_bytes * 2.0;
            tokens_in = Range { likely_low: calls.low, low: calls.low, likely_high: bytes, high: bytes, ..tokens_in };
            let most = if tokens_out_max.is_finite() { tokens_out_max } else { TOKENS_OUT_MAX };
            tokens_out = calls.sum_of(&Each::assumed(0.0, out.mean.min(most), most));
        }
        Channel { port: tally.port.clone(), calls, tokens_in, tokens_out }
    };
    let mut channels: Vec<Channel> = experience.tallies.iter().map(channel).collect();
    let is_unheard = |one: &&Unanswered| !experience.tallies.iter().any(|tally| is_of(one, tally));
    channels.extend(asked.first.iter().filter(is_unheard).map(|one| unheard(one, spec(&one.port))));
    (channels, words(experience, answers))
}

/// A question that was never put before.
fn unheard(one: &Unanswered, spec: &ModelSpec) -> Channel {
    let (calls, bytes) = (Range::exactly(1.0), one.bytes as f64);
    let most = spec.tokens_out_max().map_or(TOKENS_OUT_MAX, |most| most as f64);
    Channel {
        port: one.port.to_string(),
        calls,
        tokens_in: calls.sum_of(&tokens_of_bytes(bytes)),
        tokens_out: calls.sum_of(&Each::assumed(0.0, TOKENS_OUT.min(most), most)),
    }
}

/// Of a prompt, where its model was never heard.
fn tokens_of_bytes(bytes: f64) -> Each {
    Each::assumed(bytes / (4.0 * BYTES_PER_TOKEN), bytes / BYTES_PER_TOKEN, bytes * 2.0)
}

/// Calls beyond the first questions: of the rows that stand at one, and of the rows that are not known yet.
fn rest(asked: &Asked, experience: &Experience, tally: &Tally, first: f64, most: f64) -> Range {
    let per_row = |rows: f64| {
        let mean = tally.calls.sum / rows;
        Each::measured(mean, (tally.calls.squares / rows - mean * mean).max(0.0), rows, f64::INFINITY)
    };
    let had = asked.had.get(&(tally.port.clone(), tally.question.clone())).copied().unwrap_or(0.0);
    let of_pending = Range::exactly(asked.pending).sum_of(&per_row(experience.rows_asked()));
    let of_unknown = asked.unknown.sum_of(&per_row(experience.rows_in.unwrap_or(1.0).max(1.0)));
    let rest = of_pending.map(|calls| (calls - had - first).max(0.0)) + of_unknown;
    let most = (most - first).max(rest.expected);
    match experience.same_settings {
        true => Range { low: 0.0, high: most.max(rest.likely_high), ..rest },
        false => Range::between(0.0, rest.expected, most),
    }
}

fn is_of(unanswered: &Unanswered, tally: &Tally) -> bool {
    *unanswered.port == *tally.port && unanswered.question == tally.question
}

fn words(experience: &Experience, answers: f64) -> String {
    let tokens: f64 = experience.tallies.iter().map(|tally| tally.tokens_out.sum).sum();
    let mut words = format!(
        "{:.2} calls a row that is asked about, {:.0} tokens a reply, {}",
        answers / experience.rows_asked(),
        tokens / answers.max(1.0),
        experience.source
    );
    if !experience.same_settings {
        words += "; under other settings, so only the bounds hold";
    }
    if !experience.other_models.is_empty() {
        words += "; by another model, so tokens are only bounded";
    }
    words
}

/// Where there are no tallies: as many calls as an older program noted, or as the kind assumes.
fn assumed<'a>(
    asked: &Asked,
    outlook: &impl Fn(f64) -> Outlook,
    experience: Option<&Experience>,
    most: f64,
    first_port: &str,
    spec: &impl Fn(&str) -> &'a ModelSpec,
) -> (Vec<Channel>, String) {
    let first = asked.first.len() as f64;
    let port = asked.first.first().map_or_else(|| first_port.to_string(), |one| one.port.to_string());
    let tokens_out_max = spec(&port).tokens_out_max().map_or(TOKENS_OUT_MAX, |most| most as f64);
    let likely = |rows: f64| outlook(rows).likely.map_or(outlook(rows).most as f64, |(likely, _)| likely);
    let noted = experience.filter(|experience| experience.answers > 0.0);
    let calls_a_row = noted.and_then(|noted| Some(noted.answers / noted.rows_in.filter(|rows| *rows > 0.0)?));
    let expected = |rows: f64| calls_a_row.map_or_else(|| likely(rows), |calls| calls * rows);
    let had: f64 = asked.had.values().sum();
    let more = (expected(asked.pending) - had - first).max(0.0);
    let calls = Range::between(first, first + more + expected(asked.unknown.expected), most);
    let tokens = noted.filter(|noted| noted.sent > 0.0).map(|noted| noted.sent_tokens.map(|sum| sum / noted.sent));
    let bytes: f64 = asked.first.iter().map(|one| one.bytes as f64).sum();
    let row_bytes = if first > 0.0 { bytes / first } else { asked.prompt_bytes + ROW_BYTES };
    let bytes_max = row_bytes.max(asked.prompt_bytes + ROW_BYTES_MAX);
    let [mean_in, mean_out] = tokens.unwrap_or([row_bytes / BYTES_PER_TOKEN, TOKENS_OUT.min(tokens_out_max)]);
    let later = Each::assumed(0.0, mean_in, bytes_max);
    let rest = Range::between(0.0, calls.expected - first, most - first);
    let channel = Channel {
        port,
        calls,
        tokens_in: Range::exactly(first).sum_of(&tokens_of_bytes(row_bytes)) + rest.sum_of(&later),
        tokens_out: calls.sum_of(&Each::assumed(0.0, mean_out, tokens_out_max)),
    };
    let because = outlook(1.0).likely.map_or("every call that may be made", |(_, because)| because);
    let basis = match (calls_a_row, tokens) {
        (Some(calls), Some([_, out])) => {
            format!("{calls:.2} calls a row, {out:.0} tokens a reply, {}", noted.map_or("", |n| &n.source))
        }
        (Some(calls), None) => format!(
            "{calls:.2} calls a row, {}; assumed: {mean_out:.0} tokens a reply",
            noted.map_or("", |n| &n.source)
        ),
        _ => format!(
            "assumed: {because}; {BYTES_PER_TOKEN:.0} bytes a token; {mean_out:.0} tokens a reply, at most {tokens_out_max:.0}"
        ),
    };
    (vec![channel], basis)
}

/// Without what a server may take off for prompts it has in its prefix cache.
fn cost(channel: &Channel, spec: &ModelSpec) -> Option<Range> {
    let [price_in, price_out] = prices(spec)?;
    Some(channel.tokens_in.times(price_in) + channel.tokens_out.times(price_out))
}

/// US dollars a token, in and out; models that we run ourselves cost nothing.
fn prices(spec: &ModelSpec) -> Option<[f64; 2]> {
    let Some(model) = spec.unopened() else { return Some([0.0; 2]) };
    let million = 1_000_000;
    let price = |usage: Usage| model.cost_usd(&usage).map(|usd| usd / million as f64);
    let tokens_in = price(Usage { tokens_in: million, ..Usage::default() })?;
    Some([tokens_in, price(Usage { tokens_out: million, ..Usage::default() })?])
}

/// US dollars that these answers would cost; `None` where a price is not known.
pub fn cost_of<'a>(tallies: &[Tally], spec: impl Fn(&str) -> &'a ModelSpec) -> Option<f64> {
    let cost = |tally: &Tally| {
        let [price_in, price_out] = prices(spec(&tally.port))?;
        Some(tally.tokens_in.sum * price_in + tally.tokens_out.sum * price_out)
    };
    tallies.iter().map(cost).sum()
}
