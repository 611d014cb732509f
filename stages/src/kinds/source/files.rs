//! Finds out what a data file is, reads it whole, and says what is wrong with it: file, line, reason.

use super::{csv, jsonl, parquet};
use crate::settings::{Reader, nearest_hint};
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

/// The format a recipe names, else the one its ending tells.
pub fn format_of(file: &Path, named: Option<Format>, reader: &mut Reader) -> Option<Format> {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    let told = match ending.as_str() {
        "ndjson" => Some(Format::Jsonl),
        other => Format::from_word(other),
    };
    let format = named.or(told);
    if format.is_none() {
        let message = format!("the ending of `{}` does not tell its format", file.display());
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
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            let message = format!("there is no file `{}`", file.display());
            reader.mistake("missing-file", message, neighbour_hint(file));
        }
        _ => reader.mistake("unreadable-file", format!("cannot read `{}`: {error}", file.display()), None),
    }
}

/// The name in the same folder that is nearest to the one asked for.
fn neighbour_hint(file: &Path) -> Option<String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Some(format!("there is no folder `{}` either", folder.display()));
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    nearest_hint(file.file_name()?.to_str()?, names.iter().map(String::as_str).take(SHOWN_FLAWS * 50))
        .filter(|hint| hint.len() < 400)
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
