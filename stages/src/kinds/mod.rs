//! One file a kind: its settings, its identity, its work.

use crate::stage::Kind;

pub const ALL: &[&Kind] = &[];
