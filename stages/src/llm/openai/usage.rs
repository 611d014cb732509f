//! What an answer cost, read from wherever servers say it.

use crate::llm::Usage;
use serde_json::Value;

/// Of a body that has no `usage` where OpenAI has it: Groq's last chunk and Moonshot's choices carry their own, Ollama and llama.cpp
/// count beside the answer. 0 for what it does not tell.
pub fn of_body(body: &Value) -> Usage {
    let places = [&body["usage"], &body["x_groq"]["usage"], &body["choices"][0]["usage"]];
    places.into_iter().find(|usage| usage.is_object()).map_or_else(|| of_counters(body), of_usage)
}

pub fn of_usage(usage: &Value) -> Usage {
    let cached = first(usage, &["cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"]);
    let details = ["prompt_tokens_details/cached_tokens", "input_tokens_details/cached_tokens"];
    let tokens_cached = first(usage, &details).filter(|&count| count > 0).or(cached).unwrap_or(0);
    let tokens_in = match count(usage, "prompt_tokens") {
        Some(tokens) => tokens,
        None => {
            // Anthropic counts what it read from its cache, and wrote there, apart.
            let apart = ["cache_read_input_tokens", "cache_creation_input_tokens"];
            let apart: u64 = apart.iter().filter_map(|place| count(usage, place)).sum();
            count(usage, "input_tokens").unwrap_or(0) + apart
        }
    };
    let tokens_out = first(usage, &["completion_tokens", "output_tokens"]).unwrap_or(0);
    Usage { tokens_in, tokens_cached, tokens_out: tokens_out + uncounted_reasoning(usage, tokens_in, tokens_out) }
}

/// Reasoning is part of the completion, except where only the total has it (xAI).
fn uncounted_reasoning(usage: &Value, tokens_in: u64, tokens_out: u64) -> u64 {
    let reasoning = count(usage, "completion_tokens_details/reasoning_tokens").unwrap_or(0);
    let total = count(usage, "total_tokens").unwrap_or(0);
    if total == tokens_in + tokens_out + reasoning { reasoning } else { 0 }
}

/// Counters beside the answer: Ollama's own, and llama.cpp's.
fn of_counters(body: &Value) -> Usage {
    let timed = count(body, "timings/prompt_n").map(|new| new + count(body, "timings/cache_n").unwrap_or(0));
    Usage {
        tokens_in: first(body, &["prompt_eval_count", "tokens_evaluated"]).or(timed).unwrap_or(0),
        tokens_cached: first(body, &["timings/cache_n", "tokens_cached"]).unwrap_or(0),
        tokens_out: first(body, &["eval_count", "tokens_predicted", "timings/predicted_n"]).unwrap_or(0),
    }
}

/// `place`: keys with slashes between them. Read several times a reply, so without the escapes of a JSON pointer.
fn count(value: &Value, place: &str) -> Option<u64> {
    let found = place.split('/').try_fold(value, |value, key| value.get(key))?;
    found.as_u64().or_else(|| found.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64))
}

fn first(value: &Value, places: &[&str]) -> Option<u64> {
    places.iter().find_map(|place| count(value, place))
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
            ("nonsense", json!({"usage": {"prompt_tokens": "ten", "completion_tokens": -1}}), [0, 0, 0]),
        ] {
            let [tokens_in, tokens_cached, tokens_out] = expected;
            assert_eq!(of_body(&body), Usage { tokens_in, tokens_cached, tokens_out }, "{server}");
        }
    }
}
