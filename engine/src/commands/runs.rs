//! `decoct runs`: the runs on record, newest first, by the names that `decoct diff` takes.

use crate::cli::{EventFormat, RunsArgs};
use crate::failure::{Exit, Failure, Result};
use crate::report::table;
use crate::report::words::{ago, counted, dollars, duration, thousands};
use crate::workplace::cache_folder;
use cache::{Run, RunNode, Store, now_seconds};
use serde_json::{Value, json};
use stages::settings::nearest_hint;

/// Runs that are listed where no number is given.
const SHOWN_RUNS: usize = 20;
/// The newest run; `last~1` is the one before.
const LAST: &str = "last";

pub fn run(arguments: &RunsArgs) -> Result<Exit> {
    let store = Store::look(&cache_folder(&arguments.store)?)?;
    let runs = store.map(|store| store.runs()).transpose()?.unwrap_or_default();
    let count = arguments.rows.unwrap_or(SHOWN_RUNS);
    let newest = runs.iter().rev().enumerate().take(count);
    match arguments.format {
        EventFormat::Json => {
            println!("{}", json!({"event": "runs", "runs": newest.map(|(_, run)| to_json(run)).collect::<Vec<_>>()}))
        }
        EventFormat::Plain if runs.is_empty() => println!("there are no runs on record"),
        EventFormat::Plain => {
            let head = ["", "run", "began", "recipe", "nodes", "calls", "cost", "took"].map(str::to_string);
            let rows: Vec<Vec<String>> = newest.map(|(at, run)| cells(at, run)).collect();
            table::lines(&head, &rows).iter().for_each(|line| println!("{line}"));
            if runs.len() > count {
                println!("\n{}; `--rows N` shows more", counted((runs.len() - count) as u64, "earlier run"));
            }
        }
    }
    Ok(Exit::Done)
}

/// The run that a name means: `last`, `last~N`, or the beginning of its name.
///
/// # Errors
/// If there is none, or more than one.
pub fn find<'r>(runs: &'r [Run], name: &str) -> Result<&'r Run> {
    let back = match name.strip_prefix(LAST) {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix('~').and_then(|number| number.parse::<usize>().ok()),
        None => None,
    };
    if let Some(back) = back {
        let hint = Some(format!("there are {} on record", counted(runs.len() as u64, "run")));
        let none = || Failure::usage(format!("there is no run `{name}`"), hint);
        return runs.len().checked_sub(back + 1).map(|at| &runs[at]).ok_or_else(none);
    }
    let mut found = runs.iter().filter(|run| run.name.starts_with(name));
    match (found.next(), found.next()) {
        (Some(run), None) => Ok(run),
        (Some(_), Some(_)) => {
            let hint = Some("write more of it; `decoct runs` names them all".to_string());
            Err(Failure::usage(format!("several runs have a name that begins with `{name}`"), hint))
        }
        (None, _) => {
            let near = nearest_hint(name, runs.iter().map(|run| run.name.as_str()).chain([LAST]));
            let near = near.filter(|hint| hint.starts_with("did you mean"));
            let hint = near.or(Some("`decoct runs` names them; an output is written RECIPE:NODE".to_string()));
            Err(Failure::usage(format!("there is no run `{name}`"), hint))
        }
    }
}

/// One line about a run.
pub fn told(run: &Run) -> String {
    let overrides: String = run.head.overrides.iter().map(|text| format!(" {text}")).collect();
    let (calls, cost) = (counted(calls(run), "call"), dollars(cost_usd(run)));
    format!(
        "{}  {}{overrides}, {}: {}, {calls}, {cost}, {}",
        run.name,
        run.head.recipe,
        began(run),
        nodes(run),
        took(run)
    )
}

fn cells(at: usize, run: &Run) -> Vec<String> {
    let short = if at == 0 { LAST.to_string() } else { format!("{LAST}~{at}") };
    let overrides: String = run.head.overrides.iter().map(|text| format!(" {text}")).collect();
    let recipe = format!("{}{overrides}", run.head.recipe);
    let cost = if cost_usd(run) > 0.0 { dollars(cost_usd(run)) } else { String::new() };
    let calls = if calls(run) > 0 { thousands(calls(run)) } else { String::new() };
    vec![short, run.name.clone(), began(run), recipe, nodes(run), calls, cost, took(run)]
}

fn to_json(run: &Run) -> Value {
    let node = |node: &RunNode| {
        json!({"node": node.node, "kind": node.kind, "key": node.key.to_string(), "state": node.state,
            "calls": node.calls, "calls_reused": node.calls_reused, "cost_usd": node.cost_usd, "seconds": node.seconds})
    };
    json!({"name": run.name, "recipe": run.head.recipe, "pipeline": run.head.pipeline, "overrides": run.head.overrides,
        "began_at": run.head.began_at, "live": run.is_live, "calls": calls(run), "cost_usd": cost_usd(run),
        "nodes": run.nodes.iter().map(node).collect::<Vec<_>>()})
}

fn began(run: &Run) -> String {
    if run.is_live { "running".to_string() } else { ago(run.head.began_at, now_seconds()) }
}

/// `3 ran, 9 hit`
fn nodes(run: &Run) -> String {
    let count = |state: &str| run.nodes.iter().filter(|node| node.state == state).count();
    let counts = [(count("ran"), "ran"), (count("hit"), "hit")].into_iter().filter(|(count, _)| *count > 0);
    let told: Vec<String> = counts.map(|(count, word)| format!("{count} {word}")).collect();
    if told.is_empty() { "no node finished".to_string() } else { told.join(", ") }
}

/// The time of all nodes, also of those that ran side by side.
fn took(run: &Run) -> String {
    duration(run.nodes.iter().map(|node| node.seconds).sum())
}

fn calls(run: &Run) -> u64 {
    run.nodes.iter().map(|node| node.calls).sum()
}

fn cost_usd(run: &Run) -> f64 {
    run.nodes.iter().map(|node| node.cost_usd).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str) -> Run {
        let modified = std::time::SystemTime::UNIX_EPOCH;
        Run { name: name.into(), head: Default::default(), nodes: vec![], lost_lines: 0, is_live: false, modified }
    }

    #[test]
    fn a_run_has_a_short_name_and_a_beginning() {
        let runs = ["0a1-7-0", "0a2-7-0", "0b1-8-0"].map(run);
        for (name, expected) in [
            ("last", Ok("0b1-8-0")),
            ("last~2", Ok("0a1-7-0")),
            ("0a2", Ok("0a2-7-0")),
            ("0b1-8-0", Ok("0b1-8-0")),
            ("last~3", Err("there is no run `last~3`")),
            ("0a", Err("several runs")),
            ("lsat", Err("did you mean `last`?")),
            ("zzz", Err("`decoct runs`")),
        ] {
            match (find(&runs, name), expected) {
                (Ok(run), Ok(expected)) => assert_eq!(run.name, expected),
                (Err(failure), Err(expected)) => {
                    let told = failure.render(false);
                    assert!(told.contains(expected), "{name}: {told}");
                }
                (found, _) => panic!("{name}: {:?}", found.map(|run| &run.name).ok()),
            }
        }
        assert!(find(&[], "last").is_err());
    }
}
