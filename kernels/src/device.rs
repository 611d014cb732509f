//! Devices that compute and the ordered streams that operations are put on.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::accelerator::cuda::{Cuda, Toolkit};
use crate::accelerator::{Accelerator, Architecture, transfer};
use crate::buffer::{Buffer, Element, View, ViewMut};
use crate::failure::DeviceError;
use crate::profile::Profile;

/// What the dense products of projections and of the head take of their factors. Sums, and all else, stay f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// The values as they are.
    #[default]
    F32,
    /// The nearest bf16 of each value: the numbers of mixed-precision training.
    Bf16,
}

/// A place that computes. Cheap to clone; all clones share one thread pool and one accelerator.
#[derive(Clone, Debug)]
pub struct Device {
    /// Where the CPU computes; one thread that feeds the accelerator where there is one.
    pool: Arc<ThreadPool>,
    /// `None`: the CPU.
    accelerator: Option<Arc<dyn Accelerator>>,
    precision: Precision,
    poison: bool,
}

impl Device {
    /// The CPU with a thread pool of its own; `None` takes every core. Panics where the system refuses a thread.
    pub fn cpu(threads: Option<usize>) -> Device {
        let pool = pool(threads.unwrap_or(0));
        Device { pool, accelerator: None, precision: Precision::F32, poison: cfg!(debug_assertions) }
    }

    /// The emulated accelerator, whose kernels run as C++ on CPU threads of its own. Always poisons.
    #[cfg(feature = "emulator")]
    pub fn emulated(emulation: crate::accelerator::emulated::Emulation) -> Device {
        Device::accelerated(Arc::new(crate::accelerator::emulated::Emulated::new(emulation))).poisoned()
    }

    fn accelerated(accelerator: Arc<dyn Accelerator>) -> Device {
        Device {
            pool: pool(1),
            accelerator: Some(accelerator),
            precision: Precision::F32,
            poison: cfg!(debug_assertions),
        }
    }

    /// The CUDA device with this ordinal. A missing or broken driver, compiler or library is an error, never a panic.
    ///
    /// # Errors
    /// With a sentence that says what is missing and what to do, where the device cannot be used.
    pub fn cuda(ordinal: usize, toolkit: &Toolkit) -> Result<Device, DeviceError> {
        Ok(Device::accelerated(Arc::new(Cuda::open(ordinal, toolkit)?)))
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
        self.accelerator.as_ref().map_or_else(|| "cpu".into(), |accelerator| accelerator.name())
    }

    /// What kernels are compiled for; `None` on the CPU.
    pub fn architecture(&self) -> Option<Architecture> {
        self.accelerator.as_ref().map(|accelerator| accelerator.architecture())
    }

    /// Bytes of its own memory that can still be allocated; `None` where it shares the host's, as the CPU does.
    pub fn memory_free(&self) -> Option<u64> {
        self.accelerator.as_ref().and_then(|accelerator| accelerator.memory_free())
    }

    /// Bytes of all buffers on an accelerator: how many there are, and the most there were since it was opened. `None` on the CPU.
    pub fn memory_used(&self) -> Option<(u64, u64)> {
        self.accelerator.as_ref().map(|accelerator| (accelerator.tally().now(), accelerator.tally().most()))
    }

    /// What a plan of memory has to know of it.
    pub fn profile(&self) -> Profile {
        match &self.accelerator {
            None => Profile::Cpu { threads: self.threads() },
            Some(accelerator) => Profile::Accelerator {
                precision: self.precision,
                architecture: accelerator.architecture(),
                library_bytes: accelerator.library_bytes(),
            },
        }
    }

    /// Whether generation gains from [`crate::Prepared`] weights: only the CPU does.
    pub fn gains_from_prepared(&self) -> bool {
        self.accelerator.is_none()
    }

    /// How often each kernel was launched since the device was opened, by name; empty on the CPU.
    pub fn launches(&self) -> Vec<(&'static str, u64)> {
        self.accelerator.as_ref().map_or_else(Vec::new, |accelerator| accelerator.launches())
    }

    /// How many tasks run side by side: 1 on an accelerator, which takes them one after another.
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

fn pool(threads: usize) -> Arc<ThreadPool> {
    let builder = ThreadPoolBuilder::new().num_threads(threads);
    let pool = builder.thread_name(|index| format!("kernel-{index}")).build();
    Arc::new(pool.expect("the system gives us threads"))
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

    pub(crate) fn accelerator(&self) -> Option<&dyn Accelerator> {
        self.device.accelerator.as_deref()
    }

    /// What kernels are compiled for; only `cuda.rs` asks.
    pub(crate) fn architecture(&self) -> Architecture {
        self.accelerator().expect("cuda.rs is for accelerators").architecture()
    }

    /// Whether operations go to `cuda.rs` rather than to `cpu.rs`.
    pub(crate) fn is_accelerated(&self) -> bool {
        self.device.accelerator.is_some()
    }

    /// A new buffer of `len` zeros.
    pub fn zeros<T: Element>(&self, len: usize) -> Buffer<T> {
        let mut buffer = self.memory(len);
        if let Some(accelerator) = self.accelerator() {
            transfer::zero(accelerator, buffer.view_mut());
        }
        buffer
    }

    /// A new buffer whose content means nothing yet (poisoned where [`Device::poisoned`] says so).
    pub fn uninit<T: Element>(&self, len: usize) -> Buffer<T> {
        let mut buffer = self.memory(len);
        if self.device.poison {
            self.fill(buffer.view_mut(), T::POISON);
        }
        buffer
    }

    /// What an operation of `cuda.rs` needs while it runs; content as [`Stream::uninit`]'s. Memory is kept for the next operation.
    pub(crate) fn workspace<T: Element>(&self, len: usize) -> Buffer<T> {
        let home = self.device.accelerator.as_ref().expect("cuda.rs is for accelerators");
        let mut buffer = Buffer::workspace(home, len);
        if self.device.poison {
            self.fill(buffer.view_mut(), T::POISON);
        }
        buffer
    }

    /// A new buffer with these values.
    pub fn upload<T: Element>(&self, values: &[T]) -> Buffer<T> {
        let mut buffer = self.memory(values.len());
        self.write(buffer.view_mut(), values);
        buffer
    }

    /// Zeros on the CPU, anything on an accelerator.
    fn memory<T: Element>(&self, len: usize) -> Buffer<T> {
        self.device.accelerator.as_ref().map_or_else(|| Buffer::zeroed(len), |home| Buffer::on(home, len))
    }

    /// The values of a view, once everything put on this stream before has ended.
    pub fn download<T: Element>(&self, view: View<'_, T>) -> Vec<T> {
        match self.accelerator() {
            Some(accelerator) => transfer::read(accelerator, view),
            None => view.host().to_vec(),
        }
    }

    /// Writes host values over a view of the same length.
    pub fn write<T: Element>(&self, target: ViewMut<'_, T>, values: &[T]) {
        assert_eq!(target.len(), values.len(), "write: lengths differ");
        match self.accelerator() {
            Some(accelerator) => transfer::write(accelerator, target, values),
            None => target.host().copy_from_slice(values),
        }
    }

    /// Copies between views of the same length.
    pub fn copy<T: Element>(&self, source: View<'_, T>, target: ViewMut<'_, T>) {
        assert_eq!(source.len(), target.len(), "copy: lengths differ");
        match self.accelerator() {
            Some(accelerator) => transfer::copy(accelerator, source, target),
            None => target.host().copy_from_slice(source.host()),
        }
    }

    /// Sets every element to `value`.
    pub fn fill<T: Element>(&self, target: ViewMut<'_, T>, value: T) {
        match self.accelerator() {
            Some(accelerator) => transfer::fill(accelerator, target, value),
            None => target.host().fill(value),
        }
    }

    /// Seconds that the device takes for what `work` puts on this stream.
    pub fn timed(&self, mut work: impl FnMut()) -> f64 {
        if let Some(accelerator) = self.accelerator() {
            return accelerator.timed(&mut work);
        }
        let began = std::time::Instant::now();
        work();
        began.elapsed().as_secs_f64()
    }

    /// Waits until everything put on this stream has ended.
    pub fn synchronize(&self) {
        if let Some(accelerator) = self.accelerator() {
            accelerator.synchronize();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_cuda_gets_a_sentence_and_a_hint() {
        let error = Device::cuda(1_000, &Toolkit::default()).expect_err("no machine has a thousand GPUs");
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
