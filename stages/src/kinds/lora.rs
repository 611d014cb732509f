//! `lora:` of a training node: small matrices are learnt beside frozen weights and merged into them at the end.

use super::sft::positive;
use crate::context::Context;
use crate::model::lora::{PeftAdapter, Target};
use crate::model::{Decoder, Lora};
use crate::settings::{Reader, Step};

/// The learning rate when nothing says: adapters start from nothing and take larger steps than weights do.
pub const RATE: f64 = 2e-4;
/// α for each rank when nothing says.
const ALPHA_PER_RANK: f64 = 2.0;

crate::settings! {
    /// Adapters (Hu 2021): W + α/rank · B · A with A and B learnt and W frozen. The model that comes out is an ordinary one.
    pub struct LoraSettings {
        /// Rows of A, columns of B.
        pub rank: usize = 16,
        /// The weight of what is learnt; twice the rank when left out.
        pub alpha: Option<f64> = None,
        /// The matrices of each layer that get one.
        pub targets: Vec<LoraTarget> = vec![LoraTarget::Attention, LoraTarget::FeedForward],
        /// The folder `adapter` of the model holds A and B for themselves besides, as PEFT reads them.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub keep_adapter: bool = false,
    }
}

crate::choice! {
    /// A matrix of every layer, or several.
    pub enum LoraTarget {
        "q" => Q,
        "k" => K,
        "v" => V,
        "o" => O,
        "gate" => Gate,
        "up" => Up,
        "down" => Down,
        /// `q`, `k`, `v` and `o`.
        "attention" => Attention,
        /// `gate`, `up` and `down`.
        "feed_forward" => FeedForward,
    }
}

impl LoraTarget {
    const SINGLE: [LoraTarget; 7] = {
        use LoraTarget::{Down, Gate, K, O, Q, Up, V};
        [Q, K, V, O, Gate, Up, Down]
    };

    fn matrices(self) -> &'static [Target] {
        match self {
            LoraTarget::Q => &[Target::Query],
            LoraTarget::K => &[Target::Key],
            LoraTarget::V => &[Target::Value],
            LoraTarget::O => &[Target::Output],
            LoraTarget::Gate => &[Target::Gate],
            LoraTarget::Up => &[Target::Up],
            LoraTarget::Down => &[Target::Down],
            LoraTarget::Attention => &[Target::Query, Target::Key, Target::Value, Target::Output],
            LoraTarget::FeedForward => &[Target::Gate, Target::Up, Target::Down],
        }
    }
}

impl LoraSettings {
    /// Notes what cannot be of a node's `lora`.
    pub fn check_if_any(lora: Option<&LoraSettings>, reader: &mut Reader) {
        if let Some(lora) = lora {
            reader.within(Step::Key("lora".into()), |reader| lora.check(reader));
        }
    }

    fn check(&self, reader: &mut Reader) {
        positive("rank", self.rank as f64, reader);
        positive("alpha", self.alpha.unwrap_or(1.0), reader);
        if self.targets.is_empty() {
            let hint = "`targets: [q, v]`, say; all seven when left out".to_string();
            let note = |reader: &mut Reader| reader.mistake("nothing-given", "no matrix is adapted", Some(hint));
            reader.within(Step::Key("targets".into()), note);
        }
    }

    /// With α written out, and targets in one order and once each, so that equal work has one name.
    pub fn filled_in(mut self) -> LoraSettings {
        self.alpha.get_or_insert(ALPHA_PER_RANK * self.rank as f64);
        let named: Vec<Target> = self.targets.iter().flat_map(|target| target.matrices()).copied().collect();
        self.targets = LoraTarget::SINGLE.into_iter().filter(|target| named.contains(&target.matrices()[0])).collect();
        self
    }

    /// The model that learns: with fresh adapters where a node has `lora`.
    pub fn adapted(lora: Option<&LoraSettings>, decoder: Decoder, context: &dyn Context) -> Decoder {
        match lora {
            Some(lora) => decoder.adapted(&lora.of_model(), context.draw().of("adapters").bits()),
            None => decoder,
        }
    }

    /// What takes less memory, for those who have no `lora` yet.
    pub fn advice(lora: Option<&LoraSettings>) -> &'static str {
        if lora.is_some() { "" } else { "`lora: {}`, which learns a small part, " }
    }

    /// What was learnt as adapters, where they are to be kept.
    pub fn kept(lora: Option<&LoraSettings>, decoder: &Decoder) -> Option<PeftAdapter> {
        lora.filter(|lora| lora.keep_adapter).map(|lora| PeftAdapter::of(decoder, &lora.of_model()))
    }

    pub fn of_model(&self) -> Lora {
        let targets = self.targets.iter().flat_map(|target| target.matrices()).copied().collect();
        let alpha = self.alpha.unwrap_or(ALPHA_PER_RANK * self.rank as f64) as f32;
        Lora { rank: self.rank, alpha, targets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Setting;
    use serde_json::{Value, json};

    fn read(value: Value) -> LoraSettings {
        LoraSettings::read(&value, &mut Reader::default()).unwrap().filled_in()
    }

    #[test]
    fn equal_adapters_have_one_name() {
        let whole = read(json!({}));
        assert_eq!(whole.of_model().targets, Target::ALL);
        assert_eq!((whole.rank, whole.alpha), (16, Some(32.0)));
        assert_eq!(read(json!({"targets": ["feed_forward", "attention", "q"], "alpha": 32})), whole);
        assert_eq!(read(json!({"targets": ["o", "v", "k", "q"]})), read(json!({"targets": "attention"})));
        assert_ne!(read(json!({"targets": ["q", "v"]})), whole);
        assert_eq!(
            serde_json::to_value(read(json!({"keep_adapter": false}))).unwrap(),
            serde_json::to_value(whole).unwrap()
        );
    }
}
