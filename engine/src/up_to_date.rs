//! A run that found nothing to do is remembered with all files that it rests on, so that the next one need not even read the recipe.

use crate::cli::{EventFormat, RunArgs};
use crate::executor::MADE_BY;
use crate::plan::Planner;
use crate::report::{NodeSummary, State};
use crate::spec::Recipe;
use crate::workplace;
use cache::{Basis, Digest, Hasher, Manifest, Output, Store, UpToDate};
use serde::{Deserialize, Serialize};
use stages::report::{Report, ReportTable};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const DOMAIN: &str = "decoct 1 what a run is asked for";

/// What is told again about a node: its name, its rows, its labels, and the tables that the recipe is run for. Short, for recipes
/// of ten thousand nodes.
#[derive(Serialize, Deserialize)]
struct Told<'a>(Cow<'a, str>, Option<u64>, Vec<String>, Vec<ReportTable>);

/// What such a run would tell of its nodes, all of them hits; `None` where it has to look for itself.
pub fn recall(arguments: &RunArgs) -> Option<Vec<NodeSummary>> {
    let found = UpToDate::recall(&workplace::cache_folder(&arguments.store).ok()?, &question(arguments)?)?;
    let told: Vec<Told> = serde_json::from_slice(&found.answer).ok()?;
    found.renew().ok()?;
    Some(told.into_iter().map(Told::summary).collect())
}

/// Remembers a run that found nothing to do. It began at `began`, and `record` is its record.
///
/// # Errors
/// If the store cannot be written to: the next run takes a little longer, nothing else.
pub fn remember(
    arguments: &RunArgs,
    planner: &Planner,
    nodes: &[NodeSummary],
    manifests: &HashMap<String, Manifest>,
    record: &Path,
    (store, began): (&Store, SystemTime),
) -> cache::Result<()> {
    let nothing_to_do = nodes.iter().all(|node| node.state == State::Hit && node.recheck.is_none());
    let (true, Some(question)) = (nothing_to_do, question(arguments)) else { return Ok(()) };
    let told: Vec<Told> = nodes.iter().map(Told::of).collect();
    let answer = serde_json::to_vec(&told).expect("what is told is plain data");
    store.note_up_to_date(&question, &basis(planner, manifests), &answer, record, began)
}

impl<'a> Told<'a> {
    fn of(node: &'a NodeSummary) -> Told<'a> {
        let headlines = node.report.tables.iter().filter(|table| table.headline).cloned().collect();
        Told(Cow::Borrowed(&node.node), node.rows, node.labels.clone(), headlines)
    }

    fn summary(self) -> NodeSummary {
        let Told(node, rows, labels, tables) = self;
        NodeSummary { rows, labels, report: Report { tables }, ..NodeSummary::hit(node.into_owned()) }
    }
}

/// Whatever a run is asked for, but how fast it is to be done. `None` where that is more than to bring nodes up to date.
fn question(arguments: &RunArgs) -> Option<Digest> {
    let (scope, overrides) = (&arguments.scope, &arguments.recipe.overrides);
    if arguments.format == EventFormat::Json {
        return None; // Programs are told everything, which is more than is remembered.
    }
    let does_more = [&scope.force, &scope.retry_marked, &arguments.recheck].iter().any(|nodes| !nodes.is_empty());
    if does_more || arguments.store.no_stat_cache {
        return None;
    }
    let recipe = std::path::absolute(&arguments.recipe.recipe).ok()?;
    let device = format!("{:?}", arguments.machine.device);
    let mut hasher = Hasher::new(DOMAIN);
    hasher.field("made by", MADE_BY.as_bytes()).field("device", device.as_bytes());
    hasher.field("recipe", recipe.as_os_str().as_encoded_bytes());
    hasher.field("limit", format!("{:?}", overrides.limit).as_bytes());
    for (name, texts) in [("profile", &overrides.profile), ("set", &overrides.set), ("until", &scope.until)] {
        for text in texts {
            hasher.field(name, text.as_bytes());
        }
    }
    Some(hasher.finish())
}

/// Everything on which it rests that these nodes are up to date.
fn basis(planner: &Planner, manifests: &HashMap<String, Manifest>) -> Basis {
    let mut basis = Basis { paths: files(planner.recipe, planner), ..Basis::default() };
    basis.keys.extend(manifests.values().map(|manifest| manifest.key));
    let last = planner.nodes.iter().filter(|&&node| planner.is_last(node));
    let last = last.filter_map(|&node| manifests.get(planner.graph.name(node)));
    basis.blobs.extend(last.flat_map(|manifest| manifest.outputs.values().flat_map(Output::blobs)).map(|blob| blob.0));
    basis
}

fn files(recipe: &Recipe, planner: &Planner) -> BTreeSet<PathBuf> {
    let program = std::env::current_exe().ok();
    let counted = crate::manifest::files(recipe, planner.entries());
    recipe.looked_at.iter().cloned().chain(counted).chain(program).collect()
}
