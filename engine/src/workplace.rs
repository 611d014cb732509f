//! A recipe on this machine: read, with its store and its source files' contents at hand. What `run`, `plan` and `show` start from.

use crate::cli::{OverrideArgs, RecipeArgs, ScopeArgs, StoreArgs};
use crate::executor::past::StoredPast;
use crate::failure::{Exit, Failure, Result};
use crate::graph::Graph;
use crate::manifest::{self, Known};
use crate::plan::{Decision, Planned, Planner, Wishes};
use crate::report::Reporter;
use crate::report::words::counted;
use crate::spec::{self, Recipe};
use crate::team::Team;
use cache::{StatCache, Store, source_hash};
use serde_json::Value;
use stages::settings::{Findings, nearest_hint};
use stages::stage::NodeRef;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Workplace {
    pub recipe: Recipe,
    pub graph: Graph,
    pub cache_folder: PathBuf,
    /// None where every source file is read again.
    remembered: Option<Arc<Remembered>>,
    /// The store that the recipe's team shares.
    pub team: Option<Team>,
}

/// What is known of source files since they were read last: kept in the store, asked already while the recipe is read.
#[derive(Debug)]
struct Remembered(StatCache);

impl Findings for Remembered {
    fn recall_or_look(&self, file: &Path, name: &str, look: &mut dyn FnMut() -> Option<Value>) -> Option<Value> {
        self.0.recall_or_look(file, name, look)
    }
}

impl Workplace {
    /// Reads the recipe with all that is laid over it.
    ///
    /// # Errors
    /// All mistakes of the recipe at once.
    pub fn open(arguments: &RecipeArgs, store: &StoreArgs) -> Result<Workplace> {
        let cache_folder = cache_folder(store);
        let remembered = cache_folder.as_ref().ok().filter(|_| !store.no_stat_cache);
        let remembered = remembered.map(|folder| Arc::new(Remembered(StatCache::of_store(folder))));
        let findings = remembered.clone().map(|remembered| remembered as Arc<dyn Findings>);
        let recipe = spec::load(&arguments.recipe, &arguments.overrides.overrides(), findings)?;
        let graph = Graph::build(&recipe);
        let team = Team::open(&recipe.sharing, &arguments.overrides.sharing)?;
        Ok(Workplace { recipe, graph, cache_folder: cache_folder?, remembered, team })
    }

    /// The store, made where there is none, with the shared one behind it.
    ///
    /// # Errors
    /// If either cannot be used: that is found out before anything is spent.
    pub fn store(&self) -> Result<Store> {
        let store = Store::open(&self.cache_folder)?;
        match &self.team {
            Some(team) => Ok(store.shared(team.reached()?)),
            None => Ok(store),
        }
    }

    /// The store where one exists, here or shared, for someone who only looks: nothing is written, and nothing kept of what the
    /// shared one has.
    pub fn store_if_any(&self) -> Result<Option<Store>> {
        let here = Store::look(&self.cache_folder)?;
        match &self.team {
            None => Ok(here),
            Some(team) => {
                let here = here.map_or_else(|| Store::open(team.stand_in()), Ok)?;
                Ok(Some(here.shared(team.reached()?).looking()))
            }
        }
    }

    pub fn past<'a>(&'a self, store: Option<&'a Store>, reporter: &'a dyn Reporter) -> StoredPast<'a> {
        StoredPast { store, recipe: &self.recipe.name, reporter }
    }

    /// Names in the wishes are checked: all must be nodes of the recipe, or mean variants of one.
    pub fn wishes(&self, scope: &ScopeArgs) -> Result<Wishes> {
        Ok(Wishes {
            until: self.nodes_named(&scope.until)?,
            force: self.nodes_named(&scope.force)?,
            retry_marked: self.nodes_named(&scope.retry_marked)?,
            recheck: BTreeSet::new(),
        })
    }

    /// The nodes that names mean: one each, or all variants that fit.
    pub fn nodes_named<Names: FromIterator<String>>(&self, names: &[String]) -> Result<Names> {
        let mut nodes = Vec::new();
        for name in names {
            match self.recipe.variants.matching(name) {
                variants if variants.is_empty() => nodes.push(self.check_node(name).map(|()| name.clone())?),
                variants => nodes.extend(variants.into_iter().map(str::to_string)),
            }
        }
        Ok(nodes.into_iter().collect())
    }

    /// The one node and output that a text means: a variant may name its values in any order, and a single one none.
    pub fn reference(&self, text: &str) -> Result<NodeRef> {
        let reference = NodeRef::parse(text);
        match self.recipe.variants.matching(&reference.node)[..] {
            [variant] => Ok(NodeRef { node: variant.to_string(), ..reference }),
            _ => self.check_node(&reference.node).map(|()| reference),
        }
    }

    /// One node must be meant, where there is no sense in several.
    pub fn check_node(&self, name: &str) -> Result<()> {
        if self.recipe.nodes.contains_key(name) {
            return Ok(());
        }
        let variants = self.recipe.variants.matching(name);
        if !variants.is_empty() {
            let hint = Some(format!("name one of them: `{}`", variants.join("`, `")));
            return Err(Failure::usage(format!("`{name}` has {}", counted(variants.len() as u64, "variant")), hint));
        }
        let hint = nearest_hint(name, self.recipe.nodes.keys().map(String::as_str));
        Err(Failure::usage(format!("`{}` has no node `{name}`", self.recipe.path.display()), hint))
    }

    /// Hashes the source files of the nodes in question.
    pub fn known(&self, planner: &Planner) -> Result<Known> {
        let mut known = Known::default();
        for path in manifest::files(&self.recipe, planner.entries()) {
            let content = source_hash(&path, self.remembered.as_ref().map(|remembered| &remembered.0))?;
            known.add_file(path, content);
        }
        Ok(known)
    }

    /// Keeps what is known of source files by now.
    ///
    /// # Errors
    /// If the store cannot be written to: it costs reading them again.
    pub fn remember_files(&self) -> cache::Result<()> {
        self.remembered.as_ref().map_or(Ok(()), |remembered| remembered.0.save())
    }

    /// Keys of models that nodes of the plan may call must be in the environment before anything is spent.
    pub fn check_environment(&self, planned: &[Planned], wishes: &Wishes) -> Result<()> {
        let is_rechecked = |one: &Planned| wishes.recheck.contains(self.graph.name(one.node));
        let calling = planned.iter().filter(|one| !matches!(one.decision, Decision::Hit(_)) || is_rechecked(one));
        let missing = self.recipe.missing_environment(calling.map(|one| self.graph.name(one.node)));
        if missing.list.is_empty() { Ok(()) } else { Err(missing.into()) }
    }
}

/// What the command line lays over the recipe, as it was written there.
pub fn overrides_as_written(arguments: &RecipeArgs) -> Vec<String> {
    written(&arguments.overrides)
}

/// The same for what is kept: without the user and password of an address.
pub fn overrides_on_record(overrides: &OverrideArgs) -> Vec<String> {
    written(overrides).iter().map(|text| without_login(text)).collect()
}

fn without_login(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_string() };
    let host_end = rest.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(rest.len());
    let host = rest[..host_end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", without_login(&rest[host..]))
}

fn written(overrides: &OverrideArgs) -> Vec<String> {
    let profiles = overrides.profile.iter().map(|name| format!("--profile {name}"));
    let sets = overrides.set.iter().map(|set| format!("--set {set}"));
    profiles.chain(sets).chain(overrides.limit.map(|limit| format!("--limit {limit}"))).collect()
}

pub fn cache_folder(store: &StoreArgs) -> Result<PathBuf> {
    let nowhere =
        || Failure::usage("there is no place for finished work", Some("name one with `--cache DIR`".to_string()));
    let folder = store.folder().ok_or_else(nowhere)?;
    std::path::absolute(&folder).map_err(|error| Failure::io("find", &folder, &error))
}

/// A store that cannot be used ends a command with its own exit code.
impl From<cache::Error> for Failure {
    fn from(error: cache::Error) -> Failure {
        let exit = if matches!(error, cache::Error::Remote { .. }) { Exit::Remote } else { Exit::Cache };
        let text = error.to_string();
        let (message, hint) = match text.split_once("\n  hint: ") {
            Some((message, hint)) => (message.to_string(), Some(hint.to_string())),
            None => (text, None),
        };
        Failure::Plain { exit, message, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The disaster: a password that was typed once lies in the store for good.
    #[test]
    fn no_login_of_an_address_is_put_on_record() {
        for (set, expected) in [
            ("models.a.base_url=http://localhost:8000/v1", "--set models.a.base_url=http://localhost:8000/v1"),
            ("models.a.base_url=https://me:secret@host/v1", "--set models.a.base_url=https://host/v1"),
            ("models.a.base_url=https://me:p@ss@host", "--set models.a.base_url=https://host"),
            ("params.seed=8", "--set params.seed=8"),
            ("params.urls=[https://a:b@c/d, https://e:f@g]", "--set params.urls=[https://c/d, https://g]"),
            ("params.mail=me@host", "--set params.mail=me@host"),
        ] {
            let overrides = OverrideArgs { set: vec![set.to_string()], ..OverrideArgs::default() };
            assert_eq!(overrides_on_record(&overrides), [expected]);
        }
    }
}
