//! Publishing one action: outputs one by one, then the manifest that makes them visible, all or nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tempfile::NamedTempFile;

use crate::error::{AtPath, Error, Result};
use crate::hash::{ActionKey, BlobHash, ContentHash};
use crate::key::Preimage;
use crate::manifest::{MANIFEST_FORMAT, Manifest, Output, TreeFile};
use crate::provenance::Provenance;
use crate::store::Store;
use crate::table::{StoredTable, Table, TableSummary, TableWriter};
use crate::tree::{files_of, tree_content};
use crate::write::{HashingWriter, hash_while_copying, persist, persist_small, write_aside};

/// Up to here a table that is in the store already (the empty one of dropped rows, most often) is compared in place of written again.
const SMALL_BYTES: u64 = 64 << 10;

/// A table that is being written beside the store, while the work goes on that makes its rows. Dropped, it leaves nothing.
pub struct TableFile {
    writer: TableWriter<HashingWriter<BufWriter<NamedTempFile>>>,
    folder: PathBuf,
}

/// A whole table beside the store, which a publication takes in.
#[derive(Debug)]
pub struct WrittenTable {
    file: NamedTempFile,
    blob: BlobHash,
    bytes: u64,
    pub summary: TableSummary,
}

impl TableFile {
    pub(crate) fn new(folder: PathBuf, schema: SchemaRef) -> Result<Self> {
        let file = NamedTempFile::new_in(&folder).at("write", &folder)?;
        Ok(Self { writer: TableWriter::new(HashingWriter::new(BufWriter::new(file)), schema)?, folder })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch)
    }

    pub fn finish(self) -> Result<WrittenTable> {
        let failed = |error| Error::io("write", &self.folder, error);
        let (output, summary) = self.writer.finish()?;
        let (file, blob, bytes) = output.finish().map_err(failed)?;
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        Ok(WrittenTable { file, blob, bytes, summary })
    }
}

impl WrittenTable {
    /// To read what was written.
    pub fn open(&self) -> Result<StoredTable> {
        let file = self.file.reopen().at("read", self.file.path())?;
        StoredTable::new(file)
    }
}

/// Outputs on their way into the store. Dropped without a commit, it leaves at most blobs that no manifest names.
#[derive(Debug)]
pub struct Publication {
    store: Store,
    key: ActionKey,
    preimage: Preimage,
    outputs: BTreeMap<String, Output>,
    replace: bool,
}

impl Publication {
    pub(crate) fn new(store: Store, preimage: Preimage) -> Self {
        Self { store, key: preimage.action_key(), preimage, outputs: BTreeMap::new(), replace: false }
    }

    pub fn key(&self) -> ActionKey {
        self.key
    }

    /// Done again on purpose: what a shared store has for this key is not adopted but replaced.
    pub fn replace(&mut self) {
        self.replace = true;
    }

    /// Adds a table that is in memory.
    pub fn table(&mut self, name: &str, table: &Table) -> Result<ContentHash> {
        self.rows(name, table.schema.clone(), table.batches.iter().cloned().map(Ok))
    }

    /// Adds a table batch by batch; the first failing batch ends it.
    pub fn rows<E: From<Error>>(
        &mut self,
        name: &str,
        schema: SchemaRef,
        batches: impl IntoIterator<Item = Result<RecordBatch, E>>,
    ) -> Result<ContentHash, E> {
        let mut table = self.store.write_table(schema)?;
        for batch in batches {
            table.write(&batch?)?;
        }
        Ok(self.written(name, table.finish()?)?)
    }

    /// Adds a table that was written before.
    pub fn written(&mut self, name: &str, table: WrittenTable) -> Result<ContentHash> {
        let WrittenTable { file, blob, bytes, summary } = table;
        let place = self.store.layout().blob(&blob);
        match bytes <= SMALL_BYTES {
            true => persist_small(file, &place)?,
            false => persist(file, &place)?,
        }
        self.add(name, Output::Rows { content: summary.content, blob, rows: summary.rows, bytes });
        Ok(summary.content)
    }

    /// Adds a folder, all files under it. `provenance` names those (by relative path) that are not part of its content.
    pub fn tree(&mut self, name: &str, folder: &Path, provenance: &[&str]) -> Result<ContentHash> {
        let mut files = Vec::new();
        for (path, source) in files_of(folder)? {
            let (blob, bytes) = self.copy_in(&source)?;
            let provenance = provenance.contains(&path.as_str());
            files.push(TreeFile { path, blob, bytes, provenance });
        }
        let content = tree_content(&files);
        self.add(name, Output::Tree { content, files });
        Ok(content)
    }

    /// Makes the action visible and returns what the store then holds: this, or what another writer published meanwhile (both are
    /// valid; go on with the content hashes returned). Removes the action's scratch folder. A shared store comes last: that it
    /// could not be reached is told by [`crate::remote::Sharing::report`] and costs nothing that was done.
    pub fn commit(self, provenance: Provenance) -> Result<Manifest> {
        let Self { store, key, preimage, outputs, replace } = self;
        let manifest = Manifest { format: MANIFEST_FORMAT, key, preimage, outputs, provenance };
        let layout = store.layout();
        persist(write_aside(&layout.temporary(), &manifest.to_bytes())?, &layout.manifest(&key))?;
        let scratch = layout.scratch(&key);
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &scratch, error));
            }
            _ => {}
        }
        let here = store.lookup_here(&key)?.intact().unwrap_or(manifest);
        Ok(store.share(here, replace))
    }

    fn copy_in(&self, source: &Path) -> Result<(BlobHash, u64)> {
        let mut input = File::open(source).at("read", source)?;
        let mut file = self.temporary()?;
        let (blob, bytes) = hash_while_copying(&mut input, &mut file).map_err(|error| self.failed(error))?;
        persist(file, &self.store.layout().blob(&blob))?;
        Ok((blob, bytes))
    }

    fn add(&mut self, name: &str, output: Output) {
        let before = self.outputs.insert(name.to_owned(), output);
        assert!(before.is_none(), "output `{name}` published twice");
    }

    fn temporary(&self) -> Result<NamedTempFile> {
        let folder = self.store.layout().temporary();
        NamedTempFile::new_in(&folder).at("write", &folder)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("write", &self.store.layout().temporary(), error)
    }
}
