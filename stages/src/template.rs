//! What a template or an expression that someone else wrote may take: so many steps, so many bytes. Without bounds a loop in a loop
//! hangs a run, and a chat template comes with any downloaded model.

use minijinja::{Environment, Template, UndefinedBehavior, value::Serde};
use serde::Serialize;
use std::io::{Error, ErrorKind, Write};

/// Steps; far above any prompt, far below a hang.
const FUEL: u64 = 2_000_000;

/// Bytes of a rendered text; more than any model reads.
pub const LONGEST_BYTES: usize = 8 << 20;

/// Where templates and expressions run that stop at the bound of steps.
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment
}

/// For conditions on a row's columns, in which a column that is not there is an error.
pub fn expressions() -> Environment<'static> {
    let mut environment = environment();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
}

/// What `template` of such an environment writes.
///
/// # Errors
/// In the words of minijinja, or that the text is longer than [`LONGEST_BYTES`].
pub fn render(template: &Template, variables: &impl Serialize) -> Result<String, String> {
    let mut rendered = Rendered::default();
    match template.render_captured_to(Serde(variables), &mut rendered) {
        Ok(_) => Ok(String::from_utf8(rendered.bytes).expect("a template writes text")),
        Err(_) if rendered.overflowed => Err(format!("it is longer than {LONGEST_BYTES} bytes")),
        Err(error) => Err(error.to_string()),
    }
}

/// What has been written so far.
#[derive(Default)]
struct Rendered {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Write for Rendered {
    fn write(&mut self, more: &[u8]) -> Result<usize, Error> {
        self.overflowed = self.bytes.len() + more.len() > LONGEST_BYTES;
        if self.overflowed {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_grows_without_end_is_stopped_with_the_reason() {
        for (text, expected) in [
            ("{{ question }}", Ok("why?")),
            ("{% for _ in range(9999) %}{{ question * 9999 }}{% endfor %}", Err("it is longer than 8388608 bytes")),
            ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", Err("fuel")),
            ("{% include 'it' %}", Err("could not render include")),
        ] {
            let mut environment = environment();
            environment.add_template("it", text).unwrap();
            let rendered = render(&environment.get_template("it").unwrap(), &serde_json::json!({"question": "why?"}));
            match (&rendered, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{text}: {reason}"),
                _ => panic!("{text}: {rendered:?}"),
            }
        }
    }
}
