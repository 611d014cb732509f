//! Stable row ids: a row is named by its own values and by how many equal rows stand before it, never by its place.

use serde_json::{Map, Value};
use std::collections::HashMap;

/// 128 bits in hexadecimal a row. Missing fields and nulls are alike, so that a column which only new rows have renames no old row.
pub fn row_ids(rows: &[Map<String, Value>]) -> Vec<String> {
    let mut ids = Ids::default();
    rows.iter().map(|row| ids.next(row)).collect()
}

/// Gives ids to one row after another.
#[derive(Default)]
pub struct Ids(HashMap<[u8; 32], u64>);

impl Ids {
    pub fn next(&mut self, row: &Map<String, Value>) -> String {
        let content = content_hash(row);
        let occurrence = self.0.entry(content).or_default();
        *occurrence += 1;
        id_of(&content, *occurrence)
    }
}

fn id_of(content: &[u8; 32], occurrence: u64) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("decoct row id 1");
    hasher.update(content).update(&occurrence.to_le_bytes());
    hasher.finalize().to_hex()[..32].to_string()
}

fn content_hash(row: &Map<String, Value>) -> [u8; 32] {
    let fields = row.iter().filter(|(_, value)| !value.is_null());
    let fields: Map<String, Value> = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
    *blake3::hash(sorted(&Value::Object(fields)).to_string().as_bytes()).as_bytes()
}

/// The same value with the keys of every mapping in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(fields) => {
            let mut pairs: Vec<_> = fields.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            pairs.sort_unstable_by(|left, right| left.0.cmp(&right.0));
            Value::Object(pairs.into_iter().collect())
        }
        plain => plain.clone(),
    }
}
