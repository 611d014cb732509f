//! Cells of a table as people read them.

use serde_json::Value;
use stages::chain::Chain;

/// A chain as its prompt shows it, text as it is, `nothing` for null, everything else as JSON.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_string(),
        Value::String(text) => text.clone(),
        Value::Array(steps) if !steps.is_empty() => {
            Chain::from_value(value).map_or_else(|_| value.to_string(), |chain| chain.render())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_chain_is_no_heap_of_brackets() {
        let steps = json!([{"action": "Inner Thinking", "title": "Look", "content": "a"},
            {"action": "Final Conclusion", "content": "b"}, {"action": "Verification", "content": "c"}]);
        assert!(shown(&steps).starts_with("### Look\na\n"), "{}", shown(&steps));
        for (value, expected) in
            [(json!(["verify"]), "[\"verify\"]"), (json!([]), "[]"), (json!(null), "nothing"), (json!("x"), "x")]
        {
            assert_eq!(shown(&value), expected);
        }
    }
}
