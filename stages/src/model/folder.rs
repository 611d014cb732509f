//! A model as Hugging Face lays it out: `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`.

use super::chat::ChatTemplate;
use super::config::{DecoderConfig, OneOrMore, eos_json};
use super::parameters::Layout;
use super::tensors::{self, Precision};
use super::tokenizer::Tokenizer;
use crate::failure::{Failure, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// All of a model, in the memory of the host.
#[derive(Clone)]
pub struct ModelFolder {
    pub config: DecoderConfig,
    /// In the order of [`Layout`].
    pub weights: Vec<f32>,
    pub tokenizer: Tokenizer,
    /// `None` where the model was made for plain text.
    pub template: Option<ChatTemplate>,
}

impl ModelFolder {
    pub fn load(folder: &Path) -> Result<ModelFolder> {
        let config_path = folder.join("config.json");
        let mut config = DecoderConfig::from_json(&read(&config_path)?, &config_path.display().to_string())?;
        if let Some(ids) = generation_eos(folder)? {
            config.eos_token_ids = ids;
        }
        let tokenizer_path = folder.join("tokenizer.json");
        let tokenizer = Tokenizer::from_json(read(&tokenizer_path)?, &tokenizer_path.display().to_string())?;
        check_vocabulary(&tokenizer, &config, &tokenizer_path)?;
        let weights = tensors::read(folder, &config, &Layout::new(&config, false))?;
        let template = read_template(folder)?;
        Ok(ModelFolder { config, weights, tokenizer, template })
    }

    /// Writes all files into `folder`, which is made where it is not there.
    pub fn save(&self, folder: &Path, precision: Precision) -> Result<()> {
        fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, error))?;
        let layout = Layout::new(&self.config, false);
        tensors::write(&folder.join("model.safetensors"), &self.config, &layout, &self.weights, precision)?;
        write_json(&folder.join("config.json"), &self.config.to_json(precision.torch_name()))?;
        write(&folder.join("tokenizer.json"), self.tokenizer.json())?;
        write_json(&folder.join("tokenizer_config.json"), &self.tokenizer_config())?;
        write_json(&folder.join("generation_config.json"), &self.generation_config())
    }

    fn tokenizer_config(&self) -> Value {
        let token = |id: Option<u32>| id.and_then(|id| self.tokenizer.token(id));
        let eos = token(self.config.eos_token_ids.first().copied());
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token(self.config.bos_token_id),
            "eos_token": &eos,
            "pad_token": &eos,
            "clean_up_tokenization_spaces": false,
            "model_max_length": self.config.max_position_embeddings,
            "chat_template": self.template.as_ref().map(ChatTemplate::source),
        })
    }

    fn generation_config(&self) -> Value {
        json!({
            "bos_token_id": self.config.bos_token_id,
            "eos_token_id": eos_json(&self.config.eos_token_ids),
            "pad_token_id": self.config.eos_token_ids.first(),
        })
    }
}

/// Where a generation configuration names the ends of a text, it wins over `config.json`, as in transformers.
fn generation_eos(folder: &Path) -> Result<Option<Vec<u32>>> {
    #[derive(Deserialize)]
    struct GenerationConfig {
        eos_token_id: Option<OneOrMore>,
    }
    let Some(config) = read_json::<GenerationConfig>(&folder.join("generation_config.json"))? else {
        return Ok(None);
    };
    Ok(config.eos_token_id.map(OneOrMore::into_vec))
}

/// Models keep their template in `tokenizer_config.json` (alone or among named ones) or in a file of its own.
fn read_template(folder: &Path) -> Result<Option<ChatTemplate>> {
    let config = read_json::<Value>(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let of_its_own = folder.join("chat_template.jinja");
    let source = match &config["chat_template"] {
        _ if of_its_own.exists() => Some(read(&of_its_own)?),
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => named
            .iter()
            .find(|template| template["name"] == "default")
            .and_then(|template| template["template"].as_str().map(str::to_string)),
        _ => None,
    };
    Ok(source
        .map(|source| ChatTemplate::new(source, token_text(&config["bos_token"]), token_text(&config["eos_token"]))))
}

/// A token is spelt as a string or as an object with its content.
fn token_text(token: &Value) -> &str {
    token.as_str().or_else(|| token["content"].as_str()).unwrap_or_default()
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

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |error| Failure::recipe(format!("`{}`: {error}", path.display()));
    serde_json::from_str(&read(path)?).map(Some).map_err(wrong)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write(path, &format!("{value:#}\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Failure::io("write", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::chat::PLAIN;
    use crate::model::parameters::initial;
    use crate::model::tokenizer::{END_OF_TEXT, Training};

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
        ModelFolder { config, weights, tokenizer, template: Some(ChatTemplate::new(PLAIN, "", END_OF_TEXT)) }
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
        for (name, text) in
            [("tokenizer.json", None), ("model.safetensors", Some("{}")), ("tokenizer_config.json", Some("{"))]
        {
            let (folder, _) = saved();
            let path = folder.path().join(name);
            text.map_or_else(|| fs::remove_file(&path), |text| fs::write(&path, text)).unwrap();
            let message = ModelFolder::load(folder.path()).err().unwrap().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
