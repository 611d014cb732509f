//! A trained tokenizer against transformers' AutoTokenizer (`tests/reference/tokenizer/`).

use serde_json::Value;
use stages::model::Tokenizer;
use stages::model::tokenizer::Training;
use std::path::PathBuf;

const CORPUS: [&str; 3] = [
    "Dose 455 mg, tablets 90 70 60 mg, max 4?\n",
    "## Thinking\n\n90*3 185\nHmm, wait\n90*2 275\n\n## Final Response\n\n1/2/1",
    "Dose 290 mg, tablets 90 70 60 mg, max 4?\n",
];

fn reference(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/tokenizer").join(name)
}

fn trained() -> Tokenizer {
    let headings = ["## Thinking\n\n", "\n\n## Final Response\n\n"];
    Tokenizer::train(Training::Words, 512, CORPUS.into_iter(), &headings).unwrap()
}

#[test]
fn ids_are_those_of_transformers() {
    let tokenizer = trained();
    let rows: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(reference("ids.json")).unwrap()).unwrap();
    assert_eq!(rows.len(), 5);
    for row in rows {
        let expected: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(row["text"].as_str().unwrap()).unwrap(), expected, "{}", row["text"]);
    }
}

/// The ids above belong to the file that training makes; `KEEP=1` keeps a new one, then run `make_tokenizer_reference.py`.
#[test]
fn the_file_is_the_one_that_transformers_read() {
    let (path, json) = (reference("tokenizer.json"), trained().json().to_string());
    if std::env::var_os("KEEP").is_some() {
        std::fs::write(&path, &json).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap_or_default() == json, "`{}` is another tokenizer", path.display());
}
