//! `decoct generate`, `score` and `chat` as a user types them: a folder or RECIPE:NODE in, JSONL or a conversation out.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, questions};
use serde_json::Value;
use stages::context::Device;
use stages::model::tensors::Precision;
use stages::model::tokenizer::{END_OF_TEXT, Training};
use stages::model::{Carried, ChatTemplate, Decoder, DecoderConfig, ModelFolder, Tokenizer, chat};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const RECIPE: &str = "\
version: 1
nodes:
  exam:    { kind: source, path: exam.jsonl }
  student: { kind: sft, input: exam, response: answer, steps: 3, base: { architecture: qwen2, layers: 1, hidden: 16, heads: 2,
             tokenizer: { train: words, size: 300 } } }
  other:   { kind: sft, input: exam, response: answer, steps: 4, base: { architecture: qwen2, layers: 1, hidden: 16, heads: 2,
             tokenizer: { train: words, size: 300 } } }
";
const PROMPTS: &str = "{\"prompt\": \"how much is 3 plus 10?\"}\n\n{\"prompt\": \"how much?\", \"id\": 7}\n\
    {\"messages\": [{\"role\": \"system\", \"content\": \"count\"}, {\"role\": \"user\", \"content\": \"4\"}]}\n";

fn cooked() -> Kitchen {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.write("exam.jsonl", &questions(40));
    kitchen.write("prompts.jsonl", PROMPTS);
    kitchen.run(&["--until", "student"]).expect_done();
    kitchen
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn with_input(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const GENERATE: [&str; 4] = ["generate", "recipe.yaml:student", "--prompts", "prompts.jsonl"];

#[test]
fn a_score_is_to_the_digit_what_was_reported_when_it_was_written() {
    let kitchen = cooked();
    let flags = ["--logprobs", "--samples", "3", "--max-tokens", "20", "--top-p", "0.9", "--stop", "4"];
    let text = kitchen.says(&[&GENERATE[..], &flags].concat());
    let written = rows(&text);
    assert_eq!(written.len(), 9);
    // What the template made of messages is a prompt as it is.
    let (mut asked, mut raw) = (Vec::new(), Vec::new());
    for (index, row) in written.iter().enumerate() {
        if index < 6 { asked.push(row.clone()) } else { raw.push(row.clone()) }
    }
    for (rows_in, flags) in [(asked, vec![]), (raw, vec!["--raw"])] {
        let lines: String = rows_in.iter().map(|row| format!("{row}\n")).collect();
        kitchen.write("written.jsonl", &lines);
        let command = [&["score", "recipe.yaml:student", "--input", "written.jsonl"], &flags[..]].concat();
        let scored = rows(&kitchen.says(&command));
        assert_eq!(scored.len(), rows_in.len());
        for (scored, row) in scored.iter().zip(&rows_in) {
            assert_eq!(scored["logprobs"].to_string(), row["logprobs"].to_string());
            assert_eq!((&scored["token_ids"], &scored["prompt"]), (&row["token_ids"], &row["prompt"]));
            assert!(row["logprobs"].as_array().unwrap().len() == row["token_ids"].as_array().unwrap().len());
        }
    }
}

#[test]
fn completions_are_scored_as_they_follow_the_prompt() {
    let kitchen = cooked();
    let given = "{\"prompt\": \"how much?\", \"completion\": \"how much is 3\"}\n{\"prompt\": \"how much?\", \"completion\": \"\"}\n";
    let command = kitchen.command(&["score", "recipe.yaml:student", "--input", "-"]);
    let scored = rows(&said(with_input(command, given)));
    let keys: Vec<&String> = scored[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["prompt", "completion", "token_ids", "logprobs"]);
    let (ids, logprobs) = (scored[0]["token_ids"].as_array().unwrap(), scored[0]["logprobs"].as_array().unwrap());
    assert!(ids.len() == logprobs.len() && ids.len() >= 4, "{}", scored[0]);
    assert!(logprobs.iter().all(|logprob| logprob.as_f64().unwrap() < 0.0));
    assert_eq!(scored[1]["token_ids"], Value::Array(Vec::new()));
    assert_eq!(scored[1]["logprobs"], Value::Array(Vec::new()));
}

#[test]
fn the_same_texts_on_any_number_of_threads_and_from_a_folder() {
    let kitchen = cooked();
    let more = ["--max-tokens", "30", "--seed", "5"];
    let one = kitchen.says(&[&GENERATE[..], &more].concat());
    kitchen.says(&[&GENERATE[..], &more, &["-o", "out.jsonl"]].concat());
    assert_eq!(kitchen.read("out.jsonl"), one);
    assert_ne!(kitchen.says(&[&GENERATE[..], &["--max-tokens", "30", "--seed", "6"]].concat()), one);
    let greedy = [&GENERATE[..], &["--greedy", "--max-tokens", "9"]].concat();
    for row in rows(&kitchen.says(&greedy)) {
        assert!(row.get("logprobs").is_none() && row["token_ids"].as_array().unwrap().len() <= 9, "{row}");
        assert!(["stop", "length"].contains(&row["finish_reason"].as_str().unwrap()), "{row}");
    }
}

#[test]
fn mistakes_are_told_with_their_line_before_anything_is_written() {
    let kitchen = cooked();
    let long = format!("{{\"prompt\": \"a\"}}\n{{\"prompt\": \"{}\"}}\n", "x ".repeat(40_000));
    kitchen.write("empty.jsonl", "");
    kitchen.write("broken.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"a\"\n");
    kitchen.write("neither.jsonl", "{\"prompt\": \"a\"}\n\n{\"text\": \"a\"}\n");
    kitchen.write("long.jsonl", &long);
    kitchen.write("ids.jsonl", "{\"prompt\": \"a\", \"token_ids\": [99999]}\n");
    let student = "recipe.yaml:student";
    std::fs::create_dir(kitchen.path("nothing")).unwrap();
    for (arguments, expected) in [
        (["generate", "no/model", "--prompts", "prompts.jsonl"], "`no/model` is no model"),
        (["generate", "nothing", "--prompts", "prompts.jsonl"], "no config.json"),
        (["generate", "recipe.yaml:other", "--prompts", "prompts.jsonl"], "other"),
        (["generate", "recipe.yaml:exam", "--prompts", "prompts.jsonl"], "holds rows, not a model"),
        (["generate", "recipe.yaml:studnet", "--prompts", "prompts.jsonl"], "student"),
        (["generate", student, "--prompts", "missing.jsonl"], "missing.jsonl"),
        (["generate", student, "--prompts", "broken.jsonl"], "broken.jsonl:2: "),
        (
            ["generate", student, "--prompts", "neither.jsonl"],
            "neither.jsonl:3: expected either `prompt` or `messages`",
        ),
        (["generate", student, "--prompts", "long.jsonl"], "long.jsonl:2: "),
        (["score", student, "--input", "broken.jsonl"], "broken.jsonl:2: "),
        (["score", student, "--input", "prompts.jsonl"], "prompts.jsonl:1: expected `completion` or `token_ids`"),
        (["score", student, "--input", "ids.jsonl"], "ids.jsonl:1: token id `99999`"),
    ] {
        let output = kitchen.decoct(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(kitchen.says(&["generate", student, "--prompts", "empty.jsonl"]), "");
    assert_eq!(kitchen.says(&["score", student, "--input", "empty.jsonl"]), "");
}

#[test]
fn a_chat_over_a_pipe_answers_line_by_line_and_remembers() {
    let kitchen = cooked();
    let chat = |input: &str, more: &[&str]| {
        let arguments = [&["chat", "recipe.yaml:student", "--max-tokens", "12", "--greedy"], more].concat();
        said(with_input(kitchen.command(&arguments), input))
    };
    // One line of the input is one text of the output; line ends within it are the model's own.
    let begins =
        |whole: &str, part: &str| assert!(whole.starts_with(part) && whole.len() > part.len(), "{whole:?} {part:?}");
    let first = chat("how much is 3 plus 10?\n", &[]);
    let both = chat("how much is 3 plus 10?\n\nhow much?\n", &[]);
    begins(&both, &first);
    let answer = first.strip_suffix('\n').unwrap().to_string();
    let messages = serde_json::json!({"messages": [
        {"role": "user", "content": "how much is 3 plus 10?"}, {"role": "assistant", "content": answer},
        {"role": "user", "content": "how much?"},
    ]});
    kitchen.write("said.jsonl", &format!("{messages}\n"));
    let again = ["generate", "recipe.yaml:student", "--prompts", "said.jsonl", "--greedy", "--max-tokens", "12"];
    let expected = rows(&kitchen.says(&again))[0]["text"].as_str().unwrap().to_string();
    assert_eq!(both, format!("{first}{expected}\n"), "the conversation goes on");
    let alone = chat("how much?\n", &[]);
    assert_eq!(chat("how much is 3 plus 10?\n/reset\nhow much?\n/exit\nhow much?\n", &[]), format!("{first}{alone}"));
    assert_eq!(chat("", &[]), "");
    let told = chat("how much?\n", &["--system", "count 1 2 3"]);
    let messages = "{\"messages\": [{\"role\": \"system\", \"content\": \"count 1 2 3\"}, {\"role\": \"user\", \"content\": \"how much?\"}]}\n";
    kitchen.write("said.jsonl", messages);
    assert_eq!(told, format!("{}\n", rows(&kitchen.says(&again))[0]["text"].as_str().unwrap()));
}

#[test]
fn a_conversation_that_grows_too_long_is_told() {
    let kitchen = cooked();
    let long = format!("{}\n", "x ".repeat(40_000));
    let output = with_input(kitchen.command(&["chat", "recipe.yaml:student"]), &long);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("positions") && told.contains("/reset"), "{told}");
}

/// A random model in a folder, which seldom ends a text.
fn write_model(folder: &Path, positions: usize) {
    let corpus = ["how much is one two three"; 2];
    let tokenizer = Tokenizer::train(Training::Bpe, 300, corpus.into_iter(), &[]).unwrap();
    let config = serde_json::json!({
        "model_type": "qwen2", "vocab_size": tokenizer.vocab_size(), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "tie_word_embeddings": true,
        "max_position_embeddings": positions, "eos_token_id": tokenizer.id(END_OF_TEXT).unwrap(),
    });
    let config = DecoderConfig::from_json(&config.to_string(), "config.json").unwrap();
    let weights = Decoder::fresh(&Device::cpu(Some(1)), &config, 4).weights();
    let template = Some(ChatTemplate::new(chat::PLAIN, "", END_OF_TEXT));
    let model = ModelFolder { config, weights, tokenizer, template, carried: Carried::default() };
    model.save(folder, Precision::F32).unwrap();
}

#[test]
fn the_models_own_sampling_counts_where_no_flag_does_and_is_told() {
    let kitchen = Kitchen::new("version: 1\n");
    kitchen.write("prompts.jsonl", PROMPTS);
    let folder = kitchen.path("model");
    write_model(&folder, 300);
    let own = r#"{"do_sample": true, "temperature": 0.4, "top_k": 2, "repetition_penalty": 1.1}"#;
    std::fs::write(folder.join("generation_config.json"), own).unwrap();
    let generate = |more: &[&str]| {
        let arguments = [&["generate", "model", "--prompts", "prompts.jsonl", "--max-tokens", "30"], more].concat();
        let output = kitchen.decoct(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (said(output), told)
    };
    let (text, told) = generate(&[]);
    let names = ["temperature 0.4", "top-k 2", "repetition_penalty"];
    assert!(names.iter().all(|name| told.contains(name)), "{told}");
    assert_eq!(generate(&["--temperature", "0.4", "--top-k", "2"]).0, text);
    assert_ne!(generate(&["--temperature", "1", "--top-k", "0"]).0, text);
    assert_eq!(generate(&["--greedy"]).1, "");
}

/// A terminal of its own for the program, and our end of it.
#[cfg(unix)]
fn in_a_terminal(mut command: Command) -> (std::process::Child, std::fs::File) {
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::os::unix::process::CommandExt;
    let (mut ours, mut theirs) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: both places are ours, and a terminal may have the usual settings.
    assert_eq!(unsafe { libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()) }, 0);
    // SAFETY: `openpty` has just opened both, and nobody else has them.
    let (ours, theirs) = unsafe { (std::fs::File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
    // SAFETY: both calls may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    (command.spawn().unwrap(), ours)
}

/// Reads until the screen shows `wanted`, and gives what it showed till then.
#[cfg(unix)]
fn until(terminal: &mut std::fs::File, wanted: &str) -> String {
    let (mut screen, mut bytes) = (Vec::new(), [0; 1024]);
    loop {
        let count = terminal.read(&mut bytes).unwrap_or(0);
        screen.extend_from_slice(&bytes[..count]);
        let text = String::from_utf8_lossy(&screen).into_owned();
        if text.contains(wanted) {
            return text;
        }
        assert!(count > 0, "the program ended before it showed {wanted:?}: {text}");
    }
}

#[cfg(unix)]
#[test]
fn in_a_terminal_ctrl_c_stops_the_answer_and_not_the_program() {
    let kitchen = Kitchen::new("version: 1\n");
    write_model(&kitchen.path("model"), 400_000);
    // Hours of text, were it not stopped.
    let endless = kitchen.command(&["chat", "model", "--max-tokens", "1000000", "--top-k", "3"]);
    let (mut child, mut terminal) = in_a_terminal(endless);
    until(&mut terminal, "> ");
    for _ in 0..2 {
        terminal.write_all(b"how much?\n").unwrap();
        until(&mut terminal, "how much?\r\n");
        // The terminal sends ctrl-C as a user would; the answer has begun when anything of it is seen.
        let count = terminal.read(&mut [0; 8]).unwrap();
        assert!(count > 0);
        terminal.write_all(b"\x03").unwrap();
        until(&mut terminal, "\n> ");
    }
    terminal.write_all(b"\x03").unwrap();
    until(&mut terminal, "/exit or ctrl-D ends)");
    terminal.write_all(b"\x04").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
