//! Killed at any moment, a run can be started again and ends as if nothing had happened.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, questions};
use std::time::Duration;

const RECIPE: &str = "\
version: 1
nodes:
  exam:     { kind: source, path: exam.jsonl }
  distinct: { kind: dedup, input: exam, by: question, near: { similarity: 0.9 } }
  halves:   { kind: split, input: distinct, parts: { train: 0.5, test: 0.5 } }
  both:     { kind: mix, inputs: [halves.train, halves.test] }
";

#[test]
fn killed_at_many_moments_it_ends_with_the_same_rows() {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.write("exam.jsonl", &questions(3_000));
    let expected = kitchen.run(&["--cache", "undisturbed"]).expect_done();
    for killed_after_ms in (0..200).step_by(10) {
        let mut process = kitchen.command(&["run", "recipe.yaml"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(killed_after_ms));
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let run = kitchen.run(&[]).expect_done();
    assert_eq!(run.outputs(), expected.outputs());
    assert_eq!(std::fs::read_dir(kitchen.store().join("scratch")).unwrap().count(), 0, "nothing is left over");
}
