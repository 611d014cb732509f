//! `verify`: whether a conclusion agrees with the known answer. The judge sees these two and nothing else.

use super::asking::{self, Asked, Asker, Fate, divide_by_asking, require_columns};
use super::examples::Examples;
use super::prompts::{VERIFY, prompt_of};
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::Result;
use crate::llm::{Caller, ReplyFormat};
use crate::prompt::Prompt;
use crate::rows::ColumnType;
use crate::settings::{Reader, Setting, Settings};
use crate::stage::{Input, Inputs, Kind, ModelName, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub const KIND: Kind = Kind {
    name: "verify",
    about: "Compares each conclusion with the known answer (adds `verdict`).",
    schema: VerifySettings::schema,
    read,
};

crate::settings! {
    /// Who judges, and what becomes of what is found false.
    pub struct VerifySettings {
        pub input: NodeRef,
        pub model: ModelName,
        /// A prompt file; `verify.md` among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// Shown before the question: a list of `{ user, assistant }`, or a JSONL file of them. They count as part of the prompt.
        #[serde(skip)]
        pub examples: Unkeyed<Option<Examples>> = Unkeyed(None),
        /// How often a question is put before a row is marked.
        pub asks: u32 = 3,
        /// Whether only true rows go on; a search needs the false ones too.
        pub drop_false: bool = false,
    }
}

/// Columns that the input must have.
const NEEDED: [&str; 2] = ["conclusion", "truth"];

struct Verify {
    settings: VerifySettings,
    prompt: Prompt,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = VerifySettings::read_fields(fields, reader);
    let prompt = prompt_of(fields, "prompt", &VERIFY, reader);
    Some(Box::new(Verify { settings: settings?, prompt: prompt? }))
}

impl Stage for Verify {
    fn version(&self) -> u32 {
        1
    }

    fn settings(&self) -> Value {
        json!(self.settings)
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::rows("input", &self.settings.input)]
    }

    fn models(&self) -> Vec<(String, String)> {
        vec![("model".to_string(), self.settings.model.0.clone())]
    }

    fn prompts(&self) -> Vec<(&'static str, Prompt)> {
        vec![("verify", self.prompt.clone())]
    }

    fn outputs(&self) -> Vec<Output> {
        asking::outputs()
    }

    fn columns(&self, output: &str, inputs: &[Columns]) -> Columns {
        asking::columns(output, &inputs[0], &["verdict"])
    }

    fn needs(&self) -> Vec<Need> {
        asking::needs(&NEEDED)
    }

    fn calls(&self, rows: u64) -> Outlook {
        asking::one_question(rows, self.settings.asks)
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let table = inputs.take_table("input");
        require_columns(&table, &NEEDED)?;
        let judge = Judge::new(context.caller("model")?, &self.prompt, self.settings.asks);
        let drop_false = self.settings.drop_false;
        let (added, concurrency) = ([("verdict", ColumnType::Bool)], judge.0.concurrency());
        divide_by_asking(context, "verify", &table, &added, concurrency, move |item| {
            let judge = judge.clone();
            async move {
                let [conclusion, truth] = NEEDED.map(|column| item.text(column).to_string());
                let verdict = judge.ask(item.id, conclusion, truth).await?;
                Ok(verdict.map_or_else(|fate| fate, |verdict| fate(verdict, drop_false)))
            }
        })
    }
}

fn fate(verdict: bool, drop_false: bool) -> Fate {
    match verdict {
        true => Fate::kept("true", vec![json!(true)]),
        false if drop_false => Fate::dropped("false", vec![json!(false)]),
        false => Fate::kept("false", vec![json!(false)]),
    }
}

/// A model that compares conclusions with known answers; also the verifier of a search and of reinforcement learning.
#[derive(Clone)]
pub struct Judge(Arc<Asker>);

impl Judge {
    pub fn new(caller: Caller, prompt: &Prompt, asks: u32) -> Judge {
        Judge(Asker::new(caller, prompt, &VERIFY, "verify", ReplyFormat::Text, asks))
    }

    /// `Err` inside is a row to be marked: no reply was a verdict.
    pub async fn ask(&self, row_id: String, conclusion: String, truth: String) -> Result<Result<bool, Fate>> {
        let row = Map::from_iter(
            NEEDED.into_iter().zip([conclusion, truth]).map(|(name, text)| (name.to_string(), text.into())),
        );
        self.0.ask(Asked { row_id, row, sample: 0 }, parse).await
    }
}

/// `True` or `False` and nothing else but quotes, stars, a full stop, and a label before it; `not true` is no verdict, nor is a word
/// with an explanation: whoever explains may take it back.
pub fn parse(text: &str) -> Result<bool, String> {
    let bare = |text: &str| text.trim_matches(|character: char| !character.is_alphanumeric()).to_ascii_lowercase();
    let labelled = text.split_once(':').filter(|(label, _)| ["answer", "verdict"].contains(&bare(label).as_str()));
    match bare(labelled.map_or(text, |(_, verdict)| verdict)).as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("the reply is neither `True` nor `False`".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_one_word() {
        for (text, expected) in [
            ("True", Some(true)),
            (" **false**.\n", Some(false)),
            ("\"TRUE\"", Some(true)),
            ("not true", None),
            ("True or False", None),
            ("It is true", None),
            ("untrue", None),
            ("True.", Some(true)),
            ("**True**", Some(true)),
            ("`False`", Some(false)),
            ("Answer: False", Some(false)),
            ("**Verdict:** True", Some(true)),
            ("**Answer**: True.", Some(true)),
            ("Answer: not true", None),
            ("Answer: True or False", None),
            ("The answer is not: True", None),
            ("It is not true", None),
            ("It is true that this is false", None),
            ("true or false", None),
            ("True, or rather False", None),
            ("False, because it is true that the patient recovered", None),
            ("True. False.", None),
            ("Answer: Verdict: True", None),
            ("", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }
}
