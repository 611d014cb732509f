//! One file a kind: its settings, its identity, its work.

mod asking;
mod cot;
mod decontaminate;
mod dedup;
mod filter;
mod mix;
mod prompts;
mod reformat;
mod rewrite;
mod search;
mod solved;
mod source;
mod split;
pub(crate) mod text;
pub mod verify;

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
];
