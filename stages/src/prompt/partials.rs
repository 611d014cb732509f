//! A prompt's files: the one that a recipe names, and those that it includes.

use super::tags::Tags;
use crate::settings::{FilePlace, Reader, nearest_file, shown_path};
use std::path::{Path, PathBuf};

/// The renderer's name for the prompt itself; a partial's is its path from the prompt's folder.
pub const MAIN: &str = "prompt";
/// Files that one prompt may be made of.
const FILES_MAX: usize = 64;

/// One text of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub name: String,
    pub text: String,
    path: Option<PathBuf>,
}

impl Template {
    pub fn without_file(text: &str) -> Template {
        Template { name: MAIN.to_string(), text: text.to_string(), path: None }
    }

    /// The file, or the code and the text of what is wrong with it.
    pub fn open(path: &Path, reader: &mut Reader) -> Result<Template, (&'static str, String)> {
        let bytes = reader.read_file(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ("missing-file", "there is no such file".to_string()),
            std::io::ErrorKind::IsADirectory => ("not-a-file", "it is a folder".to_string()),
            _ => ("unreadable-file", error.to_string()),
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line =
                error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
            ("not-text", format!("line {line} is not UTF-8 text"))
        })?;
        match text.trim().is_empty() {
            true => Err(("empty-file", "it is empty".to_string())),
            false => Ok(Template { name: MAIN.to_string(), text, path: Some(path.to_path_buf()) }),
        }
    }

    /// Somewhere in the file.
    pub fn whole(&self) -> Option<FilePlace> {
        Some(FilePlace { path: self.path.clone()?, line: None, bytes: None })
    }

    fn place(&self, at: usize, length: usize) -> Option<FilePlace> {
        let start = self.text[..at].rfind('\n').map_or(0, |found| found + 1);
        let line_end = self.text[at..].find('\n').map_or(self.text.len(), |found| at + found);
        let line = self.text[..at].matches('\n').count() + 1;
        let bytes = at - start..(at + length).min(line_end) - start;
        Some(FilePlace { path: self.path.clone()?, line: Some(line), bytes: Some(bytes) })
    }

    pub fn place_of_use(&self, name: &str) -> Option<FilePlace> {
        match Tags::of(&self.text).first_use(name) {
            Some(at) => self.place(at, name.len()),
            None => self.whole(),
        }
    }

    /// Where a variable is first used, if nowhere in this template is asked whether it holds anything.
    pub fn unguarded_use(&self, name: &str) -> Option<FilePlace> {
        self.path.as_ref()?;
        let tags = Tags::of(&self.text);
        let at = tags.first_use(name)?;
        if tags.guards(name) { None } else { self.place(at, name.len()) }
    }

    pub fn place_of_error(&self, error: &minijinja::Error) -> Option<FilePlace> {
        match error.range() {
            Some(range) if self.text.is_char_boundary(range.start) && range.end > range.start => {
                self.place(range.start, range.len())
            }
            _ => Some(FilePlace { line: error.line(), ..self.whole()? }),
        }
    }
}

/// What to do about a file that [`Template::open`] refuses.
pub fn hint(code: &str, path: &Path) -> Option<String> {
    let hint = match code {
        "missing-file" => return nearest_file(path).or_else(|| Some("name a Markdown file".to_string())),
        "not-a-file" => "name a Markdown file in it",
        "not-text" => "save it as UTF-8",
        "empty-file" => "write into it what the model is to do",
        _ => return None,
    };
    Some(hint.to_string())
}

/// The template and all that it includes, each once; what cannot be included is noted.
pub fn with_partials(template: Template, reader: &mut Reader) -> Vec<Template> {
    let mut gathering = Gathering { templates: Vec::new(), open: Vec::new(), reader };
    gathering.add(template);
    gathering.templates
}

struct Gathering<'a> {
    templates: Vec<Template>,
    /// Names of the templates on the way from the prompt to here.
    open: Vec<String>,
    reader: &'a mut Reader,
}

impl Gathering<'_> {
    fn add(&mut self, template: Template) {
        let text = template.text.clone();
        self.open.push(template.name.clone());
        self.templates.push(template.clone());
        if text.contains("{%") {
            for (name, at) in Tags::of(&text).included() {
                if let Err((code, message, hint)) = self.include(&template, name) {
                    self.reader.mistake(code, message, hint);
                    let place = template.place(at, name.map_or(0, |name| name.len() + 2));
                    self.reader.mistakes.last_mut().expect("it was just added").file = place;
                }
            }
        }
        self.open.pop();
    }

    fn include(&mut self, from: &Template, name: Option<&str>) -> Result<(), (&'static str, String, Option<String>)> {
        let computed = || ("computed-partial", "the partial's name must be written out".to_string());
        let name = name
            .ok_or_else(computed)
            .map_err(|(code, message)| (code, message, Some("such as `{% include \"rules.md\" %}`".to_string())))?;
        let joined = join(name, &from.name);
        if self.open.contains(&joined) {
            let way = [self.open.join("` → `"), joined].join("` → `");
            return Err(("circular-partial", format!("a prompt cannot include itself: `{way}`"), None));
        }
        if self.templates.iter().any(|known| known.name == joined) {
            return Ok(());
        }
        let above = from.path.as_deref().and_then(Path::parent);
        let path = above.map(|above| above.join(name)).filter(|_| self.templates.len() < FILES_MAX);
        let Some(path) = path else {
            let message = format!("cannot include `{name}`: a prompt is a file of at most {FILES_MAX} parts");
            return Err(("missing-partial", message, None));
        };
        match Template::open(&path, self.reader) {
            Ok(partial) => self.add(Template { name: joined, ..partial }),
            Err((code, message)) => {
                let hint = hint(code, &path);
                let code = if code == "missing-file" { "missing-partial" } else { code };
                return Err((code, format!("cannot include `{}`: {message}", shown_path(&path)), hint));
            }
        }
        Ok(())
    }
}

/// The name of a partial, as the template `from` writes it, from the prompt's folder.
pub fn join(name: &str, from: &str) -> String {
    match from.rsplit_once('/') {
        Some((above, _)) => format!("{above}/{name}"),
        None => name.to_string(),
    }
}

/// The prompt's text, which is its identity: of several files each after a line with its name.
pub fn whole_text(main: &str, partials: &[Template]) -> String {
    let partials = partials.iter().map(|partial| format!("\n{{# {} #}}\n{}", partial.name, partial.text));
    [main.to_string()].into_iter().chain(partials).collect()
}
