//! `decoct plan`: what a run would do, why, and what it would cost. Sends nothing, writes nothing.

use crate::cli::{EventFormat, PlanArgs};
use crate::failure::{Exit, Result};
use crate::forecast::{self, Foreseen, Totals};
use crate::memory;
use crate::plan::{Decision, Planned, Planner};
use crate::report::PlainReporter;
use crate::report::egress;
use crate::report::forecast::{self as told, Line};
use crate::spec::{ModelEntry, Recipe};
use crate::workplace::{Workplace, overrides_as_written};

pub fn run(arguments: &PlanArgs) -> Result<Exit> {
    let reporter = PlainReporter::new();
    let workplace = Workplace::open(&arguments.recipe, &arguments.store)?;
    let wishes = workplace.wishes(&arguments.scope)?;
    let store = workplace.store_if_any()?;
    let past = workplace.past(store.as_ref(), &reporter);
    let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
    let mut known = workplace.known(&planner)?;
    let planned = planner.plan(&mut known, &wishes)?;
    let foreseen = forecast::forecast(&planner, &planned, &known, &wishes, store.as_ref())?;
    let lines: Vec<Line> = planned.iter().zip(&foreseen).map(|(one, foreseen)| line(&planner, one, foreseen)).collect();
    let totals = Totals::of(&foreseen);
    let recipe = &workplace.recipe;
    let memory = memory::outlooks(&planner, &planned, memory::processor());
    let by_node = || lines.iter().map(|line| (line.node, line.foreseen));
    match arguments.format {
        EventFormat::Json => {
            let mut plan = told::to_json(&overrides_as_written(&arguments.recipe), &lines, &totals);
            for (node, outlook) in &memory {
                let place = lines.iter().position(|line| line.node == *node).expect("a node of the plan");
                plan["nodes"][place]["memory"] = memory::to_json(outlook)?;
            }
            if recipe.egress.is_some() {
                plan["egress"] = egress::to_json(recipe, by_node());
            }
            println!("{plan}");
        }
        EventFormat::Plain => {
            overrides_as_written(&arguments.recipe).iter().for_each(|overlay| println!("with {overlay}"));
            told::lines(&lines, &totals).iter().for_each(|line| println!("{line}"));
            memory::lines(&memory)?.iter().for_each(|line| println!("{line}"));
            priced_by_table(recipe).iter().for_each(|line| println!("{line}"));
            egress::lines(recipe, by_node()).iter().for_each(|line| println!("{line}"));
        }
    }
    if let Some(team) = &workplace.team {
        team.tell(&reporter);
        team.check()?;
    }
    workplace.check_environment(&planned, &wishes)?;
    Ok(Exit::Done)
}

/// Which entry of the recipe's `prices:` a model of the plan takes, where it states none itself.
fn priced_by_table(recipe: &Recipe) -> Vec<String> {
    let line = |model: &ModelEntry| {
        let (pattern, prices) = (model.priced_by.as_ref()?, model.spec.prices()?);
        let [tokens_in, tokens_out] = [prices.input_usd_per_million, prices.output_usd_per_million];
        Some(format!("  `{}`: ${tokens_in} in, ${tokens_out} out a million tokens, by `{pattern}`", model.name))
    };
    let lines: Vec<String> = recipe.models.values().filter_map(line).collect();
    let head = (!lines.is_empty()).then(|| "prices from the recipe's `prices:`:".to_string());
    head.into_iter().chain(lines).collect()
}

fn line<'a>(planner: &Planner<'a>, planned: &'a Planned, foreseen: &'a Foreseen) -> Line<'a> {
    let node = planner.entry(planned.node);
    let why = match &planned.decision {
        Decision::Hit(_) => "nothing changed".to_string(),
        Decision::Run { why, .. } => why.to_string(),
        Decision::Waits { on } => format!("for {}", on.join(", ")),
    };
    Line { node: &node.name, kind: node.kind.name, state: planned.decision.word(), why, foreseen }
}
