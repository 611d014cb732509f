//! Where questions to a local model wait, and from where its workers take them: one that comes while others are answered joins them,
//! and each answer leaves when it is whole.

use crate::failure::Result;
use crate::model::generate::{Desk, Entering, Finish, Generation, Room, Sampling, generate_from};
use crate::model::writing::Writing;
use crate::model::{Decoder, Tokenizer};
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

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
    is_closed: bool,
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
        let mut state = self.state();
        state.is_closed = true;
        state.jobs.clear();
        self.changed.notify_all();
    }

    /// Answers until the counter is closed; closes it where the model breaks down.
    pub fn serve(&self, decoder: &Decoder, tokenizer: &Tokenizer, manner: &Manner) {
        let _closing = Closing(self);
        while let Some(prompt) = self.await_prompt() {
            let longest = room_for(prompt, decoder.config().max_position_embeddings);
            let shift = Shift { counter: self, tokenizer, manner, longest, answering: Mutex::default() };
            generate_from(&shift, decoder, &manner.sampling, &Room::default(), (manner.most, longest));
        }
    }

    /// The tokens of the next prompt; `None` once it is closed.
    fn await_prompt(&self) -> Option<usize> {
        let nothing = |state: &mut State| state.jobs.is_empty() && !state.is_closed;
        let state = self.changed.wait_while(self.state(), nothing).unwrap_or_else(PoisonError::into_inner);
        state.jobs.front().map(|job| job.prompt.len())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for prompts that are somewhat longer than the first: they need not wait for those before them.
fn room_for(prompt: usize, positions: usize) -> usize {
    const LEAST: usize = 1024;
    prompt.next_power_of_two().max(LEAST).min(positions)
}

struct Closing<'a>(&'a Counter);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The time in which workers are at it: from a first job until none of them has anything left. A job with a longer prompt than they
/// have room for waits for the next shift, and those behind it too.
struct Shift<'a> {
    counter: &'a Counter,
    tokenizer: &'a Tokenizer,
    manner: &'a Manner,
    longest: usize,
    answering: Mutex<Answering<'a>>,
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
    fn answering(&self) -> MutexGuard<'_, Answering<'a>> {
        self.answering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job that somebody still waits for and for which there is room. An idle worker waits for one as long as another works.
    fn next_job(&self, is_idle: bool) -> Option<Job> {
        let mut state = self.counter.state();
        state.busy -= usize::from(is_idle);
        let job = loop {
            while state.jobs.front().is_some_and(|job| job.answer.is_closed()) {
                state.jobs.pop_front();
            }
            let fits = state.jobs.front().is_some_and(|job| job.prompt.len() <= self.longest);
            if fits {
                break state.jobs.pop_front();
            }
            if !is_idle || state.busy == 0 || state.is_closed {
                break None;
            }
            state = self.counter.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.busy += usize::from(is_idle);
        job
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
        let mut answering = self.answering();
        let underway = answering.all.get_mut(&request).expect("it has entered and not ended");
        if underway.answer.is_closed() {
            return Some(Finish::Interrupted);
        }
        let token = *generation.tokens.last().expect("a token has just been drawn");
        match underway.writing.as_mut()?.push(token) {
            Ok(has_stopped) => has_stopped.then_some(Finish::Stop),
            Err(failure) => {
                underway.failed = Some(failure.to_string());
                Some(Finish::Interrupted)
            }
        }
    }

    fn ended(&self, request: usize, generation: Generation) {
        let underway = self.answering().all.remove(&request).expect("it has entered and not ended");
        let Underway { answer, writing, failed } = underway;
        let text = failed.map_or_else(|| self.text(&generation, writing).map_err(|failure| failure.to_string()), Err);
        let (finish, tokens) = (generation.finish, generation.tokens.len());
        // Whoever no longer waits was cancelled.
        _ = answer.send(text.map(|text| Answer { text, finish, tokens }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tokenizer::Training;

    type Answered = oneshot::Receiver<std::result::Result<Answer, String>>;

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(Training::Words, 300, ["a b"].into_iter(), &[]).unwrap()
    }

    fn manner(stop: &str) -> Manner {
        let stops = Some(stop.to_string()).filter(|stop| !stop.is_empty()).into_iter().collect();
        Manner { sampling: Sampling::default(), stops, most: 8 }
    }

    fn shift<'a>(counter: &'a Counter, tokenizer: &'a Tokenizer, manner: &'a Manner) -> Shift<'a> {
        Shift { counter, tokenizer, manner, longest: 4, answering: Mutex::default() }
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
        let shift = shift(&counter, &tokenizer, &manner);
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
    fn a_job_without_room_waits_for_another_shift_and_one_that_nobody_waits_for_is_dropped() {
        let (counter, tokenizer, manner) = (Counter::default(), tokenizer(), manner(""));
        let shift = shift(&counter, &tokenizer, &manner);
        shift.come();
        drop(hand_in(&counter, 2));
        let (_long, mut short) = (hand_in(&counter, 5), hand_in(&counter, 2));
        assert_eq!(enter(&shift, true), None);
        assert_eq!(counter.await_prompt(), Some(5), "it is the first of the next shift");
        let next = Shift { longest: room_for(5, 8), ..shift };
        assert_eq!([enter(&next, true), enter(&next, false)], [Some(0), Some(1)]);
        counter.close();
        next.ended(1, generation(&[]));
        assert!(short.try_recv().is_ok(), "what was begun is answered");
    }

    #[test]
    fn an_answer_ends_where_it_says_a_stop_or_nobody_waits_any_more() {
        let (counter, tokenizer, manner) = (Counter::default(), tokenizer(), manner("b"));
        let shift = shift(&counter, &tokenizer, &manner);
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

    /// The disaster: a model breaks down and those who ask it wait for ever.
    #[test]
    fn where_workers_break_down_the_others_go_home_and_the_counter_closes() {
        let (counter, tokenizer, manner) = (Counter::default(), tokenizer(), manner(""));
        let shift = shift(&counter, &tokenizer, &manner);
        shift.come();
        shift.come();
        std::thread::scope(|scope| {
            let idle = scope.spawn(|| enter(&shift, true));
            while counter.state().busy > 1 {
                std::thread::yield_now();
            }
            shift.leave();
            assert_eq!(idle.join().unwrap(), None);
        });
        let mut asked = hand_in(&counter, 1);
        drop(Closing(&counter));
        assert!(asked.try_recv().is_err());
        let (answer, _answered) = oneshot::channel();
        assert!(!counter.hand_in(Job { prompt: vec![1], seed: 0, answer }));
        assert_eq!(counter.await_prompt(), None);
    }
}
