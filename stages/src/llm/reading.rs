//! A model as its kept replies know it: finds them and reads them. It answers nothing, so it needs no key, no server and no weights.

use super::local::{self, weights_hash};
use super::openai::{self, envelope};
use super::prices::Prices;
use super::rehearsal;
use super::{Fault, LanguageModel, Manner, ModelSpec, Reply, Request, Usage};
use crate::failure::Result;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::path::Path;

pub struct ReadingModel {
    identity: Value,
    parse: fn(&[u8]) -> std::result::Result<Reply, Fault>,
    is_rehearsal: bool,
    manner: Manner,
    prices: Option<Prices>,
}

impl ReadingModel {
    /// The model that a key's record names by `identity`. `spec` is what the recipe says of it by now: only its prices are taken.
    /// `folder` holds the weights of a model that we run ourselves. `None` for a provider that is not known here.
    ///
    /// # Errors
    /// If the weights cannot be read.
    pub fn recorded(identity: &Value, spec: &ModelSpec, folder: Option<&Path>) -> Result<Option<ReadingModel>> {
        let provider = identity["provider"].as_str().unwrap_or_default();
        let mut identity = identity.clone();
        let manner = if provider == "openai" { openai::manner(&identity) } else { Manner::default() };
        let parse = match provider {
            "rehearsal" => rehearsal::parse,
            "openai" => {
                identity = openai::address_identity(identity);
                envelope::parse
            }
            "local" => {
                if let Some(folder) = folder {
                    identity["weights"] = json!(weights_hash(folder)?);
                }
                local::parse
            }
            _ => return Ok(None),
        };
        let prices = match spec {
            ModelSpec::OpenAi(settings) if provider == "openai" => settings.prices.0.clone(),
            _ => None,
        };
        Ok(Some(ReadingModel { parse, is_rehearsal: provider == "rehearsal", prices, identity, manner }))
    }
}

impl LanguageModel for ReadingModel {
    fn identity(&self) -> Value {
        self.identity.clone()
    }

    fn complete<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, std::result::Result<Vec<u8>, Fault>> {
        async { Err(Fault::Lasting("this model is here to read kept replies only".to_string())) }.boxed()
    }

    fn parse(&self, raw: &[u8]) -> std::result::Result<Reply, Fault> {
        (self.parse)(raw)
    }

    fn reads_task(&self) -> bool {
        self.is_rehearsal
    }

    fn manner(&self) -> Manner {
        self.manner
    }

    fn label(&self) -> Option<&'static str> {
        self.is_rehearsal.then_some(rehearsal::LABEL)
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn cost_usd(&self, usage: &Usage) -> Option<f64> {
        match (&self.prices, self.identity["provider"] == "openai") {
            (Some(prices), _) => Some(prices.cost_usd(usage)),
            (None, is_paid) => (!is_paid).then_some(0.0),
        }
    }

    fn worst_case_usd(&self, _: &Request) -> Option<f64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Reader;

    fn spec(value: Value) -> ModelSpec {
        ModelSpec::read(value.as_object().unwrap(), &mut Reader::default()).unwrap()
    }

    /// The disaster: what is kept is not found, or is read otherwise than by the model that was asked.
    #[test]
    fn it_looks_where_the_model_put_its_replies() {
        let rehearsal = spec(json!({"provider": "rehearsal", "slip": 0.2}));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let asked = rehearsal.open(kernels::Device::cpu(None), None, runtime.handle()).unwrap();
        let reading = ReadingModel::recorded(&rehearsal.identity(), &rehearsal, None).unwrap().unwrap();
        assert_eq!((reading.identity(), reading.reads_task()), (asked.identity(), asked.reads_task()));
        assert_eq!(reading.label(), asked.label());
        let server =
            spec(json!({"provider": "openai", "model": "m", "temperature": 0.5, "api_key_env": "DECOCT_NO_KEY",
            "prices": {"input_usd_per_million": 2.0, "output_usd_per_million": 4.0}}));
        let reading = ReadingModel::recorded(&server.identity(), &server, None).unwrap().unwrap();
        assert_eq!(reading.identity(), server.identity());
        let raw = br#"{"choices": [{"message": {"content": "Yes."}}], "usage": {"prompt_tokens": 500000, "completion_tokens": 1}}"#;
        let reply = reading.parse(raw).unwrap();
        assert_eq!((reply.text.as_str(), reading.cost_usd(&reply.usage)), ("Yes.", Some(1.000004)));
        assert!(ReadingModel::recorded(&json!({"provider": "oracle"}), &server, None).unwrap().is_none());
    }
}
