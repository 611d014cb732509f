//! Folders as outputs (a model: weights, config, tokenizer, metrics): a list of named blobs, hashed as such.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{AtPath, Error, Result};
use crate::hash::{ContentHash, Hasher};
use crate::manifest::TreeFile;
use crate::write::hash_while_copying;

const TREE_DOMAIN: &str = "decoct 1 tree content";

/// How a stored tree becomes a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Hard links to the store's read-only blobs: instant; for folders that are only read.
    Link,
    /// Copies that their owner may change.
    Copy,
}

/// Identity of a tree: paths, hashes and sizes of its files in order of their paths, without those that are provenance.
pub fn tree_content(files: &[TreeFile]) -> ContentHash {
    let mut content: Vec<_> = files.iter().filter(|file| !file.provenance).collect();
    content.sort_by(|a, b| a.path.cmp(&b.path));
    let mut hasher = Hasher::new(TREE_DOMAIN);
    for file in content {
        hasher.field(&file.path, file.blob.as_bytes()).raw(&file.bytes.to_le_bytes());
    }
    ContentHash(hasher.finish())
}

/// Identity that `folder` would have as a tree: what publishing it gives, without publishing it. `provenance` names those of its
/// files (by relative path) that are not part of its content.
pub fn folder_content(folder: &Path, provenance: &[&str]) -> Result<ContentHash> {
    let mut files = Vec::new();
    for (path, source) in files_of(folder)? {
        let mut input = File::open(&source).at("read", &source)?;
        let (blob, bytes) = hash_while_copying(&mut input, &mut io::sink()).at("read", &source)?;
        let provenance = provenance.contains(&path.as_str());
        files.push(TreeFile { path, blob, bytes, provenance });
    }
    Ok(tree_content(&files))
}

/// All files under `folder`, by relative path with `/` between folders, sorted.
pub fn files_of(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    collect(folder, "", &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(folder).at("list", folder)? {
        let path = entry.at("list", folder)?.path();
        let name =
            path.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::NotAFile { path: path.clone() })?;
        let name = format!("{prefix}{name}");
        // Follows links: folders in Hugging Face's own cache consist of links to blobs.
        let metadata = fs::metadata(&path).at("read", &path)?;
        match (metadata.is_dir(), metadata.is_file()) {
            (true, _) => collect(&path, &format!("{name}/"), files)?,
            (_, true) => files.push((name, path)),
            _ => return Err(Error::NotAFile { path }),
        }
    }
    Ok(())
}

/// Whether a path from a manifest stays inside the folder it is restored to.
pub fn is_inside(path: &str) -> bool {
    !path.is_empty() && !path.contains(['\\', '\0']) && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{BlobHash, Digest};

    fn file(path: &str, byte: u8, provenance: bool) -> TreeFile {
        TreeFile { path: path.into(), blob: BlobHash(Digest::from_bytes([byte; 32])), bytes: 1, provenance }
    }

    #[test]
    fn content_is_names_and_bytes_but_not_provenance() {
        let base = tree_content(&[file("a", 1, false), file("b", 2, false)]);
        assert_eq!(base, tree_content(&[file("b", 2, false), file("a", 1, false), file("times", 9, true)]));
        assert_ne!(base, tree_content(&[file("a", 1, false), file("b", 3, false)]));
        assert_ne!(base, tree_content(&[file("a", 1, false), file("c", 2, false)]));
        assert_ne!(base, tree_content(&[file("a", 1, false)]));
    }

    #[test]
    fn a_folder_is_what_it_would_be_once_published() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::Store::open(&folder.path().join("store")).unwrap();
        let model = folder.path().join("model");
        fs::create_dir_all(model.join("inner")).unwrap();
        for (name, text) in [("weights", "1 2 3"), ("inner/config", "{}"), ("timings", "4 s")] {
            fs::write(model.join(name), text).unwrap();
        }
        let mut publication = store.publish(crate::Preimage::new());
        let published = publication.tree("model", &model, &["timings"]).unwrap();
        assert_eq!(folder_content(&model, &["timings"]).unwrap(), published);
        assert_ne!(folder_content(&model, &[]).unwrap(), published);
    }

    #[test]
    fn a_manifest_cannot_write_outside_its_folder() {
        for (path, expected) in [
            ("a", true),
            ("a/b.c", true),
            ("", false),
            ("/etc/x", false),
            ("../x", false),
            ("a/../x", false),
            ("a//b", false),
        ] {
            assert_eq!(is_inside(path), expected, "{path}");
        }
    }
}
