//! With the feature `emulator`: compiles every `.cu` file and `emulator/*.cpp` as C++ into one static library. With the feature
//! `embedded-cubins`: makes a table of the folder that `KERNELS_CUBINS` names.
//!
//! Without them nothing is done and no C++ compiler is needed. `CXX` names another compiler than `c++`; `EMULATOR_CHECK` makes
//! builds that find more than wrong numbers, see [`Check`] (slow: `tests/run --full` and kernels/emulator/README.md).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use std::{env, fs, thread};

/// As README.md of the emulator says: no contraction, so that sums are the same wherever the compiler vectorises.
const FLAGS: [&str; 8] =
    ["-std=c++17", "-O2", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-psabi"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(emulator_finds_outside)");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if env::var_os("CARGO_FEATURE_EMBEDDED_CUBINS").is_some() {
        embed(&out);
    }
    if env::var_os("CARGO_FEATURE_EMULATOR").is_some() {
        emulate(&out);
    }
}

/// Writes `embedded.rs`, the value of a `Table` of src/accelerator/embedded.rs.
fn embed(out: &Path) {
    println!("cargo:rerun-if-env-changed=KERNELS_CUBINS");
    println!("cargo:rerun-if-changed=src");
    let folder = env::var_os("KERNELS_CUBINS").map(PathBuf::from).unwrap_or_default();
    println!("cargo:rerun-if-changed={}", folder.display());
    let how = "make them with `tests/support/cubins FOLDER` and set KERNELS_CUBINS to that folder's whole path";
    let compiler = fs::read_to_string(folder.join("compiler")).unwrap_or_else(|_| {
        panic!("the feature `embedded-cubins` takes compiled kernels, and `{}` has none: {how}", folder.display())
    });
    let is_current = fs::read(folder.join("made-of")).is_ok_and(|made_of| made_of == what_cubins_are_made_of());
    assert!(is_current, "the cubins in `{}` are of other kernels than these: {how}", folder.display());
    let files = files_below(&folder).into_iter().filter(|file| has_extension(file, &["cubin"]));
    let entries = files.map(|file| {
        let name = file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        format!("({name:?}, include_bytes!({:?})),\n", file.display().to_string())
    });
    let table = format!("Table {{ compiler: {compiler}, files: &[\n{}] }}\n", entries.collect::<String>());
    fs::write(out.join("embedded.rs"), table).expect("OUT_DIR can be written");
}

/// The texts that `tests/support/cubins` notes down beside what it makes of them.
fn what_cubins_are_made_of() -> Vec<u8> {
    let is_part = |file: &PathBuf| has_extension(file, &["cu", "cuh"]) || file.ends_with("nvrtc.rs");
    let mut files: Vec<PathBuf> = files_below(Path::new("src")).into_iter().filter(is_part).collect();
    files.sort_by(|left, right| left.as_os_str().cmp(right.as_os_str()));
    files.iter().flat_map(|file| fs::read(file).expect("a source can be read")).collect()
}

fn emulate(out: &Path) {
    println!("cargo:rerun-if-env-changed=CXX");
    println!("cargo:rerun-if-env-changed=EMULATOR_CHECK");
    for folder in ["emulator", "src"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let files = files_below(Path::new("emulator")).into_iter().chain(files_below(Path::new("src")));
    let (sources, headers): (Vec<_>, Vec<_>) = files.filter(|file| is_ours(file)).partition(|file| is_unit(file));
    let newest_header = headers.iter().map(|header| changed_at(header)).max().unwrap_or(SystemTime::UNIX_EPOCH);
    compile_all(&sources, newest_header, out);
    link(&sources, out);
}

/// Every file below a folder, sorted; folders of tests are left out.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be read").path()).collect();
    paths.sort();
    let below = paths.into_iter().filter(|path| !path.ends_with("tests"));
    below.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    file.extension().is_some_and(|extension| extensions.iter().any(|known| extension == *known))
}

fn is_ours(file: &Path) -> bool {
    has_extension(file, &["cu", "cuh", "cpp", "hpp", "h"])
}

fn is_unit(file: &Path) -> bool {
    has_extension(file, &["cu", "cpp"])
}

fn changed_at(file: &Path) -> SystemTime {
    fs::metadata(file).and_then(|data| data.modified()).unwrap_or_else(|_| SystemTime::now())
}

/// What a build finds beside wrong numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    /// Accesses to shared memory that nothing orders (emulator/races.cpp).
    Races,
    /// Accesses outside of memory, and undefined behaviour.
    Memory,
}

impl Check {
    fn asked_for() -> Check {
        match env::var("EMULATOR_CHECK").unwrap_or_default().as_str() {
            "" => Check::Nothing,
            "races" => Check::Races,
            "memory" => Check::Memory,
            other => panic!("EMULATOR_CHECK is `races` or `memory`, not `{other}`"),
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Check::Nothing => "o",
            Check::Races => "races.o",
            Check::Memory => "memory.o",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Check::Nothing => &[],
            Check::Races => &["-g", "-DEMULATOR_TRACE"],
            Check::Memory => &["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
        }
    }

    /// For kernels alone: the calls that mark loads and stores. emulator/races.cpp answers them, not the sanitizer's library.
    fn kernel_flags(self) -> &'static [&'static str] {
        if self == Check::Races { &["-fsanitize=thread"] } else { &[] }
    }
}

fn object(source: &Path, out: &Path) -> PathBuf {
    out.join(source.with_extension(Check::asked_for().extension()).to_string_lossy().replace('/', "-"))
}

/// Compiles what is older than its source or any header, two files at a time on two cores.
fn compile_all(sources: &[PathBuf], newest_header: SystemTime, out: &Path) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |count| count.get()) {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let object = object(source, out);
                    let made = fs::metadata(&object).and_then(|data| data.modified());
                    if !made.is_ok_and(|made| made > changed_at(source) && made > newest_header) {
                        compile(source, &object);
                    }
                }
            });
        }
    });
}

fn compile(source: &Path, object: &Path) {
    let mut command = compiler();
    command.args(FLAGS).args(["-Iemulator", "-Isrc/accelerator"]);
    for folder in fs::read_dir("src").expect("there is a src").flatten().filter(|entry| entry.path().is_dir()) {
        command.arg("-I").arg(folder.path());
    }
    command.args(Check::asked_for().flags());
    if has_extension(source, &["cu"]) {
        command.args(Check::asked_for().kernel_flags());
        command.args(["-include", "src/accelerator/vocabulary.cuh", "-x", "c++"]);
    }
    run(command.arg("-c").arg(source).arg("-o").arg(object));
}

/// One object of all, so that a kernel that only registers itself is not left out by the linker.
fn link(sources: &[PathBuf], out: &Path) {
    let whole = out.join("whole.o");
    run(compiler().args(["-r", "-nostdlib", "-o"]).arg(&whole).args(sources.iter().map(|source| object(source, out))));
    let library = out.join("libemulator.a");
    let _ = fs::remove_file(&library);
    run(Command::new("ar").arg("rcs").arg(&library).arg(&whole));
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=emulator");
    // The sanitizers' libraries want to be the first that are loaded.
    let is_sanitized = Check::asked_for() == Check::Memory;
    if is_sanitized {
        println!("cargo:rustc-cfg=emulator_finds_outside");
    }
    let sanitizers: &[&str] = if is_sanitized { &["asan", "ubsan"] } else { &[] };
    for name in sanitizers.iter().chain(&["stdc++"]) {
        println!("cargo:rustc-link-lib=dylib={name}");
    }
}

fn compiler() -> Command {
    Command::new(env::var_os("CXX").unwrap_or_else(|| "c++".into()))
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| {
        panic!(
            "{:?} cannot be started: {error}; install g++ or build without the feature `emulator`",
            command.get_program()
        )
    });
    assert!(status.success(), "{command:?} failed");
}
