//! One file a command: arguments in, exit code out.

pub mod check;
pub mod schema;
