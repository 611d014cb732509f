//! A stage played through: it does what it would do, with kept replies only. Nothing is sent, written or trained.

use super::artifacts::{self, Trouble};
use super::caught;
use super::models::Kept;
use crate::spec::{Node, Recipe};
use cache::{Manifest, Store};
use stages::context::{Context, Device, Progress};
use stages::draw::Draw;
use stages::failure::{Failure, Result};
use stages::llm::{Caller, LanguageModel, Replies, Watcher};
use stages::stage::{Artifact, Form, Inputs, NodeRef, Outputs};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// What all plays of one command share: the replies are opened once, by the first that needs them.
pub struct Looking {
    store: Option<Store>,
    /// Stages are given one; nothing waits in it.
    runtime: tokio::runtime::Runtime,
    /// Being opened, since [`Looking::prepare`].
    opening: Mutex<Option<JoinHandle<Result<cache::Replies, cache::Error>>>>,
    replies: OnceLock<Arc<dyn Replies>>,
}

impl Looking {
    /// Without a store no reply is kept.
    pub fn new(store: Option<&Store>) -> Looking {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it has no threads and no drivers");
        Looking { store: store.cloned(), runtime, opening: Mutex::default(), replies: OnceLock::new() }
    }

    /// Begins to open the replies, while the rows are read on this thread.
    pub fn prepare(&self) {
        let opening = self.store.clone().map(|store| std::thread::spawn(move || store.replies()));
        *self.opening.lock().unwrap_or_else(PoisonError::into_inner) = opening;
    }

    /// The kept replies, opened by the first who needs them.
    ///
    /// # Errors
    /// If they cannot be read, or a shared store does not answer.
    pub fn replies(&self) -> Result<Arc<dyn Replies>, cache::Error> {
        if let Some(replies) = self.replies.get() {
            return Ok(replies.clone());
        }
        let opened: Arc<dyn Replies> = match &self.store {
            Some(store) => {
                let opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner).take();
                let opened = opening.and_then(|opening| opening.join().ok());
                Arc::new(Kept { replies: opened.unwrap_or_else(|| store.replies())?, notes: None })
            }
            None => Arc::new(NoReplies),
        };
        Ok(self.replies.get_or_init(|| opened).clone())
    }

    /// What comes out of `node` for `inputs` where only kept replies answer; rows without one end as marked rows. `watcher` gives
    /// the one who looks on at a model port.
    ///
    /// # Errors
    /// As of the stage itself; [`Failure::Machine`] where [`can_be_played`] says no. If the replies cannot be read, or a shared store
    /// does not answer.
    pub fn play<W: Watcher + 'static>(
        &self,
        recipe: &Recipe,
        node: &Node,
        inputs: Inputs,
        retry_marked: bool,
        watcher: impl Fn(&str, &dyn LanguageModel) -> Arc<W>,
    ) -> Result<Outputs, Trouble> {
        let mut callers = HashMap::new();
        for (port, name) in node.stage.models() {
            let unnamed = || Failure::Machine(format!("the replies of `{name}` are named by its weights"));
            let model = recipe.models[&name].spec.unopened().ok_or_else(unnamed)?;
            let watcher = watcher(&port, &*model);
            callers.insert(port, Caller::looking(model, self.replies()?, retry_marked, watcher));
        }
        self.play_with(node, inputs, callers)
    }

    /// What comes out of a node that asks nobody and is [quick](stages::stage::Stage::is_quick).
    ///
    /// # Errors
    /// As of the stage itself.
    pub fn execute(&self, node: &Node, inputs: Inputs) -> Result<Outputs, Trouble> {
        self.play_with(node, inputs, HashMap::new())
    }

    /// The same with callers of one's own, a model port each. They must be looking ones.
    ///
    /// # Errors
    /// As of the stage itself.
    pub fn play_with(
        &self,
        node: &Node,
        inputs: Inputs,
        mut callers: HashMap<String, Caller>,
    ) -> Result<Outputs, Trouble> {
        super::behind_egress(node, &inputs, &mut callers)?;
        let draw = Draw::new(node.seed, &node.stream);
        let context = LookingContext { node: &node.name, draw, callers, runtime: self.runtime.handle().clone() };
        caught(|| Ok(node.stage.run(inputs, &context)?))
    }
}

/// Whether a node asks models about its rows and does nothing else of weight: it trains nothing and runs no model itself.
pub fn can_be_played(recipe: &Recipe, node: &Node) -> bool {
    !node.stage.models().is_empty() && !recipe.needs_device(node)
}

/// All that a node reads from others, each by `open`.
///
/// # Errors
/// Those of `open`.
pub fn inputs(node: &Node, open: impl Fn(&NodeRef) -> Result<Artifact, Trouble>) -> Result<Inputs, Trouble> {
    artifacts::inputs(node, Path::new(""), |from, _| open(from))
}

/// The rows that a finished node has under this reference. Models are not opened: that would need a place for their files.
///
/// # Errors
/// If they are damaged or gone, or the node has not finished.
pub fn open<'a>(
    store: Option<&Store>,
    recipe: &Recipe,
    from: &NodeRef,
    finished: impl Fn(&str) -> Option<&'a Manifest>,
) -> Result<Artifact, Trouble> {
    let gone = || Trouble::Gone(from.node.clone());
    let producer = &recipe.nodes[&from.node];
    let has_rows = producer.output(&from.output).is_some_and(|output| output.form == Form::Rows);
    let manifest = finished(&from.node).filter(|_| has_rows).ok_or_else(gone)?;
    let store = store.ok_or_else(gone)?;
    artifacts::input(producer, from, |output| artifacts::open(store, manifest, output, Path::new("")))
}

/// Of a store that is not there.
struct NoReplies;

impl Replies for NoReplies {
    fn get(&self, _: &[u8; 32]) -> Option<Vec<u8>> {
        None
    }

    fn put(&self, _: &[u8; 32], _: &[u8]) -> std::io::Result<()> {
        panic!("who only looks keeps nothing")
    }
}

/// What a stage that is played through gets to see of the world.
struct LookingContext<'a> {
    node: &'a str,
    draw: Draw,
    callers: HashMap<String, Caller>,
    runtime: tokio::runtime::Handle,
}

impl Context for LookingContext<'_> {
    fn draw(&self) -> Draw {
        self.draw.clone()
    }

    fn caller(&self, port: &str) -> Result<Caller> {
        super::context::caller(&self.callers, self.node, port)
    }

    fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    fn device(&self) -> Device {
        panic!("`{}` is played through: it computes nothing", self.node)
    }

    fn scratch(&self) -> &Path {
        panic!("`{}` is played through: it writes nothing", self.node)
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn waits_for_nothing(&self) -> bool {
        true
    }

    fn progress(&self, _: Progress) {}

    fn warn(&self, _: &str) {}
}
