//! vLLM on a CPU: streams and tells usage, draws several answers only where it draws, obeys schemas in two spellings, and by itself with
//! white space without end behind them. It also answers from a model that we trained as we do.

use crate::kitchen::{Kitchen, questions};
use crate::serving::{
    Bench, LABELS, MANY_ROWS, Serving, a_prompt_that_is_too_long_stops_at_once, expect_of_the_doctor, free_port, rows,
    usage, what_was_answered_before_an_interruption_is_kept,
};
use serde_json::{Value, json};
use std::path::Path;

const ROWS: u64 = 6;
/// Longer prompts are refused.
const CONTEXT: &str = "2048";
const MODEL: &str = "taught";
/// It computes none below 32 wide.
const HEADS: u32 = 2;
/// Schemas as docs/models.md tells users to have them.
const SETTINGS: [&str; 6] = [
    "--max-model-len",
    CONTEXT,
    "--structured-outputs-config.backend",
    "xgrammar",
    "--structured-outputs-config.disable_any_whitespace",
    "true",
];

fn serve(bench: &Bench, model: &Path, more: &[&str]) -> Serving {
    let (mut serve, port) = (bench.program("python"), free_port());
    serve.args(["-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", &port.to_string()]);
    serve.args(["--dtype", "float32", "--enforce-eager", "--served-model-name", MODEL]).args(more);
    serve.arg("--model").arg(model);
    serve.envs([("HF_HUB_OFFLINE", "1"), ("VLLM_NO_USAGE_STATS", "1"), ("VLLM_CPU_KVCACHE_SPACE", "1")]);
    Serving::start(serve, port, bench.folder.path().join("log"), "/health")
}

pub fn is_driven_through_a_recipe() {
    let bench = Bench::new("vllm", HEADS);
    let taught = bench.folder.path().join(MODEL);
    let server = serve(&bench, &taught, &SETTINGS);
    streamed_or_not_rows_and_usage_are_the_same(&server);
    a_schema_is_obeyed_in_both_spellings(&server);
    a_prompt_that_is_too_long_stops_at_once(&server, MODEL, CONTEXT);
    for signal in ["-INT", "-KILL"] {
        what_was_answered_before_an_interruption_is_kept(&server, MODEL, "", signal);
    }
    the_doctor_tells_what_it_does(&server);
}

fn streamed_or_not_rows_and_usage_are_the_same(server: &Serving) {
    let [plain, streamed] = ["", ", stream: true"].map(|settings| server.kitchen(MODEL, MANY_ROWS, settings));
    let runs = [&plain, &streamed].map(|kitchen| kitchen.run(&[]).expect_done());
    assert_eq!((rows(&streamed), usage(&runs[1])), (rows(&plain), usage(&runs[0])), "a streamed answer is the same");
    // `True` and the end take five tokens a row.
    assert_eq!((runs[0].total("calls"), runs[0].total("tokens_out")), (MANY_ROWS, 5 * MANY_ROWS));
    assert_eq!(rows(&plain).matches("\"verdict\":true").count() as u64, MANY_ROWS);
    assert_eq!(plain.run(&["--force", "verdicts"]).expect_done().total("calls"), 0, "everything is paid");
}

/// The model knows one word only: it begins what the schema wants, and never ends the first text in it.
fn a_schema_is_obeyed_in_both_spellings(server: &Serving) {
    let shaped = |dialect: &str| {
        let kitchen = server.kitchen_with(MODEL, ROWS, &format!(", structured: schema{dialect}"), LABELS);
        assert_eq!(kitchen.run(&[]).expect_done().total("calls"), ROWS);
        rows(&kitchen)
    };
    let found = shaped(", dialect: vllm");
    assert_eq!(found.matches("the last began `{").count() as u64, ROWS, "{found}");
    assert_eq!(shaped(""), found);
}

fn the_doctor_tells_what_it_does(server: &Serving) {
    expect_of_the_doctor(
        &server.kitchen(MODEL, ROWS, ", max_tokens: 128"),
        &[
            ("answers", "yes", "as `taught`, fingerprint `vllm-"),
            ("listed", "yes", "`taught` is one of 1 models"),
            ("streaming", "yes", "ends with [DONE]"),
            ("json_schema", "yes", "obeys a schema that no model hits by chance"),
            ("logprobs", "yes", "of 5 tokens"),
            ("n", "yes", "two answers to one request"),
            ("usage", "yes", "tokens in, 5 out"),
            ("limits", "", "2 requests at a time by the recipe; the server tells none"),
        ],
    );
}

/// A model that a recipe trained, as it lies in its folder: vLLM reads it without a word of doubt, and continues texts as we do.
pub fn says_what_we_say_of_a_model_of_ours() {
    let bench = Bench::new("vllm", HEADS);
    let kitchen = Kitchen::new(
        "version: 1\nnodes:\n  exam:    { kind: source, path: exam.jsonl }\n  student: { kind: sft, input: exam, response: answer, \
         tokens: 20000, lr: 3e-3,\n             base: { architecture: qwen2, layers: 2, hidden: 64, heads: 2, kv_heads: 1, \
         tokenizer: { train: bpe, size: 400 } } }\n",
    );
    kitchen.write("exam.jsonl", &questions(60));
    kitchen.run(&[]).expect_done();
    let asked = ["how much is 3 plus 10?", "how much", "3 plus", "40 plus 47", "is"];
    kitchen.write("asked.jsonl", &asked.map(|text| json!({"prompt": text}).to_string() + "\n").concat());
    let words = ["generate", "recipe.yaml:student", "--prompts", "asked.jsonl", "--raw", "--logprobs"];
    let ours = kitchen.says(&[&words[..], &["--greedy", "--max-tokens", "24"]].concat());
    let ours: Vec<Value> = ours.lines().map(|line| serde_json::from_str(line).unwrap()).collect();

    let folder = bench.folder.path().join("student");
    kitchen.says(&["show", "recipe.yaml", "student", "-o", &folder.display().to_string()]);
    let server = serve(&bench, &folder, &[]);
    for (text, ours) in asked.iter().zip(&ours) {
        let body = json!({"model": MODEL, "prompt": text, "temperature": 0, "max_tokens": 24, "logprobs": 0});
        let theirs = &server.post("/v1/completions", &body)["choices"][0];
        assert_eq!(theirs["text"], ours["text"], "after {text:?}");
        let of = |list: &Value| list.as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect::<Vec<_>>();
        let (theirs, ours) = (of(&theirs["logprobs"]["token_logprobs"]), of(&ours["logprobs"]));
        assert_eq!(theirs.len(), ours.len(), "after {text:?}");
        let far = theirs.iter().zip(&ours).map(|(theirs, ours)| (theirs - ours).abs()).fold(0.0, f64::max);
        assert!(far < 1e-3, "log-probabilities {far} apart after {text:?}");
    }
    let doubts = ["not initialized", "newly initialized", "unexpected", "tokenizer you are loading", "not used"];
    let log = server.log().to_lowercase();
    assert!(!doubts.iter().any(|doubt| log.contains(doubt)), "{log}");
}
