//! One file a kind: its settings, its identity, its work.

mod asking;
mod compute;
mod cot;
mod decontaminate;
mod dedup;
mod dpo;
mod eval;
mod examples;
mod filter;
mod grpo;
mod lora;
pub(crate) mod mix;
mod ppo;
mod practising;
mod prompts;
mod reformat;
mod rewrite;
mod rloo;
pub(crate) mod search;
mod sft;
mod shapes;
mod source;
pub(crate) mod split;
mod step_times;
mod student;
pub(crate) mod text;
mod verifier;
pub mod verify;

pub use prompts::prompt_of_question;

use crate::stage::Kind;

pub const ALL: &[&Kind] = &[
    &source::KIND,
    &dedup::KIND,
    &filter::KIND,
    &reformat::KIND,
    &split::KIND,
    &decontaminate::KIND,
    &cot::KIND,
    &verify::KIND,
    &search::KIND,
    &rewrite::KIND,
    &mix::KIND,
    &sft::KIND,
    &ppo::KIND,
    &grpo::KIND,
    &rloo::KIND,
    &dpo::KIND,
    &eval::KIND,
];
