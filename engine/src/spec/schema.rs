//! The JSON Schema of a recipe, for editors: what every kind and provider declares about itself, put together.

use super::{EgressSettings, SharingSettings, prices};
use serde_json::{Value, json};
use stages::llm::ModelSpec;
use stages::registry;
use stages::settings::Setting;

/// Draft-07, which is what YAML language servers read.
pub fn schema() -> Value {
    let kinds: Vec<Value> = registry::KINDS.iter().map(|kind| node(kind.name, kind.about, (kind.schema)())).collect();
    let names: Vec<&str> = registry::KINDS.iter().map(|kind| kind.name).collect();
    let overlay = json!({"type": "object", "additionalProperties": false, "properties": {
        "params": {"type": "object"}, "matrix": {"type": "object"}, "models": {"type": "object"}, "nodes": {"type": "object"}, "cache": {"type": "object"},
        "prices": {"type": "object"},
    }});
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Decoction recipe",
        "type": "object",
        "required": ["version", "nodes"],
        "additionalProperties": false,
        "properties": {
            "version": {"const": 1},
            "params": {"type": "object", "description": "values reused as ${name}; `seed` is the seed of all draws"},
            "matrix": matrix("axes of the recipe, used as ${name}: what uses one becomes a variant for each value"),
            "models": {"type": "object", "description": "named language models", "additionalProperties": model()},
            "nodes": {"type": "object", "description": "named nodes", "additionalProperties": {
                "type": "object", "required": ["kind"], "properties": {"kind": {"enum": names}}, "allOf": kinds,
            }},
            "profiles": {"type": "object", "description": "named overlays, applied with --profile", "additionalProperties": overlay},
            "prompts": {"type": "string", "description": "the folder of prompts that no node names"},
            "cache": SharingSettings::schema(),
            "egress": EgressSettings::schema(),
            "prices": prices::schema(),
            "salt": {"description": "part of every key: changing it makes everything anew"},
        },
    })
}

/// A kind's settings hold where its word stands under `kind`; every value may also be a `${parameter}`.
fn node(name: &str, about: &str, mut settings: Value) -> Value {
    settings["description"] = about.into();
    if let Some(properties) = settings["properties"].as_object_mut() {
        properties.values_mut().for_each(|property| *property = or_parameter(property.take()));
        properties.insert("kind".into(), json!({"const": name, "description": about}));
        let seed = json!({"type": "integer", "minimum": 0, "description": "in place of the recipe's"});
        properties.insert("seed".into(), or_parameter(seed));
        properties.insert(
            "stream".into(),
            json!({"type": "string", "description": "tells draws of nodes of one kind apart"}),
        );
        properties.insert("matrix".into(), matrix("axes of this node, used in it as ${name}"));
    }
    json!({"if": {"properties": {"kind": {"const": name}}}, "then": settings})
}

/// An entry under `models:`, in which every value but the provider may also be a `${parameter}`.
fn model() -> Value {
    let mut schema = ModelSpec::schema();
    let alternatives = schema["oneOf"].as_array_mut().into_iter().flatten();
    for properties in alternatives.filter_map(|one| one["properties"].as_object_mut()) {
        let settings = properties.iter_mut().filter(|(name, _)| *name != "provider");
        settings.for_each(|(_, property)| *property = or_parameter(property.take()));
    }
    schema
}

/// Axes: a list of values, values by name, or a single one.
fn matrix(about: &str) -> Value {
    let axis = json!({"anyOf": [
        {"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean"]}},
        {"type": "object", "minProperties": 1, "description": "values by name"},
        {"type": ["string", "number", "boolean"]},
    ]});
    json!({"type": "object", "description": about, "additionalProperties": axis})
}

fn or_parameter(schema: Value) -> Value {
    let description = schema.get("description").cloned();
    let mut either = json!({"anyOf": [schema, {"type": "string", "pattern": "^\\$\\{.+\\}$"}]});
    if let Some(description) = description {
        either["description"] = description;
    }
    either
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_offered_with_its_own_and_the_common_keys() {
        let schema = schema();
        let node = &schema["properties"]["nodes"]["additionalProperties"];
        assert_eq!(node["properties"]["kind"]["enum"].as_array().unwrap().len(), registry::KINDS.len());
        for kind in node["allOf"].as_array().unwrap() {
            let properties = kind["then"]["properties"].as_object().expect("every kind declares its settings");
            assert!(["kind", "seed", "stream", "matrix"].iter().all(|key| properties.contains_key(*key)), "{kind}");
        }
    }
}
