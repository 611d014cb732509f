//! What every conformance test does with an operation: run it on one kind of device, compare bits, compare numbers.

#[cfg(feature = "emulator")]
use kernels::{Architecture, Emulation, Schedule};
use kernels::{Buffer, Device, Element, Precision, Stream, Toolkit, philox};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Largest relative error of an operation's output, ‖difference‖ / ‖reference‖, on every device.
pub const TOLERANCE: f64 = 1e-5;
/// The same where factors are rounded to bf16: of outputs, and of gradients.
pub const HALF_TOLERANCE: f64 = 4e-3;
pub const HALF_GRADIENT_TOLERANCE: f64 = 1e-2;

/// Coordinates of a gradient that are compared with finite differences.
const COORDINATES: usize = 80;

/// Random inputs of a test, the same every time.
pub struct Random {
    seed: u64,
    counter: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { seed, counter: 0 }
    }

    pub fn unit(&mut self) -> f64 {
        self.counter += 1;
        philox::uniform(self.seed, self.counter)
    }

    /// `len` numbers in [-1, 1).
    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (2.0 * self.unit() - 1.0) as f32).collect()
    }

    /// `len` numbers in 0..bound.
    pub fn indices(&mut self, len: usize, bound: usize) -> Vec<u32> {
        (0..len).map(|_| (self.unit() * bound as f64) as u32).collect()
    }
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Outputs of one run, by name.
pub type Outputs = Vec<(&'static str, Vec<f32>)>;

pub fn download(stream: &Stream, buffer: &Buffer<f32>) -> Vec<f32> {
    stream.download(buffer.view())
}

pub fn upload<T: Element>(stream: &Stream, values: &[T]) -> Buffer<T> {
    stream.upload(values)
}

/// A kind of device that tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// With 1, 2 and 3 threads, from outside its pool and from inside.
    Cpu,
    /// The kernels' text as C++, posing as this generation, under several schedules of a block's threads.
    #[cfg(feature = "emulator")]
    Emulated(Architecture),
    /// The first GPU, where there is one.
    Cuda,
}

impl Subject {
    /// Runs an operation on every device of this kind; all bits must agree, whatever the threads or their schedule.
    /// Returns the outputs.
    pub fn run(self, run: impl Fn(&Stream) -> Outputs + Sync) -> Outputs {
        self.run_in(Precision::F32, run)
    }

    /// The same with products in another precision.
    pub fn run_in(self, precision: Precision, run: impl Fn(&Stream) -> Outputs + Sync) -> Outputs {
        let mut first: Option<Outputs> = None;
        for (how, device) in self.devices() {
            let device = device.in_precision(precision).poisoned();
            let inside = (self == Subject::Cpu).then(|| device.install(|| run(&device.stream())));
            for outputs in [Some(run(&device.stream())), inside].into_iter().flatten() {
                let expected = first.get_or_insert_with(|| outputs.clone());
                assert_same_bits(&how, &outputs, expected);
            }
        }
        first.expect("there is a device")
    }

    fn devices(self) -> Vec<(String, Device)> {
        match self {
            Subject::Cpu => [1, 2, 3].map(|threads| (format!("{threads} threads"), Device::cpu(Some(threads)))).into(),
            #[cfg(feature = "emulator")]
            Subject::Emulated(architecture) => emulated(architecture),
            Subject::Cuda => {
                let device = cuda().expect("tests are left out where there is no GPU");
                vec![("the first time".into(), device.clone()), ("the second time".into(), device)]
            }
        }
    }

    /// Whether kernels of `.cu` files do the work.
    pub fn is_accelerated(self) -> bool {
        self != Subject::Cpu
    }
}

#[cfg(feature = "emulator")]
fn emulated(architecture: Architecture) -> Vec<(String, Device)> {
    let schedules = [Schedule::Forward, Schedule::Backward, Schedule::Shuffled(7)];
    let device = |schedule| {
        let emulation = Emulation { architecture, schedule, ..Emulation::default() };
        (format!("{schedule:?}"), Device::emulated(emulation))
    };
    schedules.map(device).into()
}

/// The first GPU. Where `KERNELS_CUDA` is set, there has to be one; it names the folder for compiled kernels, and
/// `KERNELS_CUDA_LIBRARIES` folders of CUDA's libraries.
pub fn cuda() -> Option<Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    DEVICE.get_or_init(open_cuda).clone()
}

fn open_cuda() -> Option<Device> {
    let folder = std::env::var_os("KERNELS_CUDA").map(PathBuf::from);
    let libraries = std::env::var_os("KERNELS_CUDA_LIBRARIES").unwrap_or_default();
    let toolkit = Toolkit {
        cubins: folder.clone().unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("cubins")),
        libraries: std::env::split_paths(&libraries).filter(|path| path.is_absolute()).collect(),
    };
    match Device::cuda(0, &toolkit) {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(folder.is_none(), "KERNELS_CUDA is set, but {error}");
            eprintln!("left out: {error}");
            None
        }
    }
}

fn assert_same_bits(how: &str, outputs: &Outputs, expected: &Outputs) {
    for ((name, values), (_, before)) in outputs.iter().zip(expected) {
        assert!(values.iter().all(|value| !value.is_nan()), "`{name}` holds NaN with {how}");
        let same = values.iter().zip(before).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same && values.len() == before.len(), "`{name}` differs between runs or with {how}");
    }
}

/// Makes a test of each function for each kind of device: `cpu::name`, `ampere::name`, `cuda::name`.
macro_rules! on_every_device {
    ($($test:ident),* $(,)?) => {
        crate::support::tests_of!(cpu, crate::support::Subject::Cpu; $($test)*);
        #[cfg(feature = "emulator")]
        crate::support::tests_of!(
            ampere, crate::support::Subject::Emulated(kernels::Architecture::AMPERE); $($test)*
        );
        mod cuda {
            $(#[test]
            fn $test() {
                if crate::support::cuda().is_some() {
                    super::$test(crate::support::Subject::Cuda);
                }
            })*
        }
    };
}
pub(crate) use on_every_device;

/// The same, and `hopper::name`, for operations that have a way of their own there.
macro_rules! on_every_path {
    ($($test:ident),* $(,)?) => {
        crate::support::on_every_device!($($test),*);
        #[cfg(feature = "emulator")]
        crate::support::tests_of!(
            hopper, crate::support::Subject::Emulated(kernels::Architecture::HOPPER); $($test)*
        );
    };
}
pub(crate) use on_every_path;

macro_rules! tests_of {
    ($kind:ident, $subject:expr; $($test:ident)*) => {
        mod $kind {
            $(#[test]
            fn $test() {
                super::$test($subject);
            })*
        }
    };
}
pub(crate) use tests_of;

/// The output of this name.
pub fn output<'a>(outputs: &'a Outputs, name: &str) -> &'a [f32] {
    &outputs.iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("no output `{name}`")).1
}

/// ‖actual − expected‖ / ‖expected‖ ≤ tolerance, and no element far off.
pub fn assert_close(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    let (mut difference, mut norm, mut worst) = (0.0f64, 0.0f64, 0.0f64);
    for (actual, expected) in actual.iter().zip(expected) {
        let error = f64::from(*actual) - expected;
        assert!(!error.is_nan(), "{what}: not a number");
        difference += error * error;
        norm += expected * expected;
        worst = worst.max(error.abs());
    }
    let (error, root_mean) = (difference.sqrt() / norm.sqrt().max(1e-30), (norm / expected.len().max(1) as f64).sqrt());
    assert!(difference == 0.0 || error <= tolerance, "{what}: relative error {error:.2e} above {tolerance:.0e}");
    assert!(
        worst <= 30.0 * tolerance * root_mean.max(1e-30) || worst == 0.0,
        "{what}: an element is off by {worst:.2e}"
    );
}

/// |actual − expected| ≤ tolerance for each element.
pub fn assert_within(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*actual) - expected).abs();
        assert!(error <= tolerance, "{what}[{index}]: {actual} instead of {expected}");
    }
}

/// Compares a gradient with central differences of a float64 loss, at random coordinates (all, where there are few).
pub fn assert_gradient(what: &str, actual: &[f32], at: &[f32], loss: impl Fn(&[f64]) -> f64) {
    assert_gradient_within(what, actual, at, TOLERANCE, loss);
}

/// The same to another tolerance.
pub fn assert_gradient_within(what: &str, actual: &[f32], at: &[f32], tolerance: f64, loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(actual.len(), at.len(), "{what}: lengths differ");
    let mut random = Random::new(at.len() as u64);
    let coordinates: Vec<usize> = if at.len() <= COORDINATES {
        (0..at.len()).collect()
    } else {
        random.indices(COORDINATES, at.len()).into_iter().map(|index| index as usize).collect()
    };
    let mut point = wide(at);
    let step = 1e-5;
    let slope = |index: usize| {
        let middle = point[index];
        point[index] = middle + step;
        let above = loss(&point);
        point[index] = middle - step;
        let below = loss(&point);
        point[index] = middle;
        (above - below) / (2.0 * step)
    };
    let expected: Vec<f64> = coordinates.iter().copied().map(slope).collect();
    let actual: Vec<f32> = coordinates.iter().map(|&index| actual[index]).collect();
    assert_close(what, &actual, &expected, tolerance);
}

/// Σ aᵢ·bᵢ: a loss whose gradient to an output is the other factor.
pub fn inner(output: &[f64], weights: &[f32]) -> f64 {
    output.iter().zip(weights).map(|(output, &weight)| output * f64::from(weight)).sum()
}
