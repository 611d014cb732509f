//! The one trait behind every node kind: what a node reads, what names its result, and the work itself.

use crate::columns::{Columns, Need};
use crate::context::{Context, Profile};
use crate::failure::Result;
use crate::model::DecoderConfig;
use crate::prompt::Prompt;
use crate::report::Report;
use crate::rows::Rows;
use crate::settings::{Reader, Setting};
use crate::table::{StoredRows, Table, TableView};
use crate::train::memory::MemoryPlan;
use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// A YAML word under `kind:`. All of them stand in [`crate::registry`].
pub struct Kind {
    /// The YAML word; also the name of the file in `kinds/` and of the prompt.
    pub name: &'static str,
    /// One sentence for help and editors.
    pub about: &'static str,
    /// JSON Schema of the settings.
    pub schema: fn() -> Value,
    /// Settings to stage, collecting every mistake; checks prompts and source files too, so that nothing is spent on a wrong recipe.
    pub read: fn(&Map<String, Value>, &mut Reader) -> Option<Box<dyn Stage>>,
}

/// A configured node. Its identity is everything below but `run`; `run` must not read anything that its identity does not name.
pub trait Stage: Send + Sync {
    /// Rises whenever the same inputs give another output; guarded by golden hashes.
    fn version(&self) -> u32;
    /// Canonical settings, defaults filled in. References to nodes, models, prompts and files serialise to nothing: their *content* counts.
    fn settings(&self) -> Value;
    /// What it reads from other nodes, by port. Port names are part of the key, node names are not.
    fn inputs(&self) -> Vec<Input>;
    /// The language models it calls: (port, name in the recipe's `models`).
    fn models(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    /// The prompts it renders: (port, template).
    fn prompts(&self) -> Vec<(&'static str, Prompt)> {
        Vec::new()
    }
    /// Files that count by their bytes, in the order in which they are read.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// Whether its result depends on the seed.
    fn draws(&self) -> bool {
        false
    }
    /// Whether it wants the compute device (and all cores) to itself while it runs.
    fn needs_device(&self) -> bool {
        false
    }
    /// Its outputs; the first is the one that the bare node name means.
    fn outputs(&self) -> Vec<Output> {
        vec![Output::rows("")]
    }
    /// The columns of an output (named as in a [`NodeRef`]), given those of its inputs in their order; unknown where only a run can tell.
    fn columns(&self, _output: &str, _inputs: &[Columns]) -> Columns {
        Columns::unknown()
    }
    /// The columns that it will look for in its inputs.
    fn needs(&self) -> Vec<Need> {
        Vec::new()
    }

    /// How many calls `rows` rows of its first input of rows may take when no reply is kept.
    fn calls(&self, _rows: u64) -> Outlook {
        Outlook::exactly(0)
    }
    /// How many rows each output will have, in the order of [`Stage::outputs`], for so many rows at each input of rows.
    fn rows_out(&self, rows: &[u64]) -> Vec<Outlook> {
        let most = rows.first().copied().unwrap_or(0);
        self.outputs().iter().map(|_| Outlook::up_to(most)).collect()
    }
    /// Whether it only moves or reads rows, so that a plan may do it to see what follows.
    fn is_quick(&self) -> bool {
        false
    }
    /// The shape of the models that it gives, where that can be told before it runs; `models` are those of its inputs of models.
    fn shape(&self, _models: &[Option<DecoderConfig>]) -> Option<DecoderConfig> {
        None
    }
    /// What it will hold in memory on such a device, where it trains a model whose shape is known.
    fn memory(&self, _models: &[Option<DecoderConfig>], _on: Profile) -> Option<MemoryOutlook> {
        None
    }
    fn run(&self, inputs: Inputs, context: &dyn Context) -> Result<Outputs>;
}

/// Memory, spoken of before the work is done.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryOutlook {
    pub likely: MemoryPlan,
    /// What is assumed in it.
    pub because: String,
    /// What it takes whatever its rows are like.
    pub least: MemoryPlan,
    /// What to change where it does not fit.
    pub advice: String,
}

/// A count that is spoken of before the work is done: certain bounds, and what to expect where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    pub least: u64,
    /// With what is assumed; none where nothing better than the bounds is known.
    pub likely: Option<(f64, &'static str)>,
    pub most: u64,
}

impl Outlook {
    pub fn exactly(count: u64) -> Outlook {
        Outlook { least: count, likely: None, most: count }
    }

    pub fn up_to(most: u64) -> Outlook {
        Outlook { least: 0, likely: None, most }
    }

    /// Nothing certain below `most`; about `likely` under the assumption `because`.
    pub fn about(likely: f64, because: &'static str, most: u64) -> Outlook {
        Outlook { least: 0, likely: Some((likely.min(most as f64), because)), most }
    }
}

/// `halves.rl` in a recipe: one output of another node; no output named means the first. Of a variant `halves/share=0.5` it is
/// `halves.rl/share=0.5`: what stands behind the slash belongs to the node's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeRef {
    pub node: String,
    pub output: String,
}

impl NodeRef {
    pub fn parse(text: &str) -> NodeRef {
        let (name, variant) = text.split_at(text.find('/').unwrap_or(text.len()));
        let (node, output) = name.split_once('.').unwrap_or((name, ""));
        NodeRef { node: format!("{node}{variant}"), output: output.to_string() }
    }
}

impl std::fmt::Display for NodeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let (node, variant) = self.node.split_at(self.node.find('/').unwrap_or(self.node.len()));
        let dot = if self.output.is_empty() { "" } else { "." };
        write!(f, "{node}{dot}{}{variant}", self.output)
    }
}

impl serde::Serialize for NodeRef {
    /// A constant: names of nodes are not part of any identity.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl Setting for NodeRef {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        let reference = NodeRef::parse(&String::read(value, reader)?);
        reader.note_node(reference.clone());
        Some(reference)
    }
    fn schema() -> Value {
        json!({"type": "string", "format": "node", "description": "a node, or node.output"})
    }
}

/// The name of an entry under `models:`; like a node's name it is no part of an identity (what it declares is).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelName(pub String);

impl serde::Serialize for ModelName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl Setting for ModelName {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        let name = String::read(value, reader)?;
        reader.note_model(name.clone());
        Some(ModelName(name))
    }
    fn schema() -> Value {
        json!({"type": "string", "format": "model", "description": "a name under models:"})
    }
}

/// A setting that cannot change any result (a checkpoint interval, a path whose content is counted elsewhere).
#[derive(Debug, Clone, PartialEq)]
pub struct Unkeyed<T>(pub T);

impl<T> serde::Serialize for Unkeyed<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<T: Setting> Setting for Unkeyed<T> {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        T::read(value, reader).map(Unkeyed)
    }
    fn schema() -> Value {
        T::schema()
    }
}

#[derive(Debug, Clone)]
pub struct Input {
    pub port: String,
    pub from: NodeRef,
    pub form: Form,
}

impl Input {
    pub fn rows(port: &str, from: &NodeRef) -> Input {
        Input { port: port.to_string(), from: from.clone(), form: Form::Rows }
    }

    pub fn model(port: &str, from: &NodeRef) -> Input {
        Input { port: port.to_string(), from: from.clone(), form: Form::Model }
    }
}

/// What flows along an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Rows,
    /// A folder in Hugging Face layout.
    Model,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub name: String,
    pub form: Form,
}

impl Output {
    pub fn rows(name: &str) -> Output {
        Output { name: name.to_string(), form: Form::Rows }
    }

    pub fn model(name: &str) -> Output {
        Output { name: name.to_string(), form: Form::Model }
    }
}

/// A finished thing that came out of a node or goes into one.
#[derive(Debug, Clone)]
pub enum Artifact {
    Rows(Rows),
    /// Rows that are not in memory.
    Stored(Arc<dyn StoredRows>),
    /// A folder: read-only when it comes in, below the scratch folder when it goes out.
    Model(PathBuf),
}

impl Artifact {
    /// `None` for a model.
    pub fn row_count(&self) -> Option<usize> {
        match self {
            Artifact::Rows(rows) => Some(rows.len()),
            Artifact::Stored(stored) => Some(stored.len()),
            Artifact::Model(_) => None,
        }
    }
}

/// What a stage is given, by port.
#[derive(Debug, Clone, Default)]
pub struct Inputs(pub IndexMap<String, Artifact>);

impl Inputs {
    /// Takes the table of a port out. The engine has checked ports and forms before; a miss is our own bug.
    pub fn take_table(&mut self, port: &str) -> Table {
        match self.0.shift_remove(port) {
            Some(Artifact::Rows(rows)) => Table::Rows(Arc::new(rows)),
            Some(Artifact::Stored(stored)) => Table::Stored(stored),
            other => panic!("the port `{port}` should hold rows, not {other:?}"),
        }
    }

    /// The same with all its rows in memory.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn take_rows(&mut self, port: &str) -> Result<Rows> {
        self.take_table(port).load()
    }

    /// All tables, whatever their ports.
    pub fn tables(&self) -> impl Iterator<Item = TableView<'_>> {
        self.0.values().filter_map(|artifact| match artifact {
            Artifact::Rows(rows) => Some(TableView::Rows(rows)),
            Artifact::Stored(stored) => Some(TableView::Stored(stored)),
            Artifact::Model(_) => None,
        })
    }

    /// Of all tables, by port.
    pub fn row_counts(&self) -> IndexMap<String, u64> {
        let count = |(port, artifact): (&String, &Artifact)| Some((port.clone(), artifact.row_count()? as u64));
        self.0.iter().filter_map(count).collect()
    }

    pub fn model_folder(&self, port: &str) -> &std::path::Path {
        match self.0.get(port) {
            Some(Artifact::Model(folder)) => folder,
            other => panic!("the port `{port}` should hold a model, not {other:?}"),
        }
    }
}

/// What a stage gives back: one artifact for each declared output, and what it has to tell.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    pub artifacts: IndexMap<String, Artifact>,
    pub report: Report,
}

impl Outputs {
    /// One table as the first output.
    pub fn rows(rows: Rows, report: Report) -> Outputs {
        Outputs { artifacts: IndexMap::from([(String::new(), Artifact::Rows(rows))]), report }
    }

    pub fn with(mut self, name: &str, artifact: Artifact) -> Outputs {
        self.artifacts.insert(name.to_string(), artifact);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_as_it_is_written() {
        for (text, node, output) in [
            ("halves", "halves", ""),
            ("halves.rl", "halves", "rl"),
            ("halves/share=0.5", "halves/share=0.5", ""),
            ("halves.rl/share=0.5,seed=2", "halves/share=0.5,seed=2", "rl"),
        ] {
            let reference = NodeRef::parse(text);
            assert_eq!((reference.node.as_str(), reference.output.as_str()), (node, output));
            assert_eq!(reference.to_string(), text);
        }
    }
}
