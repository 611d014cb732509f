//! A model that learns: its weights, its optimizer, and the lanes that its batches are worked on in.

use super::checkpoint::Checkpoint;
use super::optimizer::{AdamW, Optimizer};
use super::shards::Lanes;
use crate::model::Decoder;
use crate::model::workspace::Purpose;

pub struct Learner {
    pub decoder: Decoder,
    pub optimizer: Optimizer,
    pub lanes: Lanes,
}

impl Learner {
    /// With gradient checkpointing or without, which changes no bit.
    pub fn new(decoder: Decoder, settings: AdamW, is_checkpointing: bool) -> Learner {
        let purpose = Purpose::training(is_checkpointing);
        let (optimizer, lanes) = (Optimizer::new(&decoder, settings), Lanes::new(&decoder, purpose));
        Learner { decoder, optimizer, lanes }
    }

    /// One step with the gradients that the lanes hold; returns their norm before clipping. A norm that is no number changes nothing.
    pub fn step(&mut self, rate: f64) -> f64 {
        let gradients = self.lanes.gradients();
        self.optimizer.step(&mut self.decoder, gradients, rate)
    }

    /// Adds weights and moments to a checkpoint, under names that start with `name`.
    pub fn save<S>(&self, name: &str, checkpoint: &mut Checkpoint<S>) {
        self.optimizer.save(name, &self.decoder, checkpoint);
    }

    /// The reverse of [`Learner::save`]; false where the arrays do not fit.
    pub fn restore<S>(&mut self, name: &str, checkpoint: &Checkpoint<S>, updates: u64) -> bool {
        self.optimizer.restore(name, &mut self.decoder, checkpoint, updates)
    }
}
