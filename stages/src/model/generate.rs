//! Batched generation with a key/value cache: sequences that end leave, waiting ones enter (Yu 2022, "Orca").
//!
//! A sequence's tokens depend on its prompt and seed alone: not on its neighbours, the batch size or the number of threads,
//! because every row's arithmetic is the same among others as alone, and draws are named by (seed, place in the answer).

use super::Decoder;
use super::batch::Batch;
use super::workspace::{Purpose, Workspace};
use crate::failure::{Failure, Result};
use kernels::attention::{self, Cache};
use kernels::{Buffer, Stream, logits, rows, sample};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Sequences that one worker of a small model keeps going.
const SLOTS: usize = 64;
/// What all caches of one worker may take.
const CACHE_BYTES: usize = 4 << 30;
/// From this many parameters on one operation fills all cores.
const LARGE_PARAMETERS: usize = 8_000_000;
/// Prompt tokens read at once.
const PROMPT_TOKENS: usize = 2_048;

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
    /// The model ended its text.
    Stop,
    /// The answer ran into its limit, or the model's.
    Length,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The ending token included.
    pub tokens: Vec<u32>,
    /// log p of each token under softmax(logits / temperature), before any filter; at temperature 0 under softmax(logits).
    pub logprobs: Vec<f32>,
    pub finish: Finish,
}

/// Answers in the order of the requests.
pub fn generate(decoder: &Decoder, requests: &[Request], sampling: &Sampling) -> Result<Vec<Generation>> {
    check(decoder, requests)?;
    let next = AtomicUsize::new(0);
    let workers = workers(decoder, requests.len());
    let work = |_| Worker::new(decoder, requests, sampling, workers).work(&next);
    let done: Vec<Vec<(usize, Generation)>> =
        decoder.device().install(|| (0..workers).into_par_iter().with_max_len(1).map(work).collect());
    let mut done = done.concat();
    done.sort_by_key(|(request, _)| *request);
    Ok(done.into_iter().map(|(_, generation)| generation).collect())
}

fn check(decoder: &Decoder, requests: &[Request]) -> Result<()> {
    let room = decoder.config().max_position_embeddings;
    match requests.iter().map(|request| request.prompt.len()).find(|&length| length == 0 || length > room) {
        None => Ok(()),
        Some(0) => Err(Failure::recipe("an empty prompt gives a model nothing to go on from")),
        Some(length) => {
            Err(Failure::recipe(format!("a prompt of `{length}` tokens exceeds the model's `{room}` positions")))
        }
    }
}

/// Small models: whole sequences side by side. Large ones: one worker whose operations use all cores.
fn workers(decoder: &Decoder, requests: usize) -> usize {
    let large = decoder.layout().len > LARGE_PARAMETERS;
    if large { 1 } else { decoder.device().threads().min(requests.div_ceil(8)).max(1) }
}

/// Takes requests from a common queue until there are none.
struct Worker<'a> {
    decoder: &'a Decoder,
    requests: &'a [Request<'a>],
    sampling: &'a Sampling,
    caches: Vec<Cache>,
    workspace: Workspace,
    memory: Memory,
    running: Vec<Running>,
    free: Vec<u32>,
    done: Vec<(usize, Generation)>,
}

/// A sequence on its way.
struct Running {
    request: usize,
    slot: u32,
    generation: Generation,
}

/// What a step needs on the device besides the workspace; a row for each slot.
struct Memory {
    tokens: Buffer<u32>,
    positions: Buffer<u32>,
    lengths: Buffer<u32>,
    slots: Buffer<u32>,
    hidden: Buffer<f32>,
    logits: Buffer<f32>,
    seeds: Buffer<u64>,
    counters: Buffer<u64>,
    drawn: Buffer<u32>,
    logp: Buffer<f32>,
}

impl<'a> Worker<'a> {
    fn new(decoder: &'a Decoder, requests: &'a [Request<'a>], sampling: &'a Sampling, workers: usize) -> Worker<'a> {
        let (config, stream) = (decoder.config(), decoder.device().stream());
        let longest = requests.iter().map(|request| request.prompt.len()).max().unwrap_or(0);
        let capacity = (longest + sampling.tokens_max).min(config.max_position_embeddings);
        let slot_bytes = 8 * capacity * config.num_key_value_heads * config.head_size() * config.num_hidden_layers;
        let slots = SLOTS.min(requests.len().div_ceil(workers)).min(CACHE_BYTES / slot_bytes.max(1)).max(1);
        let cache = |_| Cache::new(&stream, decoder.heads(), slots, capacity);
        Worker {
            decoder,
            requests,
            sampling,
            caches: (0..config.num_hidden_layers).map(cache).collect(),
            memory: Memory::new(&stream, decoder, slots),
            workspace: Workspace::new(stream, Purpose::Inference),
            running: Vec::new(),
            free: (0..slots as u32).rev().collect(),
            done: Vec::new(),
        }
    }

    fn work(mut self, next: &AtomicUsize) -> Vec<(usize, Generation)> {
        loop {
            self.admit(next);
            if self.running.is_empty() {
                return self.done;
            }
            self.step();
            self.dismiss();
        }
    }

    /// Fills free slots from the queue, several at once: reading one prompt alone costs almost as much as reading a few.
    fn admit(&mut self, next: &AtomicUsize) {
        let slots = self.running.len() + self.free.len();
        while self.running.is_empty() || self.free.len() >= slots.div_ceil(8) {
            let entering = self.take(next);
            if entering.is_empty() {
                return;
            }
            self.read_prompts(&entering);
            self.dismiss();
        }
    }

    /// Requests for the free slots, as many as are read at once.
    fn take(&mut self, next: &AtomicUsize) -> Vec<usize> {
        let (mut taken, mut tokens) = (Vec::new(), 0);
        while taken.len() < self.free.len() && tokens < PROMPT_TOKENS {
            let request = next.fetch_add(1, Ordering::Relaxed);
            let Some(Request { prompt, .. }) = self.requests.get(request) else { break };
            tokens += prompt.len();
            taken.push(request);
        }
        taken
    }

    fn read_prompts(&mut self, entering: &[usize]) {
        let first = self.running.len();
        let prompts: Vec<&[u32]> = entering.iter().map(|&request| self.requests[request].prompt).collect();
        for &request in entering {
            let slot = self.free.pop().expect("no more requests are taken than slots are free");
            let generation = Generation { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length };
            self.running.push(Running { request, slot, generation });
        }
        let batch = Batch::of_prompts(&self.workspace.stream, &prompts);
        let slot_of_row = |(running, prompt): (&Running, &&[u32])| std::iter::repeat_n(running.slot, prompt.len());
        let slots: Vec<u32> = self.running[first..].iter().zip(&prompts).flat_map(slot_of_row).collect();
        let slots = self.workspace.stream.upload(&slots);
        let Worker { decoder, caches, workspace, memory, .. } = self;
        let (d, heads) = (decoder.config().hidden_size, decoder.heads());
        workspace.fit(decoder.config(), batch.len(), batch.chosen());
        decoder.run(batch.tokens(), batch.positions(), workspace, &mut |layer, stream, qkv, attended, log_sum| {
            attention::append(stream, &mut caches[layer], qkv, slots.view(), batch.positions());
            attention::forward(stream, heads, &batch.segments, qkv, attended, log_sum);
        });
        let normed = workspace.normed.slice(0..batch.len() * d);
        rows::gather(&workspace.stream, d, normed, batch.rows(), memory.hidden.slice_mut(0..prompts.len() * d));
        self.draw(first);
    }

    /// One token more for every running sequence.
    fn step(&mut self) {
        let Worker { decoder, requests, caches, workspace, memory, running, .. } = self;
        let (b, d) = (running.len(), decoder.config().hidden_size);
        let position =
            |running: &Running| (requests[running.request].prompt.len() + running.generation.tokens.len() - 1) as u32;
        let last = |running: &Running| *running.generation.tokens.last().expect("a running sequence has a token");
        write(&workspace.stream, &mut memory.tokens, running, last);
        write(&workspace.stream, &mut memory.positions, running, position);
        write(&workspace.stream, &mut memory.lengths, running, |running| position(running) + 1);
        write(&workspace.stream, &mut memory.slots, running, |running| running.slot);
        let (positions, slots, lengths) =
            (memory.positions.slice(0..b), memory.slots.slice(0..b), memory.lengths.slice(0..b));
        workspace.fit(decoder.config(), b, 0);
        decoder.run(memory.tokens.slice(0..b), positions, workspace, &mut |layer, stream, qkv, attended, _| {
            attention::append(stream, &mut caches[layer], qkv, slots, positions);
            attention::decode(stream, &caches[layer], qkv, slots, lengths, attended);
        });
        workspace.stream.copy(workspace.normed.slice(0..b * d), memory.hidden.slice_mut(0..b * d));
        self.draw(0);
    }

    /// Draws the next token of the sequences from `first` on, whose hidden rows lie in memory.
    fn draw(&mut self, first: usize) {
        let Worker { decoder, requests, sampling, workspace, memory, running, .. } = self;
        let (stream, running) = (&workspace.stream, &mut running[first..]);
        let (b, d, v) = (running.len(), decoder.config().hidden_size, decoder.config().vocab_size);
        let mut scores = memory.logits.slice_mut(0..b * v);
        let head = decoder.weight(&decoder.layout().head);
        logits::forward(stream, b, v, d, memory.hidden.slice(0..b * d), head, scores.reborrow());
        write(stream, &mut memory.seeds, running, |running| requests[running.request].seed);
        write(stream, &mut memory.counters, running, |running| running.generation.tokens.len() as u64);
        let (seeds, counters) = (memory.seeds.slice(0..b), memory.counters.slice(0..b));
        let (drawn, logp) = (memory.drawn.slice_mut(0..b), memory.logp.slice_mut(0..b));
        sample::forward(stream, v, &sampling.filter(), scores.view(), seeds, counters, drawn, logp);
        let drawn = stream.download(memory.drawn.slice(0..b));
        let logp = stream.download(memory.logp.slice(0..b));
        for ((running, token), logp) in running.iter_mut().zip(drawn).zip(logp) {
            running.generation.tokens.push(token);
            running.generation.logprobs.push(logp);
        }
    }

    /// Sequences that have ended leave and free their slots.
    fn dismiss(&mut self) {
        let config = self.decoder.config();
        let Worker { requests, sampling, running, free, done, .. } = self;
        running.retain_mut(|running| {
            let tokens = &running.generation.tokens;
            let stops = tokens.last().is_some_and(|token| config.eos_token_ids.contains(token));
            let room = config.max_position_embeddings - requests[running.request].prompt.len();
            // The last token of all needs no position: nothing is predicted from it.
            if !stops && tokens.len() < sampling.tokens_max && tokens.len() <= room {
                return true;
            }
            running.generation.finish = if stops { Finish::Stop } else { Finish::Length };
            free.push(running.slot);
            let empty = Generation { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length };
            done.push((running.request, std::mem::replace(&mut running.generation, empty)));
            false
        });
    }
}

impl Memory {
    fn new(stream: &Stream, decoder: &Decoder, slots: usize) -> Memory {
        let (d, v) = (decoder.config().hidden_size, decoder.config().vocab_size);
        Memory {
            tokens: stream.uninit(slots),
            positions: stream.uninit(slots),
            lengths: stream.uninit(slots),
            slots: stream.uninit(slots),
            hidden: stream.uninit(slots * d),
            logits: stream.uninit(slots * v),
            seeds: stream.uninit(slots),
            counters: stream.uninit(slots),
            drawn: stream.uninit(slots),
            logp: stream.uninit(slots),
        }
    }
}

/// One number of each running sequence, in their order.
fn write<T: kernels::Element>(
    stream: &Stream,
    target: &mut Buffer<T>,
    running: &[Running],
    number: impl Fn(&Running) -> T,
) {
    let numbers: Vec<T> = running.iter().map(number).collect();
    stream.write(target.slice_mut(0..numbers.len()), &numbers);
}
