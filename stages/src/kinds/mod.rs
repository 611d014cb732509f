//! One file a kind: its settings, its identity, its work.

mod decontaminate;
mod dedup;
mod mix;
mod source;
mod split;
mod text;

use crate::stage::Kind;

pub const ALL: &[&Kind] = &[&source::KIND, &dedup::KIND, &split::KIND, &decontaminate::KIND, &mix::KIND];
