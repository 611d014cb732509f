//! Many rows at once, each at its own pace: bounded in number, results in row order, an orderly end when something stops it.

use super::halt::Halter;
use super::in_order::InOrder;
use crate::context::{Context, Progress};
use crate::failure::{Failure, Result};
use crate::rows::{Column, Row, Rows, object};
use crate::table::Table;
use futures::future::BoxFuture;
use futures::{FutureExt, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;

/// How often a crowd looks whether it should stop; well below what a person notices.
const LOOK_INTERVAL_MS: u64 = 50;
/// Finished rows that wait to be taken, beside those in work; before there are more no row is begun.
const FINISHED_ROWS: usize = 1024;
/// So many rows in a row that waited for nothing make a worker look for a core of its own.
const ROWS_AT_ONCE: u32 = 32;
/// Workers on cores of their own at most: beyond that they would stand in line for rows.
const BESIDE_AT_MOST: usize = 4;
/// Between two takings of finished rows while many come: to be woken for each would cost more than to take it.
const TAKE_INTERVAL: Duration = Duration::from_millis(1);

/// One row on its way through [`each_row`].
#[derive(Debug, Clone)]
pub struct Item {
    /// The row's place in the table.
    pub index: usize,
    pub id: String,
    row: Arc<Row>,
    columns: Arc<[Column]>,
}

impl Item {
    fn new(index: usize, row: Arc<Row>, columns: &Arc<[Column]>) -> Item {
        Item { index, id: row.id.clone(), row, columns: columns.clone() }
    }

    /// The row as prompts and tasks see it: column name to value.
    pub fn object(&self) -> Map<String, Value> {
        object(&self.columns, &self.row)
    }

    /// The text of one column; empty where there is none.
    pub fn text(&self, column: &str) -> &str {
        let place = self.columns.iter().position(|known| known.name == column);
        place.and_then(|place| self.row.cells[place].as_str()).unwrap_or_default()
    }
}

/// Does `work` for every row, at most `concurrency` at a time on the context's runtime, and hands each row with its result to `take`,
/// in row order. However many rows there are, few are in memory: a row is read when it is begun, and results that must wait for a
/// slow row before them are put aside.
///
/// When the transport is exhausted for a row the others still finish, so that their replies are kept, and the whole then fails
/// with [`Failure::Remote`]. Any other failure, or a cancelled context, lets calls in flight finish and starts no new one.
/// Must be called from a thread that may block.
pub fn each_row<T, F, Fut>(
    context: &dyn Context,
    concurrency: usize,
    table: &Table,
    work: F,
    mut take: impl FnMut(Row, T) -> Result<()>,
) -> Result<()>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    F: Fn(Item) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    if context.waits_for_nothing() {
        let rows = table.clone().load()?;
        let results = at_once(&rows, &work)?;
        return rows.rows.into_iter().zip(results).try_for_each(|(row, result)| take(row, result));
    }
    let (mut in_order, mut taken) = (InOrder::new(context.scratch()), 0);
    let receive = |index: usize, row: Row, result: T| {
        in_order.put(index, (row, result))?;
        while let Some((row, result)) = in_order.next()? {
            take(row, result)?;
            taken += 1;
        }
        Ok(())
    };
    Crowd::new(context, concurrency, table.len()).run(table, work, receive)?;
    match taken == table.len() {
        true => Ok(()),
        false => Err(Failure::Ourselves(format!("{taken} of {} rows came through", table.len()))),
    }
}

/// The same for rows in memory, with results that fit there: all of them, in row order.
pub fn for_each_row<T, F, Fut>(context: &dyn Context, concurrency: usize, rows: Rows, work: F) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Fn(Item) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    if context.waits_for_nothing() {
        return at_once(&rows, &work);
    }
    let mut results: Vec<Option<T>> = std::iter::repeat_with(|| None).take(rows.len()).collect();
    let receive = |index: usize, _: Row, result: T| {
        results[index] = Some(result);
        Ok(())
    };
    Crowd::new(context, concurrency, rows.len()).run(&Table::Rows(Arc::new(rows)), work, receive)?;
    Ok(results.into_iter().map(|result| result.expect("no failure, so every row has one")).collect())
}

/// Where nothing waits: equal shares for all cores, no tasks.
fn at_once<T, F, Fut>(rows: &Rows, work: &F) -> Result<Vec<T>>
where
    T: Send,
    F: Fn(Item) -> Fut + Sync,
    Fut: Future<Output = Result<T>>,
{
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = rows.len().div_ceil(cores).max(1);
    let columns: Arc<[Column]> = rows.columns.as_slice().into();
    let one = |(index, row): (usize, &Row)| {
        let item = Item::new(index, Arc::new(row.clone()), &columns);
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

/// What all workers of a crowd share: the rows that are not begun yet, and what is to be done with each.
struct Feed<F> {
    rows: Mutex<Box<dyn Iterator<Item = Result<(usize, Row)>> + Send>>,
    columns: Arc<[Column]>,
    halter: Arc<Halter>,
    work: F,
    beside: Beside,
}

/// A row that was worked on, and what came of it.
struct Finished<T> {
    row: Option<(usize, Row)>,
    result: Result<T>,
}

impl<F, Fut, T> Feed<F>
where
    T: Send + 'static,
    F: Fn(Item) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    fn next(&self) -> Option<Result<(usize, Row)>> {
        if self.halter.said() {
            return None;
        }
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// Works on one row after another until there are no more, or the word to stop is said.
    fn work_off(self: Arc<Self>, finished: mpsc::Sender<Finished<T>>) -> BoxFuture<'static, ()> {
        let halt = self.halter.halt();
        halt.around(async move {
            let mut at_once = 0;
            // Room for its result comes before a row: one that is finished waits for nothing then, and is not overtaken by thousands.
            while let Ok(room) = finished.reserve().await {
                let Some(next) = self.next() else { return };
                let mut work = pin!(self.work_on(next));
                let one = match poll!(&mut work) {
                    Poll::Ready(one) => {
                        at_once += 1;
                        one
                    }
                    Poll::Pending => {
                        at_once = 0;
                        work.await
                    }
                };
                room.send(one);
                if at_once >= ROWS_AT_ONCE && self.beside.try_begin() {
                    return self.clone().go_beside(finished.clone());
                }
                // Others get their turn here, also where no row ever waits.
                tokio::task::consume_budget().await;
            }
        })
        .boxed()
    }

    async fn work_on(&self, next: Result<(usize, Row)>) -> Finished<T> {
        let one = match next {
            Err(failure) => Finished { row: None, result: Err(failure) },
            Ok((index, row)) => {
                let row = Arc::new(row);
                let item = Item::new(index, row.clone(), &self.columns);
                // A row that need not wait is not left in its middle: else results come far out of order.
                let work = AssertUnwindSafe(tokio::task::unconstrained(async { (self.work)(item).await }));
                let result = work.catch_unwind().await;
                let result = result.unwrap_or_else(|panic| Err(Failure::of_panic(&*panic)));
                Finished { row: Some((index, Arc::unwrap_or_clone(row))), result }
            }
        };
        // At once: whoever takes the results hears of it too late to keep others from asking.
        if one.result.as_ref().is_err_and(|failure| !matches!(failure, Failure::Remote(_))) {
            self.halter.say();
        }
        one
    }

    /// The same on a thread of its own, for rows whose answers are kept: until one has to wait.
    fn go_beside(self: Arc<Self>, finished: mpsc::Sender<Finished<T>>) {
        let runtime = tokio::runtime::Handle::current();
        let (feed, sender) = (self.clone(), finished.clone());
        let work = move || runtime.block_on(feed.halter.halt().around(feed.clone().work_off_beside(sender)));
        if std::thread::Builder::new().name("rows beside".into()).spawn(work).is_err() {
            // It goes on where it was; the place beside stays taken, so that nobody tries again.
            tokio::spawn(self.work_off(finished));
        }
    }

    async fn work_off_beside(self: Arc<Self>, finished: mpsc::Sender<Finished<T>>) {
        while let Ok(room) = finished.reserve().await {
            let Some(next) = self.next() else { return };
            let feed = self.clone();
            let mut work = Box::pin(async move { feed.work_on(next).await });
            match poll!(&mut work) {
                Poll::Ready(one) => room.send(one),
                Poll::Pending => {
                    self.beside.end();
                    drop(room);
                    _ = tokio::spawn(self.halter.halt().around(self.clone().finish_and_go_on(work, finished.clone())));
                    return;
                }
            }
        }
    }

    async fn finish_and_go_on(
        self: Arc<Self>,
        work: impl Future<Output = Finished<T>>,
        finished: mpsc::Sender<Finished<T>>,
    ) {
        let one = work.await;
        if finished.send(one).await.is_ok() {
            self.work_off(finished).await;
        }
    }
}

/// How many workers may have left the thread on which calls wait.
struct Beside {
    now: AtomicUsize,
    most: usize,
}

impl Beside {
    /// Where calls wait on one thread, the other cores are free.
    fn of(runtime: &Handle) -> Beside {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = match runtime.runtime_flavor() {
            RuntimeFlavor::CurrentThread => (cores - 1).min(BESIDE_AT_MOST),
            _ => 0,
        };
        Beside { now: AtomicUsize::new(0), most }
    }

    fn try_begin(&self) -> bool {
        let one_more = |now: usize| (now < self.most).then_some(now + 1);
        self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn end(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Crowd<'a> {
    context: &'a dyn Context,
    concurrency: usize,
    halter: Arc<Halter>,
    total: usize,
    done: u64,
    /// The gravest failure so far.
    failure: Option<Failure>,
    unanswered: usize,
}

impl<'a> Crowd<'a> {
    fn new(context: &'a dyn Context, concurrency: usize, total: usize) -> Crowd<'a> {
        Crowd {
            context,
            concurrency: concurrency.clamp(1, total.max(1)),
            halter: Arc::new(Halter::new()),
            total,
            done: 0,
            failure: None,
            unanswered: 0,
        }
    }

    fn run<T, F, Fut>(
        mut self,
        table: &Table,
        work: F,
        mut receive: impl FnMut(usize, Row, T) -> Result<()>,
    ) -> Result<()>
    where
        T: Send + 'static,
        F: Fn(Item) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let runtime = self.context.runtime().clone();
        let rows = table.rows_from(self.context.first_row(table.len()));
        let (columns, halter) = (table.columns().into(), self.halter.clone());
        let beside = Beside::of(&runtime);
        let feed = Arc::new(Feed { rows: Mutex::new(Box::new(rows)), columns, halter, work, beside });
        let (sender, mut finished) = mpsc::channel(FINISHED_ROWS + self.concurrency);
        for _ in 0..self.concurrency {
            runtime.spawn(feed.clone().work_off(sender.clone()));
        }
        drop(sender);
        runtime.block_on(async {
            let mut look = tokio::time::interval(Duration::from_millis(LOOK_INTERVAL_MS));
            let mut arrived = Vec::with_capacity(FINISHED_ROWS);
            let mut taken = Instant::now();
            loop {
                let count = tokio::select! {
                    biased;
                    count = finished.recv_many(&mut arrived, FINISHED_ROWS) => count,
                    _ = look.tick() => 1,
                };
                if count == 0 {
                    break;
                }
                let is_soon = taken.elapsed() < TAKE_INTERVAL;
                arrived.drain(..).for_each(|one| self.take(one, &mut receive));
                self.listen();
                taken = Instant::now();
                if is_soon && self.done < self.total as u64 {
                    tokio::time::sleep(TAKE_INTERVAL).await;
                }
            }
        });
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

    fn take<T>(&mut self, finished: Finished<T>, receive: &mut impl FnMut(usize, Row, T) -> Result<()>) {
        match (finished.result, finished.row) {
            (Ok(value), Some((index, row))) => {
                self.done += 1;
                let (done, total) = (self.done, self.total as u64);
                self.context.progress(Progress { done, total, unit: "rows", note: String::new() });
                // Where something failed nothing comes of the rows, and only their replies count.
                if self.failure.is_none()
                    && let Err(failure) = receive(index, row, value)
                {
                    self.note(failure);
                }
            }
            (Err(failure), _) => self.note(failure),
            (Ok(_), None) => unreachable!("only a row has a result"),
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

    fn finish(self) -> Result<()> {
        self.tell();
        match self.failure {
            Some(Failure::Remote(message)) => Err(Failure::Remote(format!(
                "{} of {} rows got no answer; the first reason: {message}; replies received are kept, run again to go on",
                self.unanswered, self.total
            ))),
            Some(failure) => Err(failure),
            None => Ok(()),
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
