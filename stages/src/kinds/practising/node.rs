//! The node of an algorithm of practice: all that does not depend on which one it is.

use super::super::lora::LoraSettings;
use super::super::sft::question_need;
use super::{Practising, SHOWN, one_length};
use crate::columns::Need;
use crate::context::{Context, Profile};
use crate::failure::Result;
use crate::model::{Decoder, DecoderConfig};
use crate::prompt::Prompt;
use crate::settings::{Reader, Settings};
use crate::stage::{Input, Inputs, MemoryOutlook, Outlook, Output, Outputs, Stage};
use crate::train::memory::CriticSizes;
use crate::train::practice::Task;
use crate::train::rollouts::Environment;
use crate::train::{Host, Metrics};
use serde::Serialize;
use serde_json::{Map, Value};

/// A kind's settings, and what its algorithm has of its own.
pub trait Algorithm: Settings + Serialize + Send + Sync + 'static {
    /// The kind, as recipes call it.
    const NAME: &'static str;
    /// Metrics that its report shows beside [`SHOWN`].
    const SHOWN: &'static [&'static str];

    fn practising<'a>(&'a self, prompt: Option<&'a Prompt>) -> Practising<'a>;

    /// How long it lasts, to be filled in where nothing says: `iterations`, `episodes`, `passes`.
    fn length(&mut self) -> (&mut Option<u64>, Option<u64>, Option<f64>);

    /// What of it is learnt, to be filled in where nothing says.
    fn lora(&mut self) -> &mut Option<LoraSettings>;

    /// Notes what cannot be, of what it has of its own.
    fn check(&self, practising: &Practising, reader: &mut Reader);

    /// A critic beside the policy.
    fn critic(&self) -> CriticSizes {
        CriticSizes::Nothing
    }

    fn train(
        &self,
        practising: &Practising,
        task: Task,
        world: &mut dyn Environment,
        host: &mut dyn Host,
    ) -> Result<(Decoder, Vec<Metrics>)>;
}

struct Node<A> {
    algorithm: A,
    prompt: Option<Prompt>,
}

/// Reads a node's settings.
pub fn read<A: Algorithm>(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let mut algorithm = A::read_fields(fields, reader)?;
    let prompt = algorithm.practising(None).verifier.prompt(fields, reader)?;
    let before = reader.mistakes.len();
    let (iterations, episodes, passes) = algorithm.length();
    one_length(iterations, episodes, passes, reader);
    *algorithm.lora() = algorithm.lora().take().map(LoraSettings::filled_in);
    let node = Node { algorithm, prompt };
    let practising = node.practising();
    practising.check(reader);
    node.algorithm.check(&practising, reader);
    (reader.mistakes.len() == before).then(|| Box::new(node) as Box<dyn Stage>)
}

impl<A: Algorithm> Node<A> {
    fn practising(&self) -> Practising<'_> {
        self.algorithm.practising(self.prompt.as_ref())
    }
}

impl<A: Algorithm> Stage for Node<A> {
    /// 2 since attention's gradients are summed over a group's heads at once, 3 since exponentials are made of fused steps.
    fn version(&self) -> u32 {
        3
    }

    fn settings(&self) -> Value {
        serde_json::to_value(&self.algorithm).expect("settings are plain data")
    }

    fn inputs(&self) -> Vec<Input> {
        let practising = self.practising();
        vec![Input::model("policy", practising.policy), Input::rows("problems", practising.problems)]
    }

    fn models(&self) -> Vec<(String, String)> {
        self.practising().verifier.models()
    }

    fn prompts(&self) -> Vec<(&'static str, Prompt)> {
        self.prompt.iter().map(|prompt| ("verify", prompt.clone())).collect()
    }

    fn draws(&self) -> bool {
        true
    }

    fn needs_device(&self) -> bool {
        true
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::model("")]
    }

    fn shape(&self, models: &[Option<DecoderConfig>]) -> Option<DecoderConfig> {
        models.first().cloned().flatten()
    }

    fn memory(&self, models: &[Option<DecoderConfig>], on: Profile) -> Option<MemoryOutlook> {
        Some(self.practising().memory_outlook(models.first()?.as_ref()?, self.algorithm.critic(), on))
    }

    fn needs(&self) -> Vec<Need> {
        let practising = self.practising();
        let question = question_need("problems", practising.question);
        vec![question, Need::named("problems", "truth", practising.truth)]
    }

    fn calls(&self, rows: u64) -> Outlook {
        let practising = self.practising();
        practising.verifier.calls(practising.answers(rows))
    }

    fn rows_out(&self, _: &[u64]) -> Vec<Outlook> {
        vec![Outlook::exactly(0)]
    }

    fn run(&self, inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let (practising, shown) = (self.practising(), [&SHOWN[..], A::SHOWN].concat());
        practising.run(A::NAME, &shown, self.algorithm.critic(), inputs, context, |task, world, host| {
            self.algorithm.train(&practising, task, world, host)
        })
    }
}
