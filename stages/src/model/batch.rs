//! Documents of different lengths laid end to end, as the decoder reads them; no padding anywhere.

use crate::train::batches::Example;
use kernels::{Buffer, Segments, Stream, View};

/// T tokens to read and N rows of them to look at: those that predict the examples' targets, in the examples' order.
pub struct Batch {
    pub segments: Segments,
    tokens: Buffer<u32>,
    positions: Buffer<u32>,
    rows: Buffer<u32>,
    targets: Buffer<u32>,
}

impl Batch {
    /// An example's last token is only a target: nothing is predicted from it, so it is not read.
    pub fn of_examples<'a>(stream: &Stream, examples: impl Iterator<Item = &'a Example>) -> Batch {
        let (mut lengths, mut tokens, mut rows, mut targets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for Example { tokens: text, prompt } in examples {
            assert!(0 < *prompt && *prompt < text.len(), "an example needs a prompt and a target");
            let read = text.len() - 1;
            let start = tokens.len() as u32;
            rows.extend(*prompt as u32 - 1 + start..read as u32 + start);
            targets.extend_from_slice(&text[*prompt..]);
            tokens.extend_from_slice(&text[..read]);
            lengths.push(read);
        }
        Batch::new(stream, &lengths, &tokens, &rows, &targets)
    }

    /// Texts of which only the last row is looked at: prompts to go on from.
    pub fn of_prompts(stream: &Stream, prompts: &[&[u32]]) -> Batch {
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let mut end = 0;
        let last = |length: &usize| {
            assert!(*length > 0, "a prompt needs a token");
            end += *length as u32;
            end - 1
        };
        let rows: Vec<u32> = lengths.iter().map(last).collect();
        Batch::new(stream, &lengths, &prompts.concat(), &rows, &[])
    }

    fn new(stream: &Stream, lengths: &[usize], tokens: &[u32], rows: &[u32], targets: &[u32]) -> Batch {
        let segments = Segments::new(stream, lengths);
        let positions = stream.upload(&segments.positions());
        let (tokens, rows, targets) = (stream.upload(tokens), stream.upload(rows), stream.upload(targets));
        Batch { segments, tokens, positions, rows, targets }
    }

    /// How many tokens are read, T.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many rows are looked at, N.
    pub fn chosen(&self) -> usize {
        self.rows.len()
    }

    /// `[T]` token ids.
    pub fn tokens(&self) -> View<'_, u32> {
        self.tokens.view()
    }

    /// `[T]` places in their documents.
    pub fn positions(&self) -> View<'_, u32> {
        self.positions.view()
    }

    /// `[N]` rows of T.
    pub fn rows(&self) -> View<'_, u32> {
        self.rows.view()
    }

    /// `[N]` what the chosen rows predict.
    pub fn targets(&self) -> View<'_, u32> {
        self.targets.view()
    }
}
