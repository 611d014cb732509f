//! Does what a schedule orders: finds or makes one node's outputs, and tells what became of it.

pub mod artifacts;
mod context;
pub mod looking;
mod models;
pub mod past;
mod recheck;
pub mod replay;
pub mod stop;
mod tables;
mod telling;

pub use telling::{MADE_BY, report_of, summary};

use crate::failure::{Exit, exit_of};
use crate::manifest::Known;
use crate::plan::{Decision, Planner, Why, Wishes, contents};
use crate::report::{Event, NodeSummary, Reporter, State};
use crate::schedule::{Ending, Look, Worker};
use crate::spec::Node;
use crate::team::Team;
use artifacts::Trouble;
use cache::{ActionKey, KeyLock, Manifest, Preimage, Provenance, RunRecord, Store};
use context::NodeContext;
use indexmap::IndexMap;
use models::Models;
use stages::context::{Context as _, Device};
use stages::draw::Draw;
use stages::failure::Failure;
use stages::llm::{Budget, Caller, Egress, Meter};
use stages::stage::{Artifact, Inputs, Outputs};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stop::Stop;

/// Between two looks at a node that another process works on.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// What the command line sets for a whole run.
pub struct Settings {
    pub device: Device,
    pub budget_usd: Option<f64>,
    pub wishes: Wishes,
    /// Where finished nodes are noted; none if it could not be begun.
    pub record: Option<Arc<RunRecord>>,
}

/// What a run came to.
pub struct Results {
    /// Of all nodes that were looked at, by their place in the plan.
    pub summaries: HashMap<usize, NodeSummary>,
    /// Of finished nodes.
    pub manifests: HashMap<String, Manifest>,
    /// The exit code of the first failure.
    pub exit: Option<Exit>,
}

pub struct Executor<'a> {
    planner: &'a Planner<'a>,
    store: &'a Store,
    team: Option<&'a Team>,
    reporter: &'a dyn Reporter,
    runtime: tokio::runtime::Handle,
    device: Device,
    models: Models,
    budget: Arc<Budget>,
    stop: Stop,
    record: Option<Arc<RunRecord>>,
    state: Mutex<Progressing>,
}

/// What changes while a run goes on.
struct Progressing {
    known: Known,
    /// Nodes leave its lists as they are done.
    wishes: Wishes,
    /// Of finished nodes.
    manifests: HashMap<String, Manifest>,
    /// Decided and not yet started; a failure if a shared store did not say whether there is anything to do.
    decided: HashMap<usize, Result<(Preimage, Why), crate::failure::Failure>>,
    /// Found, to be executed again and compared.
    rechecks: HashMap<usize, Manifest>,
    summaries: HashMap<usize, NodeSummary>,
    /// The first failure's exit code: it is the run's.
    exit: Option<Exit>,
}

/// A node that came to a good end.
struct Made {
    manifest: Manifest,
    /// Another process made it while this one waited.
    adopted: bool,
    /// Held until the node is on record: until then a sweep does not touch it.
    lock: KeyLock,
}

/// What came of executing a node.
struct Executed {
    outputs: Outputs,
    /// That it carries.
    labels: Vec<String>,
    /// That it was given, by port.
    rows_in: IndexMap<String, u64>,
}

/// Puts what the recipe's `egress:` lets through before a node's models.
pub fn behind_egress(
    node: &Node,
    inputs: &Inputs,
    callers: &mut HashMap<String, Caller>,
) -> stages::failure::Result<()> {
    for (port, passages) in &node.passages {
        if let Some(caller) = callers.remove(port) {
            callers.insert(port.clone(), caller.behind(Egress::of(passages, inputs)?.map(Arc::new)));
        }
    }
    Ok(())
}

impl<'a> Executor<'a> {
    pub fn new(
        planner: &'a Planner<'a>,
        store: &'a Store,
        team: Option<&'a Team>,
        reporter: &'a dyn Reporter,
        runtime: tokio::runtime::Handle,
        stop: Stop,
        known: Known,
        settings: Settings,
    ) -> Executor<'a> {
        let state = Progressing {
            known,
            wishes: settings.wishes,
            manifests: HashMap::new(),
            decided: HashMap::new(),
            rechecks: HashMap::new(),
            summaries: HashMap::new(),
            exit: None,
        };
        Executor {
            planner,
            store,
            team,
            reporter,
            models: Models::new(settings.device.clone(), runtime.clone()),
            runtime,
            device: settings.device,
            budget: Arc::new(Budget::new(settings.budget_usd)),
            stop,
            record: settings.record,
            state: Mutex::new(state),
        }
    }

    pub fn into_results(self) -> Results {
        if let Err(error) = self.models.flush() {
            let message = format!("the last replies may not survive a power cut: {error}");
            self.reporter.tell(&Event::Warned { node: None, message: &message });
        }
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Results { summaries: state.summaries, manifests: state.manifests, exit: state.exit }
    }

    fn state(&self) -> MutexGuard<'_, Progressing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, index: usize) -> &'a Node {
        self.planner.entry(self.planner.nodes[index])
    }

    /// Finds the finished work, or does it, alone among all processes on this store.
    fn make(&self, index: usize, preimage: Preimage, why: &Why, meter: &Arc<Meter>) -> Result<Made, Trouble> {
        let node = self.node(index);
        let lock = self.lock(node, &preimage)?;
        let is_wished = matches!(why, Why::Forced | Why::RetryMarked);
        if !is_wished && let Some(manifest) = self.planner.find(self.planner.nodes[index], &preimage.action_key())? {
            return Ok(Made { manifest, adopted: true, lock });
        }
        self.check_trust()?;
        let started = Instant::now();
        let scratch = self.store.scratch(&preimage.action_key())?;
        let Executed { outputs, labels, rows_in } = self.execute(node, *why == Why::RetryMarked, meter, &scratch)?;
        let mut publication = self.store.publish(preimage);
        if is_wished {
            publication.replace();
        }
        artifacts::publish(&mut publication, &node.stage.outputs(), &outputs)?;
        let seconds = started.elapsed().as_secs_f64();
        let recipe = &self.planner.recipe.name;
        let provenance = telling::provenance(recipe, node, &outputs.report, rows_in, meter, labels, seconds);
        let provenance = Provenance { device: self.device.name(), ..provenance };
        Ok(Made { manifest: publication.commit(provenance)?, adopted: false, lock })
    }

    /// Before anything is paid for: under `trust: strict` nothing is done again that a stranger says is done.
    fn check_trust(&self) -> Result<(), Trouble> {
        Ok(self.team.map_or(Ok(()), Team::check)?)
    }

    /// What comes out of a node. `scratch` is for what it needs meanwhile.
    fn execute(
        &self,
        node: &Node,
        retry_marked: bool,
        meter: &Arc<Meter>,
        scratch: &Path,
    ) -> Result<Executed, Trouble> {
        let started = Instant::now();
        let inputs = self.inputs(node, scratch)?;
        let rows_in = inputs.row_counts();
        let (mut callers, mut labels) = self.callers(node, meter, retry_marked, scratch)?;
        behind_egress(node, &inputs, &mut callers)?;
        labels.extend(self.input_labels(node));
        let outputs = self.run_stage(node, inputs, callers, meter, scratch, started)?;
        Ok(Executed { outputs, labels, rows_in })
    }

    /// A process that was killed between publishing and clearing up has left its checkpoints; whoever works on the key still has
    /// the lock. Best effort: they only take room.
    fn clear_scratch(&self, key: &ActionKey) {
        let scratch = self.store.layout().scratch(key);
        if scratch.exists()
            && let Ok(Some(_lock)) = self.store.try_lock(key)
        {
            let _ = std::fs::remove_dir_all(scratch);
        }
    }

    fn lock(&self, node: &Node, preimage: &Preimage) -> Result<KeyLock, Trouble> {
        let mut told = false;
        loop {
            if let Some(lock) = self.store.try_lock(&preimage.action_key())? {
                return Ok(lock);
            }
            if self.stop.is_asked() {
                return Err(Failure::Cancelled.into());
            }
            if !std::mem::replace(&mut told, true) {
                let message = "another process is working on this; waiting for its result";
                self.reporter.tell(&Event::Warned { node: Some(&node.name), message });
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    fn run_stage(
        &self,
        node: &Node,
        inputs: Inputs,
        callers: HashMap<String, Caller>,
        meter: &Arc<Meter>,
        scratch: &Path,
        started: Instant,
    ) -> Result<Outputs, Trouble> {
        let work = scratch.join("work");
        std::fs::create_dir_all(&work).map_err(|error| Failure::io("create", &work, error))?;
        let context = NodeContext {
            node: &node.name,
            store: self.store,
            draw: Draw::new(node.seed, &node.stream),
            callers,
            meter: meter.clone(),
            runtime: self.runtime.clone(),
            device: self.device.clone(),
            scratch: work,
            stop: self.stop.clone(),
            reporter: self.reporter,
            started,
            first_row: self.team.map_or(0, Team::first_row),
            next_progress_ms: Default::default(),
        };
        let outputs = node.stage.run(inputs, &context)?;
        let models: HashMap<String, String> = node.stage.models().into_iter().collect();
        for (port, servers) in meter.served.changed() {
            context.warn(&stages::llm::served::warning(&models[&port], &servers));
        }
        Ok(outputs)
    }

    fn inputs(&self, node: &Node, scratch: &Path) -> Result<Inputs, Trouble> {
        artifacts::inputs(node, scratch, |from, folder| self.open(from, folder))
    }

    fn open(&self, from: &stages::stage::NodeRef, folder: &Path) -> Result<Artifact, Trouble> {
        let manifest = self.state().manifests[&from.node].clone();
        artifacts::input(&self.planner.recipe.nodes[&from.node], from, |output| {
            artifacts::open_lazily(self.store, &manifest, output, folder)
        })
    }

    /// A caller for each model port, and the labels of the models.
    fn callers(
        &self,
        node: &Node,
        meter: &Arc<Meter>,
        retry_marked: bool,
        scratch: &Path,
    ) -> Result<(HashMap<String, Caller>, Vec<String>), Trouble> {
        let (mut callers, mut labels) = (HashMap::new(), Vec::new());
        for (index, (port, name)) in node.stage.models().into_iter().enumerate() {
            let entry = &self.planner.recipe.models[&name];
            let made_by = entry.spec.node();
            let weights = made_by.as_ref().and_then(|from| self.state().known.output(from));
            let folder = || {
                let folder = models::model_folder(scratch, index);
                made_by.as_ref().map(|from| self.open(from, &folder).map(|_| folder.clone())).transpose()
            };
            let model = self.models.open(entry, weights, folder)?;
            labels.extend(model.label().map(str::to_string));
            let replies = self.models.replies(self.store)?;
            let caller = Caller::new(model, replies, meter.clone(), self.budget.clone(), retry_marked).at_port(&port);
            callers.insert(port, caller);
        }
        Ok((callers, labels))
    }

    /// What was made from a rehearsal's work is a rehearsal's work.
    fn input_labels(&self, node: &Node) -> Vec<String> {
        let state = self.state();
        let models = node.stage.models().into_iter().filter_map(|(_, name)| self.planner.recipe.model_node(&name));
        let inputs = node.stage.inputs().into_iter().map(|input| input.from).chain(models);
        inputs.flat_map(|from| state.manifests[&from.node].provenance.labels.clone()).collect()
    }

    /// Notes a finished node, so that those after it can start.
    fn finish(&self, index: usize, manifest: Manifest, why: String, state: State, meter: Option<&Meter>, seconds: f64) {
        let summary = summary(self.node(index), Some(&manifest), state, why, meter, seconds);
        self.finish_with(index, manifest, summary);
    }

    fn finish_with(&self, index: usize, manifest: Manifest, summary: NodeSummary) {
        let node = self.node(index);
        for noted in [
            self.store.remember(&self.planner.recipe.name, &node.name, &manifest.key, cache::now_seconds()),
            self.record.as_ref().map_or(Ok(()), |record| record.node(&telling::run_node(&summary, manifest.key))),
        ] {
            if let Err(error) = noted {
                // It costs an explanation next time, not the work.
                self.reporter.tell(&Event::Warned { node: Some(&node.name), message: &error.to_string() });
            }
        }
        let mut progressing = self.state();
        progressing.known.add_outputs(&node.name, contents(node, &manifest));
        progressing.wishes.force.remove(&node.name);
        progressing.wishes.retry_marked.remove(&node.name);
        progressing.wishes.recheck.remove(&node.name);
        progressing.manifests.insert(node.name.clone(), manifest);
        drop(progressing);
        self.settle(index, summary);
    }

    fn fail(&self, index: usize, why: String, exit: Exit, meter: &Meter, seconds: f64) {
        self.state().exit.get_or_insert(exit);
        let summary = summary(self.node(index), None, State::Failed, why, Some(meter), seconds);
        self.settle(index, summary);
    }

    fn settle(&self, index: usize, mut summary: NodeSummary) {
        let mut state = self.state();
        if let Some(before) = state.summaries.get(&index) {
            // Made a second time in one run, for a reader that found it damaged: both attempts were paid.
            summary.calls += before.calls;
            summary.tokens_in += before.tokens_in;
            summary.tokens_out += before.tokens_out;
            summary.cost_usd += before.cost_usd;
        }
        state.summaries.insert(index, summary.clone());
        drop(state);
        self.reporter.tell(&Event::Settled(&summary));
    }

    fn end(&self, index: usize, result: Result<Made, Trouble>, why: Why, meter: &Meter, seconds: f64) -> Ending {
        match result {
            Ok(Made { manifest, adopted: true, lock: _lock }) => {
                self.finish(index, manifest, "made by another process".to_string(), State::Hit, None, 0.0);
                Ending::Finished
            }
            Ok(Made { manifest, adopted: false, lock: _lock }) => {
                self.finish(index, manifest, why.to_string(), State::Ran, Some(meter), seconds);
                Ending::Finished
            }
            Err(trouble) => self.end_badly(index, trouble, meter, seconds),
        }
    }

    fn end_badly(&self, index: usize, trouble: Trouble, meter: &Meter, seconds: f64) -> Ending {
        match trouble {
            Trouble::DamagedInput { node, notice } => {
                self.reporter.tell(&Event::Warned { node: Some(&node), message: &notice.to_string() });
                let from = self.planner.nodes.iter().position(|&index| self.planner.graph.name(index) == node);
                Ending::Rebuild(from.expect("inputs of a wanted node are wanted"))
            }
            Trouble::Stage(Failure::Cancelled) => {
                let why = "interrupted; what it has done is kept for the next run".to_string();
                self.settle(index, summary(self.node(index), None, State::Skipped, why, Some(meter), seconds));
                Ending::Failed
            }
            trouble => {
                self.fail(index, trouble.to_string(), exit_for(&trouble), meter, seconds);
                Ending::Failed
            }
        }
    }
}

impl Worker for Executor<'_> {
    fn look(&self, index: usize) -> Look {
        let decision = {
            let state = self.state();
            self.planner.decide(self.planner.nodes[index], &state.known, &state.wishes)
        };
        let decided = match decision.map(|decision| decision.expect("all inputs of a node that may start are known")) {
            Ok(Decision::Hit(manifest)) if self.state().wishes.recheck.contains(&self.node(index).name) => {
                self.state().rechecks.insert(index, *manifest);
                return Look::Run { needs_device: self.planner.recipe.needs_device(self.node(index)) };
            }
            Ok(Decision::Hit(manifest)) => {
                self.clear_scratch(&manifest.key);
                self.finish(index, *manifest, "nothing changed".to_string(), State::Hit, None, 0.0);
                return Look::Finished;
            }
            Ok(Decision::Run { preimage, why }) => {
                self.warn_of_nothing_to_compare(index, &why);
                Ok((preimage, why))
            }
            Ok(Decision::Waits { .. }) => unreachable!("only whole plans hold nodes that wait"),
            Err(failure) => Err(failure),
        };
        let needs_device = decided.is_ok() && self.planner.recipe.needs_device(self.node(index));
        self.state().decided.insert(index, decided);
        Look::Run { needs_device }
    }

    fn run(&self, index: usize) -> Ending {
        let cached = self.state().rechecks.remove(&index);
        if let Some(cached) = cached {
            return self.recheck(index, cached);
        }
        let node = self.node(index);
        let decided = self.state().decided.remove(&index).expect("a node is decided before it runs");
        let (preimage, why) = match decided {
            Ok(decided) => decided,
            Err(failure) => {
                self.fail(index, failure.to_string(), failure.exit(), &Meter::default(), 0.0);
                return Ending::Failed;
            }
        };
        self.reporter.tell(&Event::Started { node: &node.name, kind: node.kind.name, why: &why.to_string() });
        let (started, meter) = (Instant::now(), Arc::new(Meter::default()));
        let result = caught(|| self.make(index, preimage, &why, &meter));
        self.end(index, result, why, &meter, started.elapsed().as_secs_f64())
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_asked()
    }
}

/// A panic inside a node fails that node.
fn caught<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    let caught = catch_unwind(AssertUnwindSafe(work));
    caught.unwrap_or_else(|panic| Err(Failure::of_panic(&*panic).into()))
}

fn exit_for(trouble: &Trouble) -> Exit {
    match trouble {
        Trouble::Stage(failure) => exit_of(failure),
        Trouble::Engine(failure) => failure.exit(),
        _ => Exit::Cache,
    }
}
