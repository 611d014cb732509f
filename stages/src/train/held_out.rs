//! Held-out examples: how well a model in training predicts them, and what follows from it: an early stop, the best weights.
//!
//! | metric | is, over all target tokens of the held-out examples |
//! |---|---|
//! | `evaluation_loss` | mean −log p, in nats |
//! | `evaluation_accuracy` | the share of tokens that the model thinks likeliest, given the text before them |
//! | `evaluation_perplexity` | e to the loss |

use super::batches::Example;
use super::shards::{Lane, Lanes};
use crate::model::batch::Batch;
use crate::model::{Decoder, heads};
use serde::{Deserialize, Serialize};

/// When to evaluate and what for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvaluationPlan {
    /// Steps between two evaluations; there is one more at the end.
    pub every: u64,
    /// Stop after so many evaluations in a row without gain; `None` never does.
    pub patience: Option<u64>,
    /// A loss must fall by more than this, in nats, to be a gain.
    pub min_delta: f64,
    /// Give back the weights of the lowest loss in place of the last ones.
    pub best: bool,
}

/// One evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    pub loss: f64,
    pub accuracy: f64,
}

impl Score {
    pub fn metrics(self) -> [(String, f64); 3] {
        let values = [("loss", self.loss), ("accuracy", self.accuracy), ("perplexity", self.loss.exp())];
        values.map(|(name, value)| (format!("evaluation_{name}"), value))
    }
}

/// Reads `examples` and changes nothing. The same bits on any number of threads, as sums are made in the lanes' order.
pub fn score(decoder: &Decoder, examples: &[Example], lanes: &mut Lanes) -> Score {
    let all: Vec<usize> = (0..examples.len()).collect();
    let targets: usize = examples.iter().map(Example::targets).sum();
    let read = |chunk: &[usize], lane: &mut Lane| {
        let workspace = &mut lane.workspace;
        let batch = Batch::of_examples(&workspace.stream, chunk.iter().map(|&index| &examples[index]));
        decoder.forward(&batch, workspace);
        heads::log_probabilities(decoder, &batch, 1.0, workspace);
        let expected = workspace.stream.download(batch.targets());
        let likeliest = heads::likeliest(decoder, &batch, workspace);
        let right = expected.iter().zip(&likeliest).filter(|(expected, likeliest)| expected == likeliest).count();
        (kernels::reduce::sum(&workspace.stream, workspace.logp(&batch)), right)
    };
    let parts = lanes.run(&all, |index| examples[index].tokens.len(), read);
    let (sum, right) = parts.iter().fold((0.0, 0), |sums, part| (sums.0 + part.0, sums.1 + part.1));
    Score { loss: -sum / targets as f64, accuracy: right as f64 / targets as f64 }
}

/// What a run remembers of its evaluations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// The step and the loss of the lowest evaluation.
    pub best: Option<(u64, f64)>,
    /// The loss that counted as a gain last.
    mark: Option<f64>,
    /// Evaluations since then.
    without_gain: u64,
    /// Whether patience has run out.
    pub is_over: bool,
}

impl Watch {
    /// Takes note of an evaluation; whether it is the best so far.
    pub fn hear(&mut self, step: u64, loss: f64, plan: &EvaluationPlan) -> bool {
        let is_gain = self.mark.is_none_or(|mark| loss < mark - plan.min_delta);
        self.without_gain = if is_gain { 0 } else { self.without_gain + 1 };
        if is_gain {
            self.mark = Some(loss);
        }
        self.is_over = plan.patience.is_some_and(|patience| self.without_gain >= patience.max(1));
        let is_best = self.best.is_none_or(|(_, best)| loss < best);
        if is_best {
            self.best = Some((step, loss));
        }
        is_best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The evaluation after which it is over (from 1), and the step of the best one.
    fn heard(losses: &[f64], patience: Option<u64>, min_delta: f64) -> (Option<usize>, u64) {
        let plan = EvaluationPlan { every: 1, patience, min_delta, best: true };
        let mut watch = Watch::default();
        let end = losses.iter().zip(1..).position(|(&loss, step)| {
            watch.hear(step, loss, &plan);
            watch.is_over
        });
        (end.map(|place| place + 1), watch.best.unwrap().0)
    }

    #[test]
    fn patience_counts_evaluations_without_gain() {
        let losses = [3.0, 2.0, 2.1, 2.05, 1.99, 2.2];
        assert_eq!(heard(&losses, None, 0.0), (None, 5));
        assert_eq!(heard(&losses, Some(2), 0.0), (Some(4), 2));
        assert_eq!(heard(&losses, Some(3), 0.0), (None, 5));
        // 1.99 is the best, but no gain of more than 0.1.
        assert_eq!(heard(&losses, Some(3), 0.1), (Some(5), 5));
        assert_eq!(heard(&[2.0, 2.0], Some(1), 0.0), (Some(2), 1));
    }

    #[test]
    fn slow_gains_add_up() {
        assert_eq!(heard(&[3.0, 2.96, 2.92, 2.88, 2.84, 2.80], Some(3), 0.1), (None, 6));
    }
}
