//! Files too long to hold in memory: read through once to see that they are sound, and once more when their rows are wanted.

use super::ids::Ids;
use super::types::{Types, row_of};
use super::{Format, jsonl, renamed, report};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::rows::{Column, ROW_ID, Rows};
use crate::settings::Reader;
use crate::stage::Outputs;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

/// Shorter files are read once and held, also where nothing comes of it because their rows are in the store already.
const LONG_BYTES: u64 = 1 << 20;
const BOM: &[u8] = b"\xef\xbb\xbf";
/// Under which a survey is remembered: another number, where the same file would be told otherwise.
const SURVEY: &str = "source survey 1";

/// What is known of a long file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Survey {
    /// As in the file.
    pub columns: Vec<Column>,
    pub rows: usize,
}

impl Survey {
    /// The columns after `columns:` was applied, which was found possible.
    pub fn renamed(&self, columns: &IndexMap<String, String>) -> Vec<Column> {
        let rows = Rows::new(self.columns.clone());
        renamed(rows, columns, &mut Reader::default()).map_or_else(Vec::new, |rows| rows.columns)
    }
}

/// `None` for a file that is not long and plain: anything that needs a second thought (a broken line, rows with ids of their own,
/// a limit) is left to those who hold all of it.
pub fn survey(file: &Path, format: Format, limit: Option<usize>, reader: &Reader) -> Option<Survey> {
    let is_long = std::fs::metadata(file).is_ok_and(|found| found.len() >= LONG_BYTES);
    if format != Format::Jsonl || limit.is_some() || !is_long {
        return None;
    }
    reader.find(file, SURVEY, || look_through(file))
}

fn look_through(file: &Path) -> Option<Survey> {
    let parts = parts(file).ok()?;
    let looks = std::thread::scope(|scope| {
        let looks: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| look(file, part))).collect();
        looks.into_iter().map(|look| look.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let looks: Option<Vec<(Types, usize)>> = looks;
    let (types, rows) = looks?.into_iter().reduce(|(mut types, rows), (behind, more)| {
        types.append(behind);
        (types, rows + more)
    })?;
    (rows > 0).then(|| Survey { columns: types.columns(), rows })
}

/// Whole lines for each core.
fn parts(file: &Path) -> std::io::Result<Vec<Range<u64>>> {
    let mut input = BufReader::new(File::open(file)?);
    let bytes = input.get_ref().metadata()?.len();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let mut starts = vec![0];
    for core in 1..cores {
        input.seek(SeekFrom::Start(bytes * core / cores))?;
        input.skip_until(b'\n')?;
        starts.push(input.stream_position()?);
    }
    let ends = starts[1..].iter().copied().chain([u64::MAX]);
    Ok(starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect())
}

/// The types in some lines of a file, and how many objects there are; `None` if there is anything to think about.
fn look(file: &Path, part: Range<u64>) -> Option<(Types, usize)> {
    let (mut types, mut rows) = (Types::default(), 0);
    let look = |line: &[u8]| {
        let outline = jsonl::outline(line)?;
        outline.iter().for_each(|outline| types.note_outline(outline));
        Ok(outline.map(|outline| outline.has(ROW_ID)))
    };
    for has_id in each_line(file, part, look).ok()? {
        if has_id.ok()? {
            return None;
        }
        rows += 1;
    }
    Some((types, rows))
}

/// All rows of the file to the output.
///
/// # Errors
/// If the file is no longer as it was when it was looked through.
pub fn run(file: &Path, survey: &Survey, columns: &IndexMap<String, String>, context: &dyn Context) -> Result<Outputs> {
    let mut sink = context.sink(survey.renamed(columns))?;
    let (mut ids, mut rows) = (Ids::default(), 0);
    let changed = || Failure::Recipe(format!("`{}` has changed since it was checked; run again", file.display()));
    for object in objects(file).map_err(|error| Failure::io("read", file, error))? {
        let object = object.map_err(|_| changed())?;
        let id = ids.next(&object);
        let row = row_of(object, id, &survey.columns);
        match columns.is_empty() {
            true => sink.push(row)?,
            false => {
                let one = Rows { columns: survey.columns.clone(), rows: vec![row] };
                let one = renamed(one, columns, &mut Reader::default()).ok_or_else(changed)?;
                one.rows.into_iter().try_for_each(|row| sink.push(row))?;
            }
        }
        rows += 1;
        context.checkpoint()?;
    }
    if rows != survey.rows {
        return Err(changed());
    }
    let artifacts = [(String::new(), sink.finish()?)].into_iter().collect();
    Ok(Outputs { artifacts, report: report(rows, rows) })
}

/// One object after another.
fn objects(file: &Path) -> std::io::Result<impl Iterator<Item = Result<Map<String, Value>, String>>> {
    each_line(file, 0..u64::MAX, jsonl::read_line)
}

/// What `read` finds in one line after another of these bytes, which begin with a line; lines in which it finds nothing do not count.
fn each_line<T>(
    file: &Path,
    Range { start, end }: Range<u64>,
    mut read: impl FnMut(&[u8]) -> Result<Option<T>, String>,
) -> std::io::Result<impl Iterator<Item = Result<T, String>>> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(start))?;
    let mut input = BufReader::with_capacity(1 << 20, file.take(end - start));
    let mut line = Vec::new();
    let mut is_first = start == 0;
    let next = move || loop {
        line.clear();
        match input.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => return Some(Err(error.to_string())),
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = if std::mem::take(&mut is_first) { text.strip_prefix(BOM).unwrap_or(text) } else { text };
        if let Some(found) = read(text).transpose() {
            return Some(found);
        }
    };
    Ok(std::iter::from_fn(next))
}
