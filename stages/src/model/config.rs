//! The shape of a decoder, read from and written to Hugging Face's `config.json`.

use crate::failure::{Failure, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A Qwen2 decoder. Field names are those of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    pub vocab_size: usize,
    /// Width of the residual stream, d.
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    /// Query heads, H.
    pub num_attention_heads: usize,
    /// Key and value heads, K; each serves H / K query heads.
    pub num_key_value_heads: usize,
    /// Width of the feed-forward layer, F.
    pub intermediate_size: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f64,
    /// Whether the embedding also is the output head.
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: usize,
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

impl DecoderConfig {
    /// Channels of one head, D.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Width of a packed query|key|value row, (H + 2K) · D.
    pub fn qkv_size(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_size()
    }

    /// Reads `config.json`; `place` names the file in errors.
    pub fn from_json(text: &str, place: &str) -> Result<DecoderConfig> {
        let wrong = |why: String| Failure::recipe(format!("`{place}`: {why}"));
        let mut reader = serde_json::Deserializer::from_str(text);
        let file: ConfigFile =
            serde_path_to_error::deserialize(&mut reader).map_err(|error| wrong(error.to_string()))?;
        let config = file.into_config().map_err(wrong)?;
        config.check().map_err(wrong)?;
        Ok(config)
    }

    pub fn to_json(&self, dtype: &str) -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "intermediate_size": self.intermediate_size,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps as f64,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "max_position_embeddings": self.max_position_embeddings,
            "use_sliding_window": false,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos_json(&self.eos_token_ids),
            "torch_dtype": dtype,
        })
    }

    /// The first reason why no such decoder can exist.
    pub fn check(&self) -> Result<(), String> {
        let heads = self.num_attention_heads;
        let sizes = [self.vocab_size, self.hidden_size, self.num_hidden_layers, heads, self.num_key_value_heads];
        if sizes.contains(&0) || self.intermediate_size == 0 {
            return Err("every size must be at least 1".into());
        }
        if !self.hidden_size.is_multiple_of(heads) || !self.head_size().is_multiple_of(2) {
            return Err(format!(
                "hidden_size `{}` must give each of `{heads}` attention heads an even number of channels",
                self.hidden_size
            ));
        }
        if !heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "num_attention_heads `{heads}` must be a multiple of num_key_value_heads `{}`",
                self.num_key_value_heads
            ));
        }
        Ok(())
    }
}

/// One id is written as a number, several as a list, as transformers does.
pub fn eos_json(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => json!(id),
        ids => json!(ids),
    }
}

#[derive(Deserialize)]
struct ConfigFile {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    intermediate_size: usize,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f64>,
    /// Where transformers 5 keeps what was `rope_theta` and `rope_scaling`.
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Rope>,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    use_sliding_window: Option<bool>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMore>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl OneOrMore {
    pub(super) fn into_vec(self) -> Vec<u32> {
        match self {
            OneOrMore::One(id) => vec![id],
            OneOrMore::More(ids) => ids,
        }
    }
}

impl ConfigFile {
    fn into_config(self) -> Result<DecoderConfig, String> {
        self.check_supported()?;
        let theta = self.rope_parameters.and_then(|rope| rope.rope_theta).or(self.rope_theta);
        let config = DecoderConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            intermediate_size: self.intermediate_size,
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: theta.unwrap_or(10_000.0),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            max_position_embeddings: self.max_position_embeddings.unwrap_or(32_768),
            bos_token_id: self.bos_token_id,
            eos_token_ids: self.eos_token_id.map(OneOrMore::into_vec).unwrap_or_default(),
        };
        match self.head_dim {
            Some(size) if config.num_attention_heads * size != config.hidden_size => {
                Err(format!("head_dim `{size}` is not supported: only hidden_size / num_attention_heads is"))
            }
            _ => Ok(config),
        }
    }

    fn check_supported(&self) -> Result<(), String> {
        if self.model_type != "qwen2" {
            return Err(format!(
                "model_type `{}` is not supported; supported is `qwen2` (Qwen2 and Qwen2.5 of any size)",
                self.model_type
            ));
        }
        if let Some(act) = self.hidden_act.as_deref().filter(|&act| act != "silu") {
            return Err(format!("hidden_act `{act}` is not supported; supported is `silu`"));
        }
        if self.use_sliding_window == Some(true) {
            return Err(
                "use_sliding_window `true` is not supported; set it to `false` for texts within the window".into()
            );
        }
        let ropes = [&self.rope_parameters, &self.rope_scaling];
        let mut kinds = ropes.into_iter().flatten().filter_map(|rope| rope.rope_type.as_deref());
        match kinds.find(|&kind| kind != "default") {
            Some(kind) => Err(format!("rope_type `{kind}` is not supported; supported is `default`")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"model_type": "qwen2", "vocab_size": 30, "hidden_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256, "eos_token_id": [1, 2]}"#;

    fn with(field: &str, value: Value) -> String {
        let mut file: Value = serde_json::from_str(TINY).unwrap();
        file[field] = value;
        file.to_string()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config = DecoderConfig::from_json(TINY, "config.json").unwrap();
        let again = DecoderConfig::from_json(&config.to_json("float32").to_string(), "config.json").unwrap();
        assert_eq!(again, config);
        assert_eq!((config.head_size(), config.qkv_size(), &config.eos_token_ids[..]), (24, 192, &[1, 2][..]));
    }

    #[test]
    fn theta_is_found_where_transformers_5_keeps_it() {
        let rope = json!({"rope_theta": 1e6, "rope_type": "default"});
        assert_eq!(DecoderConfig::from_json(&with("rope_parameters", rope), "c").unwrap().rope_theta, 1e6);
        assert_eq!(DecoderConfig::from_json(&with("rope_theta", json!(5e5)), "c").unwrap().rope_theta, 5e5);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let check = |field, value, expected: &str| {
            let message = DecoderConfig::from_json(&with(field, value), "m/config.json").unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("m/config.json"), "{message}");
        };
        check("model_type", json!("llama"), "supported is `qwen2`");
        check("hidden_act", json!("gelu"), "`gelu`");
        check("rope_scaling", json!({"type": "yarn"}), "`yarn`");
        check("use_sliding_window", json!(true), "sliding");
        check("head_dim", json!(32), "head_dim `32`");
        check("num_key_value_heads", json!(3), "multiple");
        check("hidden_size", json!(90), "even number");
        check("num_hidden_layers", json!(0), "at least 1");
        check("vocab_size", json!("many"), "vocab_size");
    }
}
