//! Typed settings of kinds and models, declared once: the declaration reads a value with all its mistakes, fills in defaults,
//! gives the canonical form that goes into keys, and describes itself to editors.

mod hint;

pub use hint::{near_hint, nearest_file, nearest_hint, shown_path};

use indexmap::IndexMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One thing wrong with a recipe, at a place inside the value that was read. The engine knows the file, line and column of that place.
#[derive(Debug, Clone, PartialEq)]
pub struct Mistake {
    /// A short stable word for this kind of mistake, such as `unknown-key`.
    pub code: &'static str,
    pub at: Vec<Step>,
    pub message: String,
    pub hint: Option<String>,
    /// Where the mistake lies when it does not lie in the recipe.
    pub file: Option<FilePlace>,
}

/// A place in another file (a data file, a prompt), as exact as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilePlace {
    pub path: PathBuf,
    /// From 1.
    pub line: Option<usize>,
    /// The bytes of that line that are wrong; all of them where left out.
    pub bytes: Option<std::ops::Range<usize>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Into a mapping; the place is the key's value.
    Key(String),
    /// Into a mapping; the place is the key itself (an unknown key).
    Name(String),
    Index(usize),
}

/// Reads settings and collects every mistake on the way, and every reference to a node or model with its place.
#[derive(Debug, Default)]
pub struct Reader {
    at: Vec<Step>,
    arm: Option<usize>,
    pub mistakes: Vec<Mistake>,
    pub references: Vec<Reference>,
    /// The recipe's folder: relative paths start here.
    folder: PathBuf,
    /// Where prompts lie that no node names: `<prompts>/<kind>.md`.
    prompts: Option<PathBuf>,
    /// Every path that was asked for, whether or not there is a file: as long as none of them changes, the recipe means the same.
    pub looked_at: Vec<PathBuf>,
    /// Texts of prompts that stand in for all files, by name: those of an earlier result.
    pub wordings: HashMap<String, String>,
    /// None where every file is looked through anew.
    findings: Option<Arc<dyn Findings>>,
}

/// What was found in files at an earlier look, as long as these are as they were. The engine stands behind it with the store.
pub trait Findings: Debug + Send + Sync {
    /// What `look` finds in a file, or what an earlier look of this name found. That nothing was found is not remembered.
    fn recall_or_look(&self, file: &Path, name: &str, look: &mut dyn FnMut() -> Option<Value>) -> Option<Value>;
}

/// A name that must exist elsewhere in the recipe; the engine checks that it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    pub at: Vec<Step>,
    pub to: Target,
    /// Where results are compared, how many steps of `at` lead to the entry of a mapping that stands for one arm of the comparison:
    /// a node with variants stands there for all of them.
    pub arm: Option<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Node(crate::stage::NodeRef),
    Model(String),
}

impl Reader {
    /// `folder` is the recipe's, `prompts` the one of its prompts where it has any.
    pub fn new(folder: &Path, prompts: Option<&Path>) -> Reader {
        Reader { folder: folder.into(), prompts: prompts.map(Path::to_path_buf), ..Reader::default() }
    }

    /// The same, with what is known of files.
    pub fn knowing(self, findings: Option<Arc<dyn Findings>>) -> Reader {
        Reader { findings, ..self }
    }

    /// What `look` finds in a file, unless it is known from an earlier look of this name: it tells what is looked for, and how it is
    /// written down.
    pub fn find<T: Serialize + DeserializeOwned>(
        &self,
        file: &Path,
        name: &str,
        look: impl Fn() -> Option<T>,
    ) -> Option<T> {
        let Some(findings) = &self.findings else { return look() };
        let mut look = || serde_json::to_value(look()?).ok();
        serde_json::from_value(findings.recall_or_look(file, name, &mut look)?).ok()
    }

    /// The place of a file or folder that a recipe names. The only way to one, so that none is read unnoticed.
    pub fn path(&mut self, named: &str) -> PathBuf {
        self.looked_at.push(self.folder.join(named));
        self.folder.join(named)
    }

    /// Where the prompt of this name would lie beside the recipe.
    pub fn prompt_path(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.prompts.as_ref()?.join(format!("{name}.md"));
        self.looked_at.push(path.clone());
        Some(path)
    }

    pub fn mistake(&mut self, code: &'static str, message: impl Into<String>, hint: Option<String>) {
        self.mistakes.push(Mistake { code, at: self.at.clone(), message: message.into(), hint, file: None });
    }

    /// The bytes of a file that lies in a place which this did not give out.
    ///
    /// # Errors
    /// As reading has.
    pub fn read_file(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        self.looked_at.push(path.to_path_buf());
        std::fs::read(path)
    }

    /// A mistake that lies in another file which the present value names.
    pub fn mistake_in(&mut self, code: &'static str, file: PathBuf, line: Option<usize>, message: impl Into<String>) {
        self.mistake(code, message, None);
        self.mistakes.last_mut().expect("it was just added").file = Some(FilePlace { path: file, line, bytes: None });
    }

    /// Does `read` one step deeper.
    pub fn within<T>(&mut self, step: Step, read: impl FnOnce(&mut Reader) -> T) -> T {
        self.at.push(step);
        let result = read(self);
        self.at.pop();
        result
    }

    /// Does `read` on an entry that is one arm of a comparison.
    pub fn arm<T>(&mut self, read: impl FnOnce(&mut Reader) -> T) -> T {
        let before = self.arm.replace(self.at.len());
        let result = read(self);
        self.arm = before;
        result
    }

    pub fn note_node(&mut self, node: crate::stage::NodeRef) {
        self.note(Target::Node(node));
    }

    pub fn note_model(&mut self, name: String) {
        self.note(Target::Model(name));
    }

    fn note(&mut self, to: Target) {
        self.references.push(Reference { at: self.at.clone(), to, arm: self.arm });
    }

    /// Notes that a required key is absent, unless it is there under a misspelt name, which has been told.
    pub fn missing_key(&mut self, key: &str) {
        let meant = Some(format!("did you mean `{key}`?"));
        let misspelt = |mistake: &Mistake| {
            let beside = mistake.at.split_last().is_some_and(|(_, above)| above == self.at);
            mistake.code == "unknown-key" && beside && mistake.hint == meant
        };
        if !self.mistakes.iter().any(misspelt) {
            self.mistake("missing-key", format!("`{key}` is missing"), None);
        }
    }

    pub fn wrong_type(&mut self, expected: &str, found: &Value) {
        self.mistake("wrong-type", format!("expected {expected}, found {}", describe(found)), None);
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_string(),
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
        Value::String(text) => format!("the text `{text}`"),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "a mapping".to_string(),
    }
}

/// A type that a setting can have.
pub trait Setting: Sized {
    /// `None` after noting at least one mistake.
    fn read(value: &Value, reader: &mut Reader) -> Option<Self>;
    /// JSON Schema (draft-07) of the accepted values.
    fn schema() -> Value;
}

/// A mapping with declared keys: what [`settings!`](crate::settings!) generates.
pub trait Settings: Setting {
    fn read_fields(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Self>;
}

macro_rules! plain_setting {
    ($type:ty, $expected:literal, $schema:expr, $read:expr) => {
        impl Setting for $type {
            fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
                let read: fn(&Value) -> Option<$type> = $read;
                let result = read(value);
                if result.is_none() {
                    reader.wrong_type($expected, value);
                }
                result
            }
            fn schema() -> Value {
                $schema
            }
        }
    };
}

plain_setting!(bool, "true or false", json!({"type": "boolean"}), Value::as_bool);
plain_setting!(String, "text", json!({"type": "string"}), |value| value.as_str().map(str::to_string));
plain_setting!(f64, "a number", json!({"type": "number"}), Value::as_f64);
plain_setting!(u64, "a whole number", json!({"type": "integer", "minimum": 0}), whole);
plain_setting!(u32, "a whole number", json!({"type": "integer", "minimum": 0}), |value| whole(value)?.try_into().ok());
plain_setting!(usize, "a whole number", json!({"type": "integer", "minimum": 0}), |value| whole(value)?
    .try_into()
    .ok());
plain_setting!(Map<String, Value>, "a mapping", json!({"type": "object"}), |value| value.as_object().cloned());
plain_setting!(Value, "a value", json!({}), |value| Some(value.clone()));

/// `2e6` is a number of tokens as good as `2000000`.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=9e15).contains(n)).map(|n| n as u64))
}

impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::read(value, reader).map(Some) }
    }
    fn schema() -> Value {
        json!({"anyOf": [T::schema(), {"type": "null"}]})
    }
}

/// A list; a single value stands for a list of one.
impl<T: Setting> Setting for Vec<T> {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        let Value::Array(items) = value else { return T::read(value, reader).map(|item| vec![item]) };
        let read = items
            .iter()
            .enumerate()
            .map(|(index, item)| reader.within(Step::Index(index), |reader| T::read(item, reader)));
        read.collect::<Vec<_>>().into_iter().collect()
    }
    fn schema() -> Value {
        json!({"anyOf": [{"type": "array", "items": T::schema()}, T::schema()]})
    }
}

impl<T: Setting> Setting for IndexMap<String, T> {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        let Value::Object(fields) = value else {
            reader.wrong_type("a mapping", value);
            return None;
        };
        let read = fields.iter().map(|(key, item)| {
            Some((key.clone(), reader.within(Step::Key(key.clone()), |reader| T::read(item, reader))?))
        });
        read.collect::<Vec<_>>().into_iter().collect()
    }
    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": T::schema()})
    }
}

/// Declares a settings struct: `name: type` is required, `name: type = default` is not. Doc comments become the schema's descriptions.
/// A setting that came after replies were paid for says by a `#[serde(…)]` how it stays out of the canonical form at its default.
#[macro_export]
macro_rules! settings {
    ($(#[doc = $about:literal])* pub struct $name:ident {
        $($(#[doc = $doc:literal])* $(#[serde($($written:tt)*)])? pub $field:ident : $type:ty $(= $default:expr)?),* $(,)?
    }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        pub struct $name { $($(#[doc = $doc])* $(#[serde($($written)*)])? pub $field: $type),* }

        impl $crate::settings::Setting for $name {
            fn read(value: &serde_json::Value, reader: &mut $crate::settings::Reader) -> Option<Self> {
                match value {
                    serde_json::Value::Object(fields) => <Self as $crate::settings::Settings>::read_fields(fields, reader),
                    other => { reader.wrong_type("a mapping", other); None }
                }
            }
            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                let mut required: Vec<&str> = Vec::new();
                $(
                    let about: String = <[&str]>::concat(&[$($doc),*]);
                    let mut property = <$type as $crate::settings::Setting>::schema();
                    if let Some(object) = property.as_object_mut() {
                        if !about.is_empty() { object.insert("description".into(), serde_json::Value::from(about.trim())); }
                        $(object.insert("default".into(), serde_json::to_value::<$type>($default).unwrap_or_default());)?
                    }
                    properties.insert($crate::settings::field_name(stringify!($field)).into(), property);
                    if $crate::settings::is_required!($($default)?) { required.push($crate::settings::field_name(stringify!($field))); }
                )*
                serde_json::json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }
        }

        impl $crate::settings::Settings for $name {
            fn read_fields(
                fields: &serde_json::Map<String, serde_json::Value>, reader: &mut $crate::settings::Reader,
            ) -> Option<Self> {
                $crate::settings::note_unknown_keys(fields, &[$($crate::settings::field_name(stringify!($field))),*], reader);
                $(let $field: Option<$type> = match fields.get($crate::settings::field_name(stringify!($field))) {
                    Some(value) => reader.within($crate::settings::Step::Key($crate::settings::field_name(stringify!($field)).to_string()),
                        |reader| <$type as $crate::settings::Setting>::read(value, reader)),
                    None => $crate::settings::absent!($crate::settings::field_name(stringify!($field)), $type, reader $(, $default)?),
                };)*
                Some($name { $($field: $field?),* })
            }
        }
    };
}

/// Declares a word chosen from a few: `choice! { pub enum Style { complex => Complex, … } }`.
#[macro_export]
macro_rules! choice {
    ($(#[doc = $about:literal])* pub enum $name:ident { $($(#[doc = $doc:literal])* $word:literal => $variant:ident),* $(,)? }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
        pub enum $name { $($(#[doc = $doc])* #[serde(rename = $word)] $variant),* }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            #[allow(dead_code)]
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }

            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)* _ => None }
            }
        }

        impl $crate::settings::Setting for $name {
            fn read(value: &serde_json::Value, reader: &mut $crate::settings::Reader) -> Option<Self> {
                let found = value.as_str().and_then(Self::from_word);
                if found.is_none() {
                    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                    let hint = $crate::settings::near_hint(&shown, Self::WORDS.iter().copied());
                    reader.mistake("unknown-word", format!("`{shown}` is not one of `{}`", Self::WORDS.join("`, `")), hint);
                }
                found
            }
            fn schema() -> serde_json::Value {
                serde_json::json!({"enum": Self::WORDS})
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __absent {
    ($field:expr, $type:ty, $reader:expr) => {{
        $reader.missing_key($field);
        None::<$type>
    }};
    ($field:expr, $type:ty, $reader:expr, $default:expr) => {
        Some($default)
    };
}
#[doc(hidden)]
#[macro_export]
macro_rules! __is_required {
    () => {
        true
    };
    ($default:expr) => {
        false
    };
}
pub use crate::{__absent as absent, __is_required as is_required};

/// A field's key: `r#where` is written `where`.
#[doc(hidden)]
pub fn field_name(identifier: &'static str) -> &'static str {
    identifier.strip_prefix("r#").unwrap_or(identifier)
}

#[doc(hidden)]
pub fn note_unknown_keys(fields: &Map<String, Value>, known: &[&str], reader: &mut Reader) {
    for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
        let hint = nearest_hint(key, known.iter().copied());
        reader.within(Step::Name(key.clone()), |reader| {
            reader.mistake("unknown-key", format!("unknown key `{key}`"), hint)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    choice! { pub enum Colour { "red" => Red, "green" => Green } }
    settings! {
        /// A shape.
        pub struct Shape {
            /// How many corners.
            pub corners: u32,
            pub colour: Colour = Colour::Red,
            pub names: Vec<String> = Vec::new(),
            pub area: Option<f64> = None,
        }
    }

    fn read(value: Value) -> (Option<Shape>, Vec<Mistake>) {
        let mut reader = Reader::default();
        let shape = Shape::read(&value, &mut reader);
        (shape, reader.mistakes)
    }

    #[test]
    fn defaults_are_filled_in_so_that_writing_one_out_changes_nothing() {
        let (short, mistakes) = read(json!({"corners": 4}));
        let (long, _) = read(json!({"names": [], "colour": "red", "area": null, "corners": 4.0}));
        assert_eq!(mistakes, vec![]);
        assert_eq!(serde_json::to_string(&short).unwrap(), serde_json::to_string(&long).unwrap());
    }

    #[test]
    fn every_mistake_is_found_in_one_pass() {
        let (shape, mistakes) = read(json!({"color": "red", "colour": "gren", "names": ["a", 7]}));
        assert!(shape.is_none());
        let codes: Vec<&str> = mistakes.iter().map(|mistake| mistake.code).collect();
        assert_eq!(codes, ["unknown-key", "missing-key", "unknown-word", "wrong-type"]);
        assert_eq!(mistakes[0].hint.as_deref(), Some("did you mean `colour`?"));
        assert_eq!(mistakes[3].at, [Step::Key("names".into()), Step::Index(1)]);
    }

    #[test]
    fn a_misspelt_key_is_not_missing_too() {
        let (_, mistakes) = read(json!({"corner": 4, "area": "big"}));
        let told: Vec<_> = mistakes.iter().map(|mistake| (mistake.code, mistake.hint.as_deref())).collect();
        assert_eq!(told, [("unknown-key", Some("did you mean `corners`?")), ("wrong-type", None)]);
    }

    #[test]
    fn the_schema_tells_what_is_required_and_what_is_the_default() {
        let schema = Shape::schema();
        assert_eq!(schema["required"], json!(["corners"]));
        assert_eq!(schema["properties"]["colour"]["default"], json!("red"));
        assert_eq!(schema["properties"]["corners"]["description"], json!("How many corners."));
    }
}
