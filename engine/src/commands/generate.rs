//! `decoct generate`: a trained model writes, prompts in and texts out, a JSON object a line.

use super::{lines, model};
use crate::cli::GenerateArgs;
use crate::failure::{Exit, Result};
use serde::Deserialize;
use serde_json::Value;
use stages::model::chat::Message;
use stages::model::complete::{Completion, Prompt, Question, Wanted};

/// Questions answered between two looks at the output: finished texts appear while others are written.
const BATCH: usize = 1024;

/// A line of the input; one of the two.
#[derive(Deserialize)]
struct Asked {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
}

pub fn run(arguments: &GenerateArgs) -> Result<Exit> {
    let asked = lines::read::<Asked>(&arguments.prompts)?;
    let question = |line: &lines::Line<Asked>| {
        let Asked { prompt, messages } = &line.read;
        lines::question(prompt.clone(), messages.clone(), arguments.raw).map_err(|reason| line.wrong(reason))
    };
    let questions: Vec<Question> = asked.iter().map(question).collect::<Result<_>>()?;
    let completer = model::open(&arguments.model)?;
    let prompt = |(line, question): (&lines::Line<Asked>, &Question)| {
        completer.prompt(question).map_err(|failure| line.wrong(failure))
    };
    let prompts: Vec<Prompt> = asked.iter().zip(&questions).map(prompt).collect::<Result<_>>()?;
    let wanted = Wanted { samples: arguments.samples, ..model::wanted(&arguments.sampling, &completer) };
    let mut output = lines::open_output(arguments.output.as_deref())?;
    for (batch, first) in prompts.chunks(BATCH).zip((0..).step_by(BATCH)) {
        let completions = completer.complete(batch, first, &wanted)?;
        lines::write(&mut output, completions.into_iter().map(|completion| to_json(completion, arguments.logprobs)))?;
    }
    Ok(Exit::Done)
}

fn to_json(completion: Completion, with_logprobs: bool) -> Value {
    let mut value = serde_json::to_value(completion).expect("a completion is plain data");
    if !with_logprobs {
        value.as_object_mut().expect("it is an object").shift_remove("logprobs");
    }
    value
}
