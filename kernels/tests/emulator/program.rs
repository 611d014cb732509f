//! C++ programs of kernels/emulator/tests, built with the checks that find mistakes of memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What a program is built to find beside wrong numbers; g++ does one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Accesses to shared memory that nothing orders (emulator/races.cpp).
    Races,
    /// Accesses outside of memory, and undefined behaviour.
    Memory,
}

impl Check {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Check::Races => &["-DEMULATOR_TRACE"],
            Check::Memory => &["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
        }
    }

    /// For kernels alone: the calls that mark their loads and stores, without the sanitizer that they are named after.
    fn kernel_flags(self) -> &'static [&'static str] {
        if self == Check::Races { &["-fsanitize=thread"] } else { &[] }
    }
}

/// A program that is built.
pub struct Program(PathBuf);

impl Program {
    /// The emulator and these files of its `tests` folder.
    pub fn build(name: &str, check: Check, files: &[&str]) -> Program {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{check:?}"));
        std::fs::create_dir_all(&folder).expect("cargo's folder for tests can be written");
        let sources: Vec<PathBuf> =
            emulator_sources().into_iter().chain(files.iter().map(|file| test_file(file))).collect();
        let objects: Vec<PathBuf> = sources.iter().map(|source| object(source, &folder)).collect();
        compile_all(check, &sources, &objects);
        let program = folder.join(name);
        run_compiler(compiler(check).args(&objects).arg("-lpthread").arg("-o").arg(&program));
        Program(program)
    }

    pub fn run(&self, words: &[&str]) -> Output {
        Command::new(&self.0).args(words).output().expect("a program that was just built starts")
    }
}

fn room() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn test_file(name: &str) -> PathBuf {
    room().join("emulator/tests").join(name)
}

fn emulator_sources() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(room().join("emulator")).expect("the emulator is in this room");
    let paths = entries.map(|entry| entry.expect("a folder can be read").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "cpp")).collect()
}

fn object(source: &Path, folder: &Path) -> PathBuf {
    folder.join(source.file_name().expect("a file has a name")).with_extension("o")
}

fn compiler(check: Check) -> Command {
    let mut command = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    command.args(["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-psabi"]);
    command.args(check.flags());
    command
}

fn compile_all(check: Check, sources: &[PathBuf], objects: &[PathBuf]) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |count| count.get()) {
            scope.spawn(|| {
                while let Some(index) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&index| index < sources.len())
                {
                    compile(check, &sources[index], &objects[index]);
                }
            });
        }
    });
}

fn compile(check: Check, source: &Path, object: &Path) {
    let (emulator, accelerator) = (room().join("emulator"), room().join("src/accelerator"));
    let mut command = compiler(check);
    command.arg("-I").arg(emulator).arg("-I").arg(&accelerator);
    if source.extension().is_some_and(|extension| extension == "cu") {
        command.args(check.kernel_flags());
        command.arg("-include").arg(accelerator.join("vocabulary.cuh")).args(["-x", "c++"]);
    }
    run_compiler(command.arg("-c").arg(source).arg("-o").arg(object));
}

fn run_compiler(command: &mut Command) {
    let output = command.output().expect("a C++ compiler is installed (g++)");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
