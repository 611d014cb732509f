//! Training loops, one algorithm per file, and what they share: schedules, the optimizer, batches, checkpoints, metrics; for those
//! that learn from their own answers, practice.

pub mod batches;
pub mod checkpoint;
pub mod dpo;
pub mod evaluate;
pub mod grpo;
mod guard;
pub mod held_out;
pub mod host;
mod learner;
pub mod memory;
pub mod optimizer;
pub mod policy;
pub mod ppo;
pub mod practice;
pub mod rloo;
pub mod rollouts;
pub mod schedule;
pub mod sft;
pub mod shards;
mod statistics;

pub use host::{Host, Metrics, Quiet};
