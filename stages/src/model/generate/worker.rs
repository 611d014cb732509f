//! One worker's sequences: which are read, which go on, which wait for pages, which have ended.

use super::crew::{self, Crew, PROMPT_TOKENS};
use super::pages::{Pool, Room};
use super::{Desk, Entering, Finish, Generation, Sampling};
use crate::model::Decoder;
use crate::model::batch::Batch;
use crate::model::workspace::{Purpose, Workspace};
use kernels::attention::{self, Cache};
use kernels::{Buffer, Stream, rows, sample};
use std::collections::VecDeque;
use std::mem::take;

/// What all workers share.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub decoder: &'a Decoder,
    pub desk: &'a dyn Desk,
    pub sampling: &'a Sampling,
    pub room: &'a Room,
}

/// Steps after which a worker gives its thread of the device back, for others to take turns.
const SPELL_STEPS: usize = 64;

/// Takes requests from the desk until there are none.
pub(super) struct Worker<'a> {
    task: Task<'a>,
    slots: usize,
    /// Tokens of the longest sequence that there is room for.
    longest: usize,
    pool: Pool,
    caches: Vec<Cache>,
    workspace: Workspace,
    memory: Memory,
    /// The one that entered last stands last.
    running: Vec<Sequence<'a>>,
    /// Those for which there were no pages, or no longer; they enter before new ones.
    waiting: VecDeque<Sequence<'a>>,
    /// Steps since one entered.
    steps: usize,
}

/// A request on its way.
struct Sequence<'a> {
    asked: Entering<'a>,
    /// Where its keys and values lie, in order; none while it waits.
    pages: Vec<u32>,
    generation: Generation,
    /// What the desk said of its last token.
    ended: Option<Finish>,
}

impl Sequence<'_> {
    fn new(asked: Entering) -> Sequence {
        let generation = Generation { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length };
        Sequence { asked, pages: Vec::new(), generation, ended: None }
    }

    /// Its prompt and what it has written.
    fn text(&self) -> Vec<u32> {
        [&self.asked.prompt, self.generation.tokens.as_slice()].concat()
    }

    fn len(&self) -> usize {
        self.asked.prompt.len() + self.generation.tokens.len()
    }
}

/// What a step needs on the device besides the workspace; a row for each sequence.
struct Memory {
    tokens: Buffer<u32>,
    positions: Buffer<u32>,
    lengths: Buffer<u32>,
    places: Buffer<u32>,
    tables: Buffer<u32>,
    hidden: Buffer<f32>,
    logits: Buffer<f32>,
    seeds: Buffer<u64>,
    counters: Buffer<u64>,
    drawn: Buffer<u32>,
    logp: Buffer<f32>,
}

impl<'a> Worker<'a> {
    /// Works as long as the desk has something to do. What it waits for it awaits on the thread that calls, and it computes on the device's
    /// own: who waited there would keep it from others, and may come to stand above the very one that it waits for.
    pub fn work(task: Task<'a>, crew: Crew) {
        let mut worker = None;
        while let Some(asked) = task.desk.next(true) {
            let worker = worker.get_or_insert_with(|| Worker::new(task, crew));
            worker.waiting.push_back(Sequence::new(asked));
            while !(worker.running.is_empty() && worker.waiting.is_empty()) {
                task.decoder.device().install(|| worker.spell());
            }
        }
    }

    fn new(task: Task<'a>, Crew { slots, longest, .. }: Crew) -> Worker<'a> {
        let stream = task.decoder.device().stream();
        let (pool, caches) = keys_and_values(&task, &stream, slots, longest);
        Worker {
            task,
            slots,
            longest,
            caches,
            memory: Memory::new(&stream, task.decoder, slots, slots * pool.needed(longest + 1)),
            pool,
            workspace: Workspace::new(stream, Purpose::Inference),
            running: Vec::new(),
            waiting: VecDeque::new(),
            steps: 0,
        }
    }

    fn spell(&mut self) {
        for _ in 0..SPELL_STEPS {
            self.admit();
            if self.running.is_empty() {
                return;
            }
            self.grow();
            self.step();
            self.dismiss();
        }
    }

    /// Fills free slots from the desk, several at once: reading one prompt alone costs almost as much as reading a few.
    fn admit(&mut self) {
        while self.is_open() {
            let entering = self.take();
            if entering.is_empty() {
                return;
            }
            self.steps = 0;
            self.read(entering);
            self.dismiss();
        }
    }

    fn is_open(&self) -> bool {
        let free = self.slots - self.running.len();
        let is_due = free > 0 && self.steps >= self.task.desk.patience();
        self.running.is_empty() || free >= self.slots.div_ceil(8) || is_due
    }

    /// Those that enter next, with pages for their text and a token more: as many as are read at once.
    fn take(&mut self) -> Vec<Sequence<'a>> {
        let (mut taken, mut tokens) = (Vec::new(), 0);
        while self.running.len() + taken.len() < self.slots && tokens < PROMPT_TOKENS {
            let fetch = || self.task.desk.next(false).map(Sequence::new);
            let Some(mut sequence) = self.waiting.pop_front().or_else(fetch) else { break };
            let (length, longest) = (sequence.len(), self.longest_of(&sequence));
            if longest > self.longest && taken.is_empty() {
                self.waiting.push_front(sequence);
                self.widen(longest);
                continue;
            }
            if longest > self.longest || !self.pool.give(&mut sequence.pages, self.longest.min(length + 1)) {
                self.waiting.push_front(sequence);
                break;
            }
            tokens += length;
            taken.push(sequence);
        }
        taken
    }

    fn longest_of(&self, sequence: &Sequence) -> usize {
        crew::longest(self.task.decoder.config(), sequence.asked.prompt.len(), self.task.sampling.tokens_max)
    }

    /// Makes room for a longer sequence than was foreseen. Those that run are put back, and read again.
    fn widen(&mut self, longest: usize) {
        while !self.running.is_empty() {
            self.put_back_youngest();
        }
        // Twice as much each time, so that it is seldom.
        self.longest = longest.max((2 * self.longest).min(self.task.decoder.config().max_position_embeddings));
        // The old memory goes before the new comes.
        self.caches.clear();
        let stream = &self.workspace.stream;
        (self.pool, self.caches) = keys_and_values(&self.task, stream, self.slots, self.longest);
        self.memory.tables = stream.uninit(self.slots * self.pool.needed(self.longest + 1));
    }

    /// Reads whole texts and draws the next token of each. Of one that was put back these are its prompt and its answer so far,
    /// which gives the keys and values that it had, bit for bit.
    fn read(&mut self, entering: Vec<Sequence<'a>>) {
        let (first, count) = (self.running.len(), entering.len());
        self.running.extend(entering);
        let Worker { task, caches, workspace, memory, pool, running, .. } = self;
        let entered = &running[first..];
        let texts: Vec<Vec<u32>> = entered.iter().map(Sequence::text).collect();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let places = |(sequence, text): (&Sequence, &&[u32])| -> Vec<u32> {
            (0..text.len()).map(|token| pool.place(&sequence.pages, token)).collect()
        };
        let places: Vec<u32> = entered.iter().zip(&texts).flat_map(places).collect();
        let places = workspace.stream.upload(&places);
        let batch = Batch::of_prompts(&workspace.stream, &texts);
        let (d, heads) = (task.decoder.config().hidden_size, task.decoder.heads());
        workspace.fit(task.decoder.config(), batch.len(), batch.chosen());
        task.decoder.run(batch.tokens(), batch.positions(), workspace, &mut |layer, stream, qkv, attended, log_sum| {
            attention::append(stream, &mut caches[layer], qkv, places.view());
            attention::forward(stream, heads, &batch.segments, qkv, attended, log_sum);
        });
        let normed = workspace.normed.slice(0..batch.len() * d);
        rows::gather(&workspace.stream, d, normed, batch.rows(), memory.hidden.slice_mut(0..count * d));
        self.draw(first);
    }

    /// Makes sure of every running sequence's next page, the oldest's first; where there is none, the youngest is put back.
    fn grow(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let tokens = self.running[index].len();
            while index < self.running.len() && !self.pool.give(&mut self.running[index].pages, tokens) {
                self.put_back_youngest();
            }
            index += 1;
        }
    }

    fn put_back_youngest(&mut self) {
        let mut youngest = self.running.pop().expect("a sequence alone has room");
        self.pool.take_back(&mut youngest.pages);
        self.waiting.push_front(youngest);
    }

    /// One token more for every running sequence.
    fn step(&mut self) {
        self.steps += 1;
        let Worker { task, caches, workspace, memory, pool, running, .. } = self;
        let (b, d) = (running.len(), task.decoder.config().hidden_size);
        let stream = &workspace.stream;
        let position = |sequence: &Sequence| sequence.len() as u32 - 1;
        let last = |sequence: &Sequence| *sequence.generation.tokens.last().expect("a running sequence has a token");
        let place = |sequence: &Sequence| pool.place(&sequence.pages, sequence.len() - 1);
        write(stream, &mut memory.tokens, running, last);
        write(stream, &mut memory.positions, running, position);
        write(stream, &mut memory.lengths, running, |sequence| position(sequence) + 1);
        write(stream, &mut memory.places, running, place);
        let tables = tables(running);
        stream.write(memory.tables.slice_mut(0..tables.len()), &tables);
        let (positions, lengths) = (memory.positions.slice(0..b), memory.lengths.slice(0..b));
        let (places, tables) = (memory.places.slice(0..b), memory.tables.slice(0..tables.len()));
        workspace.fit(task.decoder.config(), b, 0);
        task.decoder.run(memory.tokens.slice(0..b), positions, workspace, &mut |layer, stream, qkv, attended, _| {
            attention::append(stream, &mut caches[layer], qkv, places);
            attention::decode(stream, &caches[layer], qkv, tables, lengths, attended);
        });
        workspace.stream.copy(workspace.normed.slice(0..b * d), memory.hidden.slice_mut(0..b * d));
        self.draw(0);
    }

    /// Draws the next token of the sequences from `first` on, whose hidden rows lie in memory.
    fn draw(&mut self, first: usize) {
        let Worker { task, workspace, memory, running, .. } = self;
        let (stream, running) = (&workspace.stream, &mut running[first..]);
        let config = task.decoder.config();
        let (b, d, v) = (running.len(), config.hidden_size, config.vocab_size);
        let mut scores = memory.logits.slice_mut(0..b * v);
        task.decoder.logits(stream, b, memory.hidden.slice(0..b * d), scores.reborrow());
        write(stream, &mut memory.seeds, running, |sequence| sequence.asked.seed);
        write(stream, &mut memory.counters, running, |sequence| sequence.generation.tokens.len() as u64);
        let (seeds, counters) = (memory.seeds.slice(0..b), memory.counters.slice(0..b));
        let (drawn, logp) = (memory.drawn.slice_mut(0..b), memory.logp.slice_mut(0..b));
        sample::forward(stream, v, &task.sampling.filter(), scores.view(), seeds, counters, drawn, logp);
        let drawn = stream.download(memory.drawn.slice(0..b));
        let logp = stream.download(memory.logp.slice(0..b));
        for ((sequence, token), logp) in running.iter_mut().zip(drawn).zip(logp) {
            sequence.generation.tokens.push(token);
            sequence.generation.logprobs.push(logp);
            sequence.ended = task.desk.drawn(sequence.asked.request, &sequence.generation);
        }
    }

    /// Sequences that have ended leave and give their pages back.
    fn dismiss(&mut self) {
        let Worker { task, running, pool, .. } = self;
        running.retain_mut(|sequence| {
            let Some(finish) = finish(task, sequence) else { return true };
            pool.take_back(&mut sequence.pages);
            let Generation { tokens, logprobs, .. } = &mut sequence.generation;
            task.desk
                .ended(sequence.asked.request, Generation { tokens: take(tokens), logprobs: take(logprobs), finish });
            false
        });
    }
}

/// The pages of all sequences: the books, and the memory of each layer.
fn keys_and_values(task: &Task, stream: &Stream, slots: usize, longest: usize) -> (Pool, Vec<Cache>) {
    let (config, page_tokens) = (task.decoder.config(), task.room.page_tokens);
    let pages = task.room.pages(config, slots, longest);
    let cache = |_| Cache::new(stream, task.decoder.heads(), pages, page_tokens);
    (Pool::new(pages, page_tokens), (0..config.num_hidden_layers).map(cache).collect())
}

/// How a sequence has ended, if it has.
fn finish(task: &Task, sequence: &Sequence) -> Option<Finish> {
    let (config, tokens) = (task.decoder.config(), &sequence.generation.tokens);
    let stops = tokens.last().is_some_and(|token| config.eos_token_ids.contains(token));
    // The last token of all needs no position: nothing is predicted from it.
    let is_full = tokens.len() >= task.sampling.tokens_max || sequence.len() > config.max_position_embeddings;
    sequence.ended.or(stops.then_some(Finish::Stop)).or(is_full.then_some(Finish::Length))
}

/// The pages of each sequence, in rows of one length.
fn tables(running: &[Sequence]) -> Vec<u32> {
    let width = running.iter().map(|sequence| sequence.pages.len()).max().unwrap_or(0);
    let mut tables = vec![0; running.len() * width];
    for (row, sequence) in tables.chunks_exact_mut(width.max(1)).zip(running) {
        row[..sequence.pages.len()].copy_from_slice(&sequence.pages);
    }
    tables
}

impl Memory {
    fn new(stream: &Stream, decoder: &Decoder, slots: usize, pages: usize) -> Memory {
        let (d, v) = (decoder.config().hidden_size, decoder.config().vocab_size);
        Memory {
            tokens: stream.uninit(slots),
            positions: stream.uninit(slots),
            lengths: stream.uninit(slots),
            places: stream.uninit(slots),
            tables: stream.uninit(pages),
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
    running: &[Sequence],
    number: impl Fn(&Sequence) -> T,
) {
    let numbers: Vec<T> = running.iter().map(number).collect();
    stream.write(target.slice_mut(0..numbers.len()), &numbers);
}
