//! The engine's own cost beside ninja and make: start-up, a run with nothing to do over 10, 1,000 and 10,000 nodes, and a node that
//! runs. `cargo bench --workspace --bench peers [-- NODES…]`. All take turns within one run, so that a busy machine harms none alone.
//!
//! The same graph for all: ten layers of files of 1 KB, each a copy of one in the layer before. Ours are `source` nodes and
//! `filter` nodes whose expression always holds. ninja and make compare times, we compare contents.
//! Everything is made below a temporary folder and removed.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LAYERS: usize = 10;
const ROUNDS: usize = 30;
const SIZES: [usize; 3] = [10, 1_000, 10_000];
/// Longer than the tick of any file system's clock: what changed earlier need not be read again.
const REST: Duration = Duration::from_millis(2_300);

/// One program and what it is asked to do.
type Contender = (&'static str, Vec<&'static str>);

fn main() {
    let wanted: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    println!("medians of {ROUNDS}, milliseconds by the clock");
    start_up();
    for nodes in SIZES.into_iter().filter(|nodes| wanted.is_empty() || wanted.contains(nodes)) {
        nothing_to_do(nodes);
    }
    nodes_that_run();
}

fn start_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let contenders =
        [ours(&["--version"]), ("ninja", vec!["--version"]), ("make", vec!["--version"]), ("true", vec![])];
    report("start", folder.path(), &contenders);
}

fn nothing_to_do(nodes: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_graph(folder.path(), nodes);
    let run = ours(&["run", "recipe.yaml", "--cache", "store"]);
    let contenders = [run.clone(), ("ninja", vec![]), ("make", vec!["-s"])];
    for contender in &contenders {
        time(folder.path(), contender);
    }
    std::thread::sleep(REST);
    // The first run after the last change looks at everything and remembers that there was nothing to do.
    let first = time(folder.path(), &run).expect("our own program");
    println!("{nodes} nodes, nothing to do, for the first time: decoct {:.1}", milliseconds(first));
    report(&format!("{nodes} nodes, nothing to do"), folder.path(), &contenders);
}

/// What a node costs beside its work: on a disk, where each result is synced, and in memory, where syncing costs nothing.
fn nodes_that_run() {
    let nodes = 1_000;
    for (what, root) in [("on disk", None), ("in memory", Some("/dev/shm"))] {
        let folder = root.map_or_else(tempfile::tempdir, tempfile::tempdir_in);
        let Ok(folder) = folder else { continue };
        write_graph(folder.path(), nodes);
        let taken = time(folder.path(), &ours(&["run", "recipe.yaml", "--cache", "store"])).expect("our own program");
        println!("{nodes} nodes, all to be done, {what}: {:.3} a node", milliseconds(taken) / nodes as f64);
    }
}

fn ours(arguments: &[&'static str]) -> Contender {
    (env!("CARGO_BIN_EXE_decoct"), arguments.to_vec())
}

/// Median of each contender and how many times the shortest of the peers ours takes.
fn report(what: &str, folder: &Path, contenders: &[Contender]) {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        contenders.iter().zip(&mut times).for_each(|(contender, times)| times.extend(time(folder, contender)));
    }
    let mut line = format!("{what}:");
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times.get(times.len() / 2).copied().map(milliseconds)
    };
    let medians: Vec<Option<f64>> = times.iter_mut().map(median).collect();
    for ((program, _), median) in contenders.iter().zip(&medians) {
        let name = Path::new(program).file_name().expect("a program has a name").to_string_lossy();
        let shown = median.map_or("not here".to_string(), |median| format!("{median:.2}"));
        write!(line, " {name} {shown}").expect("text takes text");
    }
    if let [Some(ours), Some(ninja), ..] = medians[..] {
        write!(line, " · {:.2} × ninja", ours / ninja).expect("text takes text");
    }
    println!("{line}");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// `None` where the program is not installed.
fn time(folder: &Path, (program, arguments): &Contender) -> Option<Duration> {
    let started = Instant::now();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().ok()?;
    let taken = started.elapsed();
    assert!(status.success(), "{program} {arguments:?}");
    Some(taken)
}

fn write_graph(folder: &Path, nodes: usize) {
    let width = nodes / LAYERS;
    let [mut recipe, mut ninja, mut make] = [
        "version: 1\nnodes:\n".to_string(),
        "rule copy\n  command = cp $in $out\n".to_string(),
        "all:\n.PHONY: all\n".to_string(),
    ];
    let write = "text takes text";
    for name in ["sources", "ninja", "make"] {
        fs::create_dir(folder.join(name)).expect("room for a folder");
    }
    for number in 0..nodes {
        let (layer, column) = (number / width, number % width);
        if layer == 0 {
            let text = format!("{{\"question\": \"{number}\", \"answer\": \"{}\"}}\n", "dose ".repeat(195));
            fs::write(folder.join(format!("sources/{column}.jsonl")), text).expect("room for a file");
            writeln!(recipe, "  n0_{column}: {{ kind: source, path: sources/{column}.jsonl }}").expect(write);
        } else {
            let above = format!("n{}_{column}", layer - 1);
            writeln!(recipe, "  n{layer}_{column}: {{ kind: filter, input: {above}, where: \"true\" }}").expect(write);
        }
        for (tool, rules) in [("ninja", &mut ninja), ("make", &mut make)] {
            let from = match layer {
                0 => format!("sources/{column}.jsonl"),
                _ => format!("{tool}/n{}_{column}", layer - 1),
            };
            let to = format!("{tool}/n{layer}_{column}");
            match tool {
                "ninja" => writeln!(rules, "build {to}: copy {from}").expect(write),
                _ => writeln!(rules, "all: {to}\n{to}: {from}\n\tcp $< $@").expect(write),
            }
        }
    }
    for (name, text) in [("recipe.yaml", recipe), ("build.ninja", ninja), ("Makefile", make)] {
        fs::write(folder.join(name), text).expect("room for a file");
    }
}
