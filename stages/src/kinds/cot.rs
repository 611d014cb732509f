//! `cot`: a first chain of thought for each problem, with its conclusion.

use super::asking::{self, Asked, Asker, Fate, divide_by_asking, require_columns};
use super::examples::Examples;
use super::prompts::{COT, prompt_of};
use crate::chain::Chain;
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::Result;
use crate::llm::{Message, ReplyFormat};
use crate::prompt::Prompt;
use crate::rows::ColumnType;
use crate::settings::{Reader, Setting, Settings};
use crate::stage::{Input, Inputs, Kind, ModelName, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub const KIND: Kind = Kind {
    name: "cot",
    about: "Asks for a first chain of thought (adds `chain`, `conclusion`).",
    schema: CotSettings::schema,
    read,
};

crate::settings! {
    /// Who thinks, and how often it is asked.
    pub struct CotSettings {
        pub input: NodeRef,
        pub model: ModelName,
        /// A prompt file; `cot.md` among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// Shown before the question: a list of `{ user, assistant }`, or a JSONL file of them. They count as part of the prompt.
        #[serde(skip)]
        pub examples: Unkeyed<Option<Examples>> = Unkeyed(None),
        /// A column with conversations, lists of `{ role, content }` that end with the user: the last message becomes `problem`, those
        /// before it are sent before the question.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub messages: Option<String> = None,
        /// How often a question is put before a row is marked.
        pub asks: u32 = 3,
    }
}

/// Columns that the input must have.
const NEEDED: [&str; 1] = ["problem"];

struct Cot {
    settings: CotSettings,
    prompt: Prompt,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = CotSettings::read_fields(fields, reader);
    let prompt = prompt_of(fields, "prompt", &COT, reader);
    Some(Box::new(Cot { settings: settings?, prompt: prompt? }))
}

impl Stage for Cot {
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
        vec![("cot", self.prompt.clone())]
    }

    fn outputs(&self) -> Vec<Output> {
        asking::outputs()
    }

    fn columns(&self, output: &str, inputs: &[Columns]) -> Columns {
        asking::columns(output, &inputs[0], &self.added().map(|(name, _)| name).collect::<Vec<_>>())
    }

    fn needs(&self) -> Vec<Need> {
        match &self.settings.messages {
            Some(column) => vec![Need::named("input", "messages", column)],
            None => asking::needs(&NEEDED),
        }
    }

    fn calls(&self, rows: u64) -> Outlook {
        asking::one_question(rows, self.settings.asks)
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let table = inputs.take_table("input");
        let conversations = self.settings.messages.clone();
        require_columns(&table, &conversations.as_deref().map_or(NEEDED, |column| [column]))?;
        let caller = context.caller("model")?;
        let asker = Asker::new(caller, &self.prompt, &COT, "chain", ReplyFormat::Json, self.settings.asks);
        let added: Vec<_> = self.added().collect();
        divide_by_asking(context, "cot", &table, &added, asker.concurrency(), move |item| {
            let (asker, conversations) = (asker.clone(), conversations.clone());
            async move {
                let (mut row, mut before) = (item.object(), Vec::new());
                if let Some(column) = &conversations {
                    match conversation(&row[column]) {
                        Ok((earlier, problem)) => {
                            before = earlier;
                            row.insert("problem".to_string(), json!(problem));
                        }
                        Err(reason) => {
                            return Ok(Fate::dropped(format!("`{column}` is no conversation: {reason}"), vec![]));
                        }
                    }
                }
                let problem = conversations.is_some().then(|| row["problem"].clone());
                let asked = Asked { row_id: item.id, row, sample: 0 };
                let chain = asker.ask_after(before, asked, Chain::parse).await?;
                Ok(chain.map_or_else(|fate| fate, |chain| reached(chain, problem)))
            }
        })
    }
}

impl Cot {
    /// In the order of a fate's cells.
    fn added(&self) -> impl Iterator<Item = (&'static str, ColumnType)> {
        let problem = self.settings.messages.as_ref().map(|_| ("problem", ColumnType::Text));
        [("chain", ColumnType::Json), ("conclusion", ColumnType::Text)].into_iter().chain(problem)
    }
}

fn reached(chain: Chain, problem: Option<Value>) -> Fate {
    let conclusion = json!(chain.conclusion());
    Fate::kept("reached a conclusion", [chain.to_value(), conclusion].into_iter().chain(problem).collect())
}

/// The messages before the last one, and what the user says in it.
fn conversation(value: &Value) -> Result<(Vec<Message>, String), String> {
    let mut messages = Vec::<Message>::deserialize(value).map_err(|error| error.to_string())?;
    match messages.pop() {
        Some(last) if last.role == "user" => Ok((messages, last.content)),
        Some(last) => Err(format!("its last message is by `{}`, not by `user`", last.role)),
        None => Err("it is empty".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_ends_with_the_users_question() {
        let said = |role: &str, content: &str| json!({"role": role, "content": content});
        let asked = conversation(&json!([said("user", "a"), said("assistant", "b"), said("user", "c")])).unwrap();
        assert_eq!(asked, (vec![Message::user("a"), Message::assistant("b")], "c".to_string()));
        for (value, words) in [
            (json!([said("user", "a"), said("assistant", "b")]), "by `assistant`"),
            (json!([]), "empty"),
            (json!("a"), "expected a sequence"),
            (json!(null), "expected a sequence"),
            (json!([{"role": "user"}]), "missing field `content`"),
        ] {
            let found = conversation(&value).unwrap_err();
            assert!(found.contains(words), "{value}: {found}");
        }
    }
}
