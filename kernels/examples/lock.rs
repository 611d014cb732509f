//! `cargo run --release -p kernels --example lock -- FOLDER`: compiles every kernel with the NVRTC in that folder and writes what
//! ptxas says of them to `kernels/kernels.lock`. `tests/support/lock` fetches the compiler and calls this.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kernels::lock;

fn main() -> ExitCode {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match update(&folders) {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => {
            complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
            ExitCode::FAILURE
        }
        Err(refused) => {
            eprintln!("{refused}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for each kernel, writes the lock, and returns what it still complains of.
fn update(folders: &[PathBuf]) -> Result<Vec<String>, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels.lock");
    let (version, measured) = lock::measure(folders)?;
    for ((architecture, kernel), figures) in &measured {
        let lock::Figures { registers, shared_bytes, stack_bytes, spill_bytes } = figures;
        println!(
            "{architecture:8} {kernel:40} {registers:3} registers, {shared_bytes:6} shared, {stack_bytes} stack, {spill_bytes} spilled"
        );
    }
    let text = lock::write(version, &measured, &std::fs::read_to_string(&path).unwrap_or_default());
    std::fs::write(&path, &text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(lock::complaints(&measured, &text))
}
