//! The whole help, as a user reads it: a change of the command line is seen in review.

use std::process::Command;

fn help(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_decoct")).args(arguments).env_remove("DECOCT_CACHE").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("help is text")
}

/// The page of a command, then those of the commands below it.
fn pages(command: &[&str]) -> Vec<String> {
    let page = help(&[command, &["--help"]].concat());
    let is_above = page.contains("<COMMAND>");
    // In groups or not; descriptions that are wrapped go on far to the right.
    let commands =
        page.lines().take_while(|line| *line != "Options:").filter(|line| is_above && line.starts_with("  "));
    let names = commands.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    let below = names.filter(|name| *name != "help").flat_map(|name| pages(&[command, &[name]].concat()));
    std::iter::once(page.clone()).chain(below).collect()
}

#[test]
fn the_help_of_every_command() {
    let whole = pages(&[]);
    assert!(whole.len() > 10, "{whole:?}");
    insta::assert_snapshot!("help", whole.join("\n────────\n\n"));
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_would_be_right() {
    for (arguments, expected) in [
        (vec!["chek"], "'check'"),
        (vec!["run"], "<RECIPE>"),
        (vec!["run", "x.yaml", "--budget-usd=-3"], "--budget-usd"),
        (vec!["run", "x.yaml", "--device", "gpu"], "cuda:N"),
        (vec!["show", "x.yaml", "node", "--rows", "3", "--row", "1"], "--row"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_decoct")).args(&arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
    }
}
