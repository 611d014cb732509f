//! Model calls beside a bare HTTP loop: one loopback server, about 1.3 kB each way, everything a process of its own.
//! `cargo bench --workspace --bench wire [-- ROWS]`. `decoct run` is timed from process start to its end: reading the recipe and the
//! source, rendering, addressing, looking up, calling, parsing, storing replies and rows. `wrk` is timed where it is installed.

#[path = "wire/bare.rs"]
mod bare;
#[path = "wire/server.rs"]
mod server;
mod support;

use server::Server;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Measured, measured};

/// Of a request's one message; with what surrounds it about 1.3 kB.
const PROMPT_BYTES: usize = 1_200;
const WRK_SECONDS: u64 = 5;
const TURNS: usize = 5;
const PAID_RUNS: usize = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", latency_ms] => server::serve(latency_ms.parse().expect("milliseconds")),
        ["bare", url, rows, in_flight, threads] => {
            let number = |text: &str| text.parse().expect("a number");
            bare::run(url, number(rows), number(in_flight), number(threads));
        }
        [] => compare(100_000),
        [rows] => compare(rows.parse().expect("how many rows")),
        _ => panic!("one number: how many rows"),
    }
}

fn compare(rows: usize) {
    println!("no latency, 64 in flight, {rows} rows");
    let server = Server::start(0);
    wrk(&server, 64);
    let one = bare(&server, rows, 64, 1);
    tell("bare reqwest, one thread", rows, &one, None);
    tell("bare reqwest, two threads", rows, &bare(&server, rows, 64, 2), Some(&one));
    by_turns(&server, rows);
    for (in_flight, rows) in [(64, rows.min(20_000)), (256, rows.min(60_000))] {
        println!("50 ms latency, {in_flight} in flight, {rows} rows");
        let server = Server::start(50);
        let ceiling = in_flight as f64 / 0.05;
        let share = |measured: &Measured| {
            println!("  {:>60.1} % of the ceiling", 100.0 * rows as f64 / measured.seconds / ceiling)
        };
        let one = bare(&server, rows, in_flight, 1);
        tell("bare reqwest, one thread", rows, &one, None);
        share(&one);
        let node = Kitchen::new(rows).run(&server, in_flight, rows, &[]);
        tell("decoct run, one model node", rows, &node, Some(&one));
        share(&node);
    }
    println!("everything paid, 20000 rows");
    let kitchen = Kitchen::new(20_000);
    kitchen.run(&server, 64, 20_000, &[]);
    let mut paid: Vec<_> = (0..PAID_RUNS).map(|_| kitchen.run(&server, 64, 0, &["--force", "verdicts"])).collect();
    paid.sort_by(|left, right| left.seconds.total_cmp(&right.seconds));
    tell("the shortest run --force", 20_000, &paid[0], None);
    tell("the median", 20_000, &paid[PAID_RUNS / 2], None);
    println!("1 % of 20000 rows changed");
    kitchen.write_source(20_000, 200);
    tell("decoct run", 20_000, &kitchen.run(&server, 64, 200, &[]), None);
}

/// A machine's other work comes and goes and harms the two unequally: each turn is a pair, and what counts is the median of the ratios.
fn by_turns(server: &Server, rows: usize) {
    let (mut rates, mut cpus) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let kitchen = Kitchen::new(rows);
        let (one, node) = (bare(server, rows, 64, 1), kitchen.run(server, 64, rows, &[]));
        tell("decoct run, one model node", rows, &node, Some(&one));
        rates.push(one.seconds / node.seconds);
        cpus.push(node.cpu_seconds / one.cpu_seconds);
    }
    [&mut rates, &mut cpus].iter_mut().for_each(|ratios| ratios.sort_by(f64::total_cmp));
    let (rate, cpu) = (rates[TURNS / 2], cpus[TURNS / 2]);
    println!("  medians of {TURNS} turns: {rate:.2} × the rows/s and {cpu:.2} × the CPU of one bare thread");
}

/// A recipe with one model node over rows of a file, in a folder of its own.
struct Kitchen(tempfile::TempDir);

impl Kitchen {
    fn new(rows: usize) -> Kitchen {
        let kitchen = Kitchen(tempfile::tempdir().expect("a temporary folder"));
        std::fs::create_dir(kitchen.0.path().join("prompts")).expect("room for a folder");
        kitchen.write("prompts/verify.md", "Compare. Answer True or False.\n{{ truth }}\n{{ conclusion }}\n");
        kitchen.write_source(rows, 0);
        kitchen.write_recipe("http://127.0.0.1:9/v1", 1);
        measured(&mut kitchen.decoct(&["--until", "exam"]));
        kitchen
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).expect("room for a file");
    }

    fn write_recipe(&self, base_url: &str, in_flight: usize) {
        self.write(
            "recipe.yaml",
            &format!(
                "version: 1\nprompts: prompts\nmodels: {{ judge: {{ provider: openai, model: m, base_url: \"{base_url}\", concurrency: {in_flight} }} }}\n\
                 nodes:\n  exam:     {{ kind: source, path: exam.jsonl }}\n  verdicts: {{ kind: verify, input: exam, model: judge }}\n"
            ),
        );
    }

    /// The first rows are others than at first.
    fn write_source(&self, rows: usize, changed: usize) {
        // Line by line: what this process holds would count as its children's peak.
        let file = std::fs::File::create(self.0.path().join("exam.jsonl")).expect("room for a file");
        let mut lines = std::io::BufWriter::new(file);
        for row in 0..rows {
            let version = if row < changed { "new" } else { "old" };
            let text = format!("{version} conclusion {row} ");
            let conclusion = text.repeat(PROMPT_BYTES / text.len());
            let line = format!("{{\"conclusion\": \"{conclusion}\", \"truth\": \"truth {row}\"}}\n");
            lines.write_all(line.as_bytes()).expect("room for a file");
        }
        lines.flush().expect("room for a file");
    }

    fn decoct(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_decoct"));
        command.args(["run", "recipe.yaml", "--cache", "store", "--format", "json"]).args(more);
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// A whole run, which must send exactly so many requests.
    fn run(&self, server: &Server, in_flight: usize, requests: usize, more: &[&str]) -> Measured {
        self.write_recipe(&server.base_url(), in_flight);
        let before = server.requests();
        let measured = measured(&mut self.decoct(more));
        assert_eq!(server.requests() - before, requests as u64, "requests sent");
        measured
    }
}

fn bare(server: &Server, rows: usize, in_flight: usize, threads: usize) -> Measured {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let numbers = [rows, in_flight, threads].map(|number| number.to_string());
    measured(command.args(["bare", &server.base_url()]).args(numbers))
}

/// Rows a second, CPU seconds a thousand rows, peak memory; and what they are beside another's.
fn tell(what: &str, rows: usize, measured: &Measured, beside: Option<&Measured>) {
    let Measured { seconds, cpu_seconds, peak_mb } = measured;
    let (rate, cpu) = (rows as f64 / seconds, cpu_seconds / rows as f64 * 1e3);
    let ratio = beside.map(|other| {
        let (rate, cpu) = (other.seconds / seconds, cpu_seconds / other.cpu_seconds);
        format!(" · {rate:.2} × the rows/s and {cpu:.2} × the CPU of one bare thread")
    });
    let ratio = ratio.unwrap_or_default();
    println!("  {what:<28} {seconds:>7.3} s {rate:>8.0} rows/s {cpu:>7.4} CPU s/1,000 {peak_mb:>6.0} MB{ratio}");
}

fn wrk(server: &Server, connections: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("post.lua");
    let body = bare::body(0, PROMPT_BYTES);
    let lua = format!("wrk.method = 'POST'\nwrk.headers['content-type'] = 'application/json'\nwrk.body = [[{body}]]\n");
    std::fs::write(&script, lua).expect("room for a file");
    let url = format!("{}/chat/completions", server.base_url());
    let mut command = Command::new("wrk");
    command.args(["-t", "2", "-c", &connections.to_string(), "-d", &format!("{WRK_SECONDS}s"), "-s"]);
    match command.arg(script_path(&script)).arg(url).output() {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            let rate = told.lines().find(|line| line.starts_with("Requests/sec")).unwrap_or("no answer");
            println!("  wrk: {rate}");
        }
        Err(_) => println!("  wrk: not installed"),
    }
}

fn script_path(script: &Path) -> &str {
    script.to_str().expect("a temporary path is text")
}
