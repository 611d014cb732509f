//! `reformat`: an exam question becomes an open problem with a short answer that can be checked.

use super::asking::{self, Asked, Asker, Fate, divide_by_asking, require_columns};
use super::examples::Examples;
use super::prompts::{REFORMAT, prompt_of};
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::Result;
use crate::llm::ReplyFormat;
use crate::prompt::Prompt;
use crate::rows::ColumnType;
use crate::settings::{Reader, Setting, Settings};
use crate::stage::{Input, Inputs, Kind, ModelName, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub const KIND: Kind = Kind {
    name: "reformat",
    about: "Rewrites exam questions as open problems with a short answer (adds `problem`, `truth`).",
    schema: ReformatSettings::schema,
    read,
};

crate::settings! {
    /// Who rewrites the exam questions, and how often it is asked.
    pub struct ReformatSettings {
        pub input: NodeRef,
        pub model: ModelName,
        /// A prompt file; `reformat.md` among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// Shown before the question: a list of `{ user, assistant }`, or a JSONL file of them. They count as part of the prompt.
        #[serde(skip)]
        pub examples: Unkeyed<Option<Examples>> = Unkeyed(None),
        /// How often a question is put before a row is marked.
        pub asks: u32 = 3,
    }
}

/// Columns that the input must have.
const NEEDED: [&str; 2] = ["question", "answer"];

struct Reformat {
    settings: ReformatSettings,
    prompt: Prompt,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = ReformatSettings::read_fields(fields, reader);
    let prompt = prompt_of(fields, "prompt", &REFORMAT, reader);
    Some(Box::new(Reformat { settings: settings?, prompt: prompt? }))
}

impl Stage for Reformat {
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
        vec![("reformat", self.prompt.clone())]
    }

    fn outputs(&self) -> Vec<Output> {
        asking::outputs()
    }

    fn columns(&self, output: &str, inputs: &[Columns]) -> Columns {
        asking::columns(output, &inputs[0], &["problem", "truth"])
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = asking::needs(&NEEDED);
        needs.extend(self.prompt.needs("prompt", "input", &["options", "answer_idx"]));
        needs
    }

    fn calls(&self, rows: u64) -> Outlook {
        asking::one_question(rows, self.settings.asks)
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let table = inputs.take_table("input");
        require_columns(&table, &NEEDED)?;
        let caller = context.caller("model")?;
        let asker = Asker::new(caller, &self.prompt, &REFORMAT, "reformat", ReplyFormat::Json, self.settings.asks);
        let added = [("problem", ColumnType::Text), ("truth", ColumnType::Text)];
        divide_by_asking(context, "reformat", &table, &added, asker.concurrency(), move |item| {
            let asker = asker.clone();
            async move {
                let asked = Asked { row: item.object(), row_id: item.id, sample: 0 };
                let opened = asker.ask(asked, parse).await?;
                Ok(opened.map_or_else(
                    |fate| fate,
                    |opened| Fate::kept("reformatted", vec![json!(opened.question), json!(opened.answer)]),
                ))
            }
        })
    }
}

#[derive(Debug, Deserialize)]
struct Opened {
    question: String,
    answer: String,
}

fn parse(text: &str) -> Result<Opened, String> {
    let mut opened: Opened = crate::tolerant_json::read(text)?;
    opened.question = opened.question.trim().to_string();
    opened.answer = opened.answer.trim().to_string();
    match (opened.question.is_empty(), opened.answer.is_empty()) {
        (false, false) => Ok(opened),
        (true, _) => Err("`question` is empty".to_string()),
        (_, true) => Err("`answer` is empty".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_must_be_there() {
        for (text, expected) in [
            (r#"{"question": " q? ", "answer": "a"}"#, Ok(("q?", "a"))),
            (r#"Here: {"answer": "a", "question": "q", "note": 1} ."#, Ok(("q", "a"))),
            (r#"{"question": "q", "answer": " "}"#, Err("`answer` is empty")),
            (r#"{"question": "q"}"#, Err("missing field `answer`")),
            ("q? a", Err("no JSON object")),
        ] {
            match (parse(text), expected) {
                (Ok(opened), Ok(expected)) => assert_eq!((&*opened.question, &*opened.answer), expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
