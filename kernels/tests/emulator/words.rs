//! Each word of the emulator against plain C++ (kernels/emulator/tests/check_words.cpp), under sanitizers and race checks.

use crate::program::{Check, Program};

fn check(check: Check) {
    let output = Program::build("words", check, &["words.cu", "check_words.cpp"]).run(&[]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("0 differences"), "{said}");
}

#[test]
fn words_do_what_plain_code_does_inside_their_memory() {
    check(Check::Memory);
}

#[test]
fn words_do_what_plain_code_does_and_order_their_accesses() {
    check(Check::Races);
}
