//! The CUDA device from end to end on a machine without a GPU: real cubins from NVRTC, and a driver and a cuBLASLt of the tests'
//! (`driver.cpp`, `products.cpp`), which run kernels on the emulator and refuse what real ones would. With the feature
//! `embedded-cubins` there is no NVRTC.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use kernels::{
    Buffer, Device, DeviceError, Heads, Layout, Precision, Segments, Stream, Toolkit, Write, attention, elementwise,
    matmul, norm, philox,
};
use libloading::Library;

// The emulator is in our own library; the tests' driver is handed its functions.
unsafe extern "C" {
    fn emulator_launch(
        kernel: *const c_char,
        blocks: *const u32,
        threads: u32,
        shared_bytes: u32,
        arguments: *mut *mut c_void,
        argument_bytes: *const u32,
        argument_count: u32,
        settings: *const c_void,
        message: *mut c_char,
        message_bytes: usize,
    ) -> c_int;
    fn emulator_parameters(kernel: *const c_char, bytes: *mut u32, room: u32) -> c_int;
    fn emulator_tensor_map(
        map: *mut c_void,
        a: u64,
        rows: u64,
        columns: u64,
        stride: u64,
        box_rows: u32,
        box_columns: u32,
    );
}

/// The tests' driver, loaded in place of NVIDIA's for as long as this process lives.
struct Bench {
    driver: Library,
    toolkit: Toolkit,
}

static BENCH: LazyLock<Bench> = LazyLock::new(Bench::new);
/// The driver counts bytes of all devices, so tests take turns.
static TURN: Mutex<()> = Mutex::new(());

impl Bench {
    fn new() -> Bench {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("driver-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("target can be written");
        // Loaded under the first name that is looked for, so that no other library is found.
        let driver = compiled("driver.cpp", &folder, "libcuda.so");
        compiled("products.cpp", &folder, "libcublasLt.so");
        std::fs::rename(folder.join("libcublasLt.so"), folder.join("libcublasLt.so.13")).expect("it was made");
        // SAFETY: our own library, whose types are those of driver.cpp.
        let driver = unsafe { Library::new(driver) }.expect("it was made");
        // SAFETY: its type in driver.cpp; the functions live as long as the process.
        unsafe {
            let take = driver.get::<unsafe extern "C" fn(*const c_void, *const c_void, *const c_void)>(b"driver_use");
            let functions = [emulator_launch as *const c_void, emulator_parameters as *const c_void];
            take.expect("it is there")(functions[0], functions[1], emulator_tensor_map as *const c_void);
        }
        let compiler = (!cfg!(feature = "embedded-cubins")).then(nvrtc);
        let toolkit =
            Toolkit { cubins: folder.join("cubins"), libraries: compiler.into_iter().chain([folder]).collect() };
        Bench { driver, toolkit }
    }

    fn held_bytes(&self) -> u64 {
        // SAFETY: its type in driver.cpp.
        unsafe { self.driver.get::<unsafe extern "C" fn() -> u64>(b"driver_holds").expect("it is there")() }
    }
}

fn compiled(source: &str, folder: &Path, name: &str) -> PathBuf {
    let (source, library) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver").join(source), folder.join(name));
    let flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"];
    let mut compiler = Command::new("c++");
    compiler.args(flags).arg(format!("-Wl,-soname,{name}")).arg(source).arg("-o").arg(&library);
    assert!(compiler.status().expect("there is a C++ compiler").success(), "{compiler:?}");
    library
}

fn nvrtc() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/nvrtc");
    let made = Command::new(script).output().expect("the script runs");
    assert!(made.status.success(), "no NVRTC: {}", String::from_utf8_lossy(&made.stderr));
    PathBuf::from(String::from_utf8(made.stdout).expect("a path in UTF-8").trim_end())
}

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open() -> Device {
    Device::cuda(0, &BENCH.toolkit).expect("all that it needs is there")
}

fn floats(seed: u64, len: usize) -> Vec<f32> {
    (0..len as u64).map(|index| (2.0 * philox::uniform(seed, index) - 1.0) as f32).collect()
}

fn assert_close(what: &str, ours: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let square = |value: f32| f64::from(value) * f64::from(value);
    let difference: f64 = ours.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let error = (difference / expected.iter().map(|&value| square(value)).sum::<f64>()).sqrt();
    assert!(error <= tolerance, "{what}: relative error {error:.1e}");
}

#[test]
fn the_device_says_what_it_is() {
    let _turn = turn();
    let device = open();
    assert_eq!(
        (device.name(), device.architecture().expect("it has one").to_string()),
        ("cuda:0".into(), "sm_90a".into())
    );
    assert_eq!((device.threads(), device.memory_free()), (1, Some(1 << 30)));
    assert!((device.stream().timed(|| ()) - 1.5e-3).abs() < 1e-9);
    let error = Device::cuda(3, &BENCH.toolkit).expect_err("there is one");
    assert_eq!(error, DeviceError::NoSuchDevice { ordinal: 3, count: 1 });
}

#[test]
fn memory_holds_what_was_put_there_and_is_given_back() {
    let _turn = turn();
    let stream = open().poisoned().stream();
    assert_eq!(stream.download(stream.zeros::<f64>(3).view()), [0.0; 3]);
    assert_eq!(stream.download(stream.zeros::<half::bf16>(3).view()), [half::bf16::ZERO; 3]);
    assert!(stream.download(stream.uninit::<f64>(3).view()).iter().all(|value| value.is_nan()));
    assert_eq!(stream.download(stream.uninit::<u16>(3).view()), [0xdead; 3]);
    assert_eq!(stream.download(stream.upload::<f32>(&[]).view()), [0.0f32; 0]);
    let source = stream.upload(&[1u64, 2, 3, 4, 5]);
    let mut target = stream.zeros::<u64>(4);
    stream.copy(source.slice(1..3), target.slice_mut(2..4));
    stream.fill(target.slice_mut(0..1), 0x1_0000_0002);
    assert_eq!(stream.download(target.view()), [0x1_0000_0002, 0, 2, 3]);
    assert!(BENCH.held_bytes() > 0);
    drop((source, target));
    assert_eq!(BENCH.held_bytes(), 0);
}

#[test]
fn memory_that_has_run_out_is_an_error_that_says_how_much() {
    let _turn = turn();
    let stream = open().stream();
    let held: Buffer<f32> = stream.uninit(100_000_000);
    let asked = catch_unwind(AssertUnwindSafe(|| stream.uninit::<f32>(200_000_000)));
    let error = asked.expect_err("the driver has 1 GiB").downcast::<DeviceError>().expect("it is the device's");
    assert_eq!(
        error.to_string(),
        "cuda:0 has no 800 MB left: 674 MB of 1.1 GB are free; make batches smaller or use `--device cpu`"
    );
    drop(held);
    stream.uninit::<f32>(200_000_000);
}

#[cfg(not(feature = "embedded-cubins"))]
#[test]
fn kernels_are_compiled_once_a_folder_and_damaged_ones_again() {
    let _turn = turn();
    let folder = BENCH.toolkit.cubins.with_file_name("own-cubins");
    let toolkit = Toolkit { cubins: folder.clone(), ..BENCH.toolkit.clone() };
    let scaled = || {
        let device = Device::cuda(0, &toolkit).expect("all is there");
        let stream = device.stream();
        let mut values = stream.upload(&[1.0f32, 2.0, 3.0]);
        elementwise::scale(&stream, 2.0, values.view_mut());
        assert_eq!(stream.download(values.view()), [2.0, 4.0, 6.0]);
        let [(kernel, 1)] = device.launches()[..] else { panic!("{:?}", device.launches()) };
        assert!(kernel.starts_with("elementwise_scale"), "{kernel}");
    };
    scaled();
    let files =
        || std::fs::read_dir(&folder).expect("it was made").map(|file| file.unwrap().path()).collect::<Vec<_>>();
    let found = files();
    let [file] = &found[..] else { panic!("{found:?}") };
    let (whole, made) = (std::fs::read(file).unwrap(), file.metadata().unwrap().modified().unwrap());
    scaled();
    assert_eq!(file.metadata().unwrap().modified().unwrap(), made, "it was compiled again");
    std::fs::write(file, &whole[..whole.len() / 2]).unwrap();
    scaled();
    assert!(std::fs::read(file).unwrap() == whole, "it was not mended");
    assert_eq!(files().len(), 1);
}

#[cfg(feature = "embedded-cubins")]
#[test]
fn kernels_in_the_program_need_no_compiler() {
    let _turn = turn();
    let stream = open().stream();
    let mut values = stream.upload(&[1.0f32, 2.0, 3.0]);
    elementwise::scale(&stream, 2.0, values.view_mut());
    assert_eq!(stream.download(values.view()), [2.0, 4.0, 6.0]);
    assert!(!BENCH.toolkit.cubins.exists(), "something was compiled");
}

#[test]
fn launches_come_from_any_thread() {
    let _turn = turn();
    let device = open();
    let norms = |device: &Device| {
        let stream = device.stream();
        let (x, weight) = (stream.upload(&floats(1, 5 * 24)), stream.upload(&floats(2, 24)));
        let (mut out, mut rstd) = (stream.uninit(5 * 24), stream.uninit(5));
        norm::forward(&stream, 5, 24, 1e-6, x.view(), weight.view(), out.view_mut(), rstd.view_mut());
        stream.download(out.view())
    };
    let expected = norms(&Device::cpu(Some(1)));
    let elsewhere = std::thread::scope(|scope| scope.spawn(|| norms(&device)).join().expect("it works there"));
    for (what, ours) in
        [("here", norms(&device)), ("elsewhere", elsewhere), ("inside", device.install(|| norms(&device)))]
    {
        assert_close(what, &ours, &expected, 1e-5);
    }
}

/// A product of every layout, of factors and into a result that begin at odd places.
fn product(stream: &Stream, layout: Layout, (m, n, k): (usize, usize, usize), write: Write) -> Vec<f32> {
    let (a, b) = (stream.upload(&floats(3, m * k + 3)), stream.upload(&floats(4, k * n + 1)));
    let mut c = stream.upload(&floats(5, m * n + 2));
    matmul(stream, layout, m, n, k, a.slice(3..m * k + 3), b.slice(1..k * n + 1), write, c.slice_mut(2..m * n + 2));
    stream.download(c.view())
}

#[test]
fn products_of_every_layout_are_those_of_the_cpu() {
    let _turn = turn();
    for precision in [Precision::F32, Precision::Bf16] {
        let (device, cpu) = (open().in_precision(precision), Device::cpu(Some(1)).in_precision(precision));
        for layout in [Layout::Nn, Layout::Nt, Layout::Tn] {
            for (write, shape) in
                [(Write::Overwrite, (5, 7, 3)), (Write::Accumulate, (9, 2, 17)), (Write::Overwrite, (1, 1, 1))]
            {
                let what = format!("{precision:?} {layout:?} {write:?} {shape:?}");
                let ours = product(&device.stream(), layout, shape, write);
                assert_close(&what, &ours, &product(&cpu.stream(), layout, shape, write), 1e-5);
                assert_eq!(ours, product(&device.stream(), layout, shape, write), "{what} again");
            }
        }
        let by_library = device.launches().iter().any(|(name, count)| *name == "cublasLtMatmul" && *count == 18);
        assert!(by_library, "{:?}", device.launches());
    }
}

#[test]
fn attention_takes_tensor_maps_and_much_shared_memory() {
    let _turn = turn();
    let heads = Heads { query: 2, key_value: 1, width: 64 };
    let forward = |device: &Device| {
        let stream = device.stream();
        let segments = Segments::new(&stream, &[5, 70]);
        let qkv = stream.upload(&floats(6, 75 * heads.packed_width()));
        let (mut out, mut lse) = (stream.uninit(75 * heads.query_width()), stream.uninit(75 * heads.query));
        attention::forward(&stream, heads, &segments, qkv.view(), out.view_mut(), lse.view_mut());
        stream.download(out.view())
    };
    let device = open().in_precision(Precision::Bf16);
    let ours = forward(&device);
    assert_close("attention", &ours, &forward(&Device::cpu(Some(1))), 4e-3);
    assert!(device.launches().iter().any(|(name, _)| name.contains("hopper")), "{:?}", device.launches());
}
