//! Until `stages::llm::ModelSpec` lands: the same shape, nothing behind it.
use serde_json::{Map, Value};
use stages::settings::Reader;
use stages::stage::NodeRef;

#[derive(Debug, Clone)]
pub struct ModelSpec(Map<String, Value>);

impl ModelSpec {
    pub fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<ModelSpec> {
        if !fields.contains_key("provider") {
            reader.mistake("missing-key", "`provider` is missing", None);
            return None;
        }
        Some(ModelSpec(fields.clone()))
    }
    pub fn identity(&self) -> Value {
        Value::Object(self.0.clone())
    }
    pub fn node(&self) -> Option<&NodeRef> {
        None
    }
    pub fn required_env(&self) -> Option<&str> {
        self.0.get("api_key_env")?.as_str()
    }
    pub fn schema() -> Value {
        serde_json::json!({"type": "object"})
    }
}
