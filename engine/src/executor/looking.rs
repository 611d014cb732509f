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
use stages::stage::{Inputs, Outputs};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// What all plays of one command share: the replies are opened once.
pub struct Looking {
    pub replies: Arc<dyn Replies>,
    pub runtime: tokio::runtime::Handle,
}

impl Looking {
    /// # Errors
    /// If the replies cannot be read, or a shared store does not answer.
    pub fn open(store: &Store, runtime: tokio::runtime::Handle) -> Result<Looking, cache::Error> {
        Ok(Looking { replies: Arc::new(Kept(store.replies()?)), runtime })
    }

    /// What comes out of `node` for `inputs` where only kept replies answer; rows without one end as marked rows. `watcher` gives
    /// the one who looks on at a model port.
    ///
    /// # Errors
    /// As of the stage itself; [`Failure::Machine`] where [`can_be_played`] says no.
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
            callers.insert(port, Caller::looking(model, self.replies.clone(), retry_marked, watcher));
        }
        self.play_with(node, inputs, callers)
    }

    /// The same with callers of one's own, a model port each. They must be looking ones.
    ///
    /// # Errors
    /// As of the stage itself.
    pub fn play_with(&self, node: &Node, inputs: Inputs, callers: HashMap<String, Caller>) -> Result<Outputs, Trouble> {
        let draw = Draw::new(node.seed, &node.stream);
        let context = LookingContext { node: &node.name, draw, callers, runtime: self.runtime.clone() };
        caught(|| Ok(node.stage.run(inputs, &context)?))
    }
}

/// Whether a node asks models about its rows and does nothing else of weight: it trains nothing and runs no model itself.
pub fn can_be_played(recipe: &Recipe, node: &Node) -> bool {
    let models = node.stage.models();
    let is_remote = |(_, name): &(String, String)| !recipe.models[name].spec.needs_device();
    !models.is_empty() && models.iter().all(is_remote) && !node.stage.needs_device()
}

/// The inputs of a node whose producers have all finished; nothing but rows is opened.
///
/// # Errors
/// If an input is damaged or gone.
pub fn inputs<'a>(
    store: &Store,
    recipe: &Recipe,
    node: &Node,
    finished: impl Fn(&str) -> &'a Manifest,
) -> Result<Inputs, Trouble> {
    artifacts::inputs(node, Path::new(""), |from, folder| {
        artifacts::open_input(store, &recipe.nodes[&from.node], finished(&from.node), from, folder)
    })
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
        let missing = || Failure::Ourselves(format!("the stage of `{}` declares no model port `{port}`", self.node));
        self.callers.get(port).cloned().ok_or_else(missing)
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

    fn progress(&self, _: Progress) {}

    fn warn(&self, _: &str) {}
}
