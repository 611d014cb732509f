//! Every planted mistake of kernels/emulator/tests/faults*.cu is found under every schedule, and none where there is none.

use std::collections::BTreeSet;

use crate::program::{Check, Program};

/// In order, reversed, and two shuffles.
const SCHEDULES: [&str; 4] = ["0", "1", "2", "3"];

const FILES: [&str; 3] = ["faults.cu", "faults_hopper.cu", "run_fault.cpp"];

const HEALTHY: [&str; 5] = ["reverse_none", "rotate_none", "relay_none", "multiply_none", "gemm_none"];

/// A kernel, and the words of which one must be in what is said about it (a mistake may show in more than one way).
type Case = (&'static str, &'static [&'static str]);

const ORDER: [Case; 42] = [
    ("reverse_missing_barrier", &["race:"]),
    ("reverse_barrier_in_branch", &["race:", "deadlock"]),
    ("reverse_barriers_of_two_lines", &["in a branch"]),
    ("rotate_missing_warp_barrier", &["race:"]),
    ("rotate_lanes_part", &["part: one is at"]),
    ("rotate_lanes_end", &["deadlock: 124 of 128 threads wait in `warp_barrier`"]),
    ("relay_named_barrier_of_too_many", &["160 threads cannot meet in a block of 128"]),
    ("relay_named_barrier_of_two_counts", &["is met by", "race:"]),
    ("relay_named_barrier_twice", &["is at barrier 1 twice"]),
    ("relay_named_barrier_missing", &["race:"]),
    ("multiply_wait_for_too_few", &["race:"]),
    ("multiply_missing_wait", &["race:"]),
    ("multiply_missing_commit", &["race:"]),
    ("multiply_missing_copy_barrier", &["race:"]),
    ("multiply_missing_reuse_barrier", &["race:"]),
    ("multiply_unaligned_matrix", &["is not a multiple of 16"]),
    ("multiply_unaligned_copy", &["is not a multiple of 16"]),
    ("multiply_copy_never_waited", &["ends before the copy"]),
    ("multiply_copy_outside_shared", &["lie outside the block's memory"]),
    ("gemm_missing_product_wait", &["ends before its product"]),
    ("gemm_wait_for_too_few_products", &["race:"]),
    ("gemm_missing_full_wait", &["race:", "deadlock"]),
    ("gemm_wrong_full_parity", &["deadlock"]),
    ("gemm_wrong_empty_parity", &["deadlock"]),
    ("gemm_expect_too_few", &["bytes for a barrier that expects 0 more"]),
    ("gemm_expect_too_many", &["deadlock"]),
    ("gemm_missing_empty_wait", &["more than 1 arrivals", "race:"]),
    ("gemm_missing_empty_arrive", &["deadlock"]),
    ("gemm_too_many_arrivals", &["ends inside a phase", "was written before its product", "race:"]),
    ("gemm_wrong_inner_step", &["wrong numbers"]),
    ("gemm_wrong_descriptor_stride", &["wrong numbers"]),
    ("gemm_missing_product_fence", &["no warpgroup_fence()"]),
    ("gemm_missing_commit", &["ends before its product"]),
    ("gemm_sums_read_early", &["wrong numbers"]),
    ("gemm_sums_written_early", &["was touched before its product was waited for"]),
    ("gemm_unaligned_tile", &["is not a multiple of 1024"]),
    ("gemm_barrier_never_initialised", &["was not initialised"]),
    ("gemm_barrier_initialised_twice", &["is initialised twice"]),
    ("gemm_barrier_written_over", &["was written over"]),
    ("gemm_missing_init_barrier", &["was not initialised", "race:"]),
    ("gemm_arrive_before_wait", &["race:"]),
    ("gemm_warps_part", &["do not ask for the same product"]),
];

const STORES: [Case; 2] = [
    ("gemm_store_written_over", &["was written while a copy to global memory read it"]),
    ("gemm_store_never_waited", &["ends before its store"]),
];

const OUTSIDE: [Case; 3] = [
    ("reverse_read_outside", &["heap-buffer-overflow"]),
    ("reverse_write_outside", &["heap-buffer-overflow"]),
    ("reverse_shared_outside", &["out of bounds"]),
];

/// What was said that should not have been, and what was not said.
fn judge(program: &Program, cases: &[Case]) -> Vec<String> {
    let healthy = HEALTHY.map(|kernel| (kernel, &["right"] as &[&str]));
    let runs = healthy.iter().chain(cases).flat_map(|case| SCHEDULES.map(|schedule| (case, schedule)));
    let judged = runs.filter_map(|((kernel, phrases), schedule)| {
        let output = program.run(&[kernel, schedule]);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let found = phrases.iter().any(|phrase| said.contains(phrase));
        (!found).then(|| format!("{kernel} under schedule {schedule}: {}", said.lines().next().unwrap_or("nothing")))
    });
    judged.collect()
}

#[test]
fn unordered_accesses_and_misused_words_are_found() {
    let program = Program::build("faults", Check::Races, &FILES);
    let wrong = judge(&program, &[&ORDER[..], &STORES[..]].concat());
    assert!(wrong.is_empty(), "{} escaped or were accused:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn accesses_outside_of_memory_are_found() {
    let program = Program::build("faults", Check::Memory, &FILES);
    let wrong = judge(&program, &OUTSIDE);
    assert!(wrong.is_empty(), "{} escaped or were accused:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_planted_mistake_is_in_the_table() {
    let text = [include_str!("../../emulator/tests/faults.cu"), include_str!("../../emulator/tests/faults_hopper.cu")];
    let planted: BTreeSet<String> = text.iter().flat_map(|text| text.lines()).filter_map(kernel_of_line).collect();
    let expected =
        HEALTHY.iter().copied().chain([&ORDER[..], &STORES, &OUTSIDE].concat().into_iter().map(|case| case.0));
    assert_eq!(planted, expected.map(String::from).collect());
}

/// The kernel that `ROW(rotate, none)`, `MULTIPLY(none)` or `GEMM(none)` makes.
fn kernel_of_line(line: &str) -> Option<String> {
    let (kind, rest) = line.strip_suffix(')')?.split_once('(')?;
    match kind {
        "ROW" => Some(rest.replace(", ", "_")),
        "MULTIPLY" => Some(format!("multiply_{rest}")),
        "GEMM" => Some(format!("gemm_{rest}")),
        _ => None,
    }
}
