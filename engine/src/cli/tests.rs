//! The declaration against itself: no flag twice, every command in its group, every example a command line that parses.

use super::*;
use clap::CommandFactory;

#[test]
fn the_declaration_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_first_page_names_every_command_as_it_is_declared() {
    let lines = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = text.lines().filter(|line| line.starts_with("  ")).map(str::to_string).collect();
        lines.sort();
        lines
    };
    let line = |command: &clap::Command| {
        format!("  {:<11}  {}\n", command.get_name(), command.get_about().expect("every command says what it is for"))
    };
    let declared: String = Cli::command().get_subcommands().map(line).collect();
    assert_eq!(lines(COMMANDS), lines(&declared));
}

/// The example lines of a page, without remarks, prompts of a shell and what a shell does with the output.
fn examples(command: &clap::Command) -> Vec<String> {
    let page = command.get_after_help().map(|page| page.to_string()).unwrap_or_default();
    let command_line = |line: &str| {
        let typed = line.trim_start().split_once("$ ").map_or(line, |(_, typed)| typed).trim_start();
        let typed = [" > ", " | ", "  "].iter().fold(typed, |typed, end| typed.split(end).next().unwrap_or(typed));
        typed.starts_with("decoct ").then(|| typed.to_string())
    };
    page.lines().filter_map(command_line).collect()
}

fn check_examples(command: &clap::Command) {
    let examples = examples(command);
    assert!(!examples.is_empty(), "the help of `{}` has no example", command.get_name());
    for example in examples {
        if let Err(error) = Cli::try_parse_from(example.split(' ')) {
            panic!("`{example}` in the help of `{}`: {error}", command.get_name());
        }
    }
    command.get_subcommands().for_each(check_examples);
}

#[test]
fn every_page_ends_with_examples_that_parse() {
    check_examples(&Cli::command());
}

#[test]
fn a_domain_is_one_word_that_a_file_can_be_called() {
    for (text, expected) in
        [("law", true), ("tax-law_2", true), ("", false), ("-x", false), ("a/b", false), ("a b", false)]
    {
        assert_eq!(domain(text).is_ok(), expected, "{text}");
    }
}
