//! A kind whose output changes must raise its `version`: else finished work made by the old program is served as the new one's.
//! `every_kind/golden.txt` holds, for a small recipe with every kind, each node's key and what came out of it.
//!
//! The version is part of the key, so the rule is exact: the same key must give the same content for ever. What training and
//! evaluation compute has the same bits on one instruction set only; their lines name it, and on a set that has no lines yet
//! only the others are compared.

#[path = "support/kitchen.rs"]
mod kitchen;

use cache::{Found, Store};
use kitchen::Kitchen;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Kinds that compute: their bits belong to an instruction set.
const COMPUTED: &[&str] = &["sft", "ppo", "grpo", "rloo", "dpo", "eval"];
const HEAD: &str = "# node | kind | version | instruction set | key | output = content …; written by UPDATE_GOLDEN=1, see tests/golden.rs\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/every_kind")
}

/// What one node gave.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    kind: String,
    version: String,
    key: String,
    outputs: String,
}

/// By node and instruction set.
type Table = BTreeMap<(String, String), Line>;

fn written(table: &Table) -> String {
    let line = |((node, set), line): (&(String, String), &Line)| {
        format!("{node} | {} | {} | {set} | {} | {}\n", line.kind, line.version, line.key, line.outputs)
    };
    HEAD.to_string() + &table.iter().map(line).collect::<String>()
}

fn read(text: &str) -> Table {
    let line = |line: &str| {
        let fields: Vec<String> = line.split(" | ").map(str::to_string).collect();
        let [node, kind, version, set, key, outputs] =
            fields.try_into().unwrap_or_else(|_| panic!("golden.txt: {line}"));
        ((node, set), Line { kind, version, key, outputs })
    };
    text.lines().filter(|text| !text.starts_with('#')).map(line).collect()
}

/// As `kernels` chooses it.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let has_wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let has_wide = has_wide && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl");
        match (has_avx2, has_wide) {
            (true, true) => "x86-64 avx512",
            (true, false) => "x86-64 avx2",
            _ => "x86-64",
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH
}

/// Cooks the recipe, and reads from the store what every node was and gave.
fn cooked() -> Table {
    let kitchen = Kitchen::copy_of(&folder());
    let run = kitchen.run(&["--device", "cpu"]).expect_done();
    let store = Store::open(&kitchen.store()).unwrap();
    let line = |node: &serde_json::Value| {
        let name = node["node"].as_str().unwrap();
        let key = store.history("recipe", name).last().expect("it has just run").key;
        let Ok(Found::Intact(manifest)) = store.lookup(&key) else { panic!("`{name}` is not in the store") };
        let kind = manifest.provenance.kind.clone();
        let outputs = manifest.outputs.iter().map(|(output, value)| format!("{output} = {}", value.content()));
        let set = if COMPUTED.contains(&kind.as_str()) { instruction_set() } else { "any" };
        let version = manifest.preimage.get("version").expect("a key holds the version").to_string();
        let outputs = outputs.collect::<Vec<_>>().join(", ").trim().to_string();
        ((name.to_string(), set.to_string()), Line { kind, version, key: key.to_string(), outputs })
    };
    run.nodes.iter().map(line).collect()
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Same,
    /// Another key: no finished work is mistaken for it, the table may follow.
    Moved,
    /// The same key, another content: old work would be served as new.
    Broken,
}

fn verdict(old: Option<&Line>, new: &Line) -> Verdict {
    match old {
        Some(old) if old == new => Verdict::Same,
        Some(old) if old.key == new.key => Verdict::Broken,
        _ => Verdict::Moved,
    }
}

#[test]
fn a_kind_that_gives_something_else_has_raised_its_version() {
    let path = folder().join("golden.txt");
    let (mut golden, new) = (read(&std::fs::read_to_string(&path).unwrap_or_default()), cooked());
    let by =
        |wanted: Verdict| new.iter().filter(|(at, line)| verdict(golden.get(*at), line) == wanted).collect::<Vec<_>>();
    let broken: Vec<String> = by(Verdict::Broken)
        .iter()
        .map(|((node, _), line)| format!("`{node}`: raise `version` of kind `{}` from {}", line.kind, line.version))
        .collect();
    assert!(
        broken.is_empty(),
        "the same key gives another content:\n  {}\n(or undo the change; what a rehearsal says has its own VERSION). \
         Then `UPDATE_GOLDEN=1 cargo test --release --test golden` writes the new hashes",
        broken.join("\n  ")
    );
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let is_ours = |set: &str| set == "any" || set == instruction_set();
        golden.retain(|(node, set), _| !is_ours(set) && new.keys().any(|(name, _)| name == node));
        golden.extend(new);
        return std::fs::write(&path, written(&golden)).unwrap();
    }
    let knows = |wanted: &str| golden.keys().any(|(_, set)| set == wanted);
    let moved = by(Verdict::Moved).into_iter().filter(|((_, set), _)| knows(set));
    let moved: Vec<String> =
        moved.map(|((node, _), line)| format!("`{node}` ({}, version {})", line.kind, line.version)).collect();
    assert!(
        moved.is_empty(),
        "other keys than in golden.txt: {}\nif that is meant, `UPDATE_GOLDEN=1 cargo test --release --test golden` writes them",
        moved.join(", ")
    );
    if !knows(instruction_set()) {
        eprintln!("golden.txt has no line for `{}`: what is computed was not compared", instruction_set());
    }
}

#[test]
fn no_kind_is_left_out() {
    let recipe = std::fs::read_to_string(folder().join("recipe.yaml")).unwrap();
    let golden = read(&std::fs::read_to_string(folder().join("golden.txt")).unwrap());
    for kind in stages::registry::KINDS {
        assert!(
            recipe.contains(&format!("kind: {},", kind.name)),
            "`{}` is missing in every_kind/recipe.yaml",
            kind.name
        );
        assert!(golden.values().any(|line| line.kind == kind.name), "`{}` is missing in golden.txt", kind.name);
    }
}

#[test]
fn a_new_hash_needs_a_new_key() {
    let line = |version: &str, key: &str, outputs: &str| Line {
        kind: "cot".into(),
        version: version.into(),
        key: key.into(),
        outputs: outputs.into(),
    };
    let old = line("1", "a", "= x");
    let check = |new: Line, expected: Verdict| assert_eq!(verdict(Some(&old), &new), expected, "{new:?}");
    check(line("1", "a", "= x"), Verdict::Same);
    check(line("1", "a", "= y"), Verdict::Broken);
    check(line("2", "b", "= y"), Verdict::Moved);
    check(line("2", "b", "= x"), Verdict::Moved);
    assert_eq!(verdict(None, &old), Verdict::Moved);
    let table = Table::from([(("chains".to_string(), "any".to_string()), old.clone())]);
    assert_eq!(read(&written(&table)), table);
}
