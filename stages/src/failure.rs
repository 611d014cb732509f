//! Why a stage stopped, sorted by whose fault it is; the engine turns each into an exit code.

/// A stage either ends with all its outputs or with one of these; nothing half-done is ever published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The recipe or the data it names is wrong; the author can mend it.
    #[error("{0}")]
    Recipe(String),
    /// A remote service gave no answer although it was asked again; replies received so far are kept.
    #[error("{0}")]
    Remote(String),
    /// The next call could pass the budget; replies received so far are kept.
    #[error("{0}")]
    Budget(String),
    /// Somebody asked us to stop; what was finished is kept.
    #[error("interrupted")]
    Cancelled,
    /// What models answer cannot be kept, so nothing more is asked; replies kept so far stay.
    #[error("{0}")]
    Replies(String),
    /// A disk, a device or another local resource refused.
    #[error("{0}")]
    Machine(String),
    /// Our own bug.
    #[error("this is a bug in decoct: {0}")]
    Ourselves(String),
}

impl Failure {
    pub fn recipe(message: impl Into<String>) -> Failure {
        Failure::Recipe(message.into())
    }

    /// Work of ours that panicked, with what it said; or that a device ended, which is nobody's bug.
    pub fn of_panic(panic: &(dyn std::any::Any + Send)) -> Failure {
        if let Some(error) = panic.downcast_ref::<kernels::DeviceError>() {
            return Failure::Machine(error.to_string());
        }
        let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Failure::Ourselves(text.unwrap_or_else(|| "a panic without a message".to_string()))
    }

    /// An input/output error with the path it happened at, and what to do where that is known.
    pub fn io(action: &str, path: &std::path::Path, error: std::io::Error) -> Failure {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let next_step = match error.kind() {
            StorageFull | QuotaExceeded => {
                "\n  hint: everything finished so far is kept; free some space and run again"
            }
            ReadOnlyFilesystem => {
                "\n  hint: make this place writable, or choose another cache folder with `--cache DIR`"
            }
            _ => "",
        };
        Failure::Machine(format!("cannot {action} `{}`: {error}{next_step}", path.display()))
    }
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;
