//! AdamW over one flat buffer: decay on matrices only, gradients clipped by their global norm.

use super::checkpoint::Checkpoint;
use crate::model::{Decoder, Learnt};
use kernels::Buffer;
use serde::{Deserialize, Serialize};

/// AdamW (Loshchilov 2019, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// Decoupled decay of matrices, as a share of the learning rate.
    pub decay: f32,
    /// The gradient's norm is scaled down to this.
    pub norm_max: f32,
}

impl Default for AdamW {
    fn default() -> AdamW {
        AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1, norm_max: 1.0 }
    }
}

/// The moments of what a model learns.
pub struct Optimizer {
    settings: AdamW,
    first: Buffer<f32>,
    second: Buffer<f32>,
    step: u64,
}

impl Optimizer {
    pub fn new(decoder: &Decoder, settings: AdamW) -> Optimizer {
        let (stream, len) = (decoder.device().stream(), decoder.learnt().len);
        Optimizer { settings, first: stream.zeros(len), second: stream.zeros(len), step: 0 }
    }

    /// One update; returns the gradient's norm before clipping. A norm that is not finite changes nothing.
    pub fn step(&mut self, decoder: &mut Decoder, gradients: &Buffer<f32>, rate: f64) -> f64 {
        let stream = decoder.device().stream();
        let norm = kernels::reduce::sum_squares(&stream, gradients.view()).sqrt();
        if !norm.is_finite() {
            return norm;
        }
        self.step += 1;
        let scale = (self.settings.norm_max as f64 / (norm + 1e-6)).min(1.0) as f32;
        let Learnt { matrices, len } = decoder.learnt();
        for (range, decay) in [(0..matrices, self.settings.decay), (matrices..len, 0.0)] {
            let settings = kernels::adamw::AdamW {
                learning_rate: rate as f32,
                beta1: self.settings.beta1,
                beta2: self.settings.beta2,
                epsilon: self.settings.epsilon,
                weight_decay: decay,
                step: self.step,
                gradient_scale: scale,
            };
            kernels::adamw::step(
                &stream,
                &settings,
                gradients.slice(range.clone()),
                decoder.learnt_mut().slice_mut(range.clone()),
                self.first.slice_mut(range.clone()),
                self.second.slice_mut(range),
            );
        }
        norm
    }

    /// Adds parameters and moments of `decoder` to a checkpoint, under names that start with `name`.
    pub fn save<S>(&self, name: &str, decoder: &Decoder, checkpoint: &mut Checkpoint<S>) {
        let stream = decoder.device().stream();
        let mut keep = |part: &str, values| checkpoint.arrays.insert(format!("{name}.{part}"), values);
        keep("parameters", decoder.learnt_weights());
        keep("first", stream.download(self.first.view()));
        keep("second", stream.download(self.second.view()));
    }

    /// The reverse of [`Optimizer::save`]; `updates` is how many steps it had taken. False where the arrays do not fit.
    pub fn restore<S>(&mut self, name: &str, decoder: &mut Decoder, checkpoint: &Checkpoint<S>, updates: u64) -> bool {
        let stream = decoder.device().stream();
        let array =
            |part: &str| checkpoint.arrays.get(&format!("{name}.{part}")).filter(|it| it.len() == self.first.len());
        let (Some(parameters), Some(first), Some(second)) = (array("parameters"), array("first"), array("second"))
        else {
            return false;
        };
        stream.write(decoder.learnt_mut().view_mut(), parameters);
        stream.write(self.first.view_mut(), first);
        stream.write(self.second.view_mut(), second);
        self.step = updates;
        true
    }

    /// How many updates have been made.
    pub fn updates(&self) -> u64 {
        self.step
    }
}
