//! What ptxas says of every kernel on every generation, written down in `kernels.lock`: a change that makes a kernel spill, use a
//! stack or take other registers is then a line of a diff, not a surprise on a GPU.
//!
//! A line is `architecture kernel registers shared_bytes`, what a block holds of static shared memory. Spilled registers and stack
//! frames are not written down; they are refused, except where a line `allow architecture kernel stack_bytes spill_bytes: why`
//! states them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::nvrtc::Compiler;
use super::registry::SOURCES;
use super::{ARCHITECTURES, Source};
use crate::failure::Version;

/// What ptxas says of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Of a thread.
    pub registers: u32,
    /// Static, of a block.
    pub shared_bytes: u32,
    /// Of a thread, in local memory.
    pub stack_bytes: u32,
    /// Stores and loads of a thread.
    pub spill_bytes: u32,
}

/// Figures by (architecture, kernel).
pub type Measured = BTreeMap<(String, String), Figures>;

/// Compiles every kernel for every architecture with the NVRTC in one of these folders, or where the system looks.
///
/// # Errors
/// If there is no NVRTC, or it refuses a source.
pub fn measure(folders: &[PathBuf]) -> Result<(Version, Measured), String> {
    let compiler = Compiler::find(folders).ok_or("NVRTC was not found: `pip install nvidia-cuda-nvrtc` has it")?;
    let mut measured = Measured::new();
    for architecture in ARCHITECTURES {
        for source in SOURCES.iter().filter(|source| source.compiles_for(architecture)) {
            let refused = |log: String| format!("`{}.cu` does not compile for `{architecture}`:\n{log}", source.name);
            let log = compiler.compile(source, architecture).map_err(refused)?.log;
            let figures = figures(&log);
            missing(source, &figures).map_or(Ok(()), Err)?;
            measured.extend(figures.into_iter().map(|(kernel, figures)| ((architecture.to_string(), kernel), figures)));
        }
    }
    Ok((compiler.version, measured))
}

/// A source whose log tells of no kernel was not understood.
fn missing(source: &Source, figures: &[(String, Figures)]) -> Option<String> {
    figures.is_empty().then(|| format!("NVRTC says nothing of the kernels in `{}.cu`", source.name))
}

/// Each kernel of a log, in its order.
fn figures(log: &str) -> Vec<(String, Figures)> {
    let mut found: Vec<(String, Figures)> = Vec::new();
    for line in log.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1) {
            found.push((name.split('\'').next().unwrap_or(name).to_string(), Figures::default()));
        }
        let Some((_, figures)) = found.last_mut() else { continue };
        if line.contains("bytes stack frame") {
            figures.stack_bytes = number_before(line, " bytes stack frame");
            figures.spill_bytes =
                number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
        }
        if line.contains(" registers") {
            figures.registers = number_before(line, " registers");
            figures.shared_bytes = number_before(line, " bytes smem");
        }
    }
    found
}

/// The number that ends where `words` begin; 0 where the line has no such words.
fn number_before(line: &str, words: &str) -> u32 {
    let before = line.split_once(words).map_or("", |(before, _)| before);
    let digits: String = before.chars().rev().take_while(char::is_ascii_digit).collect();
    digits.chars().rev().collect::<String>().parse().unwrap_or(0)
}

/// The text of `kernels.lock` for these figures; lines that allow something are taken over from the former text.
pub fn write(version: Version, measured: &Measured, former: &str) -> String {
    let head = format!(
        "# Registers and static shared memory of every kernel, by NVRTC {version}; spills and stacks are refused.\n\
         # Made by `tests/support/lock`, which see; checked by `kernels/tests/lock.rs`.\n\
         # architecture kernel registers shared_bytes\n"
    );
    let lines = measured.iter().map(|((architecture, kernel), figures)| {
        format!("{architecture} {kernel} {} {}\n", figures.registers, figures.shared_bytes)
    });
    let allowed = former.lines().filter(|line| line.starts_with("allow ")).map(|line| format!("{line}\n"));
    std::iter::once(head).chain(lines).chain(allowed).collect()
}

/// What is wrong with these figures, given the text of `kernels.lock`: a sentence each.
pub fn complaints(measured: &Measured, lock: &str) -> Vec<String> {
    let (stated, allowed) = read(lock);
    let mut complaints = Vec::new();
    for (key @ (architecture, kernel), figures) in measured {
        let Figures { registers, shared_bytes, stack_bytes, spill_bytes } = *figures;
        let local = (stack_bytes, spill_bytes);
        if local != allowed.get(key).copied().unwrap_or_default() {
            complaints.push(format!(
                "`{kernel}` on {architecture} has a stack of {stack_bytes} bytes and spills {spill_bytes}, which no line allows"
            ));
        }
        match stated.get(key) {
            Some(&before) if before == (registers, shared_bytes) => {}
            Some(&(before, shared)) => complaints.push(format!(
                "`{kernel}` on {architecture} takes {registers} registers and {shared_bytes} bytes of shared memory, the \
                 lock says {before} and {shared}"
            )),
            None => complaints.push(format!("`{kernel}` on {architecture} is not in the lock")),
        }
    }
    let known: BTreeSet<_> = measured.keys().collect();
    let gone = stated.keys().chain(allowed.keys()).filter(|key| !known.contains(key));
    complaints
        .extend(gone.map(|(architecture, kernel)| format!("the lock has `{kernel}` on {architecture}, we do not")));
    complaints
}

type Pairs = BTreeMap<(String, String), (u32, u32)>;

/// (registers, shared bytes) that are stated, and (stack, spill bytes) that are allowed.
fn read(lock: &str) -> (Pairs, Pairs) {
    let pair = |line: &str| {
        let line = line.split(':').next().unwrap_or(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        let [architecture, kernel, first, second] = words[..] else { return None };
        Some(((architecture.to_string(), kernel.to_string()), (first.parse().ok()?, second.parse().ok()?)))
    };
    let stated = lock.lines().filter(|line| !line.starts_with('#') && !line.starts_with("allow ")).filter_map(pair);
    let allowed = lock.lines().filter_map(|line| pair(line.strip_prefix("allow ")?));
    (stated.collect(), allowed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 42 registers, used 1 barriers, 17408 bytes smem
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
    24 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 24 bytes cumulative stack size";

    fn measured() -> Measured {
        figures(LOG).into_iter().map(|(kernel, figures)| (("sm_80".to_string(), kernel), figures)).collect()
    }

    #[test]
    fn logs_are_read() {
        let first = Figures { registers: 42, shared_bytes: 17_408, stack_bytes: 0, spill_bytes: 0 };
        let second = Figures { registers: 255, shared_bytes: 0, stack_bytes: 24, spill_bytes: 20 };
        assert_eq!(figures(LOG), [("first".to_string(), first), ("second".to_string(), second)]);
    }

    #[test]
    fn spills_are_refused_until_they_are_allowed() {
        let version = Version { major: 13, minor: 0 };
        let lock = write(version, &measured(), "");
        let spills = "`second` on sm_80 has a stack of 24 bytes and spills 20, which no line allows";
        assert_eq!(complaints(&measured(), &lock), [spills]);
        let allowed = format!("{lock}allow sm_80 second 24 20: a test of the lock\n");
        assert_eq!(complaints(&measured(), &allowed), [""; 0]);
        assert_eq!(write(version, &measured(), &allowed), allowed, "what is allowed stays");
    }

    #[test]
    fn every_change_is_a_complaint() {
        let lock = write(Version { major: 13, minor: 0 }, &measured(), "allow sm_80 second 24 20: a test\n");
        let check = |change: &dyn Fn(&mut Measured), expected: &str| {
            let mut measured = measured();
            change(&mut measured);
            let complaints = complaints(&measured, &lock);
            assert!(complaints.len() == 1 && complaints[0].contains(expected), "{complaints:?} lacks `{expected}`");
        };
        let first = ("sm_80".to_string(), "first".to_string());
        let change = |of: fn(&mut Figures)| {
            let first = first.clone();
            move |all: &mut Measured| of(all.get_mut(&first).expect("it is there"))
        };
        check(
            &change(|figures| figures.registers = 43),
            "takes 43 registers and 17408 bytes of shared memory, the lock says 42",
        );
        check(&change(|figures| figures.shared_bytes = 4), "and 4 bytes of shared memory");
        check(&change(|figures| figures.spill_bytes = 4), "spills 4, which no line allows");
        check(&|all| all.retain(|key, _| *key != first), "the lock has `first` on sm_80, we do not");
        check(
            &|all| all.extend([(("sm_90a".into(), "first".into()), Figures::default())]),
            "`first` on sm_90a is not in the lock",
        );
    }
}
