//! The state of a training run on disk: written aside and renamed, checked by a hash when read, the last two kept.
//!
//! ```text
//! step-000000000120.checkpoint
//! ┌───────────────────┬────────────────────────────────────────────────┐
//! │ blake3, 32 bytes  │ safetensors: arrays, and the state as metadata │
//! └───────────────────┴────────────────────────────────────────────────┘
//! ```

use crate::failure::{Failure, Result};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
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
    let whole = newest_first(folder).into_iter().filter_map(|path| from_bytes(&fs::read(path).ok()?));
    whole.into_iter().find(|checkpoint: &Checkpoint<S>| checkpoint.task == task)
}

/// The newest checkpoint file that is whole, whatever it is of.
pub fn newest_whole(folder: &Path) -> Option<PathBuf> {
    newest_first(folder).into_iter().find(|path| fs::read(path).is_ok_and(|bytes| body(&bytes).is_some()))
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

/// What stands behind the hash, where it is what was written.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    let (hash, body) = bytes.split_at_checked(blake3::OUT_LEN)?;
    (blake3::hash(body).as_bytes() == hash).then_some(body)
}

fn from_bytes<S: DeserializeOwned>(bytes: &[u8]) -> Option<Checkpoint<S>> {
    let body = body(bytes)?;
    let (_, metadata) = SafeTensors::read_metadata(body).ok()?;
    let header: Header<S> = serde_json::from_str(metadata.metadata().as_ref()?.get("checkpoint")?).ok()?;
    let tensors = SafeTensors::deserialize(body).ok()?;
    let arrays = tensors.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect();
    Some(Checkpoint { step: header.step, task: header.task, state: header.state, arrays })
}

pub(crate) fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
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
