//! Whether a short reply to an exam question holds the right answer: the phrase, a lone letter, an option's text, the nearest text.

use super::text::fold as folded;
use serde_json::{Map, Value};

/// Below this the most similar option is no answer at all.
const SIMILARITY_MIN: f64 = 0.6;

/// Whether `reply` answers the row's question rightly. Rows need `answer`, and with `options` also `answer_idx` or an option equal to it.
pub fn is_solved(reply: &str, row: &Map<String, Value>) -> bool {
    let text = |column: &str| row.get(column).and_then(Value::as_str).unwrap_or_default();
    let options = options(row);
    if options.is_empty() {
        let (said, truth) = (folded(after_phrase(reply).unwrap_or(reply)), folded(text("answer")));
        return !truth.is_empty() && said == truth;
    }
    let chosen = chosen(reply, &options);
    chosen.is_some_and(|(letter, option)| letter == text("answer_idx") || folded(option) == folded(text("answer")))
}

type Choice<'a> = (&'a str, &'a str);

fn options(row: &Map<String, Value>) -> Vec<Choice<'_>> {
    let options = row.get("options").and_then(Value::as_object).into_iter().flatten();
    options.filter_map(|(letter, text)| Some((letter.as_str(), text.as_str()?))).collect()
}

/// The option that the reply names, by the first rule that finds one.
fn chosen<'a>(reply: &str, options: &[Choice<'a>]) -> Option<Choice<'a>> {
    let said = after_phrase(reply);
    said.and_then(|said| leading(said, options))
        .or_else(|| lone_letter(reply, options))
        .or_else(|| mentioned(reply, options))
        .or_else(|| nearest(said.unwrap_or(reply), options))
}

/// What follows the last `answer is`.
fn after_phrase(reply: &str) -> Option<&str> {
    const PHRASE: &str = "answer is";
    let lower = reply.to_ascii_lowercase();
    lower.rfind(PHRASE).map(|start| reply[start + PHRASE.len()..].trim_start_matches([' ', ':', '*', '(']))
}

/// A letter on its own, or an option's whole text, at the start.
fn leading<'a>(said: &str, options: &[Choice<'a>]) -> Option<Choice<'a>> {
    let word = said.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let by_text = options.iter().find(|(_, text)| folded(said) == folded(text));
    let alone = said.trim_end_matches(|c: char| !c.is_alphanumeric()) == word
        || said[word.len()..].starts_with(['.', ')', ':']);
    by_text.or_else(|| options.iter().find(|(letter, _)| alone && *letter == word)).copied()
}

/// The only option letter that stands as a word of its own.
fn lone_letter<'a>(reply: &str, options: &[Choice<'a>]) -> Option<Choice<'a>> {
    let words: Vec<&str> = reply.split(|c: char| !c.is_alphanumeric()).collect();
    let mut found = options.iter().filter(|(letter, _)| words.contains(letter));
    found.next().filter(|_| found.next().is_none()).copied()
}

/// The longest option whose text occurs, unless another occurs elsewhere.
fn mentioned<'a>(reply: &str, options: &[Choice<'a>]) -> Option<Choice<'a>> {
    let reply = format!(" {} ", folded(reply));
    let occurs = |text: &str| !folded(text).is_empty() && reply.contains(&format!(" {} ", folded(text)));
    let found: Vec<&Choice> = options.iter().filter(|(_, text)| occurs(text)).collect();
    let longest = found.iter().max_by_key(|(_, text)| text.len())?;
    found.iter().all(|(_, text)| folded(longest.1).contains(&folded(text))).then_some(**longest)
}

fn nearest<'a>(said: &str, options: &[Choice<'a>]) -> Option<Choice<'a>> {
    let said = folded(said);
    let similar = options.iter().map(|choice| (strsim::normalized_levenshtein(&said, &folded(choice.1)), choice));
    let best = similar.max_by(|left, right| left.0.total_cmp(&right.0))?;
    (best.0 >= SIMILARITY_MIN).then_some(*best.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_is_found_under_each_rule() {
        let row = json!({"answer": "Aortic stenosis", "answer_idx": "C",
            "options": {"A": "Mitral stenosis", "B": "Tetralogy", "C": "Aortic stenosis", "D": "Stenosis"}});
        for (reply, expected) in [
            ("The answer is C.", true),
            ("The answer is A, no, the answer is (C)", true),
            ("The answer is aortic stenosis.", true),
            ("C. Aortic stenosis", true),
            ("It must be aortic stenosis, I think", true),
            ("Aortic stenosi", true),
            ("The answer is B.", false),
            ("Mitral stenosis", false),
            ("Mitral stenosis or aortic stenosis", false),
            ("I am not sure about this one.", false),
            ("", false),
        ] {
            assert_eq!(is_solved(reply, row.as_object().unwrap()), expected, "{reply}");
        }
    }

    #[test]
    fn without_options_the_text_must_be_the_answer() {
        let row = json!({"answer": "1/2/1"});
        for (reply, expected) in [("The answer is 1/2/1.", true), ("1/2/1", true), ("1/2/2", false), ("", false)] {
            assert_eq!(is_solved(reply, row.as_object().unwrap()), expected, "{reply}");
        }
    }
}
