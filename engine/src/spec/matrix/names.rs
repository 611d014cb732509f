//! Names of variants: `student/epochs=3,lr=low`. A plain name holds neither `/` nor `=`.

use super::super::diagnostic::{Diagnostic, Place};
use super::super::source::Span;
use indexmap::IndexMap;
use stages::settings::nearest_hint;
use std::collections::HashSet;

/// The variants that a recipe's matrix has made.
#[derive(Debug, Clone, Default)]
pub struct Variants {
    /// By the name in the recipe, in their order.
    nodes: IndexMap<String, Vec<String>>,
    /// Whether the recipe has a matrix at all.
    has_matrix: bool,
}

impl Variants {
    /// Of a recipe with a matrix.
    pub fn begun() -> Variants {
        Variants { nodes: IndexMap::new(), has_matrix: true }
    }

    pub fn add(&mut self, part: &str, plain: &str, name: &str) {
        if part == "nodes" {
            self.nodes.entry(plain.to_string()).or_default().push(name.to_string());
        }
    }

    /// The node's name in the recipe, for the name of a variant of it.
    pub fn plain<'a>(&self, name: &'a str) -> Option<&'a str> {
        let (plain, _) = name.split_once('/')?;
        self.nodes.get(plain)?.iter().any(|variant| variant == name).then_some(plain)
    }

    /// The variants that a name means: all of a node's, or those with the values that stand behind its slash, in any order.
    pub fn matching(&self, name: &str) -> Vec<&str> {
        let (plain, wanted) = name.split_once('/').unwrap_or((name, ""));
        let wanted: Vec<&str> = wanted.split(',').filter(|pair| !pair.is_empty()).collect();
        let fits = |variant: &&str| {
            let own: Vec<&str> = variant[plain.len() + 1..].split(',').collect();
            wanted.iter().all(|pair| own.contains(pair))
        };
        self.nodes.get(plain).into_iter().flatten().map(String::as_str).filter(fits).collect()
    }

    /// What is wrong with one text is told once, not once a variant.
    pub fn once(&self, mistakes: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let mut seen = HashSet::new();
        let is_new = |one: &Diagnostic| seen.insert((one.code, one.place.clone(), without_variants(&one.message)));
        if self.has_matrix { mistakes.into_iter().filter(is_new).collect() } else { mistakes }
    }
}

/// A message in which every variant bears its plain name.
fn without_variants(message: &str) -> String {
    let is_plain = |word: &str| !(word.contains('/') && word.contains('='));
    let plain =
        |word: &str| if is_plain(word) { word.to_string() } else { word.split('/').next().unwrap().to_string() };
    message.split('`').map(plain).collect::<Vec<_>>().join("`")
}

/// A reference to a variant that there is not, or of a node that has none.
pub fn unknown_variant(span: Span, node: &str, settled: &[(String, String)], known: &[String]) -> Diagnostic {
    let pairs: Vec<String> = settled.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
    let name = format!("{node}/{}", pairs.join(","));
    let (message, hint) = match known {
        [single] if single == node => (format!("`{node}` has no variants"), Some(format!("write `{node}`"))),
        _ => (format!("unknown variant `{name}`"), nearest_hint(&name, known.iter().map(String::as_str))),
    };
    Diagnostic::error("unknown-variant", Place::At(span), message).with_hint(hint)
}
