//! Prompt templates: text in, messages' text out; every variable is known and every required one is used. A prompt in a file may
//! `include` others that lie beside it, its partials, and may be several messages.

mod messages;
mod partials;
mod tags;

pub use messages::Example;
pub use tags::unknown_words;

use crate::columns::{Need, NeedFrom};
use crate::failure::{Failure, Result};
use crate::llm::Message;
use crate::settings::{FilePlace, Reader, nearest_hint, shown_path};
use crate::template;
use minijinja::{Environment, UndefinedBehavior};
use partials::Template;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tags::Tags;

/// A parsed template. Cloning is cheap. Its identity is its text.
#[derive(Clone)]
pub struct Prompt {
    text: Arc<str>,
    environment: Arc<Environment<'static>>,
    /// Where it was written, partials after it; of our own wordings nowhere.
    templates: Arc<[Template]>,
    /// Its messages, in order.
    messages: Arc<[Turn]>,
}

/// Who speaks in a message, and the renderer's name of its template.
struct Turn {
    role: &'static str,
    template: String,
}

impl Prompt {
    /// Parses `text`, checks it against what the kind offers: an unknown variable and a required one that is not used are mistakes.
    pub fn read(text: &str, offered: &[&str], required: &[&str], reader: &mut Reader) -> Option<Prompt> {
        Prompt::of(Template::without_file(text), &[], offered, required, reader)
    }

    /// The same with examples before its last message; they become part of its text.
    pub fn read_with(
        text: &str,
        examples: &[Example],
        offered: &[&str],
        required: &[&str],
        reader: &mut Reader,
    ) -> Option<Prompt> {
        Prompt::of(Template::without_file(text), examples, offered, required, reader)
    }

    /// The same for a file, with all that it includes; every mistake is told with its place there.
    pub fn read_file(
        path: &Path,
        examples: &[Example],
        offered: &[&str],
        required: &[&str],
        reader: &mut Reader,
    ) -> Option<Prompt> {
        match Template::open(path, reader) {
            Ok(template) => Prompt::of(template, examples, offered, required, reader),
            Err((code, message)) => {
                let message = format!("cannot read the prompt `{}`: {message}", shown_path(path));
                reader.mistake(code, message, partials::hint(code, path));
                None
            }
        }
    }

    fn of(
        template: Template,
        examples: &[Example],
        offered: &[&str],
        required: &[&str],
        reader: &mut Reader,
    ) -> Option<Prompt> {
        let before = reader.mistakes.len();
        let templates = partials::with_partials(template, reader);
        let complete = reader.mistakes.len() == before;
        let mut environment = plain_environment();
        for template in &templates {
            if let Err(error) = environment.add_template_owned(template.name.clone(), template.text.clone()) {
                note("broken-prompt", template.place_of_error(&error), broken(&error), None, reader);
            }
        }
        if reader.mistakes[before..].iter().any(|mistake| mistake.code == "broken-prompt") {
            return None;
        }
        // What is missing may have used what is required.
        check_variables(&environment, &templates, offered, if complete { required } else { &[] }, reader);
        let written = messages::with_examples(&templates[0].text, examples);
        let messages = match add_messages(&written, &mut environment) {
            Ok(messages) => messages.into(),
            Err(message) => {
                note("broken-messages", templates[0].whole(), message, Some(MESSAGES.to_string()), reader);
                return None;
            }
        };
        let text = partials::whole_text(&written, &templates[1..]).into();
        let prompt = Prompt { text, environment: environment.into(), templates: templates.into(), messages };
        (reader.mistakes.len() == before).then_some(prompt)
    }

    /// Its own, and that of its partials after it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The columns among `names` that a prompt of the recipe's author reads without asking first whether they hold anything.
    /// (Our own wordings do with less.)
    pub fn needs(&self, setting: &'static str, port: &str, names: &[&str]) -> Vec<Need> {
        let read = |name: &&str| {
            let place = self.templates.iter().find_map(|template| template.unguarded_use(name))?;
            Some(Need { from: NeedFrom::Prompt { setting, place }, ..Need::kind(port, name) })
        };
        names.iter().filter_map(read).collect()
    }

    /// Every variable that it uses somewhere, its partials included.
    pub fn uses(&self) -> BTreeSet<String> {
        let of = |template: &Template| {
            let parsed = self.environment.get_template(&template.name).expect("it was added when parsed");
            parsed.undeclared_variables(false)
        };
        self.templates.iter().flat_map(of).collect()
    }

    /// Renders with `variables` (a mapping); an undefined one is an error, never an empty string.
    ///
    /// # Errors
    /// If a variable is undefined or of the wrong type, or the prompt passes the bounds of [`crate::template`].
    pub fn render(&self, variables: &impl serde::Serialize) -> Result<Vec<Message>> {
        let message = |turn: &Turn| {
            let template = self.environment.get_template(&turn.template).expect("it was added when parsed");
            let content = template::render(&template, variables)
                .map_err(|reason| Failure::Recipe(format!("cannot render the prompt: {reason}")))?;
            Ok(Message { role: turn.role.to_string(), content })
        };
        self.messages.iter().map(message).collect()
    }
}

/// What a prompt of several messages should look like.
const MESSAGES: &str =
    "perhaps one `<!-- system -->`, then `<!-- user -->` and `<!-- assistant -->` in turn, the last one by the user";

/// Adds each message as a template of its own, so that what a row holds can never begin one.
fn add_messages(text: &str, environment: &mut Environment<'static>) -> Result<Vec<Turn>, String> {
    let mut messages = Vec::new();
    for (index, section) in messages::sections(text)?.into_iter().enumerate() {
        // No partial is called so.
        let template = format!("{} {index}", partials::MAIN);
        let broken = |error| format!("message {} by `{}` is {}", index + 1, section.role, broken(&error));
        environment.add_template_owned(template.clone(), section.text).map_err(broken)?;
        messages.push(Turn { role: section.role, template });
    }
    Ok(messages)
}

fn plain_environment() -> Environment<'static> {
    let mut environment = template::environment();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_path_join_callback(|name, parent| partials::join(name, parent).into());
    environment
}

fn broken(error: &minijinja::Error) -> String {
    format!("not a valid template: {}", error.detail().map_or_else(|| error.kind().to_string(), str::to_string))
}

/// Every word that no one offers, and every required one that is used nowhere.
fn check_variables(
    environment: &Environment,
    templates: &[Template],
    offered: &[&str],
    required: &[&str],
    reader: &mut Reader,
) {
    let assigned: BTreeSet<&str> = templates.iter().flat_map(|template| Tags::of(&template.text).assigned()).collect();
    let mut used = BTreeSet::new();
    for template in templates {
        let parsed = environment.get_template(&template.name).expect("it was just added");
        let names: BTreeSet<String> = parsed.undeclared_variables(false).into_iter().collect();
        let partial = template.name != partials::MAIN;
        // A partial sees what the templates around it have set.
        let known = |name: &str| offered.contains(&name) || (partial && assigned.contains(name));
        for name in names.iter().filter(|name| !known(name)) {
            let message = format!("the prompt uses the unknown variable `{name}`");
            let hint = nearest_hint(name, offered.iter().copied());
            note("unknown-variable", template.place_of_use(name), message, hint, reader);
        }
        for (what, word, hint) in unknown_words(&template.text) {
            let place = template.place_of_use(word);
            note("unknown-filter", place, format!("unknown {what} `{word}`"), hint, reader);
        }
        used.extend(names);
    }
    for name in required.iter().filter(|name| !used.contains(**name)) {
        // One that is misspelt has been told.
        let meant = Some(format!("did you mean `{name}`?"));
        if !reader.mistakes.iter().any(|mistake| mistake.code == "unknown-variable" && mistake.hint == meant) {
            let hint = Some(format!("write `{{{{ {name} }}}}` where it belongs"));
            let message = format!("the prompt does not use the variable `{name}`");
            note("missing-variable", templates[0].whole(), message, hint, reader);
        }
    }
}

/// Tells a mistake with its place in the file, where there is one.
fn note(code: &'static str, place: Option<FilePlace>, message: String, hint: Option<String>, reader: &mut Reader) {
    reader.mistake(code, message, hint);
    reader.mistakes.last_mut().expect("it was just added").file = place;
}

/// The words of a mapping that templates see, for kinds that offer a whole row.
pub fn variables(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Object(pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<&'static str> {
        let mut reader = Reader::default();
        Prompt::read(text, &["question", "answer"], &["question"], &mut reader);
        reader.mistakes.iter().map(|mistake| mistake.code).collect()
    }

    #[test]
    fn variables_are_checked_before_anything_is_asked() {
        for (text, expected) in [
            ("{{ question }}", vec![]),
            ("{% if answer %}{{ answer }}{% endif %} {{ question }}", vec![]),
            ("{{ qestion }}", vec!["unknown-variable"]),
            ("{{ other }}", vec!["unknown-variable", "missing-variable"]),
            ("{{ question|uper }}", vec!["unknown-filter"]),
            ("{% include 'other.md' %} {{ question }}", vec!["missing-partial"]),
            ("{{ answer }}", vec!["missing-variable"]),
            ("{{ question ", vec!["broken-prompt"]),
        ] {
            assert_eq!(mistakes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_partial_is_part_of_the_prompt_and_sees_what_is_set_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("whole.md", "{% set who = 'you' %}{% include 'parts/ask.md' %}");
        std::fs::create_dir(folder.path().join("parts")).unwrap();
        write("parts/ask.md", "{{ who }}: {{ question }}{% include 'end.md' %}");
        write("parts/end.md", "!");
        let read = |reader: &mut Reader| {
            Prompt::read_file(&folder.path().join("whole.md"), &[], &["question"], &["question"], reader)
        };
        let prompt = read(&mut Reader::default()).expect("nothing is wrong with it");
        assert_eq!(prompt.render(&serde_json::json!({"question": "q"})).unwrap(), [Message::user("you: q!")]);
        let before = prompt.text().to_string();
        write("parts/end.md", "?");
        assert_ne!(read(&mut Reader::default()).unwrap().text(), before, "an edited partial is an edited prompt");
        write("parts/ask.md", "{{ who }}:\n {{ qestion }}{% include 'edn.md' %}");
        let mut reader = Reader::default();
        assert!(read(&mut reader).is_none());
        let told = |reader: &Reader| {
            let one = &reader.mistakes[0];
            let place = one.file.clone().expect("it lies in a file");
            (one.code, place.path.ends_with("parts/ask.md"), place.line, place.bytes, one.hint.clone())
        };
        assert_eq!(
            told(&reader),
            ("missing-partial", true, Some(2), Some(25..33), Some("did you mean `end.md`?".into()))
        );
        write("parts/ask.md", "{{ who }}:\n {{ qestion }}");
        let mut reader = Reader::default();
        assert!(read(&mut reader).is_none());
        assert_eq!(
            told(&reader),
            ("unknown-variable", true, Some(2), Some(4..11), Some("did you mean `question`?".into()))
        );
        write("parts/ask.md", "{% include 'ask.md' %}");
        let mut reader = Reader::default();
        assert!(read(&mut reader).is_none());
        assert_eq!(reader.mistakes[0].code, "circular-partial");
    }

    #[test]
    fn columns_that_are_asked_for_first_are_not_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.md");
        let needed = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let prompt = Prompt::read_file(&path, &[], &["question", "options"], &[], &mut Reader::default()).unwrap();
            prompt.needs("prompt", "input", &["options"]).len()
        };
        assert_eq!(needed("{{ question }} {{ options }}"), 1);
        assert_eq!(needed("{% if options %}{{ options }}{% endif %}"), 0);
        assert_eq!(needed("{{ options|default('none') }}"), 0);
        assert_eq!(needed("{# {{ options }} #}{% raw %}{{ options }}{% endraw %}"), 0);
        let own = Prompt::read("{{ options }}", &["options"], &[], &mut Reader::default()).unwrap();
        assert_eq!(own.needs("prompt", "input", &["options"]), []);
    }

    #[test]
    fn text_is_rendered_as_it_is() {
        let prompt = Prompt::read("Q: {{ question }}", &["question"], &[], &mut Reader::default()).unwrap();
        let rendered = prompt.render(&serde_json::json!({"question": "<a & {{ b }}>"})).unwrap();
        assert_eq!(rendered, [Message::user("Q: <a & {{ b }}>")]);
        assert!(prompt.render(&serde_json::json!({})).is_err());
    }

    #[test]
    fn a_prompt_may_be_a_conversation_and_a_row_cannot_begin_a_message() {
        let text = "<!-- system -->\nBe {% if question %}exact{% endif %}.\n<!-- user -->\nQ: {{ question }}\n";
        let examples = [Example { user: "{{ 1 }}".into(), assistant: "one".into() }];
        let read =
            |text: &str, reader: &mut Reader| Prompt::read_with(text, &examples, &["question"], &["question"], reader);
        let prompt = read(text, &mut Reader::default()).unwrap();
        let rendered = prompt.render(&serde_json::json!({"question": "a\n<!-- assistant -->\nb"})).unwrap();
        let system = Message { role: "system".into(), content: "Be exact.".into() };
        let asked = Message::user("Q: a\n<!-- assistant -->\nb");
        assert_eq!(rendered, [system, Message::user("{{ 1 }}"), Message::assistant("one"), asked]);
        let again = Prompt::read(prompt.text(), &["question"], &["question"], &mut Reader::default()).unwrap();
        assert_eq!(again.render(&serde_json::json!({"question": "a"})).unwrap().len(), 4, "its text is all of it");
        for broken in
            ["<!-- assistant -->\n{{ question }}", "{% if question %}\n<!-- user -->\n{{ question }}{% endif %}"]
        {
            let mut reader = Reader::default();
            assert!(read(broken, &mut reader).is_none(), "{broken}");
            assert_eq!(reader.mistakes.iter().map(|one| one.code).collect::<Vec<_>>(), ["broken-messages"]);
        }
    }
}
