//! Shapes that several operations share: attention heads, and documents laid end to end.

use std::ops::Range;

use crate::{Buffer, Stream, View};

/// Heads of grouped-query attention; a row of packed queries, keys and values is `q[H·D] | k[K·D] | v[K·D]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// H, a multiple of `key_value`.
    pub query: usize,
    /// K: each serves `query / key_value` query heads.
    pub key_value: usize,
    /// D, even.
    pub width: usize,
}

impl Heads {
    /// (H + 2K)·D, the length of a packed row.
    pub fn packed_width(&self) -> usize {
        (self.query + 2 * self.key_value) * self.width
    }

    /// H·D, the length of an output row.
    pub fn query_width(&self) -> usize {
        self.query * self.width
    }

    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        assert!(self.key_value > 0 && self.query.is_multiple_of(self.key_value), "heads do not divide: {self:?}");
        self.query / self.key_value
    }
}

/// Documents of different lengths laid end to end in T rows; built once a batch, known to host and device.
#[derive(Debug)]
pub struct Segments {
    bounds: Vec<usize>,
    offsets: Buffer<u32>,
}

impl Segments {
    /// Documents of these lengths, in this order. A length of zero is allowed.
    pub fn new(stream: &Stream, lengths: &[usize]) -> Segments {
        let mut bounds = Vec::with_capacity(lengths.len() + 1);
        bounds.push(0);
        for length in lengths {
            bounds.push(bounds[bounds.len() - 1] + length);
        }
        let offsets: Vec<u32> = bounds.iter().map(|&bound| u32::try_from(bound).expect("too many tokens")).collect();
        Segments { bounds, offsets: stream.upload(&offsets) }
    }

    /// How many documents.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// T, the rows of all documents.
    pub fn tokens(&self) -> usize {
        self.bounds[self.len()]
    }

    /// The rows of one document.
    pub fn range(&self, document: usize) -> Range<usize> {
        self.bounds[document]..self.bounds[document + 1]
    }

    /// The length of the longest document.
    pub fn longest(&self) -> usize {
        self.bounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// `[documents + 1]` first rows, on the device.
    pub fn offsets(&self) -> View<'_, u32> {
        self.offsets.view()
    }

    /// Each row's position in its document, `[T]`, as rotary embedding wants it.
    pub fn positions(&self) -> Vec<u32> {
        (0..self.len()).flat_map(|document| 0..self.range(document).len() as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn segments_know_their_rows() {
        let stream = Device::cpu(Some(1)).stream();
        let segments = Segments::new(&stream, &[2, 0, 3]);
        assert_eq!((segments.len(), segments.tokens(), segments.longest()), (3, 5, 3));
        assert_eq!((segments.range(0), segments.range(1), segments.range(2)), (0..2, 2..2, 2..5));
        assert_eq!(stream.download(segments.offsets()), [0, 2, 2, 5]);
        assert_eq!(segments.positions(), [0, 1, 0, 1, 2]);
    }
}
