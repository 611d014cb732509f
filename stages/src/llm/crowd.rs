//! Many rows at once, each at its own pace: bounded in number, results in row order, an orderly end when something stops it.

use super::halt::Halter;
use crate::context::{Context, Progress};
use crate::failure::{Failure, Result};
use crate::rows::{Row, Rows};
use futures::{FutureExt, StreamExt};
use serde_json::{Map, Value};
use std::future::Future;
use std::time::Duration;

/// How often a crowd looks whether it should stop; well below what a person notices.
const LOOK_INTERVAL_MS: u64 = 50;

/// One row on its way through [`for_each_row`].
#[derive(Debug, Clone)]
pub struct Item {
    /// The row's place in the table.
    pub index: usize,
    pub id: String,
    /// The row as prompts and tasks see it: column name to value.
    pub row: Map<String, Value>,
}

/// Does `work` for every row, at most `concurrency` at a time on the context's runtime; returns the results in row order.
///
/// When the transport is exhausted for a row the others still finish, so that their replies are kept, and the whole then fails
/// with [`Failure::Remote`]. Any other failure, or a cancelled context, lets calls in flight finish and starts no new one.
/// Must be called from a thread that may block.
pub fn for_each_row<T, F, Fut>(context: &dyn Context, concurrency: usize, rows: &Rows, work: F) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Fn(Item) -> Fut + Sync,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    if context.waits_for_nothing() {
        return at_once(rows, &work);
    }
    let (count, first) = (rows.len(), context.first_row(rows.len()));
    let items = (0..count).map(|place| (first + place) % count).map(|index| {
        let row = &rows.rows[index];
        Item { index, id: row.id.clone(), row: rows.object(row) }
    });
    context
        .runtime()
        .block_on(Crowd::new(context, concurrency, rows.len()).run(items.map(|item| (item.index, work(item)))))
}

/// The same where nothing waits: equal shares for all cores, no tasks.
fn at_once<T, F, Fut>(rows: &Rows, work: &F) -> Result<Vec<T>>
where
    T: Send,
    F: Fn(Item) -> Fut + Sync,
    Fut: Future<Output = Result<T>>,
{
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = rows.len().div_ceil(cores).max(1);
    let one = |(index, row): (usize, &Row)| {
        let item = Item { index, id: row.id.clone(), row: rows.object(row) };
        work(item).now_or_never().expect("no answer is waited for")
    };
    let all = |(number, rows): (usize, &[Row])| -> Result<Vec<T>> {
        rows.iter().enumerate().map(|(place, row)| one((number * share + place, row))).collect()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            rows.rows.chunks(share).enumerate().map(|chunk| scope.spawn(move || all(chunk))).collect();
        let mut results = Vec::with_capacity(rows.len());
        for thread in threads {
            results.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(results)
    })
}

struct Crowd<'a, T> {
    context: &'a dyn Context,
    concurrency: usize,
    halter: Halter,
    results: Vec<Option<T>>,
    done: u64,
    /// The gravest failure so far.
    failure: Option<Failure>,
    unanswered: usize,
}

impl<'a, T: Send + 'static> Crowd<'a, T> {
    fn new(context: &'a dyn Context, concurrency: usize, total: usize) -> Crowd<'a, T> {
        Crowd {
            context,
            concurrency: concurrency.max(1),
            halter: Halter::new(),
            results: std::iter::repeat_with(|| None).take(total).collect(),
            done: 0,
            failure: None,
            unanswered: 0,
        }
    }

    async fn run<Fut>(mut self, works: impl Iterator<Item = (usize, Fut)>) -> Result<Vec<T>>
    where
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let halt = self.halter.halt();
        let runtime = self.context.runtime().clone();
        let started = works.map(|(index, work)| {
            let task = runtime.spawn(halt.clone().around(work));
            async move { (index, task.await.unwrap_or_else(|panic| Err(Failure::Ourselves(panic.to_string())))) }
        });
        // Stepping by hand keeps the number of started rows bounded and lets a halt end the feed.
        let mut waiting = futures::stream::FuturesUnordered::new();
        let mut started = started.fuse();
        let mut look = tokio::time::interval(Duration::from_millis(LOOK_INTERVAL_MS));
        loop {
            while waiting.len() < self.concurrency && !self.halter.said() {
                let Some(next) = started.next() else { break };
                waiting.push(next);
            }
            tokio::select! {
                biased;
                finished = waiting.next() => match finished {
                    Some((index, result)) => self.take(index, result),
                    None => break,
                },
                _ = look.tick() => {}
            }
            self.listen();
        }
        self.finish()
    }

    fn tell(&self) {
        self.halter.notices().iter().for_each(|notice| self.context.warn(notice));
    }

    fn listen(&mut self) {
        self.tell();
        if self.context.cancelled() && !self.halter.said() {
            self.halter.say();
            self.failure.get_or_insert(Failure::Cancelled);
        }
    }

    fn take(&mut self, index: usize, result: Result<T>) {
        match result {
            Ok(value) => {
                self.results[index] = Some(value);
                self.done += 1;
                let (done, total) = (self.done, self.results.len() as u64);
                self.context.progress(Progress { done, total, unit: "rows", note: String::new() });
            }
            Err(failure) => self.note(failure),
        }
    }

    fn note(&mut self, failure: Failure) {
        if matches!(failure, Failure::Remote(_)) {
            // Whether the others go on is for the endpoint to say: it knows an outage from a row that nobody answers.
            self.unanswered += 1;
        } else {
            self.halter.say();
        }
        if self.failure.as_ref().is_none_or(|known| gravity(&failure) > gravity(known)) {
            self.failure = Some(failure);
        }
    }

    fn finish(self) -> Result<Vec<T>> {
        self.tell();
        match self.failure {
            Some(Failure::Remote(message)) => Err(Failure::Remote(format!(
                "{} of {} rows got no answer; the first reason: {message}; replies received are kept, run again to go on",
                self.unanswered,
                self.results.len()
            ))),
            Some(failure) => Err(failure),
            None => {
                Ok(self.results.into_iter().map(|result| result.expect("no failure, so every row has one")).collect())
            }
        }
    }
}

/// Which of several failures the node reports: rows that stop because another row failed say only `Cancelled`.
fn gravity(failure: &Failure) -> u8 {
    match failure {
        Failure::Cancelled => 0,
        Failure::Remote(_) => 1,
        Failure::Budget(_) => 2,
        Failure::Replies(_) => 3,
        Failure::Machine(_) => 4,
        Failure::Recipe(_) => 5,
        Failure::Ourselves(_) => 6,
    }
}
