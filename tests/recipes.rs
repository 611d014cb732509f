//! Wrong recipes, one kind of mistake each and some with many: `tests/recipes/NAME.yaml` with, beside it in `NAME.txt`, the whole
//! screen that `decoct check` answers with. `DECOCT_BLESS=1` writes these screens anew; what a recipe's first lines say cannot be
//! blessed: its `# code:`, each `# hint:` that must be given, how many `# mistakes:` there are (1), `# arguments:` of the command.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::Kitchen;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recipes")
}

/// A recipe and what its first lines say.
struct Wrong {
    name: String,
    code: Option<String>,
    hints: Vec<String>,
    mistakes: usize,
    arguments: Vec<String>,
}

impl Wrong {
    fn all() -> Vec<Wrong> {
        let entries =
            std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.filter(|name| name.ends_with(".yaml")).collect();
        names.sort();
        names.iter().map(|name| Wrong::read(name.trim_end_matches(".yaml"))).collect()
    }

    /// A folder that is called like a recipe has no first lines.
    fn read(name: &str) -> Wrong {
        let bytes = std::fs::read(folder().join(format!("{name}.yaml"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let said = |word: &str| -> Vec<String> {
            let lines = text.lines().take_while(|line| line.starts_with("# "));
            lines.filter_map(|line| line.strip_prefix(&format!("# {word}: ")).map(str::to_string)).collect()
        };
        Wrong {
            name: name.to_string(),
            code: said("code").pop().filter(|code| code != "many"),
            hints: said("hint"),
            mistakes: said("mistakes").first().map_or(1, |count| count.parse().unwrap()),
            arguments: said("arguments").iter().flat_map(|line| line.split(' ')).map(str::to_string).collect(),
        }
    }

    fn check(&self, kitchen: &Kitchen, more: &[&str]) -> std::process::Output {
        let recipe = format!("{}.yaml", self.name);
        let arguments = self.arguments.iter().map(String::as_str);
        let output = kitchen
            .decoct(&["check", &recipe].into_iter().chain(arguments).chain(more.iter().copied()).collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        output
    }

    fn screen(&self, kitchen: &Kitchen) -> String {
        let output = self.check(kitchen, &[]);
        assert!(output.stdout.is_empty(), "{}", self.name);
        let screen = String::from_utf8(output.stderr).unwrap();
        screen.lines().map(|line| line.trim_end().to_string() + "\n").collect()
    }

    fn diagnostics(&self, kitchen: &Kitchen) -> Vec<Value> {
        let text = String::from_utf8(self.check(kitchen, &["--format", "json"]).stdout).unwrap();
        let mut events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events.pop().unwrap()["ok"], false, "{}", self.name);
        events
    }
}

fn kitchen() -> Kitchen {
    Kitchen::copy_of(&folder())
}

#[test]
fn every_screen_is_as_it_was_reviewed() {
    let kitchen = kitchen();
    let bless = std::env::var_os("DECOCT_BLESS").is_some();
    let mut changed = Vec::new();
    for wrong in Wrong::all() {
        let (screen, expected) = (wrong.screen(&kitchen), folder().join(format!("{}.txt", wrong.name)));
        if bless {
            std::fs::write(expected, screen).unwrap();
        } else if std::fs::read_to_string(expected).unwrap_or_default() != screen {
            changed.push(format!("{}:\n{screen}", wrong.name));
        }
    }
    assert!(changed.is_empty(), "review these, then write them with DECOCT_BLESS=1:\n{}", changed.join("\n"));
}

#[test]
fn every_recipe_has_its_kind_of_mistake_and_the_right_hints() {
    let kitchen = kitchen();
    let all = Wrong::all();
    assert!(all.iter().filter(|wrong| wrong.mistakes == 1).count() >= 60);
    assert!(all.iter().filter(|wrong| wrong.mistakes > 2).count() >= 10);
    for wrong in all {
        let found = wrong.diagnostics(&kitchen);
        let shown = format!("{}: {found:#?}", wrong.name);
        assert_eq!(found.len(), wrong.mistakes, "{shown}");
        let hints: BTreeSet<&str> = found.iter().filter_map(|one| one["hint"].as_str()).collect();
        let near: BTreeSet<&str> = hints.into_iter().filter(|hint| hint.starts_with("did you mean")).collect();
        assert_eq!(near, wrong.hints.iter().map(String::as_str).collect(), "{shown}");
        if let Some(code) = &wrong.code {
            assert!(found.iter().all(|one| one["code"] == code.as_str()), "{shown}");
        }
        assert!(found.iter().all(|one| one["file"].is_string()), "{shown}");
    }
}

/// `(code, meaning)`, as `decoct check --codes` prints them.
fn codes() -> Vec<(String, String)> {
    let table = kitchen().says(&["check", "--codes"]);
    let pair = |line: &str| line.split_once("  ").map(|(code, meaning)| (code.to_string(), meaning.trim().to_string()));
    table.lines().map(|line| pair(line).unwrap_or_else(|| panic!("no meaning: {line}"))).collect()
}

#[test]
fn every_code_is_in_the_table_once_and_shown_by_a_recipe() {
    let table: Vec<String> = codes().into_iter().map(|(code, _)| code).collect();
    let known: BTreeSet<&str> = table.iter().map(String::as_str).collect();
    assert_eq!(known.len(), table.len(), "a code stands twice");
    let kitchen = kitchen();
    let found: Vec<Value> = Wrong::all().iter().flat_map(|wrong| wrong.diagnostics(&kitchen)).collect();
    let shown: BTreeSet<&str> = found.iter().map(|one| one["code"].as_str().unwrap()).collect();
    assert_eq!(shown.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "not in the table");
    // Whoever runs tests may be allowed to read everything.
    let not_shown: Vec<&&str> = known.difference(&shown).filter(|code| **code != "unreadable-file").collect();
    assert_eq!(not_shown, Vec::<&&str>::new(), "no recipe shows it");
}

/// The first word of every call that makes a mistake, in the sources of two rooms.
#[test]
fn no_source_makes_a_mistake_without_a_code_of_the_table() {
    let known: BTreeSet<String> = codes().into_iter().map(|(code, _)| code).collect();
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut looked_at = 0;
    for file in ["engine/src", "stages/src"].iter().flat_map(|room| kitchen::files_below(&house.join(room))) {
        let text = std::fs::read_to_string(&file).unwrap();
        for call in ["mistake(", "mistake_in(", "Diagnostic::error("] {
            for after in text.split(call).skip(1) {
                let Some(rest) = after.trim_start().strip_prefix('"') else { continue };
                let code = rest.split('"').next().unwrap();
                assert!(known.contains(code), "`{code}` in {} is missing in the table", file.display());
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 50, "the calls are written differently now: {looked_at}");
}

#[test]
fn a_chosen_profile_is_told_where_it_stands_and_so_is_a_setting() {
    let kitchen = kitchen();
    let place = |name: &str| {
        let found = Wrong::read(name).diagnostics(&kitchen);
        let (file, line, column) = (found[0]["file"].clone(), found[0]["line"].clone(), found[0]["column"].clone());
        (file.as_str().unwrap().to_string(), line.as_u64().unwrap(), column.as_u64().unwrap())
    };
    assert_eq!(place("profile_chosen"), ("profile_chosen.yaml".to_string(), 12, 22));
    assert_eq!(place("set_wrong_value"), ("--set".to_string(), 1, 18));
    assert_eq!(place("prompt_unknown_variable"), ("prompts/variable.md".to_string(), 3, 4));
    assert_eq!(place("anchor_once"), ("anchor_once.yaml".to_string(), 6, 42));
}
