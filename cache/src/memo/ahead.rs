//! Replies read before they are asked for: those of one node lie near each other in a log, and so does what is asked for next.

use super::record::Entry;
use super::segment::{Segment, reply_in};

/// Read at once. Also how far behind the last reply the next may lie to count as near.
const BLOCK_BYTES: u64 = 256 << 10;

/// Part of one log.
#[derive(Default)]
pub struct Ahead {
    /// The log's number.
    segment: u32,
    start: u64,
    bytes: Vec<u8>,
    /// Where the last reply was.
    last: u64,
}

impl Ahead {
    /// `None` where only the log itself can tell: no intact record is here. Its writer may not have been through with it.
    pub fn read(&mut self, number: u32, segment: &Segment, entry: &Entry) -> Option<Vec<u8>> {
        let is_near = self.segment == number && entry.offset.abs_diff(self.last) < BLOCK_BYTES;
        (self.segment, self.last) = (number, entry.offset);
        if !is_near {
            self.bytes.clear();
            return None;
        }
        if self.record(entry).is_none() {
            self.fill(segment, entry.offset);
        }
        self.record(entry).and_then(|record| reply_in(record, entry))
    }

    fn record(&self, entry: &Entry) -> Option<&[u8]> {
        let start = usize::try_from(entry.offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(start..start + entry.bytes as usize)
    }

    /// With some bytes before it: replies lie in the order in which they came, not in that of their rows.
    fn fill(&mut self, segment: &Segment, offset: u64) {
        self.start = offset.saturating_sub(BLOCK_BYTES / 4);
        self.bytes.resize(BLOCK_BYTES as usize, 0);
        let read = segment.read_at(&mut self.bytes, self.start).unwrap_or(0);
        self.bytes.truncate(read);
    }
}
