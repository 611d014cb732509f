//! What training nodes will hold in memory, told in a plan and compared with what there is before a run begins.
//!
//! There is what the machine and the control group have left, unless `DECOCT_MEMORY` says what this process may take as a whole: less,
//! or more where a user knows better.

use crate::failure::{Exit, Failure, Result};
use crate::graph::NodeIndex;
use crate::plan::{Decision, Planned, Planner};
use serde_json::{Value, json};
use stages::context::{Device, Profile};
use stages::model::DecoderConfig;
use stages::stage::{Form, MemoryOutlook};
use stages::train::memory::{self, in_words};
use std::collections::HashMap;

/// The variable that says how much this process may take, such as `8GB`.
const VARIABLE: &str = "DECOCT_MEMORY";
/// As `in_words` counts.
const UNITS: [(&str, u64); 4] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)];

/// Bytes that this process may still take; `None` where nobody tells.
///
/// # Errors
/// If `DECOCT_MEMORY` is no amount of memory.
pub fn available() -> Result<Option<u64>> {
    match std::env::var(VARIABLE) {
        Ok(told) => Ok(Some(allowed(&told)?.saturating_sub(memory::held()))),
        Err(_) => Ok(memory::available()),
    }
}

fn allowed(told: &str) -> Result<u64> {
    bytes(told).ok_or_else(|| Failure::Plain {
        exit: Exit::Recipe,
        message: format!("`{VARIABLE}` is `{told}`, which is no amount of memory"),
        hint: Some("such as `500MB` or `8GB`".to_string()),
    })
}

fn bytes(words: &str) -> Option<u64> {
    let words = words.trim().to_uppercase();
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((words.strip_suffix(name)?, *unit)))?;
    let number: f64 = number.trim().parse().ok()?;
    (number > 0.0 && number.is_finite()).then_some((number * unit as f64) as u64)
}

/// Models of this machine's processor, with all its threads.
pub fn processor() -> Profile {
    Profile::Cpu { threads: std::thread::available_parallelism().map_or(1, usize::from) }
}

/// Of each node that is to run and trains a model whose shape is known, in the plan's order.
pub fn outlooks<'a>(planner: &Planner<'a>, planned: &[Planned], on: Profile) -> Vec<(&'a str, MemoryOutlook)> {
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
            outlooks.extend(entry.stage.memory(&models, on).map(|outlook| (entry.name.as_str(), outlook)));
        }
    }
    outlooks
}

/// A line each, with what to change where it may not fit.
///
/// # Errors
/// If `DECOCT_MEMORY` is no amount of memory.
pub fn lines(outlooks: &[(&str, MemoryOutlook)]) -> Result<Vec<String>> {
    if outlooks.is_empty() {
        return Ok(Vec::new());
    }
    let free = available()?;
    let line = |(node, outlook): &(&str, MemoryOutlook)| {
        let total = outlook.likely.total();
        let short = free
            .filter(|&free| free < total)
            .map_or(String::new(), |free| format!("; {} are free here, and {}", in_words(free), outlook.advice));
        let uses = outlook.likely.uses_in_words();
        format!("  {node}: about {} with {} ({uses}){short}", in_words(total), outlook.because)
    };
    Ok(["memory:".to_string()].into_iter().chain(outlooks.iter().map(line)).collect())
}

/// # Errors
/// If `DECOCT_MEMORY` is no amount of memory.
pub fn to_json(outlook: &MemoryOutlook) -> Result<Value> {
    let MemoryOutlook { likely, because, least, advice } = outlook;
    Ok(json!({
        "bytes": likely.total(), "bytes_least": least.total(), "assumed": because, "advice": advice,
        "parts": likely.parts(), "bytes_available": available()?,
    }))
}

/// Refuses what cannot fit on the device whatever the rows are like, before anything is spent.
///
/// # Errors
/// If a node needs more than is free, or `DECOCT_MEMORY` is no amount of memory.
pub fn check(outlooks: &[(&str, MemoryOutlook)], device: &Device) -> Result<()> {
    let Some(free) = device.memory_free().map_or_else(available, |free| Ok(Some(free)))? else { return Ok(()) };
    match outlooks.iter().find(|(_, outlook)| outlook.least.total() > free) {
        None => Ok(()),
        Some((node, MemoryOutlook { least, advice, .. })) => Err(Failure::Plain {
            exit: Exit::Recipe,
            message: format!(
                "`{node}` would hold at least {} in memory whatever its rows are like ({}), and {} are free here",
                in_words(least.total()),
                least.uses_in_words(),
                in_words(free)
            ),
            hint: Some(format!(
                "{advice}; `{VARIABLE}=…GB` says how much this process may take, where that is another amount"
            )),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory_are_read() {
        let check = |words: &str, expected: Option<u64>| assert_eq!(bytes(words), expected, "{words}");
        check("8GB", Some(8_000_000_000));
        check(" 1.5 mb ", Some(1_500_000));
        check("700B", Some(700));
        check("700", None);
        check("-1GB", None);
        check("much", None);
    }
}
