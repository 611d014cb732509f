//! One entry of a recipe's `models:`, whatever its provider: read, named for keys, opened when a node needs it.

use super::LanguageModel;
use super::endpoint::Endpoints;
use super::key::KeySource;
use super::local::{Local, LocalSettings};
use super::openai::{self, OpenAi, OpenAiSettings};
use super::prices::Prices;
use super::rehearsal::{self, Rehearsal, RehearsalSettings};
use crate::failure::Result;
use crate::settings::{Reader, Setting, Settings, Step, nearest_hint};
use crate::stage::{NodeRef, Unkeyed};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A declared language model. No weights are read and no environment is looked into before [`ModelSpec::open`].
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSpec {
    Rehearsal(RehearsalSettings),
    OpenAi(Box<OpenAiSettings>),
    Local(LocalSettings),
}

impl ModelSpec {
    /// The words under `provider:`.
    pub const PROVIDERS: [&str; 3] = ["rehearsal", "openai", "local"];

    /// Reads an entry with all its mistakes. `None` after noting at least one.
    pub fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<ModelSpec> {
        let provider = read_provider(fields, reader)?;
        let mut rest = fields.clone();
        rest.shift_remove("provider");
        match provider.as_str() {
            "rehearsal" => Settings::read_fields(&rest, reader).map(ModelSpec::Rehearsal),
            "openai" => {
                OpenAiSettings::read_checked(&rest, reader).map(|settings| ModelSpec::OpenAi(Box::new(settings)))
            }
            _ => LocalSettings::read_checked(&rest, reader).map(ModelSpec::Local),
        }
    }

    /// JSON Schema of an entry: one alternative a provider.
    pub fn schema() -> Value {
        let alternatives = [RehearsalSettings::schema(), OpenAiSettings::schema(), LocalSettings::schema()];
        let alternatives = ModelSpec::PROVIDERS.iter().zip(alternatives).map(|(provider, mut schema)| {
            schema["properties"]["provider"] = json!({"const": provider});
            schema["required"].as_array_mut().expect("settings list what is required").push(json!("provider"));
            schema
        });
        json!({"type": "object", "oneOf": alternatives.collect::<Vec<_>>()})
    }

    /// What a key holds of this model: whatever changes its answers, defaults filled in. For a local model
    /// the caller adds the content hash of its node or folder.
    pub fn identity(&self) -> Value {
        match self {
            ModelSpec::Rehearsal(settings) => Rehearsal::new(settings.clone()).identity(),
            ModelSpec::OpenAi(settings) => openai::identity(settings),
            ModelSpec::Local(settings) => json!({"provider": "local", "settings": settings}),
        }
    }

    /// The node whose trained model this is.
    pub fn node(&self) -> Option<NodeRef> {
        match self {
            ModelSpec::Local(settings) => settings.node.clone(),
            _ => None,
        }
    }

    /// The model folder that the recipe names, below the recipe's folder where relative.
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            ModelSpec::Local(settings) => settings.path.0.as_ref().map(PathBuf::from),
            _ => None,
        }
    }

    /// Where the key lies without which no call can be made.
    pub fn key_source(&self) -> Option<KeySource> {
        match self {
            ModelSpec::OpenAi(settings) => settings.key_source(),
            _ => None,
        }
    }

    /// The hosts, with their ports where an address names one, that its requests go to; none for a model that answers in this process.
    pub fn hosts(&self) -> Vec<String> {
        match self {
            ModelSpec::OpenAi(settings) => vec![host_of(&settings.base_url.0)],
            _ => Vec::new(),
        }
    }

    pub fn prices(&self) -> Option<&Prices> {
        match self {
            ModelSpec::OpenAi(settings) => settings.prices.0.as_ref(),
            _ => None,
        }
    }

    /// The name of a model that costs something and states no prices.
    pub fn unpriced(&self) -> Option<&str> {
        match self {
            ModelSpec::OpenAi(settings) if settings.prices.0.is_none() => Some(&settings.model),
            _ => None,
        }
    }

    pub fn set_prices(&mut self, prices: Prices) {
        if let ModelSpec::OpenAi(settings) = self {
            settings.prices = Unkeyed(Some(prices));
        }
    }

    /// A label that everything made by this model carries.
    pub fn label(&self) -> Option<&'static str> {
        matches!(self, ModelSpec::Rehearsal(_)).then_some(rehearsal::LABEL)
    }

    /// Whether it computes on this machine's device.
    pub fn needs_device(&self) -> bool {
        matches!(self, ModelSpec::Local(_))
    }

    /// As [`ModelSpec::open_among`], with a server that it shares with nobody.
    pub fn open(
        &self,
        device: kernels::Device,
        model_folder: Option<&Path>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Arc<dyn LanguageModel>> {
        self.open_among(&Endpoints::default(), device, model_folder, runtime)
    }

    /// Makes it ready to answer. Whoever asks the same server in one run hands in the same `endpoints`; `model_folder` is where a local
    /// model's node put it; `runtime` is where its work may wait.
    pub fn open_among(
        &self,
        endpoints: &Endpoints,
        device: kernels::Device,
        model_folder: Option<&Path>,
        _runtime: &tokio::runtime::Handle,
    ) -> Result<Arc<dyn LanguageModel>> {
        Ok(match self {
            ModelSpec::Rehearsal(settings) => Arc::new(Rehearsal::new(settings.clone())),
            ModelSpec::OpenAi(settings) => Arc::new(OpenAi::open(settings.as_ref().clone(), endpoints)?),
            ModelSpec::Local(settings) => {
                let named = self.folder();
                let folder = model_folder.or(named.as_deref()).expect("the engine hands a node's model in as a folder");
                Arc::new(Local::open(settings.clone(), device, folder)?)
            }
        })
    }
}

impl ModelSpec {
    /// Generated tokens of a reply at most, where the recipe bounds them.
    pub fn tokens_out_max(&self) -> Option<u64> {
        match self {
            ModelSpec::Rehearsal(_) => None,
            ModelSpec::OpenAi(settings) => settings.max_tokens.map(u64::from),
            ModelSpec::Local(settings) => Some(settings.max_tokens.into()),
        }
    }

    /// Only to read kept replies: needs no key, no server and no weights, and cannot be asked. `None` for a local model, whose
    /// replies are named by its weights.
    pub fn unopened(&self) -> Option<Arc<dyn LanguageModel>> {
        match self {
            ModelSpec::Rehearsal(settings) => Some(Arc::new(Rehearsal::new(settings.clone()))),
            ModelSpec::OpenAi(settings) => Some(Arc::new(OpenAi::unopened(settings.as_ref().clone()))),
            ModelSpec::Local(_) => None,
        }
    }
}

/// In lower case; an address that is none is taken whole.
fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().to_lowercase()
}

fn read_provider(fields: &Map<String, Value>, reader: &mut Reader) -> Option<String> {
    let hint = |name: &str| nearest_hint(name, ModelSpec::PROVIDERS);
    let Some(value) = fields.get("provider") else {
        reader.mistake("missing-key", "`provider` is missing", hint(""));
        return None;
    };
    reader.within(Step::Key("provider".to_string()), |reader| {
        let name = String::read(value, reader)?;
        if ModelSpec::PROVIDERS.contains(&name.as_str()) {
            return Some(name);
        }
        reader.mistake("unknown-provider", format!("unknown provider `{name}`"), hint(&name));
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> (Option<ModelSpec>, Vec<(&'static str, Option<String>)>) {
        let mut reader = Reader::default();
        let spec = ModelSpec::read(value.as_object().unwrap(), &mut reader);
        (spec, reader.mistakes.into_iter().map(|mistake| (mistake.code, mistake.hint)).collect())
    }

    #[test]
    fn mistakes_in_an_entry_are_named() {
        for (entry, expected) in [
            (json!({}), vec!["missing-key"]),
            (json!({"provider": "opnai"}), vec!["unknown-provider"]),
            (json!({"provider": 3}), vec!["wrong-type"]),
            (json!({"provider": "openai"}), vec!["missing-key"]),
            (json!({"provider": "openai", "modle": "m", "temperature": "hot"}), vec!["unknown-key", "wrong-type"]),
            (json!({"provider": "local"}), vec!["missing-key"]),
            (json!({"provider": "local", "node": "a", "path": "b"}), vec!["excess-key"]),
            (json!({"provider": "local", "path": "no/such/folder"}), vec!["missing-file"]),
        ] {
            let codes: Vec<&str> = read(entry.clone()).1.into_iter().map(|mistake| mistake.0).collect();
            assert_eq!(codes, expected, "{entry}");
        }
        assert_eq!(read(json!({"provider": "opnai"})).1[0].1.as_deref(), Some("did you mean `openai`?"));
    }

    #[test]
    fn a_written_out_default_is_the_same_model() {
        let identity = |value| read(value).0.unwrap().identity();
        let short = json!({"provider": "openai", "model": "m"});
        let long = json!({"provider": "openai", "json_mode": true, "temperature": null, "model": "m"});
        assert_eq!(identity(short), identity(long));
    }

    #[test]
    fn a_local_model_may_be_another_nodes() {
        let mut reader = Reader::default();
        let entry = json!({"provider": "local", "node": "student.base"});
        let spec = ModelSpec::read(entry.as_object().unwrap(), &mut reader).unwrap();
        assert_eq!(spec.node(), Some(NodeRef::parse("student.base")));
        assert_eq!(reader.references.len(), 1);
        let renamed = read(json!({"provider": "local", "node": "pupil.base"})).0.unwrap();
        assert_eq!(spec.identity(), renamed.identity());
    }

    #[test]
    fn the_schema_has_an_alternative_for_each_provider() {
        let schema = ModelSpec::schema();
        let providers = schema["oneOf"].as_array().unwrap().iter().map(|one| &one["properties"]["provider"]["const"]);
        assert!(providers.eq(ModelSpec::PROVIDERS.iter().map(|name| json!(name)).collect::<Vec<_>>().iter()));
    }
}
