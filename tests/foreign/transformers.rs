//! `transformers serve`: sends no `[DONE]`, echoes the model as `path@main`, ignores `response_format` and `n`, answers 422 with
//! `{"detail": …}` and 500 in plain text, and tells in the middle of a stream where it fails.

use crate::kitchen::Kitchen;
use crate::serving::{
    Bench, CHANGED, CONCURRENCY, Serving, expect_of_the_doctor, free_port, rows, said, usage,
    what_was_answered_before_an_interruption_is_kept,
};

const ROWS: u64 = 6;

struct Transformers {
    bench: Bench,
    serving: Serving,
}

pub fn is_driven_through_a_recipe() {
    let server = Transformers::start();
    // `True` and the end take five tokens a row.
    assert_eq!(streamed_or_not_rows_and_usage_are_the_same(&server, "taught")[2], 5 * ROWS);
    streamed_or_not_rows_and_usage_are_the_same(&server, "random");
    what_it_ignores_changes_no_row(&server);
    a_refusal_stops_at_once_with_its_words(&server);
    what_it_stumbles_over_is_tried_again_and_is_its_fault(&server);
    for signal in ["-INT", "-KILL"] {
        what_was_answered_before_an_interruption_is_kept(&server.serving, &server.path("taught"), "", signal);
    }
    the_doctor_tells_what_it_does(&server);
}

impl Transformers {
    fn start() -> Transformers {
        let (bench, port) = (Bench::new("small", 4), free_port());
        let mut serve = bench.program("transformers");
        serve.args(["serve", "--device", "cpu", "--host", "127.0.0.1", "--port", &port.to_string()]);
        serve
            .envs([("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")])
            .env("HF_HOME", bench.folder.path().join("home"));
        let serving = Serving::start(serve, port, bench.folder.path().join("log"), "/health");
        Transformers { bench, serving }
    }

    /// A model is named by its path.
    fn path(&self, model: &str) -> String {
        self.bench.folder.path().join(model).display().to_string()
    }

    fn answered(&self, status: u16) -> u64 {
        self.serving.answered(status)
    }

    fn kitchen(&self, model: &str, rows: u64, settings: &str) -> Kitchen {
        self.serving.kitchen(&self.path(model), rows, settings)
    }
}

fn streamed_or_not_rows_and_usage_are_the_same(server: &Transformers, model: &str) -> [u64; 3] {
    let before = server.answered(200);
    let plain = server.kitchen(model, ROWS, "");
    let first = plain.run(&[]).expect_done();
    assert_eq!(server.answered(200) - before, first.total("calls"));
    assert!((ROWS..=2 * ROWS).contains(&first.total("calls")) && first.total("tokens_in") > 0, "{:?}", usage(&first));
    assert!(!said(&first).contains(CHANGED), "`path@main` is one name for all rows: {}", said(&first));
    assert_eq!(plain.run(&["--force", "verdicts"]).expect_done().total("calls"), 0, "everything is paid");

    let streamed = server.kitchen(model, ROWS, ", stream: true");
    let run = streamed.run(&[]).expect_done();
    assert_eq!((rows(&streamed), usage(&run)), (rows(&plain), usage(&first)), "a streamed answer is the same answer");
    let found_true = rows(&plain).matches("\"verdict\":true").count() as u64;
    assert_eq!(found_true, if model == "taught" { ROWS } else { 0 }, "{}", rows(&plain));
    usage(&first)
}

fn what_it_ignores_changes_no_row(server: &Transformers) {
    let plain = server.kitchen("taught", ROWS, "");
    plain.run(&[]).expect_done();
    let ignored = ", reasoning_effort: low, extra_body: { n: 2, response_format: { type: json_object } }";
    let asked = server.kitchen("taught", ROWS, ignored);
    assert_eq!(asked.run(&[]).expect_done().total("calls"), ROWS);
    assert_eq!(rows(&asked), rows(&plain));
}

fn a_refusal_stops_at_once_with_its_words(server: &Transformers) {
    let before = server.answered(422);
    let refused = server.kitchen("taught", ROWS, ", extra_body: { top_k: 5 }").run(&[]);
    let told = said(&refused);
    assert_eq!(refused.exit, 1, "{told}");
    for words in ["422", "Unexpected fields in the request: {'top_k'}", "`extra_body:`"] {
        assert!(told.contains(words), "`{words}` is not in\n{told}");
    }
    assert!(server.answered(422) - before <= CONCURRENCY, "it goes on asking");
}

/// It answers 500 where it cannot load a model, too, and then closes the connection without a word: what the second try meets may
/// be either.
fn what_it_stumbles_over_is_tried_again_and_is_its_fault(server: &Transformers) {
    let unknown = server.kitchen("nowhere", 1, "");
    let once = unknown.run(&["--set=models.tiny.tries=1"]);
    assert_eq!(once.exit, 5, "{}", said(&once));
    assert!(said(&once).contains("the server answered 500: Internal Server Error"), "{}", said(&once));
    let twice = unknown.run(&[]);
    assert_eq!((twice.exit, twice.total("calls")), (5, 2), "{}", said(&twice));
    assert!(said(&twice).contains("(tried 2 times)"), "{}", said(&twice));

    let broken = server.kitchen("taught", ROWS, ", stream: true, extra_body: { stop: 7 }").run(&[]);
    assert_eq!(broken.exit, 5, "{}", said(&broken));
    assert!(said(&broken).contains("'int' object is not iterable (tried 2 times)"), "{}", said(&broken));
}

fn the_doctor_tells_what_it_does(server: &Transformers) {
    expect_of_the_doctor(
        &server.kitchen("random", ROWS, ""),
        &[
            ("answers", "yes", "/random@main`, asked for `"),
            ("listed", "unknown", "no list of models (500)"),
            ("streaming", "yes", "ends without [DONE]"),
            ("json_schema", "no", "the schema is ignored"),
            ("seed", "yes", "one seed gave one answer, another seed another"),
            ("logprobs", "no", "the answer has none"),
            ("n", "no", "1 answer to a request for two"),
            ("usage", "yes", "tokens in, 24 out"),
            ("limits", "", "2 requests at a time by the recipe; the server tells none"),
            // Nine answers; it refuses the fields of other dialects. A call more is made where the server has closed the connection on
            // which it listed no models.
            ("this cost", "", "216 out: the recipe states no prices"),
        ],
    );
}
