//! `rewrite`: a searched chain told as one natural train of thought, and the final response that follows from it.

use super::asking::{self, Asked, Asker, Fate, divide, divide_by_asking, require_columns, with};
use super::examples::Examples;
use super::prompts::{PromptForm, RESPOND, REWRITE, REWRITE_SIMPLE, prompt_of};
use crate::chain::Chain;
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::Result;
use crate::llm::ReplyFormat;
use crate::llm::crowd::Item;
use crate::prompt::Prompt;
use crate::rows::{ColumnType, require, text_of};
use crate::settings::{Reader, Setting, Settings};
use crate::stage::{Input, Inputs, Kind, ModelName, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use crate::table::Table;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub const KIND: Kind = Kind {
    name: "rewrite",
    about: "Tells each chain as one train of thought and writes the final response (adds `thought`, `response`, `style`).",
    schema: RewriteSettings::schema,
    read,
};

const ADDED: [(&str, ColumnType); 3] =
    [("thought", ColumnType::Text), ("response", ColumnType::Text), ("style", ColumnType::Text)];

/// Columns that the input must have, unless only answers are told.
const NEEDED: [&str; 3] = ["problem", "chain", "conclusion"];

crate::choice! {
    /// How much of the search the thought tells.
    pub enum Style {
        /// The whole search, dead ends included.
        "complex" => Complex,
        /// The accepted path alone.
        "simple" => Simple,
        /// Nothing: the response is the known answer, no model is asked.
        "answer" => Answer,
    }
}

crate::settings! {
    /// Who tells the story, and how much of it.
    pub struct RewriteSettings {
        pub input: NodeRef,
        /// Not needed with `style: answer`.
        pub model: Option<ModelName> = None,
        pub style: Style = Style::Complex,
        /// A prompt file; `rewrite.md` (`rewrite_simple.md` for `style: simple`) among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// Shown before the question: a list of `{ user, assistant }`, or a JSONL file of them. They count as part of the prompt.
        #[serde(skip)]
        pub examples: Unkeyed<Option<Examples>> = Unkeyed(None),
        /// The prompt file for the final response; `respond.md` when left out.
        pub respond_prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// How often a question is put before a row is marked.
        pub asks: u32 = 3,
    }
}

struct Rewrite {
    settings: RewriteSettings,
    prompt: Prompt,
    respond: Prompt,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = RewriteSettings::read_fields(fields, reader);
    let style = settings.as_ref().map_or(Style::Complex, |settings| settings.style);
    let prompt = prompt_of(fields, "prompt", form_of(style), reader);
    let respond = prompt_of(fields, "respond_prompt", &RESPOND, reader);
    let settings = settings?;
    if settings.model.is_none() && style != Style::Answer {
        let hint = Some("name a model, or write `style: answer` to tell no thought".to_string());
        reader.mistake("missing-key", "`model` is missing", hint);
        return None;
    }
    Some(Box::new(Rewrite { settings, prompt: prompt?, respond: respond? }))
}

fn form_of(style: Style) -> &'static PromptForm {
    if style == Style::Simple { &REWRITE_SIMPLE } else { &REWRITE }
}

impl Stage for Rewrite {
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
        let asked = self.settings.model.iter().filter(|_| self.settings.style != Style::Answer);
        asked.map(|model| ("model".to_string(), model.0.clone())).collect()
    }

    fn prompts(&self) -> Vec<(&'static str, Prompt)> {
        match self.settings.style {
            Style::Answer => Vec::new(),
            style => vec![(form_of(style).name, self.prompt.clone()), ("respond", self.respond.clone())],
        }
    }

    fn outputs(&self) -> Vec<Output> {
        asking::outputs()
    }

    fn columns(&self, output: &str, inputs: &[Columns]) -> Columns {
        asking::columns(output, &inputs[0], &ADDED.map(|(name, _)| name))
    }

    fn needs(&self) -> Vec<Need> {
        match self.settings.style {
            Style::Answer => asking::needs(&["truth"]),
            _ => asking::needs(&NEEDED),
        }
    }

    fn calls(&self, rows: u64) -> Outlook {
        let most = rows * 2 * u64::from(self.settings.asks.max(1));
        match self.settings.style {
            Style::Answer => Outlook::exactly(0),
            _ => Outlook::about(rows as f64 * 2.0, "two answers a row", most),
        }
    }

    fn is_quick(&self) -> bool {
        self.settings.style == Style::Answer
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let table = inputs.take_table("input");
        match self.settings.style {
            Style::Answer => answers(&table, context),
            _ => self.told(&table, context),
        }
    }
}

/// The arm that shows what answers alone teach.
fn answers(table: &Table, context: &dyn Context) -> Result<Outputs> {
    let truth = require(table.columns(), "truth")?;
    let cells = |truth: &str| vec![json!(""), json!(truth), json!(Style::Answer.word())];
    divide(context, "rewrite", table, &ADDED, |row| Ok(Fate::kept("answer only", cells(text_of(row, truth, "truth")?))))
}

impl Rewrite {
    fn told(&self, table: &Table, context: &dyn Context) -> Result<Outputs> {
        require_columns(table, &NEEDED)?;
        let (caller, form, asks) = (context.caller("model")?, form_of(self.settings.style), self.settings.asks);
        let teller = Teller {
            rewrite: Asker::new(caller.clone(), &self.prompt, form, form.name, ReplyFormat::Json, asks),
            respond: Asker::new(caller, &self.respond, &RESPOND, "respond", ReplyFormat::Text, asks),
            style: self.settings.style,
        };
        let concurrency = teller.rewrite.concurrency();
        divide_by_asking(context, "rewrite", table, &ADDED, concurrency, move |item| {
            let teller = teller.clone();
            async move { Ok(teller.tell(item).await?.unwrap_or_else(|marked| marked)) }
        })
    }
}

#[derive(Clone)]
struct Teller {
    rewrite: Arc<Asker>,
    respond: Arc<Asker>,
    style: Style,
}

impl Teller {
    async fn tell(&self, item: Item) -> Result<Result<Fate, Fate>> {
        let row = item.object();
        if let Err(reason) = Chain::from_value(&row["chain"]) {
            return Ok(Err(Fate::dropped(format!("the row's chain cannot be read: {reason}"), vec![])));
        }
        let asked = |row: Map<String, Value>| Asked { row_id: item.id.clone(), row, sample: 0 };
        let thought = match self.rewrite.ask(asked(row.clone()), parse_thought).await? {
            Ok(thought) => thought,
            Err(marked) => return Ok(Err(marked)),
        };
        let row = with(row, [("thought", json!(thought))]);
        let response = self.respond.ask_whole(asked(row), parse_response).await?;
        Ok(response.map(|response| {
            let cells = vec![json!(thought), json!(response), json!(self.style.word())];
            Fate::kept(format!("told, {}", self.style.word()), cells)
        }))
    }
}

#[derive(Deserialize)]
struct Told {
    #[serde(rename = "NaturalReasoning")]
    thought: String,
}

/// A train of thought has more than one line.
fn parse_thought(text: &str) -> Result<String, String> {
    let thought = crate::tolerant_json::read::<Told>(text)?.thought.trim().to_string();
    match thought.contains('\n') {
        true => Ok(thought),
        false => Err("`NaturalReasoning` has no line break".to_string()),
    }
}

fn parse_response(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the response is empty".to_string()),
        response => Ok(response.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thought_has_lines() {
        for (text, expected) in [
            (r#"{"NaturalReasoning": "Hmm.\nOh."}"#, Some("Hmm.\nOh.")),
            (r#"{"NaturalReasoning": "Hmm."}"#, None),
            (r#"{"Reasoning": "Hmm.\nOh."}"#, None),
            ("Hmm.\nOh.", None),
        ] {
            assert_eq!(parse_thought(text).ok().as_deref(), expected, "{text}");
        }
    }
}
