//! What this machine has for the work: processor, memory, device, the store's folder, and whom it trusts on the network.

use super::Finding;
use crate::cli::DoctorArgs;
use crate::commands::device::gpu;
use crate::failure::Exit;
use crate::report::words::bytes;
use crate::workplace::cache_folder;
use stages::context::Device;
use std::path::{Path, PathBuf};

/// File systems over a network: locks and renames are slower there, or do not hold.
const NETWORKED: [&str; 9] = ["nfs", "nfs4", "cifs", "smb3", "lustre", "beegfs", "ceph", "9p", "fuse.sshfs"];
/// With less room a run of any size ends in the middle.
const FREE_BYTES_MIN: u64 = 1 << 30;

pub fn examine(arguments: &DoctorArgs) -> (String, Vec<Finding>, Exit) {
    let mut findings = vec![
        Finding::new("version", "", env!("CARGO_PKG_VERSION")),
        Finding::new("processor", "", processor()),
        Finding::new("memory", "", memory().unwrap_or_else(|| "not told by this system".to_string())),
        device(arguments),
    ];
    let (store, exit) = store(arguments);
    findings.extend(store);
    findings.push(certificates());
    ("this machine".to_string(), findings, exit)
}

fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = name.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string());
    format!("{name}, {cores} cores for us")
}

fn memory() -> Option<String> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of = |what: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
        Some(bytes(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024))
    };
    Some(format!("{}, {} free", of("MemTotal")?, of("MemAvailable")?))
}

fn device(arguments: &DoctorArgs) -> Finding {
    match gpu(0, &arguments.store) {
        Ok(Ok(device)) => {
            Finding::new("device", "yes", format!("{}; `--device {}` computes there", told(&device), device.name()))
        }
        Ok(Err(error)) => Finding::new("device", "no", format!("{error}; models are computed on the processor")),
        Err(_) => {
            Finding::new("device", "unknown", "there is no place for compiled kernels: name one with `--cache DIR`")
        }
    }
}

/// Such as `cuda:0, kernels for sm_90a, 138.2 GB free`.
fn told(device: &Device) -> String {
    let architecture = device.architecture().map_or(String::new(), |name| format!(", kernels for {name}"));
    let free = device.memory_free().map_or(String::new(), |free| format!(", {} free", bytes(free)));
    format!("{}{architecture}{free}", device.name())
}

/// Whether finished work can be kept. A folder that is not there yet is judged by the one that it would be made in; nothing is made.
fn store(arguments: &DoctorArgs) -> (Vec<Finding>, Exit) {
    let folder = match cache_folder(&arguments.store) {
        Ok(folder) => folder,
        Err(failure) => return (vec![Finding::new("store", "no", failure.to_string())], Exit::Cache),
    };
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_path_buf();
    let mut findings = Vec::new();
    let mut exit = Exit::Done;
    match tempfile::tempfile_in(&there) {
        Ok(_) => findings.push(Finding::new("store", "yes", format!("{} can be written", folder.display()))),
        Err(error) => {
            findings.push(Finding::new("store", "no", format!("{} cannot be written: {error}", folder.display())));
            exit = Exit::Cache;
        }
    }
    if let Some(kind) = file_system(&there) {
        let remark = if NETWORKED.contains(&kind.as_str()) { ": over a network; a local disk is faster" } else { "" };
        findings.push(Finding::new("file system", "", format!("{kind}{remark}")));
    }
    if let Some(free) = free_bytes(&there) {
        let verdict = if free < FREE_BYTES_MIN { "no" } else { "yes" };
        findings.push(Finding::new("room", verdict, format!("{} free", bytes(free))));
    }
    (findings, exit)
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

/// The kind of file system that a folder lies on, by the mount that is nearest above it.
fn file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        Some((PathBuf::from(words.next()?.replace("\\040", " ")), words.next()?.to_string()))
    };
    let above = mounts.lines().filter_map(mount).filter(|(place, _)| folder.starts_with(place));
    above.max_by_key(|(place, _)| place.components().count()).map(|(_, kind)| kind)
}

fn certificates() -> Finding {
    let found = rustls_native_certs::load_native_certs();
    match found.certs.len() {
        0 => {
            let why = found.errors.first().map_or_else(|| "none is installed".to_string(), ToString::to_string);
            Finding::new("certificates", "no", format!("no root to check a server by, so no https: {why}"))
        }
        count => Finding::new("certificates", "yes", format!("{count} roots to check servers by")),
    }
}
