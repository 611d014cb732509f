//! How a row's id goes on through a node: as it is nearly everywhere, made new where one table would hold it twice.

use crate::kinds::mix;
use crate::rows::{Row, Rows};
use serde_json::Value;

/// Inputs that hold one id twice are few; each makes it new once.
const RENAMED_AT_MOST: usize = 16;

/// The label of the input that a mixed row is from. `settings` are those of its node's record.
pub fn label<'a>(kind: &str, settings: &Value, rows: &'a Rows, row: &'a Row) -> Option<&'a str> {
    if kind != "mix" {
        return None;
    }
    let column = rows.position(settings["from"].as_str()?)?;
    row.cells[column].as_str()
}

/// The port by which rows with this label came in.
pub fn port(label: &str) -> String {
    mix::port(label)
}

/// Whether the row that came in as `before` went out as `after`; `label` is that of its input, where it has one.
pub fn goes_on(kind: &str, label: Option<&str>, before: &str, after: &str) -> bool {
    match (kind, label) {
        ("mix", Some(label)) => {
            let mut ids = std::iter::successors(Some(before.to_string()), |id| Some(mix::renamed(id, label)));
            ids.by_ref().take(RENAMED_AT_MOST).any(|id| id == after)
        }
        ("eval", _) => problem(after) == before,
        _ => before == after,
    }
}

/// The id of the problem that a row of an evaluation answers; of any other row its own.
pub fn problem(id: &str) -> &str {
    id.split_once(' ').map_or(id, |(problem, _)| problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Column, ColumnType};

    #[test]
    fn a_mixed_row_is_known_by_its_label_and_its_id() {
        let column = Column { name: "text".into(), column_type: ColumnType::Text };
        let table = |ids: &[&str]| Rows {
            columns: vec![column.clone()],
            rows: ids.iter().map(|id| Row { id: id.to_string(), cells: vec![Value::from(*id)] }).collect(),
        };
        let mixed = mix::union(vec![("a", table(&["x", "y"])), ("b", table(&["x"])), ("c", table(&["x"]))], "from");
        let settings = serde_json::json!({"from": "from"});
        let text = mixed.position("text").unwrap();
        for row in &mixed.rows {
            let label = label("mix", &settings, &mixed, row);
            assert!(goes_on("mix", label, row.cells[text].as_str().unwrap(), &row.id), "{row:?}");
            assert!(!goes_on("mix", label, "z", &row.id));
        }
        assert_eq!(mixed.rows.iter().filter(|row| row.id != row.cells[text].as_str().unwrap()).count(), 2);
    }

    #[test]
    fn an_answer_belongs_to_its_problem() {
        assert!(goes_on("eval", None, "x1", "x1 complex + PPO greedy"));
        assert!(!goes_on("eval", None, "x", "x1 base greedy"));
        assert!(goes_on("cot", None, "x", "x") && !goes_on("cot", None, "x", "y"));
    }
}
