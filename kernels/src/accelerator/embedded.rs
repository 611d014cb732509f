//! Cubins inside the program (cargo feature `embedded-cubins`), for machines without NVRTC: `tests/support/cubins` makes a folder of
//! them, and the build script a table of that folder. They are named and checked as those that a machine keeps for itself.

use std::path::{Path, PathBuf};

use super::cubins::{self, Origin};
use super::nvrtc::Compiler;
use super::registry::SOURCES;
use super::{ARCHITECTURES, Architecture};
use crate::failure::Version;

/// Cubins of one compiler.
#[derive(Debug)]
pub(super) struct Table {
    pub compiler: Version,
    /// (name, content of the file).
    pub files: &'static [(&'static str, &'static [u8])],
}

#[cfg(feature = "embedded-cubins")]
static TABLE: Table = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
#[cfg(not(feature = "embedded-cubins"))]
static TABLE: Table = Table { compiler: Version { major: 0, minor: 0 }, files: &[] };

/// Whose cubins serve a device of this architecture under this driver, where every kernel that it can run is in the program.
pub(super) fn origin(architecture: Architecture, driver: Version) -> Option<Origin> {
    TABLE.origin(architecture, driver)
}

/// The machine code of this name.
pub(super) fn find(name: &str) -> Option<Vec<u8>> {
    TABLE.find(name)
}

impl Table {
    fn find(&self, name: &str) -> Option<Vec<u8>> {
        let (_, content) = self.files.iter().find(|(other, _)| *other == name)?;
        cubins::checked(content)
    }

    fn origin(&self, architecture: Architecture, driver: Version) -> Option<Origin> {
        let (compiler, made_for) = (self.compiler, served_by(architecture));
        let mut needed = SOURCES.iter().filter(|source| source.compiles_for(made_for));
        // A cubin can be loaded by drivers of the compiler's major version and later ones.
        let serves = compiler.major <= driver.major
            && needed.all(|source| self.find(&cubins::name(source, made_for, compiler)).is_some());
        serves.then_some(Origin::Embedded { compiler, made_for })
    }
}

/// What a device's programs are compiled for here: a program for 8.0 runs on every 8.x, one for 9.0a or 10.0a on no other.
fn served_by(architecture: Architecture) -> Architecture {
    if architecture.0 / 10 == 8 { Architecture::AMPERE } else { architecture }
}

/// Compiles every kernel for every architecture, with the NVRTC in one of these folders, into `folder`; returns how many cubins
/// lie there.
///
/// # Errors
/// If there is no NVRTC, it refuses a source, or the folder cannot be written.
pub fn make(libraries: &[PathBuf], folder: &Path) -> Result<usize, String> {
    let compiler = Compiler::find(libraries).ok_or("NVRTC was not found: `pip install nvidia-cuda-nvrtc` has it")?;
    let unwritten = |error: std::io::Error| format!("cannot write {}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(unwritten)?;
    let mut count = 0;
    for architecture in ARCHITECTURES {
        for source in SOURCES.iter().filter(|source| source.compiles_for(architecture)) {
            let compiled = compiler.compile(source, architecture);
            let code = compiled
                .map_err(|log| format!("`{}.cu` does not compile for `{architecture}`:\n{log}", source.name))?
                .cubin;
            let file = format!("{}.cubin", cubins::name(source, architecture, compiler.version));
            cubins::write(&folder.join(file), &code).map_err(unwritten)?;
            count += 1;
        }
    }
    let Version { major, minor } = compiler.version;
    let version = format!("Version {{ major: {major}, minor: {minor} }}\n");
    std::fs::write(folder.join("compiler"), version).map_err(unwritten)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPILER: Version = Version { major: 12, minor: 8 };

    /// A table of these architectures' sources, each of which is its own name's bytes.
    fn table(architectures: &[Architecture]) -> Table {
        let named = |&architecture: &Architecture| {
            let sources = SOURCES.iter().filter(move |source| source.compiles_for(architecture));
            sources.map(move |source| cubins::name(source, architecture, COMPILER))
        };
        let file = |name: String| -> (&'static str, &'static [u8]) {
            let content = [blake3::hash(name.as_bytes()).as_bytes(), name.as_bytes()].concat();
            (name.leak(), content.leak())
        };
        let files: Vec<_> = architectures.iter().flat_map(named).map(file).collect();
        Table { compiler: COMPILER, files: files.leak() }
    }

    #[test]
    fn a_device_is_served_where_every_kernel_is_there() {
        let table = table(&[Architecture(80), Architecture(90)]);
        let served = |number: u32, driver: u32| {
            let origin = table.origin(Architecture(number), Version { major: driver, minor: 0 })?;
            let Origin::Embedded { compiler, made_for } = origin else { panic!("{origin:?}") };
            assert_eq!(compiler, COMPILER);
            let all = SOURCES.iter().filter(|source| source.compiles_for(made_for));
            for name in all.map(|source| cubins::name(source, made_for, compiler)) {
                assert_eq!(table.find(&name), Some(name.clone().into_bytes()));
            }
            Some(made_for.0)
        };
        assert_eq!([80, 86, 89, 90].map(|number| served(number, 12)), [Some(80), Some(80), Some(80), Some(90)]);
        assert_eq!([75, 100, 103, 120].map(|number| served(number, 12)), [None; 4]);
        assert_eq!((served(90, 11), served(90, 13)), (None, Some(90)), "an older driver cannot load them");
    }

    #[test]
    fn one_that_lacks_or_is_damaged_serves_nobody() {
        let whole = table(&[Architecture(90)]);
        let driver = Version { major: 13, minor: 0 };
        let without = Table { files: &whole.files[1..], ..whole };
        assert!(without.origin(Architecture(90), driver).is_none());
        let (name, content) = whole.files[0];
        let cut: &'static [_] = vec![(name, &content[..content.len() - 1])].leak();
        let damaged = Table { files: [cut, &whole.files[1..]].concat().leak(), ..whole };
        assert!(damaged.origin(Architecture(90), driver).is_none());
    }
}
