//! Colours and widths of what goes to stdout; never the only carrier of a meaning.

use std::io::IsTerminal;

/// Where stdout is no terminal.
const USUAL_WIDTH: usize = 100;

/// Colours where stdout is a terminal and `NO_COLOR` is not set.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    is_on: bool,
    /// Characters in a line.
    pub width: usize,
}

#[derive(Debug, Clone, Copy)]
pub enum Colour {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Paint {
    pub fn of_stdout() -> Paint {
        let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        Paint { is_on: std::io::stdout().is_terminal() && is_wanted, width: width.unwrap_or(USUAL_WIDTH) }
    }

    /// For a reader that shows no colours.
    #[cfg(test)]
    pub fn plain(width: usize) -> Paint {
        Paint { is_on: false, width }
    }

    pub fn text(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Bold => "1",
            Colour::Dim => "2",
            Colour::Red => "31",
            Colour::Green => "32",
            Colour::Yellow => "33",
        };
        if self.is_on && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
