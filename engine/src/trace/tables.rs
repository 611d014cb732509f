//! Stored tables as a trace reads them: all ids, and single rows.

use crate::executor::artifacts::{self, Trouble};
use cache::{ActionKey, Manifest, Store, Table};
use stages::failure::Failure;
use stages::rows::{ROW_ID, Rows};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Opens each table once.
pub struct Tables<'a> {
    store: &'a Store,
    opened: RefCell<HashMap<(ActionKey, String), Rc<Opened>>>,
}

pub struct Opened {
    pub ids: Vec<String>,
    table: Table,
}

impl<'a> Tables<'a> {
    pub fn new(store: &'a Store) -> Tables<'a> {
        Tables { store, opened: RefCell::default() }
    }

    ///
    /// # Errors
    /// If the table is gone or damaged.
    pub fn open(&self, manifest: &Manifest, output: &str) -> Result<Rc<Opened>, Trouble> {
        let place = (manifest.key, output.to_string());
        if let Some(opened) = self.opened.borrow().get(&place) {
            return Ok(opened.clone());
        }
        let opened = Rc::new(Opened::new(artifacts::open_table(self.store, manifest, output)?)?);
        self.opened.borrow_mut().insert(place, opened.clone());
        Ok(opened)
    }
}

impl Opened {
    fn new(table: Table) -> Result<Opened, Trouble> {
        let mut ids = Vec::new();
        for batch in &table.batches {
            let column = batch.schema().index_of(ROW_ID).map_err(|error| Failure::Ourselves(error.to_string()))?;
            let only_ids = batch.project(&[column]).map_err(|error| Failure::Ourselves(error.to_string()))?;
            ids.extend(Rows::from_batches(&[only_ids])?.rows.into_iter().map(|row| row.id));
        }
        Ok(Opened { ids, table })
    }

    /// A table with this row only, its number counted from 0.
    pub fn row(&self, number: usize) -> Result<Rows, Trouble> {
        let mut left = number;
        for batch in &self.table.batches {
            if left < batch.num_rows() {
                return Ok(Rows::from_batches(&[batch.slice(left, 1)])?);
            }
            left -= batch.num_rows();
        }
        Err(Failure::Ourselves(format!("there is no row {number}")).into())
    }
}
