//! `decoct run`: brings every node up to date, or those that one needs.

use super::budget;
use crate::cli::{EventFormat, RunArgs};
use crate::executor::stop::Stop;
use crate::executor::{self, Executor};
use crate::failure::{Exit, Failure, Result};
use crate::forecast::{self, Totals};
use crate::graph::NodeIndex;
use crate::memory;
use crate::plan::{Decision, Planned, Planner, Wishes};
use crate::report::{Event, JsonReporter, NodeSummary, PlainReporter, Reporter, RunSummary, State};
use crate::schedule::{self, Fate};
use crate::spec::Recipe;
use crate::team::Team;
use crate::up_to_date;
use crate::waiting::Waiting;
use crate::workplace::{Workplace, overrides_as_written, overrides_on_record};
use cache::{RunHead, RunRecord, Store};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// A node that gave up reading its inputs tells nothing itself.
const BROKEN_DISK: &str = "an input was damaged each time it was made again; the disk may be failing";

pub fn run(arguments: &RunArgs) -> Result<Exit> {
    let (started, began) = (Instant::now(), SystemTime::now());
    let reporter = reporter(arguments.format);
    if let Some(nodes) = up_to_date::recall(arguments) {
        return Ok(tell_up_to_date(arguments, nodes, started, &*reporter));
    }
    let workplace = Workplace::open(&arguments.recipe, &arguments.store)?;
    let wishes = wishes(arguments, &workplace)?;
    let store = workplace.store()?;
    let past = workplace.past(Some(&store), &*reporter);
    let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
    let mut known_now = workplace.known(&planner)?;
    let planned = planner.plan(&mut known_now, &wishes)?;
    workplace.check_environment(&planned, &wishes)?;
    workplace.team.as_ref().map_or(Ok(()), Team::check)?;
    let warn = |message: &str| reporter.tell(&Event::Warned { node: None, message });
    let computes = computes(&planner, &planned, &wishes);
    let device = super::device::open_if_needed(computes, &arguments.machine, &arguments.store, warn)?;
    memory::check(&memory::outlooks(&planner, &planned, device.profile()), &device)?;
    begin(arguments, &planner, &*reporter);
    if let Some(budget_usd) = arguments.budget_usd {
        let foreseen = forecast::forecast(&planner, &planned, &known_now, &wishes, Some(&store))?;
        budget::warn(&Totals::of(&foreseen), budget_usd, &*reporter);
    }
    let waiting = waiting(&workplace.recipe)?;
    let stop = Stop::default();
    listen(&stop, waiting.handle(), &reporter);
    let record = record(arguments, &workplace, &store, &*reporter).map(Arc::new);
    let unfinished = wishes.clone();
    let settings = executor::Settings { device, budget_usd: arguments.budget_usd, wishes, record: record.clone() };
    let team = workplace.team.as_ref();
    let executor = Executor::new(
        &planner,
        &store,
        team,
        &*reporter,
        waiting.handle().clone(),
        stop.clone(),
        workplace.known(&planner)?,
        settings,
    );
    let fates = schedule::run(&upstream(&planner), super::jobs(&arguments.machine), &executor);
    let executor::Results { summaries, manifests, exit } = executor.into_results();
    let nodes = summaries_in_order(&planner, &fates, summaries, &*reporter);
    team.inspect(|team| team.tell(&*reporter));
    let ok = nodes.iter().all(|node| matches!(node.state, State::Hit | State::Ran));
    let summary = RunSummary { ok, seconds: started.elapsed().as_secs_f64(), nodes };
    let remembered = record.filter(|_| workplace.team.is_none()).map_or(Ok(()), |record| {
        up_to_date::remember(arguments, &planner, &summary.nodes, &manifests, record.path(), (&store, began))
    });
    for noted in [workplace.remember_files(), remembered] {
        if let Err(error) = noted {
            // It costs looking again next time, not the work.
            reporter.tell(&Event::Warned { node: None, message: &error.to_string() });
        }
    }
    if exit == Some(Exit::Budget) {
        budget::tell_what_remains(arguments, &workplace, unfinished, &summary, &*reporter)?;
    }
    reporter.tell(&Event::Ended(&summary));
    Ok(if ok { Exit::Done } else { exit_of(&stop, exit) })
}

/// Whether a node that is to run needs the device.
fn computes(planner: &Planner, planned: &[Planned], wishes: &Wishes) -> bool {
    planned.iter().any(|one| {
        let node = planner.entry(one.node);
        let runs = !matches!(one.decision, Decision::Hit(_)) || wishes.recheck.contains(&node.name);
        runs && planner.recipe.needs_device(node)
    })
}

/// Ends a run whose answer is known from an earlier one.
fn tell_up_to_date(arguments: &RunArgs, nodes: Vec<NodeSummary>, started: Instant, reporter: &dyn Reporter) -> Exit {
    let names: Vec<&str> = nodes.iter().map(|node| node.node.as_str()).collect();
    let overrides = overrides_as_written(&arguments.recipe);
    reporter.tell(&Event::Begun { recipe: &arguments.recipe.recipe, overrides: &overrides, nodes: &names });
    nodes.iter().for_each(|node| reporter.tell(&Event::Settled(node)));
    let summary = RunSummary { ok: true, seconds: started.elapsed().as_secs_f64(), nodes };
    reporter.tell(&Event::Ended(&summary));
    Exit::Done
}

fn wishes(arguments: &RunArgs, workplace: &Workplace) -> Result<Wishes> {
    let recheck = workplace.nodes_named(&arguments.recheck)?;
    Ok(Wishes { recheck, ..workplace.wishes(&arguments.scope)? })
}

fn reporter(format: EventFormat) -> Arc<dyn Reporter> {
    match format {
        EventFormat::Plain => Arc::new(PlainReporter::new()),
        EventFormat::Json => Arc::new(JsonReporter::default()),
    }
}

fn begin(arguments: &RunArgs, planner: &Planner, reporter: &dyn Reporter) {
    let overrides = overrides_as_written(&arguments.recipe);
    let nodes: Vec<&str> = planner.entries().map(|node| node.name.as_str()).collect();
    reporter.tell(&Event::Begun { recipe: &arguments.recipe.recipe, overrides: &overrides, nodes: &nodes });
}

/// The record of this run. Without one it can still be done: what it uses is then only as safe from sweeps as it is young.
fn record(arguments: &RunArgs, workplace: &Workplace, store: &Store, reporter: &dyn Reporter) -> Option<RunRecord> {
    let head = RunHead {
        began_at: cache::now_seconds(),
        made_by: executor::MADE_BY.to_string(),
        pipeline: workplace.recipe.name.clone(),
        recipe: arguments.recipe.recipe.display().to_string(),
        overrides: overrides_on_record(&arguments.recipe.overrides),
    };
    let warn = |error: &cache::Error| reporter.tell(&Event::Warned { node: None, message: &error.to_string() });
    store.begin_run(&head).inspect_err(warn).ok()
}

/// Threads for what waits; what computes has its own. Calls over the wire cost less where one thread makes them all, each kind of
/// step for all connections in turn. A rehearsal thinks on these threads, so it is given every core.
fn waiting(recipe: &Recipe) -> Result<Waiting> {
    let thinks = recipe.models.values().any(|entry| entry.spec.label().is_some());
    let started = if thinks { Waiting::on_every_core() } else { Waiting::on_one_thread() };
    started.map_err(|error| Failure::new(Exit::NodeFailed, format!("cannot start threads: {error}")))
}

fn listen(stop: &Stop, runtime: &tokio::runtime::Handle, reporter: &Arc<dyn Reporter>) {
    let reporter = reporter.clone();
    let message = "stopping: what is in flight is finished and kept; ctrl-C again stops at once";
    stop.listen(runtime, move || reporter.tell(&Event::Warned { node: None, message }));
}

/// By place in the plan: which earlier places each node needs.
fn upstream(planner: &Planner) -> Vec<Vec<usize>> {
    let places: HashMap<NodeIndex, usize> =
        planner.nodes.iter().enumerate().map(|(place, &node)| (node, place)).collect();
    let needs = |&node: &NodeIndex| planner.graph.upstream(node).iter().map(|from| places[from]).collect();
    planner.nodes.iter().map(needs).collect()
}

/// Adds those that were never looked at.
fn summaries_in_order(
    planner: &Planner,
    fates: &[Fate],
    mut summaries: HashMap<usize, NodeSummary>,
    reporter: &dyn Reporter,
) -> Vec<NodeSummary> {
    let summary = |(place, &node): (usize, &NodeIndex)| {
        let missing = |state, why| {
            let summary = executor::summary(planner.entry(node), None, state, why, None, 0.0);
            reporter.tell(&Event::Settled(&summary));
            summary
        };
        match (fates[place], summaries.remove(&place)) {
            (Fate::Finished | Fate::Failed, Some(summary)) => summary,
            (Fate::Skipped(Some(failed)), _) => {
                missing(State::Skipped, format!("`{}` failed", planner.graph.name(planner.nodes[failed])))
            }
            (Fate::Skipped(None), _) => missing(State::Skipped, "stopped before it started".to_string()),
            (Fate::Finished | Fate::Failed, None) => missing(State::Failed, BROKEN_DISK.to_string()),
        }
    };
    planner.nodes.iter().enumerate().map(summary).collect()
}

fn exit_of(stop: &Stop, first_failure: Option<Exit>) -> Exit {
    if stop.is_asked() { Exit::Interrupted } else { first_failure.unwrap_or(Exit::Cache) }
}
