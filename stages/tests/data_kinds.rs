//! What the data kinds promise: ids that follow their row, splits that never part equal problems, exact decontamination.

mod plain;

use plain::{PlainContext, ids, output, read, run, run_stage, texts};
use proptest::prelude::*;
use serde_json::{Value, json};
use stages::rows::Rows;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Writes a file and reads it with `source`.
fn source(name: &str, content: &[u8], settings: Value) -> Result<Rows, Vec<stages::settings::Mistake>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), content).unwrap();
    let mut fields = settings;
    fields["path"] = json!(name);
    let stage = read("source", fields, folder.path())?;
    Ok(output(&run_stage(&*stage, &[], &PlainContext::new(7)), "").clone())
}

fn jsonl(objects: &[Value]) -> Vec<u8> {
    objects.iter().map(|object| format!("{object}\n")).collect::<String>().into_bytes()
}

#[test]
fn every_bad_line_is_named_up_to_twenty() {
    let mut lines: Vec<String> = (1..=60).map(|n| json!({ "n": n }).to_string()).collect();
    lines[36] = r#"{"n": 37"#.to_string();
    let mistakes = source("a.jsonl", lines.join("\n").as_bytes(), json!({})).unwrap_err();
    assert_eq!(mistakes.len(), 1);
    assert_eq!(mistakes[0].file.as_ref().unwrap().line, Some(37));
    assert!(mistakes[0].message.starts_with("EOF while parsing an object"), "{}", mistakes[0].message);

    let mistakes = source("a.jsonl", "[1]\n".repeat(25).as_bytes(), json!({})).unwrap_err();
    assert_eq!(mistakes.len(), 21);
    assert_eq!(mistakes[20].message, "5 more lines are malformed");
    assert_eq!(mistakes[3].message, "should be an object `{…}` but is `[1]`");
}

#[test]
fn a_source_says_what_is_wrong_with_its_file() {
    let check = |name: &str, content: &str, settings: Value, code: &str| {
        let mistakes = source(name, content.as_bytes(), settings).unwrap_err();
        assert_eq!(mistakes.iter().map(|m| m.code).collect::<Vec<_>>(), [code], "{name}: {mistakes:?}");
        mistakes[0].hint.clone().unwrap_or_default()
    };
    assert!(check("a.txt", "{}", json!({}), "unknown-format").contains("format: jsonl"));
    check("a.jsonl", "\n\n", json!({}), "empty-source");
    check("a.parquet", "no parquet", json!({}), "malformed-row");
    check("a.json", "{\"a\": 1}", json!({}), "malformed-row");
    check("a.csv", "a,b\n1\n", json!({}), "malformed-row");
    assert!(
        check("a.csv", "question\nx\n", json!({"columns": {"q": "qestion"}}), "unknown-column").contains("question")
    );
    check("a.csv", "a,b\n1,2\n", json!({"columns": {"a": "b"}}), "hidden-column");
    check("a.csv", "row_id\nx\nx\n", json!({}), "bad-row-id");
    // Two columns of ids would come of these.
    check("a.jsonl", "{\"a\": 1}\n{\"row_id\": \"x\"}\n", json!({}), "bad-row-id");
    check("a.csv", "a\n1\n", json!({"columns": {"row_id": "a"}}), "hidden-column");

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("medical.jsonl"), "{}").unwrap();
    let mistakes = read("source", json!({"path": "medicl.jsonl"}), folder.path()).err().unwrap();
    assert_eq!(
        (mistakes[0].code, mistakes[0].hint.as_deref()),
        ("missing-file", Some("did you mean `medical.jsonl`?"))
    );
}

#[test]
fn one_table_reads_alike_from_every_format() {
    let objects = [
        json!({"q": "a, \"b\"", "n": 1, "x": 0.5, "o": {"A": "1"}}),
        json!({"q": "c\nd", "n": null, "x": 2.0, "o": {"B": "2"}}),
    ];
    let from_lines = source("t.jsonl", &jsonl(&objects), json!({})).unwrap();
    let csv = "q,n,x,o\n\"a, \"\"b\"\"\",1,0.5,\"{\"\"A\"\":\"\"1\"\"}\"\n\"c\nd\",,2.0,\"{\"\"B\"\":\"\"2\"\"}\"\n";
    let alike = |other: Rows| {
        assert_eq!(other.columns, from_lines.columns);
        let cells = |rows: &Rows| rows.rows.iter().map(|row| row.cells.clone()).collect::<Vec<_>>();
        assert_eq!(cells(&other), cells(&from_lines));
        other
    };
    alike(source("t.csv", csv.as_bytes(), json!({})).unwrap());
    assert_eq!(
        ids(&alike(source("t.json", json!(objects).to_string().as_bytes(), json!({})).unwrap())),
        ids(&from_lines)
    );
    // What the store writes comes back with its ids.
    assert_eq!(alike(source("t.parquet", &parquet(&from_lines), json!({})).unwrap()), from_lines);
}

fn parquet(rows: &Rows) -> Vec<u8> {
    parquet_of(&rows.to_batch().unwrap())
}

fn parquet_of(batch: &arrow::array::RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn foreign_arrow_types_become_ours() {
    use arrow::array::*;
    use arrow::datatypes::{Field, Int32Type};
    use std::sync::Arc;
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
    let letters: ArrayRef = Arc::new(LargeStringArray::from(vec![Some("x"), None]));
    let options = StructArray::from(vec![(Arc::new(Field::new("A", letters.data_type().clone(), true)), letters)]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("int", Arc::new(UInt8Array::from(vec![Some(7), None]))),
        ("float", Arc::new(Float32Array::from(vec![0.5, 1.0]))),
        ("dictionary", Arc::new(vec![Some("a"), Some("b")].into_iter().collect::<DictionaryArray<Int32Type>>())),
        ("list", Arc::new(list)),
        ("options", Arc::new(options)),
        ("date", Arc::new(Date32Array::from(vec![0, 1]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let rows = source("t.parquet", &parquet_of(&batch), json!({})).unwrap();
    assert_eq!(
        json!([rows.object(&rows.rows[0]), rows.object(&rows.rows[1])]),
        json!([
            {"int": 7, "float": 0.5, "dictionary": "a", "list": [1, null], "options": {"A": "x"}, "date": "1970-01-01"},
            {"int": null, "float": 1.0, "dictionary": "b", "list": null, "options": {"A": null}, "date": "1970-01-02"},
        ])
    );
}

#[test]
fn parquet_as_pandas_writes_it_is_read() {
    use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
    let batch = problems(3).to_batch().unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    assert_eq!(source("t.parquet", &bytes, json!({})).unwrap(), problems(3));
}

/// A kind's version rises whenever this hash of its output changes: what was computed before must not be taken for the new result.
#[test]
fn outputs_change_only_with_their_kinds_version() {
    let stem = |n: usize| {
        format!("Which of the {} wards has room for {} more patients until the end of the week?", n % 7, n % 113)
    };
    let questions = texts("question", &(0..300).map(stem).collect::<Vec<_>>());
    let benchmark = texts("question", &[stem(5), stem(250)]);
    let identity = |kind: &str, settings: Value, inputs: &[(&str, &Rows)]| {
        let stage = read(kind, settings, Path::new(".")).ok().unwrap();
        let outputs = run_stage(&*stage, inputs, &PlainContext::new(7));
        let mut hasher = blake3::Hasher::new();
        for (name, _) in &outputs.artifacts {
            let rows = output(&outputs, name);
            hasher.update(format!("{name} {:?} {:?}\n", rows.columns, rows.rows).as_bytes());
        }
        format!("{kind} {}: {}", stage.version(), &hasher.finalize().to_hex()[..16])
    };
    let input: &[(&str, &Rows)] = &[("input", &questions)];
    let found = [
        identity("source", json!({"generate": "tablets", "rows": 400, "limit": 300}), &[]),
        identity("dedup", json!({"input": "x", "near": {"similarity": 0.8}}), input),
        identity("split", json!({"input": "x", "parts": {"a": 100, "b": 0.3}}), input),
        identity("decontaminate", json!({"input": "x", "against": ["y"]}), &[input[0], ("against.0", &benchmark)]),
        identity(
            "mix",
            json!({"inputs": ["a", "b"], "take": {"a": 0.5}}),
            &[("inputs.a", &questions), ("inputs.b", &benchmark)],
        ),
    ];
    let expected = [
        "source 1: 36bed79c428e3463",
        "dedup 1: 31f517be1921937f",
        "split 1: 6a3c2640ffc31733",
        "decontaminate 1: 60668c60b68849a7",
        "mix 1: 8fdfca5f723fc77c",
    ];
    assert_eq!(found, expected);
}

#[test]
fn columns_are_renamed_copied_and_swapped() {
    let check = |columns: Value, expected: Value| {
        let rows = source("t.csv", b"a,b\nx,y\n", json!({ "columns": columns })).unwrap();
        assert_eq!(Value::Object(rows.object(&rows.rows[0])), expected);
    };
    check(json!({"question": "a"}), json!({"question": "x", "b": "y"}));
    check(json!({"a": "b", "b": "a"}), json!({"a": "y", "b": "x"}));
    check(json!({"a": "a", "again": "a"}), json!({"a": "x", "again": "x", "b": "y"}));
}

#[test]
fn more_generated_rows_only_add_some_and_a_path_replaces_them() {
    let generated = |settings: Value| {
        let stage = read("source", settings, Path::new(".")).ok().unwrap();
        output(&run_stage(&*stage, &[], &PlainContext::new(7)), "").clone()
    };
    let few = generated(json!({"generate": "tablets", "rows": 300}));
    let more = generated(json!({"generate": "tablets", "rows": 400}));
    assert_eq!((few.len(), &more.rows[..300]), (300, &few.rows[..]));
    let names: Vec<&str> = few.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["question", "options", "answer_idx", "answer"]);
    let replaced = source("a.csv", b"q\nx\n", json!({"generate": "tablets", "rows": 300})).unwrap();
    assert_eq!(replaced.len(), 1);
    let mistakes = |settings: Value| read("source", settings, Path::new(".")).err().unwrap()[0].code;
    assert_eq!(mistakes(json!({})), "missing-key");
    assert_eq!(mistakes(json!({"generate": "tablets"})), "missing-key");
    assert_eq!(mistakes(json!({"generate": "tablet", "rows": 3})), "unknown-word");
}

#[test]
fn the_generated_exam_leaves_the_data_steps_the_work_they_are_there_for() {
    let exam = |seed: u64, rows: usize| {
        let stage = read("source", json!({"generate": "tablets", "rows": rows}), Path::new(".")).ok().unwrap();
        output(&run_stage(&*stage, &[], &PlainContext::new(seed)), "").clone()
    };
    let (exam, benchmark) = (exam(1, 10_000), exam(2, 500));
    let outputs = run("dedup", json!({"input": "x", "near": {"similarity": 0.8}}), &[("input", &exam)]);
    let distinct = output(&outputs, "");
    println!("{:?}", outputs.report.tables[0].rows);
    let outputs = run(
        "decontaminate",
        json!({"input": "x", "against": ["y"]}),
        &[("input", distinct), ("against.0", &benchmark)],
    );
    println!("{:?}", outputs.report.tables[0].rows);
    let dropped = output(&outputs, "dropped").len() as f64 / distinct.len() as f64;
    assert!((0.001..0.1).contains(&dropped), "{dropped} of the exam is contaminated");
}

#[test]
fn neither_path_nor_name_is_part_of_the_identity() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |name: &str| {
        std::fs::write(folder.path().join(name), "a\n1\n").unwrap();
        read("source", json!({ "path": name }), folder.path()).unwrap().settings()
    };
    assert_eq!(settings("one.csv"), settings("two.csv"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_row_added_anywhere_renames_no_other(values in prop::collection::vec(0..6u8, 1..30), place in 0..30usize, added in 6..9u8) {
        let object = |value: &u8| json!({"question": format!("q{value}"), "n": value});
        let before: Vec<Value> = values.iter().map(object).collect();
        let mut after = before.clone();
        after.insert(place.min(before.len()), json!({"question": "new", "n": added, "extra": [1]}));
        let (before, after) = (source("t.jsonl", &jsonl(&before), json!({})).unwrap(), source("t.jsonl", &jsonl(&after), json!({})).unwrap());
        let others: Vec<&str> = ids(&after).into_iter().filter(|id| ids(&before).contains(id)).collect();
        prop_assert_eq!(others, ids(&before));
        prop_assert_eq!(ids(&after).into_iter().collect::<HashSet<_>>().len(), after.len());
    }

    #[test]
    fn a_larger_limit_keeps_the_rows_of_a_smaller_one(count in 1..60usize, small in 1..60usize, more in 0..20usize) {
        let objects: Vec<Value> = (0..count).map(|n| json!({ "n": n })).collect();
        let limited = |limit: usize| source("t.jsonl", &jsonl(&objects), json!({ "limit": limit })).unwrap();
        let (few, many) = (limited(small), limited(small + more));
        prop_assert_eq!(few.len(), small.min(count));
        let kept: Vec<&str> = ids(&many).into_iter().filter(|id| ids(&few).contains(id)).collect();
        prop_assert_eq!(kept, ids(&few));
    }

    #[test]
    fn no_file_makes_a_source_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[\\[{\",:}\\]a1\n ]{0,80}") {
        for name in ["t.jsonl", "t.json", "t.csv", "t.parquet"] {
            let _ = source(name, &bytes, json!({}));
            let _ = source(name, text.as_bytes(), json!({}));
        }
    }

    #[test]
    fn equal_problems_never_part(words in prop::collection::vec("[a-cA-C ]{1,4}", 1..80), first in 1..60u64, second in 1..60u64) {
        let rows = texts("problem", &words);
        let outputs = run("split", json!({"input": "x", "parts": {"a": first, "b": second}}), &[("input", &rows)]);
        let mut homes: HashMap<String, &str> = HashMap::new();
        for part in ["a", "b", "rest"] {
            for row in &output(&outputs, part).rows {
                let key = row.cells[0].as_str().unwrap().to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
                let home = *homes.entry(key.clone()).or_insert(part);
                prop_assert_eq!(home, part, "`{}` is on two sides", key);
            }
        }
        let total: usize = ["a", "b", "rest"].iter().map(|part| output(&outputs, part).len()).sum();
        prop_assert_eq!(total, rows.len());
    }

    #[test]
    fn a_run_is_found_exactly_when_the_naive_search_finds_it(
        rows in prop::collection::vec("[ab]{0,24}", 1..20), items in prop::collection::vec("[ab]{0,24}", 1..10), length in 1..12usize,
    ) {
        let shares = |row: &str, item: &str| (0..row.len().saturating_sub(length - 1)).any(|start| item.contains(&row[start..start + length]));
        let contaminated = |row: &&String| items.iter().any(|item| shares(row, item));
        let expected: Vec<&String> = rows.iter().filter(|row| !contaminated(row)).collect();
        let settings = json!({"input": "x", "against": ["y"], "characters": length, "normalise": "none", "short": "ignore"});
        let outputs = run("decontaminate", settings, &[("input", &texts("problem", &rows)), ("against.0", &texts("question", &items))]);
        let kept: Vec<&str> = output(&outputs, "").rows.iter().map(|row| row.cells[0].as_str().unwrap()).collect();
        prop_assert_eq!(kept, expected);
    }
}

fn problems(count: usize) -> Rows {
    texts("problem", &(0..count).map(|n| format!("problem {n}")).collect::<Vec<_>>())
}

fn part_ids(rows: &Rows, parts: &Value) -> HashMap<String, String> {
    let outputs = run("split", json!({"input": "x", "parts": parts}), &[("input", rows)]);
    let names: Vec<String> = outputs.artifacts.keys().cloned().collect();
    let homes =
        names.iter().flat_map(|name| ids(output(&outputs, name)).into_iter().map(|id| (id.to_string(), name.clone())));
    homes.collect()
}

fn sizes(homes: &HashMap<String, String>, names: &[&str]) -> Vec<usize> {
    names.iter().map(|name| homes.values().filter(|home| home == name).count()).collect()
}

#[test]
fn parts_have_the_size_they_ask_for() {
    let check = |rows: usize, parts: Value, expected: [usize; 3]| {
        assert_eq!(sizes(&part_ids(&problems(rows), &parts), &["a", "b", "rest"]), expected, "{rows} {parts}");
    };
    check(100, json!({"a": 30, "b": 50}), [30, 50, 20]);
    check(100, json!({"a": 0.3, "b": 0.7}), [30, 70, 0]);
    check(101, json!({"a": 0.5, "b": 0.5}), [51, 50, 0]);
    check(100, json!({"a": 300, "b": 100}), [75, 25, 0]);
    check(1, json!({"a": 300, "b": 100}), [1, 0, 0]);
    check(0, json!({"a": 3, "b": 0.5}), [0, 0, 0]);
}

#[test]
fn too_few_rows_are_shared_out_and_said() {
    let stage = read("split", json!({"input": "x", "parts": {"sft": 6000, "rl": 9000}}), Path::new(".")).ok().unwrap();
    let context = PlainContext::new(7);
    run_stage(&*stage, &[("input", &problems(50))], &context);
    assert_eq!(
        *context.warnings.lock().unwrap(),
        ["15000 rows are asked for and 50 are there: the parts shrink in proportion"]
    );
}

#[test]
fn rows_that_are_added_move_hardly_any_other() {
    let parts = json!({"a": 200, "b": 300});
    let (before, after) = (part_ids(&problems(1000), &parts), part_ids(&problems(1010), &parts));
    let moved: Vec<_> = before.iter().filter(|(id, home)| after[*id] != **home).collect();
    // Each new row can push one out of its part, into the rest.
    assert!(moved.len() <= 10, "{moved:?}");
    assert!(moved.iter().all(|(id, _)| after[*id] == "rest"), "{moved:?}");
}

#[test]
fn a_part_without_enough_rows_of_its_own_is_topped_up() {
    let homes = part_ids(&problems(100), &json!({"a": 50, "b": 50}));
    assert_eq!(sizes(&homes, &["a", "b"]), [50, 50]);
}

#[test]
fn split_finds_its_own_mistakes() {
    let check = |parts: Value, code: &str| {
        let mistakes = read("split", json!({"input": "x", "parts": parts}), Path::new(".")).err().unwrap();
        assert_eq!(mistakes[0].code, code, "{parts}");
    };
    check(json!({"a": 0.6, "b": 0.6}), "bad-parts");
    check(json!({"rest": 5}), "bad-parts");
    check(json!({}), "bad-parts");
    check(json!({"a": 0}), "wrong-type");
    check(json!({"a": 1.5}), "wrong-type");
    check(json!({"a": "many"}), "wrong-type");
}

#[test]
fn contaminated_rows_say_what_they_share() {
    let item = "A 45-year-old man comes to the clinic with a cough that has lasted for three weeks and a fever.";
    let quoted = format!("Case: {} What now?", item.to_uppercase().replace(' ', "  "));
    let rows = texts("question", &[quoted, "A 45-year-old man comes to the clinic.".into(), "same short".into()]);
    let benchmark = texts("question", &[item.to_string(), "Same, short!".to_string()]);
    let run = |extra: Value| {
        let mut settings = json!({"input": "x", "against": ["y"]});
        settings.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let outputs = run("decontaminate", settings, &[("input", &rows), ("against.0", &benchmark)]);
        let dropped = output(&outputs, "dropped").clone();
        dropped.rows.iter().map(|row| row.cells[1].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let reasons = run(json!({}));
    assert_eq!(reasons.len(), 2);
    assert!(reasons[0].contains("a 45 year old man comes") || reasons[0].contains("a 45-year-old"), "{}", reasons[0]);
    assert!(reasons[1].contains("same short"));
    assert_eq!(run(json!({"normalise": "none"})), Vec::<String>::new());
    assert_eq!(run(json!({"short": "ignore"})).len(), 1);
}

#[test]
fn duplicates_go_to_their_own_output_with_the_reason() {
    let rows = texts("question", &["What is it?", "what  is it", "Something else"].map(str::to_string));
    let outputs = run("dedup", json!({"input": "x"}), &[("input", &rows)]);
    assert_eq!(ids(output(&outputs, "")), ["What is it?#1", "Something else#1"]);
    assert_eq!(output(&outputs, "dropped").rows[0].cells[1], json!("same text as row What is it?#1"));
    let bytes = run("dedup", json!({"input": "x", "exact": "none"}), &[("input", &rows)]);
    assert_eq!(output(&bytes, "").len(), 3);
    let mistakes = read("dedup", json!({"input": "x", "near": {"similarity": 1.5}}), Path::new(".")).err().unwrap();
    assert_eq!(mistakes[0].code, "out-of-range");
}

#[test]
fn a_mix_has_all_columns_and_says_where_each_row_is_from() {
    let (left, right) = (texts("question", &["a".into(), "b".into()]), texts("problem", &["a".into(), "c".into()]));
    let settings = json!({"inputs": {"exam": "x", "open": "y.z"}, "order": "as_given"});
    let outputs = run("mix", settings, &[("inputs.exam", &left), ("inputs.open", &right)]);
    let mixed = output(&outputs, "");
    let objects: Vec<Value> = mixed.rows.iter().map(|row| Value::Object(mixed.object(row))).collect();
    assert_eq!(objects[1], json!({"question": "b", "problem": null, "from": "exam"}));
    assert_eq!(objects[2], json!({"question": null, "problem": "a", "from": "open"}));
    assert_eq!(ids(mixed).into_iter().collect::<HashSet<_>>().len(), 4, "two rows share an id");
}

#[test]
fn a_mix_takes_as_much_of_each_as_it_is_told_in_an_order_of_its_own() {
    let (left, right) = (problems(40), texts("problem", &["other".into()]));
    let mix = |settings: Value| {
        let outputs = run("mix", settings, &[("inputs.a", &left), ("inputs.b", &right)]);
        ids(output(&outputs, "")).into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let all = mix(json!({"inputs": ["a", "b"]}));
    let half = mix(json!({"inputs": ["a", "b"], "take": {"a": 0.5}}));
    assert_eq!((all.len(), half.len()), (41, 21));
    assert_ne!(all[..10], ids(&left)[..10]);
    let kept: Vec<&String> = all.iter().filter(|id| half.contains(id)).collect();
    assert_eq!(kept, half.iter().collect::<Vec<_>>());
    let mistakes = read("mix", json!({"inputs": {"a": "x"}, "take": {"c": 1}}), Path::new(".")).err().unwrap();
    assert_eq!((mistakes[0].code, mistakes[0].hint.as_deref()), ("unknown-label", Some("did you mean `a`?")));
}

#[test]
fn thirty_thousand_rows_are_decontaminated_and_deduplicated_in_a_moment() {
    let stem = |n: usize| {
        let (a, b, c, dose, most) = (50 + n % 41, 20 + n % 29, 5 + n % 13, 100 + n / 7, 3 + n % 4);
        format!(
            "From stock of {a}, {b} and {c} mg tablets, give {dose} mg with at most {most} tablets: how many of each?"
        )
    };
    let rows = texts("question", &(0..30_000).map(stem).collect::<Vec<_>>());
    let benchmark = texts("question", &(0..3_000).map(|n| stem(n * 10 + 3)).collect::<Vec<_>>());
    let started = std::time::Instant::now();
    let outputs =
        run("decontaminate", json!({"input": "x", "against": ["y"]}), &[("input", &rows), ("against.0", &benchmark)]);
    let decontaminated = started.elapsed();
    assert!(output(&outputs, "dropped").len() >= 3_000);
    let outputs = run("dedup", json!({"input": "x", "near": {"similarity": 0.8}}), &[("input", &rows)]);
    let deduplicated = started.elapsed() - decontaminated;
    assert_eq!(output(&outputs, "").len(), 30_000);
    println!("decontaminate {decontaminated:?}, dedup {deduplicated:?}");
    assert!(
        decontaminated.as_secs_f64() < 10.0 && deduplicated.as_secs_f64() < 30.0,
        "{decontaminated:?} {deduplicated:?}"
    );
}

/// The disaster: a file too long to hold gives other rows, columns or ids than it would if it were held. A limit holds it.
#[test]
fn a_long_file_gives_what_it_would_if_it_were_held() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("\u{feff}");
    for row in 0..20_000 {
        // Some rows are equal, one is an empty line apart, a column widens late, and another comes late.
        let (n, late) = if row == 15_000 { ("2.5", r#", "late": [1]"#) } else { ("2", "") };
        let gap = if row == 7 { "\n" } else { "" };
        text.push_str(&format!("{gap}{{\"q\": \"{} {}\", \"n\": {n}{late}}}\n", "x".repeat(900), row / 2));
    }
    std::fs::write(folder.path().join("long.jsonl"), text).unwrap();
    let path = folder.path().join("long.jsonl");
    let columns = json!({"question": "q", "copy": "q"});
    let source = |limit: Value| {
        let outputs = run("source", json!({"path": path, "columns": columns, "limit": limit}), &[]);
        output(&outputs, "").clone()
    };
    let (streamed, held) = (source(Value::Null), source(json!(1_000_000)));
    assert_eq!(streamed.len(), 20_000);
    assert!(streamed == held);
    // Cores share the lines: here there are fewer, and the last has no end.
    let text = format!("{{\"q\": \"{}\"}}\n{{\"q\": 1}}", "x".repeat(3 << 20));
    std::fs::write(&path, text).unwrap();
    let (streamed, held) = (source(Value::Null), source(json!(1_000_000)));
    assert_eq!(streamed.len(), 2);
    assert!(streamed == held);
}
