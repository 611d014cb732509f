//! Changed rows as people and programs read them.

use super::Version;
use super::figures::table_rows;
use super::sides::{side_by_side, word_edits};
use crate::report::cell::shown;
use crate::report::paint::{Colour, Paint};
use crate::report::table;
use crate::report::words::{ago, counted, thousands};
use cache::now_seconds;
use serde_json::{Value, json};
use stages::changes::{Cell, Changes, ColumnChange};
use stages::rows::Row;

/// Changed rows shown where no number is given.
const SHOWN_ROWS: usize = 5;
const VALUE_CHARACTERS: usize = 60;
const KEY_DIGITS: usize = 10;

pub fn text(old: &Version, new: &Version, changes: &Changes, rows: Option<usize>) -> String {
    let (paint, shown_rows) = (Paint::of_stdout(), rows.unwrap_or(SHOWN_ROWS));
    let mut lines = vec![format!("old  {}", told(old)), format!("new  {}", told(new)), String::new()];
    let head = ["", "old", "new"].map(str::to_string);
    lines.extend(table::lines(&head, &table_rows(&old.figures(), &new.figures())));
    let counts = [
        (changes.same, "same"),
        (changes.changed.len(), "changed"),
        (changes.added.len(), "added"),
        (changes.removed.len(), "removed"),
    ];
    let counts = counts.map(|(count, word)| format!("{} {word}", thousands(count as u64)));
    lines.extend([String::new(), format!("rows: {}", counts.join(", "))]);
    if !changes.columns.is_empty() {
        lines.push(String::new());
        lines.extend(column_table(&changes.columns));
    }
    for changed in changes.changed.iter().take(shown_rows) {
        lines.extend([String::new(), paint.text(Colour::Bold, &format!("row {}", changed.id))]);
        lines.extend(changed.cells.iter().flat_map(|cell| cell_lines(cell, paint)));
    }
    if changes.changed.len() > shown_rows {
        let more = counted((changes.changed.len() - shown_rows) as u64, "more changed row");
        lines.extend([String::new(), format!("{more}; `--rows N` shows more")]);
    }
    lines.join("\n") + "\n"
}

fn told(version: &Version) -> String {
    let (made, key) = (&version.manifest.provenance, &version.manifest.key.to_string()[..KEY_DIGITS]);
    let labels: String = made.labels.iter().map(|label| format!(" [{label}]")).collect();
    format!("`{}` @{key}, made {}{labels}", made.node, ago(made.finished_at, now_seconds()))
}

fn column_table(columns: &[ColumnChange]) -> Vec<String> {
    let head = ["column", "rows changed", "mean, old", "mean, new", "of"].map(str::to_string);
    let mean = |mean: Option<f64>| mean.map(|mean| format!("{mean:.3}")).unwrap_or_default();
    let row = |one: &ColumnChange| {
        let of = if one.is_length { "length in characters" } else { "value" };
        vec![one.name.clone(), thousands(one.changed as u64), mean(one.old_mean), mean(one.new_mean), of.to_string()]
    };
    table::lines(&head, &columns.iter().map(row).collect::<Vec<_>>())
}

fn cell_lines(cell: &Cell, paint: Paint) -> Vec<String> {
    let [old, new] = match [cell.old, cell.new].map(shown) {
        // What a chain looks like is not all that it holds.
        [old, new] if old == new => [cell.old, cell.new].map(Value::to_string),
        texts => texts,
    };
    if !old.contains('\n') && !new.contains('\n') && old.chars().count().max(new.chars().count()) <= VALUE_CHARACTERS {
        return vec![format!("  {}: {old} → {new}", cell.column)];
    }
    let edits = if paint.is_wide() { side_by_side(&old, &new, paint) } else { word_edits(&old, &new, paint) };
    std::iter::once(format!("  {}:", cell.column)).chain(edits).collect()
}

pub fn to_json(old: &Version, new: &Version, changes: &Changes) -> Value {
    let version = |one: &Version| {
        let mut figures = one.figures().to_json();
        figures["key"] = one.manifest.key.to_string().into();
        figures
    };
    let changed = changes.changed.iter().map(|row| {
        let cells = row.cells.iter().map(|cell| json!({"column": cell.column, "old": cell.old, "new": cell.new}));
        json!({"row_id": row.id, "cells": cells.collect::<Vec<_>>()})
    });
    let columns = changes.columns.iter().map(|one| {
        json!({"column": one.name, "changed": one.changed, "of": if one.is_length { "length" } else { "value" },
            "old_mean": one.old_mean, "new_mean": one.new_mean})
    });
    let ids = |rows: &[&Row]| rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
    json!({"event": "diff", "old": version(old), "new": version(new), "same": changes.same,
        "changed": changed.collect::<Vec<_>>(), "added": ids(&changes.added), "removed": ids(&changes.removed),
        "columns": columns.collect::<Vec<_>>()})
}

/// A line for each changed cell, and one for each row that came or went.
pub fn csv(changes: &Changes) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut line = |cells: [&str; 5]| writer.write_record(cells).expect("writing to memory does not fail");
    line(["row_id", "change", "column", "old", "new"]);
    for row in &changes.changed {
        for cell in &row.cells {
            line([row.id, "changed", cell.column, &plain(cell.old), &plain(cell.new)]);
        }
    }
    changes.added.iter().for_each(|row| line([&row.id, "added", "", "", ""]));
    changes.removed.iter().for_each(|row| line([&row.id, "removed", "", "", ""]));
    String::from_utf8(writer.into_inner().expect("writing to memory does not fail")).expect("rows are text")
}

fn plain(value: &Value) -> String {
    if value.is_null() { String::new() } else { value.as_str().map_or_else(|| value.to_string(), str::to_string) }
}
