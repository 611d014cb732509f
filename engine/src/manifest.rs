//! The ingredients of a node's result, collected in one walk. Their hash is the key and their listing is the explanation, so the two
//! cannot drift apart. Paths, names of nodes, formatting, devices and prices are not among them.

use crate::spec::{Node, Recipe};
use cache::{ContentHash, Preimage};
use serde_json::{Map, Value, json};
use stages::llm::{ModelSpec, Passage};
use stages::stage::NodeRef;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Raised when the shape of the record below changes its meaning.
const SCHEMA: u32 = 1;

/// Contents that are known so far: source files from the start, outputs as nodes finish.
#[derive(Debug, Default)]
pub struct Known {
    files: HashMap<PathBuf, ContentHash>,
    outputs: HashMap<String, Vec<(String, ContentHash)>>,
}

impl Known {
    pub fn add_file(&mut self, path: PathBuf, content: ContentHash) {
        self.files.insert(path, content);
    }

    /// `outputs` in the order in which the stage declares them.
    pub fn add_outputs(&mut self, node: &str, outputs: Vec<(String, ContentHash)>) {
        self.outputs.insert(node.to_string(), outputs);
    }

    pub fn has(&self, node: &str) -> bool {
        self.outputs.contains_key(node)
    }

    pub fn output(&self, reference: &NodeRef) -> Option<ContentHash> {
        let outputs = self.outputs.get(&reference.node)?;
        let means = |name: &str| reference.output.is_empty() || name == reference.output;
        outputs.iter().find(|(name, _)| means(name)).map(|(_, content)| *content)
    }

    fn file(&self, path: &Path) -> ContentHash {
        *self.files.get(path).expect("source files are hashed before any key is computed")
    }
}

/// Every file whose bytes count for some node of `nodes`: sources, and folders of local models.
pub fn files<'a>(recipe: &Recipe, nodes: impl IntoIterator<Item = &'a Node>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = nodes.into_iter().flat_map(|node| files_of(recipe, node)).collect();
    files.sort();
    files.dedup();
    files
}

fn files_of(recipe: &Recipe, node: &Node) -> Vec<PathBuf> {
    let models = node.stage.models().into_iter().map(|(_, name)| spec(recipe, &name));
    node.stage.files().into_iter().chain(models.filter_map(ModelSpec::folder)).collect()
}

fn spec<'a>(recipe: &'a Recipe, model: &str) -> &'a ModelSpec {
    &recipe.models.get(model).expect("names of models are checked when the recipe is read").spec
}

/// A record in which contents that are not known yet are null.
pub struct Draft {
    pub preimage: Preimage,
    pub is_whole: bool,
}

/// The whole record; `None` while the content of an input is not known.
pub fn preimage(recipe: &Recipe, node: &Node, known: &Known) -> Option<Preimage> {
    let draft = draft(recipe, node, known);
    draft.is_whole.then_some(draft.preimage)
}

pub fn draft(recipe: &Recipe, node: &Node, known: &Known) -> Draft {
    let stage = &node.stage;
    let prompts = stage.prompts().into_iter().map(|(port, prompt)| (port.to_string(), Value::from(prompt.text())));
    let files: Vec<String> = stage.files().iter().map(|path| known.file(path).to_string()).collect();
    let drawn = Preimage::new().with("seed", node.seed).text("stream", &node.stream);
    let mut is_whole = true;
    let mut content = |from: &NodeRef| {
        let content = known.output(from);
        is_whole &= content.is_some();
        Value::from(content.map(|content| content.to_string()))
    };
    let models: Map<_, _> = stage
        .models()
        .into_iter()
        .map(|(port, name)| (port, model(spec(recipe, &name), known, &mut content)))
        .collect();
    let inputs: Map<_, _> = stage.inputs().into_iter().map(|input| (input.port, content(&input.from))).collect();
    let preimage = Preimage::new()
        .with("schema", SCHEMA)
        .with("salt", recipe.salt.clone())
        .text("kind", node.kind.name)
        .with("version", stage.version())
        .with("settings", stage.settings())
        .with("prompts", prompts.collect::<Map<_, _>>())
        .with("models", models)
        .with("draws", if stage.draws() { json!(drawn) } else { Value::Null })
        .with("files", files)
        .with("inputs", inputs);
    let preimage = match passages(node) {
        passages if passages.is_empty() => preimage,
        passages => preimage.with("egress", passages),
    };
    Draft { preimage, is_whole }
}

/// What keeps rows from the models, by port: they are not in the result. Nothing where there is no such rule.
fn passages(node: &Node) -> Map<String, Value> {
    let watched = |passages: &[Passage]| passages.iter().filter(|one| !one.is_open()).map(|one| json!(one)).collect();
    let of_port = |(port, passages): (&String, &Vec<Passage>)| (port.clone(), Value::Array(watched(passages)));
    node.passages.iter().map(of_port).filter(|(_, watched)| watched != &json!([])).collect()
}

/// What the recipe declares, and the weights where we run them.
fn model(spec: &ModelSpec, known: &Known, content: &mut impl FnMut(&NodeRef) -> Value) -> Value {
    let weights = match (spec.node(), spec.folder()) {
        (Some(node), _) => content(&node),
        (None, Some(folder)) => known.file(&folder).to_string().into(),
        (None, None) => Value::Null,
    };
    json!({"identity": spec.identity(), "weights": weights})
}
