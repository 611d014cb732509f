//! Recipes with a matrix against what they become: which nodes there are, what each reads, and every mistake at its place.

use super::super::{Overrides, Recipe, load};
use super::*;

const EXAM: &str = "\
{\"question\": \"a\", \"answer\": \"1\", \"problem\": \"a\", \"truth\": \"1\", \"thought\": \"t\", \"response\": \"r\"}
{\"question\": \"b\", \"answer\": \"2\", \"problem\": \"b\", \"truth\": \"2\", \"thought\": \"t\", \"response\": \"r\"}
";

fn load_with(yaml: &str, overrides: &Overrides) -> Result<Recipe, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("exam.jsonl"), EXAM).unwrap();
    let path = folder.path().join("recipe.yaml");
    std::fs::write(&path, yaml).unwrap();
    load(&path, overrides, None).map_err(|diagnostics| {
        let shown = |one: &Diagnostic| {
            let span = diagnostics.sources.clamp(one.span());
            let (line, _) = diagnostics.sources.line_and_column(span);
            format!("{} {line} {}: {}", one.code, diagnostics.sources.slice(span), one.hint.as_deref().unwrap_or(""))
        };
        diagnostics.list.iter().map(shown).collect()
    })
}

fn loaded(yaml: &str, set: &[&str]) -> Recipe {
    let set = set.iter().map(|word| word.to_string()).collect();
    load_with(yaml, &Overrides { set, ..Overrides::default() }).unwrap_or_else(|found| panic!("{found:#?}\n{yaml}"))
}

/// Five lines stand before the nodes: the file begins with `head`.
fn recipe(head: &str, nodes: &[&str]) -> String {
    let nodes: String = nodes.iter().map(|node| format!("  {node}\n")).collect();
    format!("version: 1\n{head}\nnodes:\n  exam: {{ kind: source, path: exam.jsonl }}\n{nodes}")
}

fn names(recipe: &Recipe) -> String {
    let names: Vec<&str> = recipe.nodes.keys().map(String::as_str).filter(|name| *name != "exam").collect();
    names.join(" ")
}

/// What a node reads, in order.
fn reads(recipe: &Recipe, node: &str) -> String {
    let inputs = recipe.nodes[node].stage.inputs();
    inputs.iter().map(|input| input.from.to_string()).collect::<Vec<_>>().join(" ")
}

fn check(head: &str, nodes: &[&str], expected: &str) -> Recipe {
    let recipe = loaded(&recipe(head, nodes), &[]);
    assert_eq!(names(&recipe), expected, "{head} {nodes:?}");
    recipe
}

fn check_mistakes(head: &str, nodes: &[&str], expected: &[&str]) {
    let found = load_with(&recipe(head, nodes), &Overrides::default()).err().unwrap_or_default();
    assert_eq!(found, expected, "{head} {nodes:?}");
}

const TAKE: &str = "a: { kind: mix, inputs: [exam], take: { exam: '${n}' } }";

#[test]
fn what_uses_an_axis_and_what_reads_it_has_variants_and_the_rest_is_shared() {
    let nodes = [TAKE, "b: { kind: dedup, input: a }", "c: { kind: dedup, input: exam }"];
    let recipe = check("matrix: { n: [1, 2] }", &nodes, "a/n=1 a/n=2 b/n=1 b/n=2 c");
    assert_eq!(reads(&recipe, "a/n=2"), "exam");
    assert_eq!(reads(&recipe, "b/n=2"), "a/n=2");
    assert_eq!(recipe.nodes["a/n=2"].stage.settings()["take"]["exam"]["count"], 2);
    assert_eq!(recipe.nodes["a/n=1"].stage.settings()["labels"], serde_json::json!(["exam"]));
}

#[test]
fn one_axis_has_one_value_wherever_its_ways_meet() {
    let nodes = [
        TAKE,
        "b: { kind: dedup, input: a }",
        "both: { kind: mix, inputs: [a, b, exam] }",
        "parts: { kind: split, input: both, parts: { x: 0.5, y: '${s}' } }",
        "end: { kind: mix, inputs: [parts.y, a] }",
    ];
    let head = "matrix: { n: [1, 2], s: { few: 0.1, many: 0.5 } }";
    let expected = "a/n=1 a/n=2 b/n=1 b/n=2 both/n=1 both/n=2 parts/n=1,s=few parts/n=1,s=many parts/n=2,s=few \
                    parts/n=2,s=many end/n=1,s=few end/n=1,s=many end/n=2,s=few end/n=2,s=many";
    let recipe = check(head, &nodes, expected);
    assert_eq!(reads(&recipe, "both/n=2"), "a/n=2 b/n=2 exam");
    assert_eq!(reads(&recipe, "end/n=2,s=few"), "parts.y/n=2,s=few a/n=2");
    // A mix calls its inputs the same in every variant: names of nodes are no part of a key.
    assert_eq!(recipe.nodes["both/n=2"].stage.settings()["labels"], serde_json::json!(["a", "b", "exam"]));
}

#[test]
fn an_axis_of_a_node_is_seen_there_only_and_the_same_words_are_the_same_axis() {
    let a = "a: { kind: mix, matrix: &m { n: [1, 2] }, inputs: [exam], take: { exam: '${n}' } }";
    let b = "b: { kind: mix, matrix: *m, inputs: [a], take: { a: '${n}' } }";
    let recipe = check("", &[a, b], "a/n=1 a/n=2 b/n=1 b/n=2");
    assert_eq!(reads(&recipe, "b/n=2"), "a/n=2");
    let other = "b: { kind: mix, matrix: { n: [2, 3] }, inputs: [a], take: { a: '${n}' } }";
    let hint = "give one of them another name, or declare one for the whole recipe";
    check_mistakes("", &[a, other], &[&format!("axis-conflict 6 a: {hint}")]);
    check_mistakes(
        "",
        &[a, "b: { kind: mix, inputs: [exam], take: { exam: '${n}' } }"],
        &["unknown-parameter 6 ${n}: "],
    );
    // It hides one of the recipe.
    let own = "b: { kind: mix, matrix: { n: [7] }, inputs: [exam], take: { exam: '${n}' } }";
    check("matrix: { n: [1, 2] }", &[TAKE, own], "a/n=1 a/n=2 b/n=7");
}

#[test]
fn a_value_may_name_what_is_read() {
    let nodes = [TAKE, "c: { kind: dedup, input: exam }", "arm: { kind: dedup, input: '${from}' }"];
    let recipe =
        check("matrix: { n: [1, 2], from: [a, c] }", &nodes, "a/n=1 a/n=2 c arm/n=1,from=a arm/n=2,from=a arm/from=c");
    assert_eq!(reads(&recipe, "arm/n=2,from=a"), "a/n=2");
    assert_eq!(reads(&recipe, "arm/from=c"), "c");
}

const SFT: &str = "student: { kind: sft, input: exam, base: { architecture: qwen2, layers: 1 }, epochs: '${epochs}' }";

#[test]
fn a_comparison_gathers_all_variants_with_their_places_on_the_axes() {
    let more = "kl: { kind: ppo, policy: student, problems: exam, verifier: rules, kl: '${kl}' }";
    let score = "score: { kind: eval, input: exam, models: { base: student.base, w/o kl: student, done: kl } }";
    let head = "matrix: { epochs: [1, 3], kl: { none: 0, some: 0.1 } }";
    let recipe = loaded(&recipe(head, &[SFT, more, score]), &[]);
    assert_eq!(recipe.nodes.len(), 1 + 2 + 4 + 1);
    let expected = "exam student.base/epochs=1 student.base/epochs=3 student/epochs=1 student/epochs=3 \
                    kl/epochs=1,kl=none kl/epochs=1,kl=some kl/epochs=3,kl=none kl/epochs=3,kl=some";
    assert_eq!(reads(&recipe, "score"), expected);
    let settings = recipe.nodes["score"].stage.settings();
    assert_eq!(settings["models"][2], "w/o kl/epochs=1");
    assert_eq!(settings["axes"]["names"], serde_json::json!(["epochs", "kl"]));
    assert_eq!(settings["axes"]["places"][3], serde_json::json!(["3", null]));
    assert_eq!(settings["axes"]["places"][7], serde_json::json!(["3", "some"]));
}

#[test]
fn a_comparison_that_varies_itself_gathers_what_agrees_with_it() {
    let some = "some: { kind: mix, inputs: [exam], take: { exam: '${epochs}' } }";
    let score = "score: { kind: eval, input: some, models: { one: student, first: student/epochs=1 } }";
    let recipe = check(
        "matrix: { epochs: [1, 2] }",
        &[SFT, some, score],
        "student/epochs=1 student/epochs=2 some/epochs=1 some/epochs=2 score/epochs=1 score/epochs=2",
    );
    assert_eq!(reads(&recipe, "score/epochs=2"), "some/epochs=2 student/epochs=2 student/epochs=1");
    assert_eq!(recipe.nodes["score/epochs=2"].stage.settings()["models"], serde_json::json!(["one", "first"]));
}

#[test]
fn a_variant_can_be_named() {
    let head = "matrix: { n: [1, 2], s: [0.1, 0.5] }";
    let parts = "parts: { kind: split, input: a, parts: { x: 0.5, y: '${s}' } }";
    let one = "one: { kind: dedup, input: 'parts.y/s=0.5,n=2' }";
    let some = "some: { kind: dedup, input: parts/s=0.1 }";
    let recipe = loaded(&recipe(head, &[TAKE, parts, one, some]), &[]);
    assert_eq!(reads(&recipe, "one"), "parts.y/n=2,s=0.5");
    assert_eq!(reads(&recipe, "some/n=2"), "parts/n=2,s=0.1");
    assert_eq!(recipe.variants.matching("parts").len(), 4);
    assert_eq!(recipe.variants.matching("parts/s=0.5"), ["parts/n=1,s=0.5", "parts/n=2,s=0.5"]);
    assert_eq!(recipe.variants.matching("parts/s=0.5,n=2"), ["parts/n=2,s=0.5"]);
    assert!(["parts/s=0", "part", "one", "exam/n=1"].iter().all(|name| recipe.variants.matching(name).is_empty()));
}

#[test]
fn models_have_variants_too() {
    let head = "matrix: { epochs: [1, 2], skill: [0.5, 0.9] }\nmodels:\n  own: { provider: local, node: student }\n  \
                teacher: { provider: rehearsal, skill: '${skill}' }";
    let chains = "chains: { kind: cot, input: exam, model: teacher }";
    let more = "more: { kind: cot, input: exam, model: own }";
    let recipe = loaded(&recipe(head, &[SFT, chains, more]), &[]);
    let expected = "student/epochs=1 student/epochs=2 chains/skill=0.5 chains/skill=0.9 more/epochs=1 more/epochs=2";
    assert_eq!(names(&recipe), expected);
    let model = |node: &str| recipe.nodes[node].stage.models()[0].1.clone();
    assert_eq!(model("chains/skill=0.9"), "teacher/skill=0.9");
    assert_eq!(recipe.model_node(&model("more/epochs=2")).unwrap().to_string(), "student/epochs=2");
}

#[test]
fn words_that_are_no_references_are_left_alone() {
    let column = "a: { kind: mix, inputs: { question: exam }, take: { question: '${n}' } }";
    let question = "question: { kind: dedup, input: a }";
    let by = "c: { kind: dedup, input: exam, by: question }";
    let recipe = check("matrix: { n: [1, 2] }", &[column, question, by], "a/n=1 a/n=2 question/n=1 question/n=2 c");
    assert_eq!(recipe.nodes["c"].stage.settings()["by"], serde_json::json!(["question"]));
}

#[test]
fn numbers_are_named_as_they_are_written() {
    let sft = "s: { kind: sft, input: exam, base: { architecture: qwen2, layers: 1 }, lr: '${lr}' }";
    check(
        "params: { x: 0.5 }\nmatrix: { lr: [3e-4, 1e-5, 0.10, '${x}'] }",
        &[sft],
        "s/lr=3e-4 s/lr=1e-5 s/lr=0.10 s/lr=0.5",
    );
}

#[test]
fn an_axis_takes_the_place_of_a_parameter_and_whoever_sets_that_later_pins_it() {
    let yaml = |head: &str| recipe(head, &[TAKE, "b: { kind: mix, inputs: [exam], take: { exam: '${m}' } }"]);
    let plain = yaml("params: { n: 5, m: '${n}' }");
    let axis = yaml("params: { n: 5, m: '${n}' }\nmatrix: { n: [1, 2] }");
    let named = yaml("params: { m: '${n}' }\nmatrix: { n: { low: 1, high: 2 } }");
    for (yaml, set, expected) in [
        (&plain, &[][..], "a b"),
        (&axis, &[], "a/n=1 a/n=2 b/n=1 b/n=2"),
        (&plain, &["matrix.n=[7, 8]"], "a/n=7 a/n=8 b/n=7 b/n=8"),
        (&axis, &["matrix.n=[3]"], "a/n=3 b/n=3"),
        (&axis, &["matrix.n=3"], "a/n=3 b/n=3"),
        (&axis, &["matrix.n=null"], "a b"),
        (&axis, &["params.n=9"], "a/n=9 b/n=9"),
        (&axis, &["params.n=9", "matrix.n=[3, 4]"], "a/n=3 a/n=4 b/n=3 b/n=4"),
        (&named, &["params.n=2"], "a/n=high b/n=high"),
        (&named, &["params.n=low"], "a/n=low b/n=low"),
        (&named, &["params.n=9"], "a/n=9 b/n=9"),
        (&named, &["matrix.n.low=null"], "a/n=high b/n=high"),
    ] {
        assert_eq!(names(&loaded(yaml, set)), expected, "{set:?}");
    }
    let profiles = "profiles:\n  one: { params: { n: 4 } }\n  all: { matrix: { n: [6, 7] }, params: { n: 4 } }\n";
    for (profile, expected) in [("one", "a/n=4 b/n=4"), ("all", "a/n=6 a/n=7 b/n=6 b/n=7")] {
        let overrides = Overrides { profile: vec![profile.to_string()], ..Overrides::default() };
        let recipe = load_with(&format!("{axis}{profiles}"), &overrides).unwrap();
        assert_eq!(names(&recipe), expected, "{profile}");
    }
}

#[test]
fn every_mistake_has_its_place() {
    let b = "b: { kind: dedup, input: a }";
    for (head, nodes, expected) in [
        ("matrix: [n]", &[][..], &["wrong-type 2 matrix: such as `matrix: { epochs: [1, 3] }`"][..]),
        ("matrix: { n: [] }", &[TAKE], &["empty-axis 2 n: give it some, such as `n: [1, 3]`, or take it away"]),
        (
            "matrix: { n: [1] }",
            &[],
            &["unused-axis 2 n: write `${n}` where it should vary a node or model, or take it away"],
        ),
        ("matrix: { n: [1, 2, 1] }", &[TAKE], &["duplicate-value 2 1: leave one out, or give them names of their own"]),
        ("matrix: { n: { x: 1, x: 2 } }", &[TAKE], &["duplicate-key 2 x: keep one of the two"]),
        ("matrix: { n: [[1], 2] }", &[TAKE], &["unnamed-value 2 [: write `n: { one_name: …, other_name: … }`"]),
        (
            "matrix: { n: [a b] }",
            &[TAKE],
            &["bad-name 2 a b: give the value a name: `n: { a_name: … }`", "wrong-type 5 '${n}': "],
        ),
        (
            "matrix: { n/m: [1] }",
            &[],
            &[
                "bad-name 2 n/m: use letters, digits, `_` and `-`",
                "unused-axis 2 n/m: write `${n/m}` where it should vary a node or model, or take it away",
            ],
        ),
        (
            "matrix: { n: [1, '${m}'], m: [1] }",
            &["a: { kind: mix, inputs: [exam], take: { exam: '${n}' }, seed: '${m}' }"],
            &["axis-out-of-place 2 n: write the values out"],
        ),
        (
            "matrix: { n: [1] }",
            &["a: { kind: mix, inputs: [exam], take: { exam: '${m}' } }"],
            &["unknown-parameter 5 ${m}: did you mean `n`?"],
        ),
        (
            "matrix: { n: [1] }\nsalt: '${n}'",
            &[TAKE],
            &["axis-out-of-place 3 salt: use `${n}` in the nodes and models that it should vary"],
        ),
        (
            "matrix: { n: [1] }\nparams: { seed: '${n}' }",
            &[TAKE],
            &["axis-out-of-place 3 '${n}': use `${n}` in the nodes and models that it should vary"],
        ),
        (
            "matrix: { n: [1, 2] }",
            &[TAKE, "c: { kind: dedup, input: a/n=3 }"],
            &["unknown-variant 6 a/n=3: did you mean `a/n=1`?"],
        ),
        (
            "matrix: { n: [1, 2] }",
            &[TAKE, "c: { kind: dedup, input: exam/n=1 }"],
            &["unknown-variant 6 exam/n=1: write `exam`"],
        ),
        (
            "matrix: { n: [1, 2] }",
            &[TAKE, b, "a/n=1: { kind: dedup, input: exam }"],
            &["bad-name 7 a/n=1: use letters, digits, `_` and `-`"],
        ),
        (
            "matrix: { n: [1, 2] }",
            &["a: { kind: mix, inputs: [b], take: { b: '${n}' } }", b],
            &["cycle 5 b: let one of them read an earlier node"],
        ),
    ] {
        check_mistakes(head, nodes, expected);
    }
}

#[test]
fn what_is_wrong_with_every_variant_is_told_once() {
    let head = "matrix: { n: [1, 2, 3] }";
    check_mistakes(
        head,
        &["a: { kind: mix, inputs: [exam], take: { exam: '${n}' }, ordr: x }"],
        &["unknown-key 5 ordr: did you mean `order`?"],
    );
    let b = "b: { kind: dedup, input: a.rest }";
    check_mistakes(head, &[TAKE, b], &["unknown-output 6 a.rest: it has one output; write `a/n=1`"]);
    // Each wrong value is told, at the place of its use.
    let a = "a: { kind: mix, inputs: [exam], take: { exam: '${n}' } }";
    let found = load_with(
        &recipe("matrix: { n: [1, x, y, x-x] }", &[a, "b: { kind: dedup, input: a }"]),
        &Overrides::default(),
    );
    assert_eq!(found.err().unwrap(), ["wrong-type 5 '${n}': "; 3]);
}

#[test]
fn a_huge_matrix_is_refused_before_it_is_made() {
    let values: Vec<String> = (1..=1000).map(|value| value.to_string()).collect();
    let axis = values.join(", ");
    let take = |axis: &str| format!("{axis}: {{ kind: mix, inputs: [exam], take: {{ exam: '${{{axis}}}' }} }}");
    let head = format!("matrix: {{ a: [{axis}], b: [{axis}], c: [{axis}] }}");
    let join = "all: { kind: mix, inputs: [a, b, c] }";
    let found = load_with(&recipe(&head, &[&take("a"), &take("b"), &take("c"), join]), &Overrides::default());
    let hint = "give its axes fewer values (now `a` 1000, `b` 1000), or let fewer nodes use them";
    assert_eq!(found.err().unwrap(), [format!("huge-matrix 8 all: {hint}")]);
    let product = "all: { kind: mix, inputs: { x: exam }, take: { x: '${a}${b}${c}' } }";
    let found = load_with(&recipe(&head, &[product]), &Overrides::default()).err().unwrap();
    assert!(
        found[0].starts_with("huge-matrix 5 all: give its axes fewer values (now `a` 1000, `b` 1000, `c` 1000)"),
        "{found:?}"
    );
}
