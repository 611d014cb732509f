//! A prompt as several messages: lines such as `<!-- assistant -->` in its text begin them. What stands in no such line is one
//! message of the user, as most prompts are.

use serde_json::Value;

/// Who may speak, in the words of the lines.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// One message of a prompt before it is rendered.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    pub role: &'static str,
    pub text: String,
}

/// One question and answer that is shown to a model before it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    pub user: String,
    pub assistant: String,
}

impl Example {
    /// Reads `{"user": text, "assistant": text}`.
    pub fn of(value: &Value) -> Result<Example, String> {
        let fields = value.as_object().ok_or("an example is a mapping with `user` and `assistant`")?;
        if let Some(unknown) = fields.keys().find(|key| !["user", "assistant"].contains(&key.as_str())) {
            return Err(format!("an example has `user` and `assistant`, not `{unknown}`"));
        }
        let text = |key: &str| -> Result<String, String> {
            let text = fields.get(key).ok_or_else(|| format!("an example needs `{key}`"))?;
            let text = text.as_str().ok_or_else(|| format!("`{key}` of an example is no text"))?;
            match () {
                () if text.trim().is_empty() => Err(format!("`{key}` of an example is empty")),
                () if text.lines().any(|line| role_of(line).is_some()) || text.contains("endraw") => {
                    Err(format!("`{key}` of an example cannot hold a line that begins a message, nor `endraw`"))
                }
                () => Ok(text.to_string()),
            }
        };
        Ok(Example { user: text("user")?, assistant: text("assistant")? })
    }
}

/// The text of a prompt that shows these examples before its last message.
pub fn with_examples(text: &str, examples: &[Example]) -> String {
    if examples.is_empty() {
        return text.to_string();
    }
    let (before, question) = text.split_at(last_message(text));
    let shown = examples
        .iter()
        .map(|Example { user, assistant }| format!("{}{}", raw("user", user), raw("assistant", assistant)));
    let line =
        if question.lines().next().is_some_and(|first| role_of(first).is_some()) { "" } else { "<!-- user -->\n" };
    format!("{before}{}{line}{question}", shown.collect::<String>())
}

/// A message that is sent as it is written.
fn raw(role: &str, text: &str) -> String {
    format!("<!-- {role} -->\n{{% raw %}}{text}{{% endraw %}}\n")
}

/// Where the last message begins.
fn last_message(text: &str) -> usize {
    let mut at = 0;
    let begins = text.split_inclusive('\n').filter_map(|line| {
        at += line.len();
        role_of(line).map(|_| at - line.len())
    });
    begins.last().unwrap_or(0)
}

/// The messages that the text is made of; one where no line begins any.
///
/// # Errors
/// If they do not follow each other as in a conversation.
pub fn sections(text: &str) -> Result<Vec<Section>, String> {
    let mut sections: Vec<Section> = Vec::new();
    let mut before = String::new();
    for line in text.split_inclusive('\n') {
        match (role_of(line), sections.last_mut()) {
            (Some(role), _) => sections.push(Section { role, text: String::new() }),
            (None, Some(section)) => section.text.push_str(line),
            (None, None) => before.push_str(line),
        }
    }
    if sections.is_empty() {
        return Ok(vec![Section { role: "user", text: before }]);
    }
    if !before.trim().is_empty() {
        return Err("text before the first message belongs to none".to_string());
    }
    for section in &mut sections {
        section.text = section.text.trim_matches('\n').to_string();
    }
    check(&sections)?;
    Ok(sections)
}

/// Perhaps a system message, then user and assistant in turn, the user last.
fn check(sections: &[Section]) -> Result<(), String> {
    let turns = if sections[0].role == "system" { &sections[1..] } else { sections };
    let in_turn = turns.iter().zip(["user", "assistant"].iter().cycle()).all(|(section, role)| section.role == *role);
    match in_turn && turns.last().is_some_and(|last| last.role == "user") {
        true => Ok(()),
        false => {
            let roles: Vec<&str> = sections.iter().map(|section| section.role).collect();
            Err(format!("the messages are by `{}`", roles.join("`, `")))
        }
    }
}

/// The role that a line of its own begins.
fn role_of(line: &str) -> Option<&'static str> {
    let word = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim();
    ROLES.into_iter().find(|role| *role == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Vec<(&'static str, String)>, String> {
        Ok(sections(text)?.into_iter().map(|section| (section.role, section.text)).collect())
    }

    #[test]
    fn lines_of_their_own_begin_messages() {
        let said = |messages: &[(&'static str, &str)]| {
            messages.iter().map(|(role, text)| (*role, text.to_string())).collect::<Vec<_>>()
        };
        for (text, expected) in [
            ("Why?\n", said(&[("user", "Why?\n")])),
            ("<!-- a note -->\nWhy?", said(&[("user", "<!-- a note -->\nWhy?")])),
            ("say <!-- user --> so", said(&[("user", "say <!-- user --> so")])),
            ("<!-- user -->\nWhy?\n", said(&[("user", "Why?")])),
            (
                "\n<!--system-->\nBe\nbrief.\n\n<!-- user -->\r\nWhy?",
                said(&[("system", "Be\nbrief."), ("user", "Why?")]),
            ),
            (
                "<!-- user -->\na\n<!-- assistant -->\nb\n<!-- user -->\nc",
                said(&[("user", "a"), ("assistant", "b"), ("user", "c")]),
            ),
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
        for text in [
            "first\n<!-- user -->\nWhy?",
            "<!-- assistant -->\nb\n<!-- user -->\nc",
            "<!-- user -->\na\n<!-- assistant -->\nb",
            "<!-- user -->\na\n<!-- user -->\nb",
            "<!-- user -->\na\n<!-- system -->\nb\n<!-- user -->\nc",
            "<!-- system -->\na",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn examples_stand_before_the_question_and_are_sent_as_they_are() {
        let example = Example::of(&json!({"user": "{{ a }}?", "assistant": "b"})).unwrap();
        let shown = "<!-- user -->\n{% raw %}{{ a }}?{% endraw %}\n<!-- assistant -->\n{% raw %}b{% endraw %}\n";
        let with = |text: &str| with_examples(text, std::slice::from_ref(&example));
        assert_eq!(with("Why?"), format!("{shown}<!-- user -->\nWhy?"));
        assert_eq!(
            with("<!-- system -->\ns\n<!-- user -->\nWhy?"),
            format!("<!-- system -->\ns\n{shown}<!-- user -->\nWhy?")
        );
        assert_eq!(with_examples("Why?", &[]), "Why?");
    }

    #[test]
    fn what_is_no_example_is_told() {
        for (value, words) in [
            (json!("a"), "a mapping"),
            (json!({"user": "a"}), "needs `assistant`"),
            (json!({"user": "a", "asistant": "b"}), "not `asistant`"),
            (json!({"user": 1, "assistant": "b"}), "no text"),
            (json!({"user": " ", "assistant": "b"}), "empty"),
            (json!({"user": "a\n<!-- user -->\nb", "assistant": "b"}), "begins a message"),
            (json!({"user": "a", "assistant": "{%endraw%}"}), "endraw"),
        ] {
            let found = Example::of(&value).unwrap_err();
            assert!(found.contains(words), "{value}: {found}");
        }
    }
}
