//! `dedup`: drops rows whose text stood in an earlier row already, exactly or nearly (MinHash with banding, then verified).

mod minhash;

use super::text::{Normalise, fold, identifying_columns, joined};
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::Result;
use crate::report::Report;
use crate::rows::{ColumnType, Rows};
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Artifact, Input, Inputs, Kind, NodeRef, Output, Outputs, Stage};
use serde_json::{Map, Value};
use std::collections::HashMap;

pub use minhash::{Near, near_duplicates};

pub const KIND: Kind =
    Kind { name: "dedup", about: "Drops rows whose text came before.", schema: DedupSettings::schema, read };

crate::settings! {
    /// Which rows count as equal. The first of them is kept.
    pub struct DedupSettings {
        pub input: NodeRef,
        /// Columns that are compared; `problem`, else `question`, else all when left out.
        pub by: Vec<String> = Vec::new(),
        /// What equal texts may differ in: nothing, or case, white space and punctuation.
        pub exact: Normalise = Normalise::Fold,
        /// Also drop texts that are nearly the same.
        pub near: Option<Near> = None,
    }
}

struct Dedup(DedupSettings);

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = DedupSettings::read_fields(fields, reader)?;
    let fault = settings.near.as_ref().and_then(Near::fault);
    if let Some((key, message)) = fault {
        let note = |reader: &mut Reader| reader.mistake("out-of-range", message, None);
        reader.within(Step::Key("near".into()), |reader| reader.within(Step::Key(key.into()), note));
        return None;
    }
    Some(Box::new(Dedup(settings)))
}

impl Stage for Dedup {
    fn version(&self) -> u32 {
        1
    }

    fn settings(&self) -> Value {
        serde_json::to_value(&self.0).expect("settings are plain data")
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::rows("input", &self.0.input)]
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::rows(""), Output::rows("dropped")]
    }

    fn columns(&self, output: &str, inputs: &[Columns]) -> Columns {
        inputs[0].with(if output == "dropped" { &["reason"] } else { &[] })
    }

    fn needs(&self) -> Vec<Need> {
        Need::listed("input", "by", &self.0.by).collect()
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let rows = inputs.take_rows("input")?;
        let texts = texts_of(&rows, &self.0.by)?;
        context.checkpoint()?;
        let fates = fates(&texts, &self.0);
        Ok(divide(rows, &fates))
    }
}

fn texts_of(rows: &Rows, by: &[String]) -> Result<Vec<String>> {
    let columns = identifying_columns(rows, by)?;
    Ok(rows.rows.iter().map(|row| joined(row, &columns)).collect())
}

/// What becomes of a row: it stays, or another one stands for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Kept,
    EqualTo(usize),
    /// The other row and the true Jaccard similarity to it.
    Near(usize, f64),
}

/// One fate a text. Near ones are looked for among the texts that are left after the equal ones have gone.
pub fn fates(texts: &[String], settings: &DedupSettings) -> Vec<Fate> {
    let mut fates = equal(texts, settings.exact);
    if let Some(near) = &settings.near {
        let left: Vec<usize> = (0..texts.len()).filter(|&index| fates[index] == Fate::Kept).collect();
        let folded: Vec<String> = left.iter().map(|&index| fold(&texts[index])).collect();
        for (place, found) in near_duplicates(&folded, near).into_iter().enumerate() {
            if let Some((first, similarity)) = found {
                fates[left[place]] = Fate::Near(left[first], similarity);
            }
        }
    }
    fates
}

fn equal(texts: &[String], exact: Normalise) -> Vec<Fate> {
    let mut first: HashMap<String, usize> = HashMap::with_capacity(texts.len());
    let fate = |(index, text): (usize, &String)| match *first.entry(exact.apply(text)).or_insert(index) {
        earlier if earlier == index => Fate::Kept,
        earlier => Fate::EqualTo(earlier),
    };
    texts.iter().enumerate().map(fate).collect()
}

fn divide(rows: Rows, fates: &[Fate]) -> Outputs {
    let ids: Vec<String> = rows.rows.iter().map(|row| row.id.clone()).collect();
    let (mut kept, mut dropped) = (rows.empty_like(), rows.empty_like());
    let reason_column = dropped.ensure("reason", ColumnType::Text);
    for (mut row, fate) in rows.rows.into_iter().zip(fates) {
        let reason = match *fate {
            Fate::Kept => {
                kept.rows.push(row);
                continue;
            }
            Fate::EqualTo(first) => format!("same text as row {}", ids[first]),
            Fate::Near(first, similarity) => format!("near ({similarity:.3}) to row {}", ids[first]),
        };
        row.cells.resize(dropped.columns.len(), Value::Null);
        row.cells[reason_column] = Value::from(reason);
        dropped.rows.push(row);
    }
    let near = fates.iter().filter(|fate| matches!(fate, Fate::Near(..))).count();
    let counts =
        [("equal to an earlier row", dropped.len() - near), ("near to an earlier row", near), ("kept", kept.len())];
    let report = Report::counts("dedup", counts);
    Outputs::rows(kept, report).with("dropped", Artifact::Rows(dropped))
}

#[cfg(test)]
mod tests {
    use super::minhash::Numbers;
    use super::*;

    fn check(texts: &[&str], near: Option<Near>, expected: &[Fate]) {
        let texts: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
        let input = NodeRef::parse("input");
        let settings = DedupSettings { input, by: Vec::new(), exact: Normalise::Fold, near };
        assert_eq!(fates(&texts, &settings), expected);
    }

    const LONG: &str = "Stock: 90, 70 and 60 mg tablets. Give 275 mg with at most 5: how many each?";
    const WORDED: &str = "Stock: 90, 70 and 60 mg tablets. Give 275 mg with at most 5: how many of each?";
    const OTHER: &str = "Stock: 90, 70 and 60 mg tablets. Give 285 mg with at most 5: how many each?";

    #[test]
    fn the_first_of_equal_texts_is_kept() {
        check(&["A b.", "c", "a  B", "c"], None, &[Fate::Kept, Fate::Kept, Fate::EqualTo(0), Fate::EqualTo(1)]);
    }

    #[test]
    fn another_number_is_another_problem_and_another_word_is_not() {
        let near = Near { similarity: 0.8, ..Near::default() };
        let texts = [LONG, OTHER, WORDED].map(str::to_string);
        let found = near_duplicates(&texts.map(|text| fold(&text)), &near);
        assert_eq!(found[1], None);
        assert_eq!(found[2].unwrap().0, 0);
        let free = Near { numbers: Numbers::Free, ..near };
        assert_eq!(near_duplicates(&[fold(LONG), fold(OTHER)], &free)[1].unwrap().0, 0);
    }

    #[test]
    fn a_near_text_names_the_row_that_was_kept_and_not_one_that_was_dropped() {
        let near = Near { similarity: 0.8, ..Near::default() };
        let texts = [LONG, LONG, WORDED].map(str::to_string);
        let settings =
            DedupSettings { input: NodeRef::parse("x"), by: vec![], exact: Normalise::None, near: Some(near) };
        let found = fates(&texts, &settings);
        assert_eq!(found[1], Fate::EqualTo(0));
        assert!(matches!(found[2], Fate::Near(0, similarity) if similarity > 0.8), "{:?}", found[2]);
    }
}
