//! Pins: names under which finished work is kept from every sweep, until the pin is removed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::error::{AtPath, Error, Result};
use crate::hash::ActionKey;
use crate::line::{sealed, unsealed};
use crate::store::Store;
use crate::survey::{files_in, name_of, unless_gone};
use crate::write::persist;

const ENDING: &str = ".json";
const NAME_CHARACTERS_MAX: usize = 100;

/// What one pin keeps, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub name: String,
    /// Seconds since 1970.
    pub at: u64,
    /// What the user calls the recipe.
    pub pipeline: String,
    /// The recipe's path as it was typed.
    pub recipe: String,
    /// What was laid over the recipe, as it was typed.
    pub overrides: Vec<String>,
    /// By node: what it was when it was pinned.
    pub keys: BTreeMap<String, ActionKey>,
}

impl Store {
    /// Keeps the pin's keys; one of the same name is replaced.
    ///
    /// # Errors
    /// If the name cannot be a file's, or the store cannot be written to.
    pub fn pin(&self, pin: &Pin) -> Result<()> {
        check_name(&pin.name)?;
        let aside = self.layout().temporary();
        let mut file = NamedTempFile::new_in(&aside).at("write", &aside)?;
        writeln!(file, "{}", sealed(pin)).at("write", file.path())?;
        persist(file, &self.layout().pin(&pin.name))
    }

    /// Every pin, by name.
    ///
    /// # Errors
    /// If one cannot be read: what it keeps is not known, so nothing may be swept.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        let mut pins = Vec::new();
        for (path, _) in files_in(&self.layout().pins())? {
            let Some(name) = name_of(&path).strip_suffix(ENDING) else { continue };
            let Some(bytes) = unless_gone(fs::read(&path)).at("read", &path)? else { continue };
            let pin = unsealed::<Pin>(bytes.trim_ascii_end()).filter(|pin| pin.name == name);
            pins.push(pin.ok_or_else(|| Error::DamagedPin { name: name.to_owned() })?);
        }
        Ok(pins)
    }

    /// Lets go of what a pin keeps; whether there was one. A damaged pin is removed like any other.
    ///
    /// # Errors
    /// If the store cannot be written to.
    pub fn unpin(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        let path = self.layout().pin(name);
        unless_gone(fs::remove_file(&path)).at("remove", &path).map(|gone| gone.is_some())
    }
}

/// Names become file names: letters, digits, `-`, `_` and dots, but no dot in front.
fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !name.is_empty() && name.len() <= NAME_CHARACTERS_MAX && !name.starts_with('.') && name.chars().all(is_plain)
    {
        true => Ok(()),
        false => Err(Error::NotAName { name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Preimage;

    fn pin(name: &str) -> Pin {
        let keys = [("exam".to_owned(), Preimage::new().action_key())].into();
        Pin { name: name.to_owned(), at: 5, pipeline: "p".into(), recipe: "p.yaml".into(), overrides: vec![], keys }
    }

    #[test]
    fn pins_are_kept_replaced_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for name in ["paper", "other", "paper"] {
            store.pin(&pin(name)).unwrap();
        }
        assert_eq!(store.pins().unwrap(), [pin("other"), pin("paper")]);
        assert!(store.unpin("other").unwrap() && !store.unpin("other").unwrap());
        assert_eq!(store.pins().unwrap(), [pin("paper")]);
    }

    #[test]
    fn a_pin_cannot_be_written_outside_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for name in ["", ".", "..", "../format", "a/b", "a\nb", &"x".repeat(101)] {
            assert!(matches!(store.pin(&pin(name)), Err(Error::NotAName { .. })), "{name}");
            assert!(matches!(store.unpin(name), Err(Error::NotAName { .. })), "{name}");
        }
    }

    /// The disaster: a flipped digit lets a sweep take what was pinned.
    #[test]
    fn a_damaged_pin_is_an_error_and_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.pin(&pin("paper")).unwrap();
        let path = store.layout().pin("paper");
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, text.replace("\"at\":5", "\"at\":6")).unwrap();
        assert!(matches!(store.pins(), Err(Error::DamagedPin { name }) if name == "paper"));
        assert!(store.unpin("paper").unwrap());
        assert!(store.pins().unwrap().is_empty());
    }
}
