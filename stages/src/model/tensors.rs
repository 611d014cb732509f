//! Weights in safetensors files: one file or shards with an index, both ways; f32, f16 and bf16 in, f32 and bf16 out.

use super::config::DecoderConfig;
use super::parameters::{Layout, NamedTensor};
use crate::failure::{Failure, Result};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// How weights are stored in a file; in memory they are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    Bf16,
}

impl Precision {
    /// As `config.json` spells it.
    pub fn torch_name(self) -> &'static str {
        match self {
            Precision::F32 => "float32",
            Precision::Bf16 => "bfloat16",
        }
    }

    /// Of one weight.
    fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(default)]
    metadata: Value,
    weight_map: BTreeMap<String, String>,
}

/// All weights of a decoder in the layout's order. A missing tensor, one of another shape and one of a layer that has no place for
/// it are errors; tensors outside the decoder are left alone.
pub fn read(folder: &Path, config: &DecoderConfig, layout: &Layout) -> Result<Vec<f32>> {
    let (mut weights, wanted) = (vec![0.0; layout.len], layout.tensors(config));
    let known: HashSet<String> = wanted.iter().map(|tensor| tensor.name.clone()).collect();
    for (path, tensors) in files(folder, wanted)? {
        let bytes = fs::read(&path).map_err(|error| Failure::io("read", &path, error))?;
        let wrong = |why: String| Failure::recipe(format!("`{}`: {why}", path.display()));
        let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(format!("no safetensors file: {error}")))?;
        check_places(&known, &file).map_err(wrong)?;
        for tensor in tensors {
            let view = file.tensor(&tensor.name).map_err(|_| wrong(format!("tensor `{}` is missing", tensor.name)))?;
            fill(&mut weights[tensor.range.clone()], &tensor, &view).map_err(wrong)?;
        }
    }
    Ok(weights)
}

/// A layer that has more than we compute with would be another model without it.
fn check_places(known: &HashSet<String>, file: &SafeTensors) -> Result<(), String> {
    let strange =
        |name: &&&str| name.starts_with("model.") && !known.contains(**name) && !name.ends_with("rotary_emb.inv_freq");
    match file.names().iter().filter(strange).min() {
        Some(name) => Err(format!("tensor `{name}` has no place in the model that config.json describes")),
        None => Ok(()),
    }
}

/// Writes a decoder's tensors under their Hugging Face names into `model.safetensors`, or, where they are more than `shard_bytes`,
/// into several files of about that size with an index.
pub fn write(
    folder: &Path,
    config: &DecoderConfig,
    layout: &Layout,
    weights: &[f32],
    precision: Precision,
    shard_bytes: usize,
) -> Result<()> {
    let shards = shards(layout.tensors(config), precision, shard_bytes);
    if let [tensors] = &shards[..] {
        return write_file(&folder.join(SINGLE), tensors, weights, precision);
    }
    let mut weight_map = BTreeMap::new();
    for (number, tensors) in (1..).zip(&shards) {
        let name = format!("model-{number:05}-of-{:05}.safetensors", shards.len());
        write_file(&folder.join(&name), tensors, weights, precision)?;
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), name.clone())));
    }
    let total_size: usize = shards.iter().flatten().map(|tensor| tensor.range.len() * precision.bytes()).sum();
    let index = Index { metadata: json!({"total_size": total_size}), weight_map };
    super::folder::write_json(&folder.join(INDEX), &json!(index))
}

/// Consecutive tensors together, as many as fit.
fn shards(tensors: Vec<NamedTensor>, precision: Precision, shard_bytes: usize) -> Vec<Vec<NamedTensor>> {
    let (mut shards, mut filled): (Vec<Vec<NamedTensor>>, usize) = (vec![Vec::new()], 0);
    for tensor in tensors {
        let bytes = tensor.range.len() * precision.bytes();
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards.last_mut().expect("there is one from the start").push(tensor);
    }
    shards
}

fn write_file(path: &Path, tensors: &[NamedTensor], weights: &[f32], precision: Precision) -> Result<()> {
    let raw: Vec<Vec<u8>> = tensors.iter().map(|tensor| encoded(&weights[tensor.range.clone()], precision)).collect();
    let dtype = if precision == Precision::Bf16 { Dtype::BF16 } else { Dtype::F32 };
    let bug = |error| Failure::Ourselves(format!("weights cannot be written: {error}"));
    let views: Result<Vec<_>> = tensors
        .iter()
        .zip(&raw)
        .map(|(tensor, bytes)| Ok((&tensor.name, TensorView::new(dtype, tensor.shape.clone(), bytes).map_err(bug)?)))
        .collect();
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views?, Some(metadata), path).map_err(|error| match error {
        SafeTensorError::IoError(error) => Failure::io("write", path, error),
        other => bug(other),
    })
}

/// Which file holds which of the tensors.
fn files(folder: &Path, tensors: Vec<NamedTensor>) -> Result<BTreeMap<PathBuf, Vec<NamedTensor>>> {
    let index_path = folder.join(INDEX);
    if !index_path.exists() {
        return Ok(BTreeMap::from([(folder.join(SINGLE), tensors)]));
    }
    let wrong = |why: String| Failure::recipe(format!("`{}`: {why}", index_path.display()));
    let text = fs::read_to_string(&index_path).map_err(|error| Failure::io("read", &index_path, error))?;
    let index: Index = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut files: BTreeMap<PathBuf, Vec<NamedTensor>> = BTreeMap::new();
    for tensor in tensors {
        let file = index.weight_map.get(&tensor.name);
        let file = file.ok_or_else(|| wrong(format!("tensor `{}` is in no file", tensor.name)))?;
        files.entry(folder.join(file)).or_default().push(tensor);
    }
    Ok(files)
}

fn fill(target: &mut [f32], tensor: &NamedTensor, view: &TensorView) -> Result<(), String> {
    let NamedTensor { name, shape, .. } = tensor;
    if view.shape() != shape {
        return Err(format!("tensor `{name}` has shape `{:?}`, config.json asks for `{shape:?}`", view.shape()));
    }
    let two = view.data().as_chunks::<2>().0;
    match view.dtype() {
        Dtype::F32 => copy(target, view.data().as_chunks::<4>().0, f32::from_le_bytes),
        Dtype::F16 => copy(target, two, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => copy(target, two, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        other => return Err(format!("tensor `{name}` is `{other:?}`; supported are `F32`, `F16` and `BF16`")),
    }
    Ok(())
}

fn copy<const N: usize>(target: &mut [f32], source: &[[u8; N]], decode: impl Fn([u8; N]) -> f32) {
    for (value, &bytes) in target.iter_mut().zip(source) {
        *value = decode(bytes);
    }
}

fn encoded(weights: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::F32 => weights.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Precision::Bf16 => weights.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
    }
}
