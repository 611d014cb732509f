//! `decoct cache verify`: reads everything and drops what is damaged.

use super::open;
use crate::cli::{CacheVerifyArgs, EventFormat};
use crate::failure::{Exit, Result};
use crate::report::words::{bytes, counted, duration};
use cache::{Problem, Verified, VerifyProgress};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Between two lines of progress; a verification that is done before says nothing on its way.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

pub fn run(arguments: &CacheVerifyArgs) -> Result<Exit> {
    let store = open(&arguments.store)?;
    let started = Instant::now();
    let last_told = Mutex::new(started);
    let verified = store.verify(&|progress| tell(progress, &last_told))?;
    let seconds = started.elapsed().as_secs_f64();
    match arguments.format {
        EventFormat::Json => println!("{}", to_json(&verified, seconds)),
        EventFormat::Plain => print(&verified, seconds),
    }
    Ok(if verified.problems.iter().all(Problem::is_repaired) { Exit::Done } else { Exit::Cache })
}

fn tell(progress: VerifyProgress, last_told: &Mutex<Instant>) {
    let mut last_told = last_told.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if last_told.elapsed() >= PROGRESS_EVERY {
        *last_told = Instant::now();
        eprintln!("read {} of {}", bytes(progress.done_bytes), bytes(progress.total_bytes));
    }
}

fn to_json(verified: &Verified, seconds: f64) -> Value {
    let problem = |problem: &Problem| json!({"message": problem.to_string(), "repaired": problem.is_repaired()});
    let lost: Vec<Value> =
        verified.lost.iter().map(|(pipeline, node)| json!({"pipeline": pipeline, "node": node})).collect();
    json!({"event": "verify", "outputs": verified.blobs, "manifests": verified.manifests, "logs": verified.logs,
        "replies": verified.replies, "records": verified.records, "absent_files": verified.absent_blobs,
        "problems": verified.problems.iter().map(problem).collect::<Vec<_>>(), "made_again": lost, "seconds": seconds})
}

fn print(verified: &Verified, seconds: f64) {
    println!("read {}", figures(verified, seconds));
    if verified.absent_blobs > 0 {
        let absent = counted(verified.absent_blobs, "file");
        println!("not here: {absent} of finished work, to be fetched or made again when something needs them");
    }
    for problem in &verified.problems {
        println!("{}: {problem}", if problem.is_repaired() { "repaired" } else { "damaged" });
    }
    for (pipeline, nodes) in by_pipeline(verified) {
        println!("made again when a run needs them: {} of `{pipeline}`", nodes.join(", "));
    }
    let open = verified.problems.iter().filter(|problem| !problem.is_repaired()).count() as u64;
    println!(
        "{}",
        match (verified.problems.len() as u64, open) {
            (0, _) => "all is well".to_string(),
            (found, 0) => format!("{}, all repaired", counted(found, "problem")),
            (found, open) => format!("{}, {open} not repaired", counted(found, "problem")),
        }
    );
}

fn figures(verified: &Verified, seconds: f64) -> String {
    let share = |share: &cache::Share, what: &str| format!("{} ({})", counted(share.files, what), bytes(share.bytes));
    let parts = [
        share(&verified.blobs, "file") + " of outputs",
        share(&verified.manifests, "manifest"),
        format!("{} in {}", counted_replies(verified.replies), share(&verified.logs, "log")),
        share(&verified.records, "other record"),
    ];
    format!("{} in {}", parts.join(", "), duration(seconds))
}

fn counted_replies(replies: u64) -> String {
    if replies == 1 { "1 reply".to_string() } else { format!("{} replies", crate::report::words::thousands(replies)) }
}

fn by_pipeline(verified: &Verified) -> BTreeMap<&str, Vec<&str>> {
    let mut nodes = BTreeMap::<&str, Vec<&str>>::new();
    for (pipeline, node) in &verified.lost {
        nodes.entry(pipeline).or_default().push(node);
    }
    nodes
}
