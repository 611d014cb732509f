//! The `prices:` part of a recipe: what models cost by the names that their servers know, for entries under `models:` that state no
//! prices of their own. None are built in: prices change, and a figure without its date would be believed.

use super::ModelEntry;
use super::diagnostic::{Diagnostic, Place};
use super::resolve::placed;
use super::tree::{Tree, Value};
use indexmap::IndexMap;
use serde_json::json;
use stages::llm::prices::Prices;
use stages::settings::{Reader, Setting, Step};

const PART: &str = "prices";
const SUCH_AS: &str = "`prices: { gpt-4o-*: { input_usd_per_million: 2.5, output_usd_per_million: 10 } }`";

/// Gives models without prices those of the table; a model's own come first, then its whole name, then the pattern with most letters.
pub fn apply(recipe: &Tree, models: &mut IndexMap<String, ModelEntry>) -> Vec<Diagnostic> {
    let (table, mut mistakes) = read(recipe);
    for model in models.values_mut() {
        let Some(name) = model.spec.unpriced() else { continue };
        let fitting = table.iter().filter(|(pattern, _)| fits(pattern, name));
        if let Some((pattern, prices)) = fitting.max_by_key(|(pattern, _)| (!pattern.contains('*'), pattern.len())) {
            model.priced_by = Some(pattern.clone());
            model.spec.set_prices(prices.clone());
        }
    }
    mistakes.extend(models.values().filter_map(|model| negative(recipe, model)));
    mistakes
}

fn read(recipe: &Tree) -> (IndexMap<String, Prices>, Vec<Diagnostic>) {
    let Some(part) = recipe.get(PART).filter(|part| !part.is_null()) else { return Default::default() };
    let mut reader = Reader::default();
    let table = match &part.value {
        Value::Map(_) => IndexMap::<String, Prices>::read(&part.to_json(), &mut reader),
        _ => {
            reader.mistake("wrong-type", "`prices` must be a mapping", Some(SUCH_AS.to_string()));
            None
        }
    };
    let table = table.unwrap_or_default();
    for (name, _) in table.iter().filter(|(_, prices)| !prices.are_sound()) {
        let note = |reader: &mut Reader| reader.mistake("out-of-range", "a price is not below 0", None);
        reader.within(Step::Key(name.clone()), note);
    }
    let place = |steps: &[Step]| recipe.place(&[&[Step::Key(PART.to_string())], steps].concat());
    (table, reader.mistakes.into_iter().map(|mistake| placed(mistake, place)).collect())
}

/// Of a model's own prices; those of the table are told where they stand.
fn negative(recipe: &Tree, model: &ModelEntry) -> Option<Diagnostic> {
    let is_wrong = model.priced_by.is_none() && model.spec.prices().is_some_and(|prices| !prices.are_sound());
    let steps = [Step::Key("models".into()), Step::Key(model.name.clone()), Step::Key(PART.into())];
    is_wrong.then(|| Diagnostic::error("out-of-range", Place::At(recipe.place(&steps)), "a price is not below 0"))
}

/// A `*` stands for any characters.
pub fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).any(|skipped| tail.get(skipped..).is_some_and(|tail| fits(rest, tail)))
        }),
    }
}

pub fn schema() -> serde_json::Value {
    let about = "prices by the names that servers know, such as `gpt-4o-*`, for models that state none of their own";
    json!({"type": "object", "description": about, "additionalProperties": Prices::schema()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("gpt-4o", "gpt-4o", true),
            ("gpt-4o", "gpt-4o-mini", false),
            ("gpt-4o-*", "gpt-4o-mini", true),
            ("gpt-4o-*", "gpt-4o", false),
            ("*", "", true),
            ("*.openai.com", "api.openai.com", true),
            ("*.openai.com", "openai.com.evil.org", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("ü*", "üß", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
