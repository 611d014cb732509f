//! Mistakes as people see them: the offending lines drawn, equal mistakes together, hints below.

use super::diagnostic::{Diagnostic, Diagnostics, Place, line_of};
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use indexmap::IndexMap;
use stages::settings::{FilePlace, shown_path};
use std::ops::Range;

/// Characters of a line of another file that are shown.
const SHOWN_CHARACTERS: usize = 160;
/// Of these so many before the mistake.
const SHOWN_BEFORE: usize = 60;
/// Places of one mistake that are drawn.
const DRAWN_PLACES: usize = 6;
/// Mistakes that are drawn.
const DRAWN_MISTAKES: usize = 60;

pub fn render(diagnostics: &Diagnostics, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mistakes = together(&diagnostics.list);
    let mut screen = String::new();
    for same in mistakes.iter().take(DRAWN_MISTAKES) {
        screen.push_str(&draw(diagnostics, same, &renderer));
        screen.push_str("\n\n");
    }
    screen.push_str(&summary(mistakes.len(), diagnostics.list.len()));
    screen
}

/// The same mistake at several places of one text is told once.
fn together(list: &[Diagnostic]) -> Vec<Vec<&Diagnostic>> {
    let mut groups: IndexMap<_, Vec<&Diagnostic>> = IndexMap::new();
    for (index, one) in list.iter().enumerate() {
        let place = match &one.place {
            Place::At(span) => (span.source, 0),
            // Each is drawn with its own file.
            Place::File { .. } => (usize::MAX, index),
        };
        groups.entry((place, one.code, &one.message, &one.hint)).or_default().push(one);
    }
    groups.into_values().collect()
}

fn summary(mistakes: usize, places: usize) -> String {
    let plural = if mistakes == 1 { "" } else { "s" };
    let places = if places > mistakes { format!(" at {places} places") } else { String::new() };
    let more = match mistakes.saturating_sub(DRAWN_MISTAKES) {
        0 => String::new(),
        more => format!(" ({more} of them not drawn; `decoct check … --format json` lists all)"),
    };
    format!("{mistakes} mistake{plural}{places} in the recipe{more}; nothing was run and nothing was spent\n")
}

fn draw(diagnostics: &Diagnostics, same: &[&Diagnostic], renderer: &Renderer) -> String {
    let first = same[0];
    let foreign = match &first.place {
        Place::File { file, .. } => Some((shown_path(&file.path), foreign_line(file))),
        Place::At(_) => None,
    };
    let mut group = Group::with_title(Level::ERROR.primary_title(printable(&first.message)).id(first.code));
    match &foreign {
        Some((path, Some((line, text, marked)))) => {
            let mark = AnnotationKind::Primary.span(marked.clone());
            let snippet: Snippet<Annotation> = Snippet::source(text.as_str()).path(path.as_str()).line_start(*line);
            group = group.element(snippet.annotation(mark));
        }
        Some((path, None)) => group = group.element(Origin::path(path.as_str())),
        None => {}
    }
    let source = diagnostics.sources.source(first.span());
    let text = without_secrets(diagnostics, first.span().source, &source.text);
    let marks = same.iter().take(DRAWN_PLACES).map(|one| {
        let span = diagnostics.sources.clamp(one.span());
        match foreign {
            Some(_) => AnnotationKind::Context.span(span.start..span.end).label("used here"),
            None => AnnotationKind::Primary.span(span.start..span.end),
        }
    });
    group = group.element(Snippet::source(text.as_str()).path(source.name.as_str()).annotations(marks));
    if let Some(more) = same.len().checked_sub(DRAWN_PLACES).filter(|more| *more > 0) {
        group = group.element(Level::NOTE.message(format!("and at {more} more places")));
    }
    if let Some(hint) = first.hint.as_deref().map(printable) {
        group = group.element(Level::HELP.message(hint));
    }
    renderer.render(&[group])
}

/// What must not be written there must not be repeated either, whatever else is wrong with its line.
fn without_secrets(diagnostics: &Diagnostics, source: usize, text: &str) -> String {
    let mut shown = text.to_string();
    for one in diagnostics.list.iter().filter(|one| one.code == "secret" && one.span().source == source) {
        let span = diagnostics.sources.clamp(one.span());
        shown.replace_range(span.start..span.end, &"*".repeat(span.end - span.start));
    }
    shown
}

/// Its number, as much of it as a screen holds, and which bytes of that are wrong.
fn foreign_line(file: &FilePlace) -> Option<(usize, String, Range<usize>)> {
    let line = line_of(file)?;
    let wrong = file.bytes.clone().unwrap_or(0..line.len());
    let before = line.get(..wrong.start).map_or(0, |before| before.chars().count());
    let skipped = if before + 20 > SHOWN_CHARACTERS { before - SHOWN_BEFORE } else { 0 };
    let mut shown = if skipped > 0 { "…".to_string() } else { String::new() };
    let (mut start, mut end) = (shown.len(), 0);
    for (at, character) in line.char_indices().skip(skipped).take(SHOWN_CHARACTERS) {
        if at <= wrong.start {
            start = shown.len();
        }
        shown.push(printable_character(character));
        if at < wrong.end {
            end = shown.len();
        }
    }
    if line.chars().count() > skipped + SHOWN_CHARACTERS {
        shown.push('…');
    }
    Some((file.line?, shown, start..end.max(start)))
}

/// Control characters of a foreign text must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { printable_character(c) }).collect()
}

fn printable_character(character: char) -> char {
    match character {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str, bytes: Option<Range<usize>>) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, format!("first\n{line}\n")).unwrap();
        let (number, text, marked) = foreign_line(&FilePlace { path, line: Some(2), bytes }).unwrap();
        assert_eq!(number, 2);
        let marked = text[marked].to_string();
        (text, marked)
    }

    #[test]
    fn the_wrong_part_of_a_foreign_line_is_marked_however_long_it_is() {
        assert_eq!(shown("a {{ é }} b", Some(5..7)), ("a {{ é }} b".into(), "é".into()));
        assert_eq!(shown("a\u{1b}[31mb", None), ("a\u{fffd}[31mb".into(), "a\u{fffd}[31mb".into()));
        assert_eq!(shown("", None), (String::new(), String::new()));
        let long = format!("{}wrong{}", "é".repeat(500), "x".repeat(500));
        let (text, marked) = shown(&long, Some(1000..1005));
        assert_eq!(marked, "wrong");
        assert!(
            text.starts_with("…é") && text.ends_with("x…") && text.chars().count() <= SHOWN_CHARACTERS + 2,
            "{text}"
        );
        let (text, marked) = shown(&"y".repeat(1000), None);
        assert_eq!((text.chars().count(), marked.len()), (SHOWN_CHARACTERS + 1, SHOWN_CHARACTERS));
    }
}
