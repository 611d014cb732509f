//! What profiles say is checked whether they are chosen or not: the names that they lay something over, and, of those that are not
//! chosen (the others are read with the recipe), keys, words, references and parameters. Files that they name may be elsewhere.

use super::diagnostic::{Diagnostic, Place};
use super::matrix::MATRIX;
use super::params;
use super::source::Sources;
use super::tree::{Entry, Tree, Value};
use indexmap::{IndexMap, IndexSet};
use serde_json::Value as Json;
use stages::llm::ModelSpec;
use stages::registry;
use stages::settings::{near_hint, nearest_hint};

/// `chosen` are the profiles that are laid over the recipe this time.
pub fn check(tree: &Tree, chosen: &[String], sources: &Sources, mistakes: &mut Vec<Diagnostic>) {
    let Some(profiles) = tree.get("profiles").and_then(Tree::as_map) else { return };
    let known = Known::gather(tree, profiles);
    for (name, Entry { tree: profile, .. }) in profiles {
        let mut checking = Checking { recipe: tree, known: &known, mistakes };
        let is_chosen = chosen.contains(name);
        checking.part(profile, "nodes", is_chosen);
        checking.part(profile, "models", is_chosen);
        if !is_chosen {
            params::check_uses(profile, known.params.iter().copied(), sources, mistakes);
        }
    }
}

/// All names that the recipe or one of its profiles declares; profiles may be chosen together.
struct Known<'a> {
    params: IndexSet<&'a str>,
    models: IndexSet<&'a str>,
    nodes: IndexSet<&'a str>,
}

impl<'a> Known<'a> {
    fn gather(tree: &'a Tree, profiles: &'a IndexMap<String, Entry>) -> Known<'a> {
        let trees = || [tree].into_iter().chain(profiles.values().map(|entry| &entry.tree));
        let entries = |part: &'static str| trees().filter_map(move |tree| tree.get(part)?.as_map()).flatten();
        // An overlay declares what says of itself what it is.
        let declared = |part: &'static str, nature: &'static str| {
            let own = tree.get(part).and_then(Tree::as_map).into_iter().flatten();
            let new = entries(part).filter(move |(_, entry)| entry.tree.get(nature).is_some());
            own.chain(new).map(|(name, _)| name.as_str()).collect()
        };
        Known {
            params: entries("params").chain(entries(MATRIX)).map(|(name, _)| name.as_str()).collect(),
            models: declared("models", "provider"),
            nodes: declared("nodes", "kind"),
        }
    }
}

struct Checking<'a> {
    recipe: &'a Tree,
    known: &'a Known<'a>,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Checking<'_> {
    /// `nodes` or `models` of a profile.
    fn part(&mut self, profile: &Tree, part: &str, is_chosen: bool) {
        let (known, code, what, nature) = match part {
            "nodes" => (&self.known.nodes, "unknown-node", "node", "kind"),
            _ => (&self.known.models, "unknown-model", "model", "provider"),
        };
        for (name, entry) in profile.get(part).and_then(Tree::as_map).into_iter().flatten() {
            if !known.contains(name.as_str()) {
                let hint = nearest_hint(name, known.iter().copied());
                self.mistake(code, entry, format!("unknown {what} `{name}`"), hint);
            } else if !is_chosen {
                let below = self.recipe.get(part).and_then(|entries| entries.get(name)?.get(nature));
                let word = entry.tree.get(nature).or(below).and_then(Tree::as_text).unwrap_or_default();
                let schema = if part == "nodes" { node_schema(word) } else { model_schema(word) };
                match schema {
                    Some(schema) => self.value(&[&schema], entry),
                    // The recipe's own word is told where it stands.
                    None => self.unknown_nature(nature, word, entry),
                }
            }
        }
    }

    fn unknown_nature(&mut self, nature: &str, word: &str, entry: &Entry) {
        let Some(own) = entry.tree.as_map().and_then(|entries| entries.get(nature)) else { return };
        let (code, names) = match nature {
            "kind" => ("unknown-kind", registry::KINDS.iter().map(|kind| kind.name).collect()),
            _ => ("unknown-provider", ModelSpec::PROVIDERS.to_vec()),
        };
        let place = Place::At(own.tree.span);
        let message = format!("unknown {nature} `{word}`");
        self.mistakes.push(Diagnostic::error(code, place, message).with_hint(nearest_hint(word, names)));
    }

    /// A value against the schemas that it may follow, any of which is enough.
    fn value(&mut self, schemas: &[&Json], entry: &Entry) {
        let schemas = alternatives(schemas);
        match &entry.tree.value {
            Value::Map(fields) => fields.iter().for_each(|(key, field)| self.field(&schemas, key, field)),
            Value::List(items) => {
                let below: Vec<&Json> = schemas.iter().filter_map(|schema| schema.get("items")).collect();
                let entry = |tree: &Tree| Entry { name: tree.span, tree: tree.clone() };
                items.iter().filter(|_| !below.is_empty()).for_each(|item| self.value(&below, &entry(item)));
            }
            Value::Plain(Json::String(text)) if !text.contains("${") => self.word(&schemas, text, entry),
            Value::Plain(_) => {}
        }
    }

    fn field(&mut self, schemas: &[&Json], key: &str, field: &Entry) {
        let named = schemas.iter().filter_map(|schema| schema["properties"].get(key));
        let other =
            schemas.iter().filter_map(|schema| schema.get("additionalProperties").filter(|other| other.is_object()));
        let below: Vec<&Json> = named.chain(other).collect();
        let is_closed = |schema: &&Json| schema["additionalProperties"] == Json::Bool(false);
        if !below.is_empty() {
            self.value(&below, field);
        } else if !schemas.is_empty() && schemas.iter().all(is_closed) {
            let known =
                schemas.iter().filter_map(|schema| schema["properties"].as_object()).flat_map(|keys| keys.keys());
            let hint = nearest_hint(key, known.map(String::as_str));
            self.mistake("unknown-key", field, format!("unknown key `{key}`"), hint);
        }
    }

    /// The name of a node or a model, or one of a few words.
    fn word(&mut self, schemas: &[&Json], text: &str, entry: &Entry) {
        let plain = |schema: &&&Json| !["object", "array"].iter().any(|other| schema["type"] == *other);
        let schemas: Vec<&Json> = schemas.iter().filter(plain).copied().collect();
        let of = |format: &str| !schemas.is_empty() && schemas.iter().all(|schema| schema["format"] == format);
        let words: Vec<&str> =
            schemas.iter().filter_map(|schema| schema["enum"].as_array()).flatten().filter_map(Json::as_str).collect();
        let place = Entry { name: entry.tree.span, tree: entry.tree.clone() };
        let node = text.split('.').next().unwrap_or_default();
        if of("node") && !self.known.nodes.contains(node) {
            let hint = nearest_hint(node, self.known.nodes.iter().copied());
            self.mistake("unknown-node", &place, format!("unknown node `{node}`"), hint);
        } else if of("model") && !self.known.models.contains(text) {
            let hint = nearest_hint(text, self.known.models.iter().copied());
            self.mistake("unknown-model", &place, format!("unknown model `{text}`"), hint);
        } else if schemas.iter().all(|schema| schema.get("enum").is_some())
            && !words.is_empty()
            && !words.contains(&text)
        {
            let hint = near_hint(text, words.iter().copied());
            self.mistake("unknown-word", &place, format!("`{text}` is not one of `{}`", words.join("`, `")), hint);
        }
    }

    /// At the key of an entry. What an anchor brings to several places is wrong once.
    fn mistake(&mut self, code: &'static str, entry: &Entry, message: String, hint: Option<String>) {
        let mistake = Diagnostic::error(code, Place::At(entry.name), message).with_hint(hint);
        if !self.mistakes.iter().any(|known| mistake.repeats(known)) {
            self.mistakes.push(mistake);
        }
    }
}

/// Every way that a schema leaves open, `null` aside.
fn alternatives<'a>(schemas: &[&'a Json]) -> Vec<&'a Json> {
    let mut open: Vec<&Json> = schemas.iter().rev().copied().collect();
    let mut found = Vec::new();
    while let Some(schema) = open.pop() {
        match ["anyOf", "oneOf"].iter().find_map(|word| schema[word].as_array()) {
            Some(ways) => open.extend(ways.iter().rev()),
            None if schema["type"] == "null" => {}
            None => found.push(schema),
        }
    }
    found
}

/// A kind's settings, and what every node may say.
fn node_schema(kind: &str) -> Option<Json> {
    let mut schema = (registry::kind(kind)?.schema)();
    for key in ["kind", "seed", "stream", MATRIX] {
        schema["properties"].as_object_mut()?.entry(key).or_insert(Json::Bool(true));
    }
    Some(schema)
}

fn model_schema(provider: &str) -> Option<Json> {
    let mut schema = ModelSpec::schema();
    let ways = schema["oneOf"].as_array_mut()?;
    ways.drain(..).find(|way| way["properties"]["provider"]["const"] == provider)
}
