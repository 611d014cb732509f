//! `decoct init`: a recipe for a new domain, with its prompts and a few questions, that runs as it stands. Writes over nothing.

use crate::cli::InitArgs;
use crate::failure::{Exit, Failure, Result};
use crate::spec::schema::schema;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Stands in the templates for the domain's name.
const PLACEHOLDER: &str = "DOMAIN";
/// What editors check recipes with; all recipes of a folder share it.
const SCHEMA_FILE: &str = "recipe.schema.json";

macro_rules! bundled_prompt {
    ($name:literal) => {
        (concat!("DOMAIN/prompts/", $name), include_str!(concat!("../../../pipelines/medical/prompts/", $name)))
    };
}

/// Path and text of each file. Prompts that speak of no domain are those of the bundled recipe.
const TEMPLATES: [(&str, &str); 9] = [
    ("DOMAIN.yaml", include_str!("../../templates/recipe.yaml")),
    ("DOMAIN/questions.jsonl", include_str!("../../templates/questions.jsonl")),
    ("DOMAIN/prompts/reformat.md", include_str!("../../templates/reformat.md")),
    bundled_prompt!("cot.md"),
    bundled_prompt!("verify.md"),
    bundled_prompt!("search.md"),
    bundled_prompt!("reveal.md"),
    bundled_prompt!("rewrite.md"),
    bundled_prompt!("respond.md"),
];

pub fn run(arguments: &InitArgs) -> Result<Exit> {
    let place = |text: &str| text.replace(PLACEHOLDER, &arguments.domain);
    let files: Vec<(PathBuf, String)> =
        TEMPLATES.iter().map(|(path, text)| (arguments.folder.join(place(path)), place(text))).collect();
    if let Some((taken, _)) = files.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
        let hint = Some("choose another folder, or another `--domain`".to_string());
        return Err(Failure::usage(format!("`{}` is there already; nothing was written", taken.display()), hint));
    }
    for (path, text) in &files {
        write_new(path, text)?;
    }
    let schema_path = arguments.folder.join(SCHEMA_FILE);
    if !schema_path.exists() {
        write_new(&schema_path, &format!("{:#}\n", schema()))?;
    }
    print!("{}", told(&files));
    Ok(Exit::Done)
}

/// Fails where a file came to be there meanwhile.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().expect("every template lies in a folder");
    std::fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::io("write", path, &error))
}

fn told(files: &[(PathBuf, String)]) -> String {
    let shown = |path: &Path| path.strip_prefix(".").unwrap_or(path).display().to_string();
    let (recipe, questions) = (shown(&files[0].0), shown(&files[1].0));
    let prompts = shown(files[2].0.parent().expect("prompts lie in a folder"));
    format!(
        "wrote {recipe}, {questions} and {prompts}/\n\nnext:\n  decoct check {recipe}\n  decoct plan {recipe}\n  \
         decoct run {recipe}\n\nIt runs at once, with a rehearsal in place of a strong model: its comments say what to replace.\n"
    )
}
