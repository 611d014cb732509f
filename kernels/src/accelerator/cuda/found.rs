//! Whether a GPU can be used, asked in the order in which things can be missing: driver, device, its age, compiler, products.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::{Toolkit, refused, said};
use crate::accelerator::cubins::Origin;
use crate::accelerator::nvrtc::Compiler;
use crate::accelerator::{Architecture, embedded, libraries};
use crate::failure::{DeviceError, Version};

/// CUDA 12.0, whose driver has all that we call.
const OLDEST_DRIVER: Version = Version { major: 12, minor: 0 };
/// Ampere: bf16 tensor cores and asynchronous copies.
const OLDEST_CAPABILITY: Version = Version { major: 8, minor: 0 };
/// What no driver of CUDA 12 is without, and a broken or foreign library may be.
const SYMBOLS: [&str; 6] =
    ["cuInit", "cuDriverGetVersion", "cuMemAllocAsync", "cuLaunchKernel", "cuModuleLoadData", "cuTensorMapEncodeTiled"];

/// A GPU with all that it takes to use it.
#[derive(Debug)]
pub(super) struct Found {
    pub ordinal: usize,
    pub device: sys::CUdevice,
    pub architecture: Architecture,
    pub origin: Origin,
    /// Whether memory can be allocated in the order of a stream.
    pub has_pools: bool,
}

pub(super) fn look(ordinal: usize, toolkit: &Toolkit) -> Result<Found, DeviceError> {
    let driver = driver(ordinal)?;
    let refused = |error| refused(ordinal, error);
    let count = usize::try_from(result::device::get_count().map_err(refused)?).unwrap_or(0);
    if ordinal >= count {
        return Err(DeviceError::NoSuchDevice { ordinal, count });
    }
    let device = result::device::get(ordinal as i32).map_err(refused)?;
    let architecture = architecture(ordinal, device)?;
    let origin = match embedded::origin(architecture, driver) {
        Some(origin) => origin,
        None => Origin::Compiled(compiler(ordinal, driver, architecture, toolkit)?),
    };
    libraries::preload(&toolkit.libraries, "cublasLt");
    // SAFETY: loads the library by its well-known name and looks only at whether that worked.
    if !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
        let (library, purpose) = ("libcublasLt", "computes dense products");
        return Err(DeviceError::NoLibrary { ordinal, library, purpose, package: "nvidia-cublas" });
    }
    let has_pools = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED).map_err(refused)? == 1;
    Ok(Found { ordinal, device, architecture, origin, has_pools })
}

/// Starts the driver and asks for its version.
fn driver(ordinal: usize) -> Result<Version, DeviceError> {
    // SAFETY: loads the driver library by its well-known name and looks only at whether that worked.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::NoDriver { ordinal });
    }
    // SAFETY: the library is there; symbols are looked for, not called.
    let lacks = |symbol: &&&str| unsafe { sys::culib().get::<*const ()>(symbol.as_bytes()) }.is_err();
    if let Some(symbol) = SYMBOLS.iter().find(lacks) {
        return Err(DeviceError::Driver { ordinal, reason: format!("it lacks `{symbol}`") });
    }
    result::init().map_err(|error| match error {
        DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE) => DeviceError::NoSuchDevice { ordinal, count: 0 },
        error => DeviceError::Driver { ordinal, reason: said(error) },
    })?;
    let mut told = 0;
    // SAFETY: writes one integer.
    unsafe { sys::cuDriverGetVersion(&raw mut told) }.result().map_err(|error| refused(ordinal, error))?;
    let told = told.unsigned_abs();
    let found = Version { major: told / 1000, minor: told % 1000 / 10 };
    if found < OLDEST_DRIVER {
        return Err(DeviceError::OldDriver { ordinal, found, needed: OLDEST_DRIVER });
    }
    Ok(found)
}

fn architecture(ordinal: usize, device: sys::CUdevice) -> Result<Architecture, DeviceError> {
    let number = |which| attribute(device, which).map(i32::unsigned_abs).map_err(|error| refused(ordinal, error));
    let found = Version {
        major: number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        minor: number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    };
    if found < OLDEST_CAPABILITY {
        let name = result::device::get_name(device).unwrap_or_else(|_| "the GPU".into());
        return Err(DeviceError::OldDevice { ordinal, name, found });
    }
    Ok(Architecture(10 * found.major + found.minor))
}

fn compiler(
    ordinal: usize,
    driver: Version,
    architecture: Architecture,
    toolkit: &Toolkit,
) -> Result<Compiler, DeviceError> {
    let (library, purpose, package) = ("libnvrtc", "compiles the kernels", "nvidia-cuda-nvrtc");
    let missing = DeviceError::NoLibrary { ordinal, library, purpose, package };
    let compiler = Compiler::find(&toolkit.libraries).ok_or(missing)?;
    let found = compiler.version;
    if !compiler.knows(architecture) {
        return Err(DeviceError::OldCompiler { ordinal, found, architecture: architecture.to_string() });
    }
    // A cubin can be loaded by drivers of the compiler's major version and later ones.
    if found.major > driver.major {
        return Err(DeviceError::NewCompiler { ordinal, compiler: found, driver });
    }
    Ok(compiler)
}

fn attribute(device: sys::CUdevice, which: Attribute) -> Result<i32, DriverError> {
    // SAFETY: the device was given by the driver.
    unsafe { result::device::get_attribute(device, which) }
}
