//! Canonical settings back in the recipe's words, where a kind writes them otherwise into its key.

use crate::kinds::{search, split};
use serde_json::Value;

/// The settings of a record as its recipe would say them: for explanations only, never for a key.
pub fn settings(kind: &str, settings: &Value) -> Value {
    match kind {
        "split" => split::in_words(settings),
        "search" => search::in_words(settings),
        _ => settings.clone(),
    }
}
