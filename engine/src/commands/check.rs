//! `decoct check`: every mistake of a recipe, and nothing else.

use crate::cli::{CheckArgs, EventFormat, RecipeArgs};
use crate::failure::{Exit, Result, finished};
use crate::plan::{Planner, Wishes};
use crate::report::PlainReporter;
use crate::report::words::counted;
use crate::spec::{Recipe, codes};
use crate::workplace::Workplace;

pub fn run(arguments: &CheckArgs) -> Result<Exit> {
    let Some(recipe) = arguments.recipe.clone() else {
        print!("{}", codes::table());
        return Ok(Exit::Done);
    };
    let recipe = RecipeArgs { recipe, overrides: arguments.overrides.clone() };
    let workplace = Workplace::open(&recipe, &arguments.store)?;
    check_environment(&workplace)?;
    match arguments.format {
        EventFormat::Json => println!("{}", finished(true)),
        EventFormat::Plain => println!("{}", sound(&workplace.recipe)),
    }
    Ok(Exit::Done)
}

/// Only nodes whose results are not there yet will call, and need keys for it.
fn check_environment(workplace: &Workplace) -> Result<()> {
    let (reporter, wishes) = (PlainReporter::new(), Wishes::default());
    let store = workplace.store_if_any()?;
    let past = workplace.past(store.as_ref(), &reporter);
    let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
    let mut known = workplace.known(&planner)?;
    workplace.check_environment(&planner.plan(&mut known, &wishes)?, &wishes)
}

fn sound(recipe: &Recipe) -> String {
    let (nodes, models) = (counted(recipe.nodes.len() as u64, "node"), counted(recipe.models.len() as u64, "model"));
    format!("`{}` is sound: {nodes}, {models}", recipe.path.display())
}
