//! What is wrong with a recipe: each mistake with its code, its place and a hint. How it is drawn stands in `screen.rs`.

use super::screen;
use super::source::{Sources, Span};
use stages::settings::{FilePlace, shown_path};
use std::io::{BufRead, BufReader};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    At(Span),
    /// In another file (a data file, a prompt) that the recipe names at `named_at`.
    File {
        file: FilePlace,
        named_at: Span,
    },
}

#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// A short stable word for this kind of mistake, such as `unknown-key`; all of them stand in [`super::codes`].
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    pub place: Place,
}

impl Diagnostic {
    pub fn error(code: &'static str, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic { code, message: message.into(), hint: None, place }
    }

    pub fn with_hint(mut self, hint: Option<String>) -> Diagnostic {
        self.hint = hint;
        self
    }

    /// The place in the recipe: of the mistake, or of the word that names the file it is in.
    pub fn span(&self) -> Span {
        match &self.place {
            Place::At(span) | Place::File { named_at: span, .. } => *span,
        }
    }

    /// Whether it says what another one says, of the same place; one file may be used by several nodes.
    pub fn repeats(&self, other: &Diagnostic) -> bool {
        let same_place = match (&self.place, &other.place) {
            (Place::File { file, .. }, Place::File { file: other, .. }) => file == other,
            (place, other) => place == other,
        };
        same_place && self.code == other.code && self.message == other.message
    }
}

/// All mistakes of one load, in the order of their places.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    pub list: Vec<Diagnostic>,
    pub sources: Arc<Sources>,
}

impl Diagnostics {
    pub fn new(mut list: Vec<Diagnostic>, sources: Arc<Sources>) -> Diagnostics {
        list.sort_by_key(|diagnostic| diagnostic.span());
        Diagnostics { list, sources }
    }

    pub fn has_errors(&self) -> bool {
        !self.list.is_empty()
    }

    /// File, line and column (both from 1, as far as they are known) of one diagnostic.
    pub fn location(&self, diagnostic: &Diagnostic) -> (String, Option<usize>, Option<usize>) {
        match &diagnostic.place {
            Place::File { file, .. } => (shown_path(&file.path), file.line, column(file)),
            Place::At(span) => {
                let (line, column) = self.sources.line_and_column(self.sources.clamp(*span));
                (self.sources.source(*span).name.clone(), Some(line), Some(column))
            }
        }
    }

    /// For people: every mistake with its line drawn and its hint, then how many there are.
    pub fn render(&self, colour: bool) -> String {
        screen::render(self, colour)
    }

    /// One JSON object a diagnostic: `{"event":"diagnostic","code","message","hint","file","line","column"}`.
    pub fn to_json(&self) -> Vec<serde_json::Value> {
        let object = |one: &Diagnostic| {
            let (file, line, column) = self.location(one);
            serde_json::json!({"event": "diagnostic", "code": one.code, "message": one.message, "hint": one.hint,
                "file": file, "line": line, "column": column})
        };
        self.list.iter().map(object).collect()
    }
}

/// The line of another file that a mistake lies in, as text.
pub fn line_of(file: &FilePlace) -> Option<String> {
    let mut lines = BufReader::new(std::fs::File::open(&file.path).ok()?).split(b'\n');
    let bytes = lines.nth(file.line?.checked_sub(1)?)?.ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_string())
}

fn column(file: &FilePlace) -> Option<usize> {
    let before = file.bytes.as_ref()?.start;
    Some(line_of(file)?.get(..before)?.chars().count() + 1)
}
