//! The shape of a decoder, read from and written to Hugging Face's `config.json`.

mod file;
mod rope;

pub(super) use file::OneOrMore;
pub use rope::RopeScaling;

use crate::failure::{Failure, Result};
use file::ConfigFile;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a model is called; the families differ in a few optional parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    #[default]
    Qwen2,
    /// Norms on the heads of queries and keys.
    Qwen3,
    /// Llama 3.x, and what else calls itself `llama`.
    Llama,
}

impl Family {
    fn named(model_type: &str) -> Result<Family, String> {
        serde_json::from_value(json!(model_type)).map_err(|_| {
            format!(
                "model_type `{model_type}` is not supported; supported are `qwen2` (also Qwen2.5), `qwen3` and `llama`"
            )
        })
    }

    fn architecture(self) -> &'static str {
        match self {
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Llama => "LlamaForCausalLM",
        }
    }
}

/// A decoder of one of the families. Field names are those of `config.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DecoderConfig {
    pub family: Family,
    pub vocab_size: usize,
    /// Width of the residual stream, d.
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    /// Query heads, H.
    pub num_attention_heads: usize,
    /// Key and value heads, K; each serves H / K query heads.
    pub num_key_value_heads: usize,
    /// Channels of one head, D, where they are not hidden_size / num_attention_heads.
    pub head_dim: Option<usize>,
    /// Width of the feed-forward layer, F.
    pub intermediate_size: usize,
    /// Whether attention's projections have biases. Qwen2 is silent about its own, which the output projection has not.
    pub attention_bias: bool,
    pub rms_norm_eps: f32,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
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
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Width of all query heads, H · D: what attention gives.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_size()
    }

    /// Width of a packed query|key|value row, (H + 2K) · D.
    pub fn qkv_size(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_size()
    }

    pub fn has_qkv_bias(&self) -> bool {
        self.attention_bias || self.family == Family::Qwen2
    }

    pub fn has_out_bias(&self) -> bool {
        self.attention_bias && self.family != Family::Qwen2
    }

    /// Whether the heads of queries and keys are normed before they turn.
    pub fn has_head_norms(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// `[D/2]` turns of a head's pairs a position, in radians.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let scaled = |frequency| self.rope_scaling.map_or(frequency, |scaling| scaling.scaled(frequency));
        kernels::rope::frequencies(self.head_size(), self.rope_theta).into_iter().map(scaled).collect()
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

    /// In the spelling that transformers of any version, vLLM and llama.cpp read.
    pub fn to_json(&self, dtype: &str) -> Value {
        let mut file = json!({
            "architectures": [self.family.architecture()],
            "model_type": self.family,
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
        });
        let fields = file.as_object_mut().expect("an object");
        fields.extend(self.family_fields());
        if self.family == Family::Llama {
            fields.shift_remove("use_sliding_window");
        }
        file
    }

    /// What only some families or models write.
    fn family_fields(&self) -> Vec<(String, Value)> {
        let (width, bias) = (json!(self.head_size()), json!(self.attention_bias));
        let mut fields = match self.family {
            Family::Qwen2 => self.head_dim.map(|_| ("head_dim", width)).into_iter().collect(),
            // Some versions of transformers warn of a window wherever none is written down as absent.
            Family::Qwen3 => vec![("head_dim", width), ("attention_bias", bias), ("sliding_window", Value::Null)],
            Family::Llama => vec![("head_dim", width), ("attention_bias", bias), ("mlp_bias", json!(false))],
        };
        fields.extend(self.rope_scaling.map(|scaling| ("rope_scaling", json!(scaling))));
        fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    /// The first reason why no such decoder can exist.
    pub fn check(&self) -> Result<(), String> {
        let heads = self.num_attention_heads;
        let sizes = [self.vocab_size, self.hidden_size, self.num_hidden_layers, heads, self.num_key_value_heads];
        if sizes.contains(&0) || self.intermediate_size == 0 {
            return Err("every size must be at least 1".into());
        }
        self.check_head_size()?;
        if !heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "num_attention_heads `{heads}` must be a multiple of num_key_value_heads `{}`",
                self.num_key_value_heads
            ));
        }
        self.rope_scaling.map_or(Ok(()), RopeScaling::check)
    }

    fn check_head_size(&self) -> Result<(), String> {
        let (size, heads) = (self.hidden_size, self.num_attention_heads);
        match self.head_dim {
            Some(channels) if channels == 0 || !channels.is_multiple_of(2) => {
                Err(format!("head_dim `{channels}` must be an even number of channels"))
            }
            None if !size.is_multiple_of(heads) || !self.head_size().is_multiple_of(2) => Err(format!(
                "hidden_size `{size}` must give each of `{heads}` attention heads an even number of channels"
            )),
            _ => Ok(()),
        }
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
    fn every_family_is_written_as_it_was_read() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        for (family, field, value) in [
            ("qwen2", "head_dim", json!(32)),
            ("qwen3", "head_dim", json!(24)),
            ("qwen3", "attention_bias", json!(true)),
            ("llama", "rope_scaling", llama3),
            ("llama", "rope_scaling", json!({"type": "linear", "factor": 2.0})),
        ] {
            let mut file: Value = serde_json::from_str(&with(field, value)).unwrap();
            file["model_type"] = json!(family);
            let config = DecoderConfig::from_json(&file.to_string(), "config.json").unwrap();
            let written = config.to_json("float32");
            assert_eq!(DecoderConfig::from_json(&written.to_string(), "config.json").unwrap(), config, "{written}");
            assert_eq!(written["model_type"], json!(family));
        }
    }

    #[test]
    fn heads_may_be_wider_than_the_stream() {
        let config = DecoderConfig::from_json(&with("head_dim", json!(32)), "c").unwrap();
        assert_eq!((config.head_size(), config.query_size(), config.qkv_size()), (32, 128, 256));
        let usual = DecoderConfig::from_json(&with("head_dim", json!(24)), "c").unwrap();
        assert_eq!(usual.head_dim, None, "what goes without saying");
        let qwen3 = DecoderConfig::from_json(&with("model_type", json!("qwen3")), "c").unwrap();
        assert_eq!(qwen3.head_size(), 128, "transformers' default");
    }

    #[test]
    fn optional_parts_are_those_of_the_family() {
        let check = |family: &str, bias: bool, expected: [bool; 3]| {
            let mut file: Value = serde_json::from_str(&with("attention_bias", json!(bias))).unwrap();
            file["model_type"] = json!(family);
            let config = DecoderConfig::from_json(&file.to_string(), "c").unwrap();
            assert_eq!([config.has_qkv_bias(), config.has_out_bias(), config.has_head_norms()], expected, "{family}");
        };
        check("qwen2", false, [true, false, false]);
        check("qwen2", true, [true, false, false]);
        check("qwen3", false, [false, false, true]);
        check("qwen3", true, [true, true, true]);
        check("llama", false, [false, false, false]);
        check("llama", true, [true, true, false]);
    }

    #[test]
    fn both_spellings_of_rope_are_read() {
        let scaled = |field: &str, mut value: Value, theta: Option<f64>| {
            value["factor"] = json!(8.0);
            if let Some(theta) = theta {
                value["rope_theta"] = json!(theta);
            }
            DecoderConfig::from_json(&with(field, value), "c").unwrap()
        };
        let linear = Some(RopeScaling::Linear { factor: 8.0 });
        let config = scaled("rope_parameters", json!({"rope_type": "linear"}), Some(1e6));
        assert_eq!((config.rope_theta, config.rope_scaling), (1e6, linear));
        let config = scaled("rope_scaling", json!({"type": "linear"}), None);
        assert_eq!((config.rope_theta, config.rope_scaling), (1e4, linear));
        let config = scaled("rope_scaling", json!({"type": "linear", "rope_type": "linear"}), None);
        assert_eq!(config.rope_scaling, linear);
        let (first, scaled) = (config.rope_frequencies()[1], kernels::rope::frequencies(24, 1e4)[1] / 8.0);
        assert_eq!(first, scaled);
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
        check("model_type", json!("qwen3_moe"), "model_type `qwen3_moe` is not supported; supported are `qwen2`");
        check("hidden_act", json!("gelu"), "`gelu`");
        check("rope_scaling", json!({"type": "yarn"}), "`yarn`");
        check("use_sliding_window", json!(true), "sliding");
        check("layer_types", json!(["full_attention", "sliding_attention"]), "`sliding_attention`");
        check("mlp_bias", json!(true), "mlp_bias `true`");
        check("partial_rotary_factor", json!(0.5), "`0.5`");
        check("rope_parameters", json!({"rope_type": "default", "partial_rotary_factor": 0.25}), "`0.25`");
        check("rope_parameters", json!({"full_attention": {"rope_theta": 1e4}}), "`full_attention`");
        check("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor");
        check("rope_scaling", json!({"rope_type": "linear", "factor": 0.1}), "factor `0.1`");
        check("quantization_config", json!({"quant_method": "awq"}), "quantization_config");
        check("head_dim", json!(31), "head_dim `31`");
        check("head_dim", json!(0), "head_dim `0`");
        check("num_key_value_heads", json!(3), "multiple");
        check("hidden_size", json!(90), "even number");
        check("num_hidden_layers", json!(0), "at least 1");
        check("vocab_size", json!("many"), "vocab_size");
    }
}
