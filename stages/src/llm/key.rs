//! Keys of servers: where a recipe may say that one lies, whether it can be used, and how it is held so that nobody gets to see it.

use crate::failure::{Failure, Result};
use crate::settings::{Reader, Step, shown_path};
use hyper::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// What stands in the place of a key that a server repeats.
const MASK: &str = "***";
/// No key is longer; a file that is, is another file.
const BYTES_MAX: u64 = 16 * 1024;
/// Names under which keys are written where they do not belong.
const LITERAL_NAMES: [&str; 8] =
    ["api_key", "apikey", "api-key", "key", "access_token", "authorization", "bearer", "password"];
const WHERE_KEYS_BELONG: &str = "a key belongs into the environment (`api_key_env: NAME`) or into a file that only its owner reads (`api_key_file: PATH`)";

/// Where a key lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeySource {
    Variable(String),
    File(PathBuf),
}

/// Why a key cannot be used, and what to do about it. Says nothing of the key itself.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyTrouble {
    /// As recipes' mistakes are called.
    pub code: &'static str,
    pub message: String,
    pub hint: String,
}

impl KeySource {
    /// Whether a key can be had from here; what was read is wiped again.
    pub fn check(&self) -> Result<(), KeyTrouble> {
        self.secret().map(drop)
    }

    /// The key, for as long as it is needed. From then on this process leaves no core file and lets no other read its memory.
    pub fn read(&self) -> Result<Key> {
        let secret =
            self.secret().map_err(|trouble| Failure::Recipe(format!("{}; {}", trouble.message, trouble.hint)))?;
        leave_no_traces();
        Ok(Key::new(secret))
    }

    fn secret(&self) -> Result<SecretString, KeyTrouble> {
        match self {
            KeySource::Variable(name) => of_variable(name),
            KeySource::File(path) => of_file(path),
        }
    }
}

fn of_variable(name: &str) -> Result<SecretString, KeyTrouble> {
    let text = Zeroizing::new(std::env::var_os(name).unwrap_or_default().into_encoded_bytes());
    if text.is_empty() {
        return Err(KeyTrouble {
            code: "missing-environment",
            message: format!("the environment variable `{name}` is not set"),
            hint: format!("`export {name}=…`, or choose a profile whose models need no key"),
        });
    }
    usable(&text).map_err(|what| KeyTrouble {
        code: "bad-key",
        message: format!("the environment variable `{name}` holds {what} and not a key"),
        hint: format!("`export {name}=…` with the key alone"),
    })
}

fn of_file(path: &Path) -> Result<SecretString, KeyTrouble> {
    let shown = shown_path(path);
    let trouble = |code, message: String, hint: String| KeyTrouble { code, message, hint };
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => trouble(
            "missing-file",
            format!("the key file `{shown}` does not exist"),
            format!("write the key into it, for your eyes only: `install -m 600 /dev/stdin {shown}`"),
        ),
        _ => {
            trouble("unreadable-file", format!("cannot read the key file `{shown}`: {error}"), WHERE_KEYS_BELONG.into())
        }
    };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    // Of what was opened, so that nobody can put another file there in between; a link is judged by what it leads to.
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(trouble(
            "not-a-file",
            format!("`{shown}` is no file that could hold a key"),
            WHERE_KEYS_BELONG.into(),
        ));
    }
    if let Some(mode) = open_to_others(&found) {
        let message = format!("the key file `{shown}` is open to others than its owner (mode {mode:04o})");
        return Err(trouble("bad-key", message, format!("`chmod 600 {shown}`")));
    }
    let what = if found.len() > BYTES_MAX { Err("more than a key could be") } else { Ok(()) };
    let mut text = Zeroizing::new(Vec::with_capacity(found.len().min(BYTES_MAX) as usize));
    std::io::Read::read_to_end(&mut std::io::Read::take(&mut file, BYTES_MAX), &mut text).map_err(unreadable)?;
    what.and_then(|()| usable(&text)).map_err(|what| {
        let message = format!("the key file `{shown}` holds {what} and not a key");
        trouble("bad-key", message, "write the key into it and nothing else, in one line".to_string())
    })
}

/// The file's mode where group or others may do anything with it.
fn open_to_others(found: &std::fs::Metadata) -> Option<u32> {
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(found) & 0o7777;
        (mode & 0o077 != 0).then_some(mode)
    }
    #[cfg(not(unix))]
    {
        _ = found;
        None
    }
}

/// A key that can stand in a header, without the line's end; or what is there in place of one.
fn usable(text: &[u8]) -> Result<SecretString, &'static str> {
    let line = text.trim_ascii_end();
    match line {
        [] => Err("nothing"),
        _ if line.iter().any(|byte| matches!(byte, b'\n' | b'\r')) => Err("several lines"),
        _ if line.iter().any(|byte| !byte.is_ascii_graphic()) => Err("blanks or characters that are not ASCII"),
        _ => Ok(SecretString::from(String::from_utf8_lossy(line).into_owned())),
    }
}

/// A server's key. Its text is wiped when it is dropped, and no `{:?}` shows it.
#[derive(Debug)]
pub struct Key {
    secret: SecretString,
    header: HeaderValue,
}

impl Key {
    fn new(secret: SecretString) -> Key {
        let text = Zeroizing::new(format!("Bearer {}", secret.expose_secret()));
        let mut header = HeaderValue::from_str(&text).expect("a key is printable ASCII");
        header.set_sensitive(true);
        Key { secret, header }
    }

    /// For `Authorization`.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// Tells keys apart within this process; never written anywhere.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(self.secret.expose_secret().as_bytes()).as_bytes()
    }

    /// `words` without the key, which some servers repeat.
    pub fn hide(&self, words: &str) -> String {
        words.replace(self.secret.expose_secret(), MASK)
    }

    /// The same for an answer that is about to be kept.
    pub fn hide_in_answer(&self, raw: Vec<u8>) -> Vec<u8> {
        let holds = std::str::from_utf8(&raw).map_or(true, |text| text.contains(self.secret.expose_secret()));
        if holds { self.hide(&String::from_utf8_lossy(&raw)).into_bytes() } else { raw }
    }
}

/// A process that holds a key is not dumped: that also keeps debuggers of the same user, and `/proc/PID/mem`, away from it. Where the
/// system refuses, the key is as safe as in any other program.
fn leave_no_traces() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| _ = forbid_dumps());
}

#[cfg(target_os = "linux")]
fn forbid_dumps() -> rustix::io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn forbid_dumps() -> rustix::io::Result<()> {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)
}

#[cfg(not(unix))]
fn forbid_dumps() {}

/// Takes what looks like a secret out of a model's entry and notes it; also a password in an address.
pub fn refuse_literals(fields: &mut Map<String, Value>, reader: &mut Reader) {
    let names: Vec<String> = fields.keys().filter(|name| is_literal_name(name)).cloned().collect();
    for name in names {
        fields.shift_remove(&name);
        let message = format!("`{name}` is no setting: a key does not belong into a recipe, which others read");
        let note = |reader: &mut Reader| reader.mistake("secret", message, Some(WHERE_KEYS_BELONG.to_string()));
        reader.within(Step::Key(name.clone()), note);
    }
    if fields.get("api_key_env").and_then(Value::as_str).is_some_and(|name| !is_variable_name(name)) {
        fields.shift_remove("api_key_env");
        let message =
            "`api_key_env` is the name of an environment variable, such as `OPENAI_API_KEY`, not the key itself";
        let note = |reader: &mut Reader| reader.mistake("secret", message, Some(WHERE_KEYS_BELONG.to_string()));
        reader.within(Step::Key("api_key_env".to_string()), note);
    }
    for (name, value) in &*fields {
        reader.within(Step::Key(name.clone()), |reader| refuse_within(value, reader));
    }
}

fn is_literal_name(name: &str) -> bool {
    LITERAL_NAMES.contains(&name.to_ascii_lowercase().as_str())
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Below a setting: passwords in addresses, and keys among fields that are sent as they are.
fn refuse_within(value: &Value, reader: &mut Reader) {
    match value {
        Value::String(text) if has_login(text) => {
            let message = "the address has a user or password in it, which others read";
            reader.mistake("secret", message, Some(WHERE_KEYS_BELONG.to_string()));
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, item)| reader.within(Step::Index(index), |reader| refuse_within(item, reader))),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            if is_literal_name(name) && name != "key" && value.is_string() {
                let message = format!("`{name}` looks like a key, and what stands here is kept with every result");
                let note = |reader: &mut Reader| reader.mistake("secret", message, Some(WHERE_KEYS_BELONG.to_string()));
                return reader.within(Step::Key(name.clone()), note);
            }
            reader.within(Step::Key(name.clone()), |reader| refuse_within(value, reader));
        }),
        _ => {}
    }
}

/// Whether an address has something before an `@` in its host.
fn has_login(text: &str) -> bool {
    let after = text.split_once("://").filter(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()));
    let host = after.and_then(|(_, rest)| rest.split(['/', '?', '#', ' ', '\n']).next());
    host.is_some_and(|host| host.contains('@'))
}

/// The place of a key file: `~/` is the home folder, anything else is relative to the recipe.
pub fn file_path(named: &str, reader: &mut Reader) -> PathBuf {
    match (named.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => reader.path(&home.join(rest).to_string_lossy()),
        _ => reader.path(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEY: &str = "sk-test-0123456789";

    #[cfg(unix)]
    fn key_file(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_is_its_owners_alone_and_holds_one_line() {
        let line = format!("{KEY}\n");
        for (text, mode, expected) in [
            (line.as_bytes(), 0o600, Ok(())),
            (line.as_bytes(), 0o400, Ok(())),
            (format!("{KEY}\r\n").as_bytes(), 0o600, Ok(())),
            (line.as_bytes(), 0o640, Err("bad-key")),
            (line.as_bytes(), 0o604, Err("bad-key")),
            (line.as_bytes(), 0o601, Err("bad-key")),
            (b"\n", 0o600, Err("bad-key")),
            (b"", 0o600, Err("bad-key")),
            (b"one\ntwo\n", 0o600, Err("bad-key")),
            (b"one two", 0o600, Err("bad-key")),
            ("schlüssel".as_bytes(), 0o600, Err("bad-key")),
            (&[b'k'; 20_000], 0o600, Err("bad-key")),
        ] {
            let (_folder, path) = key_file(text, mode);
            let found = KeySource::File(path.clone()).check();
            assert_eq!(found.as_ref().map_err(|trouble| trouble.code).copied(), expected, "{mode:o} {text:?}");
            if let Err(trouble) = found
                && trouble.message.contains("open to others")
            {
                assert_eq!(trouble.hint, format!("`chmod 600 {}`", path.display()));
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_judged_by_what_it_leads_to() {
        for (mode, is_fine) in [(0o600, true), (0o644, false)] {
            let (folder, path) = key_file(KEY.as_bytes(), mode);
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            assert_eq!(KeySource::File(link).check().is_ok(), is_fine);
        }
        let nowhere = KeySource::File("no/such/key".into()).check().unwrap_err();
        assert_eq!(nowhere.code, "missing-file");
        assert_eq!(KeySource::File(".".into()).check().unwrap_err().code, "not-a-file");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_holds_a_key_shows_it_nowhere() {
        let (_folder, path) = key_file(KEY.as_bytes(), 0o600);
        let key = KeySource::File(path).read().unwrap();
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable, "it would stand in a core file");
        assert!(!format!("{key:?} {:?}", key.header()).contains(KEY));
        assert_eq!(key.header().to_str().unwrap(), format!("Bearer {KEY}"));
        assert_eq!(key.hide(&format!("no such key: {KEY}!")), "no such key: ***!");
        assert_eq!(key.hide_in_answer(format!("a {KEY}").into_bytes()), b"a ***");
        let binary = [&b"\xff "[..], KEY.as_bytes()].concat();
        assert!(!String::from_utf8_lossy(&key.hide_in_answer(binary)).contains(KEY));
        assert_eq!(key.hide_in_answer(b"plain".to_vec()), b"plain");
    }

    #[test]
    fn secrets_in_a_recipe_are_named_and_not_repeated() {
        for (entry, expected) in [
            (json!({"model": "m", "api_key_env": "MY_KEY", "base_url": "http://host/a@b"}), None),
            (json!({"api_key": KEY}), Some("`api_key` is no setting")),
            (json!({"Authorization": KEY}), Some("`Authorization` is no setting")),
            (json!({"api_key_env": KEY}), Some("`api_key_env` is the name of")),
            (json!({"base_url": "https://me:word@host/v1"}), Some("the address has a user or password")),
            (json!({"base_url": ["http://host", "https://token@host/v1"]}), Some("the address has a user or password")),
            (json!({"extra_body": {"a": {"api_key": KEY}}}), Some("`api_key` looks like a key")),
            (json!({"extra_body": {"key": "C major"}}), None),
        ] {
            let (mut reader, mut fields) = (Reader::default(), entry.as_object().unwrap().clone());
            refuse_literals(&mut fields, &mut reader);
            let told: Vec<&str> = reader.mistakes.iter().map(|mistake| mistake.message.as_str()).collect();
            assert_eq!(told.len(), usize::from(expected.is_some()), "{entry}: {told:?}");
            assert!(
                told.iter().all(|message| message.starts_with(expected.unwrap()) && !message.contains(KEY)),
                "{told:?}"
            );
        }
    }
}
