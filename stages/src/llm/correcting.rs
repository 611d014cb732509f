//! The question after a reply that could not be used: the conversation goes on with what was wrong.
//!
//! These words, and the reasons of the kinds' parsers, are part of the addresses of such questions: another wording asks them anew.

use super::asking::Unusable;
use super::{Message, Reply};

/// Characters of a bad reply that are sent back, from its beginning and from its end.
const SHOWN_FIRST: usize = 3000;
const SHOWN_LAST: usize = 1000;

/// Begins each correction.
pub const BEGINNING: &str = "That reply could not be used: ";

/// The messages that follow `question` and its bad reply; only the last reply is sent back, however often was asked.
pub fn messages(question: &[Message], reply: &Reply, why: Unusable, reason: &str) -> Vec<Message> {
    let mut messages = question.to_vec();
    let correction = correction(why, reason);
    match (reply.text.trim(), messages.last_mut()) {
        // Servers refuse empty messages, and two of one speaker in a row.
        ("", Some(last)) => last.content = format!("{}\n\n{correction}", last.content),
        (text, _) => messages.extend([Message::assistant(shortened(text)), Message::user(correction)]),
    }
    messages
}

fn correction(why: Unusable, reason: &str) -> String {
    match why {
        Unusable::CutOff => {
            format!(
                "{BEGINNING}it was cut off before its end. Answer again in the form that was asked for, complete but shorter."
            )
        }
        _ => format!("{BEGINNING}{reason}. Answer again, in the form that was asked for and with nothing else."),
    }
}

fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= SHOWN_FIRST + SHOWN_LAST {
        return text.to_string();
    }
    let first: String = text.chars().take(SHOWN_FIRST).collect();
    let last: String = text.chars().skip(count - SHOWN_LAST).collect();
    format!("{first}\n[…]\n{last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str, why: Unusable) -> Vec<Message> {
        messages(
            &[Message::user("Why?")],
            &Reply { text: text.to_string(), ..Reply::default() },
            why,
            "it is no number",
        )
    }

    #[test]
    fn a_bad_reply_goes_back_with_what_is_wrong_with_it() {
        let said = after("seven", Unusable::Unparsable);
        assert_eq!(said[..2], [Message::user("Why?"), Message::assistant("seven")]);
        assert!(said[2].content.starts_with("That reply could not be used: it is no number. "), "{said:?}");
        assert_eq!((said.len(), said[2].role.as_str()), (3, "user"));
        assert!(after("sev", Unusable::CutOff)[2].content.contains("shorter"));
    }

    #[test]
    fn an_empty_reply_is_not_sent_back() {
        let said = after(" \n", Unusable::Unparsable);
        assert_eq!(said.len(), 1);
        assert!(said[0].content.starts_with("Why?\n\nThat reply could not be used: "), "{said:?}");
    }

    #[test]
    fn a_long_reply_is_shortened_between_characters() {
        let long = format!("{}{}", "ä".repeat(50_000), "end");
        let shown = &after(&long, Unusable::Unparsable)[1].content;
        assert!(shown.chars().count() < 4010 && shown.ends_with("end") && shown.contains("[…]"));
        assert_eq!(after(&"ä".repeat(4000), Unusable::Unparsable)[1].content.chars().count(), 4000);
    }
}
