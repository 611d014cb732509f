//! A run with nothing to do, from process start to its end: 10 nodes without and with a million kept replies, and 1,000 nodes.
//! `cargo bench --workspace --bench noop`. Everything is made below a temporary folder and removed.

mod support;

use std::path::Path;
use std::time::Instant;
use support::{keep_replies, milliseconds};

const RUNS: usize = 20;
const LAYERS: usize = 10;

const TEN_NODES: &str = "\
version: 1
models: { teacher: { provider: rehearsal } }
nodes:
  exam:      { kind: source, generate: tablets, rows: 60 }
  distinct:  { kind: dedup, input: exam, by: question }
  clear:     { kind: filter, input: distinct, model: teacher }
  problems:  { kind: reformat, input: clear, model: teacher }
  halves:    { kind: split, input: problems, parts: { sft: 0.5, rl: 0.5 } }
  chains:    { kind: cot, input: halves.sft, model: teacher }
  verdicts:  { kind: verify, input: chains, model: teacher }
  solved:    { kind: search, input: verdicts, model: teacher }
  stories:   { kind: rewrite, input: solved, model: teacher }
  lessons:   { kind: mix, inputs: [stories, halves.rl] }
";

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_recipe(folder.path(), TEN_NODES);
    run(folder.path());
    report("10 nodes", folder.path(), &[]);
    report("10 nodes, one asks again", folder.path(), &["--recheck", "chains"]);
    keep_replies(folder.path());
    report("10 nodes, 1,000,000 replies", folder.path(), &[]);
    report("10 nodes, one asks again, 1,000,000 replies", folder.path(), &["--recheck", "chains"]);
    let layered = tempfile::tempdir().expect("a temporary folder");
    write_recipe(layered.path(), &layers(1_000));
    let started = Instant::now();
    run(layered.path());
    println!("{:<48} {:>8.1} ms once", "1,000 nodes, all to be done", milliseconds(started.elapsed()));
    report("1,000 nodes", layered.path(), &[]);
}

fn write_recipe(folder: &Path, text: &str) {
    std::fs::write(folder.join("recipe.yaml"), text).expect("room for a recipe");
}

/// A source and layers of nodes, each of which reads one of the layer before.
fn layers(nodes: usize) -> String {
    let width = nodes / LAYERS;
    let node = |number: usize| {
        let input = if number <= width { "source".to_string() } else { format!("n{}", number - width) };
        format!("  n{number}: {{ kind: filter, input: {input}, where: \"question|length + {number} > 0\" }}\n")
    };
    let rest: String = (1..nodes).map(node).collect();
    format!("version: 1\nnodes:\n  source: {{ kind: source, generate: tablets, rows: 3 }}\n{rest}")
}

fn run(folder: &Path) {
    support::decoct(folder, &["run", "recipe.yaml"]);
}

fn report(what: &str, folder: &Path, more: &[&str]) {
    support::report(what, RUNS, folder, &[&["run", "recipe.yaml"], more].concat());
}
