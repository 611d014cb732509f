//! Log-probabilities of given texts, by the forward pass of training.

use super::{Completer, Prompt};
use crate::failure::{Failure, Result};
use crate::model::batch::Batch;
use crate::model::heads;
use crate::model::workspace::{Purpose, Workspace};
use crate::train::batches::Example;

/// Tokens of a packed batch; a longer text is a batch of its own.
const BATCH_TOKENS: usize = 4_096;

impl Completer {
    /// A completion's tokens as they follow a prompt: nothing is put before or behind them.
    pub fn completion_tokens(&self, completion: &str) -> Result<Vec<u32>> {
        self.folder.tokenizer.encode(completion)
    }

    /// The text of given tokens, without special ones. Ids that the model does not have are an error.
    pub fn text_of(&self, tokens: &[u32]) -> Result<String> {
        self.folder.tokenizer.decode(tokens, false)
    }

    /// Whether the model can read both.
    pub fn check_completion(&self, prompt: &Prompt, tokens: &[u32]) -> Result<()> {
        let config = self.decoder.config();
        let (length, room) = (prompt.tokens.len() + tokens.len(), config.max_position_embeddings);
        if let Some(unknown) = tokens.iter().find(|&&token| token as usize >= config.vocab_size) {
            return Err(Failure::recipe(format!(
                "token id `{unknown}` is none of the model's: it has `{}`",
                config.vocab_size
            )));
        }
        // Nothing is predicted from the last one.
        if length > room + 1 {
            return Err(Failure::recipe(format!(
                "prompt and completion of together `{length}` tokens exceed the model's `{room}` positions"
            )));
        }
        Ok(())
    }

    /// log p of each token of each completion under softmax(logits / temperature), in packed batches. The bits are those that
    /// generation reports for the same tokens.
    pub fn score(&self, texts: &[(&Prompt, &[u32])], temperature: f32) -> Result<Vec<Vec<f32>>> {
        texts.iter().try_for_each(|(prompt, tokens)| self.check_completion(prompt, tokens))?;
        let mut workspace = Workspace::new(self.decoder.device().stream(), Purpose::Inference);
        let mut scores = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(batch_len(rest));
            scores.extend(self.score_batch(batch, temperature, &mut workspace));
            rest = after;
        }
        Ok(scores)
    }

    fn score_batch(&self, texts: &[(&Prompt, &[u32])], temperature: f32, workspace: &mut Workspace) -> Vec<Vec<f32>> {
        let is_something = |(_, tokens): &&(&Prompt, &[u32])| !tokens.is_empty();
        let examples: Vec<Example> =
            texts.iter().filter(is_something).map(|(prompt, tokens)| Example::new(&prompt.tokens, tokens)).collect();
        let mut logp = Vec::new();
        if !examples.is_empty() {
            let batch = Batch::of_examples(&workspace.stream, examples.iter());
            self.decoder.forward(&batch, workspace);
            heads::log_probabilities(&self.decoder, &batch, temperature, workspace);
            logp = workspace.download_logp(&batch);
        }
        let mut rest = logp.into_iter();
        texts.iter().map(|(_, tokens)| rest.by_ref().take(tokens.len()).collect()).collect()
    }
}

/// How many of the texts make the next batch; at least one.
fn batch_len(texts: &[(&Prompt, &[u32])]) -> usize {
    let mut tokens = 0;
    let fits = |(prompt, completion): &&(&Prompt, &[u32])| {
        tokens += prompt.tokens.len() + completion.len();
        tokens <= BATCH_TOKENS
    };
    texts.iter().take_while(fits).count().max(1)
}
