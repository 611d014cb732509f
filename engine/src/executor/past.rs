//! Finished work as plans ask for it, with the store behind it.

use crate::failure::Result;
use crate::plan::Past;
use crate::report::{Event, Reporter};
use cache::{ActionKey, Found, Manifest, Store};

/// `store` is absent where none has been made yet: then nothing is finished, and nothing needs to be written to find that out.
pub struct StoredPast<'a> {
    pub store: Option<&'a Store>,
    /// The recipe's name: histories of nodes are kept by it.
    pub recipe: &'a str,
    pub reporter: &'a dyn Reporter,
}

impl Past for StoredPast<'_> {
    fn find(&self, key: &ActionKey) -> Result<Option<Manifest>> {
        let Some(store) = self.store else { return Ok(None) };
        match store.lookup(key) {
            Ok(Found::Intact(manifest)) => Ok(Some(manifest)),
            Ok(Found::Missing) => Ok(None),
            Ok(Found::Damaged(notice)) => Ok(self.warn(&notice.to_string())),
            Err(error @ cache::Error::Remote { .. }) => Err(error.into()),
            // What cannot be read cannot be used: the work is done again, and publishing tells if the store is beyond that.
            Err(error) => Ok(self.warn(&error.to_string())),
        }
    }

    fn is_whole(&self, manifest: &Manifest) -> Result<bool> {
        let Some(store) = self.store else { return Ok(false) };
        Ok(store.missing_blobs(manifest)?.is_empty())
    }

    fn last(&self, node: &str) -> Option<Manifest> {
        generations(self.store?, self.recipe, node).next()
    }

    fn had(&self, node: &str, key: &ActionKey) -> bool {
        let had = |store: &Store| store.history(self.recipe, node).iter().any(|generation| generation.key == *key);
        self.store.is_some_and(had)
    }
}

/// Finished work of a node that is still here, newest first; old generations are not worth a look into a shared store each.
pub fn generations<'a>(store: &'a Store, recipe: &str, node: &str) -> impl Iterator<Item = Manifest> + use<'a> {
    let history = store.history(recipe, node);
    history.into_iter().rev().filter_map(|one| store.lookup_here(&one.key).ok()?.intact())
}

impl StoredPast<'_> {
    fn warn<T>(&self, message: &str) -> Option<T> {
        self.reporter.tell(&Event::Warned { node: None, message });
        None
    }
}
