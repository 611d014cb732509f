//! The emulator itself: its words do what plain C++ does, and kernels with one planted mistake each are all found.

mod faults;
mod program;
mod words;
