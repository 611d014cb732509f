//! The tree to typed nodes and models, collecting every mistake on the way; then the checks that need the whole recipe.

use super::diagnostic::{Diagnostic, Diagnostics, Place};
use super::references::{self, Names};
use super::source::{Sources, Span, folder_of};
use super::tree::{self, Tree, Value};
use super::{
    ModelEntry, Node, Overrides, Recipe, Variants, columns, egress, frame, matrix, overlay, prices, profiles, sharing,
    syntax,
};
use indexmap::IndexMap;
use serde_json::{Map, Value as Json};
use stages::llm::ModelSpec;
use stages::llm::key::{KeySource, KeyTrouble};
use stages::registry;
use stages::settings::{Findings, Mistake, Reader, Reference, Setting, Step, nearest_file, nearest_hint, shown_path};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads and checks a recipe. Source files and prompts are checked too, unless `findings` know them; nothing is sent, nothing written.
pub fn load(path: &Path, overrides: &Overrides, findings: Option<Arc<dyn Findings>>) -> Result<Recipe, Diagnostics> {
    let mut sources = Sources::default();
    let (text, mistake) = read_text(path);
    sources.add(path.display().to_string(), &text);
    if let Some(mistake) = mistake {
        return Err(Diagnostics::new(vec![mistake], Arc::new(sources)));
    }
    let mut mistakes = Vec::new();
    let tree = match tree::parse(&text, 0, &mut mistakes) {
        Ok(tree) => tree,
        Err(mistake) => return Err(Diagnostics::new(vec![mistake], Arc::new(sources))),
    };
    if tree.as_map().is_none() {
        return Err(Diagnostics::new(vec![frame::no_mapping(&tree)], Arc::new(sources)));
    }
    let (tree, variants) = prepare(path, tree, overrides, &findings, &mut sources, &mut mistakes);
    let mut loading = Loading::new(path, &tree, &variants, findings, mistakes);
    let (salt, mut models, mut nodes) = loading.read();
    let (sharing, mistakes) = sharing::read(&tree, &folder_of(path));
    loading.mistakes.extend(mistakes);
    loading.mistakes.extend(prices::apply(&tree, &mut models));
    let (egress, mistakes) = egress::read(&tree);
    loading.mistakes.extend(mistakes);
    if let Some(egress) = &egress {
        let mistakes = egress::apply(egress, &tree, &mut nodes, &models);
        loading.mistakes.extend(mistakes);
    }
    let (sources, looked_at) = (Arc::new(sources), loading.looked_at);
    let diagnostics = Diagnostics::new(variants.once(loading.mistakes), sources.clone());
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Recipe { path: path.to_path_buf(), name, salt, sharing, egress, nodes, variants, models, sources, looked_at })
}

/// Checks the frame, lays profiles and settings over it, puts the parameters in and makes the variants.
fn prepare(
    path: &Path,
    mut tree: Tree,
    overrides: &Overrides,
    findings: &Option<Arc<dyn Findings>>,
    sources: &mut Sources,
    mistakes: &mut Vec<Diagnostic>,
) -> (Tree, Variants) {
    frame::check(&tree, mistakes);
    profiles::check(&tree, &overrides.profile, sources, mistakes);
    overlay::apply(&mut tree, overrides, sources, mistakes);
    let variants = matrix::expand(&mut tree, path, findings, sources, mistakes);
    (tree, variants)
}

/// The text as far as it can be shown, and what is wrong with the file.
fn read_text(path: &Path) -> (String, Option<Diagnostic>) {
    let shown = path.display();
    let mistake =
        |code, message: String, hint| Diagnostic::error(code, Place::At(Span::default()), message).with_hint(hint);
    let bytes = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            let message = format!("`{shown}` is a folder");
            return (String::new(), Some(mistake("not-a-file", message, nearest_recipe(path, ""))));
        }
        Ok(found) if found.len() > syntax::FILE_BYTES_MAX => {
            let what =
                format!("the file has {} bytes, and {} MiB are the limit", found.len(), syntax::FILE_BYTES_MAX >> 20);
            return (String::new(), Some(syntax::too_large(Place::At(Span::default()), &what)));
        }
        _ => std::fs::read(path),
    };
    match bytes.map(String::from_utf8) {
        Ok(Ok(text)) => (text, None),
        Ok(Err(error)) => {
            let start = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let line = text[..start].matches('\n').count() + 1;
            let message = format!("the recipe `{shown}` is not UTF-8 text from line {line} on");
            let mut mistake = mistake("not-text", message, Some("save it as UTF-8".to_string()));
            mistake.place = Place::At(Span { source: 0, start, end: start });
            (text, Some(mistake))
        }
        Err(error) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let hint = nearest_recipe(&folder_of(path), &name);
            match error.kind() {
                std::io::ErrorKind::NotFound => {
                    let message = format!("there is no recipe `{shown}`");
                    (String::new(), Some(mistake("missing-file", message, hint)))
                }
                _ => {
                    let message = format!("cannot read the recipe `{shown}`: {error}");
                    (String::new(), Some(mistake("unreadable-file", message, None)))
                }
            }
        }
    }
}

/// The recipe in a folder whose name is nearest.
fn nearest_recipe(folder: &Path, wanted: &str) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| name.ends_with(".yaml") || name.ends_with(".yml"));
    names.sort();
    nearest_hint(wanted, names.iter().map(String::as_str))
}

/// One mistake for each key that called models need and that cannot be had.
pub fn missing_keys(models: &IndexMap<String, ModelEntry>, called: impl Iterator<Item = String>) -> Vec<Diagnostic> {
    let called: BTreeSet<String> = called.collect();
    let mut needed: IndexMap<KeySource, Vec<&ModelEntry>> = IndexMap::new();
    for model in models.values().filter(|model| called.contains(&model.name)) {
        if let Some(source) = model.spec.key_source() {
            needed.entry(source).or_default().push(model);
        }
    }
    let missing = |(source, models): (KeySource, Vec<&ModelEntry>)| Some(missing_key(source.check().err()?, &models));
    needed.into_iter().filter_map(missing).collect()
}

fn missing_key(trouble: KeyTrouble, models: &[&ModelEntry]) -> Diagnostic {
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    let message = format!("{}; needed by the model{plural} `{}`", trouble.message, names.join("`, `"));
    Diagnostic::error(trouble.code, Place::At(models[0].key_span), message).with_hint(Some(trouble.hint))
}

/// Where a recipe's files lie.
pub struct Folders {
    recipe: PathBuf,
    prompts: Option<PathBuf>,
    /// Where prompts would lie.
    wanted_prompts: PathBuf,
    /// What is known of their contents.
    findings: Option<Arc<dyn Findings>>,
}

impl Folders {
    /// `prompts` is what the recipe says about them.
    pub fn of(path: &Path, prompts: Option<&Tree>, findings: Option<Arc<dyn Findings>>) -> Folders {
        let recipe = folder_of(path);
        let default = recipe.join(path.file_stem().unwrap_or_default()).join("prompts");
        let named = prompts.and_then(Tree::as_text).map(|name| recipe.join(name));
        let wanted_prompts = named.clone().unwrap_or_else(|| default.clone());
        let prompts = named.or_else(|| default.is_dir().then_some(default));
        Folders { recipe, prompts, wanted_prompts, findings }
    }

    fn reader(&self) -> Reader {
        Reader::new(&self.recipe, self.prompts.as_deref()).knowing(self.findings.clone())
    }
}

/// The references of one node or model, whatever else is wrong with it.
pub fn references(part: &str, entry: &Tree, folders: &Folders) -> Vec<Reference> {
    let Some(mut fields) = entry.as_map().map(tree::json_fields) else { return Vec::new() };
    let mut reader = folders.reader();
    if part == "models" {
        ModelSpec::read(&fields, &mut reader);
    } else if let Some(kind) = Common::take(&mut fields, &mut reader).kind {
        (kind.read)(&fields, &mut reader);
    }
    reader.references
}

struct Loading<'a> {
    folders: Folders,
    tree: &'a Tree,
    variants: &'a Variants,
    mistakes: Vec<Diagnostic>,
    /// Every reference of every node and model, found also where the rest of it is wrong.
    references: Names,
    /// Files and folders that had a say, or would have had if they had been there.
    looked_at: BTreeSet<PathBuf>,
}

impl<'a> Loading<'a> {
    fn new(
        path: &Path,
        tree: &'a Tree,
        variants: &'a Variants,
        findings: Option<Arc<dyn Findings>>,
        mistakes: Vec<Diagnostic>,
    ) -> Loading<'a> {
        let folders = Folders::of(path, tree.get("prompts"), findings);
        let looked_at = BTreeSet::from([path.to_path_buf(), folders.wanted_prompts.clone()]);
        Loading { folders, tree, variants, mistakes, references: Names::default(), looked_at }
    }

    fn read(&mut self) -> (Option<String>, IndexMap<String, ModelEntry>, IndexMap<String, Node>) {
        self.check_prompts();
        let salt = self.salt();
        let models = self.models();
        let nodes = self.nodes();
        self.mistakes.extend(references::check(&self.references, &nodes, &models));
        let written = |node: &str, steps: &[Step]| {
            let Some(Step::Key(key)) = steps.first() else { return None };
            self.tree.get("nodes")?.get(node)?.get(key)?;
            Some(self.tree.place(&[&path_of("nodes", node), steps].concat()))
        };
        let missing = columns::check(&self.references, &nodes, written);
        self.mistakes.extend(missing);
        if !self.mistakes.is_empty() {
            // No plan can say which nodes will call, so every model in use counts.
            self.mistakes.extend(missing_keys(&models, self.references.used_models()));
        }
        (salt, models, nodes)
    }

    fn check_prompts(&mut self) {
        let Some(prompts) = self.tree.get("prompts") else { return };
        match &self.folders.prompts {
            Some(folder) if prompts.as_text().is_some() && folder.is_dir() => {}
            Some(folder) if prompts.as_text().is_some() => {
                let (code, message) = match folder.exists() {
                    true => ("not-a-folder", format!("`{}` is a file; prompts lie in a folder", shown_path(folder))),
                    false => ("missing-file", format!("the folder of prompts `{}` does not exist", shown_path(folder))),
                };
                let hint = near_folder(folder).or_else(|| Some("paths are relative to the recipe".to_string()));
                self.mistakes.push(Diagnostic::error(code, Place::At(prompts.span), message).with_hint(hint));
            }
            _ => {
                let steps = [Step::Key("prompts".to_string())];
                let message = "`prompts` is the path of a folder";
                self.mistakes.push(Diagnostic::error("wrong-type", Place::At(self.tree.place(&steps)), message));
            }
        }
    }

    fn salt(&mut self) -> Option<String> {
        let salt = self.tree.get("salt").filter(|salt| !salt.is_null())?;
        match &salt.value {
            Value::Plain(Json::String(text)) => Some(text.clone()),
            Value::Plain(plain) => Some(plain.to_string()),
            _ => {
                let steps = [Step::Key("salt".to_string())];
                let mistake = Diagnostic::error("wrong-type", Place::At(self.tree.place(&steps)), "`salt` is a word");
                self.mistakes.push(mistake);
                None
            }
        }
    }

    fn models(&mut self) -> IndexMap<String, ModelEntry> {
        let entries: Vec<&String> = self.entries("models");
        let read = entries.into_iter().filter_map(|name| Some((name.clone(), self.model(name)?)));
        read.collect()
    }

    fn nodes(&mut self) -> IndexMap<String, Node> {
        let entries: Vec<&String> = self.entries("nodes");
        if entries.is_empty() && self.tree.get("nodes").is_none_or(|nodes| nodes.as_map().is_some()) {
            let hint =
                Some("a first one: `nodes: { exam: { kind: source, generate: tablets, rows: 10 } }`".to_string());
            let place = Place::At(self.tree.place(&[Step::Key("nodes".to_string())]));
            self.mistakes.push(Diagnostic::error("no-nodes", place, "the recipe has no nodes").with_hint(hint));
        }
        let read = entries.into_iter().filter_map(|name| Some((name.clone(), self.node(name)?)));
        read.collect()
    }

    fn entries(&self, part: &str) -> Vec<&'a String> {
        self.tree.get(part).and_then(Tree::as_map).map_or_else(Vec::new, |entries| entries.keys().collect())
    }

    fn model(&mut self, name: &str) -> Option<ModelEntry> {
        let at = path_of("models", name);
        let fields = self.fields(&at, name)?;
        let mut reader = self.folders.reader();
        let spec = ModelSpec::read(&fields, &mut reader);
        let references = self.take(&at, reader);
        self.references.add_model(name, references);
        let key = if fields.contains_key("api_key_file") { "api_key_file" } else { "api_key_env" };
        let key_span = self.tree.place(&[at.clone(), vec![Step::Key(key.to_string())]].concat());
        let (name, span, priced_by) = (name.to_string(), self.name_span(&at), None);
        Some(ModelEntry { name, spec: spec?, priced_by, span, key_span })
    }

    fn node(&mut self, name: &str) -> Option<Node> {
        let at = path_of("nodes", name);
        let mut fields = self.fields(&at, name)?;
        self.check_name(&at, name);
        let mut reader = self.folders.reader();
        let common = Common::take(&mut fields, &mut reader);
        let stage = common.kind.and_then(|kind| (kind.read)(&fields, &mut reader));
        let references = self.take(&at, reader);
        self.references.add_node(name, references);
        let (kind, seed) = (common.kind?, common.seed.or_else(|| self.seed()));
        let stream = common.stream.map_or_else(|| kind.name.to_string(), |stream| format!("{}/{stream}", kind.name));
        let span = self.name_span(&at);
        let (stage, seed, passages) = (stage?.into(), seed.unwrap_or(0), Default::default());
        Some(Node { name: name.to_string(), kind, stage, fields, seed, stream, passages, span })
    }

    fn fields(&mut self, at: &[Step], name: &str) -> Option<Map<String, Json>> {
        let tree = at.iter().try_fold(self.tree, |tree, step| match step {
            Step::Key(key) => tree.get(key),
            _ => None,
        })?;
        let fields = tree.as_map().map(tree::json_fields);
        if fields.is_none() {
            let message = format!("`{name}` must be a mapping of settings");
            self.mistakes.push(Diagnostic::error("wrong-type", Place::At(self.tree.place(at)), message));
        }
        fields
    }

    /// A dot would be read as `node.output`, a slash as a variant.
    fn check_name(&mut self, at: &[Step], name: &str) {
        let name = self.variants.plain(name).unwrap_or(name);
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') {
            let message = format!("`{name}` cannot be the name of a node");
            let hint = Some("use letters, digits, `_` and `-`".to_string());
            let place = Place::At(self.name_span(at));
            self.mistakes.push(Diagnostic::error("bad-name", place, message).with_hint(hint));
        }
    }

    /// The recipe's own seed; a wrong one is noted where it is first used.
    fn seed(&mut self) -> Option<u64> {
        let params = Step::Key("params".to_string());
        let value = self.tree.get("params")?.get("seed")?;
        let mut reader = self.folders.reader();
        let seed = u64::read(&value.to_json(), &mut reader);
        self.take(&[params, Step::Key("seed".to_string())], reader);
        seed
    }

    /// Says nothing new: a text whose parameter could not be put in is not also of the wrong type, and a wrong seed of the recipe is wrong once.
    fn follows(&self, mistake: &Diagnostic) -> bool {
        let span = mistake.span();
        self.mistakes.iter().any(|known| match known.code {
            "unknown-parameter" | "open-parameter" | "unfit-parameter" | "too-large" => within(known.span(), span),
            "empty-axis" | "unnamed-value" => mistake.message.contains("`${"),
            // What a profile lays over nothing has no kind either.
            "unknown-node" | "unknown-model" if mistake.code == "missing-key" => known.span() == span,
            _ => mistake.repeats(known),
        })
    }

    fn name_span(&self, at: &[Step]) -> Span {
        let (last, before) = at.split_last().expect("a path into the recipe is not empty");
        let Step::Key(name) = last else { unreachable!("nodes and models are entries of mappings") };
        self.tree.place(&[before, &[Step::Name(name.clone())]].concat())
    }

    /// Gives the mistakes and references of a reader their places.
    fn take(&mut self, at: &[Step], reader: Reader) -> Vec<(Span, Reference)> {
        let place = |steps: &[Step]| self.tree.place(&[at, steps].concat());
        let found = reader.mistakes.into_iter().map(|mistake| placed(mistake, place));
        let found: Vec<Diagnostic> = found.filter(|mistake| !self.follows(mistake)).collect();
        self.looked_at.extend(reader.looked_at);
        let references = reader.references.into_iter().map(|reference| (place(&reference.at), reference)).collect();
        self.mistakes.extend(found);
        references
    }
}

fn near_folder(folder: &Path) -> Option<String> {
    nearest_file(folder).filter(|hint| hint.starts_with("did you mean") && !folder.exists())
}

fn within(inner: Span, outer: Span) -> bool {
    inner.source == outer.source && inner.start >= outer.start && inner.end <= outer.end
}

pub fn placed(mistake: Mistake, place: impl Fn(&[Step]) -> Span) -> Diagnostic {
    let span = place(&mistake.at);
    let place = match mistake.file {
        Some(file) => Place::File { file, named_at: span },
        None => Place::At(span),
    };
    Diagnostic::error(mistake.code, place, mistake.message).with_hint(mistake.hint)
}

fn path_of(part: &str, name: &str) -> Vec<Step> {
    vec![Step::Key(part.to_string()), Step::Key(name.to_string())]
}

/// What every node may say, whatever its kind.
struct Common {
    kind: Option<&'static stages::stage::Kind>,
    seed: Option<u64>,
    stream: Option<String>,
}

impl Common {
    fn take(fields: &mut Map<String, Json>, reader: &mut Reader) -> Common {
        let kind = Common::kind(fields.shift_remove("kind"), reader);
        let seed = fields.shift_remove("seed");
        let seed =
            seed.and_then(|value| reader.within(Step::Key("seed".to_string()), |reader| u64::read(&value, reader)));
        let stream = fields.shift_remove("stream");
        let stream = stream
            .and_then(|value| reader.within(Step::Key("stream".to_string()), |reader| String::read(&value, reader)));
        Common { kind, seed, stream }
    }

    fn kind(value: Option<Json>, reader: &mut Reader) -> Option<&'static stages::stage::Kind> {
        let Some(value) = value else {
            let names: Vec<&str> = registry::KINDS.iter().map(|kind| kind.name).collect();
            reader.mistake("missing-key", "`kind` is missing", Some(format!("one of `{}`", names.join("`, `"))));
            return None;
        };
        reader.within(Step::Key("kind".to_string()), |reader| {
            let name = String::read(&value, reader)?;
            let kind = registry::kind(&name);
            if kind.is_none() {
                let hint = nearest_hint(&name, registry::KINDS.iter().map(|kind| kind.name));
                reader.mistake("unknown-kind", format!("unknown kind `{name}`"), hint);
            }
            kind
        })
    }
}
