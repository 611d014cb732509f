//! What training nodes will hold in memory, told in a plan and compared with the machine before a run begins.

use crate::failure::{Exit, Failure, Result};
use crate::graph::NodeIndex;
use crate::plan::{Decision, Planned, Planner};
use serde_json::{Value, json};
use stages::model::DecoderConfig;
use stages::stage::{Form, MemoryOutlook};
use stages::train::memory::{self, in_words};
use std::collections::HashMap;

/// Of each node that is to run and trains a model whose shape is known, in the plan's order.
pub fn outlooks<'a>(planner: &Planner<'a>, planned: &[Planned]) -> Vec<(&'a str, MemoryOutlook)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut shapes: HashMap<NodeIndex, DecoderConfig> = HashMap::new();
    let mut outlooks = Vec::new();
    for one in planned {
        let entry = planner.entry(one.node);
        let of_models = entry.stage.inputs().into_iter().filter(|input| input.form == Form::Model);
        let models: Vec<Option<DecoderConfig>> =
            of_models.map(|input| shapes.get(&planner.graph.index(&input.from.node)?).cloned()).collect();
        if let Some(shape) = entry.stage.shape(&models) {
            shapes.insert(one.node, shape);
        }
        if !matches!(one.decision, Decision::Hit(_)) {
            outlooks.extend(entry.stage.memory(&models, threads).map(|outlook| (entry.name.as_str(), outlook)));
        }
    }
    outlooks
}

/// A line each, with what to change where it may not fit.
pub fn lines(outlooks: &[(&str, MemoryOutlook)]) -> Vec<String> {
    let free = memory::available();
    let line = |(node, outlook): &(&str, MemoryOutlook)| {
        let total = outlook.likely.total();
        let short = free
            .filter(|&free| free < total)
            .map_or(String::new(), |free| format!("; {} are free here, and {}", in_words(free), outlook.advice));
        format!("  {node}: about {} ({}){short}", in_words(total), outlook.because)
    };
    let head = (!outlooks.is_empty()).then(|| "memory:".to_string());
    head.into_iter().chain(outlooks.iter().map(line)).collect()
}

pub fn to_json(outlook: &MemoryOutlook) -> Value {
    let MemoryOutlook { likely, because, least, advice } = outlook;
    json!({
        "bytes": likely.total(), "bytes_least": least, "assumed": because, "advice": advice,
        "parts": likely.parts(), "bytes_available": memory::available(),
    })
}

/// Refuses what cannot fit whatever the rows are like, before anything is spent.
///
/// # Errors
/// If a node needs more than is free.
pub fn check(outlooks: &[(&str, MemoryOutlook)]) -> Result<()> {
    let Some(free) = memory::available() else { return Ok(()) };
    match outlooks.iter().find(|(_, outlook)| outlook.least > free) {
        None => Ok(()),
        Some((node, outlook)) => Err(Failure::Plain {
            exit: Exit::Recipe,
            message: format!(
                "`{node}` needs at least {} of memory, and {} are free here",
                in_words(outlook.least),
                in_words(free)
            ),
            hint: Some(outlook.advice.clone()),
        }),
    }
}
