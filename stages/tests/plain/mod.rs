//! What tests of kinds share: a context without a model or a device, and short ways to read, run and compare.

use serde_json::{Map, Value};
use stages::context::{Context, Progress};
use stages::draw::Draw;
use stages::failure::Result;
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::settings::{Mistake, Reader};
use stages::stage::{Artifact, Inputs, Outputs, Stage};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub struct PlainContext {
    pub seed: u64,
    pub warnings: Mutex<Vec<String>>,
}

impl PlainContext {
    pub fn new(seed: u64) -> PlainContext {
        PlainContext { seed, warnings: Mutex::default() }
    }
}

impl Context for PlainContext {
    fn draw(&self) -> Draw {
        Draw::new(self.seed, "test")
    }
    fn caller(&self, port: &str) -> Result<stages::llm::Caller> {
        panic!("a data kind asked for the model `{port}`")
    }
    fn runtime(&self) -> &tokio::runtime::Handle {
        panic!("a data kind asked for a runtime")
    }
    fn device(&self) -> kernels::Device {
        panic!("a data kind asked for a device")
    }
    fn scratch(&self) -> &Path {
        panic!("a data kind asked for a scratch folder")
    }
    fn cancelled(&self) -> bool {
        false
    }
    fn progress(&self, _: Progress) {}
    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_string());
    }
}

/// The stage, or the mistakes that keep it from being one.
pub fn read(kind: &str, settings: Value, folder: &Path) -> std::result::Result<Box<dyn Stage>, Vec<Mistake>> {
    let fields: Map<String, Value> = settings.as_object().expect("settings are a mapping").clone();
    let mut reader = Reader::default();
    reader.folder = PathBuf::from(folder);
    let stage = (stages::registry::kind(kind).expect("the kind is registered").read)(&fields, &mut reader);
    if reader.mistakes.is_empty() { Ok(stage.expect("no mistakes, so a stage")) } else { Err(reader.mistakes) }
}

/// Runs a kind on tables by port.
pub fn run(kind: &str, settings: Value, inputs: &[(&str, &Rows)]) -> Outputs {
    let stage = read(kind, settings, Path::new(".")).expect("the settings are right");
    run_stage(&*stage, inputs, &PlainContext::new(7))
}

pub fn run_stage(stage: &dyn Stage, inputs: &[(&str, &Rows)], context: &PlainContext) -> Outputs {
    let artifacts = inputs.iter().map(|(port, rows)| (port.to_string(), Artifact::Rows((*rows).clone())));
    stage.run(Inputs(artifacts.collect()), context).expect("the stage runs")
}

pub fn output<'a>(outputs: &'a Outputs, name: &str) -> &'a Rows {
    match &outputs.artifacts[name] {
        Artifact::Rows(rows) => rows,
        Artifact::Model(_) => panic!("`{name}` is a model"),
    }
}

/// One text column; the ids are the texts with their place among equal ones.
pub fn texts(column: &str, texts: &[String]) -> Rows {
    let mut rows = Rows::new(vec![Column { name: column.to_string(), column_type: ColumnType::Text }]);
    let mut seen = std::collections::HashMap::new();
    for text in texts {
        let count: &mut u32 = seen.entry(text).or_default();
        *count += 1;
        rows.rows.push(Row { id: format!("{text}#{count}"), cells: vec![Value::from(text.as_str())] });
    }
    rows
}

pub fn ids(rows: &Rows) -> Vec<&str> {
    rows.rows.iter().map(|row| row.id.as_str()).collect()
}
