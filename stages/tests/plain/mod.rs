//! What tests of kinds share: a context without language models, and short ways to read, run and compare.

#![allow(dead_code)]

use serde_json::{Map, Value};
use stages::context::{Context, Progress};
use stages::draw::Draw;
use stages::failure::Result;
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::settings::{Mistake, Reader};
use stages::stage::{Artifact, Inputs, Outputs, Stage};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct PlainContext {
    pub seed: u64,
    pub warnings: Mutex<Vec<String>>,
    /// For kinds that train.
    pub workplace: Option<(kernels::Device, tempfile::TempDir)>,
    /// Progress calls until this context says that it is cancelled.
    pub patience: AtomicU64,
}

impl PlainContext {
    pub fn new(seed: u64) -> PlainContext {
        PlainContext { seed, warnings: Mutex::default(), workplace: None, patience: AtomicU64::new(u64::MAX) }
    }

    /// With a CPU of so many threads and a scratch folder.
    pub fn with_device(seed: u64, threads: usize) -> PlainContext {
        let workplace = Some((kernels::Device::cpu(Some(threads)), tempfile::tempdir().expect("a temporary folder")));
        PlainContext { workplace, ..PlainContext::new(seed) }
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
        self.workplace.as_ref().expect("a data kind asked for a device").0.clone()
    }
    fn scratch(&self) -> &Path {
        self.workplace.as_ref().expect("a data kind asked for a scratch folder").1.path()
    }
    fn cancelled(&self) -> bool {
        self.patience.load(Ordering::Relaxed) == 0
    }
    fn progress(&self, _: Progress) {
        let _ = self.patience.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    }
    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_string());
    }
}

/// The stage, or the mistakes that keep it from being one.
pub fn read(kind: &str, settings: Value, folder: &Path) -> std::result::Result<Box<dyn Stage>, Vec<Mistake>> {
    let fields: Map<String, Value> = settings.as_object().expect("settings are a mapping").clone();
    let mut reader = Reader::new(folder, None);
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
        _ => panic!("`{name}` is not in memory"),
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
