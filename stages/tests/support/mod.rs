//! Fakes that stand where the engine would: a context, replies in memory, and a model that follows a script.
#![allow(dead_code)] // each test binary uses its part

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use stages::context::{Context, Progress};
use stages::draw::Draw;
use stages::failure::{Failure, Result};
use stages::llm::{
    Budget, Caller, Fault, LanguageModel, Manner, Meter, ModelSpec, Patience, Replies, Reply, ReplyFormat, Request,
    Task, Usage, for_each_row,
};
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::settings::Reader;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Replies kept in memory, as a store would.
#[derive(Default)]
pub struct MemoryReplies(pub Mutex<HashMap<[u8; 32], Vec<u8>>>);

impl Replies for MemoryReplies {
    fn get(&self, address: &[u8; 32]) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(address).cloned()
    }
    fn put(&self, address: &[u8; 32], raw: &[u8]) -> std::io::Result<()> {
        self.0.lock().unwrap().insert(*address, raw.to_vec());
        Ok(())
    }
}

/// Everything a stage needs, in one process and without a store.
pub struct FakeContext {
    pub runtime: tokio::runtime::Runtime,
    pub models: HashMap<String, Arc<dyn LanguageModel>>,
    pub replies: Arc<dyn Replies>,
    pub meter: Arc<Meter>,
    pub budget: Arc<Budget>,
    pub retry_marked: bool,
    pub cancelled: AtomicBool,
    pub progress: AtomicUsize,
    pub warnings: Mutex<Vec<String>>,
    pub scratch: PathBuf,
}

impl FakeContext {
    pub fn new() -> FakeContext {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        FakeContext {
            runtime,
            models: HashMap::new(),
            replies: Arc::new(MemoryReplies::default()),
            meter: Arc::default(),
            budget: Arc::new(Budget::new(None)),
            retry_marked: false,
            cancelled: AtomicBool::new(false),
            progress: AtomicUsize::new(0),
            warnings: Mutex::default(),
            scratch: PathBuf::new(),
        }
    }

    /// With one model behind the port `model`.
    pub fn with(model: impl LanguageModel + 'static) -> FakeContext {
        let mut context = FakeContext::new();
        context.models.insert("model".to_string(), Arc::new(model));
        context
    }
}

impl Context for FakeContext {
    fn draw(&self) -> Draw {
        Draw::new(7, "test")
    }
    fn caller(&self, port: &str) -> Result<Caller> {
        let model = self.models.get(port).ok_or_else(|| Failure::recipe(format!("no model behind `{port}`")))?;
        let (replies, meter, budget) = (self.replies.clone(), self.meter.clone(), self.budget.clone());
        Ok(Caller::new(model.clone(), replies, meter, budget, self.retry_marked))
    }
    fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }
    fn device(&self) -> kernels::Device {
        device()
    }
    fn scratch(&self) -> &Path {
        &self.scratch
    }
    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
    fn progress(&self, progress: Progress) {
        self.progress.store(progress.done as usize, Ordering::Relaxed);
    }
    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_string());
    }
}

type Script = dyn Fn(&Request, usize) -> std::result::Result<String, Fault> + Send + Sync;

/// Answers as its script says; the script sees the request and how many requests came before.
pub struct ScriptedModel {
    pub script: Box<Script>,
    pub asked: Arc<AtomicUsize>,
    pub concurrency: usize,
    pub pause_ms: u64,
    pub price_usd: f64,
    pub manner: Manner,
    /// The last word of each answer is its `finish_reason`.
    pub says_its_end: bool,
}

impl ScriptedModel {
    pub fn new(
        script: impl Fn(&Request, usize) -> std::result::Result<String, Fault> + Send + Sync + 'static,
    ) -> ScriptedModel {
        ScriptedModel {
            script: Box::new(script),
            asked: Arc::default(),
            concurrency: 8,
            pause_ms: 0,
            price_usd: 0.01,
            manner: Manner::default(),
            says_its_end: false,
        }
    }
}

impl LanguageModel for ScriptedModel {
    fn identity(&self) -> Value {
        json!({"provider": "script"})
    }
    fn complete<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, std::result::Result<Vec<u8>, Fault>> {
        async move {
            let before = self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(std::time::Duration::from_millis(self.pause_ms)).await;
            (self.script)(request, before).map(String::into_bytes)
        }
        .boxed()
    }
    fn parse(&self, raw: &[u8]) -> std::result::Result<Reply, Fault> {
        let text = String::from_utf8_lossy(raw).into_owned();
        let usage = Usage { tokens_in: 2, tokens_cached: 0, tokens_out: 3 };
        let (text, end) = match text.rsplit_once(' ').filter(|_| self.says_its_end) {
            Some((text, end)) => (text.to_string(), end.to_string()),
            None => (text, "stop".to_string()),
        };
        Ok(Reply { text, finish_reason: end, usage, ..Reply::default() })
    }
    fn manner(&self) -> Manner {
        self.manner
    }
    fn concurrency(&self) -> usize {
        self.concurrency
    }
    fn patience(&self) -> Patience {
        Patience { tries: 3, pause_ms: 1, pause_max_ms: 2 }
    }
    fn cost_usd(&self, _: &Usage) -> Option<f64> {
        Some(self.price_usd)
    }
    fn worst_case_usd(&self, _: &Request) -> Option<f64> {
        Some(self.price_usd)
    }
}

pub fn passing(message: &str) -> Fault {
    Fault::Passing { message: message.to_string(), retry_after_ms: None }
}

pub fn question(text: &str) -> Request {
    let task = Task { name: "solve", row_id: "r".to_string(), row: serde_json::Map::new() };
    Request::new(text.to_string(), ReplyFormat::Text, task)
}

/// `count` rows with one text column `question` holding `q0`, `q1`, …
pub fn numbered_rows(count: usize) -> Rows {
    let mut rows = Rows::new(vec![Column { name: "question".to_string(), column_type: ColumnType::Text }]);
    rows.rows = (0..count).map(|i| Row { id: format!("id{i}"), cells: vec![json!(format!("q{i}"))] }).collect();
    rows
}

/// Some device, for what wants one and does not compute.
pub fn device() -> kernels::Device {
    kernels::Device::cpu(Some(1))
}

/// With the model that an entry of a recipe declares behind the port `model`.
pub fn context_of(entry: &Value) -> FakeContext {
    let mut reader = Reader::default();
    let spec = ModelSpec::read(entry.as_object().unwrap(), &mut reader);
    let spec = spec.unwrap_or_else(|| panic!("{:?}", reader.mistakes));
    let mut context = FakeContext::new();
    // No test of HTTP computes, so any device will do.
    let model = spec.open(device(), None, context.runtime.handle()).unwrap();
    context.models.insert("model".to_string(), model);
    context
}

/// Asks so many different questions, as a model node does.
pub fn ask_all(context: &FakeContext, count: usize) -> Result<Vec<String>> {
    let caller = context.caller("model")?;
    for_each_row(context, caller.model.concurrency(), numbered_rows(count), move |item| {
        let caller = caller.clone();
        let text = format!("{} {} True or False?", item.id, item.object()["question"]);
        async move { Ok(caller.ask(&question(&text)).await?.text) }
    })
}
