//! What is wrong with a recipe: each mistake with its place, drawn with the line it stands on.

use super::source::{Sources, Span};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Characters of a line of a data file that are shown.
const SHOWN_CHARACTERS: usize = 160;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    At(Span),
    /// In another file that the recipe names at `named_at`; the line, where known, counts from 1.
    File {
        path: PathBuf,
        line: Option<usize>,
        named_at: Span,
    },
}

#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// A short stable word for this kind of mistake, such as `unknown-key`.
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

    /// File, line and column (from 1; no column in a data file) of one diagnostic.
    pub fn location(&self, diagnostic: &Diagnostic) -> (String, Option<usize>, Option<usize>) {
        match &diagnostic.place {
            Place::File { path, line, .. } => (shown_path(path), *line, None),
            Place::At(span) => {
                let (line, column) = self.sources.line_and_column(self.sources.clamp(*span));
                (self.sources.source(*span).name.clone(), Some(line), Some(column))
            }
        }
    }

    /// For people: every mistake with its line drawn and its hint, then how many there are.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut screen: String = self.list.iter().map(|one| self.draw(one, &renderer) + "\n\n").collect();
        screen.push_str(&self.summary());
        screen
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

    fn summary(&self) -> String {
        let plural = if self.list.len() == 1 { "" } else { "s" };
        format!("{} mistake{plural} in the recipe; nothing was run and nothing was spent\n", self.list.len())
    }

    fn draw(&self, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
        let message = printable(&diagnostic.message);
        let hint = diagnostic.hint.as_deref().map(printable);
        let (file, line, _) = self.location(diagnostic);
        let foreign = self.foreign_line(diagnostic);
        let mut group = Group::with_title(Level::ERROR.primary_title(message).id(diagnostic.code));
        if let Some(text) = &foreign {
            group = group.element(whole_line(text, &file, line.unwrap_or(1)));
        }
        let span = self.sources.clamp(diagnostic.span());
        let source = self.sources.source(span);
        let kind = if foreign.is_some() { AnnotationKind::Context } else { AnnotationKind::Primary };
        let mut mark = kind.span(span.start..span.end);
        if matches!(diagnostic.place, Place::File { .. }) {
            mark = mark.label("named here");
        }
        group = group.element(Snippet::source(source.text.as_str()).path(source.name.as_str()).annotation(mark));
        if let Some(hint) = hint {
            group = group.element(Level::HELP.message(hint));
        }
        renderer.render(&[group])
    }

    /// The line of a data file that a mistake lies in, cut to what a screen holds.
    fn foreign_line(&self, diagnostic: &Diagnostic) -> Option<String> {
        let Place::File { path, line: Some(line), .. } = &diagnostic.place else { return None };
        let mut lines = BufReader::new(std::fs::File::open(path).ok()?).split(b'\n');
        let bytes = lines.nth(line.checked_sub(1)?)?.ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
        Some(if shown.len() < text.len() { printable(&(shown + "…")) } else { printable(&shown) })
    }
}

fn whole_line<'a>(text: &'a str, path: &'a str, line: usize) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    Snippet::source(text).path(path).line_start(line).annotation(AnnotationKind::Primary.span(0..text.len()))
}

fn shown_path(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

/// Control characters of a foreign text must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
