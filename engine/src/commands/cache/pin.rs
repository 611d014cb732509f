//! `decoct cache pin`: keeps finished work from sweeps.

use super::keys::{CurrentKey, NodeKey, keys_of};
use super::open;
use crate::cli::{CachePinArgs, EventFormat};
use crate::failure::{Exit, Failure, Result};
use crate::report::table;
use crate::report::words::{ago, counted, thousands};
use crate::workplace::overrides_on_record;
use cache::{ActionKey, Pin, Store};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

pub fn run(arguments: &CachePinArgs) -> Result<Exit> {
    let store = open(&arguments.store)?;
    match (&arguments.recipe, &arguments.remove) {
        (_, Some(name)) => remove(&store, name)?,
        (Some(recipe), None) => pin(&store, recipe, arguments)?,
        (None, None) => list(&store, arguments.format)?,
    }
    Ok(Exit::Done)
}

fn pin(store: &Store, recipe: &Path, arguments: &CachePinArgs) -> Result<()> {
    let (pipeline, nodes) = keys_of(recipe, &arguments.overrides, &arguments.until, store, &arguments.store)?;
    let pin = Pin {
        name: arguments.name.clone().unwrap_or_else(|| pipeline.clone()),
        at: cache::now_seconds(),
        keys: finished_keys(recipe, &nodes)?,
        pipeline,
        recipe: recipe.display().to_string(),
        overrides: overrides_on_record(&arguments.overrides),
    };
    let is_new = store.pins()?.iter().all(|old| old.name != pin.name);
    store.pin(&pin)?;
    match arguments.format {
        EventFormat::Json => println!("{}", json!(pin)),
        EventFormat::Plain => {
            let replaced = if is_new { "" } else { "; what the pin of that name kept before is let go" };
            eprintln!("pinned {} as `{}`{replaced}", counted(pin.keys.len() as u64, "node"), pin.name);
        }
    }
    Ok(())
}

/// All of them, or none is pinned: half a pipeline is not what anyone wants to come back to.
fn finished_keys(recipe: &Path, nodes: &[NodeKey]) -> Result<BTreeMap<String, ActionKey>> {
    let mut keys = BTreeMap::new();
    for node in nodes {
        let CurrentKey::Finished(key) = node.key else { return Err(unfinished(recipe, &node.node)) };
        keys.insert(node.node.clone(), key);
    }
    Ok(keys)
}

fn unfinished(recipe: &Path, node: &str) -> Failure {
    let hint = format!("`decoct run {}` first, or pin a part of it with `--until NODE`", recipe.display());
    Failure::usage(format!("`{node}` is not finished, so it cannot be pinned"), Some(hint))
}

fn remove(store: &Store, name: &str) -> Result<()> {
    if store.unpin(name)? {
        eprintln!("removed pin `{name}`: what only it kept is removed by the next sweep, once it is old enough");
        return Ok(());
    }
    Err(Failure::usage(format!("there is no pin `{name}`"), Some("`decoct cache pin --list` names them".to_string())))
}

fn list(store: &Store, format: EventFormat) -> Result<()> {
    let pins = store.pins()?;
    if format == EventFormat::Json {
        println!("{}", json!({"event": "pins", "pins": pins}));
        return Ok(());
    }
    if pins.is_empty() {
        eprintln!("no pins; `decoct cache pin RECIPE` makes one");
        return Ok(());
    }
    let columns = ["pin", "pipeline", "nodes", "pinned", "recipe"].map(str::to_string);
    let rows: Vec<Vec<String>> = pins.iter().map(cells).collect();
    table::lines(&columns, &rows).iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn cells(pin: &Pin) -> Vec<String> {
    let recipe = std::iter::once(&pin.recipe).chain(&pin.overrides).cloned().collect::<Vec<_>>().join(" ");
    let nodes = thousands(pin.keys.len() as u64);
    vec![pin.name.clone(), pin.pipeline.clone(), nodes, ago(pin.at, cache::now_seconds()), recipe]
}
