//! `cargo run --release -p kernels --example cubins -- FOLDER NVRTC`: compiles every kernel for every generation, with the compiler in
//! the folder `NVRTC`, into `FOLDER`. `tests/support/cubins` fetches the compiler and calls this.

use std::path::PathBuf;

fn main() -> Result<(), String> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder, compiler] = &folders[..] else { return Err("two folders are wanted: FOLDER NVRTC".into()) };
    let count = kernels::embedded::make(std::slice::from_ref(compiler), folder)?;
    println!("{count} cubins are in {}", folder.display());
    Ok(())
}
