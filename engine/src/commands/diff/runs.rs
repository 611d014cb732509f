//! Two runs: what became of each node, what differs in what it was made from, and the scores of evaluations beside each other.

use super::figures::Figures;
use crate::cli::{DiffArgs, DiffFormat};
use crate::commands::runs::{find, told};
use crate::differences::differences;
use crate::executor::report_of;
use crate::failure::{Exit, Failure, Result};
use crate::plan::{Why, describe};
use crate::report::table;
use crate::report::words::{dollars, duration, thousands};
use crate::workplace::cache_folder;
use cache::{Difference, Manifest, Run, RunNode, Store};
use serde_json::{Value, json};
use stages::report::ReportTable;

/// Characters of a value that differs.
const VALUE_CHARACTERS: usize = 60;

/// An output of a recipe is named with a colon, a run never is, and neither is a file.
pub fn is_name(text: &str) -> bool {
    !text.contains([':', '.', '/'])
}

pub fn run(arguments: &DiffArgs) -> Result<Exit> {
    let store = Store::look(&cache_folder(&arguments.store)?)?;
    let runs = store.as_ref().map(Store::runs).transpose()?.unwrap_or_default();
    let (old, new) = match &arguments.new {
        Some(new) => (find(&runs, &arguments.old)?, find(&runs, new)?),
        None => before(&runs, find(&runs, &arguments.old)?)?,
    };
    let pairs = pairs(store.as_ref().expect("runs are on record"), old, new);
    match arguments.format {
        DiffFormat::Json => println!("{}", to_json(old, new, &pairs)),
        DiffFormat::Csv => {
            let hint = Some("`--format json` holds all of it".to_string());
            return Err(Failure::usage("two runs are no table of rows", hint));
        }
        DiffFormat::Plain => print!("{}", text(old, new, &pairs)),
    }
    Ok(Exit::Done)
}

/// The run of the same recipe before this one, and this one.
fn before<'r>(runs: &'r [Run], new: &'r Run) -> Result<(&'r Run, &'r Run)> {
    let is_earlier = |run: &&Run| run.name < new.name && run.head.pipeline == new.head.pipeline;
    let old = runs.iter().rev().find(is_earlier).ok_or_else(|| {
        let hint = Some("`decoct runs` names all there are; give two of them".to_string());
        Failure::usage(format!("there is no earlier run of `{}` to compare with", new.head.recipe), hint)
    })?;
    Ok((old, new))
}

/// A node in both runs; one side is empty where only the other has it.
struct Pair<'r> {
    node: &'r str,
    sides: [Option<Side<'r>>; 2],
}

struct Side<'r> {
    run: &'r RunNode,
    /// `None` where the work is no longer kept.
    work: Option<Manifest>,
}

/// In the order of the newer run, then what only the older has.
fn pairs<'r>(store: &Store, old: &'r Run, new: &'r Run) -> Vec<Pair<'r>> {
    let of = |run: &'r Run, name: &str| run.nodes.iter().rev().find(|node| node.node == name);
    let side = |run: &'r RunNode| Side { run, work: store.lookup_here(&run.key).ok().and_then(cache::Found::intact) };
    let mut names: Vec<&str> = Vec::new();
    for node in new.nodes.iter().chain(&old.nodes) {
        if !names.contains(&node.node.as_str()) {
            names.push(&node.node);
        }
    }
    let pair = |node: &'r str| Pair { node, sides: [of(old, node).map(side), of(new, node).map(side)] };
    names.into_iter().map(pair).collect()
}

impl Pair<'_> {
    /// What the later result was made from and the earlier was not. `None` where one of them is not here.
    fn differences(&self) -> Option<Vec<Difference>> {
        let [old, new] = self.sides.each_ref().map(|side| side.as_ref());
        let (old, new) = (old?, new?);
        if old.run.key == new.run.key {
            return Some(Vec::new());
        }
        Some(differences(&old.work.as_ref()?.preimage, &new.work.as_ref()?.preimage))
    }

    fn why(&self) -> String {
        match (&self.sides, self.differences()) {
            ([None, _], _) => "not in the old run".to_string(),
            ([_, None], _) => "not in the new run".to_string(),
            (_, Some(differences)) if differences.is_empty() => String::new(),
            (_, Some(differences)) => Why::Changed(differences).to_string(),
            (_, None) => "another key; what it was made from is no longer kept".to_string(),
        }
    }

    fn figures(&self) -> [Option<Figures>; 2] {
        self.sides.each_ref().map(|side| {
            let work = side.as_ref()?.work.as_ref()?;
            Some(Figures::of(work, ""))
        })
    }

    fn cells(&self) -> Vec<String> {
        let run = |figure: &dyn Fn(&RunNode) -> String| {
            self.sides.each_ref().map(|side| side.as_ref().map(|side| figure(side.run)).unwrap_or_default())
        };
        let rows = self.figures().map(|one| one.and_then(|one| one.rows).map(thousands).unwrap_or_default());
        let none_for_nothing = |text: String, is_nothing: bool| if is_nothing { String::new() } else { text };
        vec![
            self.node.to_string(),
            arrow(run(&|node| node.state.clone())),
            arrow(rows),
            arrow(run(&|node| none_for_nothing(thousands(node.calls), node.calls == 0))),
            arrow(run(&|node| none_for_nothing(dollars(node.cost_usd), node.cost_usd == 0.0))),
            arrow(run(&|node| none_for_nothing(duration(node.seconds), node.seconds < 0.005))),
            self.why(),
        ]
    }
}

/// One word where both sides are the same.
fn arrow([old, new]: [String; 2]) -> String {
    let told = |text: String| if text.is_empty() { "–".to_string() } else { text };
    if old == new { new } else { format!("{} → {}", told(old), told(new)) }
}

fn text(old: &Run, new: &Run, pairs: &[Pair]) -> String {
    let mut lines = vec![format!("old  {}", told(old)), format!("new  {}", told(new)), String::new()];
    let head = ["node", "state", "rows", "calls", "cost", "took", "what differs"].map(str::to_string);
    lines.extend(table::lines(&head, &pairs.iter().map(Pair::cells).collect::<Vec<_>>()));
    for pair in pairs {
        for (title, columns, rows) in scores(pair) {
            lines.extend([String::new(), format!("{} · {title}", pair.node)]);
            lines.extend(table::lines(&columns, &rows));
        }
    }
    lines.join("\n") + "\n"
}

/// A headline table of both runs, the cells that differ as old → new; rows are matched by their first cell.
fn scores(pair: &Pair) -> Vec<(String, Vec<String>, Vec<Vec<String>>)> {
    let tables = |at: usize| -> Vec<ReportTable> {
        let work = pair.sides[at].as_ref().and_then(|side| side.work.as_ref());
        let tables = work.map(|work| report_of(work).tables).unwrap_or_default();
        tables.into_iter().filter(|table| table.headline).collect()
    };
    let (old, new) = (tables(0), tables(1));
    let beside = |(at, table): (usize, ReportTable)| {
        let other = old.get(at);
        let cell = |row: &[String], column: &str| -> String {
            let at = |table: &ReportTable| table.columns.iter().position(|name| name == column);
            let before = other.and_then(|other| Some((other.rows.iter().find(|one| one[0] == row[0])?, at(other)?)));
            let before = before.map(|(before, at)| before[at].clone()).unwrap_or_default();
            arrow([before, row[at(&table).expect("a column of this table")].clone()])
        };
        let rows = table.rows.iter().map(|row| {
            let rest = table.columns.iter().skip(1).map(|column| cell(row, column));
            std::iter::once(row[0].clone()).chain(rest).collect()
        });
        (table.title.clone(), table.columns.clone(), rows.collect())
    };
    new.into_iter().enumerate().map(beside).collect()
}

fn to_json(old: &Run, new: &Run, pairs: &[Pair]) -> Value {
    let head = |run: &Run| {
        let total = |figure: fn(&RunNode) -> f64| run.nodes.iter().map(figure).sum::<f64>();
        json!({"name": run.name, "recipe": run.head.recipe, "overrides": run.head.overrides, "began_at": run.head.began_at,
            "calls": run.nodes.iter().map(|node| node.calls).sum::<u64>(), "cost_usd": total(|node| node.cost_usd),
            "seconds": total(|node| node.seconds)})
    };
    json!({"event": "diff", "old": head(old), "new": head(new), "nodes": pairs.iter().map(pair_json).collect::<Vec<_>>()})
}

fn pair_json(pair: &Pair) -> Value {
    let side = |(side, figures): (&Option<Side>, Option<Figures>)| {
        let Some(side) = side else { return Value::Null };
        let run = side.run;
        let tables = side.work.iter().flat_map(|work| report_of(work).tables).filter(|table| table.headline);
        json!({"key": run.key.to_string(), "state": run.state, "rows": figures.and_then(|one| one.rows), "calls": run.calls,
            "calls_reused": run.calls_reused, "cost_usd": run.cost_usd, "seconds": run.seconds,
            "scores": tables.collect::<Vec<_>>()})
    };
    let [old, new] = pair.figures();
    let differences = pair.differences().map(|all| {
        let told = |one: &Difference| {
            json!({"path": one.path, "old": one.old, "new": one.new, "told": describe(one, VALUE_CHARACTERS)})
        };
        all.iter().map(told).collect::<Vec<_>>()
    });
    json!({"node": pair.node, "old": side((&pair.sides[0], old)), "new": side((&pair.sides[1], new)),
        "differences": differences})
}
