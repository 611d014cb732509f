//! The compute device a stage runs on.

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Device;
