//! Libraries of NVIDIA's that lie where the system does not look: they are loaded by their whole path first, and whoever asks for
//! them by name later gets what is loaded already.

use std::path::{Path, PathBuf};

/// Newest first.
const MAJORS: [u32; 2] = [13, 12];

/// Loads `lib{stem}.so.N` and what it will want itself (`lib{stem}-builtins`) from the first folder that has it; nothing happens
/// where none has.
pub(crate) fn preload(folders: &[PathBuf], stem: &str) {
    let candidates = folders.iter().flat_map(|folder| MAJORS.map(|major| (folder, format!("lib{stem}.so.{major}"))));
    for (folder, name) in candidates {
        let path = folder.join(name);
        if path.is_file() {
            builtins(folder, stem).iter().for_each(|path| keep(path));
            return keep(&path);
        }
    }
}

fn builtins(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let prefix = format!("lib{stem}-builtins.so.");
    let is_one = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_one).collect()
}

/// Loads a library for as long as the process lives. One that cannot be loaded is as good as none.
fn keep(path: &Path) {
    // SAFETY: runs the initialisers of a library of NVIDIA's, from a folder that the user or the system names.
    if let Ok(library) = unsafe { libloading::Library::new(path) } {
        std::mem::forget(library);
    }
}
