//! Two texts side by side, line against line, with the words marked that differ; or one below the other where there is no room.

use crate::report::paint::{Colour, Paint};
use similar::{ChangeTag, DiffOp, TextDiff};

/// Unchanged lines around an edit.
const CONTEXT_LINES: usize = 1;
/// Words of unchanged text around an edit.
const CONTEXT_WORDS: usize = 6;
/// Between the two sides.
const BAR: &str = " │ ";

/// Old to the left, new to the right. Words that went stand in `[-…-]`, words that came in `{+…+}`.
pub fn side_by_side(old: &str, new: &str, paint: Paint) -> Vec<String> {
    let room = paint.width().saturating_sub(BAR.chars().count() + INDENT.len()) / 2;
    // A last line without an end would differ from the same line in the middle.
    let (old, new) = (format!("{old}\n"), format!("{new}\n"));
    let diff = TextDiff::from_lines(&old, &new);
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let groups = diff.grouped_ops(CONTEXT_LINES);
    let mut lines = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        if at > 0 {
            lines.push(format!("{INDENT}⋮"));
        }
        for (left, right) in group.iter().flat_map(|edit| pairs(edit, &old, &new)) {
            let (left, right) = marked(left, right);
            lines.extend(beside(&left, &right, room, paint));
        }
    }
    lines
}

const INDENT: &str = "    ";

/// Lines that face each other.
fn pairs<'t>(edit: &DiffOp, old: &[&'t str], new: &[&'t str]) -> Vec<(Option<&'t str>, Option<&'t str>)> {
    let (left, right) = (&old[edit.old_range()], &new[edit.new_range()]);
    (0..left.len().max(right.len())).map(|at| (left.get(at).copied(), right.get(at).copied())).collect()
}

/// A piece of a line, and whether the other side lacks it.
type Pieces<'t> = Vec<(bool, &'t str)>;

fn marked<'t>(left: Option<&'t str>, right: Option<&'t str>) -> (Pieces<'t>, Pieces<'t>) {
    let (Some(left), Some(right)) = (left, right) else {
        let whole = |side: Option<&'t str>| side.map(|line| vec![(true, line)]).unwrap_or_default();
        return (whole(left), whole(right));
    };
    let diff = TextDiff::from_words(left, right);
    let side = |lacked: ChangeTag| -> Pieces<'t> {
        let changes = diff.iter_all_changes().filter(|one| one.tag() == lacked || one.tag() == ChangeTag::Equal);
        changes.map(|one| (one.tag() == lacked, one.value())).collect()
    };
    (side(ChangeTag::Delete), side(ChangeTag::Insert))
}

/// Both sides in lines of `room` characters.
fn beside(left: &Pieces, right: &Pieces, room: usize, paint: Paint) -> Vec<String> {
    let left = wrapped(left, ["[-", "-]"], Colour::Red, room, paint);
    let right = wrapped(right, ["{+", "+}"], Colour::Green, room, paint);
    let empty = (0, String::new());
    let line = |at: usize| {
        let (width, text) = left.get(at).unwrap_or(&empty);
        let (_, other) = right.get(at).unwrap_or(&empty);
        format!("{INDENT}{text}{}{BAR}{other}", " ".repeat(room - width)).trim_end().to_string()
    };
    (0..left.len().max(right.len()).max(1)).map(line).collect()
}

/// Lines with their widths, broken between characters where a word is longer than a line.
fn wrapped(pieces: &Pieces, marks: [&str; 2], colour: Colour, room: usize, paint: Paint) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let (mut width, mut text) = (0, String::new());
    for (is_marked, words) in joined(pieces) {
        let told = if is_marked { format!("{}{words}{}", marks[0], marks[1]) } else { words };
        for word in told.split_inclusive(' ') {
            let mut left: Vec<char> = word.chars().collect();
            if width > 0 && width + word.trim_end().chars().count() > room {
                lines.push((std::mem::take(&mut width), std::mem::take(&mut text)));
            }
            while !left.is_empty() {
                let taken: String = left.drain(..left.len().min(room - width)).collect();
                width += taken.chars().count();
                text += &if is_marked { paint.text(colour, &taken) } else { taken };
                if width == room && !left.is_empty() {
                    lines.push((std::mem::take(&mut width), std::mem::take(&mut text)));
                }
                // A space that has no room ends the line.
                if width == 0 && left.iter().all(|character| *character == ' ') {
                    left.clear();
                }
            }
        }
    }
    if width > 0 {
        lines.push((width, text));
    }
    lines
}

/// Neighbours of one sort as one piece; a space between two marked words is marked with them.
fn joined(pieces: &Pieces) -> Vec<(bool, String)> {
    let mut all: Vec<(bool, String)> = Vec::new();
    for (at, (is_marked, words)) in pieces.iter().enumerate() {
        let between = words.trim().is_empty()
            && all.last().is_some_and(|last| last.0)
            && pieces.get(at + 1).is_some_and(|next| next.0);
        let is_marked = *is_marked || between;
        match all.last_mut() {
            Some(last) if last.0 == is_marked => last.1 += words,
            _ => all.push((is_marked, words.to_string())),
        }
    }
    all
}

/// `- old words` and `+ new words` with a little of what stands around them.
pub fn word_edits(old: &str, new: &str, paint: Paint) -> Vec<String> {
    let diff = TextDiff::from_words(old, new);
    let mut lines = Vec::new();
    for group in diff.grouped_ops(CONTEXT_WORDS) {
        for (tag, sign, colour) in [(ChangeTag::Delete, '-', Colour::Red), (ChangeTag::Insert, '+', Colour::Green)] {
            let changes = group.iter().flat_map(|edit| diff.iter_changes(edit));
            let side: String = changes
                .filter(|one| one.tag() == tag || one.tag() == ChangeTag::Equal)
                .map(|one| one.value())
                .collect();
            let words = side.split_whitespace().collect::<Vec<_>>().join(" ");
            lines.push(paint.text(colour, &format!("{INDENT}{sign} {words}")));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str, width: usize, expected: &[&str]) {
        assert_eq!(side_by_side(old, new, Paint::plain(width)), expected, "{old:?} {new:?}");
    }

    #[test]
    fn lines_face_each_other_and_the_words_that_differ_are_marked() {
        check(
            "same\nthe old way\nend",
            "same\nthe new way\nend",
            47,
            &[
                "    same                 │ same",
                "    the [-old-] way      │ the {+new+} way",
                "    end                  │ end",
            ],
        );
        check("a\nb\nc\nd", "a\nb\nc\nd\ne", 47, &["    d                    │ d", "                         │ {+e+}"]);
        check("a b", "a", 47, &["    a[- b-]              │ a"]);
    }

    #[test]
    fn unchanged_lines_between_edits_are_left_out() {
        let old = "1\n2\n3\n4\n5\n6";
        let lines = side_by_side(old, &old.replace('1', "one").replace('6', "six"), Paint::plain(47));
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[2], "    ⋮");
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_is_wide() {
        let old = "a long line of words that must be broken somewhere and averyveryveryveryverylongwordthatfitsnowhere";
        let new = old.replace("words", "words and more words").replace("long", "endless");
        for width in [30, 47, 100] {
            for line in side_by_side(old, &new, Paint::plain(width)) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
        let told: String = side_by_side(old, &new, Paint::plain(60)).concat();
        assert!(told.contains("{+"), "{told}");
    }
}
