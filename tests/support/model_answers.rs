//! What the loopback server says: it sees messages only, knows each prompt by what it demands, and answers in the demanded shape.

use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How good the model behind the server is. Everything is drawn from the request's hash: equal requests, equal answers.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Share of conclusions that the verifier accepts.
    pub accepts: f64,
    /// Share of questions labelled as fit.
    pub passes: f64,
    /// Share of JSON answers that come with words around them or in a code fence.
    pub chatty: f64,
    /// Share of requests whose first reply is complete but does not parse.
    pub unparsable: f64,
}

impl Default for Habits {
    fn default() -> Habits {
        Habits { accepts: 0.45, passes: 0.85, chatty: 0.2, unparsable: 0.0 }
    }
}

/// The reply to a request body that was answered `answered` times already.
pub fn answer(body: &Value, hash: u64, answered: u32, habits: &Habits) -> String {
    let prompt = body["messages"].as_array().and_then(|messages| messages.last()).map(|last| &last["content"]);
    let prompt = prompt.and_then(Value::as_str).unwrap_or_default();
    if answered == 0 && unit(hash, "unparsable") < habits.unparsable {
        return "Let me think about that for a while longer.".to_string();
    }
    if prompt.contains("\"NaturalReasoning\"") {
        return dressed(json!({"NaturalReasoning": monologue(hash)}), hash, habits);
    }
    if prompt.contains("\"CoT\"") {
        return dressed(chain(hash), hash, habits);
    }
    if prompt.contains("\"label\"") {
        return dressed(json!({"label": label(hash, habits)}), hash, habits);
    }
    if let Some(keys) = demanded_keys(prompt) {
        return dressed(reformatted(&keys, prompt, hash), hash, habits);
    }
    if prompt.contains("True") && prompt.contains("False") {
        return if unit(hash, "verdict") < habits.accepts { "True" } else { "False" }.to_string();
    }
    if let Some(letter) = offered_letter(prompt, hash) {
        return format!("Each option was weighed. The answer is {letter}.");
    }
    format!("In short, finding {} explains the picture best, and the next step follows from it.", hash % 1000)
}

/// Uniform in [0, 1), by the hash and what the draw is for.
pub fn unit(hash: u64, purpose: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    (hash, purpose).hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}

fn chain(hash: u64) -> Value {
    let finding = hash % 1000;
    json!({"CoT": [
        {"action": "Inner Thinking", "title": "What is given", "content": format!("The question turns on finding {finding}.")},
        {"action": "Inner Thinking", "title": "What follows", "content": "Among the explanations one fits better than the rest."},
        {"action": "Final Conclusion", "content": format!("Explanation {finding} is the most likely one.")},
        {"action": "Verification", "content": "Going through the findings again, the conclusion may still be wrong."},
    ]})
}

fn monologue(hash: u64) -> String {
    format!(
        "Okay, what do we have here? Finding {}.\nHmm, wait, that alone is not enough.\nOh, but together it fits.",
        hash % 1000
    )
}

fn label(hash: u64, habits: &Habits) -> &'static str {
    if unit(hash, "label") < habits.passes {
        return "pass";
    }
    ["too_simple", "ambiguous_answer", "not_reformulatable"][hash as usize % 3]
}

/// The keys of the JSON object that a prompt shows as its demanded shape: `"key":` in order, each once.
fn demanded_keys(prompt: &str) -> Option<Vec<String>> {
    if !prompt.contains("JSON") {
        return None;
    }
    let mut keys: Vec<String> = Vec::new();
    for (end, _) in prompt.match_indices("\":") {
        let key = prompt[..end].rsplit('"').next().unwrap_or_default().to_string();
        if !key.is_empty() && !keys.contains(&key) {
            keys.push(key);
        }
    }
    (!keys.is_empty()).then_some(keys)
}

/// Every demanded key with a text: the question for the first, a short answer for the rest.
fn reformatted(keys: &[String], prompt: &str, hash: u64) -> Value {
    let longest = prompt.lines().max_by_key(|line| line.len()).unwrap_or_default();
    let question = format!("{} What explains this best?", longest.chars().take(300).collect::<String>());
    let text = |index: usize| if index == 0 { question.clone() } else { format!("Explanation {}", hash % 1000) };
    Value::Object(keys.iter().enumerate().map(|(index, key)| (key.clone(), Value::from(text(index)))).collect())
}

/// One of the option letters that a multiple-choice prompt offers.
fn offered_letter(prompt: &str, hash: u64) -> Option<char> {
    let offers = |letter: char| {
        let after = |line: &str| line.trim_start().strip_prefix(letter).and_then(|rest| rest.chars().next());
        prompt.lines().filter_map(after).any(|mark| ".:)".contains(mark))
    };
    let letters: Vec<char> = ('A'..='J').filter(|letter| offers(*letter)).collect();
    (!letters.is_empty()).then(|| letters[hash as usize % letters.len()])
}

/// JSON as models send it: mostly bare, sometimes dressed in words and a fence.
fn dressed(value: Value, hash: u64, habits: &Habits) -> String {
    match unit(hash, "dressed") < habits.chatty {
        true => format!("Here is the result:\n```json\n{value:#}\n```\nI hope this helps."),
        false => value.to_string(),
    }
}
