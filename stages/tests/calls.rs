//! What a node may rely on when it asks a model: paid once, asked again, bounded, in order, stopped in an orderly way.

mod support;

use stages::context::Context;
use stages::failure::Failure;
use stages::llm::{Budget, Caller, Claimed, Fault, Outcome, Replies, Reply, Request, Unusable, Watcher, for_each_row};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::{FakeContext, MemoryReplies, ScriptedModel, numbered_rows, passing, question};

fn number(reply: &Reply) -> Result<i64, String> {
    reply.text.parse().map_err(|_| format!("`{}` is no number", reply.text))
}

/// Asks for one row after another what `q<i>` gives.
fn ask_all(context: &FakeContext, count: usize) -> Result<Vec<String>, Failure> {
    let caller = context.caller("model")?;
    let concurrency = caller.model.concurrency();
    for_each_row(context, concurrency, numbered_rows(count), move |item| {
        let caller = caller.clone();
        async move { Ok(caller.ask(&question(item.text("question"))).await?.text) }
    })
}

fn echo() -> ScriptedModel {
    ScriptedModel::new(|request, _| Ok(request.messages[0].content.clone()))
}

#[test]
fn results_come_in_row_order_whatever_the_order_of_answers() {
    let context = FakeContext::with(ScriptedModel::new(|request, _| {
        let index: u64 = request.messages[0].content[1..].parse().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(index * 7 % 5));
        Ok(request.messages[0].content.clone())
    }));
    let expected: Vec<String> = (0..100).map(|i| format!("q{i}")).collect();
    assert_eq!(ask_all(&context, 100).unwrap(), expected);
    assert_eq!(context.progress.load(Ordering::Relaxed), 100);
}

/// Calls wait on one thread; rows whose answers are kept are worked off beside it, and those between them that wait are not lost, sent
/// twice or too many at a time.
#[test]
fn kept_answers_are_read_on_several_cores() {
    const ROWS: usize = 4_000;
    const CONCURRENCY: usize = 8;
    let mut model = echo();
    model.pause_ms = 1;
    let mut context = FakeContext::with(model);
    context.runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (at_once, at_once_most, places) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let seen = Arc::new((at_once, at_once_most, places));
    std::thread::scope(|scope| {
        scope.spawn(|| _ = context.runtime.block_on(ended));
        for is_asked in [|index: usize| !index.is_multiple_of(97) && index < 3_500, |_| true] {
            let (caller, seen) = (context.caller("model").unwrap(), seen.clone());
            let answers = for_each_row(&context, CONCURRENCY, numbered_rows(ROWS), move |item| {
                let (caller, seen) = (caller.clone(), seen.clone());
                async move {
                    let (at_once, at_once_most, places) = &*seen;
                    places.lock().unwrap().insert(std::thread::current().name().map(str::to_string));
                    at_once_most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let question = question(item.text("question"));
                    let answer = if is_asked(item.index) { caller.ask(&question).await?.text } else { String::new() };
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    Ok(answer)
                }
            });
            let expected = |index| if is_asked(index) { format!("q{index}") } else { String::new() };
            assert!(answers.unwrap().into_iter().eq((0..ROWS).map(expected)));
        }
        end.send(()).unwrap();
    });
    assert_eq!(context.meter.read().calls, ROWS as u64);
    assert!(seen.1.load(Ordering::SeqCst) <= CONCURRENCY);
    let has_cores = std::thread::available_parallelism().unwrap().get() > 1;
    assert_eq!(seen.2.lock().unwrap().contains(&Some("rows beside".to_string())), has_cores);
}

#[test]
fn a_second_run_pays_nothing_and_a_new_row_pays_for_itself() {
    let context = FakeContext::with(echo());
    ask_all(&context, 20).unwrap();
    ask_all(&context, 21).unwrap();
    let reading = context.meter.read();
    assert_eq!((reading.calls, reading.calls_reused), (21, 20));
    assert_eq!((reading.tokens_in, reading.tokens_out), (42, 63));
    assert!((reading.cost_usd - 0.21).abs() < 1e-9);
}

#[test]
fn equal_questions_in_flight_are_sent_once() {
    let mut model = echo();
    model.pause_ms = 20;
    let asked = model.asked.clone();
    let context = FakeContext::with(model);
    let caller = context.caller("model").unwrap();
    let answers = for_each_row(&context, 8, numbered_rows(8), move |_| {
        let caller = caller.clone();
        async move { Ok(caller.ask(&question("same")).await?.text) }
    });
    assert_eq!(answers.unwrap(), ["same"; 8]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(context.meter.read().calls_reused, 7);
}

#[test]
fn samples_of_one_question_are_asked_apart() {
    let context = FakeContext::with(ScriptedModel::new(|_, before| Ok(before.to_string())));
    let caller = context.caller("model").unwrap();
    let ask = |sample| context.runtime.block_on(caller.ask(&question("q").sample(sample))).unwrap().text;
    assert_eq!([ask(0), ask(1), ask(0)], ["0", "1", "0"]);
}

/// Replies are kept raw: a parser that reads more, less or something else pays nothing, unless it wants what was never asked.
#[test]
fn a_changed_parser_reads_the_kept_replies_again() {
    let context = FakeContext::with(echo());
    let caller = context.caller("model").unwrap();
    let texts = ["7", "8", "nine"];
    let sent_by = |asks: u32, parse: fn(&Reply) -> Result<i64, String>| {
        let before = context.meter.read().calls;
        let ask = |text| context.runtime.block_on(caller.ask_until(question(text), asks, parse)).unwrap();
        let outcomes: Vec<_> =
            texts.map(ask).into_iter().map(|outcome| matches!(outcome, Outcome::Parsed(_))).collect();
        (context.meter.read().calls - before, outcomes)
    };
    let length = |reply: &Reply| Ok(reply.text.len() as i64);
    assert_eq!(sent_by(2, number), (4, vec![true, true, false]));
    assert_eq!(sent_by(2, length), (0, vec![true, true, true]));
    let reads_nothing = sent_by(2, |_| Err("it reads nothing".to_string()));
    assert_eq!(reads_nothing, (3, vec![false, false, false]), "two second asks, and one that tells another reason");
    assert_eq!(sent_by(2, number), (0, vec![true, true, false]));
}

#[test]
fn an_unparsable_reply_is_asked_again_and_never_served_as_its_own_cure() {
    let context = FakeContext::with(ScriptedModel::new(|request, _| {
        Ok(if request.ask < 2 { "what?".to_string() } else { "42".to_string() })
    }));
    let caller = context.caller("model").unwrap();
    let ask = |asks| context.runtime.block_on(caller.ask_until(question("q"), asks, number)).unwrap();
    let (why, reason) = (Unusable::Unparsable, "`what?` is no number");
    let marked = |asks| Outcome::Unparsable { why, reason: reason.into(), text: "what?".into(), asks };
    assert_eq!(ask(1), marked(1));
    assert_eq!(ask(2), marked(2));
    assert_eq!(ask(3), Outcome::Parsed(42));
    assert_eq!(context.meter.read().calls, 3);
}

#[test]
fn retrying_marked_rows_asks_on_and_later_runs_see_the_same() {
    let mut context = FakeContext::with(ScriptedModel::new(|request, _| {
        Ok(if request.ask < 2 { "what?".to_string() } else { "42".to_string() })
    }));
    let ask = |context: &FakeContext| {
        let caller = context.caller("model").unwrap();
        context.runtime.block_on(caller.ask_until(question("q"), 2, number)).unwrap()
    };
    assert!(matches!(ask(&context), Outcome::Unparsable { asks: 2, .. }));
    context.retry_marked = true;
    assert_eq!(ask(&context), Outcome::Parsed(42));
    context.retry_marked = false;
    assert_eq!(ask(&context), Outcome::Parsed(42));
    assert_eq!(context.meter.read().calls, 3);
}

/// What was said in each request, by how often it was asked.
fn said(context: &FakeContext, asks: u32) -> (Outcome<i64>, Vec<Vec<String>>) {
    let seen = Arc::new(Seen::default());
    let caller = context.caller("model").unwrap();
    let outcome = context.runtime.block_on(caller.ask_until(question("q"), asks, number)).unwrap();
    let looker = Caller::looking(caller.model.clone(), caller.replies.clone(), false, seen.clone());
    assert_eq!(context.runtime.block_on(looker.ask_until(question("q"), asks, number)).unwrap(), outcome);
    let messages = std::mem::take(&mut *seen.1.lock().unwrap());
    (outcome, messages)
}

#[test]
fn a_bad_reply_goes_back_with_the_parsers_reason_and_only_the_last_one_does() {
    let context = FakeContext::with(ScriptedModel::new(|request, before| {
        assert_eq!(request.ask as usize, before);
        Ok(["one", "two", "3"][before].to_string())
    }));
    let (outcome, said) = said(&context, 3);
    assert_eq!(outcome, Outcome::Parsed(3));
    assert_eq!(said[0], ["user: q"]);
    for (round, bad) in [(1, "one"), (2, "two")] {
        assert_eq!(said[round][..2], ["user: q".to_string(), format!("assistant: {bad}")]);
        let correction = format!("user: That reply could not be used: `{bad}` is no number. ");
        assert!(said[round].len() == 3 && said[round][2].starts_with(&correction), "{:?}", said[round]);
    }
}

#[test]
fn a_model_that_is_not_corrected_is_asked_the_same_again() {
    let mut model = ScriptedModel::new(|_, before| Ok(["one", "2"][before].to_string()));
    model.manner.corrects = false;
    let (outcome, said) = said(&FakeContext::with(model), 3);
    assert_eq!((outcome, said), (Outcome::Parsed(2), vec![vec!["user: q".to_string()]; 2]));
}

/// A reply that ends as its text says: `word reason`.
fn ending(corrects: bool, script: &'static [&'static str]) -> FakeContext {
    let mut model = ScriptedModel::new(|_, before| Ok(script[before].to_string()));
    (model.manner.corrects, model.says_its_end) = (corrects, true);
    FakeContext::with(model)
}

#[test]
fn refusals_and_what_is_cut_off_are_told_apart_and_not_paid_for_in_vain() {
    use Unusable::{CutOff, Refused, Unparsable, Withheld};
    for (corrects, script, expected) in [
        (true, &["no refusal", "7 stop"][..], Err((Refused, 1))),
        (true, &["7 refusal"], Err((Refused, 1))),
        (true, &["7 content_filter"], Err((Withheld, 1))),
        (true, &["7 length"], Ok(7)),
        (true, &["x length", "7 stop"], Ok(7)),
        (true, &["x length", "y length", "7 stop"], Err((CutOff, 2))),
        (true, &["x stop", "y length", "z stop", "7 stop"], Err((Unparsable, 3))),
        (true, &["x length", "no refusal", "7 stop"], Err((Refused, 2))),
        (false, &["x length", "7 stop"], Err((CutOff, 1))),
    ] {
        let (outcome, said) = said(&ending(corrects, script), 3);
        let found = match outcome {
            Outcome::Parsed(value) => Ok(value),
            Outcome::Unparsable { why, asks, .. } => Err((why, asks)),
            Outcome::Barred(_) => panic!("no rule bars anything here"),
        };
        assert_eq!(found, expected, "{script:?}");
        assert_eq!(said.len() as u32, expected.map_or_else(|(_, asks)| asks, |_| said.len() as u32), "{script:?}");
    }
}

#[test]
fn what_was_cut_off_says_where_and_a_refused_row_may_be_tried_again() {
    let mut context = ending(false, &["x length", "no refusal", "7 stop"]);
    let ask = |context: &FakeContext| {
        let caller = context.caller("model").unwrap();
        context.runtime.block_on(caller.ask_until(question("q"), 3, number)).unwrap()
    };
    let Outcome::Unparsable { reason, .. } = ask(&context) else { panic!("it is cut off") };
    assert!(reason.contains("cut off at 3 tokens") && reason.contains("`max_tokens`"), "{reason}");
    context.retry_marked = true;
    assert_eq!(ask(&context), Outcome::Parsed(7));
    context.retry_marked = false;
    assert_eq!(ask(&context), Outcome::Parsed(7));
    assert_eq!(context.meter.read().calls, 3);
}

#[derive(Default)]
struct Seen(std::sync::Mutex<Vec<String>>, std::sync::Mutex<Vec<Vec<String>>>);

impl Watcher for Seen {
    fn answered(&self, request: &Request, reply: &Reply, unusable: Option<&str>) {
        let messages = request.messages.iter().map(|message| format!("{}: {}", message.role, message.content));
        self.1.lock().unwrap().push(messages.collect());
        let how = unusable.map_or(String::new(), |reason| format!(" ({reason})"));
        self.0
            .lock()
            .unwrap()
            .push(format!("{} ask {}: {}{how}", request.messages[0].content, request.ask, reply.text));
    }
    fn unanswered(&self, request: &Request) {
        self.0.lock().unwrap().push(format!("{} ask {}: unknown", request.messages[0].content, request.ask));
    }
}

#[test]
fn who_only_looks_sends_nothing_and_is_told_of_every_question() {
    let model = ScriptedModel::new(|request, _| {
        let cured = request.ask > 0 || request.messages[0].content == "q0";
        Ok(if cured { "7" } else { "seven" }.to_string())
    });
    let asked = model.asked.clone();
    let context = FakeContext::with(model);
    let payer = context.caller("model").unwrap();
    let seen = Arc::new(Seen::default());
    let looker = Caller::looking(payer.model.clone(), payer.replies.clone(), false, seen.clone());
    let put =
        |caller: &Caller, text: &str| context.runtime.block_on(caller.ask_until(question(text), 2, number)).unwrap();
    put(&payer, "q0");
    put(&payer, "q1");
    let paid = asked.load(Ordering::SeqCst);
    assert_eq!(put(&looker, "q0"), Outcome::Parsed(7));
    put(&looker, "q1");
    assert!(matches!(put(&looker, "q2"), Outcome::Unparsable { asks: 0, .. }));
    assert_eq!(
        *seen.0.lock().unwrap(),
        ["q0 ask 0: 7", "q1 ask 0: seven (`seven` is no number)", "q1 ask 1: 7", "q2 ask 0: unknown"]
    );
    assert_eq!(asked.load(Ordering::SeqCst), paid);
    assert_eq!(context.meter.read().calls, paid as u64);
}

#[test]
fn passing_faults_are_retried_and_never_kept() {
    let context = FakeContext::with(ScriptedModel::new(|_, before| match before {
        0 | 1 => Err(passing("status 503")),
        _ => Ok("fine".to_string()),
    }));
    assert_eq!(ask_all(&context, 1).unwrap(), ["fine"]);
    let reading = context.meter.read();
    assert_eq!((reading.calls, reading.retries), (3, 2));
}

#[test]
fn when_one_row_gets_no_answer_the_others_finish_and_their_replies_are_kept() {
    let context = FakeContext::with(ScriptedModel::new(|request, _| match request.messages[0].content.as_str() {
        "q3" => Err(passing("connection reset")),
        other => Ok(other.to_string()),
    }));
    let failure = ask_all(&context, 40).unwrap_err();
    assert!(
        matches!(&failure, Failure::Remote(message) if message.contains("1 of 40 rows") && message.contains("connection reset"))
    );
    assert_eq!(context.meter.read().tokens_in, 2 * 39);
}

#[test]
fn an_outage_ends_soon_instead_of_trying_every_row() {
    let context = FakeContext::with(ScriptedModel::new(|_, _| Err(passing("connection refused"))));
    assert!(matches!(ask_all(&context, 10_000), Err(Failure::Remote(_))));
    assert!(context.meter.read().calls < 200, "{:?}", context.meter.read());
}

#[test]
fn a_lasting_fault_stops_the_node_at_once_with_the_servers_words() {
    let context = FakeContext::with(ScriptedModel::new(|_, _| Err(Fault::Lasting("401: invalid key".to_string()))));
    let failure = ask_all(&context, 10_000).unwrap_err();
    assert!(matches!(&failure, Failure::Recipe(message) if message.contains("invalid key")), "{failure:?}");
    assert!(context.meter.read().calls < 50);
}

#[test]
fn a_budget_stops_new_calls_and_keeps_what_came() {
    let mut context = FakeContext::with(echo());
    context.budget = Arc::new(Budget::new(Some(0.055)));
    assert!(matches!(ask_all(&context, 1000), Err(Failure::Budget(_))));
    assert_eq!(context.meter.read().calls, 5);
}

#[test]
fn cancelling_finishes_what_is_in_flight_and_starts_nothing_new() {
    let mut model = echo();
    model.pause_ms = 100;
    let asked = model.asked.clone();
    let context = FakeContext::with(model);
    let outcome = std::thread::scope(|scope| {
        let run = scope.spawn(|| ask_all(&context, 1000));
        while asked.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        context.cancelled.store(true, Ordering::Relaxed);
        run.join().unwrap()
    });
    assert!(matches!(outcome, Err(Failure::Cancelled)));
    let reading = context.meter.read();
    assert!(reading.calls <= 16, "{reading:?}");
    assert_eq!(reading.tokens_in, 2 * reading.calls, "every call in flight was kept");
}

#[test]
fn a_panic_in_one_row_is_our_bug_and_not_a_hang() {
    let context = FakeContext::with(echo());
    let outcome = for_each_row(&context, 4, numbered_rows(3), |item| async move {
        assert!(item.index != 1, "row one");
        Ok(item.index)
    });
    assert!(matches!(outcome, Err(Failure::Ourselves(message)) if message.contains("row one")));
}

/// Replies of which another process makes the calls: it holds every claim until it was asked for `looks` times, then puts `answer`,
/// or dies without one.
struct Shared {
    kept: MemoryReplies,
    looks: AtomicUsize,
    answer: Option<&'static str>,
}

impl Replies for Shared {
    fn get(&self, address: &[u8; 32]) -> Option<Vec<u8>> {
        self.kept.get(address)
    }
    fn put(&self, address: &[u8; 32], raw: &[u8]) -> std::io::Result<()> {
        self.kept.put(address, raw)
    }
    fn claim(&self, address: &[u8; 32]) -> std::io::Result<Option<Claimed>> {
        let taken = |looks: usize| looks.checked_sub(1);
        if self.looks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).is_ok() {
            return Ok(None);
        }
        self.answer.iter().try_for_each(|answer| self.put(address, answer.as_bytes()))?;
        Ok(Some(Box::new(())))
    }
}

fn shared(looks: usize, answer: Option<&'static str>) -> FakeContext {
    let mut context = FakeContext::with(echo());
    context.replies = Arc::new(Shared { kept: MemoryReplies::default(), looks: AtomicUsize::new(looks), answer });
    context
}

#[test]
fn a_call_that_another_process_makes_is_waited_for_and_not_paid_again() {
    for (looks, answer, said, calls) in [(3, Some("theirs"), "theirs", 0), (3, None, "q0", 1), (0, None, "q0", 1)] {
        let context = shared(looks, answer);
        assert_eq!(ask_all(&context, 1).unwrap(), [said]);
        let reading = context.meter.read();
        assert_eq!((reading.calls, reading.calls_reused), (calls, 1 - calls), "{looks} {answer:?}");
    }
}

#[test]
fn who_waits_for_anothers_call_can_be_stopped() {
    let context = shared(usize::MAX, None);
    let outcome = std::thread::scope(|scope| {
        let run = scope.spawn(|| ask_all(&context, 3));
        std::thread::sleep(std::time::Duration::from_millis(20));
        context.cancelled.store(true, Ordering::Relaxed);
        run.join().unwrap()
    });
    assert!(matches!(outcome, Err(Failure::Cancelled)), "{outcome:?}");
    assert_eq!(context.meter.read().calls, 0);
}

/// Neither claims nor replies can be had.
struct Broken {
    claims: bool,
}

impl Replies for Broken {
    fn get(&self, _: &[u8; 32]) -> Option<Vec<u8>> {
        None
    }
    fn put(&self, _: &[u8; 32], _: &[u8]) -> std::io::Result<()> {
        Err(std::io::Error::other("no space left"))
    }
    fn claim(&self, _: &[u8; 32]) -> std::io::Result<Option<Claimed>> {
        if self.claims { Ok(Some(Box::new(()))) } else { Err(std::io::Error::other("no space left")) }
    }
}

#[test]
fn replies_that_cannot_be_kept_end_the_node_before_more_is_paid() {
    for (claims, calls_max) in [(true, 8), (false, 0)] {
        let mut context = FakeContext::with(echo());
        context.replies = Arc::new(Broken { claims });
        let failure = ask_all(&context, 1000).unwrap_err();
        assert!(matches!(&failure, Failure::Replies(message) if message.contains("no space left")), "{failure:?}");
        assert!(context.meter.read().calls <= calls_max, "{:?}", context.meter.read());
    }
}
