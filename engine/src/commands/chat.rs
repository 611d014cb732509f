//! `decoct chat`: a conversation with a trained model, in a terminal or a message a line.

use super::model;
use crate::cli::ChatArgs;
use crate::failure::{Exit, Failure, Result};
use stages::model::chat::Message;
use stages::model::complete::{Completer, Question, Wanted};
use stages::model::generate::Finish;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const INTRODUCTION: &str = "ctrl-C stops an answer; /reset begins anew; /exit or ctrl-D ends";

pub fn run(arguments: &ChatArgs) -> Result<Exit> {
    let completer = model::open(&arguments.model)?;
    let wanted = model::wanted(&arguments.sampling, &completer);
    let is_terminal = std::io::stdin().is_terminal();
    let interrupts = Interrupts::listen(is_terminal)?;
    if is_terminal {
        eprintln!("{INTRODUCTION}");
    }
    let mut chat =
        Chat { completer: &completer, wanted, system: arguments.system.clone(), messages: Vec::new(), turn: 0 };
    chat.reset();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if is_terminal {
            eprint!("> ");
        }
        let Some(line) = lines.next() else { break };
        let line = line.map_err(|error| Failure::usage(format!("cannot read stdin: {error}"), None))?;
        match line.trim() {
            "" => continue,
            "/exit" => break,
            "/reset" => chat.reset(),
            message => match chat.answer(message, &interrupts) {
                Err(failure) if is_terminal => eprint!("{}", failure.render(false)),
                answered => answered?,
            },
        }
    }
    if is_terminal {
        eprintln!();
    }
    Ok(Exit::Done)
}

/// What was said so far.
struct Chat<'a> {
    completer: &'a Completer,
    wanted: Wanted,
    system: Option<String>,
    messages: Vec<Message>,
    /// Answers so far: each draws anew.
    turn: u64,
}

impl Chat<'_> {
    fn reset(&mut self) {
        let system = self.system.iter().map(|content| Message { role: "system".into(), content: content.clone() });
        self.messages = system.collect();
    }

    /// Tells the answer as it comes. A message that the model cannot answer is as if it had not been sent.
    fn answer(&mut self, message: &str, interrupts: &Interrupts) -> Result<()> {
        self.messages.push(Message::user(message));
        let prompt = self.completer.prompt(&Question::Messages(self.messages.clone())).map_err(|failure| {
            self.messages.pop();
            Failure::usage(failure.to_string(), Some("`/reset` forgets what was said so far".to_string()))
        })?;
        interrupts.begin();
        let completion = self
            .completer
            .complete_aloud(&prompt, self.turn, &self.wanted, &|piece| tell(piece) && !interrupts.is_asked());
        interrupts.end();
        let completion = completion?;
        tell("\n");
        if completion.finish_reason == Finish::Length {
            eprintln!("(cut off after {} tokens)", completion.token_ids.len());
        }
        self.turn += 1;
        self.messages.push(Message { role: "assistant".into(), content: completion.text });
        Ok(())
    }
}

/// Whether anyone still reads.
fn tell(piece: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// Ctrl-C: during an answer it stops the answer, otherwise it is told how to leave.
#[derive(Clone, Default)]
struct Interrupts {
    answering: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
}

impl Interrupts {
    /// Without a terminal ctrl-C ends the program, as it does for others.
    fn listen(is_terminal: bool) -> Result<Interrupts> {
        let interrupts = Interrupts::default();
        if is_terminal {
            let listener = interrupts.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime =
                runtime.map_err(|error| Failure::new(Exit::Ourselves, format!("cannot listen for ctrl-C: {error}")))?;
            std::thread::spawn(move || {
                runtime.block_on(async {
                    while tokio::signal::ctrl_c().await.is_ok() {
                        listener.interrupt();
                    }
                });
            });
        }
        Ok(interrupts)
    }

    fn interrupt(&self) {
        if self.answering.load(Ordering::SeqCst) {
            self.asked.store(true, Ordering::SeqCst);
        } else {
            eprint!("\n({INTRODUCTION})\n> ");
        }
    }

    fn begin(&self) {
        self.asked.store(false, Ordering::SeqCst);
        self.answering.store(true, Ordering::SeqCst);
    }

    fn end(&self) {
        self.answering.store(false, Ordering::SeqCst);
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}
