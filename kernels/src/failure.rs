//! What can go wrong with a device, as sentences that end with what to do, and how they leave the middle of work.

use thiserror::Error;

/// Why a device cannot be used, or could not go on. `cuda:N` is named by its ordinal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceError {
    #[error("device `cuda:{ordinal}`: no CUDA driver was found on this machine; use `--device cpu`")]
    NoDriver { ordinal: usize },
    #[error(
        "device `cuda:{ordinal}`: the CUDA driver refused to start: {reason}; check `nvidia-smi` or use `--device cpu`"
    )]
    Driver { ordinal: usize, reason: String },
    #[error(
        "device `cuda:{ordinal}`: the CUDA driver is of version {found}, and {needed} is the oldest that will do; \
         update it or use `--device cpu`"
    )]
    OldDriver { ordinal: usize, found: Version, needed: Version },
    #[error("device `cuda:{ordinal}`: this machine has {}; use one of them or `--device cpu`", devices(*count))]
    NoSuchDevice { ordinal: usize, count: usize },
    #[error(
        "device `cuda:{ordinal}`: {name} has compute capability {found}, and 8.0 (Ampere) is the least that will do; \
         use `--device cpu`"
    )]
    OldDevice { ordinal: usize, name: String, found: Version },
    #[error(
        "device `cuda:{ordinal}`: `{library}`, which {purpose}, was not found; install the CUDA toolkit or `{package}` \
         from PyPI, and name its folder in `DECOCT_CUDA_LIBRARIES`, or use `--device cpu`"
    )]
    NoLibrary { ordinal: usize, library: &'static str, purpose: &'static str, package: &'static str },
    #[error(
        "device `cuda:{ordinal}`: NVRTC {found} does not know the architecture `{architecture}`; install a newer one and \
         name its folder in `DECOCT_CUDA_LIBRARIES`, or use `--device cpu`"
    )]
    OldCompiler { ordinal: usize, found: Version, architecture: String },
    #[error(
        "device `cuda:{ordinal}`: NVRTC {compiler} makes programs that the CUDA driver {driver} cannot load; update the \
         driver, install NVRTC {}.x (`nvidia-cuda-nvrtc-cu{}` from PyPI), or use `--device cpu`",
        driver.major, driver.major
    )]
    NewCompiler { ordinal: usize, compiler: Version, driver: Version },
    #[error("`{source_name}.cu` does not compile for `{architecture}`: {log}")]
    Compile { source_name: &'static str, architecture: String, log: String },
    #[error(
        "{device} has no {} left: {} of {} are free; make batches smaller or use `--device cpu`",
        in_words(*asked), in_words(*free), in_words(*total)
    )]
    OutOfMemory { device: String, asked: u64, free: u64, total: u64 },
    #[error("{device} stopped: {what}: {reason}; the run can be started again, finished nodes are kept")]
    Stopped { device: String, what: String, reason: String },
}

/// A version as people write it, or a compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn devices(count: usize) -> String {
    match count {
        0 => "a CUDA driver but no GPU".into(),
        1 => "one GPU, `cuda:0`".into(),
        many => format!("{many} GPUs, `cuda:0` to `cuda:{}`", many - 1),
    }
}

/// Such as `1.2 GB` and `310 MB`.
fn in_words(bytes: u64) -> String {
    match bytes as f64 {
        few if few < 1e9 => format!("{:.0} MB", few / 1e6),
        many => format!("{:.1} GB", many / 1e9),
    }
}

impl DeviceError {
    /// Ends the work at hand: the panic's payload is the error itself, and no hook is called. For what no code between can do
    /// anything about: memory that has run out, a kernel that does not compile, a device that has stopped.
    pub(crate) fn unwind(self) -> ! {
        std::panic::resume_unwind(Box::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_what_was_found_and_what_to_do() {
        let version = |major, minor| Version { major, minor };
        let ordinal = 0;
        let table = [
            (DeviceError::NoSuchDevice { ordinal: 3, count: 2 }, "this machine has 2 GPUs, `cuda:0` to `cuda:1`; use"),
            (DeviceError::NoSuchDevice { ordinal, count: 0 }, "a CUDA driver but no GPU"),
            (
                DeviceError::OldDriver { ordinal, found: version(11, 4), needed: version(12, 0) },
                "11.4, and 12.0 is the",
            ),
            (
                DeviceError::NewCompiler { ordinal, compiler: version(13, 0), driver: version(12, 8) },
                "`nvidia-cuda-nvrtc-cu12` from PyPI",
            ),
            (
                DeviceError::OutOfMemory {
                    device: "cuda:0".into(),
                    asked: 3_200_000_000,
                    free: 512_000_000,
                    total: 24_000_000_000,
                },
                "cuda:0 has no 3.2 GB left: 512 MB of 24.0 GB are free",
            ),
        ];
        for (error, expected) in table {
            assert!(error.to_string().contains(expected), "`{error}` lacks `{expected}`");
        }
    }
}
