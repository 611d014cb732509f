//! `decoct man`: the manual, a page for each command.

use crate::cli::{Cli, ManArgs};
use crate::failure::{Exit, Failure, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io::{self, Write};
use std::path::Path;

/// What stands at the end of a help page, and what a manual calls it.
const HEADINGS: [(&str, &str); 3] =
    [("Example:", "EXAMPLES"), ("Examples:", "EXAMPLES"), ("Exit codes:", "EXIT STATUS")];

pub fn run(arguments: &ManArgs) -> Result<Exit> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // Gives commands below others their whole names, such as `decoct cache pin`.
    command.build();
    match &arguments.folder {
        // A reader that has seen enough (`| head`) is no failure.
        None => _ = io::stdout().lock().write_all(&page(&command)),
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
            write_pages(&command, folder)?;
        }
    }
    Ok(Exit::Done)
}

fn write_pages(command: &Command, folder: &Path) -> Result<()> {
    let path = folder.join(Man::new(command.clone()).get_filename());
    std::fs::write(&path, page(command)).map_err(|error| Failure::io("write", &path, &error))?;
    command.get_subcommands().try_for_each(|below| write_pages(below, folder))
}

fn page(command: &Command) -> Vec<u8> {
    let mut page = Vec::new();
    render(command, &mut page).expect("memory can be written to");
    page
}

fn render(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_string();
    let man =
        Man::new(command.clone()).title(name).source(concat!("decoct ", env!("CARGO_PKG_VERSION"))).manual("Decoction");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    let end = command.get_after_help().map(|end| end.to_string()).unwrap_or_default();
    page.write_all(sections(&end).as_bytes())
}

/// The end of a help page line by line: the generator would fill its examples like prose.
fn sections(text: &str) -> String {
    let mut roff = String::new();
    for line in text.lines() {
        let heading = HEADINGS.iter().find(|(heading, _)| *heading == line).map(|(_, name)| *name);
        let heading = heading.or(roff.is_empty().then_some("NOTES"));
        if let Some(name) = heading {
            let end = if roff.is_empty() { "" } else { ".fi\n" };
            roff += &format!("{end}.SH \"{name}\"\n.nf\n");
        }
        if !HEADINGS.iter().any(|(heading, _)| *heading == line) {
            roff += &format!("{}\n", escaped(line));
        }
    }
    if roff.is_empty() { roff } else { roff + ".fi\n" }
}

/// A backslash and a hyphen mean something to troff, and so do a dot and a quote at the beginning of a line.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\\\").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_help_page_becomes_sections_that_keep_their_lines() {
        for (text, expected) in [
            ("", ""),
            ("Example:\n  decoct run a-b", ".SH \"EXAMPLES\"\n.nf\n  decoct run a\\-b\n.fi\n"),
            (
                "A word.\nExamples:\n.x\n\nExit codes:\n  0  \\",
                ".SH \"NOTES\"\n.nf\nA word.\n.fi\n.SH \"EXAMPLES\"\n.nf\n\\&.x\n\n.fi\n.SH \"EXIT STATUS\"\n.nf\n  0  \\\\\n.fi\n",
            ),
        ] {
            assert_eq!(sections(text), expected);
        }
    }
}
