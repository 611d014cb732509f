//! llama-cpp-python's server: one answer at a time; a stream is broken off when the next question comes, unless it is told not to;
//! its schemas are llama.cpp's, and OpenAI's make it stumble (500 with words of several lines); no usage in streams; no `n`.

use crate::kitchen::Kitchen;
use crate::serving::{
    Bench, CONCURRENCY, LABELS, MANY_ROWS, Serving, a_prompt_that_is_too_long_stops_at_once, expect_of_the_doctor,
    free_port, output_of, rows, said, usage, what_was_answered_before_an_interruption_is_kept,
};

const ROWS: u64 = 6;
/// Longer prompts are refused.
const CONTEXT: &str = "2048";
const MODEL: &str = "taught";
const SHAPED: &str = ", structured: schema";

pub fn is_driven_through_a_recipe() {
    let bench = Bench::new("small", 4);
    let file = bench.folder.path().join("taught.gguf");
    output_of(bench.python("make_gguf.py").arg(bench.folder.path().join("taught")).arg(&file));
    let serve = |interrupts: &str| {
        let (mut serve, port) = (bench.program("python"), free_port());
        serve.args(["-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", &port.to_string(), "--n_ctx", CONTEXT]);
        serve
            .args(["--model_alias", MODEL, "--n_threads", "1", "--interrupt_requests", interrupts, "--model"])
            .arg(&file);
        Serving::start(serve, port, bench.folder.path().join("log"), "/v1/models")
    };
    let server = serve("true");
    whole_answers_wait_for_their_turn(&server);
    streams_that_it_breaks_off_are_no_answers(&server);
    a_schema_is_obeyed_in_its_own_dialect(&server);
    a_prompt_that_is_too_long_stops_at_once(&server, MODEL, CONTEXT);
    the_doctor_tells_what_it_does(&server);
    drop(server);

    let server = serve("false");
    streams_are_whole_where_it_breaks_none_off(&server);
    for signal in ["-INT", "-KILL"] {
        what_was_answered_before_an_interruption_is_kept(&server, MODEL, "", signal);
    }
}

fn verdicts(kitchen: &Kitchen) -> usize {
    rows(kitchen).matches("\"verdict\":true").count()
}

fn whole_answers_wait_for_their_turn(server: &Serving) {
    let kitchen = server.kitchen(MODEL, MANY_ROWS, "");
    let run = kitchen.run(&[]).expect_done();
    // The end is no token here.
    assert_eq!((run.total("calls"), run.total("tokens_out")), (MANY_ROWS, 4 * MANY_ROWS));
    assert_eq!(verdicts(&kitchen), MANY_ROWS as usize);
    assert_eq!(kitchen.run(&["--force", "verdicts"]).expect_done().total("calls"), 0, "everything is paid");
}

/// The disaster: half an answer is taken for one.
fn streams_that_it_breaks_off_are_no_answers(server: &Serving) {
    let several = server.kitchen(MODEL, MANY_ROWS, ", stream: true");
    let run = several.run(&["--set=models.tiny.tries=1"]);
    let told = said(&run);
    assert_eq!(run.exit, 5, "{told}");
    for words in ["the stream ended before the answer did", "write `concurrency: 1` or `stream: false`"] {
        assert!(told.contains(words), "`{words}` is not in\n{told}");
    }
    // As it says; what had come whole is not asked again.
    let before = server.answered(200);
    let rest = several.run(&["--set=models.tiny.concurrency=1"]).expect_done();
    assert_eq!(server.answered(200) - before, rest.total("calls"));
    assert!(rest.total("calls") < MANY_ROWS, "some had come whole");
    assert_eq!(verdicts(&several), MANY_ROWS as usize);
}

fn streams_are_whole_where_it_breaks_none_off(server: &Serving) {
    let [plain, streamed] = ["", ", stream: true"].map(|settings| server.kitchen(MODEL, ROWS, settings));
    let runs = [&plain, &streamed].map(|kitchen| kitchen.run(&[]).expect_done());
    assert_eq!(rows(&streamed), rows(&plain), "a streamed answer is the same answer");
    assert_eq!(runs.each_ref().map(|run| run.total("calls")), [ROWS, ROWS]);
    assert_eq!(usage(&runs[1])[1..], [0, 0], "it tells no usage in streams");
}

fn a_schema_is_obeyed_in_its_own_dialect(server: &Serving) {
    let before = server.answered(500);
    let stumbling = server.kitchen_with(MODEL, MANY_ROWS, SHAPED, LABELS).run(&[]);
    let told = said(&stumbling);
    assert_eq!(stumbling.exit, 1, "{told}");
    for words in ["500", "Input should be 'text' or 'json_object'", "name its server's `dialect:`"] {
        assert!(told.contains(words), "`{words}` is not in\n{told}");
    }
    assert!(server.answered(500) - before <= CONCURRENCY, "it goes on asking");

    // The model knows one word only: it begins what the schema wants, and never ends the first text in it.
    let shaped = server.kitchen_with(MODEL, ROWS, &format!("{SHAPED}, dialect: llamacpp"), LABELS);
    assert_eq!(shaped.run(&[]).expect_done().total("calls"), ROWS);
    let found = rows(&shaped);
    let begun = found.matches("cut off").count().min(found.matches("the last began `{").count());
    assert_eq!(begun, ROWS as usize, "{found}");
}

fn the_doctor_tells_what_it_does(server: &Serving) {
    expect_of_the_doctor(
        &server.kitchen(MODEL, ROWS, ", max_tokens: 128"),
        &[
            ("answers", "yes", "as `taught`"),
            ("listed", "yes", "`taught` is one of 1 models"),
            ("streaming", "yes", "ends with [DONE]"),
            ("json_schema", "no", "it is obeyed with `dialect: llamacpp`"),
            ("seed", "unknown", "every seed gave the same answer"),
            ("n", "no", "1 answer to a request for two"),
            ("usage", "yes", "tokens in, 4 out"),
            ("limits", "", "2 requests at a time by the recipe; the server tells none"),
        ],
    );
}
