//! A temporary folder with a recipe, its data and a store of its own, and the built program to run in it.

#![allow(dead_code, reason = "each test file uses its own share of this")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub struct Kitchen {
    folder: tempfile::TempDir,
}

/// What one `decoct run --format json` came to.
pub struct Run {
    pub exit: i32,
    pub nodes: Vec<Value>,
    pub events: Vec<Value>,
    pub told: String,
}

impl Kitchen {
    /// With `recipe.yaml` as given.
    pub fn new(recipe: &str) -> Kitchen {
        let kitchen = Kitchen { folder: tempfile::tempdir().unwrap() };
        kitchen.write("recipe.yaml", recipe);
        kitchen
    }

    /// With a copy of everything in `folder`, a `recipe.yaml` among it.
    pub fn copy_of(folder: &Path) -> Kitchen {
        let kitchen = Kitchen { folder: tempfile::tempdir().unwrap() };
        for file in files_below(folder) {
            let target = kitchen.folder.path().join(file.strip_prefix(folder).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(&file, &target).unwrap();
        }
        kitchen
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces a piece of text in a file, which must hold it.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "`{name}` does not hold `{from}`");
        self.write(name, &text.replace(from, to));
    }

    /// Ready to be started, and nothing of the caller's environment in it that matters.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_decoct"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("DECOCT_CACHE", self.store())
            .env("DECOCT_CONFIG", self.path("config"));
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn decoct(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What stdout said; the command must succeed.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.decoct(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn run(&self, more: &[&str]) -> Run {
        let arguments = [&["run", "recipe.yaml", "--format", "json"], more].concat();
        Run::of(&self.decoct(&arguments))
    }

    /// `node:state` in order, as `plan` sees it.
    pub fn plan(&self, more: &[&str]) -> String {
        let text = self.says(&[&["plan", "recipe.yaml", "--format", "json"], more].concat());
        states(serde_json::from_str::<Value>(&text).unwrap()["nodes"].as_array().unwrap())
    }

    /// Every stored output file.
    pub fn blobs(&self) -> Vec<PathBuf> {
        files_below(&self.store().join("cas"))
    }

    /// Everything the program wrote.
    pub fn files(&self) -> Vec<PathBuf> {
        files_below(&self.store())
    }

    /// Files that nodes in progress have put aside for their next start.
    pub fn scratch_files(&self) -> Vec<PathBuf> {
        files_below(&self.store().join("scratch"))
    }
}

impl Run {
    pub fn of(output: &Output) -> Run {
        let text = String::from_utf8_lossy(&output.stdout);
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let finished = events.last().filter(|event| event["event"] == "finished");
        let nodes = finished.and_then(|event| event["nodes"].as_array()).cloned().unwrap_or_default();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        Run { exit: output.status.code().unwrap_or(-1), nodes, events, told }
    }

    /// `node:state` in order.
    pub fn states(&self) -> String {
        states(&self.nodes)
    }

    pub fn node(&self, name: &str) -> &Value {
        self.nodes.iter().find(|node| node["node"] == name).unwrap_or_else(|| panic!("no node `{name}`: {}", self.told))
    }

    /// `node:content hash` in order.
    pub fn outputs(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("{}:{}", node["node"], node["output"])).collect()
    }

    pub fn total(&self, figure: &str) -> u64 {
        self.nodes.iter().map(|node| node[figure].as_u64().unwrap_or(0)).sum()
    }

    /// The run must have ended well.
    pub fn expect_done(self) -> Run {
        assert_eq!(self.exit, 0, "{}\n{:?}", self.told, self.events.last());
        self
    }
}

fn states(nodes: &[Value]) -> String {
    let state = |node: &Value| format!("{}:{}", node["node"].as_str().unwrap(), node["state"].as_str().unwrap());
    nodes.iter().map(state).collect::<Vec<_>>().join(" ")
}

pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Exam questions, all different, as JSONL.
pub fn questions(count: usize) -> String {
    let line = |row: usize| {
        format!("{{\"question\": \"how much is {row} plus {}?\", \"answer\": {}}}\n", row + 7, 2 * row + 7)
    };
    (0..count).map(line).collect()
}
