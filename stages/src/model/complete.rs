//! Text in, text out: a model folder that answers prompts in batches.

use super::chat::Message;
use super::generate::{Finish, Request, Sampling, generate};
use super::{Decoder, ModelFolder};
use crate::draw::Draw;
use crate::failure::{Failure, Result};
use kernels::Device;
use serde::Serialize;
use std::path::Path;

/// An opened model, ready to write.
pub struct Completer {
    folder: ModelFolder,
    decoder: Decoder,
}

/// What a model is to go on from.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// As it is, without a chat template.
    Raw(String),
    /// Through the model's chat template, where it has one.
    User(String),
    Messages(Vec<Message>),
}

/// A finished text with what it was made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Completion {
    /// The question's text; of several messages what the chat template made of them.
    pub prompt: String,
    /// Without special tokens.
    pub text: String,
    /// The ending token included.
    pub token_ids: Vec<u32>,
    /// One a token, natural logarithm.
    pub logprobs: Vec<f32>,
    pub finish_reason: Finish,
}

impl Completer {
    /// Opens a folder in Hugging Face layout.
    pub fn open(device: &Device, folder: &Path) -> Result<Completer> {
        let folder = ModelFolder::load(folder)?;
        let decoder = Decoder::new(device, &folder.config, &folder.weights);
        Ok(Completer { folder, decoder })
    }

    /// Answers in the order of the questions. `first` is the place of the first among all that are asked: it and `seed` alone
    /// decide the draws, so batches may be cut anywhere.
    pub fn complete(
        &self,
        questions: &[Question],
        first: u64,
        sampling: &Sampling,
        seed: u64,
    ) -> Result<Vec<Completion>> {
        let texts: Vec<String> = questions.iter().map(|question| self.rendered(question)).collect::<Result<_>>()?;
        let tokens: Vec<Vec<u32>> =
            texts.iter().map(|text| self.folder.tokenizer.encode(text)).collect::<Result<_>>()?;
        let draw = Draw::new(seed, "complete");
        let requests: Vec<Request> =
            tokens.iter().zip(first..).map(|(prompt, place)| Request { prompt, seed: draw.at(place).bits() }).collect();
        let generations = generate(&self.decoder, &requests, sampling)?;
        let finished = questions.iter().zip(texts).zip(generations).map(|((question, rendered), generation)| {
            let prompt = match question {
                Question::Raw(text) | Question::User(text) => text.clone(),
                Question::Messages(_) => rendered,
            };
            let text = self.folder.tokenizer.decode(&generation.tokens, false)?;
            let (token_ids, logprobs) = (generation.tokens, generation.logprobs);
            Ok(Completion { prompt, text, token_ids, logprobs, finish_reason: generation.finish })
        });
        finished.collect()
    }

    fn rendered(&self, question: &Question) -> Result<String> {
        let template = self.folder.template.as_ref();
        match (question, template) {
            (Question::Raw(text), _) | (Question::User(text), None) => Ok(text.clone()),
            (Question::User(text), Some(template)) => template.prompt(text),
            (Question::Messages(messages), Some(template)) => template.render(messages, true),
            (Question::Messages(_), None) => {
                Err(Failure::recipe("this model has no chat template for `messages`; give it a `prompt`"))
            }
        }
    }
}
