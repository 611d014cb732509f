//! A node as it was when it made an earlier result: the recipe's, with what the record of that result says otherwise.

use super::Node;
use super::source::folder_of;
use cache::Preimage;
use serde_json::{Map, Value};
use stages::llm::Passage;
use stages::settings::Reader;
use stages::stage::Stage;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

impl Node {
    /// The node behind `record`: it has the settings, prompts and draws that stand there. Names of nodes and models, which no record
    /// holds, are those of now; a model's answers are found by the record's identity, not by its name.
    ///
    /// `None` where that cannot be had: another version of the kind made it, or a setting cannot be read back.
    pub fn as_recorded(&self, record: &Preimage, recipe: &Path) -> Option<Node> {
        let is_same_work = record.get("kind")?.as_str() == Some(self.kind.name)
            && record.get("version")?.as_u64() == Some(self.stage.version().into());
        if !is_same_work {
            return None;
        }
        if is_of(&*self.stage, record) {
            return Some(self.drawing_as(record));
        }
        let mut reader = Reader::new(&folder_of(recipe), None);
        reader.wordings = wordings(record)?;
        let in_words = |settings: &Value| stages::told::settings(self.kind.name, settings);
        let (now, recorded) = (in_words(&self.stage.settings()), in_words(record.get("settings")?));
        let fields = fields_of(&self.fields, &now, &recorded);
        let stage = (self.kind.read)(&fields, &mut reader).filter(|stage| is_of(&**stage, record))?;
        Some(Node { stage: stage.into(), fields, ..self.drawing_as(record) })
    }

    fn drawing_as(&self, record: &Preimage) -> Node {
        let drawn = |name: &str| record.get("draws").and_then(|draws| draws.get(name));
        let seed = drawn("seed").and_then(Value::as_u64).unwrap_or(self.seed);
        let stream = drawn("stream").and_then(Value::as_str).map_or_else(|| self.stream.clone(), str::to_string);
        Node { seed, stream, passages: passages(record), ..self.clone() }
    }
}

/// What kept rows from the models then; nothing where no rule did.
fn passages(record: &Preimage) -> BTreeMap<String, Vec<Passage>> {
    let ports = record.get("egress").and_then(Value::as_object).into_iter().flatten();
    let of_port = |all: &Value| all.as_array().into_iter().flatten().filter_map(Passage::recorded).collect();
    ports.map(|(port, all)| (port.clone(), of_port(all))).collect()
}

/// Whether a stage is the one that the record speaks of.
fn is_of(stage: &dyn Stage, record: &Preimage) -> bool {
    let prompts: HashMap<String, String> =
        stage.prompts().into_iter().map(|(name, prompt)| (name.to_string(), prompt.text().to_string())).collect();
    record.get("settings") == Some(&stage.settings()) && wordings(record) == Some(prompts)
}

fn wordings(record: &Preimage) -> Option<HashMap<String, String>> {
    let prompts = record.get("prompts")?.as_object()?;
    prompts.iter().map(|(name, text)| Some((name.clone(), text.as_str()?.to_string()))).collect()
}

/// The fields of now, with the record's values where its settings differ.
fn fields_of(now: &Map<String, Value>, settings: &Value, recorded: &Value) -> Map<String, Value> {
    let mut fields = now.clone();
    let (Some(settings), Some(recorded)) = (settings.as_object(), recorded.as_object()) else { return fields };
    for name in settings.keys().filter(|name| settings.get(*name) != recorded.get(*name)) {
        match recorded.get(name) {
            None | Some(Value::Null) => fields.shift_remove(name),
            Some(value) => fields.insert(name.clone(), named(value, now.get(name))),
        };
    }
    fields
}

/// A list of names is recorded by its length alone; any name will do where a name is no identity.
fn named(value: &Value, now: Option<&Value>) -> Value {
    match (value, now.and_then(|now| now.get(0))) {
        (Value::Array(items), Some(name)) if items.iter().all(Value::is_null) => {
            items.iter().map(|_| name.clone()).collect()
        }
        _ => value.clone(),
    }
}
