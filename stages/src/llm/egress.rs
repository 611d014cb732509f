//! What may not leave for a model: rows that a rule keeps back, and values of columns that it hides. Every request passes here.

use super::Request;
use crate::failure::Result;
use crate::rows::Rows;
use crate::settings::{Reader, Setting};
use crate::stage::Inputs;
use crate::template::expressions;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};

/// Values of fewer characters stand in any text by chance.
const SHORTEST_VALUE: usize = 4;
const SUCH_AS: &str = "such as `consent == 'yes'`";

/// A condition on a row's columns, in the words of `filter`'s `where`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Expression {
    text: String,
    /// That it reads.
    #[serde(skip)]
    pub columns: BTreeSet<String>,
}

impl Expression {
    /// `None` after noting at least one mistake.
    fn of_text(text: &str, reader: &mut Reader) -> Option<Expression> {
        let environment = expressions();
        let columns = match environment.compile_expression(text) {
            Ok(compiled) => compiled.undeclared_variables(false).into_iter().collect(),
            Err(error) => {
                let message = format!("not an expression: {}", error.detail().unwrap_or("it ends too early"));
                reader.mistake("broken-expression", message, Some(SUCH_AS.to_string()));
                return None;
            }
        };
        let unknown = crate::prompt::unknown_words(text);
        for (what, word, hint) in &unknown {
            reader.mistake("unknown-filter", format!("unknown {what} `{word}`"), hint.clone());
        }
        unknown.is_empty().then(|| Expression { text: text.to_string(), columns })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it holds, row by row; what cannot be told does not hold.
    fn of(&self, rows: &Rows) -> Vec<bool> {
        let environment = expressions();
        let Ok(compiled) = environment.compile_expression(&self.text) else { return vec![false; rows.len()] };
        let holds =
            |row: Map<String, Value>| compiled.eval(minijinja::value::Serde(&row)).is_ok_and(|value| value.is_true());
        rows.rows.iter().map(|row| holds(rows.object(row))).collect()
    }
}

impl Setting for Expression {
    fn read(value: &Value, reader: &mut Reader) -> Option<Expression> {
        Expression::of_text(&String::read(value, reader)?, reader)
    }
    fn schema() -> Value {
        serde_json::json!({"type": "string", "description": "a condition on a row's columns"})
    }
}

/// What one rule lets through to one model. Its number is in keys, because rows that stay are told it; the model's name is not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Passage {
    /// As people count the rules of the recipe, from 1.
    pub rule: usize,
    /// Only rows for which this holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Expression>,
    /// Columns whose values stand in no request about their row.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub hidden: BTreeSet<String>,
}

impl Passage {
    /// As it stands in the record of an earlier result. `None` for what is no record of one.
    pub fn recorded(record: &Value) -> Option<Passage> {
        let rows = record.get("rows").map(|rows| Expression::read(rows, &mut Reader::default()));
        let names = record.get("hidden").and_then(Value::as_array).into_iter().flatten();
        Some(Passage {
            rule: record.get("rule")?.as_u64()?.try_into().ok()?,
            rows: rows.map_or(Some(None), |rows| rows.map(Some))?,
            hidden: names.map(|name| name.as_str().map(str::to_string)).collect::<Option<_>>()?,
        })
    }

    /// Whether a look at rows and requests is needed at all.
    pub fn is_open(&self) -> bool {
        self.rows.is_none() && self.hidden.is_empty()
    }
}

/// The passages to one model for the rows of one node.
#[derive(Debug, Default)]
pub struct Egress {
    /// By id: every row that the node was given.
    rows: HashMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Number of the rule that keeps it back.
    kept_back: Option<usize>,
    hidden: Vec<Hidden>,
}

#[derive(Debug)]
struct Hidden {
    rule: usize,
    column: String,
    /// In lower case.
    value: String,
}

impl Egress {
    /// `None` where nothing is to be watched.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn of(passages: &[Passage], inputs: &Inputs) -> Result<Option<Egress>> {
        let watched: Vec<&Passage> = passages.iter().filter(|passage| !passage.is_open()).collect();
        if watched.is_empty() {
            return Ok(None);
        }
        let mut egress = Egress::default();
        for table in inputs.tables() {
            table.for_each_batch(|rows| {
                rows.rows.iter().for_each(|row| _ = egress.rows.entry(row.id.clone()).or_default());
                watched.iter().for_each(|passage| egress.learn(passage, rows));
            })?;
        }
        Ok(Some(egress))
    }

    fn learn(&mut self, passage: &Passage, rows: &Rows) {
        let holds = passage.rows.as_ref().map(|expression| expression.of(rows));
        let hidden: Vec<usize> =
            (0..rows.columns.len()).filter(|&place| passage.hidden.contains(&rows.columns[place].name)).collect();
        for (index, row) in rows.rows.iter().enumerate() {
            let known = self.rows.get_mut(&row.id).expect("every row was entered");
            if holds.as_ref().is_some_and(|holds| !holds[index]) {
                known.kept_back.get_or_insert(passage.rule);
            }
            for &place in &hidden {
                let mut values = Vec::new();
                texts(&row.cells[place], &mut values);
                let column = &rows.columns[place].name;
                let hidden = |value: String| Hidden { rule: passage.rule, column: column.clone(), value };
                known.hidden.extend(values.into_iter().map(hidden));
            }
        }
    }

    /// Why a request may not leave; a row that is not known here may not.
    pub fn barred(&self, request: &Request) -> Option<String> {
        let id = request.task.as_ref().map(|task| task.row_id.as_str()).unwrap_or_default();
        match self.rows.get(id) {
            None => Some("may not leave: it is about no row of the input".to_string()),
            Some(Known { kept_back: Some(rule), .. }) => Some(format!("may not leave: rule {rule}")),
            Some(known) => known.first_shown(request).map(|hidden| {
                format!("may not leave: rule {}, a prompt would show its `{}`", hidden.rule, hidden.column)
            }),
        }
    }

    /// Rows that a rule keeps back whatever is asked about them.
    pub fn kept_back(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().filter(|(_, known)| known.kept_back.is_some()).map(|(id, _)| id.as_str())
    }
}

impl Known {
    fn first_shown(&self, request: &Request) -> Option<&Hidden> {
        if self.hidden.is_empty() {
            return None;
        }
        let texts: Vec<String> = request.messages.iter().map(|message| message.content.to_lowercase()).collect();
        self.hidden.iter().find(|hidden| texts.iter().any(|text| stands_in(text, &hidden.value)))
    }
}

/// All texts and numbers of a cell that are long enough to be recognised.
fn texts(cell: &Value, found: &mut Vec<String>) {
    match cell {
        Value::String(text) => note(text.trim(), found),
        Value::Number(number) => note(&number.to_string(), found),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        Value::Null | Value::Bool(_) => {}
    }
}

fn note(text: &str, found: &mut Vec<String>) {
    if text.chars().count() >= SHORTEST_VALUE {
        found.push(text.to_lowercase());
    }
}

/// As words of its own: `1234` does not stand in `51234`.
fn stands_in(text: &str, value: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(value).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + value.len()..]);
        let begins = !is_word(before.chars().next_back()) || !is_word(value.chars().next());
        let ends = !is_word(after.chars().next()) || !is_word(value.chars().next_back());
        begins && ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{ReplyFormat, Task};
    use crate::rows::{Column, ColumnType, Row};
    use crate::stage::Artifact;
    use serde_json::json;

    fn inputs() -> Inputs {
        let columns = ["name", "consent", "problem"];
        let columns = columns.map(|name| Column { name: name.to_string(), column_type: ColumnType::Text });
        let mut rows = Rows::new(columns.to_vec());
        for (id, name, consent) in [("a", "Anna Berg", "yes"), ("b", "Ben", "no"), ("c", "1234", "")] {
            rows.rows.push(Row { id: id.into(), cells: vec![json!(name), json!(consent), json!("fever")] });
        }
        Inputs([("input".to_string(), Artifact::Rows(rows))].into_iter().collect())
    }

    fn passage(rule: usize, rows: Option<&str>, hidden: &[&str]) -> Passage {
        let rows = rows.map(|text| Expression::of_text(text, &mut Reader::default()).unwrap());
        Passage { rule, rows, hidden: hidden.iter().map(|name| name.to_string()).collect() }
    }

    fn barred(passages: &[Passage], row: &str, prompt: &str) -> Option<String> {
        let task = Task { name: "solve", row_id: row.to_string(), row: Map::new() };
        Egress::of(passages, &inputs()).unwrap().unwrap().barred(&Request::new(
            prompt.to_string(),
            ReplyFormat::Text,
            task,
        ))
    }

    #[test]
    fn rows_that_a_rule_keeps_back_and_rows_of_nobody_do_not_pass() {
        let consented = passage(2, Some("consent == 'yes'"), &[]);
        let nonsense = passage(3, Some("no_such_column > 1"), &[]);
        for (passages, row, expected) in [
            (vec![consented.clone()], "a", None),
            (vec![consented.clone()], "b", Some("may not leave: rule 2")),
            (vec![consented.clone()], "c", Some("may not leave: rule 2")),
            (vec![consented.clone()], "z", Some("may not leave: it is about no row of the input")),
            (vec![consented.clone(), nonsense.clone()], "a", Some("may not leave: rule 3")),
        ] {
            assert_eq!(barred(&passages, row, "why?").as_deref(), expected, "{row}");
        }
        assert!(Egress::of(&[passage(1, None, &[])], &inputs()).unwrap().is_none());
    }

    #[test]
    fn a_hidden_value_stands_in_no_request_about_its_row() {
        let shown = Some("may not leave: rule 1, a prompt would show its `name`");
        for (row, prompt, expected) in [
            ("a", "Anna Berg has fever", shown),
            ("a", "so has ANNA BERG.", shown),
            ("a", "Annabel Bergson has fever", None),
            ("b", "Ben has fever", None),
            ("c", "number 1234, ward 3", shown),
            ("c", "number 51234", None),
            ("b", "Anna Berg has fever", None),
        ] {
            assert_eq!(barred(&[passage(1, None, &["name"])], row, prompt).as_deref(), expected, "{row} {prompt}");
        }
    }

    #[test]
    fn a_record_is_read_back() {
        for passage in [passage(2, Some("consent == 'yes'"), &[]), passage(1, None, &["name", "note"])] {
            assert_eq!(Passage::recorded(&json!(passage)), Some(passage));
        }
        assert_eq!(Passage::recorded(&json!({"rule": 1, "rows": "consent =="})), None);
    }

    #[test]
    fn a_wrong_expression_is_named() {
        for (text, expected) in [("consent ==", "broken-expression"), ("consent|yelp", "unknown-filter")] {
            let mut reader = Reader::default();
            assert!(Expression::of_text(text, &mut reader).is_none());
            assert_eq!(reader.mistakes[0].code, expected);
        }
    }
}
