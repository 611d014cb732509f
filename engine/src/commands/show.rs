//! `decoct show`: what a finished node holds: its report, its rows, the metrics of a training.

use super::{export, tensorboard};
use crate::cli::{RowFormat, ShowArgs};
use crate::executor::artifacts::{self, Trouble};
use crate::executor::report_of;
use crate::failure::{Exit, Failure, Result};
use crate::plan::{Decision, Past, Planner, Wishes};
use crate::report::words::counted;
use crate::report::{PlainReporter, table};
use crate::workplace::Workplace;
use cache::{Manifest, Output, Store, TreeFile};
use stages::rows::{Row, Rows};
use stages::stage::{Form, NodeRef};
use std::io::{IsTerminal, Write};
use std::path::Path;

/// Rows of a table on the terminal where no number is given.
const TABLE_ROWS: usize = 10;
/// Where a training node keeps its curves.
const METRICS_FILE: &str = "metrics.parquet";
/// Beside them what its steps took, which is no part of their content.
const TIMES_FILE: &str = "timings.parquet";

pub fn run(arguments: &ShowArgs) -> Result<Exit> {
    let workplace = Workplace::open(&arguments.recipe, &arguments.store)?;
    let reference = workplace.reference(&arguments.node)?;
    let (store, manifest) = find_finished(&workplace, &reference.node)?;
    let output = named_output(&workplace, &reference)?;
    if let Some(folder) = wanted_model(arguments, &output) {
        return write_model(folder, &store, &manifest, &output);
    }
    let format = chosen_format(arguments)?;
    let rows = rows(&store, &manifest, &output)?;
    if let Some(folder) = &arguments.tensorboard {
        return write_events(folder, arguments, &manifest, &output, &rows);
    }
    let bytes = match (&arguments.row, format) {
        (Some(row), RowFormat::Table) => export::whole(&rows, find_row(&rows, row)?).into_bytes(),
        (Some(row), format) => {
            export::bytes(&Rows { rows: vec![find_row(&rows, row)?.clone()], ..rows.empty_like() }, format, false)?
        }
        (None, RowFormat::Table) => overview(arguments, &manifest, rows),
        (None, format) => {
            export::bytes(&head(rows, arguments.rows.unwrap_or(usize::MAX)), format, wants_list(arguments))?
        }
    };
    write(arguments, format, &bytes)?;
    Ok(Exit::Done)
}

/// The work that the recipe as it stands means, else the latest there is, with a word about it.
pub fn find_finished(workplace: &Workplace, node: &str) -> Result<(Store, Manifest)> {
    let reporter = PlainReporter::new();
    let nothing = || {
        let command = format!("decoct run {} --until {node}", workplace.recipe.path.display());
        Failure::usage(format!("`{node}` has no finished output yet"), Some(format!("`{command}` makes it")))
    };
    let store = workplace.store_if_any()?.ok_or_else(nothing)?;
    let manifest = {
        let past = workplace.past(Some(&store), &reporter);
        let wishes = Wishes { until: vec![node.to_string()], ..Wishes::default() };
        let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
        let mut known = workplace.known(&planner)?;
        let planned = planner.plan(&mut known, &wishes)?;
        match planned.into_iter().last().expect("a plan holds at least the node it is about").decision {
            Decision::Hit(manifest) => Some(*manifest),
            Decision::Run { .. } | Decision::Waits { .. } => past.last(node).inspect(|_| {
                eprintln!("warning: the recipe has changed since; this is the latest finished output of `{node}`");
            }),
        }
    };
    Ok((store, manifest.ok_or_else(nothing)?))
}

pub fn named_output(workplace: &Workplace, reference: &NodeRef) -> Result<stages::stage::Output> {
    let node = &workplace.recipe.nodes[&reference.node];
    node.output(&reference.output).ok_or_else(|| {
        let outputs: Vec<String> = node.stage.outputs().into_iter().map(|output| output.name).collect();
        let hint = stages::settings::nearest_hint(&reference.output, outputs.iter().map(String::as_str));
        Failure::usage(format!("`{}` has no output `{}`", reference.node, reference.output), hint)
    })
}

/// Of a model: its metrics with what its steps took, empty where it has none.
fn rows(store: &Store, manifest: &Manifest, output: &stages::stage::Output) -> Result<Rows> {
    match &manifest.outputs.get(&output.name) {
        Some(Output::Rows { .. }) => Ok(artifacts::open_rows(store, manifest, &output.name).map_err(failure)?),
        Some(Output::Tree { files, .. }) => {
            let metrics = table_of(store, files, METRICS_FILE)?.unwrap_or_default();
            Ok(match table_of(store, files, TIMES_FILE)? {
                Some(times) => beside(metrics, &times),
                None => metrics,
            })
        }
        None => Err(Failure::new(Exit::Cache, format!("the latest finished work has no output `{}`", output.name))),
    }
}

/// A table among the files of a model, where there is one of this name.
fn table_of(store: &Store, files: &[TreeFile], name: &str) -> Result<Option<Rows>> {
    let Some(found) = files.iter().find(|file| file.path == name) else { return Ok(None) };
    let damaged = || Failure::new(Exit::Cache, format!("`{name}` is missing or damaged in the cache"));
    let file = store.open_blob(&found.blob)?.ok_or_else(damaged)?;
    export::rows_of(cache::read_table(file)?).map(Some)
}

/// `rows` with the columns of `more` that they lack, row by row; a column that holds nothing is left out. Both have a row a step.
fn beside(mut rows: Rows, more: &Rows) -> Rows {
    for (place, column) in more.columns.iter().enumerate() {
        let is_told = more.rows.iter().any(|row| !row.cells[place].is_null());
        if rows.rows.len() != more.rows.len() || !is_told || rows.position(&column.name).is_some() {
            continue;
        }
        rows.columns.push(column.clone());
        for (row, more) in rows.rows.iter_mut().zip(&more.rows) {
            row.cells.push(more.cells[place].clone());
        }
    }
    rows
}

fn write_events(
    folder: &Path,
    arguments: &ShowArgs,
    manifest: &Manifest,
    output: &stages::stage::Output,
    rows: &Rows,
) -> Result<Exit> {
    if output.form != Form::Model || rows.is_empty() {
        let hint = Some("name a node that trains a model, such as one of kind `sft` or `ppo`".to_string());
        return Err(Failure::usage(format!("`{}` holds no metrics of a training", arguments.node), hint));
    }
    let made = &manifest.provenance;
    let path = tensorboard::write(folder, &arguments.node, rows, made.finished_at as f64 - made.seconds)?;
    eprintln!("{}; `tensorboard --logdir {}` shows it", path.display(), folder.display());
    Ok(Exit::Done)
}

pub fn failure(trouble: Trouble) -> Failure {
    match trouble {
        Trouble::Stage(failure) => failure.into(),
        Trouble::Cache(error) => error.into(),
        Trouble::Engine(failure) => failure,
        other => Failure::Plain {
            exit: Exit::Cache,
            message: other.to_string(),
            hint: Some("`decoct run` makes it again".to_string()),
        },
    }
}

/// The folder that a model is wanted in: `-o` with an ending of rows asks for its metrics.
fn wanted_model<'a>(arguments: &'a ShowArgs, output: &stages::stage::Output) -> Option<&'a Path> {
    let wants_rows = arguments.format.is_some() || arguments.rows.is_some() || arguments.row.is_some();
    let folder =
        arguments.output.as_deref().filter(|path| output.form == Form::Model && export::format_of(path).is_none());
    folder.filter(|_| !wants_rows)
}

/// In Hugging Face layout, for other programs. What stands there already is left alone.
fn write_model(folder: &Path, store: &Store, manifest: &Manifest, output: &stages::stage::Output) -> Result<Exit> {
    let is_free = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if !is_free {
        let hint = Some("name a folder that is not there yet".to_string());
        return Err(Failure::usage(format!("`{}` is there already", folder.display()), hint));
    }
    if let Err(trouble) = artifacts::copy_model(store, manifest, output, folder) {
        // Half a model would be taken for one.
        let _ = std::fs::remove_dir_all(folder);
        return Err(failure(trouble));
    }
    eprintln!("the model is in {}; `decoct chat {0}` talks to it", folder.display());
    Ok(Exit::Done)
}

fn chosen_format(arguments: &ShowArgs) -> Result<RowFormat> {
    let by_ending = |path: &Path| {
        let hint = Some("name one with `--format json|csv|parquet|table`".to_string());
        export::format_of(path)
            .ok_or_else(|| Failure::usage(format!("`{}` does not tell its format", path.display()), hint))
    };
    match (arguments.format, &arguments.output) {
        (Some(format), _) => Ok(format),
        (None, Some(path)) => by_ending(path),
        (None, None) => Ok(RowFormat::Table),
    }
}

/// A file that ends in `.json` holds one list, so that other programs can read it.
fn wants_list(arguments: &ShowArgs) -> bool {
    arguments.output.as_ref().is_some_and(|path| path.extension().is_some_and(|ending| ending == "json"))
}

/// Digits of a number of a row; what is longer is the beginning of an id.
const NUMBER_DIGITS: usize = 7;

/// The number that a user means by `row`, where it is one.
pub fn number(row: &str) -> Option<usize> {
    let is_number = row.len() <= NUMBER_DIGITS && row.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { row.parse().ok() } else { None }
}

/// By its number, its id, or the beginning of its id where that is one row's alone.
fn find_row<'a>(rows: &'a Rows, wanted: &str) -> Result<&'a Row> {
    let exactly = || rows.rows.iter().find(|row| row.id == wanted);
    let alone = || {
        let mut found = rows.rows.iter().filter(|row| !wanted.is_empty() && row.id.starts_with(wanted));
        found.next().filter(|_| found.next().is_none())
    };
    let found = match number(wanted) {
        Some(number) => exactly().or_else(|| rows.rows.get(number)),
        None => exactly().or_else(alone),
    };
    found.ok_or_else(|| {
        let hint = Some(format!("it has {}, numbered from 0", counted(rows.len() as u64, "row")));
        Failure::usage(format!("there is no row `{wanted}`, or more than one"), hint)
    })
}

fn head(mut rows: Rows, count: usize) -> Rows {
    rows.rows.truncate(count);
    rows
}

/// For people: what the node told when it ran, then its first rows.
fn overview(arguments: &ShowArgs, manifest: &Manifest, rows: Rows) -> Vec<u8> {
    let made = &manifest.provenance;
    let labels: String = made.labels.iter().map(|label| format!(" [{label}]")).collect();
    let count = counted(rows.len() as u64, "row");
    let mut lines = vec![format!("{} · {} · {count}{labels}", arguments.node, made.kind)];
    for told in report_of(manifest).tables {
        lines.extend([String::new(), told.title.clone()]);
        lines.extend(table::lines(&told.columns, &told.rows));
    }
    let shown = head(rows, arguments.rows.unwrap_or(TABLE_ROWS));
    if !shown.is_empty() {
        lines.extend([String::new(), format!("first {} of {count}", shown.len())]);
        let body = export::bytes(&shown, RowFormat::Table, false).expect("a table can always be drawn");
        lines.push(String::from_utf8_lossy(&body).trim_end().to_string());
    }
    (lines.join("\n") + "\n").into_bytes()
}

fn write(arguments: &ShowArgs, format: RowFormat, bytes: &[u8]) -> Result<()> {
    if let Some(path) = &arguments.output {
        return std::fs::write(path, bytes).map_err(|error| Failure::io("write", path, &error));
    }
    if format == RowFormat::Parquet && std::io::stdout().is_terminal() {
        return Err(Failure::usage(
            "Parquet is nothing to look at",
            Some("write it to a file with `-o FILE`".to_string()),
        ));
    }
    // A reader that has seen enough (`| head`) is no failure.
    let _ = std::io::stdout().lock().write_all(bytes);
    Ok(())
}
