//! `decoct diff`: two versions of an output, by row and in numbers.

use super::show::{failure, find_finished, named_output};
use crate::cli::{DiffArgs, EventFormat, RecipeArgs};
use crate::executor::artifacts;
use crate::executor::past::generations;
use crate::failure::{Exit, Failure, Result};
use crate::report::table;
use crate::report::words::{ago, counted, dollars, thousands};
use crate::workplace::Workplace;
use cache::{Manifest, Store, now_seconds};
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};
use stages::changes::{Cell, Changes, ColumnChange, between};
use stages::rows::Rows;
use stages::stage::{Form, NodeRef, Output};
use std::path::PathBuf;

/// Changed rows shown where no number is given.
const SHOWN_ROWS: usize = 5;
/// Words of unchanged text around an edit.
const CONTEXT_WORDS: usize = 6;
const VALUE_CHARACTERS: usize = 60;
const KEY_DIGITS: usize = 10;

pub fn run(arguments: &DiffArgs) -> Result<Exit> {
    let (old, new) = match &arguments.new {
        Some(new) => (Version::open(&arguments.old, arguments)?, Version::open(new, arguments)?),
        None => Version::before_and_now(&arguments.old, arguments)?,
    };
    let changes = between(&old.rows, &new.rows);
    let shown = arguments.rows.unwrap_or(SHOWN_ROWS);
    match arguments.format {
        EventFormat::Json => println!("{}", to_json(&old, &new, &changes)),
        EventFormat::Plain => print!("{}", text(&old, &new, &changes, shown)),
    }
    Ok(Exit::Done)
}

struct Version {
    manifest: Manifest,
    rows: Rows,
}

/// `RECIPE:NODE[.output][@KEY]`, taken apart.
struct Named<'a> {
    recipe: &'a str,
    node: NodeRef,
    key: Option<&'a str>,
}

impl Version {
    fn open(name: &str, arguments: &DiffArgs) -> Result<Version> {
        let mut named = Named::parse(name)?;
        let (workplace, output) = named.find(arguments)?;
        match named.key {
            None => Version::now(&workplace, &named, &output, arguments),
            Some(key) => {
                let store = workplace.store_if_any()?.ok_or_else(|| no_version(name))?;
                let is_wanted = |one: &Manifest| one.key.to_string().starts_with(key);
                let found = generations(&store, &workplace.recipe.name, &named.node.node).find(is_wanted);
                Version::read(&store, found.ok_or_else(|| no_version(name))?, &output)
            }
        }
    }

    fn before_and_now(name: &str, arguments: &DiffArgs) -> Result<(Version, Version)> {
        let mut named = Named::parse(name)?;
        if named.key.is_some() {
            let hint = "give both, or leave out `@KEY` to compare the last two".to_string();
            return Err(Failure::usage("one version alone cannot be compared", Some(hint)));
        }
        let (workplace, output) = named.find(arguments)?;
        let now = Version::now(&workplace, &named, &output, arguments)?;
        let store = workplace.store_if_any()?.ok_or_else(|| no_version(name))?;
        let content = |one: &Manifest| one.outputs.get(&output.name).map(cache::Output::content);
        let is_other = |one: &Manifest| content(one) != content(&now.manifest);
        let before = generations(&store, &workplace.recipe.name, &named.node.node).find(is_other);
        Ok((Version::read(&store, before.ok_or_else(|| no_version(name))?, &output)?, now))
    }

    fn now(workplace: &Workplace, named: &Named, output: &Output, arguments: &DiffArgs) -> Result<Version> {
        let (store, manifest) = find_finished(workplace, &named.node.node, !arguments.store.no_stat_cache)?;
        Version::read(&store, manifest, output)
    }

    fn read(store: &Store, manifest: Manifest, output: &Output) -> Result<Version> {
        let rows = artifacts::open_rows(store, &manifest, &output.name).map_err(failure)?;
        Ok(Version { manifest, rows })
    }

    fn told(&self) -> String {
        let made = &self.manifest.provenance;
        let key = &self.manifest.key.to_string()[..KEY_DIGITS];
        let cost = if made.cost_usd > 0.0 { format!(", {}", dollars(made.cost_usd)) } else { String::new() };
        let calls = if made.calls > 0 { format!(", {}", counted(made.calls, "call")) } else { String::new() };
        let rows = counted(self.rows.len() as u64, "row");
        format!("`{}` @{key}, made {}: {rows}{calls}{cost}", made.node, ago(made.finished_at, now_seconds()))
    }
}

impl<'a> Named<'a> {
    fn parse(name: &'a str) -> Result<Named<'a>> {
        let hint = "write RECIPE:NODE, RECIPE:NODE.output or RECIPE:NODE@KEY".to_string();
        let no_name = || Failure::usage(format!("`{name}` names no version of an output"), Some(hint));
        let (recipe, rest) = name.rsplit_once(':').ok_or_else(no_name)?;
        let (node, key) = rest.split_once('@').map_or((rest, None), |(node, key)| (node, Some(key)));
        Ok(Named { recipe, node: NodeRef::parse(node), key })
    }

    /// Opens the recipe and settles which of its nodes is meant.
    fn find(&mut self, arguments: &DiffArgs) -> Result<(Workplace, Output)> {
        let recipe = RecipeArgs { recipe: PathBuf::from(self.recipe), overrides: arguments.overrides.clone() };
        let workplace = Workplace::open(&recipe, &arguments.store)?;
        self.node = workplace.reference(&self.node.to_string())?;
        let output = named_output(&workplace, &self.node)?;
        if output.form != Form::Rows {
            let hint = "`decoct explain` says what changed in what it was made from".to_string();
            return Err(Failure::usage(format!("`{}` is a model, not rows", self.node.node), Some(hint)));
        }
        Ok((workplace, output))
    }
}

fn no_version(name: &str) -> Failure {
    let hint = "every run that changes its rows leaves one; `decoct explain` names their keys".to_string();
    Failure::usage(format!("`{name}` has no such earlier version"), Some(hint))
}

fn text(old: &Version, new: &Version, changes: &Changes, shown: usize) -> String {
    let mut lines = vec![format!("old  {}", old.told()), format!("new  {}", new.told()), String::new()];
    let counts = [
        (changes.same, "same"),
        (changes.changed.len(), "changed"),
        (changes.added.len(), "added"),
        (changes.removed.len(), "removed"),
    ];
    lines.push(counts.map(|(count, word)| format!("{} {word}", thousands(count as u64))).join(", "));
    if !changes.columns.is_empty() {
        lines.push(String::new());
        lines.extend(column_table(&changes.columns));
    }
    for changed in changes.changed.iter().take(shown) {
        lines.extend([String::new(), format!("row {}", changed.id)]);
        lines.extend(changed.cells.iter().flat_map(cell_lines));
    }
    if changes.changed.len() > shown {
        let more = counted((changes.changed.len() - shown) as u64, "more changed row");
        lines.extend([String::new(), format!("{more}; `--rows N` shows more")]);
    }
    lines.join("\n") + "\n"
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

fn cell_lines(cell: &Cell) -> Vec<String> {
    let [old, new] = [cell.old, cell.new].map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_string));
    if old.chars().count().max(new.chars().count()) <= VALUE_CHARACTERS {
        return vec![format!("  {}: {old} → {new}", cell.column)];
    }
    let edits = word_edits(&old, &new).into_iter().map(|line| format!("    {line}"));
    std::iter::once(format!("  {}:", cell.column)).chain(edits).collect()
}

/// `- old words` and `+ new words` with a little of what stands around them.
fn word_edits(old: &str, new: &str) -> Vec<String> {
    let diff = TextDiff::from_words(old, new);
    let mut lines = Vec::new();
    for group in diff.grouped_ops(CONTEXT_WORDS) {
        for (tag, sign) in [(ChangeTag::Delete, '-'), (ChangeTag::Insert, '+')] {
            let changes = group.iter().flat_map(|edit| diff.iter_changes(edit));
            let side: String = changes
                .filter(|one| one.tag() == tag || one.tag() == ChangeTag::Equal)
                .map(|one| one.value())
                .collect();
            lines.push(format!("{sign} {}", side.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    lines
}

fn to_json(old: &Version, new: &Version, changes: &Changes) -> Value {
    let version = |one: &Version| {
        json!({"key": one.manifest.key.to_string(), "rows": one.rows.len(),
        "calls": one.manifest.provenance.calls, "cost_usd": one.manifest.provenance.cost_usd})
    };
    let changed = changes.changed.iter().map(|row| {
        let cells = row.cells.iter().map(|cell| json!({"column": cell.column, "old": cell.old, "new": cell.new}));
        json!({"row_id": row.id, "cells": cells.collect::<Vec<_>>()})
    });
    let columns = changes.columns.iter().map(|one| {
        json!({"column": one.name, "changed": one.changed, "of": if one.is_length { "length" } else { "value" },
            "old_mean": one.old_mean, "new_mean": one.new_mean})
    });
    let ids = |rows: &[&stages::rows::Row]| rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
    json!({"event": "diff", "old": version(old), "new": version(new), "same": changes.same,
        "changed": changed.collect::<Vec<_>>(), "added": ids(&changes.added), "removed": ids(&changes.removed),
        "columns": columns.collect::<Vec<_>>()})
}
