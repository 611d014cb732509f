//! Finds out what a data file is, reads it whole, and says what is wrong with it: file, line, reason.

use super::{csv, jsonl, parquet};
use crate::settings::{Reader, nearest_file, shown_path};
use serde_json::{Map, Value};
use std::fs::File;
use std::path::Path;

crate::choice! {
    /// What a data file is written in.
    pub enum Format {
        /// One JSON object a line.
        "jsonl" => Jsonl,
        /// A list of JSON objects.
        "json" => Json,
        /// Comma-separated values with a header line.
        "csv" => Csv,
        /// Parquet.
        "parquet" => Parquet,
    }
}

/// One thing wrong with a data file.
#[derive(Debug, Clone, PartialEq)]
pub struct Flaw {
    /// From 1; `None` where the format has no lines.
    pub line: Option<usize>,
    pub reason: String,
}

/// All objects of a file, and what is wrong with the others.
pub type Read = (Vec<Map<String, Value>>, Vec<Flaw>);

/// Beyond so many flaws only their number is told.
const SHOWN_FLAWS: usize = 20;

/// Notes that there is nothing to read: no such file, or a folder.
pub fn is_there(file: &Path, reader: &mut Reader) -> bool {
    let absent = match std::fs::metadata(file) {
        Ok(found) => found.is_dir().then(|| std::io::ErrorKind::IsADirectory.into()),
        Err(error) => Some(error),
    };
    absent.inspect(|error| note_unopened(file, error, reader)).is_none()
}

/// The format a recipe names, else the one its ending tells.
pub fn format_of(file: &Path, named: Option<Format>, reader: &mut Reader) -> Option<Format> {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    let told = match ending.as_str() {
        "ndjson" => Some(Format::Jsonl),
        other => Format::from_word(other),
    };
    let format = named.or(told);
    if format.is_none() {
        let message = format!("the ending of `{}` does not tell its format", shown_path(file));
        let hint = format!("add `format: {}`", Format::WORDS.join("`, `format: "));
        reader.mistake("unknown-format", message, Some(hint));
    }
    format
}

/// All objects of the file, or `None` after noting what is wrong.
pub fn read(file: &Path, format: Format, reader: &mut Reader) -> Option<Vec<Map<String, Value>>> {
    let (objects, flaws) = match open(file, format) {
        Ok(read) => read,
        Err(error) => {
            note_unopened(file, &error, reader);
            return None;
        }
    };
    note_flaws(file, &flaws, reader);
    if flaws.is_empty() && objects.is_empty() {
        reader.mistake_in("empty-source", file.to_path_buf(), None, "there are no rows in it");
        return None;
    }
    flaws.is_empty().then_some(objects)
}

fn open(file: &Path, format: Format) -> std::io::Result<Read> {
    Ok(match format {
        Format::Jsonl => jsonl::read_lines(&std::fs::read(file)?),
        Format::Json => jsonl::read_list(&std::fs::read(file)?),
        Format::Csv => csv::read(&std::fs::read(file)?),
        Format::Parquet => parquet::read(File::open(file)?),
    })
}

fn note_unopened(file: &Path, error: &std::io::Error, reader: &mut Reader) {
    let shown = shown_path(file);
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            reader.mistake("missing-file", format!("there is no file `{shown}`"), nearest_file(file));
        }
        std::io::ErrorKind::IsADirectory => {
            reader.mistake("not-a-file", format!("`{shown}` is a folder"), Some("name a file in it".to_string()));
        }
        _ => reader.mistake("unreadable-file", format!("cannot read `{shown}`: {error}"), None),
    }
}

fn note_flaws(file: &Path, flaws: &[Flaw], reader: &mut Reader) {
    for flaw in flaws.iter().take(SHOWN_FLAWS) {
        reader.mistake_in("malformed-row", file.to_path_buf(), flaw.line, flaw.reason.clone());
    }
    if flaws.len() > SHOWN_FLAWS {
        let message = format!("{} more lines are malformed", flaws.len() - SHOWN_FLAWS);
        reader.mistake_in("malformed-row", file.to_path_buf(), None, message);
    }
}
