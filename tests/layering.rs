//! The house's promise about its rooms: these arrows and no others. A new arrow changes the table below in a commit of its own, with the reason.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOMS: &[&str] = &["cache", "kernels", "stages", "engine"];
const ARROWS: &[(&str, &str)] = &[("stages", "kernels"), ("engine", "stages"), ("engine", "cache")];

/// Crates that only some rooms may name, because only they know what the crate is about.
const RESERVED: &[(&str, &[&str])] = &[
    ("serde-saphyr", &["engine"]),
    ("petgraph", &["engine"]),
    ("clap", &["engine"]),
    ("annotate-snippets", &["engine"]),
    ("minijinja", &["stages"]),
    // The cache names it without using it: to switch on the TLS of object_store.
    ("reqwest", &["stages", "cache"]),
    ("hyper", &["stages"]),
    ("hyper-util", &["stages"]),
    ("tokenizers", &["stages"]),
    ("safetensors", &["stages"]),
    ("cudarc", &["kernels"]),
];

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in the house").to_path_buf()
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--offline", "--no-deps", "--format-version", "1"];
    let output = Command::new(cargo).args(arguments).current_dir(house()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    metadata["packages"].as_array().expect("a workspace has packages").clone()
}

/// (room, name of what it depends on), development dependencies included.
fn dependencies() -> BTreeSet<(String, String)> {
    let packages = packages();
    let text = |value: &Value| value.as_str().expect("names are text").to_string();
    let of = |package: &Value| {
        // What tests and benches stand beside (`kind: dev`) is no part of a room.
        let shipped = package["dependencies"].as_array().expect("a list").iter().filter(|one| one["kind"] != "dev");
        let names = shipped.map(|one| text(&one["name"]));
        names.map(|name| (text(&package["name"]), name)).collect::<Vec<_>>()
    };
    packages.iter().flat_map(of).collect()
}

#[test]
fn rooms_are_joined_by_the_listed_arrows_and_no_others() {
    let rooms: BTreeSet<String> =
        packages().iter().map(|package| package["name"].as_str().unwrap().to_string()).collect();
    assert_eq!(rooms, ROOMS.iter().map(|room| room.to_string()).collect());
    let found: BTreeSet<(String, String)> =
        dependencies().into_iter().filter(|(_, to)| ROOMS.contains(&to.as_str())).collect();
    let promised = ARROWS.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect();
    assert_eq!(found, promised);
}

#[test]
fn crates_are_named_only_where_their_subject_belongs() {
    for (room, name) in dependencies() {
        let reserved = RESERVED.iter().find(|(reserved, _)| *reserved == name);
        let allowed = reserved.is_none_or(|(_, rooms)| rooms.contains(&room.as_str()));
        assert!(allowed, "`{room}` names `{name}`, which belongs to {:?}", reserved.unwrap().1);
    }
}

#[test]
fn only_the_engine_prints() {
    let printing = ["println!", "print!", "eprintln!", "eprint!", "dbg!", "io::stdout()", "io::stderr()"];
    for room in ROOMS.iter().filter(|room| **room != "engine") {
        for file in sources(&house().join(room).join("src")) {
            let text = std::fs::read_to_string(&file).expect("sources are text");
            // Tests may print; they stand at the end of a file.
            let work = text.split("#[cfg(test)]").next().unwrap_or_default();
            let found = printing.iter().find(|word| work.contains(*word));
            assert_eq!(found, None, "{} prints", file.display());
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a room has sources").map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    below.filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}
