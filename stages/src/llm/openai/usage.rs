//! What an answer cost, read from wherever servers say it.

use crate::llm::Usage;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt::{self, Formatter};

/// All names that counters have, and the objects in which some of them stand.
const NAMES: [&str; 22] = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "cached_tokens",
    "reasoning_tokens",
    "prompt_cache_hit_tokens",
    "input_tokens",
    "output_tokens",
    "input_tokens_details",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "prompt_eval_count",
    "eval_count",
    "tokens_evaluated",
    "tokens_predicted",
    "tokens_cached",
    "timings",
    "prompt_n",
    "cache_n",
    "predicted_n",
];

/// The counters of a `usage` object, each with the name of the object around it (none: the `usage` itself) and its own. Nothing else
/// is kept: there is one in every reply, and a reply is read each time that it is looked up.
#[derive(Debug, Default)]
pub struct Counters {
    all: Vec<([&'static str; 2], u64)>,
    /// Whether it is an object at all.
    is_object: bool,
}

/// Of a body that has no `usage` where OpenAI has it: Groq's last chunk and Moonshot's choices carry their own, Ollama and llama.cpp
/// count beside the answer. 0 for what it does not tell.
pub fn of_body(body: &Value) -> Usage {
    let places = [&body["usage"], &body["x_groq"]["usage"], &body["choices"][0]["usage"]];
    let counters = |value| Counters::deserialize(value).expect("any value can be looked through");
    match places.into_iter().find(|usage| usage.is_object()) {
        Some(usage) => counters(usage).usage().expect("it is an object"),
        None => counters(body).beside_the_answer(),
    }
}

impl Counters {
    /// `None` where there is no such object.
    pub fn usage(&self) -> Option<Usage> {
        let cached = self.first(&["cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"]);
        let details = [["prompt_tokens_details", "cached_tokens"], ["input_tokens_details", "cached_tokens"]];
        let detailed = details.into_iter().find_map(|place| self.within(place));
        let tokens_cached = detailed.filter(|&count| count > 0).or(cached).unwrap_or(0);
        let tokens_in = match self.count("prompt_tokens") {
            Some(tokens) => tokens,
            None => {
                // Anthropic counts what it read from its cache, and wrote there, apart.
                let apart = ["cache_read_input_tokens", "cache_creation_input_tokens"];
                let apart: u64 = apart.iter().filter_map(|name| self.count(name)).sum();
                self.count("input_tokens").unwrap_or(0) + apart
            }
        };
        let tokens_out = self.first(&["completion_tokens", "output_tokens"]).unwrap_or(0);
        let tokens_out = tokens_out + self.uncounted_reasoning(tokens_in, tokens_out);
        self.is_object.then_some(Usage { tokens_in, tokens_cached, tokens_out })
    }

    /// Reasoning is part of the completion, except where only the total has it (xAI).
    fn uncounted_reasoning(&self, tokens_in: u64, tokens_out: u64) -> u64 {
        let reasoning = self.within(["completion_tokens_details", "reasoning_tokens"]).unwrap_or(0);
        let total = self.count("total_tokens").unwrap_or(0);
        if total == tokens_in + tokens_out + reasoning { reasoning } else { 0 }
    }

    /// Ollama's own counters, and llama.cpp's.
    fn beside_the_answer(&self) -> Usage {
        let [new, cached, predicted] =
            ["prompt_n", "cache_n", "predicted_n"].map(|name| self.within(["timings", name]));
        let timed = new.map(|new| new + cached.unwrap_or(0));
        Usage {
            tokens_in: self.first(&["prompt_eval_count", "tokens_evaluated"]).or(timed).unwrap_or(0),
            tokens_cached: cached.or_else(|| self.count("tokens_cached")).unwrap_or(0),
            tokens_out: self.first(&["eval_count", "tokens_predicted"]).or(predicted).unwrap_or(0),
        }
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.within(["", name])
    }

    /// Of several under one name the last counts, as in any JSON object.
    fn within(&self, place: [&str; 2]) -> Option<u64> {
        self.all.iter().rev().find(|(known, _)| *known == place).map(|(_, count)| *count)
    }

    fn first(&self, names: &[&str]) -> Option<u64> {
        names.iter().find_map(|name| self.count(name))
    }
}

impl<'de> Deserialize<'de> for Counters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut counters = Counters::default();
        At { place: ["", ""], counters: &mut counters }.deserialize(deserializer)?;
        Ok(counters)
    }
}

/// Reads the value at a place.
struct At<'a> {
    place: [&'static str; 2],
    counters: &'a mut Counters,
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = ();

    fn expecting(&self, out: &mut Formatter) -> fmt::Result {
        out.write_str("anything")
    }

    fn visit_u64<E>(self, count: u64) -> Result<(), E> {
        self.counters.all.push((self.place, count));
        Ok(())
    }

    fn visit_f64<E>(self, count: f64) -> Result<(), E> {
        if count >= 0.0 {
            self.counters.all.push((self.place, count as u64));
        }
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let [outer, around] = self.place;
        self.counters.is_object |= around.is_empty();
        while let Some(name) = fields.next_key_seed(Known)? {
            match name.filter(|_| outer.is_empty()) {
                Some(name) => fields.next_value_seed(At { place: [around, name], counters: self.counters })?,
                None => _ = fields.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// Reads the name of a field, if it is one of [`NAMES`].
struct Known;

impl<'de> DeserializeSeed<'de> for Known {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Known {
    type Value = Option<&'static str>;

    fn expecting(&self, out: &mut Formatter) -> fmt::Result {
        out.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(NAMES.into_iter().find(|known| *known == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_is_found_wherever_servers_put_it() {
        for (server, body, expected) in [
            (
                "OpenAI",
                json!({"usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14,
                "prompt_tokens_details": {"cached_tokens": 6}, "completion_tokens_details": {"reasoning_tokens": 3}}}),
                [10, 6, 4],
            ),
            (
                "OpenAI, no details",
                json!({"usage": {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": null}}),
                [10, 0, 4],
            ),
            (
                "xAI",
                json!({"usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 21,
                "completion_tokens_details": {"reasoning_tokens": 7}}}),
                [10, 0, 11],
            ),
            (
                "DeepSeek",
                json!({"usage": {"prompt_tokens": 10, "completion_tokens": 4,
                "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2}}),
                [10, 8, 4],
            ),
            (
                "Moonshot",
                json!({"usage": {"prompt_tokens": 10, "completion_tokens": 4, "cached_tokens": 5}}),
                [10, 5, 4],
            ),
            (
                "Moonshot, streamed",
                json!({"choices": [{"usage": {"prompt_tokens": 10, "completion_tokens": 4}}]}),
                [10, 0, 4],
            ),
            ("Groq, streamed", json!({"x_groq": {"usage": {"prompt_tokens": 10, "completion_tokens": 4}}}), [10, 0, 4]),
            (
                "Anthropic",
                json!({"usage": {"input_tokens": 2, "output_tokens": 4,
                "cache_read_input_tokens": 7, "cache_creation_input_tokens": 1}}),
                [10, 7, 4],
            ),
            (
                "as OpenAI names it elsewhere",
                json!({"usage": {"input_tokens": 10, "output_tokens": 4,
                "input_tokens_details": {"cached_tokens": 3}}}),
                [10, 3, 4],
            ),
            ("Ollama", json!({"prompt_eval_count": 10, "eval_count": 4}), [10, 0, 4]),
            ("llama.cpp", json!({"timings": {"cache_n": 9, "prompt_n": 1, "predicted_n": 4}}), [10, 9, 4]),
            ("llama.cpp, older", json!({"tokens_evaluated": 10, "tokens_predicted": 4}), [10, 0, 4]),
            ("nothing", json!({"usage": null}), [0, 0, 0]),
            ("a list", json!({"usage": [7], "eval_count": [4], "prompt_eval_count": 2.0}), [2, 0, 0]),
            ("deeper than any", json!({"usage": {"timings": {"timings": {"prompt_n": 3}}}}), [0, 0, 0]),
            ("nonsense", json!({"usage": {"prompt_tokens": "ten", "completion_tokens": -1}}), [0, 0, 0]),
        ] {
            let [tokens_in, tokens_cached, tokens_out] = expected;
            assert_eq!(of_body(&body), Usage { tokens_in, tokens_cached, tokens_out }, "{server}");
        }
    }
}
