//! What a server answers: the raw body of an OpenAI-compatible endpoint, through every kind that reads replies.
//!
//! Input: a byte that chooses the kind; then the replies to its questions one after another, between zero bytes. A reply that is no
//! JSON object with `choices` is put into one, as its content.
#![no_main]

use futures::FutureExt;
use futures::future::BoxFuture;
use fuzz::support::FakeContext;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use stages::answers::{End, chosen_option, matches_truth};
use stages::chain::{Chain, Step};
use stages::llm::{Fault, LanguageModel, ModelSpec, Patience, Reply, Request, Usage};
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::settings::Reader;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let bodies: Vec<Vec<u8>> = data.split(|byte| *byte == 0).map(body).collect();
    let (kind, settings) = &kinds()[usize::from(*kind) % kinds().len()];
    let stage = fuzz::stage(kind, settings.clone()).expect("sound settings");
    LazyLock::force(&OPENAI);
    let mut context = fuzz::context();
    answer_with(&mut context, bodies);
    // No answer is a failure; rows whose replies cannot be used are marked.
    _ = stage.run(fuzz::input(row()), &*context);
    score(&String::from_utf8_lossy(data));
});

fn kinds() -> &'static [(&'static str, Value)] {
    static KINDS: LazyLock<Vec<(&str, Value)>> = LazyLock::new(|| {
        let with = |more: Value| {
            let mut settings = json!({"input": "x", "model": "m"});
            settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            settings
        };
        vec![
            ("filter", with(json!({"keep": ["pass"]}))),
            ("filter", json!({"input": "x", "drop_if_all_solve": ["m"]})),
            ("reformat", with(json!({}))),
            ("cot", with(json!({}))),
            ("verify", with(json!({}))),
            ("search", with(json!({"rounds": 2, "attempts": 2}))),
            ("rewrite", with(json!({"style": "complex"}))),
            ("rewrite", with(json!({"style": "simple"}))),
        ]
    });
    &KINDS
}

/// A row that every kind can ask about.
fn row() -> Rows {
    let steps = [Step::thinking("a", "b"), Step::conclusion("c"), Step::verification("d")];
    let cells = [
        ("question", ColumnType::Text, json!("which?")),
        ("options", ColumnType::Json, json!({"A": "aspirin", "B": "beta blocker"})),
        ("answer", ColumnType::Text, json!("aspirin")),
        ("answer_idx", ColumnType::Text, json!("A")),
        ("problem", ColumnType::Text, json!("what helps?")),
        ("truth", ColumnType::Text, json!("aspirin")),
        ("chain", ColumnType::Json, Chain::new(steps.to_vec()).unwrap().to_value()),
        ("conclusion", ColumnType::Text, json!("calcium")),
        ("verdict", ColumnType::Bool, json!(false)),
    ];
    let columns =
        cells.iter().map(|(name, column_type, _)| Column { name: name.to_string(), column_type: *column_type });
    let mut rows = Rows::new(columns.collect());
    rows.rows.push(Row { id: "r".to_string(), cells: cells.into_iter().map(|(.., cell)| cell).collect() });
    rows
}
fn body(reply: &[u8]) -> Vec<u8> {
    let is_envelope = reply.starts_with(b"{") && reply.windows(9).any(|window| window == b"\"choices\"");
    if is_envelope {
        return reply.to_vec();
    }
    let content = String::from_utf8_lossy(reply);
    json!({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).to_string().into_bytes()
}

fn answer_with(context: &mut FakeContext, bodies: Vec<Vec<u8>>) {
    context.replies = Arc::new(fuzz::support::MemoryReplies::default());
    let server: Arc<dyn LanguageModel> = Arc::new(Server { bodies, asked: AtomicUsize::new(0) });
    for port in ["model", "verifier", "solver.0"] {
        context.models.insert(port.to_string(), server.clone());
    }
}

/// The server's answers in turn, the last one for ever; read as those of `provider: openai` are.
struct Server {
    bodies: Vec<Vec<u8>>,
    asked: AtomicUsize,
}

static OPENAI: LazyLock<Arc<dyn LanguageModel>> = LazyLock::new(|| {
    stages::llm::install_tls();
    let settings = json!({"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"});
    let spec = ModelSpec::read(settings.as_object().unwrap(), &mut Reader::default()).expect("a sound model");
    let runtime = fuzz::context().runtime.handle().clone();
    spec.open(kernels::Device::cpu(Some(1)), None, &runtime).expect("no request is sent yet")
});

impl LanguageModel for Server {
    fn identity(&self) -> Value {
        json!({"provider": "fuzz"})
    }
    fn complete<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Vec<u8>, Fault>> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed).min(self.bodies.len() - 1);
        async move { Ok(self.bodies[turn].clone()) }.boxed()
    }
    fn parse(&self, raw: &[u8]) -> Result<Reply, Fault> {
        OPENAI.parse(raw)
    }
    fn concurrency(&self) -> usize {
        1
    }
    fn patience(&self) -> Patience {
        Patience { tries: 1, pause_ms: 0, pause_max_ms: 0 }
    }
    fn cost_usd(&self, _: &Usage) -> Option<f64> {
        None
    }
    fn worst_case_usd(&self, _: &Request) -> Option<f64> {
        None
    }
}

/// What an evaluation and a reward make of a reply.
fn score(reply: &str) {
    let options = [("A", "aspirin"), ("B", "beta blocker"), ("C", reply)];
    for end in [End::First, End::Last] {
        let (letter, _) = chosen_option(reply, &options, end);
        assert_eq!(letter.is_none(), reply.trim().is_empty());
    }
    matches_truth(reply, "7.5");
}
