//! `source`: where rows enter the graph, from a file in any of four formats or from a generator. Rows of any columns may enter:
//! a source can stand in for any other node.

mod csv;
mod files;
mod ids;
mod jsonl;
mod parquet;
mod stream;
mod types;

pub use files::Format;
pub use types::{convert, unify};

use crate::columns::Columns;
use crate::context::Context;
use crate::draw::Draw;
use crate::failure::Result;
use crate::report::Report;
use crate::rows::{ROW_ID, Row, Rows};
use crate::settings::{Reader, Setting, Settings, Step, nearest_hint};
use crate::stage::{Inputs, Kind, Outlook, Outputs, Stage, Unkeyed};
use crate::tablets::{EXAM_COLUMNS, ExamSettings, exam_rows};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

pub const KIND: Kind = Kind {
    name: "source",
    about: "Rows from a JSONL, JSON, CSV or Parquet file, or from a built-in generator.",
    schema: SourceSettings::schema,
    read,
};

crate::settings! {
    /// Where rows come from: exactly one of `path` and `generate`.
    pub struct SourceSettings {
        /// A file, relative to the recipe. Replaces `generate` when both are given.
        pub path: Option<Unkeyed<String>> = None,
        /// A built-in problem family.
        pub generate: Option<Generator> = None,
        /// How many rows to generate; more rows only add some.
        pub rows: Option<usize> = None,
        /// What is wrong with some of the generated rows, so that the steps after have work to do.
        pub blemishes: Option<ExamSettings> = None,
        /// What the file is written in; told from its ending when left out.
        pub format: Option<Format> = None,
        /// New column name: name in the file. Columns not named here keep their names.
        pub columns: IndexMap<String, String> = IndexMap::new(),
        /// Only so many rows, drawn by the seed; a larger limit keeps the rows of a smaller one.
        pub limit: Option<usize> = None,
    }
}

crate::choice! {
    /// Built-in problem families.
    pub enum Generator {
        /// Doses made up from stocked tablets, as multiple-choice questions: easy to check, hard to find.
        "tablets" => Tablets,
    }
}

struct Source {
    settings: SourceSettings,
    origin: Origin,
    columns: Columns,
}

enum Origin {
    /// Read while the recipe was checked, so that a broken line is found before anything is spent.
    File {
        file: PathBuf,
        format: Format,
        rows: Rows,
    },
    /// Too long to hold: read through while the recipe was checked, and again when it runs.
    LongFile {
        file: PathBuf,
        survey: stream::Survey,
    },
    Tablets {
        rows: usize,
        blemishes: ExamSettings,
    },
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = SourceSettings::read_fields(fields, reader)?;
    let origin = match (&settings.path, settings.generate) {
        (Some(Unkeyed(path)), _) => read_file(path, &settings, reader)?,
        (None, Some(Generator::Tablets)) => read_tablets(&settings, reader)?,
        (None, None) => {
            reader.mistake("missing-key", "a source needs `path` or `generate`", None);
            return None;
        }
    };
    let columns = match &origin {
        Origin::File { rows, .. } => Columns::known(rows.columns.iter().map(|column| &column.name)),
        Origin::LongFile { survey, .. } => {
            Columns::known(survey.renamed(&settings.columns).iter().map(|column| &column.name))
        }
        Origin::Tablets { .. } => Columns::known(EXAM_COLUMNS.map(|(name, _)| name)),
    };
    Some(Box::new(Source { settings, origin, columns }))
}

fn read_file(path: &str, settings: &SourceSettings, reader: &mut Reader) -> Option<Origin> {
    let file = reader.path(path);
    let in_path = Step::Key("path".into());
    if !reader.within(in_path.clone(), |reader| files::is_there(&file, reader)) {
        return None;
    }
    let format = reader.within(in_path.clone(), |reader| files::format_of(&file, settings.format, reader))?;
    if let Some(survey) = stream::survey(&file, format, settings.limit, reader) {
        let columns = |reader: &mut Reader| renamed(Rows::new(survey.columns.clone()), &settings.columns, reader);
        reader.within(Step::Key("columns".into()), columns)?;
        return Some(Origin::LongFile { file, survey });
    }
    let rows = reader.within(in_path, |reader| {
        let objects = files::read(&file, format, reader)?;
        table_of(objects, format, &file, reader)
    })?;
    let rows = reader.within(Step::Key("columns".into()), |reader| renamed(rows, &settings.columns, reader))?;
    Some(Origin::File { file, format, rows })
}

fn read_tablets(settings: &SourceSettings, reader: &mut Reader) -> Option<Origin> {
    if !settings.columns.is_empty() {
        let note = |reader: &mut Reader| reader.mistake("unused-key", "`columns` renames what a file holds", None);
        reader.within(Step::Name("columns".into()), note);
        return None;
    }
    let Some(rows) = settings.rows else {
        let hint = Some("such as `rows: 24000`".to_string());
        reader.mistake("missing-key", "`rows` is missing: how many are to be generated?", hint);
        return None;
    };
    let plain = || ExamSettings::read_fields(&Map::new(), &mut Reader::default()).expect("all fields have defaults");
    Some(Origin::Tablets { rows, blemishes: settings.blemishes.clone().unwrap_or_else(plain) })
}

/// Objects to rows. A column `row_id` (rows that came from a graph before) gives the ids, and then every row needs one; without it
/// they are made from the values.
fn table_of(mut objects: Vec<Map<String, Value>>, format: Format, file: &Path, reader: &mut Reader) -> Option<Rows> {
    let ids = match objects.iter().any(|object| object.contains_key(ROW_ID)) {
        true => taken_ids(&mut objects, file, reader)?,
        false => ids::row_ids(&objects),
    };
    if format == Format::Csv {
        csv::sharpen(&mut objects);
    }
    Some(types::table(objects, ids))
}

fn taken_ids(objects: &mut [Map<String, Value>], file: &Path, reader: &mut Reader) -> Option<Vec<String>> {
    let mut seen = HashSet::new();
    let mut ids = Vec::with_capacity(objects.len());
    for (index, object) in objects.iter_mut().enumerate() {
        let problem = match object.shift_remove(ROW_ID) {
            Some(Value::String(id)) if seen.insert(id.clone()) => {
                ids.push(id);
                continue;
            }
            Some(Value::String(id)) => format!("the id `{id}` is there twice"),
            None => format!("`{ROW_ID}` is missing; give one to every row or to none"),
            Some(other) => format!("`{ROW_ID}` should be text but is `{other}`"),
        };
        reader.mistake_in("bad-row-id", file.to_path_buf(), None, format!("row {}: {problem}", index + 1));
        return None;
    }
    Some(ids)
}

/// Applies `columns:`. A new name must not hide another column.
fn renamed(mut rows: Rows, columns: &IndexMap<String, String>, reader: &mut Reader) -> Option<Rows> {
    let known: Vec<String> = rows.columns.iter().map(|column| column.name.clone()).collect();
    let known = || known.iter().map(String::as_str);
    let before = reader.mistakes.len();
    for (new, old) in columns {
        reader.within(Step::Key(new.clone()), |reader| {
            if new == ROW_ID {
                let hint =
                    Some("choose another name; a file's own `row_id` names its rows without `columns`".to_string());
                reader.mistake("hidden-column", format!("`{ROW_ID}` is the name of the column of ids"), hint);
            } else if rows.position(old).is_none() {
                reader.mistake("unknown-column", format!("the file has no column `{old}`"), nearest_hint(old, known()));
            } else if rows.position(new).is_some() && !columns.values().any(|moved| moved == new) {
                let hint = format!("give it another name too, such as `{new}_before: {new}`");
                reader.mistake("hidden-column", format!("the file has another column `{new}`"), Some(hint));
            }
        });
    }
    if reader.mistakes.len() > before {
        return None;
    }
    let mut copies: Vec<(usize, &String)> =
        columns.iter().map(|(new, old)| (rows.position(old).expect("checked above"), new)).collect();
    copies.sort_unstable();
    let mut taken = HashSet::new();
    for (column, new) in copies {
        if taken.insert(column) {
            rows.columns[column].name = new.clone();
        } else {
            let copy = crate::rows::Column { name: new.clone(), ..rows.columns[column].clone() };
            rows.columns.push(copy);
            rows.rows.iter_mut().for_each(|row| row.cells.push(row.cells[column].clone()));
        }
    }
    Some(rows)
}

impl Stage for Source {
    fn version(&self) -> u32 {
        1
    }

    /// Only what this origin looks at. `columns` renames in place, so its order does not count.
    fn settings(&self) -> Value {
        let limit = self.settings.limit;
        match &self.origin {
            Origin::File { format, .. } => json!({"format": format, "columns": self.settings.columns, "limit": limit}),
            Origin::LongFile { .. } => {
                json!({"format": Format::Jsonl, "columns": self.settings.columns, "limit": limit})
            }
            Origin::Tablets { rows, blemishes } => {
                json!({"generate": Generator::Tablets, "rows": rows, "blemishes": blemishes, "limit": limit})
            }
        }
    }

    fn inputs(&self) -> Vec<crate::stage::Input> {
        Vec::new()
    }

    fn files(&self) -> Vec<PathBuf> {
        match &self.origin {
            Origin::File { file, .. } | Origin::LongFile { file, .. } => vec![file.clone()],
            Origin::Tablets { .. } => Vec::new(),
        }
    }

    fn draws(&self) -> bool {
        self.settings.limit.is_some() || matches!(self.origin, Origin::Tablets { .. })
    }

    fn columns(&self, _output: &str, _inputs: &[Columns]) -> Columns {
        self.columns.clone()
    }

    fn rows_out(&self, _: &[u64]) -> Vec<Outlook> {
        let there = match &self.origin {
            Origin::File { rows, .. } => rows.len(),
            Origin::LongFile { survey, .. } => survey.rows,
            Origin::Tablets { rows, .. } => *rows,
        };
        vec![Outlook::exactly(self.settings.limit.map_or(there, |limit| limit.min(there)) as u64)]
    }

    /// The rows of a file are here since the recipe was checked, or soon read.
    fn is_quick(&self) -> bool {
        matches!(self.origin, Origin::File { .. } | Origin::LongFile { .. })
    }

    fn run(&self, _inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let all = match &self.origin {
            Origin::File { rows, .. } => rows.clone(),
            Origin::LongFile { file, survey } => return stream::run(file, survey, &self.settings.columns, context),
            Origin::Tablets { rows, blemishes } => with_own_ids(exam_rows(*rows, blemishes, &context.draw())),
        };
        let there = all.len();
        let rows = match self.settings.limit {
            Some(limit) => sample(all, limit, &context.draw().of("limit")),
            None => all,
        };
        let report = report(there, rows.len());
        Ok(Outputs::rows(rows, report))
    }
}

fn report(there: usize, rows: usize) -> Report {
    Report::counts("source", [("in the source", there), ("left out by the limit", there - rows), ("rows", rows)])
}

/// Generated rows are named like any others: by their values, not by their number.
fn with_own_ids(mut rows: Rows) -> Rows {
    let objects: Vec<Map<String, Value>> = rows.rows.iter().map(|row| rows.object(row)).collect();
    rows.rows.iter_mut().zip(ids::row_ids(&objects)).for_each(|(row, id)| row.id = id);
    rows
}

/// The `limit` rows with the smallest draws, in their order: a larger sample holds the smaller one.
pub fn sample(mut rows: Rows, limit: usize, draw: &Draw) -> Rows {
    if rows.len() <= limit {
        return rows;
    }
    let rank = |row: &Row| (draw.of(&row.id).bits(), row.id.clone());
    let mut ranks: Vec<(u64, String)> = rows.rows.iter().map(rank).collect();
    ranks.sort_unstable();
    let kept: HashSet<String> = ranks.into_iter().take(limit).map(|(_, id)| id).collect();
    rows.rows.retain(|row| kept.contains(&row.id));
    rows
}
