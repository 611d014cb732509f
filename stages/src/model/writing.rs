//! Text while its tokens come: whole characters only, and no further than the first stop string.

use super::Tokenizer;
use crate::failure::Result;

/// What stands for bytes that are no character yet, and maybe never will be.
const UNFINISHED: char = char::REPLACEMENT_CHARACTER;
/// A character has four bytes at most, so three can be there without it.
const UNFINISHED_MAX: usize = 3;

/// The text of one answer as it grows.
pub struct Writing<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a [String],
    /// Tokens whose text may still change, after those that the last whole characters came from: some tokenizers write a token
    /// one way at the beginning of a text and another way within.
    window: Vec<u32>,
    /// Tokens at the window's beginning that are there as context only.
    context: usize,
    /// Bytes of the window's text that `text` has.
    told: usize,
    text: String,
    /// Bytes of `text` that were taken.
    taken: usize,
    stopped: bool,
}

impl<'a> Writing<'a> {
    /// `stops` are not empty texts.
    pub fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Writing<'a> {
        let (window, text) = (Vec::new(), String::new());
        Writing { tokenizer, stops, window, context: 0, told: 0, text, taken: 0, stopped: false }
    }

    /// Adds a token. Whether a stop string has come; the text ends before it.
    pub fn push(&mut self, token: u32) -> Result<bool> {
        self.window.push(token);
        let now = self.tokenizer.decode(&self.window, false)?;
        let whole = whole(&now);
        let is_settled = whole.len() == now.len();
        if let Some(more) = whole.get(self.told..) {
            let before = self.text.len();
            self.text.push_str(more);
            self.told = whole.len();
            if is_settled && !more.is_empty() {
                self.move_window()?;
            }
            self.look_for_stops(before);
        }
        Ok(self.stopped)
    }

    /// What has just become text is the context of what comes.
    fn move_window(&mut self) -> Result<()> {
        self.window.drain(..self.context);
        self.context = self.window.len();
        self.told = self.tokenizer.decode(&self.window, false)?.len();
        Ok(())
    }

    /// In what is new from byte `from` on, and what of a stop string may stand before it.
    fn look_for_stops(&mut self, from: usize) {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.text.floor_char_boundary(from.saturating_sub(longest));
        let found = self.stops.iter().filter_map(|stop| self.text[from..].find(stop.as_str())).min();
        if let Some(place) = found {
            self.text.truncate(from + place);
            self.stopped = true;
        }
    }

    /// No more tokens will come: bytes that are no character are text now.
    pub fn finish(&mut self) -> Result<()> {
        if !self.stopped {
            let before = self.text.len();
            let now = self.tokenizer.decode(&self.window, false)?;
            self.text.push_str(now.get(self.told..).unwrap_or_default());
            self.told = now.len();
            self.look_for_stops(before);
        }
        self.stops = &[];
        Ok(())
    }

    /// What was not taken yet and will stay whatever comes: nothing that may be the beginning of a stop string.
    pub fn take(&mut self) -> &str {
        let held = if self.stopped { 0 } else { self.beginning_of_a_stop() };
        let from = std::mem::replace(&mut self.taken, self.text.len() - held);
        &self.text[from..self.taken]
    }

    /// Bytes at the text's end that a stop string begins with.
    fn beginning_of_a_stop(&self) -> usize {
        let begins = |stop: &String| {
            let parts = stop.char_indices().map(|(length, _)| length).filter(|&length| length > 0);
            parts.filter(|&length| self.text.ends_with(&stop[..length])).max()
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }

    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// All of it so far.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Without what may become a character.
fn whole(text: &str) -> &str {
    let unfinished = text.chars().rev().take(UNFINISHED_MAX).take_while(|&character| character == UNFINISHED).count();
    &text[..text.len() - unfinished * UNFINISHED.len_utf8()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tokenizer::Training;
    use proptest::prelude::*;

    fn tokenizer() -> Tokenizer {
        let corpus = ["one two three four", "stop here", "two three", "über dé"];
        Tokenizer::train(Training::Bpe, 300, corpus.into_iter().chain(corpus), &[]).unwrap()
    }

    /// The pieces that were told one after the other, and whether it stopped.
    fn told(tokens: &[u32], stops: &[&str]) -> (Vec<String>, bool) {
        let (tokenizer, stops) = (tokenizer(), stops.iter().map(|stop| stop.to_string()).collect::<Vec<_>>());
        let mut writing = Writing::new(&tokenizer, &stops);
        let mut pieces = Vec::new();
        let mut stopped = false;
        for &token in tokens {
            stopped = writing.push(token).unwrap();
            pieces.push(writing.take().to_string());
            if stopped {
                break;
            }
        }
        writing.finish().unwrap();
        pieces.push(writing.take().to_string());
        assert_eq!(pieces.concat(), writing.text());
        (pieces, stopped)
    }

    #[test]
    fn a_stop_string_is_found_over_the_borders_of_tokens() {
        let check = |text: &str, stops: &[&str], expected: &str, stops_there: bool| {
            let (pieces, stopped) = told(&tokenizer().encode(text).unwrap(), stops);
            assert_eq!((pieces.concat().as_str(), stopped), (expected, stops_there), "{text:?} {stops:?}");
        };
        check("one two three four", &["o th"], "one tw", true);
        check("one two three four", &["x", "four", "three"], "one two ", true);
        check("one two three four", &["fourth"], "one two three four", false);
        check("one two", &["one"], "", true);
        check("aéb", &["éb"], "a", true);
        check("a\u{1F600}b", &["\u{1F600}"], "a", true);
        check("ababac", &["abac"], "ab", true);
    }

    #[test]
    fn what_may_become_a_stop_string_is_held_back() {
        let (pieces, _) = told(&tokenizer().encode("q ## q").unwrap(), &["##!"]);
        assert_eq!(pieces.concat(), "q ## q");
        let tells_early = pieces.iter().any(|piece| piece.ends_with('#') && !piece.contains(" q"));
        assert!(!tells_early, "{pieces:?}");
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = tokenizer();
        let tokens = tokenizer.encode("日本\u{1F600}é").unwrap();
        assert!(tokens.len() > 8, "several tokens a character");
        let (pieces, _) = told(&tokens, &[]);
        assert_eq!(
            pieces.into_iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>(),
            ["日", "本", "\u{1F600}", "é"]
        );
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_text(tokens in prop::collection::vec(0u32..300, 0..60)) {
            let tokenizer = tokenizer();
            let tokens: Vec<u32> = tokens.into_iter().filter(|&token| (token as usize) < tokenizer.vocab_size()).collect();
            let (pieces, _) = told(&tokens, &[]);
            prop_assert_eq!(pieces.concat(), tokenizer.decode(&tokens, false).unwrap());
        }
    }
}
