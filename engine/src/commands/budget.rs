//! `run --budget-usd`: a warning before, and what is left to do when the money has run out.

use crate::cli::RunArgs;
use crate::failure::Result;
use crate::forecast::{self, Totals};
use crate::plan::{Decision, Planner, Wishes};
use crate::report::words::dollars;
use crate::report::{Event, Remains, Reporter, RunSummary, State};
use crate::workplace::Workplace;

/// A budget that the plan passes even at its low end.
pub fn warn(totals: &Totals, budget_usd: f64, reporter: &dyn Reporter) {
    let Some(cost) = totals.cost.filter(|cost| cost.likely_low > budget_usd) else { return };
    let message = format!(
        "the budget of {} will not do: the plan comes to {} at least, {} are expected; what is done until then is kept",
        dollars(budget_usd),
        dollars(cost.likely_low),
        dollars(cost.expected)
    );
    reporter.tell(&Event::Warned { node: None, message: &message });
}

/// Plans again, from where the run has stopped.
///
/// # Errors
/// If the store cannot be read any more.
pub fn tell_what_remains(
    arguments: &RunArgs,
    workplace: &Workplace,
    mut wishes: Wishes,
    summary: &RunSummary,
    reporter: &dyn Reporter,
) -> Result<()> {
    for done in summary.nodes.iter().filter(|node| matches!(node.state, State::Hit | State::Ran)) {
        wishes.force.remove(&done.node);
        wishes.retry_marked.remove(&done.node);
    }
    let store = workplace.store_if_any()?;
    let past = workplace.past(store.as_ref(), reporter);
    let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
    let mut known = workplace.known(&planner)?;
    let planned = planner.plan(&mut known, &wishes)?;
    let foreseen = forecast::forecast(&planner, &planned, &known, &wishes, store.as_ref())?;
    let left = planned.iter().zip(&foreseen).filter(|(one, _)| !matches!(one.decision, Decision::Hit(_)));
    let nodes: Vec<&str> = left.map(|(one, _)| planner.entry(one.node).name.as_str()).collect();
    let totals = Totals::of(&foreseen);
    let command = next_command(std::env::args(), totals.cost.map(|cost| cost.likely_high));
    reporter.tell(&Event::Remains(&Remains {
        spent_usd: summary.total(|node| node.cost_usd),
        budget_usd: arguments.budget_usd.unwrap_or_default(),
        nodes,
        rows: foreseen.iter().map(|one| one.rows_to_ask).sum::<f64>().round() as u64,
        totals: &totals,
        command,
    }));
    Ok(())
}

/// This command again, with a budget that will do; without one where the cost is not known.
fn next_command(arguments: impl Iterator<Item = String>, budget_usd: Option<f64>) -> String {
    const BUDGET: &str = "--budget-usd";
    let mut words: Vec<String> = vec!["decoct".to_string()];
    let mut arguments = arguments.skip(1);
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix(BUDGET) {
            Some("") => _ = arguments.next(),
            Some(_) => {}
            None => words.push(quoted(argument)),
        }
    }
    words.extend(budget_usd.map(|usd| format!("{BUDGET} {:.2}", (usd * 100.0).ceil() / 100.0)));
    words.join(" ")
}

/// As a shell reads it back.
fn quoted(word: String) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_command_is_this_one_with_enough_money() {
        for (arguments, expected) in [
            ("decoct run r.yaml --budget-usd 0.2 --until x", "decoct run r.yaml --until x --budget-usd 1.24"),
            ("decoct run --budget-usd=0.2 r.yaml", "decoct run r.yaml --budget-usd 1.24"),
            ("/a/decoct run it's.yaml", r"decoct run 'it'\''s.yaml' --budget-usd 1.24"),
        ] {
            let words = arguments.split(' ').map(str::to_string);
            assert_eq!(next_command(words, Some(1.2301)), expected);
        }
        assert_eq!(next_command(["decoct".to_string(), "run".to_string()].into_iter(), None), "decoct run");
    }
}
