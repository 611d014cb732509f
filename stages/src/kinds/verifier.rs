//! Who says whether an answer is right, for reinforcement learning and for evaluation: rules, or a language model as judge.

use super::prompts::{VERIFY, prompt_of};
use super::verify::Judge;
use crate::answers::matches_truth;
use crate::context::Context;
use crate::failure::Result;
use crate::llm::for_each_row;
use crate::prompt::Prompt;
use crate::rows::{Column, ColumnType, Row, Rows};
use crate::settings::{Reader, Setting};
use crate::stage::{ModelName, Outlook};
use serde_json::{Map, Value, json};

/// `rules`, or the name of a model.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verifier {
    Rules,
    Model(ModelName),
}

impl Setting for Verifier {
    fn read(value: &Value, reader: &mut Reader) -> Option<Verifier> {
        if value.as_str() == Some("rules") {
            Some(Verifier::Rules)
        } else {
            ModelName::read(value, reader).map(Verifier::Model)
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "description": "`rules`, or a name under models:"})
    }
}

/// How often a judge is asked before its answer counts as no.
const ASKS: u32 = 3;

/// One answer that is to be judged.
pub struct Claim<'a> {
    /// The problem's row.
    pub row_id: &'a str,
    pub response: &'a str,
    pub truth: &'a str,
}

impl Verifier {
    /// The model behind the port `verifier`, where there is one.
    pub fn models(&self) -> Vec<(String, String)> {
        match self {
            Verifier::Rules => Vec::new(),
            Verifier::Model(name) => vec![("verifier".to_string(), name.0.clone())],
        }
    }

    /// What it takes to judge so many answers; those that keep no format are not put to a model.
    pub fn calls(&self, answers: u64) -> Outlook {
        match self {
            Verifier::Rules => Outlook::exactly(0),
            Verifier::Model(_) => Outlook::about(answers as f64, "one verdict an answer", answers * u64::from(ASKS)),
        }
    }

    /// The judge's prompt; the outer `None` is a mistake.
    pub fn prompt(&self, fields: &Map<String, Value>, reader: &mut Reader) -> Option<Option<Prompt>> {
        match self {
            Verifier::Rules => Some(None),
            Verifier::Model(_) => prompt_of(fields, "prompt", &VERIFY, reader).map(Some),
        }
    }

    /// Whether each claim is right, in order. A judge that never gives a verdict has not accepted.
    pub fn verdicts(&self, claims: &[Claim], prompt: Option<&Prompt>, context: &dyn Context) -> Result<Vec<bool>> {
        match prompt {
            None => Ok(claims.iter().map(|claim| matches_truth(claim.response, claim.truth)).collect()),
            Some(prompt) => ask(claims, prompt, context),
        }
    }
}

fn ask(claims: &[Claim], prompt: &Prompt, context: &dyn Context) -> Result<Vec<bool>> {
    let caller = context.caller("verifier")?;
    let concurrency = caller.model.concurrency();
    let judge = Judge::new(caller, prompt, ASKS);
    let columns = ["conclusion", "truth"].map(|name| Column { name: name.to_string(), column_type: ColumnType::Text });
    let mut rows = Rows::new(columns.to_vec());
    let row =
        |claim: &Claim| Row { id: claim.row_id.to_string(), cells: vec![json!(claim.response), json!(claim.truth)] };
    rows.rows = claims.iter().map(row).collect();
    for_each_row(context, concurrency, rows, move |item| {
        let judge = judge.clone();
        async move {
            let [conclusion, truth] = ["conclusion", "truth"].map(|column| item.text(column).to_string());
            let verdict = judge.ask(item.id, conclusion, truth).await?;
            Ok(verdict.unwrap_or(false))
        }
    })
}
