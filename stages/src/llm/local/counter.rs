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
