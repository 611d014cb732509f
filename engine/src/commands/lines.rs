//! JSONL in and out: what commands read from a file or stdin and write to a file or stdout.

use crate::failure::{Exit, Failure, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use stages::model::chat::Message;
use stages::model::complete::Question;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// One line of the input, and where it stands.
pub struct Line<T> {
    pub place: String,
    pub read: T,
}

impl<T> Line<T> {
    /// A mistake in this line.
    pub fn wrong(&self, reason: impl std::fmt::Display) -> Failure {
        wrong(&self.place, reason)
    }
}

fn wrong(place: &str, reason: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("{place}: {reason}"), None)
}

/// All of them, before a model is opened for nothing. Empty lines do not count.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<Line<T>>> {
    let text = read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(index, line): (usize, &str)| {
        let place = format!("{}:{}", path.display(), index + 1);
        // The library counts lines within this one only.
        let reason = |error: serde_json::Error| {
            let reason = error.to_string();
            wrong(&place, reason.replace(" at line 1 column", " at column"))
        };
        serde_json::from_str(line).map_err(reason).map(|read| Line { place: place.clone(), read })
    };
    lines.map(read).collect()
}

fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display()), None))?;
    Ok(text)
}

/// What a model is to go on from.
pub fn question(prompt: Option<String>, messages: Option<Vec<Message>>, raw: bool) -> Result<Question, &'static str> {
    match (prompt, messages) {
        (Some(text), None) if raw => Ok(Question::Raw(text)),
        (Some(text), None) => Ok(Question::User(text)),
        (None, Some(_)) if raw => Err("`--raw` takes a `prompt`, not `messages`"),
        (None, Some(messages)) => Ok(Question::Messages(messages)),
        _ => Err("expected either `prompt` or `messages`"),
    }
}

pub fn open_output(path: Option<&Path>) -> Result<Box<dyn Write>> {
    let Some(path) = path else { return Ok(Box::new(std::io::stdout().lock())) };
    let file = std::fs::File::create(path).map_err(|error| Failure::io("write", path, &error))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Writes objects, a line each, for whoever waits for them.
pub fn write(output: &mut dyn Write, values: impl IntoIterator<Item = Value>) -> Result<()> {
    let write = || {
        for value in values {
            writeln!(output, "{value}")?;
        }
        output.flush()
    };
    write().map_err(|error| Failure::new(Exit::NodeFailed, format!("cannot write the texts: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_prompt_or_messages() {
        let (prompt, messages) = (|| Some("a".to_string()), || Some(vec![Message::user("a")]));
        let check = |read: Result<Question, &str>, expected: Result<Question, &str>| match (read, expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected),
            (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{reason}"),
            (read, _) => panic!("{read:?}"),
        };
        check(question(prompt(), None, true), Ok(Question::Raw("a".into())));
        check(question(prompt(), None, false), Ok(Question::User("a".into())));
        check(question(None, messages(), false), Ok(Question::Messages(vec![Message::user("a")])));
        check(question(None, messages(), true), Err("`--raw`"));
        check(question(None, None, false), Err("expected either"));
        check(question(prompt(), messages(), false), Err("expected either"));
    }
}
