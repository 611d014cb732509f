//! Requests that come while others are answered: when they come changes no token, and nobody waits for a neighbour's end.

mod support;

use futures::future::BoxFuture;
use kernels::Device;
use proptest::prelude::*;
use serde_json::json;
use stages::llm::{Fault, LanguageModel, ModelSpec};
use stages::model::generate::{Desk, Entering, Finish, Generation, Request, Room, Sampling, generate, generate_from};
use stages::model::parameters::Layout;
use stages::model::tensors::Precision;
use stages::model::tokenizer::{END_OF_TEXT, Training};
use stages::model::{Carried, ChatTemplate, Decoder, DecoderConfig, ModelFolder, Tokenizer};
use stages::settings::Reader;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};
use support::{FakeContext, question};

/// A random model whose texts end now and then.
fn random(hidden: usize, threads: usize) -> Decoder {
    let config = json!({
        "model_type": "qwen2", "vocab_size": 19, "hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 2 * hidden, "eos_token_id": [3], "tie_word_embeddings": false,
        "max_position_embeddings": 96,
    });
    let config = DecoderConfig::from_json(&config.to_string(), "random").unwrap();
    Decoder::fresh(&Device::cpu(Some(threads)), &config, 5)
}

/// Requests that come one after another, each once so many tokens were drawn for those before it, or when nobody has anything to do.
struct Arrivals {
    /// Moments and prompts, in their order.
    asked: Vec<(usize, Vec<u32>)>,
    patience: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    came: usize,
    drawn: usize,
    busy: usize,
    seen: BTreeMap<usize, Vec<u32>>,
    ended: BTreeMap<usize, Generation>,
}

impl Arrivals {
    fn new(asked: Vec<(usize, Vec<u32>)>, patience: usize) -> Arrivals {
        Arrivals { asked, patience, state: Mutex::default(), changed: Condvar::new() }
    }
}

impl Desk for Arrivals {
    fn come(&self) {
        self.state.lock().unwrap().busy += 1;
    }

    fn leave(&self) {
        self.state.lock().unwrap().busy -= 1;
        self.changed.notify_all();
    }

    fn patience(&self) -> usize {
        self.patience
    }

    fn next(&self, is_idle: bool) -> Option<Entering<'_>> {
        let mut state = self.state.lock().unwrap();
        state.busy -= usize::from(is_idle);
        let is_waited_for = |state: &mut State| {
            let moment = self.asked.get(state.came).map(|(moment, _)| *moment);
            is_idle && moment.is_some_and(|moment| moment > state.drawn && state.busy > 0)
        };
        state = self.changed.wait_while(state, is_waited_for).unwrap();
        let is_here = |moment: usize| moment <= state.drawn || state.busy == 0;
        let found = self.asked.get(state.came).filter(|(moment, _)| is_here(*moment));
        state.busy += usize::from(is_idle);
        let (_, prompt) = found?;
        state.came += 1;
        Some(Entering { request: state.came - 1, prompt: prompt.into(), seed: state.came as u64 - 1 })
    }

    fn drawn(&self, request: usize, generation: &Generation) -> Option<Finish> {
        let mut state = self.state.lock().unwrap();
        state.drawn += 1;
        state.seen.entry(request).or_default().push(*generation.tokens.last().unwrap());
        self.changed.notify_all();
        None
    }

    fn ended(&self, request: usize, generation: Generation) {
        assert!(self.state.lock().unwrap().ended.insert(request, generation).is_none(), "{request} ended twice");
    }
}

fn alone(decoder: &Decoder, prompt: &[u32], seed: u64, sampling: &Sampling) -> Generation {
    generate(decoder, &[Request { prompt, seed }], sampling).unwrap().remove(0)
}

/// The gaps between requests, in tokens drawn, and their prompts.
fn asked() -> impl Strategy<Value = Vec<(usize, Vec<u32>)>> {
    let one = (prop_oneof![Just(0usize), 0usize..8, 0usize..60], prop::collection::vec(0u32..19, 1..60));
    let moments = |gaps: Vec<(usize, Vec<u32>)>| {
        let moment = |now: &mut usize, (gap, prompt)| {
            *now += gap;
            Some((*now, prompt))
        };
        gaps.into_iter().scan(0, moment).collect()
    };
    prop::collection::vec(one, 1..40).prop_map(moments)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_is_that_of_its_request_alone_whenever_it_comes(
        asked in asked(),
        (threads, most, foreseen) in (1usize..4, 1usize..40, 1usize..60),
        (page_tokens, pages) in (prop_oneof![Just(16usize), Just(32)], 1usize..30),
        (temperature, patience) in (prop_oneof![Just(0.0f32), Just(1.0)], prop_oneof![0usize..5, Just(usize::MAX)]),
    ) {
        let (decoder, one) = (random(24, threads), random(24, 1));
        let sampling = Sampling { temperature, tokens_max: 30, ..Sampling::default() };
        let page = Room { page_tokens, cache_bytes: 0, sequences: 1 };
        let room = Room { cache_bytes: pages * page.bytes(one.config(), 1, page_tokens), sequences: 64, ..page };
        let desk = Arrivals::new(asked.clone(), patience);
        generate_from(&desk, &decoder, &sampling, &room, (most, foreseen));
        let State { seen, ended, .. } = desk.state.into_inner().unwrap();
        prop_assert_eq!(ended.len(), asked.len());
        for (seed, (_, prompt)) in asked.iter().enumerate() {
            prop_assert_eq!(&ended[&seed], &alone(&one, prompt, seed as u64, &sampling));
            prop_assert_eq!(&seen[&seed], &ended[&seed].tokens, "every token is told once");
        }
    }
}

/// Those that have nothing to do must not keep a thread that another needs, nor come to stand before one that works.
#[test]
fn workers_that_wait_hold_nobody_up() {
    // From four threads on one may find another's work while it waits for a part of its own.
    let decoder = random(96, 4);
    let sampling = Sampling { tokens_max: 3, ..Sampling::default() };
    for seed in 0..300 {
        let desk = Arrivals::new(vec![(0, vec![seed % 19; 60]), (usize::MAX, vec![1; 60])], 0);
        generate_from(&desk, &decoder, &sampling, &Room::default(), (64, 60));
        assert_eq!(desk.state.into_inner().unwrap().ended.len(), 2);
    }
}

/// A worker that breaks down takes the others with it, also those that would wait for ever.
#[test]
fn one_that_breaks_down_ends_all() {
    struct Breaking(Arrivals, Mutex<bool>);
    impl Desk for Breaking {
        fn come(&self) {
            self.0.come();
        }
        fn leave(&self) {
            self.0.leave();
        }
        fn next(&self, is_idle: bool) -> Option<Entering<'_>> {
            self.0.next(is_idle).filter(|_| !*self.1.lock().unwrap())
        }
        fn break_down(&self) {
            *self.1.lock().unwrap() = true;
        }
        fn drawn(&self, request: usize, generation: &Generation) -> Option<Finish> {
            assert!(request != 3, "the fourth cannot be answered");
            let has_broken = *self.1.lock().unwrap();
            self.0.drawn(request, generation).or(has_broken.then_some(Finish::Interrupted))
        }
        fn ended(&self, request: usize, generation: Generation) {
            self.0.ended(request, generation);
        }
    }
    for threads in 1..4 {
        let asked = (0..200).map(|place| (2 * place, vec![1; 9])).collect();
        let desk = Breaking(Arrivals::new(asked, 0), Mutex::new(false));
        let work = || generate_from(&desk, &random(24, threads), &Sampling::default(), &Room::default(), (40, 9));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the fourth cannot be answered"));
        assert!(desk.0.state.lock().unwrap().came < 200, "they went on");
    }
}

const POSITIONS: usize = 200_000;

/// A model that goes on from `a` with `a` for ever, and from `b` with `c`, which ends it.
fn write_model(folder: &Path) {
    let tokenizer = Tokenizer::train(Training::Words, 300, ["a b c"].into_iter(), &[]).unwrap();
    let end = tokenizer.id(END_OF_TEXT).unwrap();
    let config = json!({
        "model_type": "qwen2", "vocab_size": tokenizer.vocab_size(), "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 16, "eos_token_id": end,
        "tie_word_embeddings": false, "max_position_embeddings": POSITIONS,
    });
    let config = DecoderConfig::from_json(&config.to_string(), "config.json").unwrap();
    let (layout, mut weights) = (Layout::new(&config, false), Decoder::fresh(&support::device(), &config, 1).weights());
    let [a, b, c] = ["a", "b", "c"].map(|text| *tokenizer.encode(text).unwrap().last().unwrap());
    // The layer adds nothing, so that the last token alone decides.
    for range in [&layout.head, &layout.layers[0].out.weight, &layout.layers[0].down.weight] {
        weights[range.clone()].fill(0.0);
    }
    for (token, next) in [(a, a), (b, c), (c, end)] {
        let row = |start: usize, token: u32| start + 32 * token as usize..start + 32 * (token as usize + 1);
        weights.copy_within(row(layout.embedding.start, token), row(layout.head.start, next).start);
    }
    let template = Some(ChatTemplate::new("{{ messages[-1].content }}", "", END_OF_TEXT));
    let model = ModelFolder { config, weights, tokenizer, template, carried: Carried::default() };
    model.save(folder, Precision::F32).unwrap();
}

fn open(folder: &Path, concurrency: usize) -> Arc<dyn LanguageModel> {
    let entry = json!({"provider": "local", "path": ".", "max_tokens": POSITIONS, "concurrency": concurrency});
    let mut reader = Reader::new(folder, None);
    let spec = ModelSpec::read(entry.as_object().unwrap(), &mut reader).unwrap();
    spec.open(support::device(), None, FakeContext::new().runtime.handle()).unwrap()
}

type Completion<'a> = BoxFuture<'a, Result<Vec<u8>, Fault>>;

/// Whether it is still on its way; the first look hands it in.
fn is_pending(completion: &mut Completion) -> bool {
    completion.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn text(model: &dyn LanguageModel, completion: Completion) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let reply = model.parse(&runtime.block_on(completion).unwrap()).unwrap();
    assert_eq!(reply.finish_reason, "stop");
    reply.text
}

#[test]
fn short_answers_leave_while_endless_ones_keep_all_other_lanes() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let model = open(folder.path(), 16);
    let asked: Vec<_> = (1..16).map(|count| question(&"a".repeat(count))).collect();
    let mut endless: Vec<Completion> = asked.iter().map(|request| model.complete(request)).collect();
    assert!(endless.iter_mut().all(is_pending));
    // The last is longer than what there is room for at first.
    for count in [1, 2, 3, 10, 3_000] {
        let request = question(&"b".repeat(count));
        assert_eq!(text(&*model, model.complete(&request)), "c");
        assert!(endless.iter_mut().all(is_pending), "they were waited for");
    }
}

#[test]
fn whoever_no_longer_waits_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let model = open(folder.path(), 2);
    let (asked, short) = (["a", "aa"].map(question), ["b", "bb", "bbb"].map(question));
    let mut endless = asked.each_ref().map(|request| model.complete(request));
    assert!(endless.iter_mut().all(is_pending));
    let [mut given_up, mut next, last] = short.each_ref().map(|request| model.complete(request));
    assert!(is_pending(&mut given_up) && is_pending(&mut next));
    let [one, mut other] = endless;
    drop((one, given_up));
    assert_eq!(text(&*model, next), "c");
    assert_eq!(text(&*model, last), "c");
    assert!(is_pending(&mut other));
}
