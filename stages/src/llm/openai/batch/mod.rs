//! The Batch API: requests are gathered into files that the server answers within a day, at half the price
//! (platform.openai.com/docs/guides/batch).
//!
//! A batch is noted in a journal before anything is billed, and forgotten once all its replies are kept, also those for which nobody
//! waits any more. Whoever is killed in between finds it there again and goes on with it: no request is submitted a second time.

mod journal;
mod results;
mod wire;

use super::envelope;
use super::line::Line;
use crate::llm::{Fault, Replies, halt};
use indexmap::IndexMap;
use journal::{Journal, Record};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// A batch is closed when no further request has come for so long.
const GATHER: Duration = Duration::from_millis(500);
/// The API's own bounds, with some room.
const REQUESTS_MAX: usize = 50_000;
const BYTES_MAX: usize = 190 << 20;

/// A request that so many batches leave unanswered never will be.
const BATCHES_MAX: usize = 5;

/// How batches are made and waited for.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The first pause between two looks; later ones are longer.
    pub poll: Duration,
    pub requests_max: usize,
}

/// Batches of one model at one server.
pub struct Batches {
    line: Arc<Line>,
    replies: Arc<dyn Replies>,
    pace: Pace,
    journal: Journal,
    started: Once,
    desk: Mutex<Desk>,
    /// A request was put on the desk.
    came: Notify,
    ourselves: Weak<Batches>,
}

/// What lies between those who ask and the batches.
#[derive(Default)]
struct Desk {
    /// Lines of the next batches' files.
    gathered: IndexMap<[u8; 32], String>,
    gathered_bytes: usize,
    waiting: HashMap<[u8; 32], oneshot::Sender<Answer>>,
    /// Requests in batches under way.
    under_way: HashSet<[u8; 32]>,
}

type Answer = Result<Vec<u8>, Fault>;

impl Batches {
    /// `folder` is for the journal.
    pub fn new(line: Arc<Line>, replies: Arc<dyn Replies>, pace: Pace, folder: PathBuf) -> Arc<Batches> {
        let pace = Pace { requests_max: pace.requests_max.clamp(1, REQUESTS_MAX), ..pace };
        let (journal, started, desk, came) = (Journal::new(folder), Once::new(), Mutex::default(), Notify::new());
        Arc::new_cyclic(|ourselves| {
            let ourselves = ourselves.clone();
            Batches { line, replies, pace, journal, started, desk, came, ourselves }
        })
    }

    /// The answer to the request at this address of the replies.
    pub async fn answer(&self, address: [u8; 32], body: &[u8]) -> Answer {
        self.start();
        for _ in 1..BATCHES_MAX {
            match self.answer_of_one(address, body).await {
                Err(Fault::Refused { .. }) => {}
                answer => return answer,
            }
        }
        self.answer_of_one(address, body).await
    }

    async fn answer_of_one(&self, address: [u8; 32], body: &[u8]) -> Answer {
        match halt::unless_said(self.enter(address, body)).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(passing("the batch was given up")),
            None => {
                Err(passing("interrupted: the server goes on with the batch, and the next run fetches its replies"))
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the queue; a request that is in a batch already is not put into another.
    fn enter(&self, address: [u8; 32], body: &[u8]) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        let mut desk = self.desk();
        desk.waiting.insert(address, sender);
        if !desk.under_way.contains(&address) && !desk.gathered.contains_key(&address) {
            let line = wire::line(&journal::name_of_request(&address), body);
            desk.gathered_bytes += line.len();
            desk.gathered.insert(address, line);
            self.came.notify_one();
        }
        receiver
    }

    /// With the first request: takes up what earlier runs have left, and begins to gather. All other requests wait until that is
    /// known, so that none is submitted which is under way.
    fn start(&self) {
        self.started.call_once(|| {
            for record in self.journal.left_behind() {
                self.carry(record, None);
            }
            tokio::spawn(gather(self.ourselves.clone()));
        });
    }

    /// Takes care of a batch until its end, beside everything else.
    fn carry(&self, record: Record, lines: Option<String>) {
        self.desk().under_way.extend(&record.requests);
        let us = self.ourselves.upgrade().expect("it is called on one that lives");
        tokio::spawn(async move {
            let mut left: HashSet<[u8; 32]> = record.requests.iter().copied().collect();
            let ended = us.go_through(&record, lines, &mut left).await;
            let fault = ended.err().unwrap_or_else(|| unanswered("it ended"));
            left.iter().for_each(|address| us.settle(address, Err(fault.clone())));
        });
    }

    /// Every step of a batch; what is answered is no longer `left`. Where the server does not answer, those who wait hear of it and
    /// the step is taken again.
    ///
    /// # Errors
    /// If the server does not take it, or it cannot be noted.
    async fn go_through(
        &self,
        record: &Record,
        lines: Option<String>,
        left: &mut HashSet<[u8; 32]>,
    ) -> Result<(), Fault> {
        let file = match (record.file(), lines) {
            (Some(file), _) => file,
            (None, Some(lines)) => {
                let file = wire::upload(&self.line, lines).await.inspect_err(|_| record.forget())?;
                record.uploaded(&file).map(|()| file).map_err(unnoted)?
            }
            // Killed before anything was submitted: its requests are asked anew.
            (None, None) => {
                record.forget();
                return Ok(());
            }
        };
        let mut is_new = !record.is_left_behind;
        let mut was_missing = false;
        let batch = loop {
            if let Some(batch) = record.batch() {
                break batch;
            }
            // A call without an answer may have arrived, and each that arrives is billed: so it is looked for first, twice, as it may
            // still be on its way.
            let step = match std::mem::take(&mut is_new) {
                true => wire::create(&self.line, &file, &record.name).await.map(Some),
                false => wire::find(&self.line, &record.name).await,
            };
            match step {
                Ok(Some(batch)) => record.submitted(&batch).map_err(unnoted)?,
                Ok(None) if was_missing => is_new = true,
                Ok(None) => {
                    was_missing = true;
                    tokio::time::sleep(wire::LONG_PAUSE).await;
                }
                Err(Fault::Lasting(words)) => return Err(Fault::Lasting(words)).inspect_err(|_| record.forget()),
                Err(fault) => self.pause(record, fault).await,
            }
        };
        let results = self.results(record, &batch).await?;
        for (address, answer) in results {
            left.remove(&address);
            self.keep(&address, answer)?;
        }
        record.forget();
        Ok(())
    }

    /// All that a batch's files hold, once it is over.
    async fn results(&self, record: &Record, batch: &str) -> Result<Vec<([u8; 32], Answer)>, Fault> {
        let mut pause = self.pace.poll;
        loop {
            match wire::look(&self.line, batch).await {
                Ok(seen) if seen.is_refused() => return Err(seen.fault()).inspect_err(|_| record.forget()),
                Ok(seen) if seen.is_over() => match self.fetch(&seen).await {
                    Err(fault) if !matches!(fault, Fault::Lasting(_)) => self.pause(record, fault).await,
                    fetched => return fetched,
                },
                Ok(_) => tokio::time::sleep(pause).await,
                Err(Fault::Lasting(words)) => return Err(Fault::Lasting(words)),
                Err(fault) => self.pause(record, fault).await,
            }
            pause = (pause * 3 / 2).min(wire::LONGEST_PAUSE.max(self.pace.poll));
        }
    }

    async fn fetch(&self, batch: &wire::Batch) -> Result<Vec<([u8; 32], Answer)>, Fault> {
        let mut answers = Vec::new();
        for file in batch.files() {
            answers.extend(results::read(&wire::content(&self.line, file).await?)?);
        }
        Ok(answers)
    }

    /// Tells those who wait why it takes longer: they may lose their patience, the batch goes on.
    async fn pause(&self, record: &Record, fault: Fault) {
        record.requests.iter().for_each(|address| self.hand_out(address, Err(fault.clone())));
        tokio::time::sleep(self.pace.poll.max(wire::LONG_PAUSE)).await;
    }

    /// Kept at once: the batch is forgotten soon, and perhaps nobody waits.
    fn keep(&self, address: &[u8; 32], answer: Answer) -> Result<(), Fault> {
        let answer = answer.map(|raw| self.line.without_key(raw));
        if let Ok(raw) = &answer
            && envelope::parse(raw).is_ok()
        {
            self.replies.put(address, raw).map_err(|error| Fault::Lasting(format!("cannot keep replies: {error}")))?;
        }
        self.settle(address, answer);
        Ok(())
    }

    /// It is in no batch any more: whoever asks again, because the answer is of no use, asks anew.
    fn settle(&self, address: &[u8; 32], answer: Answer) {
        self.desk().under_way.remove(address);
        self.hand_out(address, answer);
    }

    fn hand_out(&self, address: &[u8; 32], answer: Answer) {
        if let Some(waiting) = self.desk().waiting.remove(address) {
            _ = waiting.send(answer);
        }
    }

    /// The requests and lines of the next batch.
    fn take_gathered(&self) -> (Vec<[u8; 32]>, String) {
        let mut desk = self.desk();
        let (mut requests, mut lines) = (Vec::new(), String::new());
        let mut left = std::mem::take(&mut desk.gathered).into_iter();
        for (address, line) in left.by_ref() {
            requests.push(address);
            lines.push_str(&line);
            if requests.len() >= self.pace.requests_max || lines.len() >= BYTES_MAX {
                break;
            }
        }
        desk.gathered = left.collect();
        desk.gathered_bytes -= lines.len();
        // Until the batch is noted nobody may put them into another.
        desk.under_way.extend(&requests);
        (requests, lines)
    }

    fn is_full(&self) -> bool {
        let desk = self.desk();
        desk.gathered.len() >= self.pace.requests_max || desk.gathered_bytes >= BYTES_MAX
    }

    fn begin(&self) {
        let (requests, lines) = self.take_gathered();
        match self.journal.begin(&requests) {
            Ok(record) => self.carry(record, Some(lines)),
            Err(error) => requests.iter().for_each(|address| self.hand_out(address, Err(unnoted_ref(&error)))),
        }
    }
}

/// Makes batches of what comes, as long as anyone may ask.
async fn gather(batches: Weak<Batches>) {
    while let Some(us) = batches.upgrade() {
        if us.is_full() {
            us.begin();
            continue;
        }
        // Looks up now and then whether there is still anyone.
        let has_come = tokio::time::timeout(GATHER, us.came.notified()).await.is_ok();
        if !has_come && !us.desk().gathered.is_empty() {
            us.begin();
        }
    }
}

/// A batch may expire before its turn comes: then the request goes into another.
fn unanswered(why: &str) -> Fault {
    Fault::Refused { message: format!("a batch without an answer to this request: {why}"), retry_after_ms: None }
}

fn passing(message: &str) -> Fault {
    Fault::Passing { message: message.to_string(), retry_after_ms: None }
}

fn unnoted(error: std::io::Error) -> Fault {
    unnoted_ref(&error)
}

fn unnoted_ref(error: &std::io::Error) -> Fault {
    Fault::Lasting(format!("cannot note a batch in the cache folder: {error}"))
}
