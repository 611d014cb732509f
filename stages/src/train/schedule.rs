//! The learning rate over a run: warm-up, then a shape.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Half a cosine down to the floor (Loshchilov 2017).
    Cosine,
    /// A straight line down to the floor.
    Linear,
    Constant,
    /// Constant, then a straight line to the floor over the last `share` of the run (Hägele 2024).
    CoolDown {
        share: f64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub shape: Shape,
    pub peak: f64,
    /// The share of the run over which the rate rises from nothing.
    pub warmup: f64,
    /// The lowest rate after warm-up, as a share of the peak.
    pub floor: f64,
}

impl Schedule {
    /// The rate at `done` (0 at the start, 1 at the end) of the run.
    pub fn rate(&self, done: f64) -> f64 {
        self.peak * self.warmed(done).min(self.floor.max(self.shape_at(done)))
    }

    /// The first step counts as well: a rate of 0 would waste it.
    fn warmed(&self, done: f64) -> f64 {
        if done >= self.warmup { 1.0 } else { (done / self.warmup).max(0.02) }
    }

    fn shape_at(&self, done: f64) -> f64 {
        let after_warmup = ((done - self.warmup) / (1.0 - self.warmup).max(1e-9)).clamp(0.0, 1.0);
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => 1.0 - after_warmup,
            Shape::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * after_warmup).cos(),
            Shape::CoolDown { share } => ((1.0 - done) / share.max(1e-9)).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: Shape, expected: [(f64, f64); 4]) {
        let schedule = Schedule { shape, peak: 2.0, warmup: 0.1, floor: 0.05 };
        for (done, rate) in expected {
            assert!((schedule.rate(done) - rate).abs() < 1e-9, "{shape:?} at {done}: {}", schedule.rate(done));
        }
    }

    #[test]
    fn rises_holds_and_falls() {
        check(Shape::Constant, [(0.0, 0.04), (0.05, 1.0), (0.1, 2.0), (1.0, 2.0)]);
        check(Shape::Linear, [(0.05, 1.0), (0.1, 2.0), (0.55, 1.0), (1.0, 0.1)]);
        check(Shape::Cosine, [(0.05, 1.0), (0.1, 2.0), (0.55, 1.0), (1.0, 0.1)]);
        check(Shape::CoolDown { share: 0.5 }, [(0.05, 1.0), (0.5, 2.0), (0.75, 1.0), (1.0, 0.1)]);
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        let schedule = Schedule { shape: Shape::Cosine, peak: 1.0, warmup: 0.0, floor: 0.0 };
        assert_eq!(schedule.rate(0.0), 1.0);
    }
}
