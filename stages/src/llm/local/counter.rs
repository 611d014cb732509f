//! Where questions to a local model wait, and from where its workers take them: one that comes while others are answered joins them,
//! and each answer leaves when it is whole.

use crate::failure::{Failure, Result};
use crate::model::generate::{Desk, Entering, Finish, Generation, Room, Sampling, generate_from};
use crate::model::writing::Writing;
use crate::model::{Decoder, Tokenizer};
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Tokens of the prompts that there is room for from the start.
const FORESEEN: usize = 1024;
/// Steps for which a free lane waits for others, so that more prompts are read at once.
const PATIENCE_STEPS: usize = 4;

/// One answer that is wanted, and who waits for it.
pub struct Job {
    pub prompt: Vec<u32>,
    pub seed: u64,
    pub answer: oneshot::Sender<std::result::Result<Answer, String>>,
}

/// What has been generated.
pub struct Answer {
    pub text: String,
    pub finish: Finish,
    pub tokens: usize,
}

/// How all answers are to be.
pub struct Manner {
    pub sampling: Sampling,
    /// None of them empty.
    pub stops: Vec<String>,
    /// Answers that are generated side by side.
    pub most: usize,
}

#[derive(Default)]
pub struct Counter {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Workers that have something to do.
    busy: usize,
    /// None of them had: what comes now is for the next shift, in which all are at it again.
    is_over: bool,
    is_closed: bool,
    /// Why it was closed, where the model broke down.
    failure: Option<Failure>,
}

impl Counter {
    /// Whether it was taken: nobody answers at a closed counter.
    pub fn hand_in(&self, job: Job) -> bool {
        let mut state = self.state();
        if !state.is_closed {
            state.jobs.push_back(job);
            self.changed.notify_all();
        }
        !state.is_closed
    }

    /// What waits is not answered any more.
    pub fn close(&self) {
        self.close_for(None);
    }

    fn close_for(&self, failure: Option<Failure>) {
        let mut state = self.state();
        state.is_closed = true;
        state.failure = failure;
        state.jobs.clear();
        self.changed.notify_all();
    }

    /// Why there is no answer, where none came.
    pub fn failure(&self) -> Failure {
        let stopped = || Failure::Ourselves("the thread of a local model stopped".to_string());
        self.state().failure.clone().unwrap_or_else(stopped)
    }

    /// Answers until the counter is closed; closes it where the model breaks down.
    pub fn serve(&self, decoder: &Decoder, tokenizer: &Tokenizer, manner: &Manner) {
        let foreseen = FORESEEN.min(decoder.config().max_position_embeddings);
        while self.await_job() {
            let shift = Shift::new(self, tokenizer, manner);
            let generate =
                || generate_from(&shift, decoder, &manner.sampling, &Room::default(), (manner.most, foreseen));
            if let Err(panic) = catch_unwind(AssertUnwindSafe(generate)) {
                // Before the shift goes, and with it what it had begun to answer: who asked is to learn why.
                return self.close_for(Some(Failure::of_panic(&*panic)));
            }
        }
    }

    /// Whether there is one; false once it is closed.
    fn await_job(&self) -> bool {
        let nothing = |state: &mut State| state.jobs.is_empty() && !state.is_closed;
        let mut state = self.changed.wait_while(self.state(), nothing).unwrap_or_else(PoisonError::into_inner);
        state.is_over = false;
        !state.is_closed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time in which workers are at it: from a first job until none of them has anything left.
struct Shift<'a> {
    counter: &'a Counter,
    tokenizer: &'a Tokenizer,
    manner: &'a Manner,
    answering: Mutex<Answering<'a>>,
    is_broken: AtomicBool,
}

/// Answers under way, by their numbers.
#[derive(Default)]
struct Answering<'a> {
    all: HashMap<usize, Underway<'a>>,
    next: usize,
}

struct Underway<'a> {
    answer: oneshot::Sender<std::result::Result<Answer, String>>,
    /// Where there is something to stop at.
    writing: Option<Writing<'a>>,
    failed: Option<String>,
}

impl<'a> Shift<'a> {
    fn new(counter: &'a Counter, tokenizer: &'a Tokenizer, manner: &'a Manner) -> Shift<'a> {
        Shift { counter, tokenizer, manner, answering: Mutex::default(), is_broken: AtomicBool::new(false) }
    }

    fn answering(&self) -> MutexGuard<'_, Answering<'a>> {
        self.answering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// The next job that somebody still waits for. An idle worker waits for one as long as another works.
    fn next_job(&self, is_idle: bool) -> Option<Job> {
        let mut state = self.counter.state();
        state.busy -= usize::from(is_idle);
        let job = loop {
            if state.is_over || self.is_broken() {
                break None;
            }
            let job = std::iter::from_fn(|| state.jobs.pop_front()).find(|job| !job.answer.is_closed());
            if job.is_some() || !is_idle {
                break job;
            }
            state.is_over = state.busy == 0 || state.is_closed;
            if !state.is_over {
                state = self.counter.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        state.busy += usize::from(is_idle);
        job
    }

    /// Takes an answer under way from the others, that nobody need wait for what is done with it.
    fn take(&self, request: usize) -> Underway<'a> {
        self.answering().all.remove(&request).expect("it has entered and not ended")
    }

    fn text(&self, generation: &Generation, writing: Option<Writing>) -> Result<String> {
        if let Some(mut writing) = writing {
            writing.finish()?;
            if writing.has_stopped() {
                return Ok(writing.text().to_string());
            }
        }
        self.tokenizer.decode(&generation.tokens, false)
    }
}

impl Desk for Shift<'_> {
    fn come(&self) {
        self.counter.state().busy += 1;
    }

    fn leave(&self) {
        self.counter.state().busy -= 1;
        self.counter.changed.notify_all();
    }

    fn break_down(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    fn patience(&self) -> usize {
        PATIENCE_STEPS
    }

    fn next(&self, is_idle: bool) -> Option<Entering<'_>> {
        let Job { prompt, seed, answer } = self.next_job(is_idle)?;
        let stops = &self.manner.stops;
        let writing = (!stops.is_empty()).then(|| Writing::new(self.tokenizer, stops));
        let mut answering = self.answering();
        let request = answering.next;
        answering.next += 1;
        answering.all.insert(request, Underway { answer, writing, failed: None });
        Some(Entering { request, prompt: Cow::Owned(prompt), seed })
    }

    fn drawn(&self, request: usize, generation: &Generation) -> Option<Finish> {
        let mut underway = self.take(request);
        let finish = if self.is_broken() { Some(Finish::Interrupted) } else { underway.drawn(generation) };
        self.answering().all.insert(request, underway);
        finish
    }

    fn ended(&self, request: usize, generation: Generation) {
        if self.is_broken() {
            // It may have been cut off. It goes with the shift, and who asked learns why.
            return;
        }
        let Underway { answer, writing, failed } = self.take(request);
        let text = failed.map_or_else(|| self.text(&generation, writing).map_err(|failure| failure.to_string()), Err);
        let (finish, tokens) = (generation.finish, generation.tokens.len());
        // Whoever no longer waits was cancelled.
        _ = answer.send(text.map(|text| Answer { text, finish, tokens }));
    }
}

impl Underway<'_> {
    fn drawn(&mut self, generation: &Generation) -> Option<Finish> {
        if self.answer.is_closed() {
            return Some(Finish::Interrupted);
        }
        let token = *generation.tokens.last().expect("a token has just been drawn");
        match self.writing.as_mut()?.push(token) {
            Ok(has_stopped) => has_stopped.then_some(Finish::Stop),
            Err(failure) => {
                self.failed = Some(failure.to_string());
                Some(Finish::Interrupted)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DecoderConfig;
    use crate::model::tokenizer::Training;

    type Answered = oneshot::Receiver<std::result::Result<Answer, String>>;

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(Training::Words, 300, ["a b"].into_iter(), &[]).unwrap()
    }

    fn manner(stop: &str) -> Manner {
        let stops = Some(stop.to_string()).filter(|stop| !stop.is_empty()).into_iter().collect();
        Manner { sampling: Sampling::default(), stops, most: 8 }
    }

    fn hand_in(counter: &Counter, tokens: usize) -> Answered {
        let (answer, answered) = oneshot::channel();
        assert!(counter.hand_in(Job { prompt: vec![1; tokens], seed: 0, answer }));
        answered
    }

    fn generation(tokens: &[u32]) -> Generation {
        Generation { tokens: tokens.to_vec(), logprobs: vec![0.0; tokens.len()], finish: Finish::Stop }
    }

    /// The number under which the next job entered.
    fn enter(shift: &Shift, is_idle: bool) -> Option<usize> {
        shift.next(is_idle).map(|entering| entering.request)
    }

    #[test]
    fn a_job_that_comes_joins_and_its_answer_leaves_before_the_others_end() {
        let (counter, tokenizer, manner) = (Counter::default(), tokenizer(), manner(""));
        let shift = Shift::new(&counter, &tokenizer, &manner);
        shift.come();
        let mut long = hand_in(&counter, 2);
        assert_eq!(enter(&shift, true), Some(0));
        assert_eq!(enter(&shift, false), None, "there is no other");
        let mut short = hand_in(&counter, 2);
        assert_eq!(enter(&shift, false), Some(1));
        let word = tokenizer.encode("b").unwrap();
        assert_eq!(shift.drawn(1, &generation(&word)), None);
        shift.ended(1, generation(&word));
        assert_eq!(short.try_recv().unwrap().unwrap().text, "b");
        assert!(long.try_recv().is_err(), "it goes on");
        shift.ended(0, generation(&word));
        assert!(long.try_recv().is_ok());
        assert_eq!(enter(&shift, true), None, "nobody has anything to do: nobody waits");
        shift.leave();
        assert_eq!(counter.state().busy, 0);
    }

    #[test]
    fn an_answer_ends_where_it_says_a_stop_or_nobody_waits_any_more() {
        let (counter, tokenizer, manner) = (Counter::default(), tokenizer(), manner("b"));
        let shift = Shift::new(&counter, &tokenizer, &manner);
        shift.come();
        let (mut stopped, left) = (hand_in(&counter, 1), hand_in(&counter, 1));
        assert_eq!([enter(&shift, true), enter(&shift, false)], [Some(0), Some(1)]);
        let text = tokenizer.encode("a b").unwrap();
        let said: Vec<_> = (1..=text.len()).map(|count| shift.drawn(0, &generation(&text[..count]))).collect();
        assert_eq!(said.last(), Some(&Some(Finish::Stop)));
        assert!(said[..said.len() - 1].iter().all(Option::is_none));
        shift.ended(0, generation(&text));
        assert_eq!(stopped.try_recv().unwrap().unwrap().text.trim(), "a");
        drop(left);
        assert_eq!(shift.drawn(1, &generation(&text[..1])), Some(Finish::Interrupted));
        shift.ended(1, generation(&text[..1]));
    }

    #[test]
    fn a_question_that_nobody_waits_for_is_not_taken_up_and_what_was_begun_is_answered_after_the_closing() {
        let (counter, tokenizer, manner) = (Counter::default(), tokenizer(), manner(""));
        let shift = Shift::new(&counter, &tokenizer, &manner);
        shift.come();
        drop(hand_in(&counter, 2));
        let (mut begun, mut waiting) = (hand_in(&counter, 5), hand_in(&counter, 2));
        assert_eq!(enter(&shift, true), Some(0));
        counter.close();
        assert!(waiting.try_recv().is_err());
        shift.ended(0, generation(&[]));
        assert!(begun.try_recv().is_ok());
        assert_eq!(enter(&shift, true), None);
    }

    #[test]
    fn who_waits_for_work_goes_home_with_the_last_that_has_some_and_what_comes_then_is_for_the_next_shift() {
        let (counter, tokenizer, manner) = (Counter::default(), tokenizer(), manner(""));
        let shift = Shift::new(&counter, &tokenizer, &manner);
        shift.come();
        shift.come();
        std::thread::scope(|scope| {
            let idle = scope.spawn(|| enter(&shift, true));
            while counter.state().busy > 1 {
                std::thread::yield_now();
            }
            assert_eq!(enter(&shift, true), None);
            shift.leave();
            assert_eq!(idle.join().unwrap(), None);
        });
        let _asked = hand_in(&counter, 1);
        assert_eq!(enter(&shift, true), None);
        assert!(counter.await_job());
        assert_eq!(enter(&shift, true), Some(0));
    }

    #[test]
    fn all_who_wait_learn_why_nothing_comes() {
        let tokenizer = Tokenizer::train(Training::Words, 300, ["a b"].into_iter(), &[]).unwrap();
        let config = r#"{"model_type": "qwen2", "vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8, "max_position_embeddings": 100000}"#;
        let config = DecoderConfig::from_json(config, "config.json").unwrap();
        for threads in [1, 3] {
            let decoder = Decoder::fresh(&kernels::Device::cpu(Some(threads)), &config, 1);
            let sampling = Sampling { tokens_max: 100_000, ..Sampling::default() };
            let (counter, manner) = (Counter::default(), Manner { sampling, stops: Vec::new(), most: 24 });
            // Nothing ends an answer here; the sixth has a token that the model does not know.
            let hand_in = |token| {
                let (answer, answered) = oneshot::channel();
                assert!(counter.hand_in(Job { prompt: vec![token], seed: 1, answer }));
                answered
            };
            let asked: Vec<_> = [1, 2, 3, 4, 5, 999, 6].map(hand_in).into();
            counter.serve(&decoder, &tokenizer, &manner);
            assert!(asked.into_iter().all(|answered| answered.blocking_recv().is_err()));
            let (answer, _answered) = oneshot::channel();
            assert!(!counter.hand_in(Job { prompt: vec![1], seed: 1, answer }));
            let told = counter.failure().to_string();
            assert!(told.contains("bug") && !told.contains("stopped"), "{told}");
        }
    }
}
