//! Adapters as PEFT lays them out: `adapter_config.json` beside `adapter_model.safetensors`.

use super::{Lora, Target};
use crate::failure::{Failure, Result};
use crate::model::Decoder;
use crate::model::folder::write_json;
use safetensors::{Dtype, SafeTensorError, tensor::TensorView};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

impl Target {
    /// The module of a layer that it is in the Hugging Face layout.
    fn module(self) -> (&'static str, &'static str) {
        match self {
            Target::Query => ("self_attn", "q_proj"),
            Target::Key => ("self_attn", "k_proj"),
            Target::Value => ("self_attn", "v_proj"),
            Target::Output => ("self_attn", "o_proj"),
            Target::Gate => ("mlp", "gate_proj"),
            Target::Up => ("mlp", "up_proj"),
            Target::Down => ("mlp", "down_proj"),
        }
    }
}

/// A decoder's adapters, apart from the weights that they stand beside.
pub struct PeftAdapter {
    config: serde_json::Value,
    /// Name, shape and bytes.
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl PeftAdapter {
    /// Of a decoder that has the adapters of `lora`.
    pub fn of(decoder: &Decoder, lora: &Lora) -> PeftAdapter {
        let (weights, mut tensors) = (decoder.learnt_weights(), Vec::new());
        let mut keep = |name: String, shape: [usize; 2], values: &[f32]| {
            tensors.push((name, shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect()));
        };
        for (index, layer) in decoder.layout().layers.iter().enumerate() {
            for projection in [&layer.qkv, &layer.out, &layer.gate_up, &layer.down] {
                for adapter in &projection.adapters {
                    let (part, module) = adapter.target.module();
                    let name = format!("base_model.model.model.layers.{index}.{part}.{module}");
                    let [a, b] = [&adapter.a, &adapter.b].map(|range| &weights[range.clone()]);
                    keep(format!("{name}.lora_A.weight"), [lora.rank, projection.inputs], a);
                    keep(format!("{name}.lora_B.weight"), [adapter.outputs.len(), lora.rank], b);
                }
            }
        }
        PeftAdapter { config: config(lora), tensors }
    }

    /// Writes both files into `folder`, which is made.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, error))?;
        write_json(&folder.join("adapter_config.json"), &self.config)?;
        let path = folder.join("adapter_model.safetensors");
        let bug = |error| Failure::Ourselves(format!("adapters cannot be written: {error}"));
        let views: Result<Vec<_>> = self
            .tensors
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(bug)?))
            })
            .collect();
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize_to_file(views?, Some(metadata), &path).map_err(|error| match error {
            SafeTensorError::IoError(error) => Failure::io("write", &path, error),
            other => bug(other),
        })
    }
}

/// The base has no name here: what it is called differs from machine to machine, and whoever loads the adapter says it.
fn config(lora: &Lora) -> serde_json::Value {
    let modules: Vec<&str> =
        Target::ALL.iter().filter(|it| lora.targets.contains(it)).map(|it| it.module().1).collect();
    json!({
        "alpha_pattern": {}, "auto_mapping": null, "base_model_name_or_path": null, "bias": "none", "fan_in_fan_out": false,
        "inference_mode": true, "init_lora_weights": true, "layers_pattern": null, "layers_to_transform": null,
        "lora_alpha": lora.alpha, "lora_dropout": 0.0, "modules_to_save": null, "peft_type": "LORA", "r": lora.rank,
        "rank_pattern": {}, "revision": null, "target_modules": modules, "task_type": "CAUSAL_LM", "use_dora": false,
        "use_rslora": false,
    })
}
