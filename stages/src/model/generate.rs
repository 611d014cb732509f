//! Batched generation with a paged key/value cache: sequences that end leave, waiting ones enter (Yu 2022, "Orca"; Kwon 2023,
//! "PagedAttention").
//!
//! A sequence's tokens depend on its prompt and seed alone: not on its neighbours, the batch size, the pages or the number of
//! threads, because every row's arithmetic is the same among others as alone, and draws are named by (seed, place in the answer).

mod crew;
mod desk;
mod pages;
mod worker;

pub(crate) use crew::Crew;
pub use desk::{Desk, Entering};
pub use pages::Room;

use super::Decoder;
use crate::failure::{Failure, Result};
use desk::{List, Present};
use kernels::sample;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::panic::resume_unwind;
use worker::{Task, Worker};

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Only the k most likely; 0 takes all.
    pub top_k: usize,
    /// Only the most likely that together reach this share (Holtzman 2020).
    pub top_p: f32,
    /// Only those at least this likely as the most likely one.
    pub min_p: f32,
    /// The longest answer.
    pub tokens_max: usize,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, tokens_max: 512 }
    }
}

impl Sampling {
    fn filter(&self) -> sample::Sampling {
        let Sampling { temperature, top_k, top_p, min_p, .. } = *self;
        sample::Sampling { temperature, top_k, top_p, min_p }
    }
}

/// One answer that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub prompt: &'a [u32],
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its text, or wrote what it was to stop at.
    Stop,
    /// The answer ran into its limit, or the model's.
    Length,
    /// Whoever looked on wanted no more.
    Interrupted,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The ending token included.
    pub tokens: Vec<u32>,
    /// log p of each token under softmax(logits / temperature), before any filter; at temperature 0 under softmax(logits).
    pub logprobs: Vec<f32>,
    pub finish: Finish,
}

/// Looks on: called once for each token of each request (by its place), in the order of its tokens, from the threads that
/// generate; ends that request's answer by returning how it ended. `finish` says nothing yet.
pub type Watch<'a> = dyn Fn(usize, &Generation) -> Option<Finish> + Sync + 'a;

/// Answers in the order of the requests.
pub fn generate(decoder: &Decoder, requests: &[Request], sampling: &Sampling) -> Result<Vec<Generation>> {
    generate_watched(decoder, requests, sampling, &Room::default(), &|_, _| None)
}

/// The same, in a given room, and looked at meanwhile.
pub fn generate_watched(
    decoder: &Decoder,
    requests: &[Request],
    sampling: &Sampling,
    room: &Room,
    watch: &Watch,
) -> Result<Vec<Generation>> {
    check(decoder, requests)?;
    let prompt = requests.iter().map(|request| request.prompt.len()).max().unwrap_or(0);
    let list = List::new(requests, watch);
    let task = Task { decoder, desk: &list, sampling, room };
    let crew = crew(task, (requests.len(), prompt));
    decoder.prepare();
    let work = |_| Worker::work(task, crew);
    decoder.device().install(|| (0..crew.workers).into_par_iter().with_max_len(1).for_each(work));
    Ok(list.finish())
}

/// The same for requests that come and go at a desk, until there are none and nobody works: at most `most` side by side. Room is made for
/// prompts of so many tokens as are foreseen (`prompt`), and for longer ones when they come; all must be what [`check_prompt`] has
/// found possible.
pub fn generate_from(
    desk: &dyn Desk,
    decoder: &Decoder,
    sampling: &Sampling,
    room: &Room,
    (most, prompt): (usize, usize),
) {
    let task = Task { decoder, desk, sampling, room };
    let crew = crew(task, (most, prompt));
    decoder.prepare();
    let work = || {
        let _present = Present::at(desk);
        Worker::work(task, crew);
    };
    // Threads to wait on: the device's own are for those who compute.
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..crew.workers).map(|_| scope.spawn(work)).collect();
        if let Some(panic) = workers.into_iter().find_map(|worker| worker.join().err()) {
            resume_unwind(panic);
        }
    });
}

fn crew(task: Task, (requests, prompt): (usize, usize)) -> Crew {
    let Task { decoder, sampling, room, .. } = task;
    let model = (decoder.config(), decoder.layout().len);
    Crew::new(model, decoder.device().threads(), room, requests, (prompt, sampling.tokens_max))
}

fn check(decoder: &Decoder, requests: &[Request]) -> Result<()> {
    requests.iter().try_for_each(|request| check_prompt(decoder, request.prompt.len()))
}

/// Whether a model can go on from a prompt of that many tokens.
pub fn check_prompt(decoder: &Decoder, length: usize) -> Result<()> {
    let room = decoder.config().max_position_embeddings;
    match length {
        0 => Err(Failure::recipe("an empty prompt gives a model nothing to go on from")),
        _ if length > room => {
            Err(Failure::recipe(format!("a prompt of `{length}` tokens exceeds the model's `{room}` positions")))
        }
        _ => Ok(()),
    }
}
