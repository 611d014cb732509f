//! `decoct score`: how likely a trained model finds given completions, by the forward pass of training.

use super::{lines, model};
use crate::cli::ScoreArgs;
use crate::failure::{Exit, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use stages::model::chat::Message;
use stages::model::complete::{Completer, Prompt};

/// Texts scored between two looks at the output.
const BATCH: usize = 1024;

/// A line of the input. What else it holds does not matter, so that what `generate` wrote can be scored.
#[derive(Deserialize)]
struct Given {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    completion: Option<String>,
    token_ids: Option<Vec<u32>>,
}

/// A completion as the model reads it.
struct Text {
    prompt: Prompt,
    completion: String,
    tokens: Vec<u32>,
}

pub fn run(arguments: &ScoreArgs) -> Result<Exit> {
    let given = lines::read::<Given>(&arguments.input)?;
    for line in &given {
        if line.read.completion.is_none() && line.read.token_ids.is_none() {
            return Err(line.wrong("expected `completion` or `token_ids`"));
        }
        let Given { prompt, messages, .. } = &line.read;
        lines::question(prompt.clone(), messages.clone(), arguments.raw).map_err(|reason| line.wrong(reason))?;
    }
    let completer = model::open(&arguments.model)?;
    let texts: Vec<Text> = given.iter().map(|line| text(&completer, line, arguments.raw)).collect::<Result<_>>()?;
    let mut output = lines::open_output(arguments.output.as_deref())?;
    for batch in texts.chunks(BATCH) {
        let pairs: Vec<(&Prompt, &[u32])> = batch.iter().map(|text| (&text.prompt, &text.tokens[..])).collect();
        let scores = completer.score(&pairs, arguments.temperature as f32)?;
        lines::write(&mut output, batch.iter().zip(scores).map(|(text, logprobs)| to_json(text, &logprobs)))?;
    }
    Ok(Exit::Done)
}

/// Given tokens count, as the same text may be spelt by others.
fn text(completer: &Completer, line: &lines::Line<Given>, raw: bool) -> Result<Text> {
    let Given { prompt, messages, completion, token_ids } = &line.read;
    let question = lines::question(prompt.clone(), messages.clone(), raw).map_err(|reason| line.wrong(reason))?;
    let read = || {
        let prompt = completer.prompt(&question)?;
        let tokens = match token_ids {
            Some(tokens) => tokens.clone(),
            None => completer.completion_tokens(completion.as_deref().unwrap_or_default())?,
        };
        completer.check_completion(&prompt, &tokens)?;
        let completion = match completion {
            Some(completion) => completion.clone(),
            None => completer.text_of(&tokens)?,
        };
        Ok(Text { prompt, completion, tokens })
    };
    read().map_err(|failure: stages::failure::Failure| line.wrong(failure))
}

fn to_json(text: &Text, logprobs: &[f32]) -> Value {
    json!({
        "prompt": text.prompt.text, "completion": text.completion, "token_ids": text.tokens, "logprobs": logprobs,
    })
}
