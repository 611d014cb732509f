//! `decoct cache sweep`: drops what nothing needs any more.

use super::keys::{NodeKey, keys_of};
use super::open;
use crate::cli::{CacheSweepArgs, EventFormat};
use crate::failure::{Exit, Result};
use crate::report::table;
use crate::report::words::{bytes, counted, thousands};
use cache::{ActionKey, Merged, Share, Store, SweepOptions, SweepPlan, Swept};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub fn run(arguments: &CacheSweepArgs) -> Result<Exit> {
    let store = open(&arguments.store)?;
    let roots = roots(&store, arguments)?;
    let plan = store.plan_sweep(&roots, &SweepOptions { grace: arguments.grace })?;
    let swept = arguments.yes.then(|| store.sweep(&plan)).transpose()?;
    let merged = arguments.replies.then(|| store.merge_replies(arguments.yes)).transpose()?;
    match arguments.format {
        EventFormat::Json => println!("{}", to_json(&plan, swept, merged)),
        EventFormat::Plain => print(&plan, swept, merged),
    }
    Ok(Exit::Done)
}

fn roots(store: &Store, arguments: &CacheSweepArgs) -> Result<BTreeSet<ActionKey>> {
    let mut roots = BTreeSet::new();
    for recipe in &arguments.recipes {
        let (_, nodes) = keys_of(recipe, &arguments.overrides, &[], store, &arguments.store)?;
        roots.extend(nodes.iter().flat_map(NodeKey::needed));
    }
    Ok(roots)
}

fn to_json(plan: &SweepPlan, swept: Option<Swept>, merged: Option<Merged>) -> Value {
    let (would_free, freed) =
        (plan.total.bytes + freed_by(merged), swept.map(|swept| swept.removed.bytes + freed_by(merged)));
    json!({"event": "sweep", "nodes": plan.nodes, "orphans": plan.orphans, "scratch": plan.scratch,
        "records": plan.records, "replies": merged, "kept_generations": plan.kept_generations,
        "would_free_bytes": would_free, "freed_bytes": freed,
        "spared_files": swept.map(|swept| swept.spared)})
}

fn freed_by(merged: Option<Merged>) -> u64 {
    merged.map_or(0, |merged| merged.freed_bytes)
}

fn print(plan: &SweepPlan, swept: Option<Swept>, merged: Option<Merged>) {
    let columns = ["pipeline", "node", "generations", "space"].map(str::to_string);
    let nodes = plan.nodes.iter().map(|node| {
        let name = if node.node.is_empty() { "(unknown)" } else { &node.node };
        vec![node.pipeline.clone(), name.to_string(), thousands(node.generations), bytes(node.bytes)]
    });
    let merging = merged.filter(|merged| merged.logs_before > 0).map(|merged| {
        let what = format!("merging {} of replies", counted(merged.logs_before, "log"));
        (what, Share { files: merged.logs_before, bytes: merged.freed_bytes })
    });
    let others = [
        ("checkpoints no one is busy with", plan.scratch),
        ("files that no result names", plan.orphans),
        ("histories and runs without results", plan.records),
    ];
    let others = others.map(|(what, share)| (what.to_string(), share)).into_iter().chain(merging);
    let others = others.filter(|(_, share)| share.files > 0);
    let others = others.map(|(what, share)| vec![String::new(), what, String::new(), bytes(share.bytes)]);
    let rows: Vec<Vec<String>> = nodes.chain(others).collect();
    if !rows.is_empty() {
        table::lines(&columns, &rows).iter().for_each(|line| println!("{line}"));
        println!();
    }
    println!("{}", conclusion(plan, swept, merged));
}

fn conclusion(plan: &SweepPlan, swept: Option<Swept>, merged: Option<Merged>) -> String {
    let kept = format!("{} kept", counted(plan.kept_generations, "generation"));
    let Some(swept) = swept else {
        let would_free = plan.total.bytes + freed_by(merged);
        return match would_free == 0 && plan.is_empty() {
            true => format!("nothing to remove; {kept}"),
            false => format!("would free {}; {kept}. Nothing is removed without `--yes`", bytes(would_free)),
        };
    };
    let spared = match swept.spared {
        0 => String::new(),
        spared => format!("; {} stayed, needed since", counted(spared, "file")),
    };
    format!("freed {}; {kept}{spared}", bytes(swept.removed.bytes + freed_by(merged)))
}
