//! The list of trusted writers, a text file that people may edit: `decoct1:… name`, a line each, comments after `#`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use super::error::TrustError;
use super::key::PublicKey;
use super::secret::make_folder;
use crate::error::{AtPath, Error, Result};
use crate::lock::FileLock;
use crate::write::sync_folder;

const OPENING: &str = "# Writers whose work from shared stores is used: a public key and a name, one a line.\n";

/// Someone whose work is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    pub name: String,
    pub key: PublicKey,
}

/// Everyone on the list in `path`, in its order; no one if there is no such file.
///
/// # Errors
/// Names the first line that is not a key and a name, or repeats one.
pub fn read(path: &Path) -> Result<Vec<Writer>> {
    let text = text_of(path)?;
    let mut writers: Vec<Writer> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match parse(line).and_then(|writer| not_repeated(&writers, writer)) {
            Ok(writer) => writers.extend(writer),
            Err(problem) => return Err(TrustError::Line { path: path.to_owned(), line: index + 1, problem }.into()),
        }
    }
    Ok(writers)
}

/// Adds a writer at the end, and keeps every comment. A key that is on the list gets the new name.
///
/// # Errors
/// If the name is not one word, or belongs to another key.
pub fn add(path: &Path, name: &str, key: PublicKey) -> Result<()> {
    if let Some(problem) = problem_of_name(name) {
        return Err(TrustError::BadName { name: name.to_owned(), problem }.into());
    }
    edit(path, |writers, text| {
        if let Some(taken) = writers.iter().find(|writer| writer.name == name && writer.key != key) {
            return Err(TrustError::NameTaken { name: name.to_owned(), key: taken.key });
        }
        let mut kept = if text.is_empty() { OPENING.to_owned() } else { without(text, key) };
        kept.push_str(&format!("{key} {name}\n"));
        Ok(kept)
    })
}

/// Takes a writer off the list, by name or by the text of the key.
pub fn remove(path: &Path, name_or_key: &str) -> Result<Writer> {
    let mut removed = None;
    edit(path, |writers, text| {
        let is_meant = |writer: &&Writer| writer.name == name_or_key || writer.key.to_string() == name_or_key;
        let writer = writers.iter().find(is_meant).ok_or_else(|| TrustError::Stranger(name_or_key.to_owned()))?;
        removed = Some(writer.clone());
        Ok(without(text, writer.key))
    })?;
    Ok(removed.expect("an edit that went well has removed someone"))
}

/// Reads, changes and replaces the list, one process at a time.
fn edit(path: &Path, change: impl FnOnce(&[Writer], &str) -> Result<String, TrustError>) -> Result<()> {
    make_folder(path)?;
    // A list kept elsewhere, behind a link, stays there.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let lock = FileLock::acquire(&path.with_extension("lock"))?;
    let written = read(path).and_then(|writers| {
        let text = change(&writers, &text_of(path)?)?;
        replace(path, &text)
    });
    lock.remove();
    written
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().expect("the list lies in a folder");
    let mut file = NamedTempFile::new_in(folder).at("write", folder)?;
    file.write_all(text.as_bytes()).at("write", path)?;
    file.as_file().sync_all().at("sync", path)?;
    file.persist(path).map_err(|error| Error::io("write", path, error.error))?;
    sync_folder(folder)
}

fn text_of(path: &Path) -> Result<String> {
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    // A group may be one user's own, as it is on many systems; the rest of the world is not.
    if mode & 0o002 != 0 {
        return Err(TrustError::OpenList { path: path.to_owned(), mode }.into());
    }
    fs::read_to_string(path).at("read", path)
}

/// `None` for a line without a writer; the problem if it is no line of this list.
fn parse(line: &str) -> Result<Option<Writer>, String> {
    let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
    let Some(key) = words.next() else { return Ok(None) };
    let key = key.parse::<PublicKey>().map_err(|error| error.to_string())?;
    let name = words.next().ok_or("the name behind the key is missing")?;
    match (words.next(), problem_of_name(name)) {
        (Some(word), _) => Err(format!("`{word}` behind the name is too much")),
        (None, Some(problem)) => Err(format!("`{name}` cannot be a name: {problem}")),
        (None, None) => Ok(Some(Writer { name: name.to_owned(), key })),
    }
}

fn not_repeated(writers: &[Writer], writer: Option<Writer>) -> Result<Option<Writer>, String> {
    let Some(new) = writer else { return Ok(None) };
    match writers.iter().find(|known| known.name == new.name || known.key == new.key) {
        Some(known) if known.key == new.key => Err(format!("the key of `{}` is there twice", known.name)),
        Some(known) => Err(format!("the name `{}` is there twice, with two keys", known.name)),
        None => Ok(Some(new)),
    }
}

/// The list as it was, less the line of `key`.
fn without(text: &str, key: PublicKey) -> String {
    let is_other = |line: &&str| !matches!(parse(line), Ok(Some(writer)) if writer.key == key);
    text.lines().filter(is_other).map(|line| format!("{line}\n")).collect()
}

fn problem_of_name(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("it is empty"),
        _ if name.chars().any(char::is_whitespace) => Some("it holds a blank"),
        _ if name.chars().any(char::is_control) => Some("it holds a control character"),
        _ if name.starts_with('#') => Some("`#` begins a comment"),
        _ if name.parse::<PublicKey>().is_ok() => Some("it is a key"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::trust::key::Signer;

    fn key(byte: u8) -> PublicKey {
        Signer::from_secret_text(&format!("{byte:02x}").repeat(32)).unwrap().public()
    }

    fn list(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trusted");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn names(path: &Path) -> Vec<String> {
        read(path).unwrap().into_iter().map(|writer| writer.name).collect()
    }

    fn check(text: &str, expected: Result<&[&str], &str>) {
        let (_folder, path) = list(text);
        match expected {
            Ok(expected) => assert_eq!(names(&path), expected, "{text}"),
            Err(expected) => {
                let error = read(&path).unwrap_err().to_string();
                assert!(error.contains(expected), "{text}: {error}");
            }
        }
    }

    #[test]
    fn a_mistake_in_the_list_is_named_by_its_line() {
        let (anna, ben) = (key(1), key(2));
        check("", Ok(&[]));
        check("# no one\n\n  # yet\n", Ok(&[]));
        check(&format!("{anna} anna\n{ben}\tben # works in the lab"), Ok(&["anna", "ben"]));
        check(&format!("\r\n{anna} anna\r\n"), Ok(&["anna"]));
        check(&format!("{anna} größe-7.lab"), Ok(&["größe-7.lab"]));
        check(&format!("{anna} anna\n\nben\n"), Err("line 3: `ben` is not a public key"));
        check(&format!("# hi\n{anna}\n"), Err("line 2: the name behind the key is missing"));
        check(&format!("{anna} # anna\n"), Err("line 1: the name behind the key is missing"));
        check(&format!("{anna} anna smith\n"), Err("line 1: `smith` behind the name is too much"));
        check(&format!("{anna} {ben}\n"), Err("cannot be a name: it is a key"));
        check(&format!("{anna} anna\n{ben} anna\n"), Err("line 2: the name `anna` is there twice"));
        check(&format!("{anna} anna\n{anna} a\n"), Err("line 2: the key of `anna` is there twice"));
    }

    #[test]
    fn comments_of_people_survive_edits() {
        let (_folder, path) = list(&format!("# the lab\n{} anna  # until June\n\n# guests", key(1)));
        add(&path, "ben", key(2)).unwrap();
        let text = format!("# the lab\n{} anna  # until June\n\n# guests\n{} ben\n", key(1), key(2));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(remove(&path, "anna").unwrap().key, key(1));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# the lab\n\n# guests\n{} ben\n", key(2)));
        assert_eq!(remove(&path, &key(2).to_string()).unwrap().name, "ben");
        assert!(matches!(remove(&path, "ben"), Err(Error::Trust(TrustError::Stranger(_)))));
    }

    #[test]
    fn a_name_never_slips_to_another_key() {
        let (_folder, path) = list("");
        add(&path, "anna", key(1)).unwrap();
        add(&path, "anna", key(1)).unwrap();
        assert!(matches!(add(&path, "anna", key(2)), Err(Error::Trust(TrustError::NameTaken { .. }))));
        add(&path, "anna-old", key(1)).unwrap();
        add(&path, "anna", key(2)).unwrap();
        assert_eq!(names(&path), ["anna-old", "anna"]);
        for bad in ["", "a b", "#a", "a\nb", "a\u{7}", &key(1).to_string()] {
            assert!(matches!(add(&path, bad, key(3)), Err(Error::Trust(TrustError::BadName { .. }))), "{bad}");
        }
    }

    /// The disaster: two terminals, two colleagues added, one of them forgotten.
    #[test]
    fn additions_at_once_are_all_kept() {
        let (_folder, path) = list("");
        std::thread::scope(|scope| {
            for byte in 1..=8 {
                let path = &path;
                scope.spawn(move || add(path, &format!("writer-{byte}"), key(byte)).unwrap());
            }
        });
        assert_eq!(names(&path).len(), 8);
    }

    #[test]
    fn a_list_that_everyone_can_write_is_not_believed() {
        let (_folder, path) = list(&format!("{} anna\n", key(1)));
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod go-w {}", path.display())), "{error}");
        assert!(add(&path, "ben", key(2)).is_err());
        fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        assert_eq!(names(&path), ["anna"]);
    }

    #[test]
    fn a_list_behind_a_link_stays_behind_it() {
        let (folder, path) = list(&format!("{} anna\n", key(1)));
        let link = folder.path().join("config/trusted");
        make_folder(&link).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        add(&link, "ben", key(2)).unwrap();
        assert_eq!(names(&path), ["anna", "ben"]);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics_and_what_is_added_to_it_is_read_back(text in "(# \\PC{0,9}\n|decoct1:[0-9a-f]{0,64} ?\\PC{0,5}\n|\n){0,5}") {
            let (_folder, path) = list(&text);
            let before = read(&path).map(|writers| writers.len());
            let added = add(&path, "ben", key(2));
            prop_assert_eq!(before.is_ok(), added.is_ok());
            if let Ok(before) = before {
                prop_assert_eq!(read(&path).unwrap().len(), before + 1);
            } else {
                prop_assert_eq!(fs::read_to_string(&path).unwrap(), text);
            }
        }
    }
}
