//! `decontaminate`: drops every row that shares a run of consecutive characters with an evaluation item.

use super::text::{Normalise, cell_text, readable_columns};
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::Result;
use crate::report::Report;
use crate::rows::{ColumnType, Rows};
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Artifact, Input, Inputs, Kind, NodeRef, Output, Outputs, Stage};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

pub const KIND: Kind = Kind {
    name: "decontaminate",
    about: "Drops rows that share a run of characters with an evaluation item.",
    schema: DecontaminateSettings::schema,
    read,
};

crate::settings! {
    /// What counts as contaminated.
    pub struct DecontaminateSettings {
        pub input: NodeRef,
        /// Evaluation sets.
        pub against: Vec<NodeRef>,
        /// So many consecutive characters in common make a row contaminated.
        pub characters: usize = 64,
        /// Columns that are compared, in the input; `problem` and `question` when left out.
        pub columns: Vec<String> = Vec::new(),
        /// The same for the evaluation sets.
        pub against_columns: Vec<String> = Vec::new(),
        /// What is forgiven before texts are compared: nothing, or case, white space and punctuation.
        pub normalise: Normalise = Normalise::Fold,
        /// Evaluation texts shorter than `characters` count when a row's whole text is the same.
        pub short: Short = Short::Whole,
    }
}

crate::choice! {
    /// What becomes of evaluation texts that are too short to share a run.
    pub enum Short {
        /// A row whose whole text is the same is contaminated.
        "whole" => Whole,
        "ignore" => Ignore,
    }
}

struct Decontaminate(DecontaminateSettings);

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = DecontaminateSettings::read_fields(fields, reader)?;
    if settings.characters == 0 {
        let note = |reader: &mut Reader| reader.mistake("out-of-range", "at least one character is needed", None);
        reader.within(Step::Key("characters".into()), note);
        return None;
    }
    Some(Box::new(Decontaminate(settings)))
}

impl Stage for Decontaminate {
    fn version(&self) -> u32 {
        1
    }

    fn settings(&self) -> Value {
        serde_json::to_value(&self.0).expect("settings are plain data")
    }

    fn inputs(&self) -> Vec<Input> {
        let against =
            self.0.against.iter().enumerate().map(|(index, from)| Input::rows(&format!("against.{index}"), from));
        [Input::rows("input", &self.0.input)].into_iter().chain(against).collect()
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::rows(""), Output::rows("dropped")]
    }

    fn columns(&self, output: &str, inputs: &[Columns]) -> Columns {
        inputs[0].with(if output == "dropped" { &["reason"] } else { &[] })
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs: Vec<Need> = Need::listed("input", "columns", &self.0.columns).collect();
        for index in 0..self.0.against.len() {
            needs.extend(Need::listed(&format!("against.{index}"), "against_columns", &self.0.against_columns));
        }
        needs
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let rows = inputs.take_rows("input")?;
        let mut evaluation = Vec::new();
        for index in 0..self.0.against.len() {
            let table = inputs.take_rows(&format!("against.{index}"))?;
            evaluation.extend(texts(&table, &self.0.against_columns, self.0.normalise)?.into_iter().flatten());
        }
        context.checkpoint()?;
        let index = Runs::new(evaluation, self.0.characters, self.0.short);
        let columns = texts(&rows, &self.0.columns, self.0.normalise)?;
        let found = columns.iter().map(|cells| cells.iter().find_map(|cell| index.shared_with(cell)));
        Ok(divide(rows, found.collect()))
    }
}

/// Each row's compared cells, normalised.
fn texts(rows: &Rows, columns: &[String], normalise: Normalise) -> Result<Vec<Vec<String>>> {
    let columns = readable_columns(rows, columns)?;
    let cells = |row: &crate::rows::Row| columns.iter().map(|&c| normalise.apply(&cell_text(&row.cells[c]))).collect();
    Ok(rows.rows.iter().map(cells).collect())
}

fn divide(rows: Rows, found: Vec<Option<String>>) -> Outputs {
    let (mut kept, mut dropped) = (rows.empty_like(), rows.empty_like());
    let reason_column = dropped.ensure("reason", ColumnType::Text);
    for (mut row, shared) in rows.rows.into_iter().zip(found) {
        let Some(shared) = shared else {
            kept.rows.push(row);
            continue;
        };
        row.cells.resize(dropped.columns.len(), Value::Null);
        row.cells[reason_column] = Value::from(format!("shares `{shared}` with an evaluation item"));
        dropped.rows.push(row);
    }
    let counts = [("shares text with an evaluation item", dropped.len()), ("kept", kept.len())];
    let report = Report::counts("decontaminate", counts);
    Outputs::rows(kept, report).with("dropped", Artifact::Rows(dropped))
}

/// All runs of a fixed number of characters in a set of texts, to be asked whether another text shares one.
pub struct Runs {
    length: usize,
    texts: Vec<Vec<char>>,
    /// Hash of a run: (text, first character). Runs with equal hashes but different characters are as good as impossible at 61 bits;
    /// a hit is verified, so the worst that could happen is a run that is overlooked.
    places: HashMap<u64, (u32, u32)>,
    /// Texts shorter than a run, where they count.
    short: HashSet<String>,
}

impl Runs {
    pub fn new(texts: impl IntoIterator<Item = String>, length: usize, short: Short) -> Runs {
        let mut runs = Runs { length, texts: Vec::new(), places: HashMap::new(), short: HashSet::new() };
        for text in texts {
            let characters: Vec<char> = text.chars().collect();
            if characters.len() >= length {
                let number = runs.texts.len() as u32;
                let places = rolling(&characters, length).map(|(start, hash)| (hash, (number, start as u32)));
                places.for_each(|(hash, place)| {
                    runs.places.entry(hash).or_insert(place);
                });
                runs.texts.push(characters);
            } else if short == Short::Whole && !text.is_empty() {
                runs.short.insert(text);
            }
        }
        runs
    }

    /// The first run of `text` that is there.
    pub fn shared_with(&self, text: &str) -> Option<String> {
        let characters: Vec<char> = text.chars().collect();
        if characters.len() < self.length {
            return self.short.contains(text).then(|| text.to_string());
        }
        let run = |start: usize| &characters[start..start + self.length];
        rolling(&characters, self.length)
            .find(|&(start, hash)| self.places.get(&hash).is_some_and(|&place| self.run_at(place) == run(start)))
            .map(|(start, _)| run(start).iter().collect())
    }

    fn run_at(&self, (text, start): (u32, u32)) -> &[char] {
        &self.texts[text as usize][start as usize..start as usize + self.length]
    }
}

/// The prime 2⁶¹ − 1.
const MODULUS: u64 = (1 << 61) - 1;
/// Any number far from 0 and the modulus.
const BASE: u64 = 0x1234_5678_9abc_def1 % MODULUS;

fn multiply(left: u64, right: u64) -> u64 {
    let product = left as u128 * right as u128;
    add((product as u64) & MODULUS, (product >> 61) as u64)
}

fn add(left: u64, right: u64) -> u64 {
    let sum = left + right;
    if sum >= MODULUS { sum - MODULUS } else { sum }
}

/// (first character, hash) of each run, by Karp and Rabin's rolling polynomial: one step a character.
fn rolling(characters: &[char], length: usize) -> impl Iterator<Item = (usize, u64)> + '_ {
    let leading = (1..length).fold(1, |power, _| multiply(power, BASE));
    let push = |hash, character: char| add(multiply(hash, BASE), character as u64 + 1);
    let mut hash = characters[..length].iter().fold(0, |hash, &character| push(hash, character));
    (0..=characters.len() - length).map(move |start| {
        if start > 0 {
            let gone = multiply(leading, characters[start - 1] as u64 + 1);
            hash = push(add(hash, MODULUS - gone), characters[start + length - 1]);
        }
        (start, hash)
    })
}
