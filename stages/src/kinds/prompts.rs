//! The prompts of the model kinds: where each is found, what it may use and what it must use.

use super::examples;
use crate::chain::Chain;
use crate::prompt::{Example, Prompt};
use crate::settings::{Reader, Step};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A prompt as a kind knows it.
pub struct PromptForm {
    /// The file's name without `.md`.
    pub name: &'static str,
    /// Our own wording, for recipes that lie elsewhere and name none.
    embedded: &'static str,
    offered: &'static [&'static str],
    required: &'static [&'static str],
}

macro_rules! form {
    ($name:literal, $offered:expr, $required:expr) => {
        PromptForm {
            name: $name,
            embedded: include_str!(concat!("../../../pipelines/medical/prompts/", $name, ".md")),
            offered: &$offered,
            required: &$required,
        }
    };
}

pub const SOLVE: PromptForm = form!("solve", ["question", "options"], ["question"]);
pub const FILTER: PromptForm = form!("filter", ["question", "options", "answer_idx", "answer"], ["question"]);
pub const REFORMAT: PromptForm =
    form!("reformat", ["question", "options", "answer_idx", "answer"], ["question", "answer"]);
pub const COT: PromptForm = form!("cot", ["problem"], ["problem"]);
pub const VERIFY: PromptForm = form!("verify", ["conclusion", "truth"], ["conclusion", "truth"]);
pub const SEARCH: PromptForm =
    form!("search", ["problem", "chain", "conclusion", "strategy"], ["problem", "chain", "strategy"]);
pub const REVEAL: PromptForm =
    form!("reveal", ["problem", "chain", "conclusion", "truth"], ["problem", "chain", "truth"]);
pub const REWRITE: PromptForm = form!("rewrite", ["problem", "chain", "conclusion"], ["problem", "chain"]);
pub const REWRITE_SIMPLE: PromptForm =
    form!("rewrite_simple", ["problem", "chain", "conclusion"], ["problem", "chain"]);
pub const RESPOND: PromptForm = form!("respond", ["problem", "thought"], ["problem", "thought"]);

/// The name of the prompt behind a question, which [`crate::llm::Task::name`] calls by what a rehearsal does.
pub fn prompt_of_question(question: &str) -> &str {
    match question {
        "chain" => COT.name,
        "label" => FILTER.name,
        same => same,
    }
}

/// The key of a node's own prompt, before whose question its examples are shown.
const MAIN: &str = "prompt";

/// The prompt under `key` of a node; where it names none `<prompts>/<name>.md` beside the recipe, else our own wording.
pub fn prompt_of(fields: &Map<String, Value>, key: &str, form: &PromptForm, reader: &mut Reader) -> Option<Prompt> {
    if let Some(text) = reader.wordings.get(form.name).cloned() {
        return form.read(&text, &[], reader);
    }
    let examples = if key == MAIN { examples::of(fields, reader)? } else { Vec::new() };
    let named = fields.get(key).and_then(Value::as_str);
    reader.within(Step::Key(key.to_string()), |reader| match named.map(|name| reader.path(name)) {
        Some(path) => form.read_file(&path, &examples, reader),
        None => match beside_the_recipe(form, reader) {
            Some(path) => form.read_file(&path, &examples, reader),
            None => form.read(form.embedded, &examples, reader),
        },
    })
}

fn beside_the_recipe(form: &PromptForm, reader: &mut Reader) -> Option<PathBuf> {
    reader.prompt_path(form.name).filter(|path| path.is_file())
}

impl PromptForm {
    #[cfg(test)]
    pub fn embedded(&self) -> &'static str {
        self.embedded
    }

    fn read(&self, text: &str, examples: &[Example], reader: &mut Reader) -> Option<Prompt> {
        Prompt::read_with(text, examples, self.offered, self.required, reader)
    }

    fn read_file(&self, path: &Path, examples: &[Example], reader: &mut Reader) -> Option<Prompt> {
        Prompt::read_file(path, examples, self.offered, self.required, reader)
    }

    /// What the prompt sees of a row: its columns under the offered names, options one a line, a chain in titled sections,
    /// nothing for what is missing.
    pub fn variables<'a>(&self, row: &'a Map<String, Value>) -> BTreeMap<&'static str, Cow<'a, Value>> {
        self.offered.iter().map(|&name| (name, shown(name, row))).collect()
    }
}

fn shown<'a>(name: &str, row: &'a Map<String, Value>) -> Cow<'a, Value> {
    match row.get(name) {
        Some(Value::Object(options)) if name == "options" => {
            let lines = options.iter().map(|(letter, text)| match text {
                Value::String(text) => format!("{letter}. {text}"),
                other => format!("{letter}. {other}"),
            });
            Cow::Owned(Value::from(lines.collect::<Vec<_>>().join("\n")))
        }
        Some(steps @ Value::Array(_)) if name == "chain" => {
            Cow::Owned(Value::from(Chain::from_value(steps).map(|chain| chain.render()).unwrap_or_default()))
        }
        None | Some(Value::Null) => Cow::Owned(Value::from("")),
        Some(value) => Cow::Borrowed(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALL: [&PromptForm; 10] =
        [&SOLVE, &FILTER, &REFORMAT, &COT, &VERIFY, &SEARCH, &REVEAL, &REWRITE, &REWRITE_SIMPLE, &RESPOND];

    #[test]
    fn our_own_wordings_use_what_they_must_and_nothing_else() {
        for form in ALL {
            let mut reader = Reader::default();
            let prompt = prompt_of(&Map::new(), "prompt", form, &mut reader);
            assert!(prompt.is_some(), "{}: {:?}", form.name, reader.mistakes);
        }
    }

    #[test]
    fn a_named_prompt_wins_over_one_beside_the_recipe_over_our_own() {
        let folder = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(folder.path(), Some(&folder.path().join("prompts")));
        let mut read = |fields: Value| {
            let prompt = prompt_of(fields.as_object().unwrap(), "prompt", &COT, &mut reader);
            prompt.map(|prompt| prompt.text().to_string())
        };
        assert_eq!(read(json!({})).as_deref(), Some(COT.embedded));
        std::fs::create_dir(folder.path().join("prompts")).unwrap();
        std::fs::write(folder.path().join("prompts/cot.md"), "beside {{ problem }}").unwrap();
        assert_eq!(read(json!({})).as_deref(), Some("beside {{ problem }}"));
        std::fs::write(folder.path().join("own.md"), "own {{ problem }}").unwrap();
        assert_eq!(read(json!({"prompt": "own.md"})).as_deref(), Some("own {{ problem }}"));
        assert_eq!(read(json!({"prompt": "none.md"})), None);
        std::fs::write(folder.path().join("own.md"), "own {{ question }}").unwrap();
        assert_eq!(read(json!({"prompt": "own.md"})), None);
        let codes: Vec<&str> = reader.mistakes.iter().map(|mistake| mistake.code).collect();
        assert_eq!(codes, ["missing-file", "unknown-variable", "missing-variable"]);
        assert!(reader.mistakes[1].file.is_some());
    }

    #[test]
    fn options_are_shown_one_a_line() {
        let row = json!({"question": "q", "options": {"A": "x", "B": 7}, "truth": "secret"});
        let variables = SOLVE.variables(row.as_object().unwrap());
        assert_eq!(json!(variables), json!({"question": "q", "options": "A. x\nB. 7"}));
    }

    #[test]
    fn instructions_stand_first_so_that_servers_can_reuse_them() {
        let row = |word: &str| {
            let names = ["question", "answer", "answer_idx", "problem", "truth", "conclusion", "thought"];
            names.iter().map(|name| (name.to_string(), json!(word))).collect::<Map<_, _>>()
        };
        for form in ALL {
            let prompt = form.read(form.embedded, &[], &mut Reader::default()).unwrap();
            let render = |word: &str| {
                let row = row(word);
                let mut variables = form.variables(&row);
                variables.insert("strategy", Cow::Owned(json!("verify")));
                prompt.render(&variables).unwrap().pop().unwrap().content
            };
            let (left, right) = (render("left"), render("right"));
            let shared = left.bytes().zip(right.bytes()).take_while(|(left, right)| left == right).count();
            assert!(shared > 200, "{}: only {shared} bytes come before the row", form.name);
            assert!(left[shared..].lines().count() < 20, "{}: instructions follow the row", form.name);
        }
    }

    #[test]
    fn each_strategy_has_its_own_instruction() {
        let prompt = SEARCH.read(SEARCH.embedded, &[], &mut Reader::default()).unwrap();
        let render = |strategy: &str| {
            let row = json!({"problem": "p", "conclusion": "c", "strategy": strategy});
            let rendered = prompt.render(&SEARCH.variables(row.as_object().unwrap())).unwrap().pop().unwrap().content;
            rendered.split("Strategy:\n").nth(1).unwrap().to_string()
        };
        for (strategy, expected) in [
            ("explore", "Explore a new path."),
            ("backtrack", "Backtrack."),
            ("verify", "Verify."),
            ("correct", "Correct."),
        ] {
            assert!(render(strategy).starts_with(expected), "{strategy}: {}", render(strategy));
        }
    }
}
