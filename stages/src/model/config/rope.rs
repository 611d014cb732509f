//! How a decoder's positions turn its heads: θ, and the scalings that stretch a model to texts longer than those it was made for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What slows the turns of a head's pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Every pair turns slower by `factor`.
    Linear { factor: f64 },
    /// Llama 3.1's: pairs that turn often within the first training's texts stay, those that hardly turn once slow down by `factor`,
    /// the ones between by something between.
    Llama3 {
        factor: f64,
        /// Fewer turns than this within the original length: slowed down by all of `factor`.
        low_freq_factor: f64,
        /// More turns than this: left alone.
        high_freq_factor: f64,
        /// The longest text of the first training, tokens.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// A pair's turn a position, in radians, from the unscaled one.
    pub fn scaled(self, frequency: f64) -> f64 {
        match self {
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }

    /// The first reason why there is no such scaling.
    pub fn check(self) -> Result<(), String> {
        let (RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. }) = self;
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(format!("rope scaling's factor `{factor}` must be at least 1"));
        }
        match self {
            RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } if !(0.0 < low && low < high) => {
                Err(format!("rope scaling's low_freq_factor `{low}` must lie between 0 and high_freq_factor `{high}`"))
            }
            RopeScaling::Llama3 { original_max_position_embeddings: 0, .. } => {
                Err("rope scaling's original_max_position_embeddings must be at least 1".into())
            }
            _ => Ok(()),
        }
    }
}

/// What either spelling says, `rope_theta` beside `rope_scaling` or transformers 5's `rope_parameters`.
#[derive(Default)]
pub(super) struct Rope {
    pub theta: Option<f64>,
    pub scaling: Option<RopeScaling>,
}

impl Rope {
    /// From the object under `field`.
    pub fn read(field: &str, mut object: Map<String, Value>) -> Result<Rope, String> {
        let theta = object.get("rope_theta").and_then(Value::as_f64);
        if let Some((name, _)) = object.iter().find(|(_, value)| value.is_object()) {
            return Err(format!("{field} `{name}` is not supported: all layers must turn alike"));
        }
        if let Some(share) = object.get("partial_rotary_factor").and_then(Value::as_f64).filter(|&share| share != 1.0) {
            return Err(partial(share));
        }
        let kind = object.get("rope_type").or(object.get("type")).and_then(Value::as_str).unwrap_or("default");
        let scaling = match kind {
            "default" => None,
            "linear" | "llama3" => {
                object.insert("rope_type".into(), json!(kind));
                let read = serde_json::from_value::<RopeScaling>(Value::Object(object));
                Some(read.map_err(|error| format!("{field}: {error}"))?)
            }
            other => {
                return Err(format!(
                    "rope_type `{other}` is not supported; supported are `default`, `linear` and `llama3`"
                ));
            }
        };
        Ok(Rope { theta, scaling })
    }

    /// What this says, and where it says nothing, `other`.
    pub fn or(self, other: Rope) -> Rope {
        Rope { theta: self.theta.or(other.theta), scaling: self.scaling.or(other.scaling) }
    }
}

pub(super) fn partial(share: f64) -> String {
    format!("partial_rotary_factor `{share}` is not supported: heads must turn as a whole")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: RopeScaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 1000,
    };

    #[test]
    fn often_turning_pairs_stay_and_slow_ones_slow_down() {
        let check = |turns: f64, expected: f64| {
            let frequency = turns * std::f64::consts::TAU / 1000.0;
            let found = LLAMA3.scaled(frequency) / frequency;
            assert!((found - expected).abs() < 1e-12, "{turns} turns: {found}");
        };
        check(4.5, 1.0);
        check(4.0, 1.0);
        check(2.5, 0.5 + 0.5 / 8.0);
        check(1.0, 1.0 / 8.0);
        check(0.1, 1.0 / 8.0);
        assert_eq!(RopeScaling::Linear { factor: 4.0 }.scaled(2.0), 0.5);
    }

    #[test]
    fn a_scaling_that_cannot_be_is_refused() {
        let check = |factor: f64, low: f64, high: f64, expected: Option<&str>| {
            let (low_freq_factor, high_freq_factor, original_max_position_embeddings) = (low, high, 64);
            let scaling =
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings };
            let found = scaling.check().err();
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.is_none_or(|message| message.contains(expected.unwrap())));
        };
        check(8.0, 1.0, 4.0, None);
        check(0.5, 1.0, 4.0, Some("factor `0.5`"));
        check(f64::NAN, 1.0, 4.0, Some("factor `NaN`"));
        check(8.0, 4.0, 4.0, Some("low_freq_factor `4`"));
        check(8.0, 0.0, 4.0, Some("low_freq_factor `0`"));
    }
}
