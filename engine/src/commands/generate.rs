//! `decoct generate`: a trained model writes, prompts in and texts out, a JSON object a line.

use super::show::{failure, find_finished, named_output};
use crate::cli::{GenerateArgs, RecipeArgs};
use crate::executor::artifacts;
use crate::failure::{Exit, Failure, Result};
use crate::workplace::Workplace;
use serde::Deserialize;
use serde_json::Value;
use stages::model::chat::Message;
use stages::model::complete::{Completer, Completion, Question};
use stages::model::generate::Sampling;
use stages::stage::Form;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Questions answered between two looks at the output: finished texts appear while others are written.
const BATCH: usize = 1024;

pub fn run(arguments: &GenerateArgs) -> Result<Exit> {
    let questions = read_questions(&arguments.prompts, arguments.raw)?;
    let model = open_model(arguments)?;
    let completer = Completer::open(&super::device(&arguments.machine)?, model.path())?;
    let sampling = Sampling {
        temperature: if arguments.greedy { 0.0 } else { arguments.temperature as f32 },
        tokens_max: arguments.max_tokens,
        ..Sampling::default()
    };
    let mut output = open_output(arguments.output.as_deref())?;
    for (batch, first) in questions.chunks(BATCH).zip((0..).step_by(BATCH)) {
        for completion in completer.complete(batch, first, &sampling, arguments.seed)? {
            let written = writeln!(output, "{}", to_json(completion, arguments.logprobs)).and_then(|()| output.flush());
            written.map_err(|error| Failure::new(Exit::NodeFailed, format!("cannot write the texts: {error}")))?;
        }
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

fn open_output(path: Option<&Path>) -> Result<Box<dyn Write>> {
    let Some(path) = path else { return Ok(Box::new(std::io::stdout().lock())) };
    let file = std::fs::File::create(path).map_err(|error| Failure::io("write", path, &error))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// A line of the input; one of the two.
#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
}

/// All of them, before a model is opened for nothing.
fn read_questions(path: &Path, raw: bool) -> Result<Vec<Question>> {
    let text = read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(index, line): (usize, &str)| {
        question(line, raw)
            .map_err(|reason| Failure::usage(format!("{}:{}: {reason}", path.display(), index + 1), None))
    };
    lines.map(read).collect()
}

fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display()), None))?;
    Ok(text)
}

fn question(line: &str, raw: bool) -> Result<Question, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    match (line.prompt, line.messages) {
        (Some(text), None) if raw => Ok(Question::Raw(text)),
        (Some(text), None) => Ok(Question::User(text)),
        (None, Some(_)) if raw => Err("`--raw` takes a `prompt`, not `messages`".to_string()),
        (None, Some(messages)) => Ok(Question::Messages(messages)),
        _ => Err("expected either `prompt` or `messages`".to_string()),
    }
}

/// A model's files, and the folder that goes away with this value where they were taken out of the store.
enum ModelPlace {
    Named(PathBuf),
    Taken(tempfile::TempDir),
}

impl ModelPlace {
    fn path(&self) -> &Path {
        match self {
            ModelPlace::Named(path) => path,
            ModelPlace::Taken(folder) => folder.path(),
        }
    }
}

fn open_model(arguments: &GenerateArgs) -> Result<ModelPlace> {
    if Path::new(&arguments.model).is_dir() {
        return Ok(ModelPlace::Named(PathBuf::from(&arguments.model)));
    }
    let hint = Some("name a folder with config.json and safetensors, or RECIPE:NODE".to_string());
    let neither = || Failure::usage(format!("`{}` is no model", arguments.model), hint);
    let (recipe, node) = arguments.model.rsplit_once(':').ok_or_else(neither)?;
    let recipe = RecipeArgs { recipe: PathBuf::from(recipe), overrides: arguments.overrides.clone() };
    take_out(&Workplace::open(&recipe, &arguments.store)?, node, !arguments.store.no_stat_cache)
}

/// Places a node's model in a folder on the store's own file system, where links cost nothing.
fn take_out(workplace: &Workplace, node: &str, use_stat_cache: bool) -> Result<ModelPlace> {
    let reference = workplace.reference(node)?;
    let output = named_output(workplace, &reference)?;
    if output.form != Form::Model {
        return Err(Failure::usage(format!("`{node}` holds rows, not a model"), None));
    }
    let (store, manifest) = find_finished(workplace, &reference.node, use_stat_cache)?;
    let place = store.layout().temporary();
    let folder = tempfile::tempdir_in(&place).map_err(|error| Failure::io("create a folder in", &place, &error))?;
    artifacts::open(&store, &manifest, &output, folder.path()).map_err(failure)?;
    Ok(ModelPlace::Taken(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_one_question_or_a_mistake() {
        let check = |line: &str, raw: bool, expected: Result<Question, &str>| match (question(line, raw), expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{line}"),
            (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{line}: {reason}"),
            (read, _) => panic!("{line}: {read:?}"),
        };
        check(r#"{"prompt": "a"}"#, true, Ok(Question::Raw("a".into())));
        check(r#"{"prompt": "a", "id": 7}"#, false, Ok(Question::User("a".into())));
        let messages = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
        check(messages, false, Ok(Question::Messages(vec![Message::user("a")])));
        check(messages, true, Err("`--raw`"));
        check(r#"{"text": "a"}"#, false, Err("expected either"));
        check(r#"{"prompt": "a""#, false, Err("line 1"));
    }
}
