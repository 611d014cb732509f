//! Colours and widths of what goes to stdout; never the only carrier of a meaning.

use std::io::IsTerminal;

/// Characters in a line where nothing says how many there is room for.
const USUAL_WIDTH: usize = 100;
/// Two texts side by side need so many.
const WIDE: usize = 100;

/// Colours where stdout is a terminal and `NO_COLOR` is not set.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    is_on: bool,
    width: Option<usize>,
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
    /// The width is the terminal's, else what `COLUMNS` says.
    pub fn of_stdout() -> Paint {
        let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let terminal = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        let said = || std::env::var("COLUMNS").ok()?.parse().ok();
        Paint { is_on: std::io::stdout().is_terminal() && is_wanted, width: terminal.or_else(said) }
    }

    /// For a reader that shows no colours.
    #[cfg(test)]
    pub fn plain(width: usize) -> Paint {
        Paint { is_on: false, width: Some(width) }
    }

    /// Characters in a line.
    pub fn width(&self) -> usize {
        self.width.unwrap_or(USUAL_WIDTH)
    }

    /// Whether it is known that two texts have room beside each other.
    pub fn is_wide(&self) -> bool {
        self.width.is_some_and(|width| width >= WIDE)
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
