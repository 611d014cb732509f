//! Devices that compute and the ordered streams that operations are put on.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};
use thiserror::Error;

use crate::buffer::{Buffer, Element, View, ViewMut};

/// Why a device cannot be used; the text ends with what to do about it.
#[derive(Debug, Error)]
pub enum DeviceError {
    #[error("device `cuda:{ordinal}`: no CUDA driver was found on this machine; use `--device cpu`")]
    NoDriver { ordinal: usize },
    #[error(
        "device `cuda:{ordinal}`: the CUDA driver refused to start: {reason}; check `nvidia-smi` or use `--device cpu`"
    )]
    Driver { ordinal: usize, reason: String },
    #[error("device `cuda:{ordinal}`: this build has no CUDA kernels yet; use `--device cpu`")]
    NoKernels { ordinal: usize },
}

/// What the dense products of projections and of the head take of their factors. Sums, and all else, stay f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// The values as they are.
    #[default]
    F32,
    /// The nearest bf16 of each value: the numbers of mixed-precision training.
    Bf16,
}

/// A place that computes. Cheap to clone; all clones share one thread pool.
#[derive(Clone, Debug)]
pub struct Device {
    pool: Arc<ThreadPool>,
    precision: Precision,
    poison: bool,
}

impl Device {
    /// The CPU with a thread pool of its own; `None` takes every core. Panics where the system refuses a thread.
    pub fn cpu(threads: Option<usize>) -> Device {
        let builder = ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
        let pool = builder.thread_name(|index| format!("kernel-{index}")).build().expect("the system gives us threads");
        Device { pool: Arc::new(pool), precision: Precision::F32, poison: cfg!(debug_assertions) }
    }

    /// The CUDA device with this ordinal. A missing or broken driver is an error, never a panic.
    pub fn cuda(ordinal: usize) -> Result<Device, DeviceError> {
        // A driver library that lacks an expected symbol panics inside cudarc.
        let probe = std::panic::catch_unwind(|| {
            // SAFETY: loads the driver library by its well-known name and looks only at whether that worked.
            if !unsafe { cudarc::driver::sys::is_culib_present() } {
                return Err(DeviceError::NoDriver { ordinal });
            }
            cudarc::driver::result::init()
                .map_err(|error| DeviceError::Driver { ordinal, reason: format!("{error:?}").to_lowercase() })
        });
        match probe {
            Ok(Ok(())) => Err(DeviceError::NoKernels { ordinal }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(DeviceError::Driver { ordinal, reason: "it lacks a function we need".into() }),
        }
    }

    /// The same device, whose uninitialised buffers are filled with NaN or `0xdead…`: conformance tests use it to see
    /// what an operation forgot to write. Debug builds always poison.
    pub fn poisoned(mut self) -> Device {
        self.poison = true;
        self
    }

    /// The same device, whose products take their factors in another precision.
    pub fn in_precision(mut self, precision: Precision) -> Device {
        self.precision = precision;
        self
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// `cpu` or `cuda:N`, as the command line spells it.
    pub fn name(&self) -> String {
        "cpu".into()
    }

    /// How many tasks run side by side.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// An ordered queue of operations on this device. On the CPU an operation has ended when its call returns.
    pub fn stream(&self) -> Stream {
        Stream { device: self.clone() }
    }

    /// Runs `work` on one of the device's own threads, so that operations inside need no hand-over.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

/// An ordered queue of operations on one [`Device`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stream {
    device: Device,
}

impl Stream {
    /// The device this stream feeds.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A new buffer of `len` zeros.
    pub fn zeros<T: Element>(&self, len: usize) -> Buffer<T> {
        Buffer::zeroed(len)
    }

    /// A new buffer whose content means nothing yet (poisoned where [`Device::poisoned`] says so).
    pub fn uninit<T: Element>(&self, len: usize) -> Buffer<T> {
        let mut buffer = Buffer::zeroed(len);
        if self.device.poison {
            self.fill(buffer.view_mut(), T::POISON);
        }
        buffer
    }

    /// A new buffer with these values.
    pub fn upload<T: Element>(&self, values: &[T]) -> Buffer<T> {
        let mut buffer = Buffer::zeroed(values.len());
        self.write(buffer.view_mut(), values);
        buffer
    }

    /// The values of a view, once everything put on this stream before has ended.
    pub fn download<T: Element>(&self, view: View<'_, T>) -> Vec<T> {
        view.host().to_vec()
    }

    /// Writes host values over a view of the same length.
    pub fn write<T: Element>(&self, target: ViewMut<'_, T>, values: &[T]) {
        assert_eq!(target.len(), values.len(), "write: lengths differ");
        target.host().copy_from_slice(values);
    }

    /// Copies between views of the same length.
    pub fn copy<T: Element>(&self, source: View<'_, T>, target: ViewMut<'_, T>) {
        assert_eq!(source.len(), target.len(), "copy: lengths differ");
        target.host().copy_from_slice(source.host());
    }

    /// Sets every element to `value`.
    pub fn fill<T: Element>(&self, target: ViewMut<'_, T>, value: T) {
        target.host().fill(value);
    }

    /// Waits until everything put on this stream has ended.
    pub fn synchronize(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_cuda_gets_a_sentence_and_a_hint() {
        let error = Device::cuda(0).expect_err("no CUDA kernels are in this build");
        assert!(error.to_string().contains("use `--device cpu`"), "{error}");
    }

    #[test]
    fn install_runs_on_the_devices_own_threads() {
        let device = Device::cpu(Some(3));
        assert_eq!(device.threads(), 3);
        assert!(device.install(|| std::thread::current().name().unwrap_or("").starts_with("kernel-")));
    }

    #[test]
    fn poison_marks_what_was_never_written() {
        let stream = Device::cpu(Some(1)).poisoned().stream();
        assert!(stream.download(stream.uninit::<f32>(5).view()).iter().all(|value| value.is_nan()));
        assert_eq!(stream.download(stream.uninit::<u32>(2).view()), [0xdead_dead; 2]);
    }
}
