//! What a stage tells about its own work: small tables that are kept with the output and shown again on a hit.

use serde::{Deserialize, Serialize};

/// Deterministic facts only (counts, accuracies): times and money are provenance and live elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub tables: Vec<ReportTable>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportTable {
    pub title: String,
    pub columns: Vec<String>,
    /// One list of cells a row, as many as there are columns.
    pub rows: Vec<Vec<String>>,
    /// The run ends with this table (an evaluation's), not only `show`.
    #[serde(default)]
    pub headline: bool,
}

impl Report {
    /// A two-column table of what became of the rows, in the order given.
    pub fn counts<'a>(title: &str, counts: impl IntoIterator<Item = (&'a str, usize)>) -> Report {
        let rows = counts.into_iter().map(|(what, count)| vec![what.to_string(), count.to_string()]).collect();
        let columns = vec!["outcome".to_string(), "rows".to_string()];
        Report { tables: vec![ReportTable { title: title.to_string(), columns, rows, headline: false }] }
    }
}
