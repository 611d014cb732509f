//! The state of a training run on disk: written aside and renamed, checked by a hash when read, the last two kept.
//!
//! ```text
//! step-000000000120.checkpoint
//! ┌───────────────────┬────────────────────────────────────────────────┐
//! │ blake3, 32 bytes  │ safetensors: arrays, and the state as metadata │
//! └───────────────────┴────────────────────────────────────────────────┘
//! ```

use crate::failure::{Failure, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const KEPT: usize = 2;
/// Numbers that are turned into bytes at once.
const PIECE: usize = 1 << 16;
/// Arrays in a file of safetensors begin at multiples of this.
const ALIGNMENT: usize = 8;

/// Everything a loop needs to go on: arrays bit for bit, and `state` as JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint<S> {
    pub step: u64,
    /// What was being trained on what; a checkpoint of anything else is not taken up.
    pub task: String,
    pub state: S,
    pub arrays: BTreeMap<String, Vec<f32>>,
}

#[derive(Serialize, Deserialize)]
struct Header<S> {
    step: u64,
    task: String,
    state: S,
}

/// Publishes a checkpoint: whole or not at all.
pub fn save<S: Serialize>(folder: &Path, checkpoint: &Checkpoint<S>) -> Result<()> {
    let path = folder.join(format!("step-{:012}.checkpoint", checkpoint.step));
    let aside = path.with_extension("writing");
    let head = head(checkpoint)?;
    fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, error))?;
    write_synced(&aside, &head, checkpoint.arrays.values()).map_err(|error| Failure::io("write", &aside, error))?;
    fs::rename(&aside, &path).map_err(|error| Failure::io("rename", &aside, error))?;
    for old in newest_first(folder).into_iter().skip(KEPT) {
        // One checkpoint too many does no harm; failing the run over it would.
        let _ = fs::remove_file(old);
    }
    Ok(())
}

/// The newest checkpoint of `task` that is whole; torn, foreign and unreadable ones are passed over.
pub fn load<S: DeserializeOwned>(folder: &Path, task: &str) -> Option<Checkpoint<S>> {
    let whole = newest_first(folder).into_iter().filter_map(|path| from_file(&path));
    whole.into_iter().find(|checkpoint: &Checkpoint<S>| checkpoint.task == task)
}

/// The newest checkpoint file that is whole, whatever it is of.
pub fn newest_whole(folder: &Path) -> Option<PathBuf> {
    newest_first(folder).into_iter().find(|path| is_whole(path).unwrap_or(false))
}

fn newest_first(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "checkpoint")).collect();
    paths.sort_unstable_by(|a, b| b.cmp(a));
    paths
}

/// Piece by piece: a checkpoint is as large as the model three times over, and should not be in memory once more as bytes.
fn write_synced<'a>(path: &Path, head: &[u8], arrays: impl Iterator<Item = &'a Vec<f32>>) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    let mut hasher = blake3::Hasher::new();
    file.write_all(&[0; blake3::OUT_LEN])?;
    let mut write = |bytes: &[u8]| {
        hasher.update(bytes);
        file.write_all(bytes)
    };
    write(head)?;
    for piece in arrays.flat_map(|array| array.chunks(PIECE)) {
        write(&little_endian(piece))?;
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(hasher.finalize().as_bytes())?;
    file.sync_all()
}

/// What stands before the arrays in a file of safetensors: the length of what follows, then names and places as JSON.
fn head<S: Serialize>(checkpoint: &Checkpoint<S>) -> Result<Vec<u8>> {
    let Checkpoint { step, task, state, arrays } = checkpoint;
    let bug = |error: serde_json::Error| Failure::Ourselves(format!("a checkpoint cannot be written: {error}"));
    let header = serde_json::to_string(&Header { step: *step, task: task.clone(), state }).map_err(bug)?;
    let mut places = serde_json::Map::from_iter([("__metadata__".to_string(), json!({"checkpoint": header}))]);
    let mut end = 0;
    for (name, values) in arrays {
        let start = end;
        end += values.len() * size_of::<f32>();
        let place = json!({"dtype": "F32", "shape": [values.len()], "data_offsets": [start, end]});
        places.insert(name.clone(), place);
    }
    let mut text = serde_json::to_vec(&places).map_err(bug)?;
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    Ok([(text.len() as u64).to_le_bytes().as_slice(), &text].concat())
}

/// What [`head`] wrote, as far as reading needs it.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    places: BTreeMap<String, Place>,
}

#[derive(Deserialize)]
struct Place {
    data_offsets: (u64, u64),
}

/// Hashes what is read.
struct Hashed<R> {
    from: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }
}

/// The hash that a file begins with, and the rest of it with its length.
fn open(path: &Path) -> std::io::Result<(blake3::Hash, Hashed<BufReader<fs::File>>, u64)> {
    let file = fs::File::open(path)?;
    let rest = file.metadata()?.len().saturating_sub(blake3::OUT_LEN as u64);
    let (mut from, mut hash) = (BufReader::with_capacity(PIECE, file), [0; blake3::OUT_LEN]);
    from.read_exact(&mut hash)?;
    Ok((hash.into(), Hashed { from, hasher: blake3::Hasher::new() }, rest))
}

fn is_whole(path: &Path) -> std::io::Result<bool> {
    let (hash, mut rest, _) = open(path)?;
    std::io::copy(&mut rest, &mut std::io::sink())?;
    Ok(rest.hasher.finalize() == hash)
}

/// A checkpoint, where it is what was written; piece by piece, for the reason of [`write_synced`].
fn from_file<S: DeserializeOwned>(path: &Path) -> Option<Checkpoint<S>> {
    let (hash, mut rest, len) = open(path).ok()?;
    let head = read_head(&mut rest, len)?;
    let header: Header<S> = serde_json::from_str(head.metadata.get("checkpoint")?).ok()?;
    let mut places: Vec<(String, Place)> = head.places.into_iter().collect();
    places.sort_by_key(|(_, place)| place.data_offsets);
    let mut arrays = BTreeMap::new();
    for (name, Place { data_offsets: (start, end) }) in places {
        arrays.insert(name, read_floats(&mut rest, end.checked_sub(start).filter(|&bytes| bytes <= len)?)?);
    }
    let is_at_end = rest.read(&mut [0]).ok()? == 0;
    let Header { step, task, state } = header;
    (is_at_end && rest.hasher.finalize() == hash).then_some(Checkpoint { step, task, state, arrays })
}

fn read_head(from: &mut impl Read, len: u64) -> Option<Head> {
    let mut size = [0; 8];
    from.read_exact(&mut size).ok()?;
    let size = u64::from_le_bytes(size);
    // A torn length would ask for any amount of memory.
    let mut text = vec![0; usize::try_from(size).ok().filter(|_| size <= len)?];
    from.read_exact(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn read_floats(from: &mut impl Read, bytes: u64) -> Option<Vec<f32>> {
    let len = usize::try_from(bytes / 4).ok()?;
    let (mut values, mut piece) = (Vec::with_capacity(len), vec![0; 4 * PIECE]);
    while values.len() < len {
        let bytes = &mut piece[..4 * PIECE.min(len - values.len())];
        from.read_exact(bytes).ok()?;
        values.extend(bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)));
    }
    Some(values)
}

pub(crate) fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64) -> Checkpoint<Vec<f64>> {
        let odd = vec![f32::NAN, -0.0, 1e-42, step as f32];
        Checkpoint {
            step,
            task: "t".into(),
            state: vec![0.1, step as f64],
            arrays: BTreeMap::from([("m".into(), odd)]),
        }
    }

    fn bits(checkpoint: &Checkpoint<Vec<f64>>) -> Vec<u32> {
        checkpoint.arrays["m"].iter().map(|value| value.to_bits()).collect()
    }

    fn folder_with(steps: &[u64]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for &step in steps {
            save(folder.path(), &at(step)).unwrap();
        }
        folder
    }

    #[test]
    fn comes_back_bit_for_bit_and_two_are_kept() {
        let folder = folder_with(&[9, 10, 200]);
        let back: Checkpoint<Vec<f64>> = load(folder.path(), "t").unwrap();
        assert_eq!((back.step, &back.state, bits(&back)), (200, &at(200).state, bits(&at(200))));
        assert_eq!(newest_first(folder.path()).len(), 2);
    }

    #[test]
    fn a_torn_checkpoint_gives_way_to_the_one_before() {
        let folder = folder_with(&[1, 2]);
        let newest = newest_first(folder.path()).remove(0);
        let whole = fs::read(&newest).unwrap();
        for kept in [0, 31, 32, 40, whole.len() / 2, whole.len() - 1] {
            fs::write(&newest, &whole[..kept]).unwrap();
            assert_eq!(load::<Vec<f64>>(folder.path(), "t").unwrap().step, 1, "{kept} bytes left");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&newest, flipped).unwrap();
        assert_eq!(load::<Vec<f64>>(folder.path(), "t").unwrap().step, 1);
    }

    #[test]
    fn a_checkpoint_of_another_task_is_not_taken_up() {
        let folder = folder_with(&[1]);
        assert!(load::<Vec<f64>>(folder.path(), "other").is_none());
        assert!(load::<Vec<f64>>(&folder.path().join("absent"), "t").is_none());
    }
}
