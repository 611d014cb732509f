//! What comes with a base model beside its weights and goes on with what is trained from it: settings of its tokenizer, defaults of
//! its sampling, and files that other programs look for.

use super::chat::ChatTemplate;
use super::config::{OneOrMore, eos_json};
use super::{DecoderConfig, Tokenizer};
use crate::failure::{Failure, Result};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// Copied byte by byte where they are there: older spellings of what `tokenizer.json` says.
pub const COPIED: [&str; 5] = [SPECIAL_TOKENS, "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model"];

/// What of `generation_config.json` we do not do, each with the value that asks for nothing.
const NOT_SAMPLED: [(&str, f64); 5] = [
    ("repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("typical_p", 1.0),
    ("num_beams", 1.0),
    ("epsilon_cutoff", 0.0),
];

/// How a model is to be sampled where nobody says otherwise; `None` where its maker does not say either.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingDefaults {
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    /// Asked for in the file, and not done.
    pub left_out: Vec<&'static str>,
}

/// Empty for a model made from nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Carried {
    tokenizer_config: Map<String, Value>,
    generation_config: Map<String, Value>,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Carried {
    pub fn read(folder: &Path) -> Result<Carried> {
        let files = COPIED.into_iter().filter(|name| folder.join(name).exists()).map(|name| {
            let path = folder.join(name);
            fs::read(&path).map(|bytes| (name, bytes)).map_err(|error| Failure::io("read", &path, error))
        });
        Ok(Carried {
            tokenizer_config: read_object(&folder.join(TOKENIZER_CONFIG))?,
            generation_config: read_object(&folder.join(GENERATION_CONFIG))?,
            files: files.collect::<Result<_>>()?,
        })
    }

    /// Writes what was read, with the ends of `config` and with `template` inside `tokenizer_config.json`, where every version of
    /// transformers looks for it.
    pub fn write(
        &self,
        folder: &Path,
        config: &DecoderConfig,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> Result<()> {
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            fs::write(&path, bytes).map_err(|error| Failure::io("write", &path, error))?;
        }
        super::folder::write_json(
            &folder.join(TOKENIZER_CONFIG),
            &self.tokenizer_config(config, tokenizer, template).into(),
        )?;
        super::folder::write_json(&folder.join(GENERATION_CONFIG), &self.generation_config(config).into())
    }

    /// Where a generation configuration names the ends of a text, it wins over `config.json`, as in transformers.
    pub fn end_tokens(&self) -> Result<Option<Vec<u32>>> {
        let Some(ends) = self.generation_config.get("eos_token_id").filter(|ends| !ends.is_null()) else {
            return Ok(None);
        };
        let wrong = |_| {
            Failure::recipe(format!("`{GENERATION_CONFIG}`: eos_token_id `{ends}` is no id of a token, nor a list"))
        };
        serde_json::from_value(ends.clone()).map(OneOrMore::into_vec).map(Some).map_err(wrong)
    }

    /// What the model's maker samples with.
    pub fn sampling(&self) -> SamplingDefaults {
        let number = |name: &str| self.generation_config.get(name).and_then(Value::as_f64);
        let is_greedy = self.generation_config.get("do_sample") == Some(&json!(false));
        let differs = |(name, none): &(&str, f64)| number(name).is_some_and(|number| number != *none);
        SamplingDefaults {
            temperature: if is_greedy { Some(0.0) } else { number("temperature").filter(|number| *number >= 0.0) },
            top_k: number("top_k").filter(|number| *number >= 0.0).map(|number| number as usize),
            top_p: number("top_p").filter(|number| (0.0..=1.0).contains(number)),
            min_p: number("min_p").filter(|number| (0.0..=1.0).contains(number)),
            left_out: NOT_SAMPLED.iter().filter(|one| differs(one)).map(|(name, _)| *name).collect(),
        }
    }

    /// Models keep their template in a file of its own or in `tokenizer_config.json`, alone or among named ones.
    pub fn template(&self, folder: &Path) -> Result<Option<ChatTemplate>> {
        let of_its_own = folder.join(TEMPLATE);
        let source = match of_its_own.exists() {
            true => Some(fs::read_to_string(&of_its_own).map_err(|error| Failure::io("read", &of_its_own, error))?),
            false => self.template_inside().map(str::to_string),
        };
        Ok(source.map(|source| ChatTemplate::new(source, self.token("bos_token"), self.token("eos_token"))))
    }

    fn template_inside(&self) -> Option<&str> {
        match self.tokenizer_config.get("chat_template")? {
            Value::String(source) => Some(source),
            Value::Array(named) => named.iter().find(|one| one["name"] == "default")?["template"].as_str(),
            _ => None,
        }
    }

    /// The text of a special token such as `eos_token`, spelt as a string or as an object with its content; empty where there is none.
    pub fn token(&self, name: &str) -> String {
        let special = self.files.iter().find(|(file, _)| *file == SPECIAL_TOKENS);
        let special: Value = special.and_then(|(_, bytes)| serde_json::from_slice(bytes).ok()).unwrap_or_default();
        let text = |token: &Value| token.as_str().or(token["content"].as_str()).map(str::to_string);
        self.tokenizer_config.get(name).and_then(text).or_else(|| text(&special[name])).unwrap_or_default()
    }

    fn tokenizer_config(
        &self,
        config: &DecoderConfig,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> Map<String, Value> {
        let mut file = self.tokenizer_config.clone();
        if file.is_empty() {
            file = fresh_tokenizer_config(config, tokenizer);
        }
        let source = template.map(ChatTemplate::source);
        if source != self.template_inside() || source.is_none() {
            file.insert("chat_template".into(), json!(source));
        }
        file
    }

    fn generation_config(&self, config: &DecoderConfig) -> Map<String, Value> {
        let mut file = self.generation_config.clone();
        file.entry("bos_token_id").or_insert(json!(config.bos_token_id));
        file.insert("eos_token_id".into(), eos_json(&config.eos_token_ids));
        file.entry("pad_token_id").or_insert(json!(config.eos_token_ids.first()));
        file
    }
}

fn fresh_tokenizer_config(config: &DecoderConfig, tokenizer: &Tokenizer) -> Map<String, Value> {
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    let eos = token(config.eos_token_ids.first().copied());
    let file = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token(config.bos_token_id),
        "eos_token": &eos,
        "pad_token": &eos,
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.max_position_embeddings,
    });
    file.as_object().cloned().unwrap_or_default()
}

/// Empty where there is no such file.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    let text = fs::read_to_string(path).map_err(|error| Failure::io("read", path, error))?;
    serde_json::from_str(&text).map_err(|error| Failure::recipe(format!("`{}`: {error}", path.display())))
}
