//! The texts a recipe is made of, the file and what the command line adds, and places inside them.

use super::secrets;
use std::path::{Path, PathBuf};

/// A byte range in one of a recipe's [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub struct Span {
    pub source: usize,
    pub start: usize,
    pub end: usize,
}

/// One text: the recipe file, or a `--set` of the command line.
#[derive(Debug, Clone)]
pub struct Source {
    /// As the user wrote it: the path of the recipe, or the flag.
    pub name: String,
    pub text: String,
}

/// All texts of one load; the recipe file comes first.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a text and returns its index. What looks like a secret in it is blotted out: it is kept to be shown.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        self.0.push(Source { name: name.into(), text: secrets::blotted(text.into()) });
        self.0.len() - 1
    }

    /// Whether any text holds a word.
    pub fn mention(&self, word: &str) -> bool {
        self.0.iter().any(|source| source.text.contains(word))
    }

    pub fn source(&self, span: Span) -> &Source {
        &self.0[span.source]
    }

    /// The characters of a span; empty where the span does not lie on character boundaries.
    pub fn slice(&self, span: Span) -> &str {
        self.source(span).text.get(span.start..span.end).unwrap_or("")
    }

    /// Line and column, both from 1, the column in characters.
    pub fn line_and_column(&self, span: Span) -> (usize, usize) {
        let before = self.source(span).text.get(..span.start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// A span moved and cut so that it lies within its text, on character boundaries.
    pub fn clamp(&self, span: Span) -> Span {
        let text = &self.source(span).text;
        let start = floor_boundary(text, span.start);
        Span { source: span.source, start, end: floor_boundary(text, span.end).max(start) }
    }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The folder that relative paths of a recipe start from.
pub fn folder_of(recipe: &Path) -> PathBuf {
    match recipe.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_start_at_one() {
        let mut sources = Sources::default();
        sources.add("recipe.yaml", "a: 1\nß: ü\n");
        for (start, expected) in [(0, (1, 1)), (5, (2, 1)), (7, (2, 2)), (9, (2, 4)), (12, (3, 1))] {
            assert_eq!(sources.line_and_column(Span { source: 0, start, end: start }), expected, "byte {start}");
        }
        let clamped = sources.clamp(Span { source: 0, start: 6, end: 99 });
        assert_eq!((clamped.start, clamped.end), (5, 12));
    }
}
