//! `decoct plan`, from process start to its end, over 40,000 rows beside a million kept replies: with nothing to do, with an edit that
//! pays nothing (every row is played through and every reply read), and with one that pays for every row.
//! `cargo bench --workspace --bench plan`. Everything is made below a temporary folder and removed.

mod support;

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;
use support::{decoct, keep_replies, milliseconds};

const ROWS: usize = 40_000;
const RUNS: usize = 10;

const RECIPE: &str = "\
version: 1
prompts: prompts
models: { teacher: { provider: rehearsal, unparsable: 0 } }
nodes:
  exam:      { kind: source, path: exam.jsonl }
  chains:    { kind: cot, input: exam, model: teacher, asks: 3 }
  verdicts:  { kind: verify, input: chains, model: teacher }
  solved:    { kind: search, input: verdicts, model: teacher }
";

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("room for a file");
    write("recipe.yaml", RECIPE);
    write("exam.jsonl", &exam());
    std::fs::create_dir(at("prompts")).expect("room for a folder");
    let prompt = include_str!("../../pipelines/medical/prompts/cot.md");
    write("prompts/cot.md", prompt);
    let started = Instant::now();
    decoct(folder.path(), &["run", "recipe.yaml", "--until", "verdicts"]);
    println!("{:<48} {:>8.1} ms once", "run", milliseconds(started.elapsed()));
    keep_replies(folder.path());
    report("plan, nothing to do", folder.path(), &["--until", "verdicts"]);
    write("recipe.yaml", &RECIPE.replace("asks: 3", "asks: 4"));
    report("plan, 40,000 rows, every call paid", folder.path(), &["--until", "chains"]);
    report("plan, the same and what waits for it", folder.path(), &["--until", "verdicts"]);
    write("recipe.yaml", RECIPE);
    write("prompts/cot.md", &format!("{prompt}\nBe brief.\n"));
    report("plan, 40,000 rows, no call paid", folder.path(), &[]);
}

/// Questions of the length of an exam's.
fn exam() -> String {
    let mut lines = String::new();
    for row in 0..ROWS {
        let sign = format!("sign {row} since day {}, worse at night and after meals. ", row % 91).repeat(6);
        _ = writeln!(
            lines,
            r#"{{"problem": "A patient of {} years shows {sign}What explains it best?", "truth": "Explanation {row}"}}"#,
            20 + row % 60
        );
    }
    lines
}

fn report(what: &str, folder: &Path, more: &[&str]) {
    support::report(what, RUNS, folder, &[&["plan", "recipe.yaml"], more].concat());
}
