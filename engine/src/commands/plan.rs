//! `decoct plan`: what a run would do, and why. Sends nothing, writes nothing.

use crate::cli::{EventFormat, PlanArgs};
use crate::failure::{Exit, Result};
use crate::plan::{Decision, Planned, Planner};
use crate::report::words::{dollars, thousands};
use crate::report::{PlainReporter, table};
use crate::workplace::{Workplace, overrides_as_written};
use cache::Output;
use serde_json::{Value, json};

pub fn run(arguments: &PlanArgs) -> Result<Exit> {
    let reporter = PlainReporter::new();
    let workplace = Workplace::open(&arguments.recipe, &arguments.store)?;
    let wishes = workplace.wishes(&arguments.scope)?;
    let store = workplace.store_if_any()?;
    let past = workplace.past(store.as_ref(), &reporter);
    let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
    let stat_cache = store.as_ref().filter(|_| !arguments.store.no_stat_cache).map(|store| store.stat_cache());
    let mut known = workplace.known(&planner, stat_cache.as_ref())?;
    let planned = planner.plan(&mut known, &wishes)?;
    let lines: Vec<Line> = planned.iter().map(|one| Line::of(&planner, one)).collect();
    match arguments.format {
        EventFormat::Json => println!("{}", to_json(&lines)),
        EventFormat::Plain => print_table(arguments, &lines),
    }
    if let Some(team) = &workplace.team {
        team.tell(&reporter);
        team.check()?;
    }
    workplace.check_environment(&planned, &wishes)?;
    Ok(Exit::Done)
}

/// What is said about one node. Figures of a node that is no hit are those of the last time: a measure, not a promise.
struct Line<'a> {
    node: &'a str,
    kind: &'a str,
    state: &'static str,
    why: String,
    rows: Option<u64>,
    calls: u64,
    tokens_in: u64,
    tokens_out: u64,
    cost_usd: f64,
}

impl<'a> Line<'a> {
    fn of(planner: &Planner<'a>, planned: &Planned) -> Line<'a> {
        let node = planner.entry(planned.node);
        let (why, figures) = match &planned.decision {
            Decision::Hit(manifest) => ("nothing changed".to_string(), Some(&**manifest)),
            Decision::Run { why, .. } => (why.to_string(), planned.last.as_ref()),
            Decision::Waits { on } => (format!("for {}", on.join(", ")), planned.last.as_ref()),
        };
        let first = node.output("").map(|output| output.name).unwrap_or_default();
        let provenance = figures.map(|manifest| &manifest.provenance);
        Line {
            node: &node.name,
            kind: node.kind.name,
            state: planned.decision.word(),
            why,
            rows: figures.and_then(|manifest| manifest.outputs.get(&first)).and_then(Output::rows),
            calls: provenance.map_or(0, |made| made.calls + made.calls_reused),
            tokens_in: provenance.map_or(0, |made| made.tokens_in),
            tokens_out: provenance.map_or(0, |made| made.tokens_out),
            cost_usd: provenance.map_or(0.0, |made| made.cost_usd),
        }
    }

    fn is_hit(&self) -> bool {
        self.state == "hit"
    }

    fn cells(&self) -> Vec<String> {
        let about = if self.is_hit() { "" } else { "~" };
        let counted = |number: u64| if number == 0 { String::new() } else { format!("{about}{}", thousands(number)) };
        let rows = self.rows.map(|rows| format!("{about}{}", thousands(rows))).unwrap_or_default();
        let cost = if self.cost_usd > 0.0 { format!("{about}{}", dollars(self.cost_usd)) } else { String::new() };
        vec![self.state.into(), self.node.into(), self.kind.into(), rows, counted(self.calls), cost, self.why.clone()]
    }

    fn to_json(&self) -> Value {
        let (new, paid) = if self.is_hit() { (0, self.calls) } else { (self.calls, 0) };
        json!({"node": self.node, "kind": self.kind, "state": self.state, "why": self.why, "rows": self.rows,
            "calls": new, "calls_paid": paid, "tokens_in": self.tokens_in, "tokens_out": self.tokens_out,
            "cost_usd": self.cost_usd})
    }
}

fn to_json(lines: &[Line]) -> Value {
    json!({"event": "plan", "nodes": lines.iter().map(Line::to_json).collect::<Vec<_>>()})
}

fn print_table(arguments: &PlanArgs, lines: &[Line]) {
    for overlay in overrides_as_written(&arguments.recipe) {
        println!("with {overlay}");
    }
    let columns = ["", "node", "kind", "rows", "calls", "cost", "why"].map(str::to_string);
    let rows: Vec<Vec<String>> = lines.iter().map(Line::cells).collect();
    for line in table::lines(&columns, &rows) {
        println!("{line}");
    }
    let count = |state: &str| lines.iter().filter(|line| line.state == state).count();
    println!("\n{} hit, {} to run, {} waiting for them", count("hit"), count("run"), count("waits"));
    if lines.iter().any(|line| !line.is_hit() && line.rows.is_some()) {
        println!("~ as it was the last time");
    }
}
