//! A store on one machine: look up finished work, open its outputs (verified), publish new work atomically.
//!
//! Any number of processes may share one folder. Nothing is ever changed in place: files are written aside, synced and renamed,
//! blobs before the manifest that names them; so a process can die at any moment and leave at most a file in `tmp`.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::datatypes::SchemaRef;

use crate::error::{AtPath, Error, Result};
use crate::hash::{ActionKey, BlobHash};
use crate::key::Preimage;
use crate::layout::{FORMAT_VERSION, Layout};
use crate::lock::FileLock;
use crate::manifest::{Manifest, Output, TreeFile};
use crate::memo::Replies;
use crate::notice::{Found, Notice};
use crate::publish::{Publication, TableFile};
use crate::remote::Sharing;
use crate::table::{StoredTable, Table, read_table};
use crate::tree::{Placement, is_inside};
use crate::write::{hash_while_copying, sync_folder};

/// Files in `tmp` that no writer can still be busy with.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug)]
pub struct Store {
    layout: Arc<Layout>,
    sharing: Option<Sharing>,
    /// Nothing that comes from the shared store is kept.
    looking: bool,
}

impl Store {
    /// Opens the store at `root`, making it if need be.
    ///
    /// # Errors
    /// If the folder cannot be written to, or was made by a newer program.
    pub fn open(root: &Path) -> Result<Self> {
        let layout = Layout::new(root);
        // First, so that nothing is written into a store that is not ours to change.
        let has_format = check_format(&layout)?;
        for folder in layout.folders() {
            fs::create_dir_all(&folder).at("create", &folder)?;
        }
        if !has_format {
            write_format(&layout)?;
        }
        remove_abandoned(&layout.temporary());
        Ok(Self { layout: Arc::new(layout), sharing: None, looking: false })
    }

    /// The store at `root` for someone who only looks and writes nothing there; `None` where there is none.
    ///
    /// # Errors
    /// If it was made by a newer program.
    pub fn look(root: &Path) -> Result<Option<Self>> {
        let layout = Layout::new(root);
        let store = Self { layout: Arc::new(layout), sharing: None, looking: true };
        Ok(check_format(&store.layout)?.then_some(store))
    }

    /// The same store, with a shared one behind it: what is not here is looked for there, and kept here once it has been read
    /// and verified. What is published here is sent there if `sharing` says so.
    pub fn shared(self, sharing: Sharing) -> Self {
        Self { sharing: Some(sharing), ..self }
    }

    /// The same store for someone who only looks: reads the shared store too, and keeps nothing of it.
    pub fn looking(self) -> Self {
        Self { looking: true, ..self }
    }

    pub fn sharing(&self) -> Option<&Sharing> {
        self.sharing.as_ref()
    }

    pub(crate) fn is_looking(&self) -> bool {
        self.looking
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The manifest of a finished action. Its blobs are verified when they are opened, not here: a blob that no one needs may be
    /// missing.
    ///
    /// # Errors
    /// If the shared store does not answer: to pay again for what a colleague has is worse than to stop.
    pub fn lookup(&self, key: &ActionKey) -> Result<Found<Manifest>> {
        let here = self.lookup_here(key)?;
        let Some(sharing) = self.sharing.as_ref().filter(|_| !matches!(here, Found::Intact(_))) else {
            return Ok(here);
        };
        Ok(self.look_there(sharing, key)?.map_or(here, Found::Intact))
    }

    /// The same without the shared store.
    pub fn lookup_here(&self, key: &ActionKey) -> Result<Found<Manifest>> {
        let path = self.layout.manifest(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        match Manifest::from_bytes(key, &bytes) {
            Ok(manifest) => Ok(Found::Intact(manifest)),
            Err(reason) => {
                self.evict(&path)?;
                Ok(Found::Damaged(Notice::manifest(*key, reason)))
            }
        }
    }

    /// Blobs of `manifest` that are absent or of the wrong size, here and in the shared store: what a glance can tell, without
    /// reading them.
    ///
    /// # Errors
    /// If the shared store does not answer.
    pub fn missing_blobs(&self, manifest: &Manifest) -> Result<Vec<BlobHash>> {
        let mut missing = Vec::new();
        for (blob, bytes) in self.absent_here(manifest) {
            let is_there = self.sharing.as_ref().map(|sharing| sharing.has_blob(&blob, bytes)).transpose()?;
            if is_there != Some(true) {
                missing.push(blob);
            }
        }
        Ok(missing)
    }

    pub(crate) fn absent_here(&self, manifest: &Manifest) -> Vec<(BlobHash, u64)> {
        let wanted = manifest.outputs.values().flat_map(Output::blobs);
        wanted
            .filter(|(blob, bytes)| fs::metadata(self.layout.blob(blob)).map(|m| m.len()).ok() != Some(*bytes))
            .collect()
    }

    /// The rows of an output. Damage evicts the blob and the manifest, so that the next lookup is a miss; not for who only looks.
    ///
    /// # Panics
    /// If `manifest` has no such output or it is a tree.
    pub fn open_rows(&self, manifest: &Manifest, output: &str) -> Result<Found<Table>> {
        let Some(Output::Rows { blob, .. }) = manifest.output(output) else { panic!("`{output}` holds no rows") };
        match self.open_blob(blob)? {
            Some(file) => read_table(file).map(Found::Intact),
            None => self.evict_output(manifest, blob),
        }
    }

    /// The same, to be read bit by bit. Its bytes are verified now.
    ///
    /// # Panics
    /// If `manifest` has no such output or it is a tree.
    pub fn open_table(&self, manifest: &Manifest, output: &str) -> Result<Found<StoredTable>> {
        let Some(Output::Rows { blob, .. }) = manifest.output(output) else { panic!("`{output}` holds no rows") };
        match self.open_blob(blob)? {
            Some(file) => StoredTable::new(file).map(Found::Intact),
            None => self.evict_output(manifest, blob),
        }
    }

    /// Begins a table for a later [`Publication::written`].
    ///
    /// # Errors
    /// [`Error::UnsupportedType`] names the first column that cannot be stored.
    pub fn write_table(&self, schema: SchemaRef) -> Result<TableFile> {
        TableFile::new(self.layout.temporary(), schema)
    }

    /// Puts a tree's files into `folder`, which is made; files of the same names are replaced, others are left alone.
    ///
    /// # Panics
    /// If `manifest` has no such output or it is a table.
    pub fn materialise(&self, manifest: &Manifest, output: &str, folder: &Path, how: Placement) -> Result<Found<()>> {
        let Some(Output::Tree { files, .. }) = manifest.output(output) else { panic!("`{output}` is no tree") };
        fs::create_dir_all(folder).at("create", folder)?;
        for file in files {
            match self.open_blob(&file.blob)?.filter(|_| is_inside(&file.path)) {
                Some(blob) => self.place(file, blob, folder, how)?,
                None => return self.evict_output(manifest, &file.blob),
            }
        }
        Ok(Found::Intact(()))
    }

    /// A blob, verified and rewound; `None` if it is missing or its bytes are not those of its hash, here and in the shared
    /// store.
    ///
    /// # Errors
    /// If the shared store does not answer.
    pub fn open_blob(&self, blob: &BlobHash) -> Result<Option<File>> {
        match (self.open_here(blob)?, &self.sharing) {
            (None, Some(sharing)) => self.fetch_blob(sharing, blob),
            (here, _) => Ok(here),
        }
    }

    /// The same without the shared store.
    pub(crate) fn open_here(&self, blob: &BlobHash) -> Result<Option<File>> {
        let path = self.layout.blob(blob);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        // A disk that cannot read a sector back has lost the blob, as surely as a flipped bit.
        let intact = hash_while_copying(&mut file, &mut io::sink()).is_ok_and(|(hash, _)| hash == *blob);
        file.rewind().at("read", &path)?;
        Ok(intact.then_some(file))
    }

    /// Begins to publish the action described by `preimage`. Nothing is visible before [`Publication::commit`].
    pub fn publish(&self, preimage: Preimage) -> Publication {
        Publication::new(self.clone(), preimage)
    }

    /// Waits for whoever works on `key`; look it up again afterwards and adopt what is there.
    pub fn lock(&self, key: &ActionKey) -> Result<KeyLock> {
        FileLock::acquire(&self.layout.lock(key)).map(|lock| KeyLock(Some(lock)))
    }

    /// `None` if someone works on `key`.
    pub fn try_lock(&self, key: &ActionKey) -> Result<Option<KeyLock>> {
        Ok(FileLock::try_acquire(&self.layout.lock(key))?.map(|lock| KeyLock(Some(lock))))
    }

    /// A folder for checkpoints of the action: it survives a crash and is removed once the action is published.
    pub fn scratch(&self, key: &ActionKey) -> Result<PathBuf> {
        let path = self.layout.scratch(key);
        fs::create_dir_all(&path).at("create", &path)?;
        Ok(path)
    }

    /// The replies kept in this store, and in the shared one: see [`Replies::flush`].
    ///
    /// # Errors
    /// If the shared store does not answer.
    pub fn replies(&self) -> Result<Replies> {
        match &self.sharing {
            Some(sharing) => Replies::open_shared(&self.layout, sharing, self.looking),
            None if self.looking => Replies::look(&self.layout.replies(), &self.layout.claims()),
            None => Replies::open(&self.layout.replies(), &self.layout.claims()),
        }
    }

    /// Every key that has a manifest, in no particular order.
    pub fn keys(&self) -> Result<Vec<ActionKey>> {
        let names = names_below(&self.layout.manifests())?;
        Ok(names.iter().filter_map(|(name, _)| name.parse().ok()).collect())
    }

    /// Every blob with its size on disk, in no particular order.
    pub fn blobs(&self) -> Result<Vec<(BlobHash, u64)>> {
        let names = names_below(&self.layout.blobs())?;
        Ok(names.into_iter().filter_map(|(name, bytes)| Some((name.parse().ok()?, bytes))).collect())
    }

    /// `blob` is open: a sweep may remove its name meanwhile.
    fn place(&self, file: &TreeFile, mut blob: File, folder: &Path, how: Placement) -> Result<()> {
        let (source, target) = (self.layout.blob(&file.blob), folder.join(&file.path));
        let parent = target.parent().expect("a joined path has a parent");
        fs::create_dir_all(parent).at("create", parent)?;
        evict(&target)?;
        // Links do not cross file systems, and some have none at all.
        if how == Placement::Link && fs::hard_link(&source, &target).is_ok() {
            return Ok(());
        }
        let mut copy = File::create(&target).at("write", &target)?;
        io::copy(&mut blob, &mut copy).at("write", &target)?;
        Ok(())
    }

    fn evict_output<T>(&self, manifest: &Manifest, blob: &BlobHash) -> Result<Found<T>> {
        self.evict(&self.layout.blob(blob))?;
        self.evict(&self.layout.manifest(&manifest.key))?;
        Ok(Found::Damaged(Notice::blob(*blob, Some(manifest.key))))
    }

    fn evict(&self, path: &Path) -> Result<()> {
        if self.looking { Ok(()) } else { evict(path) }
    }
}

/// The right to work on one key; dropped at the end of the work, or by the kernel at the end of the process.
#[derive(Debug)]
pub struct KeyLock(Option<FileLock>);

impl Drop for KeyLock {
    fn drop(&mut self) {
        if let Some(lock) = self.0.take() {
            lock.remove();
        }
    }
}

/// Removes a file; fine if it is gone already.
pub(crate) fn evict(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Whether the store says which layout it has; an error if that is none of ours.
fn check_format(layout: &Layout) -> Result<bool> {
    let path = layout.format();
    match fs::read(&path) {
        Ok(text) => check_format_text(&path, &String::from_utf8_lossy(&text)).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

/// Whether this program knows the layout that `text`, found at `path`, names. Lines after the first are for people: a newer
/// program says there who it is.
pub(crate) fn check_format_text(path: &Path, text: &str) -> Result<()> {
    let mark = text.lines().next().unwrap_or_default();
    match mark.strip_prefix("decoct-store ").and_then(|version| version.parse::<u32>().ok()) {
        Some(1..=FORMAT_VERSION) => Ok(()),
        _ => {
            let found = text.trim().replace('\n', ", ");
            Err(Error::UnknownFormat { path: path.to_owned(), found, known: FORMAT_VERSION })
        }
    }
}

fn write_format(layout: &Layout) -> Result<()> {
    let (path, aside) = (layout.format(), layout.temporary());
    let mut file = tempfile::NamedTempFile::new_in(&aside).at("write", &aside)?;
    writeln!(file, "decoct-store {FORMAT_VERSION}").at("write", &path)?;
    file.as_file().sync_all().at("sync", &path)?;
    file.persist(&path).map_err(|error| Error::io("write", &path, error.error))?;
    sync_folder(layout.root())
}

/// Best effort: another process may be doing the same.
pub(crate) fn remove_abandoned(folder: &Path) {
    let oldest = SystemTime::now() - ABANDONED_AFTER;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|modified| modified < oldest) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Files two levels below `folder`, with their sizes.
fn names_below(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut names = Vec::new();
    for shelf in fs::read_dir(folder).at("list", folder)? {
        let shelf = shelf.at("list", folder)?.path();
        for entry in fs::read_dir(&shelf).at("list", &shelf)? {
            let entry = entry.at("list", &shelf)?;
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            names.push((entry.file_name().to_string_lossy().into_owned(), bytes));
        }
    }
    Ok(names)
}
