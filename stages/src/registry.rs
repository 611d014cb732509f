//! The list of all kinds.

use crate::kinds;
use crate::stage::Kind;

/// Every kind, in the order of the recipe's way from exam to model.
pub const KINDS: &[&Kind] = kinds::ALL;

pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.name == name)
}
