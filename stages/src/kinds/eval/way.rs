//! How an evaluation has tokens chosen and how many answers it takes of each problem.

use super::{EvalSettings, Mode};
use crate::model::generate::Sampling;
use crate::settings::{Reader, Step};
use serde::{Serialize, Serializer};

/// Greedily, or sampled at a temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    pub mode: Mode,
    /// 0 where it is greedy.
    pub temperature: f64,
    /// Answers to each problem.
    pub samples: usize,
    /// Whether the same answers are sampled at other temperatures too.
    beside_others: bool,
}

impl Way {
    /// In the order of the modes, then of the temperatures. A second greedy answer would be the first once more.
    pub fn all(settings: &EvalSettings) -> Vec<Way> {
        let (temperatures, samples) = (&settings.temperature, settings.samples);
        let of_mode = |&mode: &Mode| match mode {
            Mode::Greedy => vec![Way { mode, temperature: 0.0, samples: 1, beside_others: false }],
            Mode::Sampled => {
                let beside_others = temperatures.len() > 1;
                temperatures.iter().map(|&temperature| Way { mode, temperature, samples, beside_others }).collect()
            }
        };
        settings.modes.iter().flat_map(of_mode).collect()
    }

    /// What the rows call it.
    pub fn word(&self) -> String {
        if self.beside_others { self.title() } else { self.mode.word().to_string() }
    }

    /// What tables call it.
    pub fn title(&self) -> String {
        match self.mode {
            Mode::Greedy => "greedy".to_string(),
            Mode::Sampled => format!("T={}", self.temperature),
        }
    }

    pub fn sampling(&self, settings: &EvalSettings) -> Sampling {
        let (temperature, tokens_max) = (self.temperature as f32, settings.max_new_tokens);
        match self.mode {
            Mode::Greedy => Sampling { temperature, tokens_max, ..Sampling::default() },
            Mode::Sampled => Sampling { temperature, top_p: settings.top_p as f32, tokens_max, ..Sampling::default() },
        }
    }

    /// The numbers k for which pass@k is told: 1, 2, 4 and so on, and all the answers.
    pub fn draws(&self) -> Vec<usize> {
        let doubled = std::iter::successors(Some(1), |k| Some(2 * k)).take_while(|&k| k < self.samples);
        doubled.chain([self.samples]).collect()
    }
}

/// Notes temperatures that cannot be, or that would give two rows one id.
pub fn check(temperatures: &[f64], reader: &mut Reader) {
    let mut note = |message: String| {
        reader.within(Step::Key("temperature".into()), |reader| reader.mistake("out-of-range", message, None));
    };
    if temperatures.is_empty() {
        note("`temperature` names nothing".to_string());
    }
    for (index, &temperature) in temperatures.iter().enumerate() {
        if !(temperature.is_finite() && temperature > 0.0) {
            note(format!("`{temperature}` should be above 0"));
        } else if temperatures[..index].contains(&temperature) {
            note(format!("`{temperature}` stands twice"));
        }
    }
}

/// One as a plain number, which it was before there could be several.
pub fn one_or_list<S: Serializer>(temperatures: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    match temperatures {
        [one] => one.serialize(serializer),
        several => several.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_at_k_is_told_for_doubled_draws_and_for_all() {
        let draws = |samples| Way { mode: Mode::Sampled, temperature: 1.0, samples, beside_others: false }.draws();
        let expected: [&[usize]; 5] = [&[1], &[1, 2], &[1, 2, 3], &[1, 2, 4, 6], &[1, 2, 4, 8]];
        assert_eq!([1, 2, 3, 6, 8].map(draws), expected.map(<[usize]>::to_vec));
    }
}
