//! Two runs of one recipe on one store at the same time: the work is done once, both end with all of it.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, Run, questions};

const RECIPE: &str = "\
version: 1
nodes:
  exam:     { kind: source, path: exam.jsonl }
  distinct: { kind: dedup, input: exam, by: question, near: { similarity: 0.9 } }
  halves:   { kind: split, input: distinct, parts: { train: 0.5, test: 0.5 } }
  clean:    { kind: decontaminate, input: halves.train, against: [halves.test], characters: 200 }
";

#[test]
fn each_node_is_made_by_one_of_them() {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.write("exam.jsonl", &questions(20_000));
    let start = || kitchen.command(&["run", "recipe.yaml", "--format", "json"]).spawn().unwrap();
    let both = [start(), start()].map(|process| Run::of(&process.wait_with_output().unwrap()).expect_done());
    let [one, other] = &both;
    assert_eq!(one.outputs(), other.outputs());
    for (mine, theirs) in one.nodes.iter().zip(&other.nodes) {
        let ran = [mine, theirs].iter().filter(|node| node["state"] == "ran").count();
        assert_eq!(ran, 1, "{mine}\n{theirs}");
    }
}
