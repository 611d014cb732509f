//! `split`: divides rows into named parts so that equal problems never part and rows that are added later move hardly any other.

use super::text::{fold, identifying_columns, joined};
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::draw::Draw;
use crate::failure::Result;
use crate::report::{Report, ReportTable};
use crate::rows::Rows;
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Artifact, Input, Inputs, Kind, NodeRef, Outlook, Output, Outputs, Stage};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

pub const KIND: Kind = Kind {
    name: "split",
    about: "Divides rows into named parts; equal problems never part.",
    schema: SplitSettings::schema,
    read,
};

/// Where the rows go that no part has room for.
const REST: &str = "rest";

crate::settings! {
    /// Named parts. What is left over is the output `rest`.
    pub struct SplitSettings {
        pub input: NodeRef,
        /// Part name: a number of rows (`6000`) or a share of all (`0.3`). More than there are shrink in proportion.
        pub parts: IndexMap<String, Size>,
        /// Rows that are equal in these columns stay together; `problem`, else `question`, else all when left out.
        pub by: Vec<String> = Vec::new(),
    }
}

/// How much a part takes.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    Count(u64),
    Share(f64),
}

impl Setting for Size {
    fn read(value: &Value, reader: &mut Reader) -> Option<Size> {
        let size = match (value.as_u64(), value.as_f64()) {
            (Some(count), _) if count > 0 => Some(Size::Count(count)),
            (_, Some(share)) if share > 0.0 && share <= 1.0 => Some(Size::Share(share)),
            (_, Some(count)) if count > 1.0 && count.fract() == 0.0 => Some(Size::Count(count as u64)),
            _ => None,
        };
        if size.is_none() {
            reader.wrong_type("a number of rows (`6000`) or a share (`0.3`)", value);
        }
        size
    }
    fn schema() -> Value {
        json!({"type": "number", "exclusiveMinimum": 0})
    }
}

struct Split(SplitSettings);

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = SplitSettings::read_fields(fields, reader)?;
    match parts_fault(&settings.parts) {
        None => Some(Box::new(Split(settings))),
        Some(message) => {
            reader.within(Step::Key("parts".into()), |reader| reader.mistake("bad-parts", message, None));
            None
        }
    }
}

fn parts_fault(parts: &IndexMap<String, Size>) -> Option<String> {
    let shares: f64 = parts.values().map(|size| if let Size::Share(share) = size { *share } else { 0.0 }).sum();
    let unusable = parts.keys().find(|name| name.is_empty() || name.contains('.') || *name == REST);
    match unusable {
        _ if parts.is_empty() => Some("at least one part is needed".to_string()),
        Some(name) if name == REST => Some(format!("`{REST}` is what no part takes; name the part otherwise")),
        Some(name) => Some(format!("`{name}` cannot be the name of an output")),
        None => (shares > 1.0 + 1e-9).then(|| format!("the shares add up to {shares}, more than all rows")),
    }
}

impl Stage for Split {
    fn version(&self) -> u32 {
        1
    }

    /// Parts as a list: their order says who is topped up first, and a key does not see the order of a mapping.
    fn settings(&self) -> Value {
        json!({"parts": self.0.parts.iter().collect::<Vec<_>>(), "by": self.0.by})
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::rows("input", &self.0.input)]
    }

    fn draws(&self) -> bool {
        true
    }

    fn outputs(&self) -> Vec<Output> {
        self.0.parts.keys().map(String::as_str).chain([REST]).map(Output::rows).collect()
    }

    fn columns(&self, _output: &str, inputs: &[Columns]) -> Columns {
        inputs[0].clone()
    }

    fn needs(&self) -> Vec<Need> {
        Need::listed("input", "by", &self.0.by).collect()
    }

    /// A part may pass its room by the last group of equal rows.
    fn rows_out(&self, rows: &[u64]) -> Vec<Outlook> {
        let there = rows.first().copied().unwrap_or(0);
        let sizes: Vec<Size> = self.0.parts.values().copied().collect();
        let counts = row_counts(&sizes, there as usize);
        let rest = (there as usize).saturating_sub(counts.iter().sum());
        let part = |count: usize| Outlook::about(count as f64, "parts have the size that is asked for", there);
        counts.into_iter().chain([rest]).map(part).collect()
    }

    fn is_quick(&self) -> bool {
        true
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let rows = inputs.take_rows("input")?;
        let columns = identifying_columns(&rows, &self.0.by)?;
        let keys: Vec<String> = rows.rows.iter().map(|row| fold(&joined(row, &columns))).collect();
        let sizes: Vec<Size> = self.0.parts.values().copied().collect();
        let counts = row_counts(&sizes, rows.len());
        if let Some(asked) = shrunk(&sizes, &counts) {
            let message =
                format!("{asked} rows are asked for and {} are there: the parts shrink in proportion", rows.len());
            context.warn(&message);
        }
        let homes = assign(&keys, &counts, &context.draw());
        Ok(self.divide(rows, &homes, &counts))
    }
}

/// Parts as the mapping that the recipe has, each with its number.
pub fn in_words(settings: &Value) -> Value {
    let mut words = settings.clone();
    let size = |size: &Value| size.as_object().and_then(|size| size.values().next()).cloned().unwrap_or_default();
    let part = |part: &Value| Some((part.get(0)?.as_str()?.to_string(), size(part.get(1)?)));
    if let Some(parts) =
        settings["parts"].as_array().and_then(|parts| parts.iter().map(part).collect::<Option<Map<_, _>>>())
    {
        words["parts"] = Value::Object(parts);
    }
    words
}

impl Split {
    fn divide(&self, rows: Rows, homes: &[usize], counts: &[usize]) -> Outputs {
        let names = self.0.parts.keys().map(String::as_str).chain([REST]);
        let mut tables: Vec<(&str, Rows)> = names.map(|name| (name, rows.empty_like())).collect();
        for (row, &home) in rows.rows.into_iter().zip(homes) {
            tables[home].1.rows.push(row);
        }
        let report = self.report(&tables, counts);
        let artifacts = tables.into_iter().map(|(name, rows)| (name.to_string(), Artifact::Rows(rows)));
        Outputs { artifacts: artifacts.collect(), report }
    }

    fn report(&self, tables: &[(&str, Rows)], counts: &[usize]) -> Report {
        let asked = self.0.parts.values().map(|size| match size {
            Size::Count(count) => count.to_string(),
            Size::Share(share) => format!("{} %", share * 100.0),
        });
        let asked = asked.chain([String::new()]);
        let room = counts.iter().map(usize::to_string).chain([String::new()]);
        let cells = tables.iter().zip(asked).zip(room);
        let rows =
            cells.map(|(((name, rows), asked), room)| vec![name.to_string(), asked, room, rows.len().to_string()]);
        let columns = ["part", "asked", "room", "rows"].map(str::to_string).to_vec();
        Report { tables: vec![ReportTable { title: "split".into(), columns, rows: rows.collect(), headline: false }] }
    }
}

/// Rows a part may take. Shares count from all rows; when the parts ask for more than there is, all shrink in proportion.
/// Fractions go to the parts with the largest remainders, so that parts that ask for everything get everything.
pub fn row_counts(sizes: &[Size], rows: usize) -> Vec<usize> {
    let asked: Vec<f64> = sizes.iter().map(|size| asked_rows(*size, rows)).collect();
    let total: f64 = asked.iter().sum();
    let scale = if total > rows as f64 { rows as f64 / total } else { 1.0 };
    let exact: Vec<f64> = asked.iter().map(|count| count * scale).collect();
    let mut counts: Vec<usize> = exact.iter().map(|count| (count + 1e-9).floor() as usize).collect();
    let whole = (exact.iter().sum::<f64>() + 1e-6).floor() as usize;
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by(|&left, &right| exact[right].fract().total_cmp(&exact[left].fract()));
    let missing = whole.saturating_sub(counts.iter().sum());
    order.into_iter().cycle().take(missing).for_each(|part| counts[part] += 1);
    counts
}

fn asked_rows(size: Size, rows: usize) -> f64 {
    match size {
        Size::Count(count) => count as f64,
        Size::Share(share) => share * rows as f64,
    }
}

/// The number of rows asked for when it is more than the parts get.
fn shrunk(sizes: &[Size], counts: &[usize]) -> Option<u64> {
    let asked: u64 = sizes.iter().map(|size| if let Size::Count(count) = size { *count } else { 0 }).sum();
    (asked > counts.iter().map(|&count| count as u64).sum()).then_some(asked)
}

/// All rows with one key: where they want to go and how early they may.
struct Group {
    rows: Vec<usize>,
    home: usize,
    rank: u64,
}

/// The part of each row (`counts.len()` for the rest).
///
/// A key's own draw names its home part, in proportion to the counts, and its rank there. A part takes its own by rank until it is
/// full, then those whose home was full. So a row that is added later takes at most its own place: nobody's home or rank changes.
/// A part may pass its count by the last group it took.
pub fn assign(keys: &[String], counts: &[usize], draw: &Draw) -> Vec<usize> {
    let groups = groups(keys, counts, draw);
    let mut homes = vec![counts.len(); keys.len()];
    let mut filled = vec![0; counts.len()];
    let mut place = |group: &Group, part: usize| {
        let takes = filled[part] < counts[part];
        if takes {
            filled[part] += group.rows.len();
            group.rows.iter().for_each(|&row| homes[row] = part);
        }
        takes
    };
    let homeless: Vec<&Group> = groups.iter().filter(|group| !place(group, group.home)).collect();
    for group in homeless {
        let _ = (0..counts.len()).any(|part| place(group, part));
    }
    homes
}

/// In the order of their ranks.
fn groups(keys: &[String], counts: &[usize], draw: &Draw) -> Vec<Group> {
    let weights: Vec<f64> = counts.iter().map(|&count| count as f64).collect();
    let mut groups: IndexMap<&str, Group> = IndexMap::new();
    for (row, key) in keys.iter().enumerate() {
        let fresh = || Group {
            rows: Vec::new(),
            home: draw.of("home").of(key).weighted(&weights).unwrap_or(0),
            rank: draw.of("rank").of(key).bits(),
        };
        groups.entry(key).or_insert_with(fresh).rows.push(row);
    }
    groups.sort_by(|left_key, left, right_key, right| (left.rank, left_key).cmp(&(right.rank, right_key)));
    groups.into_values().collect()
}
