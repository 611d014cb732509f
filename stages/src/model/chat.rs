//! The prompt format of a model: a Jinja template as `tokenizer_config.json` carries it, rendered the way transformers renders it.

use crate::failure::{Failure, Result};
use crate::template;
use minijinja::syntax::SyntaxConfig;
use minijinja::{ErrorKind, Value};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Costs one token a message: what a small model trained from nothing needs.
pub const PLAIN: &str = "{% for message in messages %}{{ message['content'] }}{{ '\\n' }}{% endfor %}";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn user(content: impl Into<String>) -> Message {
        Message { role: "user".into(), content: content.into() }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ChatTemplate {
    source: String,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// `bos_token` and `eos_token` are what the template may refer to by these names.
    pub fn new(source: impl Into<String>, bos_token: impl Into<String>, eos_token: impl Into<String>) -> ChatTemplate {
        ChatTemplate { source: source.into(), bos_token: bos_token.into(), eos_token: eos_token.into() }
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of the token that ends a message or a text; may be empty.
    pub fn eos_token(&self) -> &str {
        &self.eos_token
    }

    /// The text that a model is to go on from.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let mut environment = template::environment();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the default delimiters"));
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.set_unknown_method_callback(python_method);
        let variables = json!({
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "tools": null,
        });
        let broken = |error: minijinja::Error| Failure::recipe(format!("the chat template cannot be read: {error:#}"));
        let parsed = environment.template_from_str(&self.source).map_err(broken)?;
        template::render(&parsed, &variables)
            .map_err(|reason| Failure::recipe(format!("the chat template cannot render these messages: {reason}")))
    }

    /// The prompt for one user message.
    pub fn prompt(&self, question: &str) -> Result<String> {
        self.render(&[Message::user(question)], true)
    }
}

/// Templates call methods of Python strings; these are the ones that published chat templates use.
fn python_method(
    _: &mut minijinja::State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::from(ErrorKind::UnknownMethod);
    let text = value.as_str().ok_or_else(unknown)?;
    let argument = arguments.first().and_then(|argument| argument.as_str());
    Ok(match (method, argument) {
        ("strip", None) => text.trim().into(),
        ("lstrip", None) => text.trim_start().into(),
        ("rstrip", None) => text.trim_end().into(),
        ("strip", Some(characters)) => text.trim_matches(|c| characters.contains(c)).into(),
        ("lstrip", Some(characters)) => text.trim_start_matches(|c| characters.contains(c)).into(),
        ("rstrip", Some(characters)) => text.trim_end_matches(|c| characters.contains(c)).into(),
        ("startswith", Some(prefix)) => text.starts_with(prefix).into(),
        ("endswith", Some(suffix)) => text.ends_with(suffix).into(),
        ("split", Some(separator)) if !separator.is_empty() => {
            text.split(separator).map(String::from).collect::<Vec<_>>().into()
        }
        ("upper", None) => text.to_uppercase().into(),
        ("lower", None) => text.to_lowercase().into(),
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'].strip() + '<|im_end|>' + '\\n' }}{% endfor %}\n{% if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n";

    fn check(source: &str, add_generation_prompt: bool, expected: &str) {
        let messages = [Message::user(" Dose 455mg? ")];
        let text = ChatTemplate::new(source, "<s>", "</s>").render(&messages, add_generation_prompt).unwrap();
        assert_eq!(text, expected);
    }

    #[test]
    fn renders_as_transformers_does() {
        check(PLAIN, true, " Dose 455mg? \n");
        check(CHATML, true, "<|im_start|>user\nDose 455mg?<|im_end|>\n<|im_start|>assistant\n");
        check(CHATML, false, "<|im_start|>user\nDose 455mg?<|im_end|>\n");
        check(
            "{% if not tools %}{{ bos_token }}{{ messages[0].content|trim }}{% endif %}{{ eos_token }}",
            true,
            "<s>Dose 455mg?</s>",
        );
    }

    #[test]
    fn a_templates_own_objection_is_passed_on() {
        let template = ChatTemplate::new("{{ raise_exception('system messages are not allowed') }}", "", "");
        let message = template.prompt("x").unwrap_err().to_string();
        assert!(message.contains("system messages are not allowed"), "{message}");
    }
}
