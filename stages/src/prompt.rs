//! Prompt templates: text in, messages' text out; every variable is known and every required one is used.

use crate::failure::{Failure, Result};
use crate::settings::{Reader, nearest_hint};
use crate::template;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value;
use std::sync::Arc;

/// A parsed template. Cloning is cheap. Its identity is its text.
#[derive(Clone)]
pub struct Prompt {
    text: Arc<str>,
    environment: Arc<Environment<'static>>,
}

impl Prompt {
    /// Parses `text`, checks it against what the kind offers: an unknown variable and a required one that is not used are mistakes.
    pub fn read(text: &str, offered: &[&str], required: &[&str], reader: &mut Reader) -> Option<Prompt> {
        let before = reader.mistakes.len();
        let prompt = match Prompt::parse(text) {
            Ok(prompt) => prompt,
            Err(message) => {
                reader.mistake("broken-prompt", message, None);
                return None;
            }
        };
        let used = prompt.environment.get_template("prompt").expect("it was just added").undeclared_variables(false);
        let mut unknown: Vec<&String> = used.iter().filter(|name| !offered.contains(&name.as_str())).collect();
        unknown.sort();
        for name in unknown {
            let hint = nearest_hint(name, offered.iter().copied());
            reader.mistake("unknown-variable", format!("the prompt uses the unknown variable `{name}`"), hint);
        }
        for name in required.iter().filter(|name| !used.contains(**name)) {
            let hint = Some(format!("write `{{{{ {name} }}}}` where it belongs"));
            reader.mistake("missing-variable", format!("the prompt does not use the variable `{name}`"), hint);
        }
        (reader.mistakes.len() == before).then_some(prompt)
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Renders with `variables` (a mapping); an undefined one is an error, never an empty string.
    ///
    /// # Errors
    /// If a variable is undefined or of the wrong type, or the prompt passes the bounds of [`crate::template`].
    pub fn render(&self, variables: &impl serde::Serialize) -> Result<String> {
        let template = self.environment.get_template("prompt").expect("it was added when parsed");
        template::render(&template, variables)
            .map_err(|reason| Failure::Recipe(format!("cannot render the prompt: {reason}")))
    }

    fn parse(text: &str) -> Result<Prompt, String> {
        let mut environment = template::environment();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let add = environment.add_template_owned("prompt", text.to_string());
        add.map_err(|error| format!("the prompt is not a valid template: {error}"))?;
        Ok(Prompt { text: text.into(), environment: Arc::new(environment) })
    }
}

/// The words of a mapping that templates see, for kinds that offer a whole row.
pub fn variables(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Object(pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<&'static str> {
        let mut reader = Reader::default();
        Prompt::read(text, &["question", "answer"], &["question"], &mut reader);
        reader.mistakes.iter().map(|mistake| mistake.code).collect()
    }

    #[test]
    fn variables_are_checked_before_anything_is_asked() {
        for (text, expected) in [
            ("{{ question }}", vec![]),
            ("{% if answer %}{{ answer }}{% endif %} {{ question }}", vec![]),
            ("{{ qestion }}", vec!["unknown-variable", "missing-variable"]),
            ("{{ answer }}", vec!["missing-variable"]),
            ("{{ question ", vec!["broken-prompt"]),
        ] {
            assert_eq!(mistakes(text), expected, "{text}");
        }
    }

    #[test]
    fn text_is_rendered_as_it_is() {
        let prompt = Prompt::read("Q: {{ question }}", &["question"], &[], &mut Reader::default()).unwrap();
        let rendered = prompt.render(&serde_json::json!({"question": "<a & {{ b }}>"})).unwrap();
        assert_eq!(rendered, "Q: <a & {{ b }}>");
        assert!(prompt.render(&serde_json::json!({})).is_err());
    }
}
