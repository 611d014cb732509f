//! Small tables for the terminal: aligned columns, numbers to the right.

/// Lines of a table, columns two spaces apart, a rule below the head. Widths are in characters.
pub fn lines(columns: &[String], rows: &[Vec<String>]) -> Vec<String> {
    let width = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index));
        cells.chain(columns.get(index)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let right: Vec<bool> = (0..columns.len()).map(|index| is_numeric(rows, index)).collect();
    let rule: Vec<String> = widths.iter().map(|&width| "─".repeat(width)).collect();
    let body = std::iter::once(columns).chain(std::iter::once(rule.as_slice())).chain(rows.iter().map(Vec::as_slice));
    body.map(|row| line(row, &widths, &right)).collect()
}

fn line(row: &[String], widths: &[usize], right: &[bool]) -> String {
    let cells = row.iter().zip(widths).zip(right).map(|((cell, &width), &right)| match right {
        true => format!("{cell:>width$}"),
        false => format!("{cell:<width$}"),
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
}

/// A column is set to the right when all that stands in it starts like a number.
fn is_numeric(rows: &[Vec<String>], index: usize) -> bool {
    let mut cells = rows.iter().filter_map(|row| row.get(index)).filter(|cell| !cell.is_empty()).peekable();
    let starts_like_a_number = |cell: &String| {
        cell.trim_start_matches(['+', '-', '−', '$', '±', '~']).starts_with(|c: char| c.is_ascii_digit())
    };
    cells.peek().is_some() && cells.all(starts_like_a_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let columns = ["outcome".to_string(), "rows".to_string()];
        let rows =
            [vec!["kept".to_string(), "1200".to_string()], vec!["dropped, too short".to_string(), "7".to_string()]];
        assert_eq!(
            lines(&columns, &rows),
            [
                "outcome             rows",
                "──────────────────  ────",
                "kept                1200",
                "dropped, too short     7"
            ]
        );
    }
}
