//! `decoct run`: brings every node up to date, or those that one needs.

use crate::cli::{EventFormat, RunArgs};
use crate::executor::stop::Stop;
use crate::executor::{self, Executor};
use crate::failure::{Exit, Failure, Result};
use crate::graph::NodeIndex;
use crate::plan::{Planner, Wishes};
use crate::report::{Event, JsonReporter, NodeSummary, PlainReporter, Reporter, RunSummary, State};
use crate::schedule::{self, Fate};
use crate::team::Team;
use crate::workplace::{Workplace, overrides_as_written, overrides_on_record};
use cache::{RunHead, RunRecord, Store};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// A node that gave up reading its inputs tells nothing itself.
const BROKEN_DISK: &str = "an input was damaged each time it was made again; the disk may be failing";

pub fn run(arguments: &RunArgs) -> Result<Exit> {
    let started = Instant::now();
    let reporter = reporter(arguments.format);
    let workplace = Workplace::open(&arguments.recipe, &arguments.store)?;
    let wishes = wishes(arguments, &workplace)?;
    let store = workplace.store()?;
    let past = workplace.past(Some(&store), &*reporter);
    let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
    let stat_cache = (!arguments.store.no_stat_cache).then(|| store.stat_cache());
    let known = || workplace.known(&planner, stat_cache.as_ref());
    let planned = planner.plan(&mut known()?, &wishes)?;
    workplace.check_environment(&planned, &wishes)?;
    workplace.team.as_ref().map_or(Ok(()), Team::check)?;
    begin(arguments, &planner, &*reporter);
    let runtime = runtime()?;
    let stop = Stop::default();
    listen(&stop, &runtime, &reporter);
    let record = record(arguments, &workplace, &store, &*reporter);
    let device = super::device(&arguments.machine)?;
    let settings = executor::Settings { device, budget_usd: arguments.budget_usd, wishes, record };
    let team = workplace.team.as_ref();
    let executor =
        Executor::new(&planner, &store, team, &*reporter, runtime.handle().clone(), stop.clone(), known()?, settings);
    let fates = schedule::run(&upstream(&planner), super::jobs(&arguments.machine), &executor);
    let (summaries, exit) = executor.into_results();
    let nodes = summaries_in_order(&planner, &fates, summaries, &*reporter);
    team.inspect(|team| team.tell(&*reporter));
    let ok = nodes.iter().all(|node| matches!(node.state, State::Hit | State::Ran));
    let summary = RunSummary { ok, seconds: started.elapsed().as_secs_f64(), nodes };
    if let Some(Err(error)) = stat_cache.map(|stat_cache| stat_cache.save()) {
        // It costs reading the sources again, not the work.
        reporter.tell(&Event::Warned { node: None, message: &error.to_string() });
    }
    reporter.tell(&Event::Ended(&summary));
    Ok(if ok { Exit::Done } else { exit_of(&stop, exit) })
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

/// Threads for what waits; what computes has its own.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Failure::new(Exit::NodeFailed, format!("cannot start threads: {error}")))
}

fn listen(stop: &Stop, runtime: &tokio::runtime::Runtime, reporter: &Arc<dyn Reporter>) {
    let reporter = reporter.clone();
    let message = "stopping: what is in flight is finished and kept; ctrl-C again stops at once";
    stop.listen(runtime.handle(), move || reporter.tell(&Event::Warned { node: None, message }));
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
