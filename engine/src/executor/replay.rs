//! Plays a finished node's stage again for some of its rows, with the replies that are kept. Nothing is sent and nothing published.

use super::artifacts::{self, Trouble};
use super::looking::Looking;
use crate::spec::{Node, Recipe};
use cache::{ContentHash, Manifest, Store};
use serde_json::Value;
use stages::failure::Failure;
use stages::llm::{Caller, LanguageModel, ReadingModel, Reply, Request, Watcher};
use stages::rows::Rows;
use stages::stage::{Artifact, Inputs, NodeRef, Outputs};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Plays nodes of one recipe from one store.
pub struct Player<'a> {
    recipe: &'a Recipe,
    store: &'a Store,
    scratch: tempfile::TempDir,
    looking: Looking,
}

/// What came of it, and every question on the way, in order.
pub struct Played {
    pub outputs: Outputs,
    pub calls: Vec<Call>,
}

/// One question and what is kept of its answer.
pub struct Call {
    pub request: Request,
    /// Tells whether two questions have one answer.
    pub address: [u8; 32],
    /// The model's name in the recipe.
    pub model: String,
    /// What the model declares of itself in the record.
    pub identity: Arc<Value>,
    pub label: Option<&'static str>,
    /// `None` where the reply is no longer kept.
    pub reply: Option<Reply>,
    /// Why the stage cannot read the reply, where it cannot.
    pub unusable: Option<String>,
    /// At the recipe's present prices; `None` where it states none.
    pub cost_usd: Option<f64>,
}

impl<'a> Player<'a> {
    ///
    /// # Errors
    /// If no temporary folder can be made.
    pub fn new(recipe: &'a Recipe, store: &'a Store) -> Result<Player<'a>, Failure> {
        let scratch = tempfile::tempdir().map_err(|error| Failure::io("create", Path::new("a folder"), error))?;
        Ok(Player { recipe, store, scratch, looking: Looking::new(Some(store)) })
    }

    /// Plays `node`, which must be as it was when it made `manifest`, with `rows` at `port`.
    ///
    /// # Errors
    /// If replies or weights cannot be read, or the stage fails.
    pub fn play(&self, node: &Node, manifest: &Manifest, port: &str, rows: Rows) -> Result<Played, Trouble> {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let mut callers = HashMap::new();
        for (port, name) in node.stage.models() {
            callers.insert(port.clone(), self.caller(manifest, &port, &name, &calls)?);
        }
        let inputs = Inputs([(port.to_string(), Artifact::Rows(rows))].into_iter().collect());
        let outputs = self.looking.play_with(node, inputs, callers)?;
        let calls = std::mem::take(&mut *calls.lock().expect("a watcher does not panic"));
        Ok(Played { outputs, calls })
    }

    fn caller(
        &self,
        manifest: &Manifest,
        port: &str,
        name: &str,
        calls: &Arc<Mutex<Vec<Call>>>,
    ) -> Result<Caller, Trouble> {
        let recorded = manifest.preimage.get("models").and_then(|models| models.get(port));
        let recorded = recorded.ok_or_else(|| Failure::Ourselves(format!("its record names no model `{port}`")))?;
        let folder = self.weights(name, &recorded["weights"])?;
        let spec = &self.recipe.models[name].spec;
        let model = ReadingModel::recorded(&recorded["identity"], spec, folder.as_deref())?;
        let model: Arc<dyn LanguageModel> =
            Arc::new(model.ok_or_else(|| Failure::Recipe("its model's provider is not known here".to_string()))?);
        let identity = Arc::new(model.identity());
        let witness = Witness { model: model.clone(), identity, name: name.to_string(), calls: calls.clone() };
        Ok(Caller::looking(model, self.looking.replies()?, false, Arc::new(witness)))
    }

    /// Where the weights with this content lie; `None` for a model that we do not run ourselves.
    fn weights(&self, name: &str, content: &Value) -> Result<Option<std::path::PathBuf>, Trouble> {
        let Some(content) = content.as_str() else { return Ok(None) };
        let entry = &self.recipe.models[name];
        let Some(from) = entry.spec.node() else { return Ok(entry.spec.folder()) };
        let folder = self.scratch.path().join(content);
        if !folder.exists() {
            let gone = || Trouble::Gone(from.node.clone());
            let (maker, output) = (maker(self.store, self.recipe, &from, content).ok_or_else(gone)?, &from.output);
            let output = self.recipe.nodes[&from.node].output(output).ok_or_else(gone)?;
            artifacts::open(self.store, &maker, &output, &folder)?;
        }
        Ok(Some(folder))
    }
}

/// The generation of a node whose output has this content.
pub fn maker(store: &Store, recipe: &Recipe, from: &NodeRef, content: &str) -> Option<Manifest> {
    let output = recipe.nodes.get(&from.node)?.output(&from.output)?.name;
    let content: ContentHash = content.parse().ok()?;
    let made = |one: &Manifest| one.outputs.get(&output).map(cache::Output::content) == Some(content);
    super::past::generations(store, &recipe.name, &from.node).find(made)
}

/// Writes down what a stage asks one model.
struct Witness {
    model: Arc<dyn LanguageModel>,
    identity: Arc<Value>,
    name: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Witness {
    fn note(&self, request: &Request, reply: Option<&Reply>, unusable: Option<&str>) {
        let call = Call {
            address: request.address(&self.identity, self.model.reads_task()),
            request: request.clone(),
            model: self.name.clone(),
            identity: self.identity.clone(),
            label: self.model.label(),
            reply: reply.cloned(),
            unusable: unusable.map(str::to_string),
            cost_usd: reply.and_then(|reply| self.model.cost_usd(&reply.usage)),
        };
        self.calls.lock().expect("a watcher does not panic").push(call);
    }
}

impl Watcher for Witness {
    fn answered(&self, request: &Request, reply: &Reply, unusable: Option<&str>) {
        self.note(request, Some(reply), unusable);
    }

    fn unanswered(&self, request: &Request) {
        self.note(request, None, None);
    }
}
