//! Kernels' texts to cubins with NVRTC: real machine code, not PTX, which an older driver would refuse.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::PathBuf;
use std::sync::Mutex;

use cudarc::nvrtc::sys;

use super::{Architecture, Source, libraries};
use crate::failure::Version;

/// What stands in front of every source.
pub(crate) const VOCABULARY: &str = include_str!("vocabulary.cuh");

/// The compiler's library, loaded. It is one for the whole process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compiler {
    pub version: Version,
}

/// A program for one architecture, and what ptxas said of it.
pub(crate) struct Compiled {
    pub cubin: Vec<u8>,
    pub log: String,
}

impl Compiler {
    /// The compiler in one of these folders or where the system looks; `None` where there is none.
    pub(crate) fn find(folders: &[PathBuf]) -> Option<Compiler> {
        libraries::preload(folders, "nvrtc");
        // SAFETY: loads the library by its well-known name and looks only at whether that worked.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two integers.
        let told = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
        let version = Version { major: major.unsigned_abs(), minor: minor.unsigned_abs() };
        (told == sys::nvrtcResult::NVRTC_SUCCESS).then_some(Compiler { version })
    }

    pub(crate) fn knows(self, architecture: Architecture) -> bool {
        let mut count: c_int = 0;
        // SAFETY: writes one integer.
        unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) };
        let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: writes as many integers as it said.
        unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) };
        known.contains(&(architecture.0 as c_int))
    }

    /// # Errors
    /// What the compiler said, where the text does not compile.
    pub(crate) fn compile(self, source: &Source, architecture: Architecture) -> Result<Compiled, String> {
        /// One at a time: a texts' compilation takes a second, and a machine's memory is small.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let program = Program::new(source)?;
        let options: Vec<CString> = options(architecture).into_iter().map(c_string).collect();
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program lives, and so do the options.
        let ended = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as c_int, options.as_ptr()) };
        let log = program.log();
        if ended != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(if log.is_empty() { said(ended) } else { log });
        }
        Ok(Compiled { cubin: program.cubin()?, log })
    }
}

/// Every option that a cubin depends on. `-v` makes ptxas report registers and spills in the log.
pub(crate) fn options(architecture: Architecture) -> Vec<String> {
    vec![
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".into(),
        // Functions without a mark, such as a struct's members, are the device's.
        "--device-as-default-execution-space".into(),
        "--ptxas-options=-v".into(),
        "--ptxas-options=--warn-on-spills".into(),
    ]
}

/// The whole text of a program: the vocabulary, then the source with its own line numbers.
pub(crate) fn text(source: &Source) -> String {
    format!("{VOCABULARY}\n#line 1 \"{}.cu\"\n{}", source.name, source.text)
}

struct Program(sys::nvrtcProgram);

impl Program {
    fn new(source: &Source) -> Result<Program, String> {
        let mut program = std::ptr::null_mut();
        let (text, name) = (c_string(text(source)), c_string(format!("{}.cu", source.name)));
        let both = |(name, text): &(&str, &str)| (c_string((*name).into()), c_string((*text).into()));
        let (names, texts): (Vec<CString>, Vec<CString>) = source.headers.iter().map(both).unzip();
        let pointers = |of: &[CString]| of.iter().map(|one| one.as_ptr()).collect::<Vec<*const c_char>>();
        let (names, texts) = (pointers(&names), pointers(&texts));
        // SAFETY: all texts live until the call has ended, which copies them.
        let made = unsafe {
            let count = texts.len() as c_int;
            sys::nvrtcCreateProgram(
                &raw mut program,
                text.as_ptr(),
                name.as_ptr(),
                count,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        if made == sys::nvrtcResult::NVRTC_SUCCESS { Ok(Program(program)) } else { Err(said(made)) }
    }

    fn log(&self) -> String {
        let mut bytes = 0;
        // SAFETY: the program lives; the log has as many bytes as it says.
        let text = unsafe {
            sys::nvrtcGetProgramLogSize(self.0, &raw mut bytes);
            let mut text = vec![0u8; bytes];
            sys::nvrtcGetProgramLog(self.0, text.as_mut_ptr().cast());
            text
        };
        String::from_utf8_lossy(&text).trim_end_matches('\0').trim().to_string()
    }

    fn cubin(&self) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program lives and has been compiled; the cubin has as many bytes as it says.
        unsafe {
            let sized = sys::nvrtcGetCUBINSize(self.0, &raw mut bytes);
            let mut cubin = vec![0u8; bytes];
            let given = sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast());
            let fine = [sized, given].iter().all(|one| *one == sys::nvrtcResult::NVRTC_SUCCESS) && bytes > 0;
            if fine { Ok(cubin) } else { Err(said(given)) }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

fn said(result: sys::nvrtcResult) -> String {
    // SAFETY: NVRTC has a constant text for every result.
    unsafe { CStr::from_ptr(sys::nvrtcGetErrorString(result)) }.to_string_lossy().into_owned()
}

fn c_string(text: String) -> CString {
    CString::new(text).expect("sources have no zero bytes")
}
