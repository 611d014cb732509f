//! `decoct init`: what it writes is sound, runs as it stands, and nothing that was there is touched.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, Run};

fn files_of(kitchen: &Kitchen) -> Vec<String> {
    let tree = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(kitchen.path(folder)).unwrap();
        entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy())).collect()
    };
    let mut files = [tree("own"), tree("own/law"), tree("own/law/prompts")].concat();
    files.sort();
    files
}

#[test]
fn a_new_recipe_is_sound_and_runs_as_it_stands() {
    let kitchen = Kitchen::new("version: 1\n");
    let told = kitchen.says(&["init", "own", "--domain", "law"]);
    let commands: Vec<Vec<&str>> = told
        .lines()
        .filter_map(|line| line.trim().strip_prefix("decoct "))
        .map(|line| line.split(' ').collect())
        .collect();
    assert_eq!(commands.iter().map(|words| words[0]).collect::<Vec<_>>(), ["check", "plan", "run"], "{told}");
    for words in &commands[..2] {
        kitchen.says(words);
    }
    let run = Run::of(&kitchen.decoct(&[commands[2].as_slice(), &["--format", "json"]].concat())).expect_done();
    assert!(run.nodes.iter().all(|node| node["state"] == "ran"), "{}", run.states());
    assert!(run.node("solved")["rows"].as_u64().unwrap() > 5, "{:?}", run.node("solved"));
    let shown = kitchen.says(&["show", "own/law.yaml", "score"]);
    assert!(shown.contains("[rehearsal]"), "what a rehearsal made must say so: {shown}");
    assert!(
        !kitchen.read("own/law.yaml").contains("DOMAIN")
            && !kitchen.read("own/law/prompts/reformat.md").contains("DOMAIN")
    );

    // Every prompt that it wrote is one that the recipe reads, and none is missing.
    for prompt in files_of(&kitchen).iter().filter(|file| file.ends_with(".md")) {
        let text = kitchen.read(prompt);
        kitchen.write(prompt, &format!("{text}\n{{{{ no_such_column }}}}\n"));
        let output = kitchen.decoct(&["check", "own/law.yaml"]);
        assert_eq!(output.status.code(), Some(2), "`{prompt}` is read by no node");
        kitchen.write(prompt, &text);
    }
}

#[test]
fn nothing_is_written_over() {
    let kitchen = Kitchen::new("version: 1\n");
    kitchen.says(&["init", "own", "--domain", "law"]);
    let before: Vec<(String, String)> =
        files_of(&kitchen).into_iter().filter(|f| f.contains('.')).map(|f| (f.clone(), kitchen.read(&f))).collect();
    for taken in ["own/law.yaml", "own/law/questions.jsonl", "own/law/prompts/cot.md"] {
        for (file, _) in before.iter().filter(|(file, _)| file != taken && !file.ends_with("schema.json")) {
            std::fs::remove_file(kitchen.path(file)).unwrap();
        }
        kitchen.write(taken, "mine");
        let output = kitchen.decoct(&["init", "own", "--domain", "law"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && told.contains(taken) && told.contains("nothing was written"),
            "{told}"
        );
        assert_eq!(kitchen.read(taken), "mine");
        let left = files_of(&kitchen).iter().filter(|file| file.contains('.')).count();
        assert_eq!(left, 2, "the file in the way and the schema");
        before.iter().for_each(|(file, text)| kitchen.write(file, text));
    }
    // Another domain has room beside it, and both share the schema.
    kitchen.write("own/recipe.schema.json", "{}");
    kitchen.says(&["init", "own", "--domain", "tax"]);
    assert_eq!(kitchen.read("own/recipe.schema.json"), "{}");
    kitchen.says(&["check", "own/tax.yaml"]);
    assert_eq!(kitchen.decoct(&["init", "own", "--domain", "a/b"]).status.code(), Some(2));
}
