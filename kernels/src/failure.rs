//! What can go wrong with a device, as sentences that end with what to do, and how it travels out of the middle of work.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use thiserror::Error;

/// Why a device cannot be used, or could not go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceError {
    #[error("device `cuda:{ordinal}`: no CUDA driver was found on this machine; use `--device cpu`")]
    NoDriver { ordinal: usize },
    #[error(
        "device `cuda:{ordinal}`: the CUDA driver refused to start: {reason}; check `nvidia-smi` or use `--device cpu`"
    )]
    Driver { ordinal: usize, reason: String },
}

impl DeviceError {
    /// Ends the work at hand; [`attempt`] catches it. For what no code between can do anything about: memory that has run
    /// out, a kernel that does not compile, a device that has stopped.
    pub(crate) fn unwind(self) -> ! {
        resume_unwind(Box::new(self))
    }
}

/// Runs work on a device; a [`DeviceError`] in the middle of it is returned, any other panic goes on.
pub fn attempt<R>(work: impl FnOnce() -> R) -> Result<R, DeviceError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| match payload.downcast::<DeviceError>() {
        Ok(error) => *error,
        Err(panic) => resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_failure_is_returned_and_a_panic_goes_on() {
        assert_eq!(attempt(|| 3), Ok(3));
        let error = DeviceError::NoDriver { ordinal: 1 };
        assert_eq!(attempt(|| -> u32 { error.clone().unwind() }), Err(error));
        let panic = catch_unwind(|| attempt(|| std::panic::resume_unwind(Box::new("other"))));
        assert_eq!(*panic.expect_err("it goes on").downcast::<&str>().expect("the same"), "other");
    }
}
