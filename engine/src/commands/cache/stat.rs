//! `decoct cache stat`: what takes how much space.

use super::open;
use crate::cli::{CacheStatArgs, EventFormat};
use crate::failure::{Exit, Result};
use crate::report::table;
use crate::report::words::{bytes, counted, thousands};
use cache::{NodeUsage, Share, SweepOptions, SweepPlan, Usage};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

pub fn run(arguments: &CacheStatArgs) -> Result<Exit> {
    let store = open(&arguments.store)?;
    let usage = store.usage()?;
    let sweep = store.plan_sweep(&BTreeSet::new(), &SweepOptions::default())?;
    match arguments.format {
        EventFormat::Json => {
            println!("{}", json!({"event": "stat", "usage": usage, "sweep_frees_bytes": sweep.total.bytes}))
        }
        EventFormat::Plain => print_tables(&usage, &sweep),
    }
    Ok(Exit::Done)
}

fn print_tables(usage: &Usage, sweep: &SweepPlan) {
    if !usage.nodes.is_empty() {
        print_nodes(&usage.nodes, sweep);
        println!();
    }
    let columns = ["besides", "files", "space"].map(str::to_string);
    let replies = Share { files: usage.replies.logs, bytes: usage.replies.bytes };
    let rows: Vec<Vec<String>> = [
        (format!("replies of models ({})", thousands(usage.replies.replies)), replies),
        ("checkpoints of work in progress".to_string(), usage.scratch),
        ("files that no result names".to_string(), usage.orphans),
        ("files being written".to_string(), usage.temporary),
        ("histories, runs, pins".to_string(), usage.records),
        ("locks, stat cache and the like".to_string(), usage.rest),
    ]
    .into_iter()
    .filter(|(_, share)| share.files > 0)
    .map(|(what, share)| vec![what, thousands(share.files), bytes(share.bytes)])
    .collect();
    table::lines(&columns, &rows).iter().for_each(|line| println!("{line}"));
    println!("\n{} in all, in {}", bytes(usage.total.bytes), counted(usage.total.files, "file"));
    if sweep.total.bytes > 0 {
        println!("`decoct cache sweep --yes` would free {}", bytes(sweep.total.bytes));
    }
}

fn print_nodes(nodes: &[NodeUsage], sweep: &SweepPlan) {
    let swept: HashMap<(&str, &str), u64> =
        sweep.nodes.iter().map(|node| ((node.pipeline.as_str(), node.node.as_str()), node.bytes)).collect();
    let columns = ["pipeline", "node", "generations", "space", "shared", "sweep frees"].map(str::to_string);
    let cells = |node: &NodeUsage| {
        let space = |amount: u64| if amount == 0 { String::new() } else { bytes(amount) };
        let frees = swept.get(&(node.pipeline.as_str(), node.node.as_str())).copied().unwrap_or(0);
        let name = if node.node.is_empty() { "(unknown)" } else { &node.node };
        let generations = thousands(node.generations);
        let (all, shared) = (bytes(node.bytes), space(node.shared_bytes));
        vec![node.pipeline.clone(), name.to_string(), generations, all, shared, space(frees)]
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(cells).collect();
    table::lines(&columns, &rows).iter().for_each(|line| println!("{line}"));
}
