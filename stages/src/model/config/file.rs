//! `config.json` as transformers 4 and 5 write it; what a decoder of ours cannot do is refused by name.

use super::rope::{self, Rope};
use super::{DecoderConfig, Family};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
pub(super) struct ConfigFile {
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
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    rope_theta: Option<f64>,
    /// Where transformers 5 keeps what was `rope_theta` and `rope_scaling`.
    rope_parameters: Option<Map<String, Value>>,
    rope_scaling: Option<Map<String, Value>>,
    partial_rotary_factor: Option<f64>,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMore>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(in crate::model) enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl OneOrMore {
    pub(in crate::model) fn into_vec(self) -> Vec<u32> {
        match self {
            OneOrMore::One(id) => vec![id],
            OneOrMore::More(ids) => ids,
        }
    }
}

impl ConfigFile {
    /// What a file leaves out is what transformers takes for the family.
    pub fn into_config(self) -> Result<DecoderConfig, String> {
        let family = Family::named(&self.model_type)?;
        self.check_supported()?;
        let read = |field, object: Option<_>| object.map_or(Ok(Rope::default()), |object| Rope::read(field, object));
        let rope = read("rope_parameters", self.rope_parameters)?.or(read("rope_scaling", self.rope_scaling)?);
        let head_dim = self.head_dim.or((family == Family::Qwen3).then_some(128));
        let usual = |size: &usize| self.num_attention_heads * size == self.hidden_size;
        let positions = if family == Family::Llama { 2_048 } else { 32_768 };
        Ok(DecoderConfig {
            family,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: head_dim.filter(|size| !usual(size)),
            intermediate_size: self.intermediate_size,
            attention_bias: family != Family::Qwen2 && self.attention_bias == Some(true),
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: rope.theta.or(self.rope_theta).unwrap_or(10_000.0),
            rope_scaling: rope.scaling,
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            max_position_embeddings: self.max_position_embeddings.unwrap_or(positions),
            bos_token_id: self.bos_token_id,
            eos_token_ids: self.eos_token_id.map(OneOrMore::into_vec).unwrap_or_default(),
        })
    }

    fn check_supported(&self) -> Result<(), String> {
        if let Some(act) = self.hidden_act.as_deref().filter(|&act| act != "silu") {
            return Err(format!("hidden_act `{act}` is not supported; supported is `silu`"));
        }
        if self.use_sliding_window == Some(true) {
            return Err(
                "use_sliding_window `true` is not supported; set it to `false` for texts within the window".into()
            );
        }
        if let Some(kind) = self.layer_types.iter().flatten().find(|&kind| kind != "full_attention") {
            return Err(format!("layer_types `{kind}` is not supported; supported is `full_attention`"));
        }
        if self.mlp_bias == Some(true) {
            return Err("mlp_bias `true` is not supported: the feed-forward layers must have no biases".into());
        }
        if self.quantization_config.as_ref().is_some_and(|value| !value.is_null()) {
            return Err("quantization_config is not supported: take the model in f32, f16 or bf16".into());
        }
        self.partial_rotary_factor.filter(|&share| share != 1.0).map_or(Ok(()), |share| Err(rope::partial(share)))
    }
}
