//! Where two results differ that should be one: rows by id and column, models by file and tensor. What is alike is not told.

use crate::failure::{Failure, Result};
use crate::rows::{Row, Rows};
use half::{bf16, f16};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::Path;

/// Characters of a value that are shown, around the first that differs.
const SHOWN_CHARACTERS: usize = 40;
/// Of these, how many before it.
const SHOWN_BEFORE: usize = 12;

/// One place in which two results differ, in words for people.
#[derive(Debug, Clone, PartialEq)]
pub enum Difference {
    /// Only the old result has it.
    Gone {
        place: String,
    },
    /// Only the new result has it.
    Added {
        place: String,
    },
    Changed {
        place: String,
        old: String,
        new: String,
    },
    /// `differing` of `numbers` have other bits; by how much at most.
    Numbers {
        place: String,
        differing: usize,
        numbers: usize,
        largest: f64,
    },
    /// All parts are alike, and the whole is not.
    Arranged {
        place: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Difference::Gone { place } => write!(f, "{place} is gone"),
            Difference::Added { place } => write!(f, "{place} is new"),
            Difference::Changed { place, old, new } => write!(f, "{place}: {old} → {new}"),
            Difference::Numbers { place, differing, numbers, largest } => {
                write!(f, "{place}: {differing} of {numbers} numbers differ, by {largest:.3e} at most")
            }
            Difference::Arranged { place } => write!(f, "{place} in another order or form, with the same values"),
        }
    }
}

impl Difference {
    /// The same difference of a part that lies in `whole`.
    fn within(mut self, whole: &str) -> Difference {
        let (Difference::Gone { place }
        | Difference::Added { place }
        | Difference::Changed { place, .. }
        | Difference::Numbers { place, .. }
        | Difference::Arranged { place }) = &mut self;
        *place = format!("{whole}, {place}");
        self
    }
}

/// Every difference between two tables: columns first, then cells in the old table's order, then rows that are new.
/// Empty exactly when both hold the same values in the same order.
pub fn rows(old: &Rows, new: &Rows) -> Vec<Difference> {
    let mut found = columns(old, new);
    let (before, after) = (numbered(old), numbered(new));
    let there: HashMap<_, _> = after.iter().copied().collect();
    let shared = shared_columns(old, new);
    for (name, row) in &before {
        match there.get(name) {
            Some(other) => found.extend(cells(row, other, &shared)),
            None => found.push(Difference::Gone { place: place_of(&row.id) }),
        }
    }
    let known: HashMap<_, _> = before.iter().copied().collect();
    let added = after.iter().filter(|(name, _)| !known.contains_key(name));
    found.extend(added.map(|(_, row)| Difference::Added { place: place_of(&row.id) }));
    if found.is_empty() && (before.iter().map(|row| row.0).ne(after.iter().map(|row| row.0))) {
        found.push(Difference::Arranged { place: "the rows stand".to_string() });
    }
    if found.is_empty() && old.columns != new.columns {
        found.push(Difference::Arranged { place: "the columns stand".to_string() });
    }
    found
}

/// Rows by id; the occurrence tells those apart that share one.
fn numbered(rows: &Rows) -> Vec<((&str, usize), &Row)> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let numbered = rows.rows.iter().map(|row| {
        let occurrence = seen.entry(&row.id).or_default();
        *occurrence += 1;
        ((row.id.as_str(), *occurrence), row)
    });
    numbered.collect()
}

fn place_of(row: &str) -> String {
    format!("row `{row}`")
}

fn columns(old: &Rows, new: &Rows) -> Vec<Difference> {
    let place = |name: &str| format!("column `{name}`");
    let changed = |column: &crate::rows::Column| match new.position(&column.name) {
        None => Some(Difference::Gone { place: place(&column.name) }),
        Some(at) if new.columns[at].column_type != column.column_type => Some(Difference::Changed {
            place: format!("type of {}", place(&column.name)),
            old: format!("{:?}", column.column_type),
            new: format!("{:?}", new.columns[at].column_type),
        }),
        Some(_) => None,
    };
    let added = new.columns.iter().filter(|column| old.position(&column.name).is_none());
    let added = added.map(|column| Difference::Added { place: place(&column.name) });
    old.columns.iter().filter_map(changed).chain(added).collect()
}

/// Name, and the place in both tables.
fn shared_columns<'a>(old: &'a Rows, new: &Rows) -> Vec<(&'a str, usize, usize)> {
    let columns = old.columns.iter().enumerate();
    columns.filter_map(|(at, column)| Some((column.name.as_str(), at, new.position(&column.name)?))).collect()
}

fn cells(old: &Row, new: &Row, columns: &[(&str, usize, usize)]) -> Vec<Difference> {
    let differing = columns.iter().filter_map(|(name, before, after)| {
        let (before, after) = (written(&old.cells[*before]), written(&new.cells[*after]));
        let place = || format!("{}, column `{name}`", place_of(&old.id));
        (before != after).then(|| changed(place(), &before, &after))
    });
    differing.collect()
}

/// As it is stored: the order of a mapping's keys counts, and `1` is not `1.0`.
fn written(cell: &Value) -> String {
    cell.to_string()
}

fn changed(place: String, old: &str, new: &str) -> Difference {
    let alike = old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count();
    Difference::Changed { place, old: excerpt(old, alike), new: excerpt(new, alike) }
}

/// The part of a long text around the character at which it begins to differ.
fn excerpt(text: &str, differs_at: usize) -> String {
    let characters = text.chars().count();
    if characters <= SHOWN_CHARACTERS {
        return format!("`{text}`");
    }
    let start = differs_at.saturating_sub(SHOWN_BEFORE).min(characters - SHOWN_CHARACTERS);
    let shown: String = text.chars().skip(start).take(SHOWN_CHARACTERS).collect();
    let dots = |cut: bool| if cut { "…" } else { "" };
    format!("`{}{shown}{}`", dots(start > 0), dots(start + SHOWN_CHARACTERS < characters))
}

/// Every difference between two model folders, but for the files named in `ignored`: weights by tensor, tables by row, other files
/// by the place where they begin to differ. Empty exactly when all files have the same bytes.
///
/// # Errors
/// If a file cannot be read.
pub fn models(old: &Path, new: &Path, ignored: &[&str]) -> Result<Vec<Difference>> {
    let (before, after) = (names(old)?, names(new)?);
    let mut found = Vec::new();
    for name in before.union(&after).filter(|name| !ignored.contains(&name.as_str())) {
        let place = format!("file `{name}`");
        match (before.contains(name), after.contains(name)) {
            (true, true) => found.extend(files(&old.join(name), &new.join(name), &place)?),
            (true, false) => found.push(Difference::Gone { place }),
            _ => found.push(Difference::Added { place }),
        }
    }
    Ok(found)
}

/// Files of a model folder, which has no folders inside.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).map_err(|error| Failure::io("list", folder, error))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn files(old: &Path, new: &Path, place: &str) -> Result<Vec<Difference>> {
    let read = |path: &Path| fs::read(path).map_err(|error| Failure::io("read", path, error));
    let (before, after) = (read(old)?, read(new)?);
    if before == after {
        return Ok(Vec::new());
    }
    let inside = match old.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => tensors(&before, &after),
        Some("parquet") => table(old).zip(table(new)).map(|(old, new)| rows(&old, &new)),
        _ => None,
    };
    Ok(match inside {
        Some(found) if found.is_empty() => vec![Difference::Arranged { place: format!("{place} is written") }],
        Some(found) => found.into_iter().map(|difference| difference.within(place)).collect(),
        None => vec![changed(place.to_string(), &String::from_utf8_lossy(&before), &String::from_utf8_lossy(&after))],
    })
}

/// `None` where this is no table of ours.
fn table(path: &Path) -> Option<Rows> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).ok()?).ok()?.build().ok()?;
    Rows::from_batches(&reader.collect::<Result<Vec<_>, _>>().ok()?).ok()
}

/// `None` where one of them is no safetensors file.
fn tensors(old: &[u8], new: &[u8]) -> Option<Vec<Difference>> {
    let (before, after) = (SafeTensors::deserialize(old).ok()?, SafeTensors::deserialize(new).ok()?);
    let names: BTreeSet<&str> = before.names().into_iter().chain(after.names()).collect();
    let compare = |name: &str| {
        let place = format!("tensor `{name}`");
        match (before.tensor(name), after.tensor(name)) {
            (Ok(old), Ok(new)) => tensor(place, &old, &new),
            (Ok(_), Err(_)) => Some(Difference::Gone { place }),
            _ => Some(Difference::Added { place }),
        }
    };
    Some(names.into_iter().filter_map(compare).collect())
}

fn tensor(place: String, old: &TensorView, new: &TensorView) -> Option<Difference> {
    if (old.dtype(), old.shape()) != (new.dtype(), new.shape()) {
        let shape = |tensor: &TensorView| format!("{:?} {:?}", tensor.dtype(), tensor.shape());
        return Some(Difference::Changed { place, old: shape(old), new: shape(new) });
    }
    let (before, after) = (numbers(old), numbers(new));
    let differing = || before.iter().zip(&after).filter(|(old, new)| old.to_bits() != new.to_bits());
    let distance =
        |(old, new): (&f64, &f64)| if old.is_nan() || new.is_nan() { f64::INFINITY } else { (old - new).abs() };
    let largest = differing().map(distance).fold(0.0, f64::max);
    let (differing, numbers) = (differing().count(), before.len());
    (differing > 0).then_some(Difference::Numbers { place, differing, numbers, largest })
}

/// Floats as they are, anything else byte by byte.
fn numbers(tensor: &TensorView) -> Vec<f64> {
    let (two, four) = (tensor.data().as_chunks::<2>().0, tensor.data().as_chunks::<4>().0);
    match tensor.dtype() {
        Dtype::F32 => four.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect(),
        Dtype::F16 => two.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f64()).collect(),
        Dtype::BF16 => two.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f64()).collect(),
        _ => tensor.data().iter().map(|byte| f64::from(*byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Column, ColumnType};
    use serde_json::json;
    use std::collections::BTreeMap;

    fn table_of(columns: &[&str], cells: &[(&str, &[Value])]) -> Rows {
        let column = |name: &&str| Column { name: name.to_string(), column_type: ColumnType::Json };
        let row = |(id, cells): &(&str, &[Value])| Row { id: id.to_string(), cells: cells.to_vec() };
        Rows { columns: columns.iter().map(column).collect(), rows: cells.iter().map(row).collect() }
    }

    fn check(new: &Rows, expected: &[&str]) {
        let old = table_of(&["a", "b"], &[("x", &[json!(1), json!("dose")]), ("y", &[json!(2), json!(null)])]);
        let told: Vec<String> = rows(&old, new).iter().map(Difference::to_string).collect();
        assert_eq!(told, expected);
        assert!(rows(new, new).is_empty());
    }

    #[test]
    fn rows_are_told_apart_by_id_and_column() {
        let (x, y) = ([json!(1), json!("dose")], [json!(2), json!(null)]);
        check(&table_of(&["a", "b"], &[("x", &x), ("y", &y)]), &[]);
        check(
            &table_of(&["a", "b"], &[("x", &[json!(1.0), json!("dosis")]), ("y", &y)]),
            &["row `x`, column `a`: `1` → `1.0`", "row `x`, column `b`: `\"dose\"` → `\"dosis\"`"],
        );
        check(&table_of(&["a", "b"], &[("y", &y), ("z", &x)]), &["row `x` is gone", "row `z` is new"]);
        check(&table_of(&["a", "b"], &[("x", &x), ("y", &y), ("x", &x)]), &["row `x` is new"]);
        check(
            &table_of(&["a", "b"], &[("y", &y), ("x", &x)]),
            &["the rows stand in another order or form, with the same values"],
        );
        check(
            &table_of(&["b", "a"], &[("x", &[json!("dose"), json!(1)]), ("y", &[json!(null), json!(2)])]),
            &["the columns stand in another order or form, with the same values"],
        );
        check(&table_of(&["a", "c"], &[("x", &x), ("y", &y)]), &["column `b` is gone", "column `c` is new"]);
    }

    #[test]
    fn a_long_text_is_shown_where_it_begins_to_differ() {
        let cell = |end: &str| Value::from(format!("{}{end}", "so it goes on ".repeat(9)));
        let (old, new) =
            (table_of(&["a"], &[("x", &[cell("to 45 mg")])]), table_of(&["a"], &[("x", &[cell("to 30 mg")])]));
        let told = rows(&old, &new)[0].to_string();
        assert!(told.contains("to 45 mg\"` → ") && told.contains("to 30 mg\"`") && told.len() < 160, "{told}");
    }

    fn weights(tensors: &[(&str, &[f32])]) -> Vec<u8> {
        let bytes = tensors.iter().map(|(name, values)| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name.to_string(), values.len(), bytes)
        });
        let bytes: Vec<_> = bytes.collect();
        let views = bytes
            .iter()
            .map(|(name, length, bytes)| (name, TensorView::new(Dtype::F32, vec![*length], bytes).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn models_are_told_apart_by_tensor_and_file() {
        let base = BTreeMap::from([
            ("model.safetensors", weights(&[("up", &[1.0, 2.0]), ("down", &[3.0])])),
            ("config.json", b"{\"layers\": 3}".to_vec()),
            ("timings.json", b"1".to_vec()),
        ]);
        let check = |name: &'static str, bytes: Option<Vec<u8>>, expected: &[&str]| {
            let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut changed = base.clone();
            _ = changed.remove(name);
            changed.extend(bytes.map(|bytes| (name, bytes)));
            for (folder, files) in [(&old, &base), (&new, &changed)] {
                files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
            }
            let told = models(old.path(), new.path(), &["timings.json"]).unwrap();
            assert_eq!(told.iter().map(Difference::to_string).collect::<Vec<_>>(), expected);
        };
        let file = "model.safetensors";
        check("timings.json", Some(b"2".to_vec()), &[]);
        check(
            "config.json",
            Some(b"{\"layers\": 4}".to_vec()),
            &["file `config.json`: `{\"layers\": 3}` → `{\"layers\": 4}`"],
        );
        check("config.json", None, &["file `config.json` is gone"]);
        check(
            file,
            Some(weights(&[("up", &[1.0, 2.5]), ("down", &[f32::NAN])])),
            &[
                "file `model.safetensors`, tensor `down`: 1 of 1 numbers differ, by inf at most",
                "file `model.safetensors`, tensor `up`: 1 of 2 numbers differ, by 5.000e-1 at most",
            ],
        );
        check(
            file,
            Some(weights(&[("up", &[1.0, 2.0, 3.0]), ("sideways", &[3.0])])),
            &[
                "file `model.safetensors`, tensor `down` is gone",
                "file `model.safetensors`, tensor `sideways` is new",
                "file `model.safetensors`, tensor `up`: F32 [2] → F32 [3]",
            ],
        );
    }
}
