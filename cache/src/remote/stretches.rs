//! Stretches of logs in a shared store: listed, sent, and made up for by hand.

use super::report::Moved;
use super::stretch::{Coverage, Stretch, seal};
use super::tail::{Tail, logs_of};
use super::transfer::{Counter, each};
use super::{Put, Sharing, path_text};
use crate::error::Result;
use crate::memo::scan;
use crate::store::Store;

/// Nothing that we write comes near this; what does is not fetched into memory.
const LARGEST_OBJECT_BYTES: u64 = 1 << 30;

impl Sharing {
    /// What is there, by its names; what has no name of ours is passed over.
    pub(crate) fn stretches(&self) -> Result<Vec<Stretch>> {
        let listed = self.bucket().list(&path_text(&self.layout().replies()))?;
        let sound = listed.into_iter().filter(|(_, bytes)| *bytes <= LARGEST_OBJECT_BYTES);
        Ok(sound.filter_map(|(name, _)| name.parse().ok()).collect())
    }

    pub(crate) fn stretch_path(&self, stretch: &Stretch) -> String {
        format!("{}/{stretch}", path_text(&self.layout().replies()))
    }

    pub(crate) fn send_stretch(&self, stretch: &Stretch, records: &[u8]) -> Result<()> {
        self.mark()?;
        let bytes = seal(stretch, records, &self.options().trust.signer()?);
        self.bucket().put(&self.stretch_path(stretch), &bytes, Put::Replace)?;
        let replies = scan(records, stretch.from).entries.len() as u64;
        self.tally().sent(Moved { replies, bytes: bytes.len() as u64, ..Moved::default() });
        Ok(())
    }
}

impl Store {
    /// Sends all replies that are kept here and not there yet.
    pub(crate) fn push_replies(&self, sharing: &Sharing, counter: &Counter) -> Result<()> {
        let mut there = Coverage::default();
        sharing.stretches()?.iter().for_each(|stretch| there.add(stretch));
        let logs = logs_of(&self.layout().replies())?;
        counter.expect(logs.len());
        each(&logs, |name| {
            let tail = Tail::of(&self.layout().reply_log(name), name, &there)?;
            let stretches = tail.stretches(&there);
            for stretch in &stretches {
                sharing.send_stretch(stretch, tail.records(stretch))?;
            }
            counter.done(stretches.iter().map(Stretch::bytes).sum());
            Ok(())
        })?;
        sharing.tally().replies_sent(None);
        Ok(())
    }

    /// Fetches all replies that are there and not here yet.
    pub(crate) fn pull_replies(&self) -> Result<()> {
        self.replies().map(drop)
    }
}
