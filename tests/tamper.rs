//! Whatever happens to a file of a store, a run ends with the right content: damage is noticed, dropped and made again.

#[path = "support/kitchen.rs"]
mod kitchen;

use cache::{Found, Manifest, Output, Placement, Store};
use kitchen::{Kitchen, Run, questions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

const RECIPE: &str = "\
version: 1
params: { seed: 7 }
models:
  teacher: { provider: rehearsal }
nodes:
  exam:     { kind: source, generate: tablets, rows: 12 }
  problems: { kind: reformat, input: exam, model: teacher }
  chains:   { kind: cot, input: problems, model: teacher }
  student:  { kind: sft, input: chains, response: conclusion, tokens: 3000, checkpoint_every: 1,
              base: { architecture: qwen2, layers: 1, hidden: 8, heads: 2, kv_heads: 1, ffn: 8, tokenizer: { train: words, size: 300 } } }
  left:     { kind: source, path: left.jsonl }
  right:    { kind: source, path: right.jsonl }
  both:     { kind: mix, inputs: [left, right] }
";
const ASKING: [&str; 2] = ["problems", "chains"];

/// A finished run that nothing disturbed.
struct Cooked {
    kitchen: Kitchen,
    outputs: Vec<String>,
    contents: Contents,
}

static COOKED: LazyLock<Cooked> = LazyLock::new(|| cook("seed: 7"));
/// Valid files of the same kinds, from other work.
static FOREIGN: LazyLock<Cooked> = LazyLock::new(|| cook("seed: 8"));

fn kitchen(seed: &str) -> Kitchen {
    let kitchen = Kitchen::new(&RECIPE.replace("seed: 7", seed));
    kitchen.write("left.jsonl", &questions(3));
    kitchen.write("right.jsonl", &questions(5));
    kitchen
}

fn cook(seed: &str) -> Cooked {
    let kitchen = kitchen(seed);
    // A source is remembered by its time stamps only when it has rested.
    std::thread::sleep(Duration::from_millis(2_100));
    // In steps, so that there are several logs of replies.
    for node in ASKING {
        kitchen.run(&["--until", node]).expect_done();
    }
    let outputs = kitchen.run(&[]).expect_done().outputs();
    for (name, node) in [("early", "problems"), ("late", "both")] {
        kitchen.says(&["cache", "pin", "recipe.yaml", "--name", name, "--until", node]);
    }
    let contents = Contents::of(&kitchen.store());
    assert_eq!((contents.damaged, contents.read.len() > 10), (0, true));
    Cooked { kitchen, outputs, contents }
}

/// What can be read from a store, verified as every reader's is: rows by the hash of their values, models by their bytes.
#[derive(Default)]
struct Contents {
    read: BTreeMap<String, Vec<u8>>,
    damaged: usize,
}

impl Contents {
    fn of(root: &Path) -> Contents {
        let (store, mut contents) = (Store::open(root).unwrap(), Contents::default());
        for key in store.keys().unwrap() {
            match store.lookup(&key).unwrap() {
                Found::Intact(manifest) => contents.add(&store, &manifest),
                Found::Missing => {}
                Found::Damaged(_) => contents.damaged += 1,
            }
        }
        contents
    }

    fn add(&mut self, store: &Store, manifest: &Manifest) {
        for (name, output) in &manifest.outputs {
            let label = format!("{} {name}", manifest.key);
            let is_read = match output {
                Output::Rows { .. } => self.add_rows(store, manifest, name, label),
                Output::Tree { .. } => self.add_tree(store, manifest, name, &label),
            };
            self.damaged += usize::from(!is_read);
        }
    }

    fn add_rows(&mut self, store: &Store, manifest: &Manifest, name: &str, label: String) -> bool {
        let Some(table) = store.open_rows(manifest, name).unwrap().intact() else { return false };
        self.read.insert(label, table.content().unwrap().as_bytes().to_vec());
        true
    }

    fn add_tree(&mut self, store: &Store, manifest: &Manifest, name: &str, label: &str) -> bool {
        let Some(Output::Tree { files, .. }) = manifest.output(name) else { unreachable!() };
        let folder = tempfile::tempdir().unwrap();
        let placed = store.materialise(manifest, name, folder.path(), Placement::Copy).unwrap();
        for file in files.iter().filter(|file| placed == Found::Intact(()) && !file.provenance) {
            self.read.insert(format!("{label} {}", file.path), std::fs::read(folder.path().join(&file.path)).unwrap());
        }
        placed == Found::Intact(())
    }
}

/// What can happen to a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    FlippedAtFirst,
    FlippedInTheMiddle,
    FlippedAtLast,
    Truncated,
    Emptied,
    Grown,
    Removed,
    /// Two files of the kind change places.
    Swapped,
    /// A valid one of the same kind, from another store.
    Replaced,
}

use Harm::*;

const HARMS: [Harm; 9] =
    [FlippedAtFirst, FlippedInTheMiddle, FlippedAtLast, Truncated, Emptied, Grown, Removed, Swapped, Replaced];

/// The store of a case of its own.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new(store: &Path) -> Bench {
        let bench = Bench(tempfile::tempdir().unwrap());
        for (name, bytes) in files_in(store) {
            let path = bench.path(&name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        bench
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(name)).unwrap();
        change(&mut bytes);
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Whether there was something to do.
    fn harm(&self, name: &str, harm: Harm, siblings: &[String], foreign: Option<&Vec<u8>>) -> bool {
        let other = siblings.iter().find(|other| *other != name);
        match harm {
            FlippedAtFirst => self.edit(name, |bytes| bytes[0] ^= 1),
            FlippedInTheMiddle => self.edit(name, |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }),
            FlippedAtLast => self.edit(name, |bytes| *bytes.last_mut().unwrap() ^= 1),
            Truncated => self.edit(name, |bytes| bytes.truncate(bytes.len() - bytes.len() / 3 - 1)),
            Emptied => self.edit(name, Vec::clear),
            Grown => self.edit(name, |bytes| bytes.extend_from_within(..)),
            Removed => std::fs::remove_file(self.path(name)).unwrap(),
            Swapped => {
                let Some(other) = other else { return false };
                let theirs = std::fs::read(self.path(other)).unwrap();
                self.edit(other, |bytes| *bytes = std::fs::read(self.path(name)).unwrap());
                self.edit(name, |bytes| *bytes = theirs);
            }
            Replaced => {
                let Some(foreign) = foreign else { return false };
                self.edit(name, |bytes| bytes.clone_from(foreign));
            }
        }
        true
    }

    fn run(&self) -> Run {
        COOKED.kitchen.run(&["--cache", self.root().to_str().unwrap()])
    }

    /// Exit code and all that was told.
    fn decoct(&self, arguments: &[&str]) -> (i32, String) {
        let output = COOKED.kitchen.decoct(&[arguments, &["--cache", self.root().to_str().unwrap()]].concat());
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }
}

/// Every file below `folder` by its path there, with its bytes.
fn files_in(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            files.extend(files_in(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
    files
}

/// Names of files that begin and end like this, at most `most` of them, from all over the list.
fn chosen(store: &Path, begin: &str, end: &str, most: usize) -> Vec<String> {
    let is_meant = |name: &String| name.starts_with(begin) && name.ends_with(end);
    let names: Vec<String> = files_in(store).into_keys().filter(is_meant).collect();
    let step = names.len().div_ceil(most).max(1);
    names.into_iter().step_by(step).collect()
}

/// Does every harm to files of a kind, each to a fresh copy of `store`, and hands the copy to `check`.
fn for_each_harm(store: &Path, foreign: &Path, begin: &str, end: &str, check: impl Fn(&Bench, Harm, &str)) {
    let names = chosen(store, begin, end, 3);
    assert!(!names.is_empty(), "a store without `{begin}…{end}`");
    let strange = chosen(foreign, begin, end, 1).pop().map(|name| std::fs::read(foreign.join(name)).unwrap());
    for name in &names {
        for harm in HARMS {
            let bench = Bench::new(store);
            if bench.harm(name, harm, &names, strange.as_ref()) {
                check(&bench, harm, &format!("{name}, {harm:?}"));
            }
        }
    }
}

fn for_each_harm_to(begin: &str, end: &str, check: impl Fn(&Bench, Harm, &str)) {
    for_each_harm(&COOKED.kitchen.store(), &FOREIGN.kitchen.store(), begin, end, check);
}

/// A run ends well with the undisturbed content; how much damage came to light after it.
fn expect_right(bench: &Bench, story: &str) -> (Run, usize) {
    let run = bench.run();
    assert_eq!(run.exit, 0, "{story}: {}\n{:?}", run.told, run.events.last());
    assert_eq!(run.outputs(), COOKED.outputs, "{story}");
    let found = Contents::of(bench.root());
    let mut wrong = found.read.iter().filter(|(name, bytes)| COOKED.contents.read.get(*name) != Some(bytes));
    assert!(wrong.next().is_none(), "{story}: wrong bytes");
    (run, found.damaged)
}

/// The same, and in the end everything is there again.
fn expect_recovery(bench: &Bench, story: &str) -> (Run, usize) {
    let (run, damaged) = expect_right(bench, story);
    if damaged > 0 {
        assert_eq!(expect_right(bench, story).1, 0, "{story}: not mended");
    }
    assert_eq!(Contents::of(bench.root()).read.len(), COOKED.contents.read.len(), "{story}: something is missing");
    (run, damaged)
}

#[test]
fn harm_to_a_stored_output_never_gives_wrong_rows_or_weights() {
    for_each_harm_to("cas/", "", |bench, _, story| {
        let (run, damaged) = expect_recovery(bench, story);
        let is_noticed = damaged > 0 || run.states() != all_hit();
        assert!(is_noticed, "{story}: not noticed\n{}", run.told);
    });
}

#[test]
fn harm_to_a_manifest_is_a_miss_and_told() {
    for_each_harm_to("ac/", "", |bench, harm, story| {
        let (run, _) = expect_recovery(bench, story);
        assert_ne!(run.states(), all_hit(), "{story}");
        let warned = run.events.iter().any(|event| event.to_string().contains("was dropped"));
        assert_eq!(warned, harm != Removed, "{story}: {:?}", run.events);
    });
}

fn all_hit() -> String {
    COOKED
        .outputs
        .iter()
        .map(|output| format!("{}:hit", output.split(':').next().unwrap().trim_matches('"')))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Results are taken away, so that every reply is asked for.
fn without_results(bench: &Bench) -> &Bench {
    for folder in ["ac", "cas"] {
        std::fs::remove_dir_all(bench.path(folder)).unwrap();
    }
    bench
}

#[test]
fn harm_to_a_log_of_replies_costs_replies_and_never_gives_a_wrong_one() {
    let undisturbed = Bench::new(&COOKED.kitchen.store());
    assert_eq!(expect_recovery(without_results(&undisturbed), "undisturbed").0.total("calls"), 0);
    for_each_harm_to("replies/", ".log", |bench, harm, story| {
        let calls = expect_recovery(without_results(bench), story).0.total("calls");
        match harm {
            FlippedInTheMiddle | FlippedAtLast => assert_eq!(calls, 1, "{story}"),
            // The header is no reply, twice the same replies are the same, and so are logs under other names.
            FlippedAtFirst | Grown | Swapped => assert_eq!(calls, 0, "{story}"),
            Truncated | Emptied | Removed | Replaced => assert!(calls > 1, "{story}: {calls}"),
        }
    });
}

#[test]
fn harm_to_an_index_of_replies_costs_nothing() {
    for_each_harm_to("replies/", ".idx", |bench, harm, story| {
        let calls = expect_recovery(without_results(bench), story).0.total("calls");
        // An index of a log of the same size is believed until the first reply is not where it says.
        assert!(calls == 0 || matches!(harm, Swapped | Replaced), "{story}: {calls}");
    });
}

#[test]
fn harm_to_records_that_only_explain_changes_no_result() {
    for (begin, end) in [("history/", ""), ("runs/", ""), ("stat.json", "")] {
        for_each_harm_to(begin, end, |bench, _, story| {
            let (run, damaged) = expect_recovery(bench, story);
            assert_eq!((run.states(), damaged), (all_hit(), 0), "{story}");
            let (exit, told) = bench.decoct(&["plan", "recipe.yaml"]);
            assert_eq!(exit, 0, "{story}: {told}");
        });
    }
}

/// The disaster: a pin that cannot be read is taken for none, and a sweep takes what it kept.
#[test]
fn harm_to_a_pin_stops_every_sweep_and_no_run() {
    for_each_harm_to("pins/", ".json", |bench, harm, story| {
        let before = files_in(bench.root());
        for arguments in [&["cache", "pin", "--list"][..], &["cache", "sweep", "--yes", "--grace", "0s"]] {
            let (exit, told) = bench.decoct(arguments);
            // Without the file there is no pin, and one that was sealed under this name is one.
            let may_pass = matches!(harm, Removed | Replaced);
            assert!(exit == 4 || exit == 0 && may_pass, "{story}, {arguments:?}: {exit} {told}");
            assert!(exit == 0 || told.contains("decoct cache pin"), "{story}: {told}");
            assert!(exit == 0 || files_in(bench.root()) == before, "{story}: swept");
        }
        expect_recovery(bench, story);
    });
}

/// The disaster: one source's hash under another's name, and the rows of the wrong file.
#[test]
fn hashes_that_changed_places_in_the_stat_cache_are_not_believed() {
    let bench = Bench::new(&COOKED.kitchen.store());
    let text = std::fs::read_to_string(bench.path("stat.json")).unwrap();
    let is_hash = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hashes = ["left.jsonl", "right.jsonl"].map(|name| blake3_of(&COOKED.kitchen.path(name)));
    assert!(hashes.iter().all(|hash| text.split('"').filter(is_hash).any(|word| word == hash)), "{text}");
    let swapped = text.replace(&hashes[0], "?").replace(&hashes[1], &hashes[0]).replace('?', &hashes[1]);
    std::fs::write(bench.path("stat.json"), swapped).unwrap();
    assert_eq!(expect_recovery(&bench, "swapped").0.states(), all_hit());
}

fn blake3_of(path: &Path) -> String {
    cache::source_hash(path, None).unwrap().to_string()
}

#[test]
fn a_store_that_cannot_be_understood_is_refused_and_left_alone() {
    for_each_harm_to("format", "", |bench, harm, story| {
        let before = files_in(bench.root());
        let run = bench.run();
        match harm {
            // Made anew, as for any folder that is no store yet; the same mark; or the same and a line for people.
            Removed | Replaced | Grown => assert_eq!((run.exit, run.outputs()), (0, COOKED.outputs.clone()), "{story}"),
            _ => {
                assert_eq!(run.exit, 4, "{story}: {}", run.told);
                assert!(run.told.contains("format") && run.told.contains("help"), "{story}: {}", run.told);
                assert_eq!(files_in(bench.root()), before, "{story}");
            }
        }
    });
}

/// A store whose training was killed when it had left two checkpoints.
fn killed_in_training(seed: &str) -> Kitchen {
    let kitchen = kitchen(seed);
    kitchen.edit("recipe.yaml", "tokens: 3000", "tokens: 100000");
    let mut run = kitchen.command(&["run", "recipe.yaml", "--until", "student"]).spawn().unwrap();
    let checkpoints =
        || kitchen.scratch_files().iter().filter(|path| path.extension().is_some_and(|it| it == "checkpoint")).count();
    while checkpoints() < 2 {
        assert!(run.try_wait().unwrap().is_none(), "the training ended before it could be killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    kitchen
}

#[test]
fn harm_to_a_checkpoint_never_changes_the_trained_model() {
    let (killed, foreign) = (killed_in_training("seed: 7"), killed_in_training("seed: 8"));
    let finish = |bench: &Bench| {
        killed.run(&["--until", "student", "--cache", bench.root().to_str().unwrap()]).expect_done().outputs()
    };
    let undisturbed = kitchen("seed: 7");
    undisturbed.edit("recipe.yaml", "tokens: 3000", "tokens: 100000");
    let expected = undisturbed.run(&["--until", "student"]).expect_done().outputs();
    assert_eq!(finish(&Bench::new(&killed.store())), expected, "resumed");
    for_each_harm(&killed.store(), &foreign.store(), "scratch/", ".checkpoint", |bench, _, story| {
        assert_eq!(finish(bench), expected, "{story}");
    });
    // What a killed process has left where the model will be written is no part of the model.
    let bench = Bench::new(&killed.store());
    let checkpoint = bench.path(&chosen(&killed.store(), "scratch/", ".checkpoint", 1)[0]);
    let work = checkpoint.parent().unwrap().parent().unwrap();
    for folder in ["model", "base"] {
        let folder = work.join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), "{").unwrap();
        std::fs::write(folder.join("leftover.safetensors"), "not of this model").unwrap();
    }
    assert_eq!(finish(&bench), expected, "leftovers");
}
