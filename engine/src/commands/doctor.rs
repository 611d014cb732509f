//! `decoct doctor`: what this machine has, or what the server of a model can do.

mod machine;

use crate::cli::{DoctorArgs, EventFormat};
use crate::failure::{Exit, Failure, Result, exit_of};
use crate::report::table;
use crate::report::words::dollars;
use crate::spec::{self, Recipe};
use serde_json::{Value, json};
use stages::failure::Failure as StageFailure;
use stages::llm::ModelSpec;
use stages::llm::openai::{OpenAiSettings, Verdict, probe};
use stages::settings::nearest_hint;
use std::path::{Path, PathBuf};

/// One line of the table.
struct Finding {
    what: String,
    /// `yes`, `no`, `unknown`, or nothing where it is a figure.
    verdict: &'static str,
    detail: String,
}

impl Finding {
    fn new(what: &str, verdict: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what: what.to_string(), verdict, detail: detail.into() }
    }
}

pub fn run(arguments: &DoctorArgs) -> Result<Exit> {
    let (head, findings, exit) = match &arguments.model {
        Some(model) => examine_model(arguments, model)?,
        None => machine::examine(arguments),
    };
    match arguments.format {
        EventFormat::Json => println!("{}", to_json(&head, &findings)),
        EventFormat::Plain => {
            println!("{head}");
            let rows: Vec<Vec<String>> = findings
                .iter()
                .map(|one| vec![one.what.clone(), one.verdict.to_string(), one.detail.clone()])
                .collect();
            table::lines(&["check", "", "found"].map(str::to_string), &rows).iter().for_each(|line| println!("{line}"));
        }
    }
    Ok(exit)
}

fn to_json(head: &str, findings: &[Finding]) -> Value {
    let checks = findings.iter().map(|one| {
        let verdict = if one.verdict.is_empty() { Value::Null } else { one.verdict.into() };
        json!({"check": one.what, "verdict": verdict, "found": one.detail})
    });
    json!({"event": "doctor", "of": head, "checks": checks.collect::<Vec<_>>()})
}

fn examine_model(arguments: &DoctorArgs, name: &str) -> Result<(String, Vec<Finding>, Exit)> {
    let path = arguments.recipe.clone().map_or_else(only_recipe, Ok)?;
    let recipe = spec::load(&path, &arguments.overrides.overrides(), None)?;
    let Some(entry) = recipe.models.get(name) else {
        let hint = nearest_hint(name, recipe.models.keys().map(String::as_str));
        return Err(Failure::usage(format!("`{}` has no model `{name}`", path.display()), hint));
    };
    check_key(&recipe, name)?;
    let here = |what: &str| {
        let detail = format!("{what}: no server is asked, nothing to find out");
        (format!("`{name}`"), vec![Finding::new("answers", "yes", detail)], Exit::Done)
    };
    match &entry.spec {
        ModelSpec::Rehearsal(_) => Ok(here("a rehearsal, embedded in this program")),
        ModelSpec::Local(_) => Ok(here("run by this program on this machine")),
        ModelSpec::OpenAi(settings) => examine_server(name, settings),
    }
}

/// The recipe in this folder, where there is one and not two.
fn only_recipe() -> Result<PathBuf> {
    let entries = std::fs::read_dir(".").map_err(|error| Failure::io("read", Path::new("."), &error))?;
    let is_recipe = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    let mut recipes: Vec<PathBuf> =
        entries.flatten().map(|entry| PathBuf::from(entry.file_name())).filter(is_recipe).collect();
    recipes.sort();
    match recipes.as_slice() {
        [recipe] => Ok(recipe.clone()),
        _ => Err(Failure::usage(
            format!("a model is one of a recipe, and there are {} in this folder", recipes.len()),
            Some("name it: `decoct doctor RECIPE --model NAME`".to_string()),
        )),
    }
}

fn check_key(recipe: &Recipe, model: &str) -> Result<()> {
    let missing = recipe.missing_key(model);
    if missing.list.is_empty() { Ok(()) } else { Err(missing.into()) }
}

fn examine_server(name: &str, settings: &OpenAiSettings) -> Result<(String, Vec<Finding>, Exit)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Exit::Ourselves, format!("cannot wait for anything: {error}")))?;
    let probed = runtime.block_on(probe(settings)).map_err(|failure| unanswered(name, settings, &failure))?;
    let mut findings: Vec<Finding> = probed
        .findings
        .into_iter()
        .map(|one| {
            let verdict = match one.verdict {
                Verdict::Yes => "yes",
                Verdict::No => "no",
                Verdict::Unknown => "unknown",
                Verdict::Told => "",
            };
            Finding::new(one.what, verdict, one.detail)
        })
        .collect();
    let tokens =
        format!("{} calls, {} tokens in, {} out", probed.calls, probed.usage.tokens_in, probed.usage.tokens_out);
    let cost = probed.cost_usd.map_or("the recipe states no prices".to_string(), dollars);
    findings.push(Finding::new("this cost", "", format!("{tokens}: {cost}")));
    Ok((format!("`{name}`: `{}` at {}", settings.model, settings.base_url.0), findings, Exit::Done))
}

/// What is wrong with the recipe or the key is said as such; a server that cannot be had is another thing.
fn unanswered(name: &str, settings: &OpenAiSettings, failure: &StageFailure) -> Failure {
    let exit = if matches!(failure, StageFailure::Recipe(_)) { Exit::Recipe } else { exit_of(failure) };
    let message = format!("`{name}` at {} gives no answer: {failure}", settings.base_url.0);
    let hint = match exit {
        Exit::Recipe => "look at `base_url`, `model` and the key of this model",
        _ => "is the server up, and is there a way to it from here?",
    };
    Failure::Plain { exit, message, hint: Some(hint.to_string()) }
}
