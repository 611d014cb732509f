//! A run with nothing to do goes by what an earlier one found out: the same words, and never after anything has changed.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, questions};
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Longer than the tick of any file system's clock.
const REST: Duration = Duration::from_millis(2_300);

const RECIPE: &str = "\
version: 1
params: { seed: 7 }
models: { teacher: { provider: rehearsal } }
nodes:
  exam:     { kind: source, path: exam.jsonl }
  problems: { kind: reformat, input: exam, model: teacher, prompt: own.md }
  chains:   { kind: cot, input: problems, model: teacher }
";

/// A recipe that is up to date, about which a run has noted that.
fn rested(kitchens: &[Kitchen]) {
    std::thread::sleep(REST);
    kitchens.iter().for_each(|kitchen| drop(plain(kitchen, &[])));
}

fn cooked() -> Kitchen {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.write("exam.jsonl", &questions(3));
    kitchen.write("own.md", "Turn this into an open problem.\n{{ question }}\n{{ answer }}\n");
    fs::create_dir_all(kitchen.path("recipe/prompts")).unwrap();
    plain(&kitchen, &[]);
    kitchen
}

/// What a run tells people, without how long it took; and whether it looked for itself, which leaves a record of its own.
fn plain(kitchen: &Kitchen, more: &[&str]) -> (String, bool) {
    let records = || fs::read_dir(kitchen.store().join("runs")).map_or(0, |entries| entries.count());
    let before = records();
    let output = kitchen.decoct(&[&["run", "recipe.yaml"], more].concat());
    let told = [output.stderr, output.stdout].concat();
    let told = String::from_utf8(told).unwrap();
    assert!(output.status.success(), "{told}");
    let untimed =
        told.lines().map(|line| line.rsplit_once(" · ").filter(|_| line.starts_with("done")).map_or(line, |cut| cut.0));
    (untimed.collect::<Vec<_>>().join("\n"), records() > before)
}

fn manifests(kitchen: &Kitchen) -> Vec<PathBuf> {
    kitchen.files().into_iter().filter(|path| path.starts_with(kitchen.store().join("ac"))).collect()
}

fn writable(path: &PathBuf) {
    let mut permissions = fs::metadata(path).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "a file of the test's own")]
    permissions.set_readonly(false);
    fs::set_permissions(path, permissions).unwrap();
}

fn flip(path: &PathBuf) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    writable(path);
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn what_is_told_is_what_looking_tells() {
    let kitchens = [cooked()];
    let [kitchen] = &kitchens;
    std::thread::sleep(REST);
    let looked = plain(kitchen, &[]);
    assert!(looked.1, "the first run after the last change looks");
    let recalled = plain(kitchen, &[]);
    assert_eq!(recalled, (looked.0, false));
    assert!(plain(kitchen, &["--no-stat-cache"]).1);
    assert!(plain(kitchen, &["--force", "chains"]).1);
}

#[test]
fn every_change_is_noticed() {
    type Change = fn(&Kitchen) -> Vec<&'static str>;
    let changes: [(&str, Change); 17] = [
        ("nothing", |_| vec![]),
        ("recipe", |kitchen| {
            kitchen.edit("recipe.yaml", "seed: 7", "seed: 8");
            vec![]
        }),
        ("data, of the same size and time", |kitchen| {
            let modified = fs::metadata(kitchen.path("exam.jsonl")).unwrap().modified().unwrap();
            kitchen.edit("exam.jsonl", "how much is 1", "how much is 2");
            let file = File::options().write(true).open(kitchen.path("exam.jsonl")).unwrap();
            file.set_modified(modified).unwrap();
            vec![]
        }),
        ("a row", |kitchen| {
            kitchen.write("exam.jsonl", &questions(4));
            vec![]
        }),
        ("prompt", |kitchen| {
            kitchen.edit("own.md", "open problem", "open question");
            vec![]
        }),
        ("a prompt beside the recipe where there was none", |kitchen| {
            kitchen.write("recipe/prompts/cot.md", "Think.\n{{ problem }}\n");
            vec![]
        }),
        ("a manifest gone", |kitchen| {
            fs::remove_file(&manifests(kitchen)[0]).unwrap();
            vec![]
        }),
        ("a manifest flipped", |kitchen| {
            flip(&manifests(kitchen)[1]);
            vec![]
        }),
        ("all manifests gone", |kitchen| {
            fs::remove_dir_all(kitchen.store().join("ac")).unwrap();
            vec![]
        }),
        ("all files gone", |kitchen| {
            fs::remove_dir_all(kitchen.store().join("cas")).unwrap();
            vec![]
        }),
        ("the record of the run gone", |kitchen| {
            fs::remove_dir_all(kitchen.store().join("runs")).unwrap();
            vec![]
        }),
        ("what was noted is damaged", |kitchen| {
            let noted = kitchen.files().into_iter().find(|path| path.starts_with(kitchen.store().join("current")));
            flip(&noted.unwrap());
            vec![]
        }),
        ("swept", |kitchen| {
            kitchen.says(&["cache", "sweep", "--yes", "--grace", "0s"]);
            vec![]
        }),
        ("a value set", |_| vec!["--set", "params.seed=8"]),
        ("a limit", |_| vec!["--limit", "2"]),
        ("a shorter way", |_| vec!["--until", "problems"]),
        ("another device", |_| vec!["--device", "cpu"]),
    ];
    let kitchens: Vec<Kitchen> = changes.iter().map(|_| cooked()).collect();
    rested(&kitchens);
    for ((what, change), kitchen) in changes.iter().zip(&kitchens) {
        let more = change(kitchen);
        let looks = plain(kitchen, &more).1;
        assert_eq!(looks, *what != "nothing", "{what}");
        let whole = kitchen.run(&more).expect_done();
        assert!(whole.nodes.iter().all(|node| node["state"] == "hit"), "{what}: the run before mended it");
    }
}

/// The disaster: results that are used every day by runs that only recall them are swept as unused.
#[test]
fn what_is_recalled_counts_as_used() {
    let kitchens = [cooked()];
    rested(&kitchens);
    let [kitchen] = &kitchens;
    let long_ago = SystemTime::now() - Duration::from_secs(60 * 24 * 3600);
    let records = kitchen.files().into_iter().filter(|path| path.starts_with(kitchen.store().join("runs")));
    records.for_each(|path| File::open(path).unwrap().set_modified(long_ago).unwrap());
    assert!(!plain(kitchen, &[]).1);
    let before = manifests(kitchen);
    kitchen.says(&["cache", "sweep", "--yes", "--grace", "30d"]);
    assert_eq!(manifests(kitchen), before);
}
