//! An NVIDIA GPU: one stream of its primary context, memory from the driver's pool, kernels from cubins, products from cuBLASLt.
//!
//! Whatever the driver refuses in the middle of work unwinds with a [`DeviceError`].

mod found;
mod memory;
mod modules;
mod products;

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::Mutex;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::cubins::Cubins;
use super::workspaces::Workspaces;
use super::{
    Accelerator, Architecture, Argument, Grid, Kernel, Pattern, Place, Product, Tally, TensorMap, TensorMapShape,
};
use crate::failure::DeviceError;
use found::Found;
use memory::Memory;
use modules::Modules;
use products::Products;

/// What a GPU needs from this machine's disk.
#[derive(Clone, Debug, Default)]
pub struct Toolkit {
    /// Where compiled kernels are kept; need not exist.
    pub cubins: PathBuf,
    /// Where NVRTC and cuBLASLt may lie, beside where the system looks.
    pub libraries: Vec<PathBuf>,
}

#[derive(Debug)]
pub(crate) struct Cuda {
    found: Found,
    place: Place,
    context: sys::CUcontext,
    stream: sys::CUstream,
    memory: Memory,
    tally: Tally,
    workspaces: Workspaces,
    modules: Modules,
    products: Products,
    launches: Mutex<BTreeMap<&'static str, u64>>,
}

// SAFETY: the driver's handles may be used from any thread, once the context is made current there; each call does that.
unsafe impl Send for Cuda {}
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Opens a GPU. Looks for all that is missing first, and never panics.
    ///
    /// # Errors
    /// With a sentence, where the GPU cannot be used.
    pub(crate) fn open(ordinal: usize, toolkit: &Toolkit) -> Result<Cuda, DeviceError> {
        // A driver library that lacks an expected symbol panics inside cudarc.
        let opened = std::panic::catch_unwind(|| {
            let found = found::look(ordinal, toolkit)?;
            Cuda::of(found, toolkit).map_err(|error| refused(ordinal, error))
        });
        let broken = || DeviceError::Driver { ordinal, reason: "it lacks a function we need".into() };
        opened.unwrap_or_else(|_| Err(broken()))
    }

    fn of(found: Found, toolkit: &Toolkit) -> Result<Cuda, DriverError> {
        let cubins = Cubins::new(found.origin, found.architecture, &toolkit.cubins);
        // SAFETY: the device was found; the context lives until it is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(found.device) }?;
        // SAFETY: retained just now.
        unsafe { result::ctx::set_current(context) }?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        let (memory, modules) = (Memory::new(found.device, found.has_pools)?, Modules::new(cubins));
        let (place, products, launches) = (Place::unused(), Products::default(), Mutex::default());
        let (tally, workspaces) = (Tally::default(), Workspaces::default());
        Ok(Cuda { found, place, context, stream, memory, tally, workspaces, modules, products, launches })
    }

    /// Makes the context current on this thread, which every call of the driver wants.
    fn enter(&self) {
        // SAFETY: the context lives as long as `self`.
        self.succeed("entering its context", unsafe { result::ctx::set_current(self.context) });
    }

    /// Unwinds where the driver refused.
    fn succeed<R>(&self, what: &str, outcome: Result<R, DriverError>) -> R {
        outcome.unwrap_or_else(|error| self.stop(what, said(error)))
    }

    fn stop(&self, what: &str, reason: String) -> ! {
        DeviceError::Stopped { device: self.name(), what: what.into(), reason }.unwind()
    }
}

impl Accelerator for Cuda {
    fn name(&self) -> String {
        format!("cuda:{}", self.found.ordinal)
    }

    fn place(&self) -> Place {
        self.place
    }

    fn architecture(&self) -> Architecture {
        self.found.architecture
    }

    fn allocate(&self, bytes: usize) -> u64 {
        self.enter();
        match self.memory.allocate(bytes, self.stream) {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = self.memory.free_and_total().unwrap_or_default();
                DeviceError::OutOfMemory { device: self.name(), asked: bytes as u64, free, total }.unwind()
            }
            outcome => self.succeed("allocating memory", outcome),
        }
    }

    fn free(&self, address: u64, _bytes: usize) {
        // SAFETY: `allocate` gave this address. After a failure the driver refuses this too, and all memory goes with the
        // context: nothing to do, and a drop may not unwind.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = self.memory.free(address, self.stream);
        }
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }

    fn workspaces(&self) -> &Workspaces {
        &self.workspaces
    }

    fn library_bytes(&self) -> usize {
        products::WORKSPACE_BYTES
    }

    fn fill(&self, address: u64, pattern: Pattern, count: usize) {
        if count == 0 {
            return;
        }
        self.enter();
        // SAFETY: the caller's view covers as many elements.
        let outcome = match pattern {
            Pattern::Half(half) => unsafe { sys::cuMemsetD16Async(address, half, count, self.stream) },
            Pattern::Word(word) => unsafe { sys::cuMemsetD32Async(address, word, count, self.stream) },
        };
        self.succeed("filling memory", outcome.result());
    }

    fn upload(&self, source: &[u8], target: u64) {
        if source.is_empty() {
            return;
        }
        self.enter();
        // SAFETY: the caller's view covers as many bytes. Memory that is not page-locked has been read when the call returns.
        self.succeed("writing to it", unsafe { result::memcpy_htod_async(target, source, self.stream) });
    }

    fn download(&self, source: u64, target: &mut [u8]) {
        if target.is_empty() {
            return;
        }
        self.enter();
        // SAFETY: the caller's view covers as many bytes; the target is not looked at before the stream has ended.
        self.succeed("reading from it", unsafe { result::memcpy_dtoh_async(target, source, self.stream) });
        self.synchronize();
    }

    fn copy(&self, source: u64, target: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.enter();
        // SAFETY: the callers' views cover as many bytes.
        self.succeed("copying", unsafe { result::memcpy_dtod_async(target, source, bytes, self.stream) });
    }

    fn launch(&self, kernel: &'static Kernel, grid: Grid, arguments: &mut [Argument]) {
        self.enter();
        *self.launches.lock().expect("no launch panics inside").entry(kernel.name).or_default() += 1;
        let function = match self.modules.function(kernel, grid.shared_bytes, arguments) {
            Ok(function) => function,
            Err(modules::Refusal::Device(error)) => error.unwind(),
            Err(modules::Refusal::Driver(error)) => self.stop(&format!("loading `{}`", kernel.name), said(error)),
        };
        let mut values: Vec<*mut c_void> = arguments.iter_mut().map(Argument::pointer).collect();
        let ([x, y, z], threads) = (grid.blocks, (grid.threads, 1, 1));
        // SAFETY: number and sizes of the arguments were compared with the kernel's parameters; addresses among them come from
        // living views, and what is freed later is freed on the same stream.
        let outcome =
            unsafe { result::launch_kernel(function, (x, y, z), threads, grid.shared_bytes, self.stream, &mut values) };
        if let Err(error) = outcome {
            self.stop(&format!("launching `{}` on {grid:?}", kernel.name), said(error));
        }
    }

    fn product(&self, product: &Product) -> bool {
        self.enter();
        let workspace = self.products.workspace(|bytes| self.allocate(bytes));
        if let Err(reason) = self.products.compute(product, workspace, self.stream) {
            self.stop(&format!("the product {product:?}"), reason);
        }
        *self.launches.lock().expect("no launch panics inside").entry("cublasLtMatmul").or_default() += 1;
        true
    }

    fn tensor_map(&self, shape: TensorMapShape) -> TensorMap {
        self.enter();
        let mut map = sys::CUtensorMap_st { opaque: [0; 16] };
        let (dimensions, strides) = ([shape.columns, shape.rows], [shape.stride_bytes]);
        let (box_shape, steps) = ([shape.box_columns, shape.box_rows], [1, 1]);
        // SAFETY: writes the map; rank 2 as the arrays are long.
        let outcome = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                shape.address as *mut c_void,
                dimensions.as_ptr(),
                strides.as_ptr(),
                box_shape.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        if let Err(error) = outcome.result() {
            self.stop(&format!("describing {shape:?}"), said(error));
        }
        TensorMap(map.opaque)
    }

    fn synchronize(&self) {
        self.enter();
        // SAFETY: the stream is ours.
        self.succeed("computing", unsafe { result::stream::synchronize(self.stream) });
    }

    fn memory_free(&self) -> Option<u64> {
        self.enter();
        self.memory.free_and_total().ok().map(|(free, _)| free)
    }

    fn timed(&self, work: &mut dyn FnMut()) -> f64 {
        self.enter();
        let event = || self.succeed("timing", result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let (start, end) = (event(), event());
        // SAFETY: events and stream are ours; the end has passed when its time is asked for.
        unsafe {
            self.succeed("timing", result::event::record(start, self.stream));
            work();
            self.succeed("timing", result::event::record(end, self.stream));
            self.succeed("timing", result::event::synchronize(end));
            let milliseconds = self.succeed("timing", result::event::elapsed(start, end));
            let _ = (result::event::destroy(start), result::event::destroy(end));
            f64::from(milliseconds) / 1e3
        }
    }

    fn launches(&self) -> Vec<(&'static str, u64)> {
        self.launches.lock().expect("no launch panics inside").iter().map(|(&name, &count)| (name, count)).collect()
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        self.workspaces.close(|address, bytes| self.free(address, bytes));
        // SAFETY: all buffers hold this device, so none is left; a driver that refuses has nothing to give back.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            if let Some(workspace) = self.products.close() {
                let _ = self.memory.free(workspace, self.stream);
            }
            self.modules.unload();
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.found.device);
        }
    }
}

/// What the driver said, in words.
fn said(error: DriverError) -> String {
    error.error_string().map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned())
}

fn refused(ordinal: usize, error: DriverError) -> DeviceError {
    DeviceError::Driver { ordinal, reason: said(error) }
}
