//! Text in, text out: a model folder that answers prompts in batches or aloud, and scores what others have written.

use super::chat::{Clock, Message, Variables};
use super::generate::{Finish, Generation, Request, Room, Sampling, check_prompt, generate_watched};
use super::writing::Writing;
use super::{ChatTemplate, Decoder, ModelFolder, Tokenizer};
use crate::draw::Draw;
use crate::failure::{Failure, Result};
use kernels::Device;
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

mod score;

/// An opened model, ready to write.
pub struct Completer {
    folder: ModelFolder,
    template: ChatTemplate,
    clock: Clock,
    decoder: Decoder,
}

/// What a model is to go on from.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// As it is, after what the tokenizer puts before every text, unless it begins so itself; without a chat template.
    Raw(String),
    /// Through the model's chat template; a model that has none gets a line a message.
    User(String),
    Messages(Vec<Message>),
}

/// A question as the model reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The question's text; of several messages what the chat template made of them.
    pub text: String,
    pub tokens: Vec<u32>,
}

/// How answers are to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub sampling: Sampling,
    /// Texts before which an answer ends; none of them empty.
    pub stop: Vec<String>,
    pub seed: u64,
    /// Answers to each prompt.
    pub samples: usize,
}

/// A finished text with what it was made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Completion {
    pub prompt: String,
    /// Without special tokens; ends before a stop string.
    pub text: String,
    /// All that were drawn: the ending token included, and the tokens of a stop string up to the one that completed it.
    pub token_ids: Vec<u32>,
    /// One a token, natural logarithm.
    pub logprobs: Vec<f32>,
    pub finish_reason: Finish,
}

impl Completer {
    /// Opens a folder in Hugging Face layout. `clock` is what its chat template takes for now.
    pub fn open(device: &Device, folder: &Path, clock: Clock) -> Result<Completer> {
        let folder = ModelFolder::load(folder)?;
        let (decoder, template) = (Decoder::new(device, &folder.config, &folder.weights), folder.template_or_plain()?);
        // The decoder has them; a second copy would only take memory.
        let folder = ModelFolder { weights: Vec::new(), ..folder };
        Ok(Completer { folder, template, clock, decoder })
    }

    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// What the model reads for a question; an error where it is too long for it.
    pub fn prompt(&self, question: &Question) -> Result<Prompt> {
        let tokenizer = &self.folder.tokenizer;
        let prompt = match question {
            Question::Raw(text) => {
                let (bare, whole) = (tokenizer.encode(text)?, tokenizer.encode_whole(text)?);
                // A text that has its beginning already, such as one that a template made, gets no second one.
                let tokens = if bare.first() == whole.first() { bare } else { whole };
                Prompt { text: text.clone(), tokens }
            }
            Question::User(text) => {
                let rendered = self.rendered(&[Message::user(text)])?;
                Prompt { text: text.clone(), tokens: tokenizer.encode(&rendered)? }
            }
            Question::Messages(messages) => {
                let rendered = self.rendered(messages)?;
                Prompt { tokens: tokenizer.encode(&rendered)?, text: rendered }
            }
        };
        check_prompt(&self.decoder, prompt.tokens.len())?;
        Ok(prompt)
    }

    fn rendered(&self, messages: &[Message]) -> Result<String> {
        let variables = Variables { clock: self.clock, ..Variables::default() };
        self.template.render_with(&json!(messages), true, &variables)
    }

    /// Answers in the order of the prompts, those to one prompt side by side. `first` is the place of the first prompt among all
    /// that are asked: it, the sample's number and the seed alone decide the draws, so batches may be cut anywhere.
    pub fn complete(&self, prompts: &[Prompt], first: u64, wanted: &Wanted) -> Result<Vec<Completion>> {
        let asked: Vec<(&Prompt, u64)> =
            prompts.iter().zip(first..).flat_map(|asked| vec![asked; wanted.samples]).collect();
        let samples = (0..wanted.samples as u64).cycle();
        let requests: Vec<Request> = asked
            .iter()
            .zip(samples)
            .map(|((prompt, place), sample)| Request {
                prompt: &prompt.tokens,
                seed: seed(wanted.seed, *place, sample),
            })
            .collect();
        let written = self.write(&requests, wanted, None)?;
        Ok(asked.iter().zip(written).map(|((prompt, _), written)| completion(prompt, written)).collect())
    }

    /// One answer, of which `hear` gets every piece as soon as it is sure, never a part of a character; it ends when `hear` says
    /// false. The same tokens as [`Completer::complete`] gives for the prompt at that place.
    pub fn complete_aloud(
        &self,
        prompt: &Prompt,
        place: u64,
        wanted: &Wanted,
        hear: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Completion> {
        let request = Request { prompt: &prompt.tokens, seed: seed(wanted.seed, place, 0) };
        let mut written = self.write(&[request], wanted, Some(&|_, piece| hear(piece)))?;
        Ok(completion(prompt, written.remove(0)))
    }

    fn write(&self, requests: &[Request], wanted: &Wanted, hear: Option<&Hear>) -> Result<Vec<(Generation, String)>> {
        write(&self.decoder, &self.folder.tokenizer, requests, (&wanted.sampling, &wanted.stop), hear)
    }
}

/// Gets the pieces of each request's text as they come, by the request's place; false ends that answer.
pub type Hear<'a> = dyn Fn(usize, &str) -> bool + Sync + 'a;

/// Generations and their texts, which end before any of `stops`.
pub fn write(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    requests: &[Request],
    (sampling, stops): (&Sampling, &[String]),
    hear: Option<&Hear>,
) -> Result<Vec<(Generation, String)>> {
    let room = Room::default();
    if stops.is_empty() && hear.is_none() {
        let generations = generate_watched(decoder, requests, sampling, &room, &|_, _| None)?;
        let with_text =
            |generation: Generation| tokenizer.decode(&generation.tokens, false).map(|text| (generation, text));
        return generations.into_iter().map(with_text).collect();
    }
    let desk = Desk::new(tokenizer, requests.len(), stops, hear.unwrap_or(&|_, _| true));
    let generations =
        generate_watched(decoder, requests, sampling, &room, &|request, generation| desk.drawn(request, generation))?;
    desk.finish(generations)
}

/// The texts under way, each by whichever thread generates it.
struct Desk<'a> {
    tokenizer: &'a Tokenizer,
    writings: Vec<Mutex<Writing<'a>>>,
    hear: &'a Hear<'a>,
    failed: Mutex<Option<Failure>>,
}

impl<'a> Desk<'a> {
    fn new(tokenizer: &'a Tokenizer, count: usize, stops: &'a [String], hear: &'a Hear<'a>) -> Desk<'a> {
        let writings = (0..count).map(|_| Mutex::new(Writing::new(tokenizer, stops))).collect();
        Desk { tokenizer, writings, hear, failed: Mutex::new(None) }
    }

    fn drawn(&self, request: usize, generation: &Generation) -> Option<Finish> {
        let mut writing = self.writings[request].lock().unwrap_or_else(PoisonError::into_inner);
        let token = *generation.tokens.last().expect("a token has just been drawn");
        match writing.push(token) {
            Ok(stopped) => {
                let goes_on = (self.hear)(request, writing.take());
                stopped.then_some(Finish::Stop).or((!goes_on).then_some(Finish::Interrupted))
            }
            Err(failure) => {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                Some(Finish::Interrupted)
            }
        }
    }

    fn finish(self, generations: Vec<Generation>) -> Result<Vec<(Generation, String)>> {
        if let Some(failure) = self.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(failure);
        }
        let finished =
            generations.into_iter().zip(self.writings).enumerate().map(|(request, (generation, writing))| {
                let mut writing = writing.into_inner().unwrap_or_else(PoisonError::into_inner);
                writing.finish()?;
                (self.hear)(request, writing.take());
                let text = if writing.has_stopped() {
                    writing.text().to_string()
                } else {
                    self.tokenizer.decode(&generation.tokens, false)?
                };
                Ok((generation, text))
            });
        finished.collect()
    }
}

fn completion(prompt: &Prompt, (generation, text): (Generation, String)) -> Completion {
    let Generation { tokens, logprobs, finish } = generation;
    Completion { prompt: prompt.text.clone(), text, token_ids: tokens, logprobs, finish_reason: finish }
}

/// A first sample is the only one's, however many are wanted.
fn seed(seed: u64, place: u64, sample: u64) -> u64 {
    let draw = Draw::new(seed, "complete").at(place);
    if sample == 0 { draw.bits() } else { draw.at(sample).bits() }
}
