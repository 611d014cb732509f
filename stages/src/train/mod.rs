//! Training loops, one algorithm per file, and what they share: schedules, the optimizer, batches, checkpoints, metrics.

pub mod batches;
pub mod checkpoint;
pub mod evaluate;
pub mod held_out;
pub mod host;
pub mod optimizer;
pub mod ppo;
pub mod schedule;
pub mod sft;
pub mod shards;

pub use host::{Host, Metrics, Quiet};
