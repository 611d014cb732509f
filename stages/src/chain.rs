//! A chain of thought as typed steps: read strictly from a reply, continued by a search, rendered for a rewrite.

use crate::tolerant_json;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    #[serde(rename = "Inner Thinking")]
    InnerThinking,
    #[serde(rename = "Final Conclusion")]
    FinalConclusion,
    Verification,
}

impl Action {
    pub fn word(self) -> &'static str {
        match self {
            Action::InnerThinking => "Inner Thinking",
            Action::FinalConclusion => "Final Conclusion",
            Action::Verification => "Verification",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    /// Only thinking steps carry one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    pub content: String,
}

impl Step {
    pub fn thinking(title: impl Into<String>, content: impl Into<String>) -> Step {
        Step { action: Action::InnerThinking, title: Some(title.into()), content: content.into() }
    }

    pub fn conclusion(content: impl Into<String>) -> Step {
        Step { action: Action::FinalConclusion, title: None, content: content.into() }
    }

    pub fn verification(content: impl Into<String>) -> Step {
        Step { action: Action::Verification, title: None, content: content.into() }
    }
}

/// At least three steps, the last three of which are a thinking step, a conclusion and a verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Chain(Vec<Step>);

/// What a model is asked to write.
#[derive(Deserialize)]
struct Written {
    #[serde(rename = "CoT")]
    steps: Vec<Step>,
}

impl Chain {
    pub fn new(steps: Vec<Step>) -> Result<Chain, String> {
        let actions: Vec<Action> = steps.iter().map(|step| step.action).collect();
        if !actions.ends_with(&[Action::InnerThinking, Action::FinalConclusion, Action::Verification]) {
            let last: Vec<&str> = actions.iter().rev().take(3).rev().map(|action| action.word()).collect();
            return Err(format!(
                "the last three actions should be `Inner Thinking`, `Final Conclusion`, `Verification` but are `{}`",
                last.join("`, `")
            ));
        }
        Ok(Chain(steps))
    }

    /// Reads a reply, whatever stands around its JSON object.
    pub fn parse(text: &str) -> Result<Chain, String> {
        let written: Written = tolerant_json::read(text)?;
        Chain::new(written.steps)
    }

    /// Reads the column `chain`.
    pub fn from_value(value: &Value) -> Result<Chain, String> {
        let steps = Vec::<Step>::deserialize(value).map_err(|error| format!("not a chain of steps: {error}"))?;
        Chain::new(steps)
    }

    pub fn to_value(&self) -> Value {
        json!(self.0)
    }

    /// The reply that [`Chain::parse`] reads.
    pub fn to_reply(steps: &[Step]) -> String {
        json!({"CoT": steps}).to_string()
    }

    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// What the last conclusion says.
    pub fn conclusion(&self) -> &str {
        &self.0[self.0.len() - 2].content
    }

    /// The chain as a search goes on: the new steps take the place of the trailing verification.
    pub fn continued(mut self, with: Chain) -> Chain {
        self.0.pop();
        self.0.extend(with.0);
        self
    }

    /// Titled sections, as prompts show a chain.
    pub fn render(&self) -> String {
        let sections = self.0.iter().map(|step| {
            let title = step.title.as_deref().unwrap_or(step.action.word());
            format!("### {title}\n{}", step.content)
        });
        sections.collect::<Vec<_>>().join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"Sure: {"CoT": [{"action": "Inner Thinking", "title": "a", "content": "x"},
        {"action": "Final Conclusion", "content": "y"}, {"action": "Verification", "content": "z"}]} Done."#;

    #[test]
    fn only_a_chain_that_ends_as_demanded_is_read() {
        assert_eq!(Chain::parse(GOOD).unwrap().conclusion(), "y");
        for (text, reason) in [
            ("", "no JSON object"),
            ("}{", "no JSON object"),
            ("{\"CoT\": []}", "but are ``"),
            ("{\"steps\": []}", "missing field `CoT`"),
            ("{\"CoT\": [{\"action\": \"Final Conclusion\", \"content\": \"y\"}]}", "but are `Final Conclusion`"),
            ("{\"CoT\": [{\"action\": \"Guess\", \"content\": \"y\"}]}", "unknown variant"),
            (&GOOD[..100], "cannot be read"),
        ] {
            let found = Chain::parse(text).unwrap_err();
            assert!(found.contains(reason), "{text}: {found}");
        }
    }

    #[test]
    fn a_continued_chain_loses_its_verification_and_survives_its_column() {
        let chain = Chain::parse(GOOD).unwrap();
        let longer = chain.clone().continued(chain);
        assert_eq!(longer.steps().len(), 5);
        assert_eq!(Chain::from_value(&longer.to_value()).unwrap(), longer);
        let rendered = "### a\nx\n\n### Final Conclusion\ny";
        assert_eq!(longer.render(), format!("{rendered}\n\n{rendered}\n\n### Verification\nz"));
        assert_eq!(Chain::parse(&Chain::to_reply(longer.steps())).unwrap(), longer);
    }
}
