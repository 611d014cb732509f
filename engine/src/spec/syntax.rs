//! Text that is no YAML, and YAML that asks for more than a recipe may: limits, and what is said about either.

use super::diagnostic::{Diagnostic, Place};
use super::source::Span;
use serde_yaml::budget::Budget;
use serde_yaml::options::AliasLimits;
use stages::settings::nearest_hint;

/// Bytes of a recipe file. (One of 10,000 nodes has about 1 MB.)
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Levels of lists and mappings inside each other.
const DEPTH_MAX: usize = 64;
/// Keys, values, lists and mappings, each use of an anchor counted anew. (10,000 nodes of four settings have 100,000.)
const VALUES_MAX: usize = 400_000;
/// Bytes of all texts, counted likewise.
pub const TEXT_BYTES_MAX: usize = 32 << 20;

/// What the parser may do before it gives up. A recipe at the limits takes well under 256 MiB.
pub fn budget() -> Option<Budget> {
    serde_yaml::budget! {
        flow_nesting_limit: DEPTH_MAX,
        max_depth: DEPTH_MAX,
        max_nodes: VALUES_MAX,
        max_events: 4 * VALUES_MAX,
        max_aliases: VALUES_MAX,
        max_anchors: VALUES_MAX,
        max_merge_keys: VALUES_MAX,
        max_total_scalar_bytes: TEXT_BYTES_MAX,
        max_recorded_anchor_events: VALUES_MAX,
        max_recorded_anchor_bytes: TEXT_BYTES_MAX,
        // One anchor may serve a thousand nodes.
        enforce_alias_anchor_ratio: false,
    }
}

pub fn alias_limits() -> AliasLimits {
    serde_yaml::alias_limits! { max_total_replayed_events: 4 * VALUES_MAX }
}

pub fn too_large(place: Place, what: &str) -> Diagnostic {
    let hint = "limits keep a broken or hostile file from using up the machine; split the recipe".to_string();
    Diagnostic::error("too-large", place, format!("the recipe is too large: {what}")).with_hint(Some(hint))
}

/// What the parser said, in our words, at its place.
pub fn mistake(error: &serde_yaml::Error, text: &str, source: usize) -> Diagnostic {
    let start = error.location().map_or(0, |at| byte_offset(text, at.line() as usize, at.column() as usize));
    let place = |length: usize| Place::At(Span { source, start, end: start + length });
    let shown = error.without_snippet().to_string();
    let said = shown.split(" at line ").next().unwrap_or_default();
    if let Some(limit) = limit_passed(said) {
        return too_large(place(0), &limit);
    }
    if said.contains("unknown anchor") {
        return unknown_anchor(text, start, place);
    }
    let known = SAID.iter().find(|(theirs, ..)| said.contains(theirs));
    let (message, hint) =
        known.map_or((said, ""), |(_, ours, hint)| (if ours.is_empty() { said } else { ours }, *hint));
    let hint = (!hint.is_empty()).then(|| hint.to_string());
    Diagnostic::error("not-yaml", place(0), message).with_hint(hint)
}

/// Of a line and a column that count from 1.
fn byte_offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    text[before..].chars().take(column.saturating_sub(1)).map(char::len_utf8).sum::<usize>() + before
}

/// Part of what the parser says, the same in our words (its own where empty), and what to do.
const SAID: &[(&str, &str, &str)] = &[
    ("tabs disallowed", "a tab cannot indent", "indent with spaces"),
    ("tab", "", "indent with spaces"),
    (
        "expected ',' or '}'",
        "a mapping in `{ }` goes on here without a comma, or is not closed",
        "put `,` between two entries and `}` at the end",
    ),
    (
        "expected ',' or ']'",
        "a list in `[ ]` goes on here without a comma, or is not closed",
        "put `,` between two items and `]` at the end",
    ),
    ("mismatched bracket", "", "close each bracket with one of its own kind"),
    ("unclosed bracket", "", "close it on the last line that belongs to it"),
    (
        "did not find expected key",
        "this line does not begin in the column of the lines that it belongs to",
        "entries of one mapping begin in one column",
    ),
    (
        "did not find expected '-'",
        "this line does not begin in the column of the items before it",
        "items of one list begin in one column",
    ),
    ("mapping values are not allowed", "a second `:` in one line", "put a text that holds `: ` in quotes"),
    (
        "quoted scalar",
        "a text in quotes, which begins above, is not closed",
        "close it with the quote that it begins with",
    ),
    ("unexpected character", "", "put a text that begins with this character in quotes"),
    ("recursive references", "an anchor is used inside of itself", "use it below the value that it names"),
    ("null into string", "`null` cannot be a key", "put it in quotes"),
    ("expected string scalar", "a key must be a word", "lists and mappings cannot be keys"),
    ("multiple YAML documents", "a second document begins here", "a recipe is one document: remove the line `---`"),
    ("merge value must be", "`<<` needs a mapping, or a list of mappings", "such as `<<: *base`"),
    ("non-finite float", "the number is not finite", "write a number, or put the text in quotes"),
];

/// The limit that the parser says was passed.
fn limit_passed(said: &str) -> Option<String> {
    let passed = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if !passed(&["budget breached", "limit exceeded", "depth exceeded", "nesting limit"]) {
        return None;
    }
    Some(match () {
        () if passed(&["Depth", "recursion", "depth", "nesting"]) => {
            format!("lists and mappings lie more than {DEPTH_MAX} levels deep in each other")
        }
        () if passed(&["ScalarBytes", "AnchorBytes", "InputBytes"]) => {
            format!("its texts, anchors written out, have more than {} MiB", TEXT_BYTES_MAX >> 20)
        }
        () => format!("it has more than {},000 values, anchors written out", VALUES_MAX / 1000),
    })
}

fn unknown_anchor(text: &str, start: usize, place: impl Fn(usize) -> Place) -> Diagnostic {
    let word =
        |at: usize| text[at..].split(|c: char| c.is_whitespace() || ",[]{}".contains(c)).next().unwrap_or_default();
    let name = word(start).trim_start_matches('*');
    let anchors: Vec<&str> =
        text[..start].match_indices('&').map(|(at, _)| word(at + 1)).filter(|name| !name.is_empty()).collect();
    let hint = nearest_hint(name, anchors).unwrap_or_else(|| format!("name a value above with `&{name}`"));
    Diagnostic::error("unknown-anchor", place(name.len() + 1), format!("unknown anchor `{name}`")).with_hint(Some(hint))
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    fn refused(text: &str) -> Diagnostic {
        tree::parse(text, 0, &mut Vec::new()).expect_err("it is refused")
    }

    #[test]
    fn every_bomb_meets_a_limit_that_is_named() {
        let repeated = |text: &str, times: usize| text.repeat(times);
        let laughs: String =
            (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(10))).collect();
        let wide: String = (0..500).map(|n| format!("k{n}: 1, ")).collect();
        let blocks: String = (0..100).map(|n| " ".repeat(n) + "a:\n").collect();
        let levels = "64 levels";
        for (what, text, limit) in [
            ("flow lists", repeated("[", 100_000), levels),
            ("flow mappings", repeated("{a: ", 100_000), levels),
            ("block mappings", blocks, levels),
            ("block lists", repeated("- ", 50_000), levels),
            ("laughs", format!("a0: &a0 [x, x]\n{laughs}"), "400,000 values"),
            ("one wide anchor", format!("a: &a {{ {wide} }}\nb: [{}]\n", "*a, ".repeat(5_000)), "400,000 values"),
            ("wide merges", format!("a: &a {{ {wide} }}\nb: [{}]\n", "{ <<: *a }, ".repeat(5_000)), "400,000 values"),
            ("values", format!("a: [{}]", "1,".repeat(500_000)), "400,000 values"),
            ("a scalar", format!("a: {}", "x".repeat(TEXT_BYTES_MAX + 1)), "32 MiB"),
            ("a scalar's uses", format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a, ".repeat(100)), "32 MiB"),
        ] {
            let mistake = refused(&text);
            assert_eq!(mistake.code, "too-large", "{what}: {}", mistake.message);
            assert!(mistake.message.contains(limit), "{what}: {}", mistake.message);
        }
    }

    #[test]
    fn a_large_recipe_is_no_bomb() {
        let nodes: String =
            (0..15_000).map(|n| format!("  n{n}: {{ kind: dedup, input: n, <<: *base, by: [a, b] }}\n")).collect();
        let tree = tree::parse(&format!("base: &base {{ exact: fold }}\nnodes:\n{nodes}"), 0, &mut Vec::new());
        assert!(tree.is_ok(), "{}", tree.unwrap_err().message);
    }

    #[test]
    fn an_unknown_anchor_has_a_hint() {
        let mistake = refused("a: &base 1\nb: *bsae\n");
        assert_eq!((mistake.code, mistake.hint.as_deref()), ("unknown-anchor", Some("did you mean `base`?")));
        assert_eq!(mistake.span(), Span { source: 0, start: 14, end: 19 });
    }
}
