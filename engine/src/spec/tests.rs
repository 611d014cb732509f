//! Whole recipes against the loader: every mistake with its code and place, and no input that it cannot bear.

use super::diagnostic::Diagnostic;
use super::*;
use proptest::prelude::*;
use std::path::Path;

const EXAM: &str = "{\"question\": \"a\", \"answer\": \"1\"}\n{\"question\": \"b\", \"answer\": \"2\"}\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("exam.jsonl"), EXAM).unwrap();
    folder
}

fn load_in(folder: &Path, yaml: &[u8], overrides: &Overrides) -> Result<Recipe, Diagnostics> {
    let path = folder.join("recipe.yaml");
    std::fs::write(&path, yaml).unwrap();
    load(&path, overrides, None)
}

fn load_text(yaml: &str) -> Result<Recipe, Diagnostics> {
    load_in(folder().path(), yaml.as_bytes(), &Overrides::default())
}

/// `code line word`, one a mistake: the word in the recipe that is marked.
fn mistakes(yaml: &str, overrides: &Overrides) -> Vec<String> {
    let Err(diagnostics) = load_in(folder().path(), yaml.as_bytes(), overrides) else { return Vec::new() };
    let shown = |one: &Diagnostic| {
        let span = diagnostics.sources.clamp(one.span());
        let (line, _) = diagnostics.sources.line_and_column(span);
        format!("{} {line} {}", one.code, diagnostics.sources.slice(span))
    };
    diagnostics.list.iter().map(shown).collect()
}

fn check(yaml: &str, expected: &[&str]) {
    assert_eq!(mistakes(yaml, &Overrides::default()), expected, "{yaml}");
}

/// A node on line 3 beside a source.
fn check_node(node: &str, expected: &[&str]) {
    check(&format!("version: 1\nnodes:\n  it: {node}\n  exam: {{ kind: source, path: exam.jsonl }}\n"), expected);
}

#[test]
fn the_frame_of_a_recipe() {
    let nodes = "nodes: { exam: { kind: source, path: exam.jsonl } }\n";
    check(&format!("version: 1\n{nodes}"), &[]);
    check(nodes, &["missing-key 1 "]);
    check(&format!("version: 2\n{nodes}"), &["unknown-version 1 2"]);
    check(&format!("version: 1\nnode: 3\n{nodes}"), &["unknown-key 2 node"]);
    check(&format!("version: 1\nparams: [1]\nmodels: 3\n{nodes}"), &["wrong-type 2 params", "wrong-type 3 3"]);
    check("version: 1\n", &["no-nodes 1 "]);
    check("version: 1\nnodes: [a]\n", &["wrong-type 2 nodes"]);
    check("- a\n", &["wrong-type 1 "]);
    check("", &["empty-file 1 "]);
    check("a: [1, 2\nb: {", &["not-yaml 2 "]);
    check("version: 1\nnodes: *none\n", &["unknown-anchor 2 *none"]);
    let profiles = "profiles: { p: { nods: {}, params: 3 }, q: 7 }\n";
    check(&format!("version: 1\n{nodes}{profiles}"), &["unknown-key 3 nods", "wrong-type 3 3", "wrong-type 3 7"]);
    check(
        &format!("version: 1\n{nodes}prompts: nowhere\nsalt: [a]\n"),
        &["missing-file 3 nowhere", "wrong-type 4 salt"],
    );
}

#[test]
fn what_every_node_has() {
    check_node("{ input: exam }", &["missing-key 3 it"]);
    check_node("{ kind: mixx, inputs: [exam] }", &["unknown-kind 3 mixx"]);
    check_node("{ kind: [mix], inputs: [exam] }", &["wrong-type 3 kind"]);
    check_node("exam", &["wrong-type 3 exam"]);
    check_node("{ kind: mix, inputs: [exam], seed: 1, stream: other }", &[]);
    check_node("{ kind: split, input: exam, parts: { a: '${n}' } }", &["unknown-parameter 3 ${n}"]);
    check_node("{ kind: mix, inputs: [exam], seed: -1, stream: [a] }", &["wrong-type 3 -1", "wrong-type 3 stream"]);
    check("version: 1\nnodes: { a.b: { kind: source, path: exam.jsonl } }\n", &["bad-name 2 a.b"]);
    let seed = "version: 1\nparams: { seed: x }\nnodes: { exam: { kind: source, path: exam.jsonl }, more: { kind: source, path: exam.jsonl } }\n";
    check(seed, &["wrong-type 2 x"]);
}

#[test]
fn names_forms_and_cycles() {
    check_node("{ kind: dedup, input: exma }", &["unknown-node 3 exma"]);
    check_node("{ kind: mix, inputs: [exam, exma] }", &["unknown-node 3 exma"]);
    check_node("{ kind: dedup, input: exam.rest }", &["unknown-output 3 exam.rest"]);
    check_node("{ kind: dedup, input: it }", &["cycle 3 it"]);
    let circle = "version: 1\nnodes:\n  a: { kind: dedup, input: c }\n  b: { kind: dedup, input: a }\n  c: { kind: dedup, input: b, bad: 1 }\n";
    check(circle, &["cycle 3 c", "unknown-key 5 bad"]);
}

#[test]
fn models_are_checked_where_they_stand() {
    let with = |model: &str| {
        format!("version: 1\nmodels:\n  m: {model}\nnodes:\n  exam: {{ kind: source, path: exam.jsonl }}\n")
    };
    check(&with("{ provider: rehearsal }"), &[]);
    check(&with("{ provider: rehersal }"), &["unknown-provider 3 rehersal"]);
    check(&with("{ }"), &["missing-key 3 m"]);
    check(&with("{ provider: local, node: exam }"), &["wrong-form 3 exam"]);
    check(&with("{ provider: local, node: exma }"), &["unknown-node 3 exma"]);
}

#[test]
fn a_base_model_from_a_folder_starts_anew() {
    let yaml = "version: 1\nnodes:\n  exam: { kind: source, path: exam.jsonl }\n  s: { kind: sft, input: exam, response: answer, base: { architecture: qwen2, layers: 2 } }\n";
    check(yaml, &[]);
    let profile = "profiles:\n  p: { nodes: { s: { base: { path: nowhere } } } }\n";
    let overrides = Overrides { profile: vec!["p".to_string()], ..Overrides::default() };
    assert_eq!(mistakes(&format!("{yaml}{profile}"), &overrides), ["missing-file 6 nowhere"]);
}

#[test]
fn the_command_line_has_places_too() {
    let yaml = "version: 1\nparams: { n: 1 }\nnodes:\n  exam: { kind: source, path: exam.jsonl }\n";
    let with = |set: &[&str], profile: &[&str]| Overrides {
        set: set.iter().map(|word| word.to_string()).collect(),
        profile: profile.iter().map(|word| word.to_string()).collect(),
        limit: Some(1),
    };
    for (overrides, expected) in [
        (with(&["params.n=2"], &[]), vec![]),
        (with(&["params.m=2"], &[]), vec!["unknown-path 1 m"]),
        (with(&["nodes.exam.limt=2"], &[]), vec!["unknown-key 1 limt"]),
        (with(&["nodes.exam.limit=two"], &[]), vec![]),
        (with(&["nodes.exam.path=other.jsonl"], &[]), vec!["missing-file 1 other.jsonl"]),
        (with(&["params.n=[1"], &[]), vec!["not-yaml 1 "]),
        (with(&[], &["none"]), vec!["unknown-profile 1 none"]),
    ] {
        assert_eq!(mistakes(yaml, &overrides), expected, "{overrides:?}");
    }
}

#[test]
fn a_sound_recipe_becomes_typed_nodes() {
    let yaml = "version: 1\nparams: { seed: 7 }\nsalt: 3\nnodes:\n  exam: { kind: source, path: exam.jsonl }\n  \
                parts: { kind: split, input: exam, parts: { a: 1, b: 1 }, seed: 9, stream: other }\n";
    let recipe = load_text(yaml).unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)));
    let [exam, parts] = ["exam", "parts"].map(|name| &recipe.nodes[name]);
    assert_eq!((recipe.name.as_str(), recipe.salt.as_deref()), ("recipe", Some("3")));
    assert_eq!((exam.seed, exam.stream.as_str(), exam.kind.name), (7, "source", "source"));
    assert_eq!((parts.seed, parts.stream.as_str()), (9, "split/other"));
    assert_eq!(parts.output("").unwrap().name, "a");
    assert_eq!(parts.output("b").unwrap().name, "b");
    assert_eq!(parts.output("c"), None);
}

#[test]
fn a_key_that_is_not_in_the_environment_is_named_for_nodes_that_call() {
    let yaml = "version: 1\nmodels:\n  api: { provider: openai, base_url: http://127.0.0.1:1/v1, model: m, \
                api_key_env: DECOCT_TEST_NO_SUCH_KEY }\nnodes:\n  exam: { kind: source, path: exam.jsonl }\n  \
                clear: { kind: filter, input: exam, model: api, keep: [pass] }\n";
    let recipe = load_text(yaml).unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)));
    assert!(recipe.missing_environment(["exam"]).list.is_empty(), "nothing calls");
    let missing = recipe.missing_environment(["exam", "clear"]);
    assert_eq!(missing.list.len(), 1);
    let message = &missing.list[0].message;
    assert!(message.contains("`DECOCT_TEST_NO_SUCH_KEY`") && message.ends_with("model `api`"), "{message}");
    assert_eq!(recipe.sources.slice(missing.list[0].span()), "DECOCT_TEST_NO_SUCH_KEY");
    check(&format!("{yaml}  more: 3\n"), &["missing-environment 3 DECOCT_TEST_NO_SUCH_KEY", "wrong-type 7 3"]);
}

/// Pieces that recipes are made of, so that soup often gets past the parser.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        Just("version: 1\n".to_string()),
        Just("nodes:\n".to_string()),
        Just("models:\n".to_string()),
        Just("profiles:\n".to_string()),
        Just("  exam: { kind: source, path: exam.jsonl }\n".to_string()),
        Just("  a: { kind: split, input: exam, parts: { x: 1, y: ${n} } }\n".to_string()),
        Just("  b: { kind: mix, inputs: [a.x, a.z, b] }\n".to_string()),
        Just("  m: { provider: local, node: a }\n".to_string()),
        Just("params: { n: 1, seed: &s 7 }\n".to_string()),
        Just("matrix: { n: [1, 2], s: { low: 1, high: [3] } }\n".to_string()),
        Just("  c: { kind: dedup, input: a.x/n=1, by: '${s}', matrix: { s: [x, y] } }\n".to_string()),
        Just("  <<: *s\n".to_string()),
        "[-a-z{}\\[\\]:&*!|>'\"%@#?,~$ \n\t0-9é]{0,12}",
    ];
    let texts = proptest::collection::vec(words, 0..12).prop_map(|words| words.concat().into_bytes());
    prop_oneof![4 => texts, 1 => proptest::collection::vec(any::<u8>(), 0..64)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_loader_or_the_screen_panic(yaml in soup(), set in "[a-z.=\\[{:é]{0,12}") {
        let folder = folder();
        let overrides = Overrides { set: vec![set], ..Overrides::default() };
        if let Err(diagnostics) = load_in(folder.path(), &yaml, &overrides) {
            prop_assert!(diagnostics.has_errors());
            prop_assert!(diagnostics.render(true).len() > 20);
            prop_assert_eq!(diagnostics.to_json().len(), diagnostics.list.len());
        }
    }
}
