//! The prompt format of a model: a Jinja template as `tokenizer_config.json` carries it, rendered the way transformers renders it.

mod clock;
mod python;

pub use clock::Clock;

use crate::failure::{Failure, Result};
use crate::template;
use minijinja::ErrorKind;
use minijinja::syntax::SyntaxConfig;
use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::borrow::Cow;
use std::sync::LazyLock;

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
        self.render_with(&json!(messages), add_generation_prompt, &Variables::default())
    }

    /// The same for messages with more than text (calls of tools, parts), and for templates that take more than messages.
    pub fn render_with(
        &self,
        messages: &serde_json::Value,
        add_generation_prompt: bool,
        variables: &Variables,
    ) -> Result<String> {
        let environment = environment(variables.clock);
        let mut given = json!({
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "tools": null,
            "documents": null,
        });
        variables.values.iter().for_each(|(name, value)| given[name] = value.clone());
        let broken = |error: minijinja::Error| Failure::recipe(format!("the chat template cannot be read: {error:#}"));
        let source = without_generation_tags(&self.source);
        let parsed = environment.template_from_str(&source).map_err(broken)?;
        template::render(&parsed, &given)
            .map_err(|reason| Failure::recipe(format!("the chat template cannot render these messages: {reason}")))
    }

    /// The prompt for one user message.
    pub fn prompt(&self, question: &str) -> Result<String> {
        self.render(&[Message::user(question)], true)
    }
}

/// What a template may ask for besides messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Variables {
    /// Such as `tools` or `enable_thinking`, by name.
    pub values: serde_json::Map<String, serde_json::Value>,
    pub clock: Clock,
}

/// As transformers sets Jinja up.
fn environment(clock: Clock) -> minijinja::Environment<'static> {
    let mut environment = template::environment();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters"));
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: String| clock.strftime(&format));
    python::teach(&mut environment);
    environment
}

/// `{% generation %}` only marks what a model has said; for the text it is a block that is always taken.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    static TAGS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a valid pattern"));
    TAGS.replace_all(source, |tag: &Captures| {
        let word = if tag.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {word} {}%}}", &tag[1], &tag[3])
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
