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
    /// Draws from what a prompt asks about and from nothing else: reworded instructions and other settings get the same answer.
    pub steady: bool,
}

impl Default for Habits {
    fn default() -> Habits {
        Habits { accepts: 0.45, passes: 0.85, chatty: 0.2, unparsable: 0.0, steady: false }
    }
}

/// Begins the message that follows a reply which could not be used.
const CORRECTION: &str = "That reply could not be used: ";

/// The reply to a request body that was answered `answered` times already.
pub fn answer(body: &Value, hash: u64, answered: u32, habits: &Habits) -> String {
    let said = |message: &Value| message["content"].as_str().unwrap_or_default().to_string();
    let mut messages: Vec<String> = body["messages"].as_array().into_iter().flatten().map(said).collect();
    // A model that is told what was wrong answers the question before.
    let is_corrected = messages.last().is_some_and(|last| last.starts_with(CORRECTION));
    messages.truncate(if is_corrected { messages.len() - 2 } else { messages.len() });
    let prompt = messages.last().map_or("", String::as_str);
    // One that takes a seed draws anew; another does not make the same mistake twice.
    let answered = answered + u32::from(is_corrected && body["seed"].is_null());
    let hash = if habits.steady { hash_of(subject(prompt)) } else { hash };
    if answered == 0 && unit(hash, "unparsable") < habits.unparsable {
        return "Let me think about that for a while longer.".to_string();
    }
    if prompt.contains("\"NaturalReasoning\"") {
        return dressed(json!({"NaturalReasoning": monologue(hash)}), hash, habits);
    }
    if prompt.contains("\"CoT\"") {
        return dressed(chain(prompt.contains("holding the new steps only"), hash), hash, habits);
    }
    if prompt.contains("\"label\"") {
        return dressed(json!({"reason": "It was weighed.", "label": label(hash, habits)}), hash, habits);
    }
    if prompt.contains("{\"question\":") {
        return dressed(reformatted(prompt, hash), hash, habits);
    }
    if prompt.contains("The answer is X") {
        return format!("The answer is {}.", offered_letter(prompt, hash).unwrap_or('A'));
    }
    if prompt.contains("True") && prompt.contains("False") {
        return if unit(hash, "verdict") < habits.accepts { "True" } else { "False" }.to_string();
    }
    format!("In short, finding {} explains the picture best, and the next step follows from it.", hash % 1000)
}

/// Uniform in [0, 1), by the hash and what the draw is for.
pub fn unit(hash: u64, purpose: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    (hash, purpose).hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}

/// What a prompt asks about: all from its first heading on.
fn subject(prompt: &str) -> &str {
    let headings = ["\nProblem:\n", "\nQuestion:\n", "\nModel's answer:\n"];
    let first = headings.iter().filter_map(|heading| prompt.find(heading)).min();
    &prompt[first.unwrap_or(0)..]
}

fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A whole chain, or steps that go on from a false conclusion.
fn chain(goes_on: bool, hash: u64) -> Value {
    let finding = hash % 1000;
    let thinking =
        |title: &str, content: String| json!({"action": "Inner Thinking", "title": title, "content": content});
    let doubt = json!({"action": "Verification", "content": "The last conclusion leaves one finding unexplained."});
    let steps = [
        thinking("What is given", format!("The question turns on finding {finding}.")),
        thinking("What follows", "Among the explanations one fits better than the rest.".to_string()),
        json!({"action": "Final Conclusion", "content": format!("Explanation {finding} is the most likely one.")}),
        json!({"action": "Verification", "content": "Going through the findings again, this may still be wrong."}),
    ];
    json!({"CoT": goes_on.then_some(doubt).into_iter().chain(steps).collect::<Vec<_>>()})
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

/// The question without its options, and the marked answer as it stands in the prompt.
fn reformatted(prompt: &str, hash: u64) -> Value {
    let after = |mark: &str| prompt.rsplit_once(mark).map_or("", |(_, rest)| rest).trim();
    let question = after("\nQuestion:\n").split("\n\nOptions:").next().unwrap_or_default();
    let question = question.split("\nMarked answer:").next().unwrap_or_default().trim();
    let ending = format!("Case {}: say what fits best.", hash % 1000);
    json!({"question": format!("{question} {ending}"), "answer": after("\nMarked answer:")})
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
