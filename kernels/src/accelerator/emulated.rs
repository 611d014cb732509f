//! The emulated accelerator: kernels compiled as C++ (`kernels/emulator`), launched through the same `void**` convention as a
//! GPU's, on host memory that the CPU twins are kept from.
//!
//! It says whether kernels are right, never how fast they are. Behind every allocation lies a fence of known bytes, so that
//! a kernel that writes past the end is found when the memory is given back.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::Mutex;

use super::workspaces::Workspaces;
use super::{
    Accelerator, Architecture, Argument, Grid, Kernel, Pattern, Place, Product, Tally, TensorMap, TensorMapShape,
};

/// In which order the emulator lets the threads of a block go on; results may not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    #[default]
    Forward,
    Backward,
    /// Drawn anew at every step, from this seed.
    Shuffled(u32),
}

impl Schedule {
    /// 0, 1, and from 2 on the seeds.
    fn number(self) -> u32 {
        match self {
            Schedule::Forward => 0,
            Schedule::Backward => 1,
            Schedule::Shuffled(seed) => 2 + seed,
        }
    }
}

/// What an emulated device is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulation {
    /// What it poses as, which decides between ways to do the same work.
    pub architecture: Architecture,
    pub schedule: Schedule,
    /// CPU threads that run blocks side by side.
    pub threads: usize,
}

impl Default for Emulation {
    fn default() -> Emulation {
        Emulation { architecture: Architecture::AMPERE, schedule: Schedule::Forward, threads: 1 }
    }
}

/// `EmulatorSettings` of `kernels/emulator/emulator.h`.
#[repr(C)]
struct Settings {
    architecture: u32,
    schedule: u32,
    threads: u32,
}

// Defined in kernels/emulator; build.rs links it.
unsafe extern "C" {
    /// Runs a kernel to its end. 0, or a sentence of what went wrong in `message`.
    fn emulator_launch(
        kernel: *const c_char,
        blocks: *const u32,
        threads: u32,
        shared_bytes: u32,
        arguments: *mut *mut c_void,
        argument_bytes: *const u32,
        argument_count: u32,
        settings: *const Settings,
        message: *mut c_char,
        message_bytes: usize,
    ) -> c_int;

    /// Makes every access of kernels to these bytes an error, in builds that find accesses outside of memory.
    fn emulator_forbid(address: *mut c_void, bytes: usize);

    /// The reverse.
    fn emulator_allow(address: *mut c_void, bytes: usize);

    /// Fills in a tensor map as the emulated copies read it.
    fn emulator_tensor_map(
        map: *mut TensorMap,
        address: u64,
        rows: u64,
        columns: u64,
        stride_bytes: u64,
        box_rows: u32,
        box_columns: u32,
    );
}

/// As cuMemAlloc aligns.
const ALIGNMENT_BYTES: usize = 256;
const FENCE_BYTES: usize = 256;
const FENCE: u8 = 0xa5;

#[derive(Debug)]
pub(crate) struct Emulated {
    place: Place,
    emulation: Emulation,
    tally: Tally,
    workspaces: Workspaces,
    launches: Mutex<BTreeMap<&'static str, u64>>,
}

impl Emulated {
    pub(crate) fn new(emulation: Emulation) -> Emulated {
        let (tally, workspaces) = (Tally::default(), Workspaces::default());
        Emulated { place: Place::unused(), emulation, tally, workspaces, launches: Mutex::default() }
    }
}

impl Accelerator for Emulated {
    fn name(&self) -> String {
        "emulated".into()
    }

    fn place(&self) -> Place {
        self.place
    }

    fn architecture(&self) -> Architecture {
        self.emulation.architecture
    }

    fn allocate(&self, bytes: usize) -> u64 {
        // SAFETY: the layout has a size above zero, and the fence lies in it.
        unsafe {
            let address = alloc(fenced(bytes));
            assert!(!address.is_null(), "{bytes} bytes of host memory are not to be had");
            let address = address.expose_provenance() as u64;
            self.put_fence(address + bytes as u64);
            address
        }
    }

    fn free(&self, address: u64, bytes: usize) {
        self.check_fence(address + bytes as u64, bytes);
        // SAFETY: `allocate` gave this address for as many bytes.
        unsafe { dealloc(pointer(address), fenced(bytes)) };
    }

    fn fence_bytes(&self) -> usize {
        FENCE_BYTES
    }

    fn put_fence(&self, address: u64) {
        // SAFETY: whoever allocates leaves room for the fence.
        unsafe {
            host_mut::<u8>(address, FENCE_BYTES).fill(FENCE);
            emulator_forbid(pointer(address).cast(), FENCE_BYTES);
        }
    }

    fn check_fence(&self, address: u64, bytes: usize) {
        // SAFETY: a fence was put there.
        let is_intact = unsafe {
            emulator_allow(pointer(address).cast(), FENCE_BYTES);
            host_mut::<u8>(address, FENCE_BYTES).iter().all(|&byte| byte == FENCE)
        };
        assert!(is_intact || std::thread::panicking(), "something was written behind a buffer of {bytes} bytes");
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }

    fn workspaces(&self) -> &Workspaces {
        &self.workspaces
    }

    fn fill(&self, address: u64, pattern: Pattern, count: usize) {
        // SAFETY: the caller's view covers as many elements and nobody else writes it.
        match pattern {
            Pattern::Half(half) => unsafe { host_mut::<u16>(address, count) }.fill(half),
            Pattern::Word(word) => unsafe { host_mut::<u32>(address, count) }.fill(word),
        }
    }

    fn upload(&self, source: &[u8], target: u64) {
        // SAFETY: the caller's view covers as many bytes and nobody else writes it.
        unsafe { host_mut(target, source.len()) }.copy_from_slice(source);
    }

    fn download(&self, source: u64, target: &mut [u8]) {
        // SAFETY: the caller's view covers as many bytes and nobody writes it.
        target.copy_from_slice(unsafe { host_mut(source, target.len()) });
    }

    fn copy(&self, source: u64, target: u64, bytes: usize) {
        // SAFETY: the callers' views cover as many bytes; one of them is exclusive, so they do not overlap.
        unsafe { host_mut::<u8>(target, bytes).copy_from_slice(host_mut(source, bytes)) };
    }

    fn launch(&self, kernel: &'static Kernel, grid: Grid, arguments: &mut [Argument]) {
        *self.launches.lock().expect("no launch panics inside").entry(kernel.name).or_default() += 1;
        let name = CString::new(kernel.name).expect("names are words");
        let sizes: Vec<u32> = arguments.iter().map(Argument::bytes).collect();
        let mut values: Vec<*mut c_void> = arguments.iter_mut().map(Argument::pointer).collect();
        let Emulation { architecture, schedule, threads } = self.emulation;
        let settings =
            Settings { architecture: architecture.0, schedule: schedule.number(), threads: threads.max(1) as u32 };
        let mut message = [0u8; 512];
        // SAFETY: the emulator compares sizes and number of the arguments with the kernel's parameters; addresses among them
        // come from living views.
        let code = unsafe {
            emulator_launch(
                name.as_ptr(),
                grid.blocks.as_ptr(),
                grid.threads,
                grid.shared_bytes,
                values.as_mut_ptr(),
                sizes.as_ptr(),
                sizes.len() as u32,
                &raw const settings,
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        let end = message.iter().position(|&byte| byte == 0).unwrap_or(message.len());
        assert!(code == 0, "`{}` on {grid:?}: {}", kernel.name, String::from_utf8_lossy(&message[..end]));
    }

    fn product(&self, _product: &Product) -> bool {
        false
    }

    fn tensor_map(&self, shape: TensorMapShape) -> TensorMap {
        let mut map = TensorMap([0; 16]);
        let TensorMapShape { address, rows, columns, stride_bytes, box_rows, box_columns } = shape;
        // SAFETY: writes the map alone.
        unsafe { emulator_tensor_map(&raw mut map, address, rows, columns, stride_bytes, box_rows, box_columns) };
        map
    }

    fn synchronize(&self) {}

    /// It shares the host's, which `DECOCT_MEMORY` and the system bound.
    fn memory_free(&self) -> Option<u64> {
        None
    }

    fn timed(&self, work: &mut dyn FnMut()) -> f64 {
        let began = std::time::Instant::now();
        work();
        began.elapsed().as_secs_f64()
    }

    fn launches(&self) -> Vec<(&'static str, u64)> {
        self.launches.lock().expect("no launch panics inside").iter().map(|(&name, &count)| (name, count)).collect()
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        self.workspaces.close(|address, bytes| self.free(address, bytes));
    }
}

fn fenced(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + FENCE_BYTES, ALIGNMENT_BYTES).expect("buffer length overflows")
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// # Safety
/// The address is of our own memory, aligned for T and followed by as many, which nobody else writes meanwhile.
unsafe fn host_mut<'a, T>(address: u64, count: usize) -> &'a mut [T] {
    let address = if count == 0 { std::ptr::NonNull::dangling().as_ptr() } else { pointer(address).cast() };
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts_mut(address, count) }
}

/// Builds that find accesses outside of memory find those of our kernels.
#[cfg(all(test, emulator_finds_outside))]
mod tests {
    use super::Emulation;
    use crate::accelerator::{Pack, arguments};
    use crate::{Device, elementwise};
    use std::process::Command;

    const LEN: usize = 7;
    const TOLD: &str = "KERNELS_TEST_TOLD_LEN";

    /// A kernel that is told of so many numbers where there are [`LEN`].
    fn scale(told: usize) {
        let stream = Device::emulated(Emulation::default()).stream();
        let (mut numbers, pack) = (stream.upload(&[1.0f32; LEN]), Pack::of(&[1], &[]));
        let arguments = arguments![numbers.view_mut(), told, 2f32];
        elementwise::cuda::SCALE.of(pack).launch(&stream, pack.over(told), arguments);
    }

    /// What is found ends the program, so it happens in one of its own.
    #[test]
    fn a_number_behind_the_last_is_found() {
        if let Ok(told) = std::env::var(TOLD) {
            return scale(told.parse().expect("a number"));
        }
        let test = std::thread::current().name().expect("a test has a name").to_owned();
        for (told, is_outside) in [(LEN, false), (LEN + 1, true)] {
            let mut again = Command::new(std::env::current_exe().expect("a program has a path"));
            let output = again.args([&test, "--exact", "--nocapture"]).env(TOLD, told.to_string()).output();
            let output = output.expect("this very program starts");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), !is_outside, "told of {told}: {said}");
            assert_eq!(said.contains("use-after-poison"), is_outside, "told of {told}: {said}");
        }
    }
}
