//! What a training will hold in memory, as the program tells it, keeps to it, and refuses what does not fit.
//!
//! Peaks are the kernel's own high-water mark of the program's resident memory (`ru_maxrss`, the figure that `VmHWM` shows), taken when
//! it ended, so that code, tables and the allocator count too.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, Run};
use serde_json::Value;
use std::process::{Command, Stdio};

/// Texts that are longer than any training here reads.
fn long_texts(count: usize, words: usize) -> String {
    let line = |row: usize| {
        let answer: Vec<String> = (0..words).map(|word| format!("{}", (row * 31 + word * 7) % 89)).collect();
        // As long as a plan thinks a problem is, or nearly so.
        let question = (0..50).map(|place| ((row + place) % 10).to_string()).collect::<Vec<_>>().join(" ");
        format!("{{\"question\": \"how much is {question}?\", \"answer\": \"{}\"}}\n", answer.join(" "))
    };
    (0..count).map(line).collect()
}

fn scene(nodes: &str, texts: &str) -> Kitchen {
    let kitchen = Kitchen::new(&format!("version: 1\nnodes:\n  exam: {{ kind: source, path: exam.jsonl }}\n{nodes}"));
    kitchen.write("exam.jsonl", texts);
    kitchen
}

fn run_within(kitchen: &Kitchen, limit: &str, more: &[&str]) -> Run {
    let arguments = [&["run", "recipe.yaml", "--format", "json"], more].concat();
    Run::of(&kitchen.command(&arguments).env("DECOCT_MEMORY", limit).output().unwrap())
}

fn planned(kitchen: &Kitchen, node: &str) -> Value {
    let text = kitchen.says(&["plan", "recipe.yaml", "--format", "json"]);
    let plan: Value = serde_json::from_str(&text).unwrap();
    let nodes = plan["nodes"].as_array().unwrap();
    nodes.iter().find(|it| it["node"] == node).unwrap_or_else(|| panic!("{plan:#}"))["memory"].clone()
}

const LARGE: &str = "  student: { kind: sft, input: exam, response: answer,
    base: { architecture: qwen2, layers: 12, hidden: 1024, heads: 8, tokenizer: { train: words, size: 300 } } }\n";

#[test]
fn a_plan_tells_what_a_training_will_hold_and_of_what_it_is_made() {
    let kitchen = scene(LARGE, &long_texts(3, 10));
    let plan = kitchen.says(&["plan", "recipe.yaml"]);
    let line =
        plan.lines().find(|line| line.trim_start().starts_with("student: about")).unwrap_or_else(|| panic!("{plan}"));
    for part in ["texts of 256 tokens", "parameters", "gradients", "optimizer", "activations"] {
        assert!(line.contains(part), "{line}");
    }
    let memory = planned(&kitchen, "student");
    let parts = memory["parts"].as_array().unwrap();
    let sum: u64 = parts.iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    assert_eq!(Some(sum), memory["bytes"].as_u64(), "{memory:#}");
    assert!(memory["bytes_least"].as_u64().unwrap() < sum);
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_done() {
    let kitchen = scene(LARGE, &long_texts(3, 10));
    let run = run_within(&kitchen, "400MB", &[]);
    assert_eq!((run.exit, kitchen.blobs()), (2, Vec::new()), "{}", run.told);
    for part in
        ["`student`", "parameters", "gradients", "optimizer", "activations", "are free here", "checkpointing: true"]
    {
        assert!(run.told.contains(part), "no `{part}`: {}", run.told);
    }
    let plan = kitchen.command(&["plan", "recipe.yaml"]).env("DECOCT_MEMORY", "400MB").output().unwrap();
    let told = String::from_utf8(plan.stdout).unwrap();
    assert!(told.contains("are free here, and what takes less"), "{told}");
    let run = run_within(&kitchen, "a lot", &[]);
    assert!(run.exit == 2 && run.told.contains("`DECOCT_MEMORY` is `a lot`"), "{}", run.told);
}

#[test]
fn what_these_rows_do_not_leave_room_for_stops_before_its_first_step_and_finished_work_stays() {
    let kitchen = scene(
        "  student: { kind: sft, input: exam, response: answer, steps: 2, max_length: 64, batch_tokens: 256,
    base: { architecture: qwen2, layers: 2, hidden: 64, heads: 4, tokenizer: { train: words, size: 300 } } }
  grown: { kind: sft, input: exam, response: answer, steps: 2, batch_tokens: 20000, base: { node: student } }\n",
        &long_texts(12, 1_800),
    );
    let refused = run_within(&kitchen, "100MB", &[]);
    assert_eq!(refused.states(), "exam:ran student:ran grown:failed", "{}", refused.told);
    let told: String = refused.events.iter().map(Value::to_string).collect();
    for part in ["parameters", "gradients", "optimizer", "activations", "are free here", "a smaller `max_length`"] {
        assert!(told.contains(part), "no `{part}`: {told}");
    }
    let shorter = run_within(&kitchen, "100MB", &["--set", "nodes.grown.max_length=64"]).expect_done();
    assert_eq!(shorter.states(), "exam:hit student:hit grown:ran");
}

/// The program's peak of resident memory, in bytes, once it has ended well.
#[expect(clippy::zombie_processes, reason = "wait4 waits, and tells the peak besides")]
fn peak(mut command: Command) -> u64 {
    let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both places are valid; the child is ours, and nobody else waits for it.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, usage.as_mut_ptr()) };
    assert_eq!((waited, status), (child.id() as libc::pid_t, 0));
    // SAFETY: wait4 filled it in, and zeros are valid besides.
    let kilobytes = unsafe { usage.assume_init() }.ru_maxrss;
    u64::try_from(kilobytes).unwrap() * 1024
}

/// Planned and measured bytes of a node, all before it done.
fn measured(kitchen: &Kitchen, node: &str) -> (u64, u64) {
    let plan = planned(kitchen, node)["bytes"].as_u64().unwrap();
    (plan, peak(kitchen.command(&["run", "recipe.yaml", "--until", node])))
}

fn student(checkpointing: bool, shape: &str) -> String {
    format!(
        "  student: {{ kind: sft, input: exam, response: answer, steps: 2, max_length: 256, batch_tokens: 2048, checkpoint_every: 1,
    checkpointing: {checkpointing}, base: {{ architecture: qwen2, {shape}, tokenizer: {{ train: words, size: 300 }} }} }}\n"
    )
}

const SMALL: &str = "layers: 1, hidden: 16, heads: 2";
const WIDE: &str = "layers: 6, hidden: 384, heads: 6";

/// What the program takes beside what it plans: its code, its tables, its threads.
fn base_footprint(nodes: &str, node: &str) -> u64 {
    let kitchen = scene(nodes, &long_texts(24, 300));
    before(&kitchen, node);
    let (plan, peak) = measured(&kitchen, node);
    peak.saturating_sub(plan)
}

/// Does what comes before a node.
fn before(kitchen: &Kitchen, node: &str) {
    if node == "graduate" {
        kitchen.run(&["--until", "student"]).expect_done();
    }
}

fn check(what: &str, [small, large]: [&str; 2], node: &str) {
    let base = base_footprint(small, node);
    let kitchen = scene(large, &long_texts(24, 300));
    before(&kitchen, node);
    let (plan, peak) = measured(&kitchen, node);
    let [plan_mb, peak_mb, base_mb] = [plan, peak, base].map(|bytes| bytes as f64 / 1e6);
    let off = (peak_mb - base_mb) / plan_mb - 1.0;
    println!(
        "{what}: {plan_mb:.1} MB planned, {peak_mb:.1} MB at the peak, {base_mb:.1} MB of it the program's own ({:+.1} %)",
        100.0 * off
    );
    assert!(base_mb < 80.0 && off.abs() <= 0.10, "{what}");
}

#[test]
fn the_program_keeps_to_its_plan_of_a_fine_tuning() {
    for checkpointing in [false, true] {
        let nodes = [SMALL, WIDE].map(|shape| student(checkpointing, shape));
        check(&format!("checkpointing {checkpointing}"), [&nodes[0], &nodes[1]], "student");
    }
}

#[test]
fn the_program_keeps_to_its_plan_of_reinforcement() {
    let nodes = [SMALL, WIDE].map(|shape| {
        student(true, shape)
            + "  graduate: { kind: ppo, policy: student, problems: exam, truth: answer, verifier: rules, iterations: 2, rollouts: 8,
    minibatch: 1, max_new_tokens: 64, checkpoint_every: 1 }\n"
    });
    check("ppo", [&nodes[0], &nodes[1]], "graduate");
}
