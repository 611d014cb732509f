//! `cot`: a first chain of thought for each problem, with its conclusion.

use super::asking::{self, Asked, Asker, Fate, divide_by_asking, require_columns};
use super::prompts::{COT, prompt_of};
use crate::chain::Chain;
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::Result;
use crate::llm::ReplyFormat;
use crate::prompt::Prompt;
use crate::rows::ColumnType;
use crate::settings::{Reader, Setting, Settings};
use crate::stage::{Input, Inputs, Kind, ModelName, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
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
        asking::columns(output, &inputs[0], &["chain", "conclusion"])
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
        let caller = context.caller("model")?;
        let asker = Asker::new(caller, &self.prompt, &COT, "chain", ReplyFormat::Json, self.settings.asks);
        let added = [("chain", ColumnType::Json), ("conclusion", ColumnType::Text)];
        divide_by_asking(context, "cot", &table, &added, asker.concurrency(), move |item| {
            let asker = asker.clone();
            async move {
                let asked = Asked { row_id: item.id, row: item.row, sample: 0 };
                let chain = asker.ask(asked, Chain::parse).await?;
                Ok(chain.map_or_else(
                    |fate| fate,
                    |chain| Fate::kept("reached a conclusion", vec![chain.to_value(), json!(chain.conclusion())]),
                ))
            }
        })
    }
}
