//! What a user may rely on when running again: what is done stays done, what changed is made anew, and nothing else.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, questions};

const RECIPE: &str = "\
version: 1
params: { seed: 7 }
nodes:
  exam:     { kind: source, path: exam.jsonl }
  distinct: { kind: dedup, input: exam, by: question }
  halves:   { kind: split, input: distinct, parts: { train: 0.5, test: 0.5 } }
  both:     { kind: mix, inputs: [halves.train, halves.test] }
";

const ALL_HIT: &str = "exam:hit distinct:hit halves:hit both:hit";

fn kitchen() -> Kitchen {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.write("exam.jsonl", &questions(200));
    kitchen
}

fn cooked() -> Kitchen {
    let kitchen = kitchen();
    kitchen.run(&[]).expect_done();
    kitchen
}

#[test]
fn a_second_run_finds_everything() {
    let kitchen = kitchen();
    let first = kitchen.run(&[]).expect_done();
    assert_eq!(first.states(), "exam:ran distinct:ran halves:ran both:ran");
    let second = kitchen.run(&[]).expect_done();
    assert_eq!(second.states(), ALL_HIT);
    assert_eq!(second.outputs(), first.outputs());
    assert_eq!(kitchen.run(&["--no-stat-cache"]).expect_done().states(), ALL_HIT);
}

#[test]
fn what_does_not_matter_runs_nothing() {
    let check = |edit: &dyn Fn(&Kitchen)| {
        let kitchen = cooked();
        edit(&kitchen);
        let run = kitchen.run(&[]).expect_done();
        assert_eq!(
            run.total("calls") + run.nodes.iter().filter(|node| node["state"] != "hit").count() as u64,
            0,
            "{}",
            run.states()
        );
    };
    check(&|kitchen| kitchen.edit("recipe.yaml", "nodes:", "# a comment\nnodes:"));
    check(&|kitchen| {
        kitchen.edit(
            "recipe.yaml",
            "{ kind: dedup, input: exam, by: question }",
            "\n    by: question\n    input: exam\n    kind: dedup",
        )
    });
    check(&|kitchen| kitchen.edit("recipe.yaml", "distinct", "different"));
    check(&|kitchen| kitchen.edit("recipe.yaml", "by: question", "by: [question]"));
    check(&|kitchen| kitchen.write("exam.jsonl", &kitchen.read("exam.jsonl")));
    check(&|kitchen| {
        std::fs::create_dir(kitchen.path("moved")).unwrap();
        std::fs::rename(kitchen.path("exam.jsonl"), kitchen.path("moved/exam.jsonl")).unwrap();
        kitchen.edit("recipe.yaml", "path: exam.jsonl", "path: moved/exam.jsonl");
    });
}

#[test]
fn what_matters_runs_what_depends_on_it_and_plan_says_so_before() {
    let check = |from: &str, to: &str, planned: &str, ran: &str| {
        let kitchen = cooked();
        kitchen.edit("recipe.yaml", from, to);
        assert_eq!(kitchen.plan(&[]), planned, "plan with {to}");
        assert_eq!(kitchen.run(&[]).expect_done().states(), ran, "run with {to}");
        assert_eq!(kitchen.plan(&[]), ALL_HIT);
        kitchen.write("recipe.yaml", RECIPE);
        assert_eq!(kitchen.run(&[]).expect_done().states(), ALL_HIT, "an edit taken back costs nothing");
    };
    check(
        "seed: 7",
        "seed: 8",
        "exam:hit distinct:hit halves:run both:waits",
        "exam:hit distinct:hit halves:ran both:ran",
    );
    check(
        "{ seed: 7 }",
        "{ seed: 7 }\nsalt: again",
        "exam:run distinct:waits halves:waits both:waits",
        "exam:ran distinct:ran halves:ran both:ran",
    );
    check(
        "train: 0.5, test: 0.5",
        "train: 0.25, test: 0.5",
        "exam:hit distinct:hit halves:run both:waits",
        "exam:hit distinct:hit halves:ran both:ran",
    );
}

#[test]
fn a_changed_source_file_is_noticed_even_with_its_old_time() {
    let kitchen = cooked();
    let file = kitchen.path("exam.jsonl");
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    kitchen.edit("exam.jsonl", "how much is 5 plus 12?", "how much is 5 plus 13?");
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
    assert_eq!(kitchen.run(&[]).expect_done().states(), "exam:ran distinct:ran halves:ran both:ran");
    kitchen.write("exam.jsonl", &(kitchen.read("exam.jsonl") + "{\"question\": \"one more?\", \"answer\": 1}\n"));
    assert_eq!(kitchen.run(&[]).expect_done().node("exam")["rows"], 201);
}

#[test]
fn the_same_rows_again_stop_the_wave() {
    let kitchen = cooked();
    let text = kitchen.read("exam.jsonl");
    let doubled = text.lines().last().unwrap().to_string();
    kitchen.write("exam.jsonl", &(text + &doubled + "\n"));
    assert_eq!(kitchen.plan(&[]), "exam:run distinct:waits halves:waits both:waits");
    assert_eq!(kitchen.run(&[]).expect_done().states(), "exam:ran distinct:ran halves:hit both:hit");
}

#[test]
fn force_runs_that_node_alone() {
    let kitchen = cooked();
    assert_eq!(kitchen.plan(&["--force", "distinct"]), "exam:hit distinct:run halves:waits both:waits");
    let run = kitchen.run(&["--force", "distinct"]).expect_done();
    assert_eq!(run.states(), "exam:hit distinct:ran halves:hit both:hit");
}

#[test]
fn until_brings_only_what_is_needed_up_to_date() {
    let kitchen = kitchen();
    assert_eq!(kitchen.run(&["--until", "distinct"]).expect_done().states(), "exam:ran distinct:ran");
    let unknown = kitchen.decoct(&["run", "recipe.yaml", "--until", "distnict"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean `distinct`?"));
}

#[test]
fn a_smaller_sample_is_part_of_a_larger_one() {
    let kitchen = kitchen();
    let ids = |limit: &str| {
        kitchen.run(&["--limit", limit]).expect_done();
        let rows = kitchen.says(&["show", "recipe.yaml", "exam", "--limit", limit, "--format", "json"]);
        let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["row_id"].to_string();
        rows.lines().map(id).collect::<std::collections::BTreeSet<_>>()
    };
    let (small, large) = (ids("20"), ids("50"));
    assert_eq!((small.len(), large.len()), (20, 50));
    assert!(small.is_subset(&large));
}

#[test]
fn plan_and_check_write_nothing() {
    let kitchen = kitchen();
    assert_eq!(kitchen.plan(&[]), "exam:run distinct:waits halves:waits both:waits");
    kitchen.says(&["check", "recipe.yaml"]);
    assert!(!kitchen.store().exists());
}

#[test]
fn a_failure_stops_only_what_depends_on_it() {
    let kitchen = kitchen();
    kitchen.edit("recipe.yaml", "nodes:", "nodes:\n  broken: { kind: filter, input: distinct, where: \"answer / 0 > 1 and answer.nothing.more\" }\n  after: { kind: dedup, input: broken, by: question }");
    let run = kitchen.run(&[]);
    assert_eq!(run.exit, 1, "{}", run.told);
    for (node, state) in [("broken", "failed"), ("after", "skipped"), ("both", "ran")] {
        assert_eq!(run.node(node)["state"], state, "{node}");
    }
    assert!(run.node("broken")["why"].as_str().unwrap().contains("answer / 0"));
    assert_eq!(run.node("after")["why"], "`broken` failed");
}

/// Every way in which stored files can be lost or damaged, and every one of them.
#[test]
fn a_damaged_store_costs_time_and_nothing_else() {
    let kitchen = kitchen();
    let first = kitchen.run(&[]).expect_done();
    let damages: [(&str, fn(&std::path::Path)); 4] = [
        ("removed", |path| std::fs::remove_file(path).unwrap()),
        ("emptied", |path| replace(path, &[])),
        ("cut", |path| replace(path, &std::fs::read(path).unwrap()[..20])),
        ("flipped", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            replace(path, &bytes);
        }),
    ];
    for (damage, apply) in damages {
        kitchen.blobs().iter().for_each(|path| apply(path));
        // The last node has to read, and so has each one before it that must be made again.
        let run = kitchen.run(&["--force", "both"]).expect_done();
        assert_eq!(run.outputs(), first.outputs(), "{damage}");
        assert_eq!(run.node("both")["state"], "ran", "{damage}");
    }
}

/// As a failing disk would: stored files are read-only, so a new one takes the place of the old.
fn replace(path: &std::path::Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_last_output_is_noticed_when_it_is_shown() {
    let kitchen = cooked();
    let expected = kitchen.says(&["show", "recipe.yaml", "both", "--format", "json"]);
    kitchen.blobs().iter().for_each(|path| replace(path, b"rubbish"));
    let shown = kitchen.decoct(&["show", "recipe.yaml", "both", "--format", "json"]);
    assert_eq!(shown.status.code(), Some(4), "{}", String::from_utf8_lossy(&shown.stderr));
    kitchen.run(&[]).expect_done();
    assert_eq!(kitchen.says(&["show", "recipe.yaml", "both", "--format", "json"]), expected);
}

#[test]
fn rows_that_are_shown_to_a_file_can_be_a_source_again() {
    let kitchen = cooked();
    for name in ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"] {
        kitchen.says(&["show", "recipe.yaml", "both", "-o", name]);
        let path = format!("nodes.exam.path={name}");
        let run = kitchen.run(&["--set", &path, "--until", "exam"]).expect_done();
        assert_eq!(run.node("exam")["rows"], 200, "{name}");
    }
}
