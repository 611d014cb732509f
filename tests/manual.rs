//! What a shell and `man` get: a completion script and pages that other programs accept, and examples that work.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn decoct(arguments: &[&str], store: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_decoct"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    command.args(arguments).current_dir(root).env("DECOCT_CACHE", store).env("DECOCT_CONFIG", store).output().unwrap()
}

fn says(arguments: &[&str]) -> String {
    let store = tempfile::tempdir().unwrap();
    let output = decoct(arguments, store.path());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a program can be started at all.
fn is_there(program: &str) -> bool {
    let started = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    started.is_ok()
}

#[test]
fn every_shell_gets_a_script_and_bash_accepts_its_own() {
    for (shell, expected) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef decoct"),
        ("fish", "complete -c decoct"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = says(&["completions", shell]);
        assert!(script.contains(expected) && script.contains("retry-marked"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decoct.bash");
    std::fs::write(&path, says(&["completions", "bash"])).unwrap();
    let read = Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(read.status.success() && read.stderr.is_empty(), "{}", String::from_utf8_lossy(&read.stderr));
    // What is offered after `decoct cache p`, as readline asks for it.
    let ask = format!(
        "source {}; COMP_WORDS=(decoct cache p); COMP_CWORD=2; _decoct decoct p cache; echo \"${{COMPREPLY[*]}}\"",
        path.display()
    );
    let offered = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&offered.stdout).trim(),
        "pin push pull",
        "{}",
        String::from_utf8_lossy(&offered.stderr)
    );
}

#[test]
fn there_is_a_page_for_every_command_and_troff_accepts_it() {
    let folder = tempfile::tempdir().unwrap();
    says(&["man", folder.path().to_str().unwrap()]);
    let mut pages: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    let names: Vec<String> =
        pages.iter().map(|page| page.file_name().unwrap().to_string_lossy().into_owned()).collect();
    for page in ["decoct.1", "decoct-run.1", "decoct-init.1", "decoct-cache-pin.1", "decoct-cache-trust-add.1"] {
        assert!(names.iter().any(|name| name == page), "{page} is not among {names:?}");
    }
    assert_eq!(
        std::fs::read_to_string(&pages[names.iter().position(|name| name == "decoct.1").unwrap()]).unwrap(),
        says(&["man"])
    );
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        assert!(text.contains(".SH NAME") && text.contains("decoct"), "{}", page.display());
        for (program, arguments) in
            [("groff", vec!["-Kutf8", "-man", "-Tutf8", "-ww", "-z"]), ("mandoc", vec!["-Tlint", "-Werror"])]
        {
            if is_there(program) {
                let read = Command::new(program).args(arguments).arg(page).output().unwrap();
                let told = [read.stdout, read.stderr].concat();
                assert!(
                    read.status.success() && told.is_empty(),
                    "{program} {}: {}",
                    page.display(),
                    String::from_utf8_lossy(&told)
                );
            }
        }
    }
}

/// Examples that only read the repository, of every page, are run there; what they need besides is an empty store.
#[test]
fn examples_that_only_read_work_as_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    says(&["man", folder.path().to_str().unwrap()]);
    let mut ran = 0;
    for page in std::fs::read_dir(folder.path()).unwrap() {
        let name = page.unwrap().path().file_stem().unwrap().to_string_lossy().replace('-', " ");
        let words: Vec<&str> = name.split(' ').skip(1).chain(["--help"]).collect();
        for line in says(&words).lines().filter_map(|line| line.trim().strip_prefix("decoct ").map(str::to_string)) {
            let typed = [" > ", " | ", "  "].iter().fold(line.as_str(), |typed, end| typed.split(end).next().unwrap());
            let words: Vec<&str> = typed.split(' ').collect();
            let is_reading = ["check", "plan", "schema", "completions"].contains(&words[0])
                || words.starts_with(&["cache", "stat"])
                || words.starts_with(&["cache", "verify"])
                || words == ["man"];
            if is_reading {
                says(&words);
                ran += 1;
            }
        }
    }
    assert!(ran >= 9, "only {ran} examples were run");
}
