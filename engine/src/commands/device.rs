//! Where models compute: on the processor, or on the GPU that `--device` names.
//!
//! No GPU has run our kernels yet (docs/kernels.md), and keys do not name the device: work that nobody asked a GPU for must not rest on
//! them. So `auto` only tells that there is one.
//!
//! A GPU wants two things of a machine's disk: a folder for compiled kernels, which lies in the store's folder, and NVIDIA's libraries,
//! looked for in `DECOCT_CUDA_LIBRARIES` (folders, joined as in `PATH`), `CUDA_HOME`, `CUDA_PATH` and where the toolkit puts itself.

use crate::cli::{DeviceChoice, MachineArgs, StoreArgs};
use crate::failure::{Failure, Result};
use crate::workplace::cache_folder;
use cache::layout::Layout;
use stages::context::{Device, DeviceError, Toolkit};
use std::path::{Path, PathBuf};

const LIBRARIES: &str = "DECOCT_CUDA_LIBRARIES";
/// Each with the libraries below `lib64`.
const HOMES: [&str; 2] = ["CUDA_HOME", "CUDA_PATH"];
const DEFAULT_HOME: &str = "/usr/local/cuda";

/// The device for a run: the one that was asked for; where nobody asked and nothing is computed, none is looked for.
///
/// # Errors
/// As [`open`] has.
pub fn open_if_needed(
    computes: bool,
    machine: &MachineArgs,
    store: &StoreArgs,
    warn: impl FnOnce(&str),
) -> Result<Device> {
    match machine.device {
        DeviceChoice::Auto if !computes => Ok(Device::cpu(None)),
        _ => open(machine, store, warn),
    }
}

/// Opens the device that was asked for. `warn` is told of a GPU that is there, and why it is not used.
///
/// # Errors
/// If a device was named and cannot be used.
pub fn open(machine: &MachineArgs, store: &StoreArgs, warn: impl FnOnce(&str)) -> Result<Device> {
    match machine.device {
        DeviceChoice::Cpu => Ok(Device::cpu(None)),
        DeviceChoice::Cuda(ordinal) => gpu(ordinal, store)?.map_err(|error| {
            let hint = "leave `--device` out, or say `--device cpu`; `decoct doctor` tells what is found";
            Failure::usage(error.to_string(), Some(hint.to_string()))
        }),
        DeviceChoice::Auto => {
            match gpu(0, store)? {
                Ok(gpu) => warn(&format!(
                    "models are computed on the processor; `--device {}` is there to be tried",
                    gpu.name()
                )),
                Err(error) if is_there(&error) => warn(&format!("{error}: models are computed on the processor")),
                Err(_) => {}
            }
            Ok(Device::cpu(None))
        }
    }
}

/// The GPU of this ordinal, or why it cannot be used.
pub fn gpu(ordinal: usize, store: &StoreArgs) -> Result<Result<Device, DeviceError>> {
    let toolkit = Toolkit { cubins: Layout::new(cache_folder(store)?).cubins(), libraries: libraries() };
    Ok(Device::cuda(ordinal, &toolkit))
}

/// Whether a GPU is there and something else is missing: worth a line where nobody asked for it.
fn is_there(error: &DeviceError) -> bool {
    !matches!(error, DeviceError::NoDriver { .. } | DeviceError::NoSuchDevice { .. })
}

fn libraries() -> Vec<PathBuf> {
    let named = std::env::var_os(LIBRARIES).unwrap_or_default();
    let named = std::env::split_paths(&named).filter(|folder| !folder.as_os_str().is_empty()).collect::<Vec<_>>();
    let homes = HOMES.iter().filter_map(std::env::var_os).map(PathBuf::from);
    let homes = homes.chain([Path::new(DEFAULT_HOME).to_path_buf()]).map(|home| home.join("lib64"));
    named.into_iter().chain(homes).collect()
}
