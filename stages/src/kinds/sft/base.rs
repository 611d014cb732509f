//! What a training starts from: a fresh small model with a tokenizer of its own, a Hugging Face folder, or another node's model.

use crate::failure::Result;
use crate::kinds::student::{Student, plain_template};
use crate::model::config::Family;
use crate::model::tokenizer::{END_OF_TEXT, Training};
use crate::model::{Carried, Decoder, DecoderConfig, Tokenizer, carried};
use crate::settings::{Reader, Setting, Step, shown_path};
use crate::stage::{NodeRef, Unkeyed};
use crate::train::evaluate::{FINAL_RESPONSE, THINKING};
use kernels::Device;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Where the weights come from.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    Fresh(Fresh),
    /// A folder in Hugging Face layout; counts by its files' bytes.
    #[serde(serialize_with = "nothing")]
    Folder(PathBuf),
    Node(NodeRef),
}

fn nothing<S: serde::Serializer>(_: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_unit()
}

crate::settings! {
    /// A model that knows nothing yet.
    pub struct Fresh {
        pub architecture: Architecture,
        pub layers: usize = 3,
        /// Width of the residual stream.
        pub hidden: usize = 96,
        pub heads: usize = 4,
        /// Channels of one head; `hidden` / `heads` when left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub head_dim: Option<usize> = None,
        /// Key and value heads; half as many as query heads when left out.
        pub kv_heads: Option<usize> = None,
        /// Width of the feed-forward layer; 8/3 of `hidden`, to the next multiple of 32, when left out.
        pub ffn: Option<usize> = None,
        /// The longest text.
        pub positions: usize = 1024,
        pub rope_theta: f64 = 1e4,
        pub tokenizer: TokenizerSettings = TokenizerSettings { train: TokenizerTraining::Words, size: 512 },
    }
}

crate::choice! {
    /// Architectures that can be made from nothing.
    pub enum Architecture { "qwen2" => Qwen2, "qwen3" => Qwen3, "llama" => Llama }
}

impl Architecture {
    fn family(self) -> Family {
        match self {
            Architecture::Qwen2 => Family::Qwen2,
            Architecture::Qwen3 => Family::Qwen3,
            Architecture::Llama => Family::Llama,
        }
    }
}

crate::settings! {
    /// A tokenizer learnt from the training texts; bytes that it has no piece for are spelt, so any text can be encoded.
    pub struct TokenizerSettings {
        pub train: TokenizerTraining = TokenizerTraining::Words,
        /// The largest vocabulary, 256 byte pieces included.
        pub size: usize = 512,
    }
}

crate::choice! {
    /// How pieces are found.
    pub enum TokenizerTraining {
        /// Byte-pair merges.
        "bpe" => Bpe,
        /// The most frequent whole words and single digits.
        "words" => Words,
    }
}

crate::settings! {
    /// A model on disk.
    pub struct FolderBase {
        pub path: Unkeyed<String>,
    }
}

crate::settings! {
    /// Another node's model.
    pub struct NodeBase {
        pub node: NodeRef,
    }
}

impl Setting for Base {
    fn read(value: &Value, reader: &mut Reader) -> Option<Base> {
        if value.get("path").is_some() {
            let Unkeyed(path) = FolderBase::read(value, reader)?.path;
            return reader.within(Step::Key("path".into()), |reader| checked_folder(reader.path(&path), reader));
        }
        if value.get("node").is_some() {
            return NodeBase::read(value, reader).map(|base| Base::Node(base.node));
        }
        let fresh = Fresh::read(value, reader)?;
        if let Err(fault) = fresh.config(fresh.tokenizer.size, 0).check() {
            reader.mistake("impossible-model", fault, None);
            return None;
        }
        Some(Base::Fresh(fresh))
    }

    fn schema() -> Value {
        json!({"anyOf": [Fresh::schema(), FolderBase::schema(), NodeBase::schema()]})
    }
}

fn checked_folder(folder: PathBuf, reader: &mut Reader) -> Option<Base> {
    let config = folder.join("config.json");
    let Ok(text) = std::fs::read_to_string(&config) else {
        let message = format!("`{}` holds no `config.json`", shown_path(&folder));
        reader.mistake("missing-file", message, Some("name a model folder in Hugging Face layout".to_string()));
        return None;
    };
    if let Err(fault) = DecoderConfig::from_json(&text, &shown_path(&config)) {
        reader.mistake("unsupported-model", fault.to_string(), None);
        return None;
    }
    Some(Base::Folder(folder))
}

impl Fresh {
    pub fn config(&self, vocab_size: usize, end_token: u32) -> DecoderConfig {
        DecoderConfig {
            family: self.architecture.family(),
            vocab_size,
            hidden_size: self.hidden,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads.unwrap_or((self.heads / 2).max(1)),
            head_dim: self.head_dim.filter(|size| size * self.heads != self.hidden),
            intermediate_size: self.ffn.unwrap_or((self.hidden * 8 / 3).next_multiple_of(32)),
            rms_norm_eps: 1e-6,
            rope_theta: self.rope_theta,
            tie_word_embeddings: true,
            max_position_embeddings: self.positions,
            bos_token_id: None,
            eos_token_ids: vec![end_token],
            ..DecoderConfig::default()
        }
    }

    /// A student whose tokenizer has seen `texts`, with weights drawn from `seed`.
    pub fn make<'a>(&self, texts: impl Iterator<Item = &'a str>, seed: u64, device: &Device) -> Result<Student> {
        let training = match self.tokenizer.train {
            TokenizerTraining::Bpe => Training::Bpe,
            TokenizerTraining::Words => Training::Words,
        };
        let (before_answer, opening) = (format!("\n\n{FINAL_RESPONSE}"), THINKING);
        let headings = [opening, before_answer.as_str(), FINAL_RESPONSE];
        let tokenizer = Tokenizer::train(training, self.tokenizer.size, texts, &headings)?;
        let end_token = tokenizer.id(END_OF_TEXT).expect("a tokenizer of ours has the ending token");
        let config = self.config(tokenizer.vocab_size(), end_token);
        let decoder = Decoder::fresh(device, &config, seed);
        Ok(Student { decoder, tokenizer, template: plain_template(), carried: Carried::default(), adapter: None })
    }
}

impl Base {
    /// Every file of a model folder that can change what is loaded, by name.
    pub fn files(&self) -> Vec<PathBuf> {
        let Base::Folder(folder) = self else { return Vec::new() };
        let counts = |path: &PathBuf| {
            path.extension()
                .is_some_and(|ending| ["json", "safetensors", "jinja", "model"].iter().any(|known| ending == *known))
                && path.file_name().is_some_and(|name| name != "timings.json")
                || path.file_name().is_some_and(|name| carried::COPIED.iter().any(|copied| name == *copied))
        };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = entries.filter(counts).collect();
        files.sort_unstable();
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> (Option<Base>, Vec<String>) {
        let mut reader = Reader::default();
        let base = Base::read(&value, &mut reader);
        (base, reader.mistakes.into_iter().map(|mistake| mistake.code.to_string()).collect())
    }

    #[test]
    fn a_base_is_one_of_three() {
        let check = |value: Value, codes: &[&str]| assert_eq!(read(value.clone()).1, codes, "{value}");
        check(json!({"architecture": "qwen2"}), &[]);
        check(json!({"architecture": "qwen3", "head_dim": 32}), &[]);
        check(json!({"architecture": "llama"}), &[]);
        check(json!({"architecture": "qwen4"}), &["unknown-word"]);
        check(json!({"architecture": "qwen3", "head_dim": 31}), &["impossible-model"]);
        check(json!({"hidden": 96}), &["missing-key"]);
        check(json!({"architecture": "qwen2", "hidden": 97}), &["impossible-model"]);
        check(json!({"architecture": "qwen2", "widht": 7}), &["unknown-key"]);
        check(json!({"path": "nowhere"}), &["missing-file"]);
        check(json!({"path": "nowhere", "layers": 3}), &["unknown-key", "missing-file"]);
        check(json!({"node": "student"}), &[]);
        check(json!("student"), &["wrong-type"]);
    }

    #[test]
    fn the_demos_shape_is_the_default() {
        let Some(Base::Fresh(fresh)) = read(json!({"architecture": "qwen2"})).0 else { panic!("a fresh base") };
        let config = fresh.config(300, 7);
        let shape =
            [config.hidden_size, config.num_hidden_layers, config.num_key_value_heads, config.intermediate_size];
        assert_eq!(shape, [96, 3, 2, 256]);
    }

    #[test]
    fn what_is_left_out_is_no_part_of_the_identity() {
        let shown = |value: Value| serde_json::to_string(&read(value).0).unwrap();
        assert!(!shown(json!({"architecture": "qwen2"})).contains("head_dim"));
        let parts = |family: &str| {
            let Some(Base::Fresh(fresh)) = read(json!({"architecture": family})).0 else { panic!("a fresh base") };
            let config = fresh.config(300, 7);
            [config.has_qkv_bias(), config.has_head_norms(), config.has_out_bias()]
        };
        assert_eq!(["qwen2", "qwen3", "llama"].map(parts), [[true, false, false], [false, true, false], [false; 3]]);
    }

    #[test]
    fn names_and_paths_are_no_part_of_the_identity() {
        let shown = |value: Value| serde_json::to_string(&read(value).0).unwrap();
        assert_eq!(shown(json!({"node": "a"})), shown(json!({"node": "b"})));
        assert_ne!(shown(json!({"node": "a"})), shown(json!({"architecture": "qwen2"})));
        assert_eq!(serde_json::to_string(&Base::Folder("x".into())).unwrap(), r#"{"folder":null}"#);
    }
}
