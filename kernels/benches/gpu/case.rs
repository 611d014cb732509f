//! One kernel at one shape: what it is called, what its work needs at least, and how to run it.

use kernels::{Buffer, Element, Stream, philox};

/// Ceilings of an H200, measured: dense bf16 products, and device memory read or written.
const OPERATIONS_PER_SECOND: f64 = 790e12;
const BYTES_PER_SECOND: f64 = 4.3e12;

/// The cases of one operation.
pub type Make = fn(&Sizes) -> Vec<Case>;

/// Puts the work on a stream once more.
pub type Run = Box<dyn FnMut(&Stream)>;

pub struct Case {
    /// The operation, and after a comma what tells its cases apart.
    pub name: String,
    /// Sizes by name, as the peers need them.
    pub sizes: Vec<(&'static str, usize)>,
    /// Products and sums of dense products.
    pub operations: f64,
    /// What must be read and written once.
    pub bytes: f64,
    /// Allocates, so that memory holds one case at a time.
    pub prepare: Box<dyn FnOnce(&Stream) -> Run>,
}

impl Case {
    /// The larger of what the operations and the bytes take at the device's ceilings.
    pub fn floor_milliseconds(&self) -> f64 {
        1e3 * (self.operations / OPERATIONS_PER_SECOND).max(self.bytes / BYTES_PER_SECOND)
    }

    /// What is known before it runs, as the inside of a JSON object; names hold no quotes.
    pub fn json(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(|(name, size)| format!("\"{name}\": {size}")).collect();
        let (name, floor) = (&self.name, self.floor_milliseconds());
        format!("\"name\": \"{name}\", \"sizes\": {{{}}}, \"floor_milliseconds\": {floor}", sizes.join(", "))
    }
}

/// Heads and widths of a decoder, for what depends on them.
#[derive(Clone, Copy)]
pub struct Decoder {
    pub name: &'static str,
    pub width: usize,
    pub feed_forward: usize,
    pub query_heads: usize,
    pub key_value_heads: usize,
    pub head_width: usize,
    pub vocabulary: usize,
}

/// Shapes of a run.
pub struct Sizes {
    pub decoders: &'static [Decoder],
    /// Rows of row-wise operations.
    pub rows: usize,
    /// Documents and tokens of each, for attention.
    pub documents: usize,
    pub document_tokens: usize,
    /// Rows of the head.
    pub scored: usize,
    /// Sequences that are generated side by side, and tokens of each so far.
    pub generated: usize,
    pub context: usize,
    pub parameters: usize,
    /// Rows and steps of advantages.
    pub episodes: usize,
    pub steps: usize,
}

impl Sizes {
    /// The decoder whose rows are the widest.
    pub fn largest(&self) -> &'static Decoder {
        &self.decoders[self.decoders.len() - 1]
    }

    /// Qwen2.5-0.5B's and -7B's, and what the floors in `docs/kernels.md` are for.
    pub const FULL: Sizes = Sizes {
        decoders: &[
            Decoder {
                name: "0.5B",
                width: 896,
                feed_forward: 4864,
                query_heads: 14,
                key_value_heads: 2,
                head_width: 64,
                vocabulary: 151_936,
            },
            Decoder {
                name: "7B",
                width: 3584,
                feed_forward: 18_944,
                query_heads: 28,
                key_value_heads: 4,
                head_width: 128,
                vocabulary: 152_064,
            },
        ],
        rows: 16_384,
        documents: 4,
        document_tokens: 4096,
        scored: 8192,
        generated: 256,
        context: 1024,
        parameters: 494_032_768,
        episodes: 512,
        steps: 1024,
    };

    /// Small enough for an emulated device: whether everything runs, not how fast.
    pub const TINY: Sizes = Sizes {
        decoders: &[Decoder {
            name: "tiny",
            width: 48,
            feed_forward: 40,
            query_heads: 4,
            key_value_heads: 2,
            head_width: 24,
            vocabulary: 70,
        }],
        rows: 9,
        documents: 2,
        document_tokens: 11,
        scored: 9,
        generated: 3,
        context: 20,
        parameters: 1000,
        episodes: 3,
        steps: 40,
    };
}

/// Numbers in [-0.5, 0.5), a million of them over and over.
pub fn random(stream: &Stream, len: usize) -> Buffer<f32> {
    random_of(stream, len, |value| value)
}

/// The same numbers in another type.
pub fn random_of<T: Element>(stream: &Stream, len: usize, of: impl Fn(f32) -> T) -> Buffer<T> {
    const PERIOD: usize = 1 << 20;
    let value = |index: usize| of(philox::uniform(1, index as u64) as f32 - 0.5);
    let values: Vec<T> = (0..len.min(PERIOD)).map(value).collect();
    let (period, mut buffer) = (stream.upload(&values), stream.uninit(len));
    for first in (0..len).step_by(PERIOD) {
        let part = PERIOD.min(len - first);
        stream.copy(period.slice(0..part), buffer.slice_mut(first..first + part));
    }
    buffer
}
