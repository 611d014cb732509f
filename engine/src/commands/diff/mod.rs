//! `decoct diff`: two versions of an output, by row and in numbers; or two runs.

mod figures;
mod rows;
mod runs;
mod sides;

use super::show::{failure, find_finished, named_output};
use crate::cli::{DiffArgs, DiffFormat, RecipeArgs};
use crate::executor::artifacts;
use crate::executor::past::generations;
use crate::failure::{Exit, Failure, Result};
use crate::workplace::Workplace;
use cache::{Manifest, Store};
use figures::Figures;
use stages::changes::between;
use stages::rows::Rows;
use stages::stage::{Form, NodeRef, Output};
use std::path::PathBuf;

pub fn run(arguments: &DiffArgs) -> Result<Exit> {
    if runs::is_name(&arguments.old) {
        return runs::run(arguments);
    }
    let (old, new) = match &arguments.new {
        Some(new) => (Version::open(&arguments.old, arguments)?, Version::open(new, arguments)?),
        None => Version::before_and_now(&arguments.old, arguments)?,
    };
    let changes = between(&old.rows, &new.rows);
    match arguments.format {
        DiffFormat::Json => println!("{}", rows::to_json(&old, &new, &changes)),
        DiffFormat::Csv => print!("{}", rows::csv(&changes)),
        DiffFormat::Plain => print!("{}", rows::text(&old, &new, &changes, arguments.rows)),
    }
    Ok(Exit::Done)
}

struct Version {
    manifest: Manifest,
    output: String,
    rows: Rows,
}

/// `RECIPE:NODE[.output][@KEY]`, taken apart.
struct Named<'a> {
    recipe: &'a str,
    node: NodeRef,
    key: Option<&'a str>,
}

impl Version {
    fn open(name: &str, arguments: &DiffArgs) -> Result<Version> {
        let mut named = Named::parse(name)?;
        let (workplace, output) = named.find(arguments)?;
        match named.key {
            None => Version::now(&workplace, &named, &output),
            Some(key) => {
                let store = workplace.store_if_any()?.ok_or_else(|| no_version(name))?;
                let is_wanted = |one: &Manifest| one.key.to_string().starts_with(key);
                let found = generations(&store, &workplace.recipe.name, &named.node.node).find(is_wanted);
                Version::read(&store, found.ok_or_else(|| no_version(name))?, &output)
            }
        }
    }

    fn before_and_now(name: &str, arguments: &DiffArgs) -> Result<(Version, Version)> {
        let mut named = Named::parse(name)?;
        if named.key.is_some() {
            let hint = "give both, or leave out `@KEY` to compare the last two".to_string();
            return Err(Failure::usage("one version alone cannot be compared", Some(hint)));
        }
        let (workplace, output) = named.find(arguments)?;
        let now = Version::now(&workplace, &named, &output)?;
        let store = workplace.store_if_any()?.ok_or_else(|| no_version(name))?;
        let content = |one: &Manifest| one.outputs.get(&output.name).map(cache::Output::content);
        let is_other = |one: &Manifest| content(one) != content(&now.manifest);
        let before = generations(&store, &workplace.recipe.name, &named.node.node).find(is_other);
        Ok((Version::read(&store, before.ok_or_else(|| no_version(name))?, &output)?, now))
    }

    fn now(workplace: &Workplace, named: &Named, output: &Output) -> Result<Version> {
        let (store, manifest) = find_finished(workplace, &named.node.node)?;
        Version::read(&store, manifest, output)
    }

    fn read(store: &Store, manifest: Manifest, output: &Output) -> Result<Version> {
        let rows = artifacts::open_rows(store, &manifest, &output.name).map_err(failure)?;
        Ok(Version { manifest, output: output.name.clone(), rows })
    }

    fn figures(&self) -> Figures {
        Figures::of(&self.manifest, &self.output)
    }
}

impl<'a> Named<'a> {
    fn parse(name: &'a str) -> Result<Named<'a>> {
        let hint = "write RECIPE:NODE, RECIPE:NODE.output or RECIPE:NODE@KEY; or two runs, as `decoct runs` names them"
            .to_string();
        let no_name = || Failure::usage(format!("`{name}` names no version of an output"), Some(hint));
        let (recipe, rest) = name.rsplit_once(':').ok_or_else(no_name)?;
        let (node, key) = rest.split_once('@').map_or((rest, None), |(node, key)| (node, Some(key)));
        Ok(Named { recipe, node: NodeRef::parse(node), key })
    }

    /// Opens the recipe and settles which of its nodes is meant.
    fn find(&mut self, arguments: &DiffArgs) -> Result<(Workplace, Output)> {
        let recipe = RecipeArgs { recipe: PathBuf::from(self.recipe), overrides: arguments.overrides.clone() };
        let workplace = Workplace::open(&recipe, &arguments.store)?;
        self.node = workplace.reference(&self.node.to_string())?;
        let output = named_output(&workplace, &self.node)?;
        if output.form != Form::Rows {
            let hint = "`decoct explain` says what changed in what it was made from".to_string();
            return Err(Failure::usage(format!("`{}` is a model, not rows", self.node.node), Some(hint)));
        }
        Ok((workplace, output))
    }
}

fn no_version(name: &str) -> Failure {
    let hint = "every run that changes its rows leaves one; `decoct explain` names their keys".to_string();
    Failure::usage(format!("`{name}` has no such earlier version"), Some(hint))
}
