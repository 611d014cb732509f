//! Column names as far as a recipe tells them before anything has run: what each output will have, and what a node will look for.

use crate::settings::{FilePlace, Step};
use std::sync::Arc;

/// The names of a table's columns, or that they are not known yet. Cloning is cheap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns(Option<Arc<[String]>>);

impl Columns {
    pub fn known<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Columns {
        Columns(Some(names.into_iter().map(Into::into).collect()))
    }

    pub fn unknown() -> Columns {
        Columns(None)
    }

    pub fn names(&self) -> Option<&[String]> {
        self.0.as_deref()
    }

    /// These and `added`, each once.
    pub fn with(&self, added: &[&str]) -> Columns {
        let Some(names) = &self.0 else { return Columns::unknown() };
        let new = added.iter().filter(|name| !names.iter().any(|known| known == *name));
        let new: Vec<String> = new.map(|name| name.to_string()).collect();
        if new.is_empty() { self.clone() } else { Columns::known(names.iter().cloned().chain(new)) }
    }

    /// All names of several tables; unknown where one of them is.
    pub fn union<'a>(tables: impl IntoIterator<Item = &'a Columns>) -> Columns {
        tables.into_iter().fold(Columns::known([""; 0]), |all, table| match table.names() {
            Some(names) if all.0.is_some() => all.with(&names.iter().map(String::as_str).collect::<Vec<_>>()),
            _ => Columns::unknown(),
        })
    }
}

/// A column that a node will look for in one of its inputs, and would fail (or pay for nothing) without.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// Of the input.
    pub port: String,
    /// One of these is enough.
    pub any: Vec<String>,
    pub from: NeedFrom,
}

/// Why a column is looked for.
#[derive(Debug, Clone, PartialEq)]
pub enum NeedFrom {
    /// The kind cannot work without it.
    Kind,
    /// A setting names it.
    Setting(Vec<Step>),
    /// The prompt that the setting names reads it there.
    Prompt { setting: &'static str, place: FilePlace },
}

impl Need {
    /// The kind itself looks for `name`.
    pub fn kind(port: &str, name: &str) -> Need {
        Need::any(port, &[name])
    }

    /// The kind itself looks for one of `names`.
    pub fn any(port: &str, names: &[&str]) -> Need {
        let any = names.iter().map(|name| name.to_string()).collect();
        Need { port: port.to_string(), any, from: NeedFrom::Kind }
    }

    /// The setting `key` names a column.
    pub fn named(port: &str, key: &str, name: &str) -> Need {
        let from = NeedFrom::Setting(vec![Step::Key(key.to_string())]);
        Need { from, ..Need::kind(port, name) }
    }

    /// The setting `key` lists columns.
    pub fn listed<'a>(port: &'a str, key: &'a str, names: &'a [String]) -> impl Iterator<Item = Need> + 'a {
        names.iter().enumerate().map(move |(index, name)| {
            let from = NeedFrom::Setting(vec![Step::Key(key.to_string()), Step::Index(index)]);
            Need { from, ..Need::kind(port, name) }
        })
    }

    /// Whether it is certain that no column will do.
    pub fn is_missing(&self, columns: &Columns) -> bool {
        columns.names().is_some_and(|names| !self.any.iter().any(|name| names.contains(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_never_missing() {
        let exam = Columns::known(["question", "answer"]);
        for (columns, any, expected) in [
            (exam.clone(), vec!["answer"], false),
            (exam.clone(), vec!["problem", "question"], false),
            (exam.clone(), vec!["problem"], true),
            (exam.with(&["problem", "answer"]), vec!["problem"], false),
            (Columns::unknown(), vec!["problem"], false),
            (Columns::unknown().with(&["truth"]), vec!["problem"], false),
            (Columns::union([&exam, &Columns::known(["problem"])]), vec!["problem"], false),
            (Columns::union([&exam, &Columns::unknown()]), vec!["problem"], false),
            (Columns::union([]), vec!["problem"], true),
        ] {
            assert_eq!(Need::any("input", &any).is_missing(&columns), expected, "{columns:?} {any:?}");
        }
    }

    #[test]
    fn a_column_is_there_once() {
        let names = Columns::known(["a"]).with(&["b", "a"]);
        assert_eq!(names.names().unwrap(), ["a", "b"]);
    }
}
