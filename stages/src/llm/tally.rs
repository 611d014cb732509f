//! What the answers to each question of a node came to, counted where they pass and read by the plans of later runs.

use super::{Request, Usage};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

/// Sums of a figure, from which its mean and its variance follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    pub count: f64,
    pub sum: f64,
    pub squares: f64,
}

impl Moments {
    pub fn add(&mut self, value: f64) {
        self.count += 1.0;
        self.sum += value;
        self.squares += value * value;
    }

    /// 0 where nothing was counted.
    pub fn mean(&self) -> f64 {
        if self.count > 0.0 { self.sum / self.count } else { 0.0 }
    }

    /// Of the figures themselves, with `n − 1`; 0 for fewer than two.
    pub fn variance(&self) -> f64 {
        if self.count < 2.0 {
            return 0.0;
        }
        ((self.squares - self.sum * self.sum / self.count) / (self.count - 1.0)).max(0.0)
    }
}

/// All answers to one question of one node, kept ones included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// The model port and the question, as [`super::Task::name`] calls it.
    pub port: String,
    pub question: String,
    /// Answers a row, over the rows that were asked about.
    pub calls: Moments,
    /// Bytes of all messages of a request.
    pub bytes: Moments,
    pub tokens_in: Moments,
    pub tokens_out: Moments,
    /// Σ bytes · tokens in: how far one tells the other.
    pub bytes_by_tokens_in: f64,
}

impl Tally {
    /// 0 where the server told no usage.
    pub fn tokens_per_byte(&self) -> f64 {
        if self.bytes.sum > 0.0 { self.tokens_in.sum / self.bytes.sum } else { 0.0 }
    }

    /// Of the tokens of a prompt around what its bytes tell.
    pub fn tokens_in_variance(&self) -> f64 {
        let (ratio, count) = (self.tokens_per_byte(), self.bytes.count);
        let squares =
            self.tokens_in.squares - 2.0 * ratio * self.bytes_by_tokens_in + ratio * ratio * self.bytes.squares;
        if count < 2.0 { 0.0 } else { (squares / (count - 1.0)).max(0.0) }
    }
}

/// Counts answers from many threads.
#[derive(Debug, Default)]
pub struct Tallies(Mutex<BTreeMap<(Arc<str>, &'static str), Counting>>);

#[derive(Debug, Default)]
struct Counting {
    /// By the hash of the row's id.
    calls_by_row: HashMap<u64, u32>,
    /// Without its names and `calls`, which are told when it is read.
    tally: Tally,
}

impl Tallies {
    pub fn note(&self, port: &Arc<str>, request: &Request, usage: &Usage) {
        let question = request.task.as_ref().map_or("", |task| task.name);
        let (bytes, tokens_in) = (request.bytes() as f64, usage.tokens_in as f64);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counting = all.entry((port.clone(), question)).or_default();
        *counting.calls_by_row.entry(row_hash(request)).or_default() += 1;
        counting.tally.bytes.add(bytes);
        counting.tally.tokens_in.add(tokens_in);
        counting.tally.tokens_out.add(usage.tokens_out as f64);
        counting.tally.bytes_by_tokens_in += bytes * tokens_in;
    }

    /// One a port and question, in the order of their names.
    pub fn read(&self) -> Vec<Tally> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |((port, question), counting): (&(Arc<str>, &'static str), &Counting)| {
            let mut calls = Moments::default();
            counting.calls_by_row.values().for_each(|&count| calls.add(count.into()));
            Tally { port: port.to_string(), question: question.to_string(), calls, ..counting.tally.clone() }
        };
        all.iter().map(read).collect()
    }

    /// Answers that the row of a request has had: port, question and how many.
    pub fn of_row(&self, request: &Request) -> Vec<(Arc<str>, &'static str, u64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = row_hash(request);
        let had = all.iter().filter_map(|((port, question), counting)| {
            Some((port.clone(), *question, u64::from(*counting.calls_by_row.get(&row)?)))
        });
        had.collect()
    }
}

fn row_hash(request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.task.as_ref().map(|task| &task.row_id).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{ReplyFormat, Task};
    use serde_json::Map;

    fn note(tallies: &Tallies, question: &'static str, row: &str, bytes: usize, tokens: [u64; 2]) {
        let task = Task { name: question, row_id: row.to_string(), row: Map::new() };
        let request = Request::new("x".repeat(bytes), ReplyFormat::Text, task);
        tallies.note(
            &"model".into(),
            &request,
            &Usage { tokens_in: tokens[0], tokens_out: tokens[1], tokens_cached: 0 },
        );
    }

    #[test]
    fn answers_are_counted_by_question_and_row() {
        let tallies = Tallies::default();
        for (question, row, bytes, tokens) in [
            ("search", "a", 40, [10, 5]),
            ("search", "a", 80, [20, 7]),
            ("search", "b", 40, [10, 9]),
            ("chain", "a", 8, [2, 1]),
        ] {
            note(&tallies, question, row, bytes, tokens);
        }
        let [chain, search] = tallies.read().try_into().unwrap();
        assert_eq!((chain.question.as_str(), chain.calls.count), ("chain", 1.0));
        assert_eq!((search.calls.count, search.calls.sum, search.calls.mean()), (2.0, 3.0, 1.5));
        assert_eq!((search.tokens_out.mean(), search.tokens_out.variance()), (7.0, 4.0));
        assert_eq!(search.tokens_per_byte(), 0.25);
        assert!(search.tokens_in_variance() < 1e-9, "the bytes tell the tokens exactly");
        let asked =
            Request::new(String::new(), ReplyFormat::Text, Task { name: "x", row_id: "a".into(), row: Map::new() });
        assert_eq!(tallies.of_row(&asked), [("model".into(), "chain", 1), ("model".into(), "search", 2)]);
        let stored: Tally = serde_json::from_value(serde_json::to_value(&search).unwrap()).unwrap();
        assert_eq!(stored, search);
    }
}
