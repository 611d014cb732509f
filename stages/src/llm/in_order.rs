//! Results that come in any order, handed on in their own. What has to wait long waits in a file, not in memory.

use crate::failure::{Failure, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Results so far ahead of the next one wait in memory; those beyond are put aside.
const HELD_IN_MEMORY: usize = 1024;

pub struct InOrder<T> {
    /// The number of the result that is next.
    next: usize,
    /// That one and those after it, as far as they are there.
    held: VecDeque<Option<T>>,
    /// Where the others lie in the file: offset and bytes.
    aside: HashMap<usize, (u64, usize)>,
    folder: PathBuf,
    file: Option<File>,
    end: u64,
}

impl<T: Serialize + DeserializeOwned> InOrder<T> {
    /// `folder` is for the file, made when it is needed and gone by itself.
    pub fn new(folder: &Path) -> InOrder<T> {
        InOrder { next: 0, held: VecDeque::new(), aside: HashMap::new(), folder: folder.into(), file: None, end: 0 }
    }

    /// # Errors
    /// If it cannot be put aside.
    pub fn put(&mut self, number: usize, value: T) -> Result<()> {
        let ahead = number - self.next;
        if ahead < HELD_IN_MEMORY {
            self.held.resize_with(self.held.len().max(ahead + 1), || None);
            self.held[ahead] = Some(value);
            return Ok(());
        }
        let bytes = serde_json::to_vec(&value).map_err(|error| Failure::Ourselves(error.to_string()))?;
        self.write(&bytes).map_err(|error| Failure::io("put results aside in", &self.folder, error))?;
        self.aside.insert(number, (self.end, bytes.len()));
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// The next result, once it is there.
    ///
    /// # Errors
    /// If it was put aside and cannot be read back.
    pub fn next(&mut self) -> Result<Option<T>> {
        let value = match self.held.front() {
            Some(Some(_)) => self.held.pop_front().flatten().expect("it is there"),
            _ => match self.aside.remove(&self.next) {
                Some((offset, bytes)) => {
                    self.held.pop_front();
                    self.read(offset, bytes)?
                }
                None => return Ok(None),
            },
        };
        self.next += 1;
        if self.aside.is_empty() {
            self.end = 0;
        }
        Ok(Some(value))
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile_in(&self.folder)?),
        };
        file.write_all_at(bytes, self.end)
    }

    fn read(&self, offset: u64, bytes: usize) -> Result<T> {
        let mut buffer = vec![0; bytes];
        let file = self.file.as_ref().expect("something was put aside");
        file.read_exact_at(&mut buffer, offset).map_err(|error| Failure::io("read back from", &self.folder, error))?;
        serde_json::from_slice(&buffer).map_err(|error| Failure::Ourselves(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_order(arrivals: &[usize]) -> Vec<(usize, String)> {
        let folder = tempfile::tempdir().unwrap();
        let mut in_order = InOrder::new(folder.path());
        let mut taken = Vec::new();
        for &number in arrivals {
            in_order.put(number, (number, "é".repeat(number % 7))).unwrap();
            while let Some(value) = in_order.next().unwrap() {
                taken.push(value);
            }
            assert!(in_order.held.len() <= HELD_IN_MEMORY);
        }
        taken
    }

    #[test]
    fn one_slow_row_holds_thousands_back_but_not_in_memory() {
        let slow_first: Vec<usize> = (1..5000).chain([0]).collect();
        let expected: Vec<_> = (0..5000).map(|number| (number, "é".repeat(number % 7))).collect();
        assert_eq!(in_order(&slow_first), expected);
        // Machines that share a store begin in the middle.
        let from_the_middle: Vec<usize> = (3000..5000).chain(0..3000).collect();
        assert_eq!(in_order(&from_the_middle), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_order_comes_out_in_order(arrivals in Just((0..2500).collect::<Vec<usize>>()).prop_shuffle()) {
            let numbers: Vec<usize> = in_order(&arrivals).into_iter().map(|(number, _)| number).collect();
            prop_assert_eq!(numbers, (0..2500).collect::<Vec<_>>());
        }
    }
}
