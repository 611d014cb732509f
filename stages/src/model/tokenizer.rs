//! Text to token ids and back: reads any `tokenizer.json`, and trains small ones that can spell every text byte by byte.

use crate::failure::{Failure, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizer, Trainer};

/// Ends a text.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Open and close one message of a chat, as in Qwen2's templates.
pub const MESSAGE_START: &str = "<|im_start|>";
pub const MESSAGE_END: &str = "<|im_end|>";
const SPECIAL: [&str; 3] = [END_OF_TEXT, MESSAGE_START, MESSAGE_END];

/// Qwen2's way of cutting, since transformers cuts for every Qwen2 model that way, whatever `tokenizer.json` says: whole words
/// with the space or sign before them, single digits, runs of signs, line ends, other white space.
const PIECES: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// How a new tokenizer finds its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Training {
    /// Byte-pair merges (Sennrich 2016, on bytes).
    Bpe,
    /// The most frequent whole pieces of the corpus, and the merges that lead to them; hardly anything else is merged.
    Words,
}

/// A tokenizer and the very text of its `tokenizer.json`, so that saving gives the same bytes.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: String,
}

impl Tokenizer {
    /// Reads `tokenizer.json`; `place` names the file in errors.
    pub fn from_json(json: String, place: &str) -> Result<Tokenizer> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json.as_bytes())
            .map_err(|error| Failure::recipe(format!("`{place}` is no tokenizer: {error}")))?;
        // Files keep what their maker's last call asked for; transformers sets both anew for every call.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| refused("tokenizer", error))?;
        Ok(Tokenizer { inner, json })
    }

    /// Trains on `corpus`. `headings` become one token each wherever they occur; `size` bounds the whole vocabulary,
    /// of which 256 pieces are single bytes.
    pub fn train<'a>(
        training: Training,
        size: usize,
        corpus: impl Iterator<Item = &'a str>,
        headings: &[&str],
    ) -> Result<Tokenizer> {
        let least = 256 + SPECIAL.len() + headings.len();
        if size < least {
            return Err(Failure::recipe(format!(
                "a tokenizer of size `{size}` cannot spell every text: bytes and special tokens alone are `{least}`"
            )));
        }
        let bare = Tokenizer::assemble(Merges::default(), headings)?;
        match training {
            Training::Words => bare.with_words(corpus, size - least, headings),
            Training::Bpe => bare.with_merges(corpus, size - least, headings),
        }
    }

    pub fn json(&self) -> &str {
        &self.json
    }

    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// No special tokens are added; those spelt out in `text` are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        Ok(encoding.map_err(|error| refused("tokenizer", error))?.get_ids().to_vec())
    }

    /// A text by itself, with what the tokenizer puts around it, such as Llama's beginning: as transformers does by default.
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true);
        Ok(encoding.map_err(|error| refused("tokenizer", error))?.get_ids().to_vec())
    }

    /// `keep_special` keeps tokens such as `<|endoftext|>` in the text.
    pub fn decode(&self, ids: &[u32], keep_special: bool) -> Result<String> {
        let text = self.inner.decode(ids, !keep_special);
        text.map_err(|error| refused("decoder", error))
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    fn with_words<'a>(
        &self,
        corpus: impl Iterator<Item = &'a str>,
        room: usize,
        headings: &[&str],
    ) -> Result<Tokenizer> {
        let mut counts: HashMap<String, u64> = HashMap::new();
        for text in corpus {
            for piece in self.pieces(text)? {
                *counts.entry(piece).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().filter(|(piece, _)| piece.chars().nth(1).is_some()).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let words: Vec<String> = counts.into_iter().take(room).map(|(piece, _)| piece).collect();
        Tokenizer::assemble(most_words(&words, room)?, headings)
    }

    fn with_merges<'a>(
        &self,
        corpus: impl Iterator<Item = &'a str>,
        room: usize,
        headings: &[&str],
    ) -> Result<Tokenizer> {
        let pieces: Result<Vec<Vec<String>>> = corpus.map(|text| self.pieces(text)).collect();
        Tokenizer::assemble(Merges::learn(&pieces?.concat(), room, 2)?, headings)
    }

    /// What lies between the added tokens, cut by the pre-tokenizer and spelt in the byte alphabet.
    fn pieces(&self, text: &str) -> Result<Vec<String>> {
        let mut cut = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut cut).map_err(|error| refused("pre-tokenizer", error))?;
        }
        let splits = cut.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Ok(splits.into_iter().filter(|(_, _, tokens)| tokens.is_none()).map(|(piece, ..)| piece.to_string()).collect())
    }

    /// Ids: the 256 bytes, then what merges make, then special tokens, then headings.
    fn assemble(merges: Merges, headings: &[&str]) -> Result<Tokenizer> {
        let Merges { pieces, merges } = merges;
        let bytes_and_pieces = byte_alphabet().into_iter().chain(pieces);
        let vocabulary: serde_json::Map<_, _> =
            bytes_and_pieces.enumerate().map(|(id, piece)| (piece, json!(id))).collect();
        let added = SPECIAL.iter().map(|&token| (token, true)).chain(headings.iter().map(|&token| (token, false)));
        let added: Vec<Value> = added
            .enumerate()
            .map(|(index, (content, special))| added_token(vocabulary.len() + index, content, special))
            .collect();
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            ]},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocabulary, "merges": merges,
            },
        });
        let json = serde_json::to_string_pretty(&file).map_err(|error| Failure::Ourselves(error.to_string()))?;
        Tokenizer::from_json(json, "a trained tokenizer")
    }
}

/// Byte-pair merges in their order, and the pieces they make.
#[derive(Default)]
struct Merges {
    pieces: Vec<String>,
    merges: Vec<Value>,
}

impl Merges {
    /// Merges pairs that occur at least `count_min` times in `texts` (spelt in the byte alphabet) until there are `room` pieces.
    fn learn(texts: &[String], room: usize, count_min: u64) -> Result<Merges> {
        let alphabet = byte_alphabet();
        let mut trainer = BpeTrainer::builder()
            .vocab_size(alphabet.len() + room)
            .min_frequency(count_min)
            .show_progress(false)
            .initial_alphabet(alphabet.iter().flat_map(|piece| piece.chars()).collect())
            .build();
        let mut model = BPE::default();
        let failed = |error| refused("byte-pair training", error);
        trainer.feed(texts.iter(), |text| Ok(vec![text.to_string()])).map_err(failed)?;
        trainer.train(&mut model).map_err(failed)?;
        let written = serde_json::to_value(&model).map_err(|error| failed(error.into()))?;
        let merges = written["merges"].as_array().cloned().unwrap_or_default();
        let made = |merge: &Value| format!("{}{}", merge[0].as_str().unwrap_or(""), merge[1].as_str().unwrap_or(""));
        let mut pieces: Vec<String> = merges.iter().map(made).collect();
        let mut seen = HashSet::new();
        pieces.retain(|piece| seen.insert(piece.clone()));
        Ok(Merges { pieces, merges })
    }
}

/// Merges for as many of `words` (most frequent first) as make at most `room` pieces, the steps on the way included.
fn most_words(words: &[String], room: usize) -> Result<Merges> {
    let (mut fits, mut excess) = (Merges::default(), words.len() + 1);
    let mut known = 0;
    while excess - known > 1 {
        let middle = (known + excess) / 2;
        let merges = Merges::learn(&words[..middle], room + 1, 1)?;
        if merges.pieces.len() <= room { (known, fits) = (middle, merges) } else { excess = middle }
    }
    Ok(fits)
}

fn added_token(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special,
    })
}

/// The byte-level alphabet of GPT-2: printable bytes stand for themselves, the others for characters from U+0100 on.
fn byte_alphabet() -> Vec<String> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = (256u32..).filter_map(char::from_u32);
    let character =
        |byte: u8| if printable(byte) { byte as char } else { others.next().expect("characters from U+0100 on") };
    (0..=255u8).map(character).map(String::from).collect()
}

fn refused(part: &str, error: tokenizers::Error) -> Failure {
    Failure::Ourselves(format!("the {part} refused a text: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CORPUS: [&str; 3] =
        ["Dose 455mg, tablets 90 70 60mg, max 4?", "## Thinking\n\n90*3 185\nHmm, wait\n", "90*2 275\nDose max"];
    const HEADINGS: [&str; 2] = ["## Thinking\n\n", "\n\n## Final Response\n\n"];

    fn trained(training: Training) -> Tokenizer {
        Tokenizer::train(training, 320, CORPUS.into_iter(), &HEADINGS).unwrap()
    }

    #[test]
    fn words_and_headings_are_single_tokens_and_digits_stay_single() {
        let tokenizer = trained(Training::Words);
        let check = |text: &str, expected: &[&str]| {
            let ids = tokenizer.encode(text).unwrap();
            let pieces: Vec<_> = ids.iter().map(|&id| tokenizer.decode(&[id], true).unwrap()).collect();
            assert_eq!(pieces, expected, "{text:?}");
        };
        check("Dose 455mg,", &["Dose", " ", "4", "5", "5", "mg", ","]);
        check("## Thinking\n\nHmm, wait\n", &["## Thinking\n\n", "Hmm", ",", " wait", "\n"]);
        check(
            "4\n\n## Final Response\n\n121<|endoftext|>",
            &["4", "\n\n## Final Response\n\n", "1", "2", "1", "<|endoftext|>"],
        );
        check("zz", &["z", "z"]);
    }

    #[test]
    fn training_twice_gives_the_same_file_and_reading_it_the_same_ids() {
        for training in [Training::Words, Training::Bpe] {
            let tokenizer = trained(training);
            assert_eq!(tokenizer.json(), trained(training).json());
            let again = Tokenizer::from_json(tokenizer.json().to_string(), "tokenizer.json").unwrap();
            assert_eq!(again.encode(CORPUS[0]).unwrap(), tokenizer.encode(CORPUS[0]).unwrap());
            assert!(tokenizer.vocab_size() <= 320);
        }
    }

    #[test]
    fn merges_shorten_what_the_corpus_repeats() {
        let twice = CORPUS.into_iter().chain(CORPUS);
        let tokenizer = Tokenizer::train(Training::Bpe, 400, twice, &HEADINGS).unwrap();
        assert_eq!(tokenizer.encode("Dose tablets").unwrap().len(), 2);
        assert_eq!(tokenizer.encode("Dosed").unwrap().len(), 2, "what is new is spelt");
    }

    #[test]
    fn the_alphabet_is_the_libraries() {
        let ours: std::collections::HashSet<char> = byte_alphabet().iter().flat_map(|piece| piece.chars()).collect();
        let theirs = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert!(ours.len() == 256 && theirs.iter().all(|character| ours.contains(character)));
    }

    #[test]
    fn too_small_a_size_and_a_broken_file_are_refused() {
        let message = Tokenizer::train(Training::Words, 100, CORPUS.into_iter(), &[]).err().unwrap().to_string();
        assert!(message.contains("`100`") && message.contains("`259`"), "{message}");
        assert!(
            Tokenizer::from_json("{}".into(), "m/tokenizer.json")
                .err()
                .unwrap()
                .to_string()
                .contains("m/tokenizer.json")
        );
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in any::<String>(), spaced in "[ \\t\\r\\n a-c0-9.é*<|>#]{0,40}") {
            for training in [Training::Words, Training::Bpe] {
                let tokenizer = trained(training);
                for text in [&text, &spaced] {
                    prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(text).unwrap(), true).unwrap(), text);
                }
            }
        }
    }
}
