//! Every kernel compiles for every generation without spills and stacks, in the registers that `kernels.lock` states.

use std::path::{Path, PathBuf};
use std::process::Command;

use kernels::lock;

#[test]
fn every_kernel_is_as_the_lock_states() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Command::new(room.join("../tests/support/nvrtc")).output().expect("the script runs");
    assert!(made.status.success(), "no NVRTC: {}", String::from_utf8_lossy(&made.stderr));
    let folder = PathBuf::from(String::from_utf8(made.stdout).expect("a path in UTF-8").trim_end());
    let (version, measured) = lock::measure(&[folder]).expect("every source compiles");
    let text = std::fs::read_to_string(room.join("kernels.lock")).expect("the lock is there");
    assert!(text.contains(&format!("by NVRTC {version}")), "the lock is of another compiler than {version}");
    let complaints = lock::complaints(&measured, &text);
    assert!(complaints.is_empty(), "{}\nif this is meant: tests/support/lock", complaints.join("\n"));
}
