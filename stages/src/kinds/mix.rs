//! `mix`: several inputs become one table, with all their columns, in a seeded order, each row labelled with where it is from.

use super::source::{convert, sample, unify};
use super::split::{Size, row_counts};
use crate::columns::Columns;
use crate::context::Context;
use crate::draw::Draw;
use crate::failure::Result;
use crate::report::{Report, ReportTable};
use crate::rows::{Column, ColumnType, Row, Rows};
use crate::settings::{Reader, Setting, Settings, Step, nearest_hint};
use crate::stage::{Input, Inputs, Kind, NodeRef, Outlook, Outputs, Stage};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

pub const KIND: Kind = Kind {
    name: "mix",
    about: "Several inputs as one table, each row labelled with where it is from.",
    schema: MixSettings::schema,
    read,
};

crate::settings! {
    /// What is mixed, and how much of each.
    pub struct MixSettings {
        /// Label: node. A list of nodes takes their names as labels.
        pub inputs: Labelled,
        /// Label: a number of rows (`5000`) or a share of that input (`0.5`), drawn by the seed. All of it when left out.
        pub take: IndexMap<String, Size> = IndexMap::new(),
        /// The column that says which input a row is from.
        pub from: String = "from".to_string(),
        pub order: Order = Order::Shuffled,
    }
}

crate::choice! {
    /// The order of the mixed rows.
    pub enum Order {
        /// By the seed; a row that is added moves no other.
        "shuffled" => Shuffled,
        /// One input after the other.
        "as_given" => AsGiven,
    }
}

/// Nodes by label.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Labelled(IndexMap<String, NodeRef>);

impl Setting for Labelled {
    fn read(value: &Value, reader: &mut Reader) -> Option<Labelled> {
        let Value::Array(names) = value else { return IndexMap::read(value, reader).map(Labelled) };
        let nodes = Vec::<NodeRef>::read(value, reader)?;
        let names: Vec<&str> = names.iter().map(|name| name.as_str().unwrap_or_default()).collect();
        let labels = names.iter().map(|name| label(name, &names));
        Some(Labelled(labels.zip(nodes).collect()))
    }
    fn schema() -> Value {
        json!({"anyOf": [IndexMap::<String, NodeRef>::schema(), Vec::<NodeRef>::schema()]})
    }
}

/// Without the variant of a node, where that tells it apart: every variant of a mix calls its inputs the same.
fn label(name: &str, all: &[&str]) -> String {
    let plain = |name: &str| name.split('/').next().unwrap_or_default().to_string();
    let is_alone = all.iter().filter(|other| plain(other) == plain(name)).count() == 1;
    if is_alone { plain(name) } else { name.to_string() }
}

struct Mix(MixSettings);

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = MixSettings::read_fields(fields, reader)?;
    let labels = &settings.inputs.0;
    let before = reader.mistakes.len();
    reader.within(Step::Key("take".into()), |reader| {
        for label in settings.take.keys().filter(|label| !labels.contains_key(*label)) {
            let hint = nearest_hint(label, labels.keys().map(String::as_str));
            let note =
                |reader: &mut Reader| reader.mistake("unknown-label", format!("no input is labelled `{label}`"), hint);
            reader.within(Step::Name(label.clone()), note);
        }
    });
    (reader.mistakes.len() == before).then(|| Box::new(Mix(settings)) as Box<dyn Stage>)
}

impl Stage for Mix {
    fn version(&self) -> u32 {
        1
    }

    fn settings(&self) -> Value {
        let labels: Vec<&String> = self.0.inputs.0.keys().collect();
        json!({"labels": labels, "take": self.0.take, "from": self.0.from, "order": self.0.order})
    }

    fn inputs(&self) -> Vec<Input> {
        self.0.inputs.0.iter().map(|(label, from)| Input::rows(&port(label), from)).collect()
    }

    fn draws(&self) -> bool {
        self.0.order == Order::Shuffled || !self.0.take.is_empty()
    }

    fn columns(&self, _output: &str, inputs: &[Columns]) -> Columns {
        Columns::union(inputs).with(&[&self.0.from])
    }

    fn rows_out(&self, rows: &[u64]) -> Vec<Outlook> {
        let taken = self.0.inputs.0.keys().zip(rows).map(|(label, &there)| match self.0.take.get(label) {
            Some(size) => row_counts(&[*size], there as usize)[0] as u64,
            None => there,
        });
        vec![Outlook::exactly(taken.sum())]
    }

    fn is_quick(&self) -> bool {
        true
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let draw = context.draw();
        let mut lines = Vec::new();
        let mut tables = Vec::new();
        for label in self.0.inputs.0.keys() {
            let table = inputs.take_rows(&port(label))?;
            let there = table.len();
            let taken = self.take(table, label, &draw, context);
            lines.push(vec![label.clone(), there.to_string(), taken.len().to_string()]);
            tables.push((label.as_str(), taken));
        }
        let mut mixed = union(tables, &self.0.from);
        if self.0.order == Order::Shuffled {
            let draw = draw.of("order");
            mixed.rows.sort_by_cached_key(|row| (draw.of(&row.id).bits(), row.id.clone()));
        }
        let columns = ["from", "there", "taken"].map(str::to_string).to_vec();
        let table = ReportTable { title: "mix".to_string(), columns, rows: lines, headline: false };
        Ok(Outputs::rows(mixed, Report { tables: vec![table] }))
    }
}

impl Mix {
    fn take(&self, table: Rows, label: &str, draw: &Draw, context: &dyn Context) -> Rows {
        let Some(size) = self.0.take.get(label) else { return table };
        if let Size::Count(count) = size
            && *count > table.len() as u64
        {
            context.warn(&format!("`{label}` has {} rows of the {count} asked for: all are taken", table.len()));
        }
        let count = row_counts(&[*size], table.len())[0];
        sample(table, count, &draw.of("take").of(label))
    }
}

pub fn port(label: &str) -> String {
    format!("inputs.{label}")
}

/// All rows under all columns. Where two inputs hold one id (two ways from one source), the later row's id is made new from both.
pub fn union(tables: Vec<(&str, Rows)>, from: &str) -> Rows {
    let mut mixed = Rows::new(all_columns(&tables, from));
    let mut seen: HashSet<String> = HashSet::new();
    for (label, table) in tables {
        let places: Vec<usize> =
            table.columns.iter().map(|column| mixed.position(&column.name).expect("a union has all columns")).collect();
        for row in table.rows {
            let id = free_id(row.id, label, &seen);
            seen.insert(id.clone());
            let mut cells = vec![Value::Null; mixed.columns.len()];
            for (&place, cell) in places.iter().zip(row.cells) {
                cells[place] = convert(cell, mixed.columns[place].column_type);
            }
            let from = mixed.position(from).expect("a union has all columns");
            cells[from] = Value::from(label);
            mixed.rows.push(Row { id, cells });
        }
    }
    mixed
}

fn all_columns(tables: &[(&str, Rows)], from: &str) -> Vec<Column> {
    let mut types: IndexMap<&str, ColumnType> = IndexMap::new();
    for column in tables.iter().flat_map(|(_, table)| &table.columns) {
        let known = types.entry(&column.name).or_insert(column.column_type);
        *known = unify(*known, column.column_type);
    }
    types.insert(from, ColumnType::Text);
    types.into_iter().map(|(name, column_type)| Column { name: name.to_string(), column_type }).collect()
}

fn free_id(id: String, label: &str, seen: &HashSet<String>) -> String {
    let mut free = id;
    while seen.contains(&free) {
        free = renamed(&free, label);
    }
    free
}

/// The next id of a row under `label` whose id is taken.
pub fn renamed(id: &str, label: &str) -> String {
    blake3::hash(format!("{id}\n{label}").as_bytes()).to_hex()[..32].to_string()
}
