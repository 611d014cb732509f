//! A model as Hugging Face lays it out: `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`.

use super::carried::Carried;
use super::chat::{ChatTemplate, PLAIN};
use super::config::DecoderConfig;
use super::parameters::Layout;
use super::tensors::{self, Precision};
use super::tokenizer::{END_OF_TEXT, Tokenizer};
use crate::failure::{Failure, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Bytes of weights above which they are written in several files, as transformers does.
const SHARD_BYTES: usize = 5_000_000_000;

/// All of a model, in the memory of the host.
#[derive(Clone)]
pub struct ModelFolder {
    pub config: DecoderConfig,
    /// In the order of [`Layout`].
    pub weights: Vec<f32>,
    pub tokenizer: Tokenizer,
    /// `None` where the model was made for plain text.
    pub template: Option<ChatTemplate>,
    pub carried: Carried,
}

impl ModelFolder {
    pub fn load(folder: &Path) -> Result<ModelFolder> {
        let config_path = folder.join("config.json");
        let mut config = DecoderConfig::from_json(&read(&config_path)?, &config_path.display().to_string())?;
        let carried = Carried::read(folder)?;
        if let Some(ids) = carried.end_tokens()? {
            config.eos_token_ids = ids;
        }
        let tokenizer_path = folder.join("tokenizer.json");
        let tokenizer = Tokenizer::from_json(read(&tokenizer_path)?, &tokenizer_path.display().to_string())?;
        check_vocabulary(&tokenizer, &config, &tokenizer_path)?;
        let weights = tensors::read(folder, &config, &Layout::new(&config, false))?;
        let template = carried.template(folder)?;
        Ok(ModelFolder { config, weights, tokenizer, template, carried })
    }

    /// Writes all files into `folder`, which is made where it is not there.
    pub fn save(&self, folder: &Path, precision: Precision) -> Result<()> {
        self.save_in_shards(folder, precision, SHARD_BYTES)
    }

    fn save_in_shards(&self, folder: &Path, precision: Precision, shard_bytes: usize) -> Result<()> {
        fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, error))?;
        let layout = Layout::new(&self.config, false);
        tensors::write(folder, &self.config, &layout, &self.weights, precision, shard_bytes)?;
        write_json(&folder.join("config.json"), &self.config.to_json(precision.torch_name()))?;
        write(&folder.join("tokenizer.json"), self.tokenizer.json())?;
        self.carried.write(folder, &self.config, &self.tokenizer, self.template.as_ref())
    }

    /// The model's own template; one that came with none gets a line a message, after what its tokenizer puts before every text.
    pub fn template_or_plain(&self) -> Result<ChatTemplate> {
        if let Some(template) = &self.template {
            return Ok(template.clone());
        }
        let (begin, end) = (self.carried.token("bos_token"), self.carried.token("eos_token"));
        let begins =
            !begin.is_empty() && self.tokenizer.encode_whole("")?.first().copied() == self.tokenizer.id(&begin);
        let source = if begins { format!("{{{{ bos_token }}}}{PLAIN}") } else { PLAIN.to_string() };
        let end = if end.is_empty() { END_OF_TEXT.to_string() } else { end };
        Ok(ChatTemplate::new(source, if begins { begin } else { String::new() }, end))
    }
}

fn check_vocabulary(tokenizer: &Tokenizer, config: &DecoderConfig, place: &Path) -> Result<()> {
    let (has, room) = (tokenizer.vocab_size(), config.vocab_size);
    if has > room {
        return Err(Failure::recipe(format!(
            "`{}` has `{has}` tokens, but config.json has a vocab_size of `{room}`: take both from one model",
            place.display()
        )));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Failure::io("read", path, error))
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write(path, &format!("{value:#}\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Failure::io("write", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Family;
    use crate::model::parameters::initial;
    use crate::model::tokenizer::Training;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn tiny() -> ModelFolder {
        let tokenizer = Tokenizer::train(Training::Words, 270, ["Dose 45mg"].into_iter(), &[]).unwrap();
        let config = DecoderConfig {
            vocab_size: tokenizer.vocab_size(),
            hidden_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            intermediate_size: 12,
            rms_norm_eps: 1e-6,
            rope_theta: 1e4,
            tie_word_embeddings: false,
            max_position_embeddings: 64,
            bos_token_id: None,
            eos_token_ids: vec![tokenizer.id(END_OF_TEXT).unwrap()],
            ..DecoderConfig::default()
        };
        let weights = initial(&config, &Layout::new(&config, false), 3);
        let template = Some(ChatTemplate::new(PLAIN, "", END_OF_TEXT));
        ModelFolder { config, weights, tokenizer, template, carried: Carried::default() }
    }

    fn saved() -> (tempfile::TempDir, ModelFolder) {
        let (folder, model) = (tempfile::tempdir().unwrap(), tiny());
        model.save(folder.path(), Precision::F32).unwrap();
        (folder, model)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (folder, model) = saved();
        let again = ModelFolder::load(folder.path()).unwrap();
        assert_eq!((&again.config, &again.weights, &again.template), (&model.config, &model.weights, &model.template));
        assert_eq!(again.tokenizer.json(), model.tokenizer.json());
    }

    #[test]
    fn half_precision_is_near() {
        let (folder, model) = (tempfile::tempdir().unwrap(), tiny());
        model.save(folder.path(), Precision::Bf16).unwrap();
        let again = ModelFolder::load(folder.path()).unwrap();
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs() / 128.0;
        assert!(again.weights.iter().zip(&model.weights).all(near) && again.weights != model.weights);
    }

    #[test]
    fn shards_are_found_through_their_index() {
        let (folder, model) = saved();
        let path = folder.path();
        fs::rename(path.join("model.safetensors"), path.join("model-00001-of-00001.safetensors")).unwrap();
        let layout = Layout::new(&model.config, false);
        let map: serde_json::Map<_, _> = layout
            .tensors(&model.config)
            .into_iter()
            .map(|tensor| (tensor.name, json!("model-00001-of-00001.safetensors")))
            .collect();
        write_json(&path.join("model.safetensors.index.json"), &json!({"weight_map": map})).unwrap();
        assert_eq!(ModelFolder::load(path).unwrap().weights, model.weights);
    }

    #[test]
    fn a_large_model_is_written_in_shards() {
        let (folder, model) = (tempfile::tempdir().unwrap(), tiny());
        model.save_in_shards(folder.path(), Precision::F32, 4_000).unwrap();
        let index: Value =
            serde_json::from_str(&read(&folder.path().join("model.safetensors.index.json")).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], json!(4 * model.weights.len()));
        let files: BTreeSet<&str> =
            index["weight_map"].as_object().unwrap().values().map(|file| file.as_str().unwrap()).collect();
        assert!(files.len() > 2 && !folder.path().join("model.safetensors").exists(), "{files:?}");
        for (number, file) in (1..).zip(&files) {
            assert_eq!(*file, format!("model-{number:05}-of-{:05}.safetensors", files.len()));
            let size = fs::metadata(folder.path().join(file)).unwrap().len();
            // One tensor alone, the embedding, is larger than a shard may be; a header takes some bytes more.
            assert!(size < 2_000 + 4_000.max(4 * 8 * model.config.vocab_size as u64), "{file}: {size} bytes");
        }
        assert_eq!(ModelFolder::load(folder.path()).unwrap().weights, model.weights);
    }

    /// A base as others publish it, with more than we know of.
    fn published(template_beside: bool) -> (tempfile::TempDir, ModelFolder) {
        let (folder, model) = saved();
        let path = folder.path();
        let mut tokenizer_config = json!({
            "add_prefix_space": false, "added_tokens_decoder": {"7": {"content": "<|endoftext|>", "special": true}},
            "additional_special_tokens": ["<|im_start|>"], "bos_token": null, "errors": "replace",
            "eos_token": {"content": "<|endoftext|>", "lstrip": false}, "model_max_length": 131072,
            "tokenizer_class": "Qwen2Tokenizer", "split_special_tokens": false,
        });
        let template = "{{ messages[0].content }}{{ eos_token }}";
        if template_beside {
            fs::write(path.join("chat_template.jinja"), template).unwrap();
        } else {
            tokenizer_config["chat_template"] =
                json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]);
        }
        write_json(&path.join("tokenizer_config.json"), &tokenizer_config).unwrap();
        let ends = [model.config.eos_token_ids[0], 9];
        let generation = json!({"do_sample": true, "eos_token_id": ends, "pad_token_id": 9, "temperature": 0.7, "top_k": 20,
            "top_p": 0.8, "repetition_penalty": 1.05, "transformers_version": "4.51.0"});
        write_json(&path.join("generation_config.json"), &generation).unwrap();
        fs::write(path.join("special_tokens_map.json"), "{\"pad_token\":  \"<|im_end|>\"}").unwrap();
        fs::write(path.join("merges.txt"), "#version: 0.2\nd o\n").unwrap();
        // As their program wrote it: other white space than ours.
        let tokenizer: Value = serde_json::from_str(model.tokenizer.json()).unwrap();
        fs::write(path.join("tokenizer.json"), format!("{tokenizer}\n\n")).unwrap();
        (folder, model)
    }

    #[test]
    fn what_came_with_a_base_goes_on() {
        for template_beside in [false, true] {
            let ((base, _), export) = (published(template_beside), tempfile::tempdir().unwrap());
            let model = ModelFolder::load(base.path()).unwrap();
            assert_eq!(model.config.eos_token_ids.len(), 2);
            assert_eq!(model.template.as_ref().unwrap().prompt("Dose?").unwrap(), "Dose?<|endoftext|>");
            model.save(export.path(), Precision::F32).unwrap();
            let bytes = |folder: &Path, name: &str| fs::read(folder.join(name)).unwrap();
            let same = ["tokenizer.json", "special_tokens_map.json", "merges.txt", "model.safetensors"];
            for name in same.into_iter().chain((!template_beside).then_some("tokenizer_config.json")) {
                assert_eq!(bytes(export.path(), name), bytes(base.path(), name), "{name}");
            }
            let json = |folder: &Path, name: &str| -> Value { serde_json::from_slice(&bytes(folder, name)).unwrap() };
            let mut expected = json(base.path(), "tokenizer_config.json");
            if template_beside {
                expected["chat_template"] = json!("{{ messages[0].content }}{{ eos_token }}");
            }
            assert_eq!(json(export.path(), "tokenizer_config.json"), expected, "no field is lost or changed");
            let mut expected = json(base.path(), "generation_config.json");
            expected["bos_token_id"] = Value::Null;
            assert_eq!(json(export.path(), "generation_config.json"), expected);
            assert!(!export.path().join("chat_template.jinja").exists(), "the template stands in one place");
        }
    }

    #[test]
    fn another_template_takes_the_place_of_the_bases() {
        let ((base, _), export) = (published(false), tempfile::tempdir().unwrap());
        let mut model = ModelFolder::load(base.path()).unwrap();
        model.template = Some(ChatTemplate::new(PLAIN, "", "<|endoftext|>"));
        model.save(export.path(), Precision::F32).unwrap();
        assert_eq!(ModelFolder::load(export.path()).unwrap().template.unwrap().source(), PLAIN);
    }

    #[test]
    fn a_base_without_a_template_begins_as_its_tokenizer_begins_a_text() {
        let (folder, model) = saved();
        let mut tokenizer: Value = serde_json::from_str(model.tokenizer.json()).unwrap();
        let begin = model.tokenizer.id("<|im_start|>").unwrap();
        let piece = |name: &str, id: &str| json!({name: {"id": id, "type_id": 0}});
        tokenizer["post_processor"] = json!({"type": "TemplateProcessing",
            "single": [piece("SpecialToken", "<|im_start|>"), piece("Sequence", "A")],
            "pair": [piece("Sequence", "A"), piece("Sequence", "B")],
            "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [begin], "tokens": ["<|im_start|>"]}}});
        for (begins, expected) in [(true, "<|im_start|>Dose?\n"), (false, "Dose?\n")] {
            tokenizer["post_processor"] = if begins { tokenizer["post_processor"].take() } else { Value::Null };
            fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
            let config = json!({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"});
            write_json(&folder.path().join("tokenizer_config.json"), &config).unwrap();
            let model = ModelFolder::load(folder.path()).unwrap();
            assert_eq!(model.template, None);
            assert_eq!(model.template_or_plain().unwrap().prompt("Dose?").unwrap(), expected);
            assert_eq!(model.tokenizer.encode_whole("D").unwrap().len(), 1 + begins as usize);
            assert_eq!(model.tokenizer.encode("D").unwrap().len(), 1);
        }
    }

    #[test]
    fn a_tensor_that_has_no_place_is_named() {
        let (folder, mut model) = saved();
        model.config.family = Family::Qwen3;
        let error = tensors::read(folder.path(), &model.config, &Layout::new(&model.config, false)).unwrap_err();
        assert!(error.to_string().contains("model.layers.0.self_attn.k_proj.bias"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let check = |field: &str, value: Value, expected: [&str; 2]| {
            let (folder, model) = saved();
            let mut config = model.config.to_json("float32");
            config[field] = value;
            write_json(&folder.path().join("config.json"), &config).unwrap();
            let message = ModelFolder::load(folder.path()).err().unwrap().to_string();
            assert!(expected.iter().all(|part| message.contains(part)), "{message}");
        };
        check("intermediate_size", json!(16), ["model.layers.0.mlp.gate_proj.weight", "[12, 8]"]);
        check("num_hidden_layers", json!(3), ["model.safetensors", "model.layers.2.input_layernorm.weight"]);
        check("vocab_size", json!(100), ["tokenizer.json", "`100`"]);
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        for (name, text) in [
            ("tokenizer.json", None),
            ("model.safetensors", Some("{}")),
            ("tokenizer_config.json", Some("{")),
            ("generation_config.json", Some("[")),
            ("generation_config.json", Some("{\"eos_token_id\": -1}")),
        ] {
            let (folder, _) = saved();
            let path = folder.path().join(name);
            text.map_or_else(|| fs::remove_file(&path), |text| fs::write(&path, text)).unwrap();
            let message = ModelFolder::load(folder.path()).err().unwrap().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
