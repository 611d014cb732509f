//! Finding the row, and following its id from node to node.

use super::{Story, Tracer, Work};
use crate::executor::artifacts::Trouble;
use crate::failure::{Failure, Result};
use crate::report::words::counted;
use serde_json::Value;
use stages::rows::Rows;
use stages::settings::nearest_hint;
use stages::stage::{Form, Input, NodeRef};
use stages::trail;
use std::collections::BTreeSet;

/// Ids that are named where a prefix fits several.
const NAMED_IDS: usize = 4;
/// A hint names rows whose id begins nearly so, not a list of all.
const LIKELY_IDS: usize = 20_000;

/// A row as the user names it.
pub struct Wanted<'w> {
    pub reference: &'w NodeRef,
    /// An id, the beginning of one, or a number from 0.
    pub row: &'w str,
    /// How to see which rows there are.
    pub show: String,
}

/// One table of one generation, and rows in it: several only where one problem was answered several times.
struct Found<'a> {
    work: Work<'a>,
    output: String,
    numbers: Vec<usize>,
    id: String,
}

/// Why a search for an id ended.
enum Search<'a> {
    Found(Box<Found<'a>>),
    Nothing,
}

impl<'a> Tracer<'a> {
    /// The story of the row that `wanted` names, as `root` and all before it saw it.
    ///
    /// # Errors
    /// If no row, or more than one, is named so; if a table cannot be read.
    pub fn story(&self, root: Work<'a>, wanted: &Wanted) -> Result<Story<'a>> {
        let read = |trouble: Trouble| crate::commands::show::failure(trouble);
        let family = self.family(&root);
        let found = self.find(&family, wanted)?;
        let (last, end) = self.follow(found, &family).map_err(read)?;
        let trained = family[0].node.stage.outputs().iter().all(|output| output.form != Form::Rows);
        let is_root = |work: &Work| work.manifest.key == root.manifest.key;
        let reader = self.readers(&last, &family).into_iter().find(|(work, _)| trained && is_root(work));
        let end = if is_root(&last.work) || reader.is_some() { None } else { Some(end) };
        let mut story = self.backwards(last).map_err(read)?;
        if let Some((work, _)) = reader {
            let before = story.steps.last().and_then(|step| step.after.first()).map(|(_, rows)| rows.clone());
            story.steps.push(self.step(work.clone(), None, before, Vec::new()));
        }
        Ok(Story { end, ..story })
    }

    /// The node's work, then all that went into it, what comes last in the recipe first.
    fn family(&self, root: &Work<'a>) -> Vec<Work<'a>> {
        let mut family = vec![root.clone()];
        let mut seen = BTreeSet::from([root.manifest.key.to_string()]);
        let mut next = 0;
        while next < family.len() {
            for (input, content) in inputs(&family[next]) {
                let made = self.made(&input.from, &content);
                family.extend(made.filter(|work| seen.insert(work.manifest.key.to_string())));
            }
            next += 1;
        }
        let place = |work: &Work| self.graph.order().iter().position(|&node| self.graph.name(node) == work.node.name);
        family[1..].sort_by_key(|work| std::cmp::Reverse(place(work)));
        family
    }

    fn find(&self, family: &[Work<'a>], wanted: &Wanted) -> Result<Found<'a>> {
        if let Some(found) = self.by_number(family, wanted)? {
            return Ok(found);
        }
        // A number beyond the last row is not the beginning of some id.
        let ids_of = if crate::commands::show::number(wanted.row).is_some() { &[] } else { family };
        for work in ids_of {
            if let Search::Found(found) = self.by_id(work, wanted)? {
                return Ok(*found);
            }
        }
        Err(self.not_found(family, wanted))
    }

    /// The numbered row of the output that was named; at a training of its first input.
    fn by_number(&self, family: &[Work<'a>], wanted: &Wanted) -> Result<Option<Found<'a>>> {
        let Some(number) = crate::commands::show::number(wanted.row) else { return Ok(None) };
        let Some((work, output)) = self.counted_table(family, wanted) else { return Ok(None) };
        let ids = &self.tables.open(&work.manifest, &output).map_err(crate::commands::show::failure)?.ids;
        let id = ids.get(number).cloned();
        Ok(id.map(|id| Found { work, output, numbers: vec![number], id }))
    }

    fn counted_table(&self, family: &[Work<'a>], wanted: &Wanted) -> Option<(Work<'a>, String)> {
        let root = &family[0];
        let output = root.node.output(&wanted.reference.output)?;
        if output.form == Form::Rows {
            return Some((root.clone(), output.name));
        }
        let (input, content) = inputs(root).into_iter().find(|(input, _)| input.form == Form::Rows)?;
        let work = self.made(&input.from, &content)?;
        let output = work.node.output(&input.from.output)?.name;
        Some((work, output))
    }

    fn by_id(&self, work: &Work<'a>, wanted: &Wanted) -> Result<Search<'a>> {
        let mut outputs = row_outputs(work);
        outputs.sort_by_key(|output| *output != wanted.reference.output);
        for output in outputs {
            // What is damaged or gone holds no row that could be shown.
            let Ok(table) = self.tables.open(&work.manifest, &output) else { continue };
            let exact = table.ids.iter().any(|id| id == wanted.row);
            let fits = |id: &str| if exact { id == wanted.row } else { id.starts_with(wanted.row) };
            let numbers: Vec<usize> = (0..table.ids.len()).filter(|&number| fits(&table.ids[number])).collect();
            let ids: BTreeSet<&str> = numbers.iter().map(|&number| trail::problem(&table.ids[number])).collect();
            if ids.len() > 1 && !wanted.row.is_empty() {
                let named: Vec<&str> = ids.into_iter().take(NAMED_IDS).collect();
                let hint = Some(format!("write more of it, such as `{}`", named.join("` or `")));
                return Err(Failure::usage(format!("several rows have an id that begins with `{}`", wanted.row), hint));
            }
            if let (Some(&first), false) = (numbers.first(), wanted.row.is_empty()) {
                let id = table.ids[first].clone();
                return Ok(Search::Found(Box::new(Found { work: work.clone(), output, numbers, id })));
            }
        }
        Ok(Search::Nothing)
    }

    fn not_found(&self, family: &[Work<'a>], wanted: &Wanted) -> Failure {
        let node = &wanted.reference.node;
        let ids = || {
            let outputs =
                family.iter().flat_map(|work| row_outputs(work).into_iter().map(move |output| (work, output)));
            let tables = outputs.filter_map(|(work, output)| self.tables.open(&work.manifest, &output).ok());
            tables.flat_map(|table| table.ids.clone())
        };
        let count = wanted.row.chars().count();
        let beginnings: BTreeSet<String> =
            ids().take(LIKELY_IDS).map(|id| id.chars().take(count).collect::<String>()).collect();
        let near = nearest_hint(wanted.row, beginnings.iter().map(String::as_str));
        let near = near.filter(|hint| hint.starts_with("did you mean"));
        let rows = self.counted_table(family, wanted).and_then(|(work, output)| {
            let rows = self.tables.open(&work.manifest, &output).ok()?.ids.len();
            Some(format!(
                "it has {}, numbered from 0; `{}` shows them with their ids",
                counted(rows as u64, "row"),
                wanted.show
            ))
        });
        let message = format!("neither `{node}` nor any node before it has a row `{}`", wanted.row);
        Failure::usage(message, near.or(rows))
    }

    /// On to the last node of the family that has the row, under whatever id; and what happened there.
    fn follow(&self, mut found: Found<'a>, family: &[Work<'a>]) -> std::result::Result<(Found<'a>, String), Trouble> {
        loop {
            let readers = self.readers(&found, family);
            let mut next = None;
            for (work, port) in &readers {
                next = self.gone_on(&found, work, port)?;
                if next.is_some() {
                    break;
                }
            }
            match next {
                Some(next) => found = next,
                None => {
                    let end = self.end(&found, readers.first().map(|(work, _)| *work), &family[0])?;
                    return Ok((found, end));
                }
            }
        }
    }

    /// Who of the family reads the table, and by which port.
    fn readers<'f>(&self, found: &Found, family: &'f [Work<'a>]) -> Vec<(&'f Work<'a>, String)> {
        let content = found.work.manifest.outputs[&found.output].content().to_string();
        let ports = family.iter().rev().flat_map(|work| inputs(work).into_iter().map(move |input| (work, input)));
        let reads = |input: &Input, read: &str| input.form == Form::Rows && read == content;
        ports.filter(|(_, (input, read))| reads(input, read)).map(|(work, (input, _))| (work, input.port)).collect()
    }

    /// The row as it came out of a reader.
    fn gone_on(&self, found: &Found, reader: &Work<'a>, port: &str) -> std::result::Result<Option<Found<'a>>, Trouble> {
        let kind = reader.node.kind.name;
        for output in row_outputs(reader) {
            let table = self.tables.open(&reader.manifest, &output)?;
            let mut numbers = Vec::new();
            for (number, id) in table.ids.iter().enumerate() {
                let label = || (kind == "mix").then(|| port.strip_prefix("inputs.")).flatten();
                if trail::goes_on(kind, label(), &found.id, id) && self.is_from(reader, &table.row(number)?, port) {
                    numbers.push(number);
                }
            }
            if let Some(&first) = numbers.first() {
                let id = table.ids[first].clone();
                return Ok(Some(Found { work: reader.clone(), output, numbers, id }));
            }
        }
        Ok(None)
    }

    /// Whether a row of a node came in by `port`, as far as the row says.
    fn is_from(&self, work: &Work, rows: &Rows, port: &str) -> bool {
        let label = rows.rows.first().and_then(|row| trail::label(work.node.kind.name, settings(work), rows, row));
        label.is_none_or(|label| trail::port(label) == port)
    }

    /// Why no node after this one has the row.
    fn end(&self, last: &Found, reader: Option<&Work>, root: &Work) -> std::result::Result<String, Trouble> {
        let (node, asked) = (&last.work.node.name, &root.node.name);
        let name = if last.output.is_empty() { node.clone() } else { format!("{node}.{}", last.output) };
        let row = self.tables.open(&last.work.manifest, &last.output)?.row(last.numbers[0])?;
        let reason = row.position("reason").and_then(|column| row.rows[0].cells[column].as_str());
        Ok(match (reason, reader) {
            (Some(reason), None) => format!("it did not reach `{asked}`: `{node}` dropped it: {reason}"),
            (_, Some(reader)) if row_outputs(reader).is_empty() => {
                format!("`{asked}` does not hold it; `{}` was trained on it", reader.node.name)
            }
            (_, Some(reader)) => format!("it did not reach `{asked}`: `{}` did not take it", reader.node.name),
            (None, None) => format!("it did not reach `{asked}`: no node on the way there reads `{name}`"),
        })
    }

    /// The steps of a row up to here, from its source on.
    fn backwards(&self, last: Found<'a>) -> std::result::Result<Story<'a>, Trouble> {
        let (row_id, mut steps, mut lost, mut found) = (last.id.clone(), Vec::new(), None, Some(last));
        while let Some(here) = found.take() {
            let table = self.tables.open(&here.work.manifest, &here.output)?;
            let rows =
                here.numbers.iter().map(|&number| table.row(number)).collect::<std::result::Result<Vec<_>, _>>()?;
            let came = match self.came_from(&here, &rows[0]) {
                Ok(came) => came,
                Err(reason) => {
                    lost = Some(reason);
                    None
                }
            };
            let before = match &came {
                Some((_, from)) => Some(self.tables.open(&from.work.manifest, &from.output)?.row(from.numbers[0])?),
                None => None,
            };
            let after = rows.into_iter().map(|row| (here.output.clone(), row)).collect();
            let port = came.as_ref().map(|(port, _)| port.clone());
            steps.push(self.step(here.work, port, before, after));
            found = came.map(|(_, from)| from);
        }
        steps.reverse();
        Ok(Story { row_id, steps, end: None, lost })
    }

    /// The port by which a row came in, and where it was before; none at a source.
    fn came_from(&self, here: &Found<'a>, rows: &Rows) -> std::result::Result<Option<(String, Found<'a>)>, String> {
        let kind = here.work.node.kind.name;
        let label = trail::label(kind, settings(&here.work), rows, &rows.rows[0]);
        let wanted = label.map(trail::port);
        let ports = inputs(&here.work).into_iter().filter(|(input, _)| input.form == Form::Rows);
        let mut gone = None;
        for (input, content) in ports.filter(|(input, _)| wanted.as_ref().is_none_or(|port| *port == input.port)) {
            let work = self.made(&input.from, &content);
            let opened = work.and_then(|work| {
                let output = output_of(&work, &content)?;
                let table = self.tables.open(&work.manifest, &output).ok()?;
                Some((work, output, table))
            });
            let Some((work, output, table)) = opened else {
                gone.get_or_insert(format!(
                    "the rows of `{}` that it was made from are no longer here",
                    input.from.node
                ));
                continue;
            };
            let number = table.ids.iter().position(|id| trail::goes_on(kind, label, id, &here.id));
            if let Some(number) = number {
                let id = table.ids[number].clone();
                return Ok(Some((input.port, Found { work, output, numbers: vec![number], id })));
            }
        }
        gone.map_or(Ok(None), Err)
    }
}

/// What a generation read, with the contents that its record names.
fn inputs(work: &Work) -> Vec<(Input, String)> {
    let recorded = work.manifest.preimage.get("inputs");
    let content = |port: &str| Some(recorded?.get(port)?.as_str()?.to_string());
    let inputs = work.node.stage.inputs().into_iter();
    inputs.filter_map(|input| content(&input.port).map(|content| (input, content))).collect()
}

fn output_of(work: &Work, content: &str) -> Option<String> {
    let outputs = work.manifest.outputs.iter();
    outputs.filter(|(_, output)| output.content().to_string() == content).map(|(name, _)| name.clone()).next()
}

fn row_outputs(work: &Work) -> Vec<String> {
    let outputs = work.node.stage.outputs().into_iter().filter(|output| output.form == Form::Rows);
    let names = outputs.map(|output| output.name);
    names.filter(|name| matches!(work.manifest.outputs.get(name), Some(cache::Output::Rows { .. }))).collect()
}

fn settings<'w>(work: &'w Work) -> &'w Value {
    work.manifest.preimage.get("settings").unwrap_or(&Value::Null)
}
