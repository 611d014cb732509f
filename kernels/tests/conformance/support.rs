//! What every conformance test does with an operation: run it everywhere, compare bits, compare numbers.

use kernels::{Buffer, Device, Element, Stream, philox};

/// Largest relative error of an operation's output, ‖difference‖ / ‖reference‖.
pub const TOLERANCE: f64 = 1e-5;

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

/// Runs an operation on every device, twice for each number of threads, from outside its pool and from inside; all
/// bits must agree. Returns the outputs.
pub fn run_everywhere(run: impl Fn(&Stream) -> Outputs + Sync) -> Outputs {
    let mut first: Option<Outputs> = None;
    for threads in [1, 2, 3] {
        let device = Device::cpu(Some(threads)).poisoned();
        for outputs in [run(&device.stream()), device.install(|| run(&device.stream()))] {
            let expected = first.get_or_insert_with(|| outputs.clone());
            for ((name, values), (_, before)) in outputs.iter().zip(expected.iter()) {
                assert!(values.iter().all(|value| !value.is_nan()), "`{name}` holds NaN with {threads} threads");
                let same = values.iter().zip(before).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "`{name}` differs between runs or with {threads} threads");
            }
        }
    }
    first.expect("every device ran")
}

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
    assert_close(what, &actual, &expected, TOLERANCE);
}

/// Σ aᵢ·bᵢ: a loss whose gradient to an output is the other factor.
pub fn inner(output: &[f64], weights: &[f32]) -> f64 {
    output.iter().zip(weights).map(|(output, &weight)| output * f64::from(weight)).sum()
}
