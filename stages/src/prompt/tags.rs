//! The tags of a template, read just far enough to know where its words stand; what they mean is the renderer's business.

use crate::settings::near_hint;
use minijinja::{Environment, ErrorKind};

/// What stands in a tag.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Token<'a> {
    Word(&'a str),
    /// A literal, without its quotes.
    Text(&'a str),
    Sign(char),
}

/// One `{{ … }}` or `{% … %}`: its tokens with the byte at which each begins.
#[derive(Debug, Default)]
pub struct Tag<'a>(Vec<(Token<'a>, usize)>);

/// All tags of a template; comments and raw text have none.
#[derive(Debug)]
pub struct Tags<'a>(Vec<Tag<'a>>);

impl<'a> Tags<'a> {
    pub fn of(template: &'a str) -> Tags<'a> {
        let (mut tags, mut at) = (Vec::new(), 0);
        while let Some(start) = template[at..].find('{').map(|found| at + found) {
            at = match template.as_bytes().get(start + 1) {
                Some(b'#') => end_of(template, start, "#}"),
                Some(sign @ (b'{' | b'%')) => {
                    let (tag, end) = Tag::read(template, start + 2, if *sign == b'{' { "}}" } else { "%}" });
                    let raw = tag.first_word() == Some("raw");
                    tags.push(tag);
                    if raw { template[end..].find("endraw").map_or(template.len(), |found| end + found) } else { end }
                }
                _ => start + 1,
            };
        }
        Tags(tags)
    }

    /// What is included or imported, with the byte at which its name begins; `None` for a name that is computed.
    pub fn included(&self) -> impl Iterator<Item = (Option<&'a str>, usize)> {
        let named = |tag: &Tag<'a>| {
            let place = tag.0.iter().position(|(token, _)| matches!(token, Token::Word(_)))?;
            let (Token::Word("include" | "import" | "from" | "extends"), at) = tag.0[place] else { return None };
            Some(match tag.0.get(place + 1) {
                Some(&(Token::Text(name), at)) => (Some(name), at),
                _ => (None, at),
            })
        };
        self.0.iter().filter_map(named)
    }

    /// Names that the template gives values to.
    pub fn assigned(&self) -> Vec<&'a str> {
        let names = |tag: &Tag<'a>| -> Vec<&'a str> {
            let end = match tag.first_word() {
                Some("for") => Token::Word("in"),
                Some("set" | "with") => Token::Sign('%'),
                _ => return Vec::new(),
            };
            let words = tag.0.iter().map(|(token, _)| *token).take_while(|token| *token != end);
            words.filter_map(|token| if let Token::Word(word) = token { Some(word) } else { None }).collect()
        };
        self.0.iter().flat_map(names).collect()
    }

    /// The byte at which a variable, filter or test is first used.
    pub fn first_use(&self, name: &str) -> Option<usize> {
        self.0.iter().find_map(|tag| tag.uses(name).next()).map(|(_, at)| *at)
    }

    /// Whether the template asks whether a variable holds anything, or says what stands in for it.
    pub fn guards(&self, name: &str) -> bool {
        self.0.iter().any(|tag| {
            let asked = matches!(tag.first_word(), Some("if" | "elif")) || tag.has("if") || tag.has("default");
            asked && tag.uses(name).next().is_some()
        })
    }

    /// Names behind `|` (filters) and `is` (tests).
    fn applied(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let pair = |pair: &[(Token<'a>, usize)]| match (pair[0].0, pair[1].0) {
            (Token::Sign('|'), Token::Word(word)) => Some(("filter", word)),
            (Token::Word("is"), Token::Word(word)) if word != "not" => Some(("test", word)),
            _ => None,
        };
        self.0.iter().flat_map(move |tag| tag.0.windows(2).filter_map(pair))
    }
}

impl<'a> Tag<'a> {
    /// From behind its opening to `close`, and where it ends.
    fn read(template: &'a str, mut at: usize, close: &str) -> (Tag<'a>, usize) {
        let mut tag = Tag::default();
        while at < template.len() && !template[at..].starts_with(close) {
            let rest = &template[at..];
            let first = rest.chars().next().expect("there is more");
            let length = match first {
                '"' | '\'' => {
                    let length = end_of(rest, 1, &first.to_string());
                    tag.0.push((Token::Text(rest[1..length].trim_end_matches(first)), at));
                    length
                }
                c if c.is_alphabetic() || c == '_' => {
                    let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                    tag.0.push((Token::Word(&rest[..length]), at));
                    length
                }
                c => {
                    if !c.is_whitespace() {
                        tag.0.push((Token::Sign(c), at));
                    }
                    c.len_utf8()
                }
            };
            at += length;
        }
        (tag, (at + close.len()).min(template.len()))
    }

    fn first_word(&self) -> Option<&'a str> {
        self.0.iter().find_map(|(token, _)| if let Token::Word(word) = token { Some(*word) } else { None })
    }

    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|(token, _)| *token == Token::Word(word))
    }

    /// A word that is not a member of something else (`row.question`).
    fn uses(&self, name: &str) -> impl Iterator<Item = &(Token<'a>, usize)> {
        let member = |index: usize| index > 0 && self.0[index - 1].0 == Token::Sign('.');
        self.0
            .iter()
            .enumerate()
            .filter(move |(index, (token, _))| *token == Token::Word(name) && !member(*index))
            .map(|(_, used)| used)
    }
}

/// Behind the next `close` after `start`, or the end of the text.
fn end_of(text: &str, start: usize, close: &str) -> usize {
    text[start..].find(close).map_or(text.len(), |found| start + found + close.len())
}

/// Filters and tests that templates can use, for hints; whether one exists is asked of the renderer.
const FILTERS: [&str; 24] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "default",
    "dictsort",
    "first",
    "float",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "max",
    "min",
    "replace",
    "reverse",
    "round",
    "sort",
    "title",
    "trim",
    "upper",
];
const TESTS: [&str; 12] = [
    "defined",
    "endingwith",
    "even",
    "false",
    "in",
    "mapping",
    "none",
    "number",
    "odd",
    "startingwith",
    "string",
    "true",
];

/// Filters and tests of a template or an expression that do not exist: `(filter or test, its name, a hint)`.
pub fn unknown_words(text: &str) -> Vec<(&'static str, &str, Option<String>)> {
    let whole = if text.contains("{{") || text.contains("{%") {
        Tags::of(text)
    } else {
        Tags(vec![Tag::read(text, 0, "}}").0])
    };
    let mut unknown: Vec<(&str, &str, Option<String>)> = Vec::new();
    for (what, word) in whole.applied() {
        if !unknown.iter().any(|(_, known, _)| *known == word) && !exists(what, word) {
            let known = if what == "filter" { FILTERS.as_slice() } else { TESTS.as_slice() };
            unknown.push((what, word, near_hint(word, known.iter().copied())));
        }
    }
    unknown
}

fn exists(what: &str, word: &str) -> bool {
    let trial = if what == "filter" { format!("''|{word}") } else { format!("'' is {word}") };
    let environment = Environment::new();
    let tried = environment.compile_expression(&trial).and_then(|expression| expression.eval(()));
    !tried.is_err_and(|error| matches!(error.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_words_in_tags() {
        let text = "question {# {{ question }} #}{% raw %}{{ question }}{% endraw %} {{ 'question' }}{{ row.question }}{{- question }}";
        assert_eq!(Tags::of(text).first_use("question"), text.rfind("question"));
        assert_eq!(Tags::of("{{ a }}").first_use("b"), None);
        for text in ["{{", "{% 'a", "{#", "{% raw %}{{ a", "{{ é|ü }}", "{% include %}", "{"] {
            Tags::of(text).included().for_each(drop);
        }
    }

    #[test]
    fn filters_and_tests_that_do_not_exist_are_found() {
        let words =
            |text| unknown_words(text).into_iter().map(|(what, word, _)| format!("{what} {word}")).collect::<Vec<_>>();
        assert_eq!(words("question|lenght > 3 and answer is strng"), ["filter lenght", "test strng"]);
        assert_eq!(words("{{ question|trim|upper }}{% if a is not defined %}{% endif %}"), Vec::<String>::new());
        assert_eq!(unknown_words("a|lenght")[0].2.as_deref(), Some("did you mean `length`?"));
    }

    #[test]
    fn names_that_are_set() {
        let assigned = |text| Tags::of(text).assigned();
        assert_eq!(assigned("{% for key, value in options %}"), ["for", "key", "value"]);
        assert!(assigned("{% set line = 3 %}").contains(&"line"));
    }
}
