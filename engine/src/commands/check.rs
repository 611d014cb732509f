//! `decoct check`: every mistake of a recipe, and nothing else.

use crate::cli::{CheckArgs, EventFormat};
use crate::failure::{Exit, Result};
use crate::spec::{self, Diagnostics};

pub fn run(arguments: &CheckArgs) -> Result<Exit> {
    let recipe = match spec::load(&arguments.recipe.recipe, &arguments.recipe.overrides.overrides()) {
        Ok(recipe) => recipe,
        Err(diagnostics) if arguments.format == EventFormat::Json => return Ok(print_json(&diagnostics)),
        Err(diagnostics) => return Err(diagnostics.into()),
    };
    match arguments.format {
        EventFormat::Json => println!("{}", finished(true)),
        EventFormat::Plain => {
            let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            let (nodes, models) = (count(recipe.nodes.len(), "node"), count(recipe.models.len(), "model"));
            println!("`{}` is sound: {nodes}, {models}", recipe.path.display());
        }
    }
    Ok(Exit::Done)
}

fn print_json(diagnostics: &Diagnostics) -> Exit {
    for mut diagnostic in diagnostics.to_json() {
        diagnostic["event"] = "diagnostic".into();
        println!("{diagnostic}");
    }
    println!("{}", finished(false));
    Exit::Recipe
}

fn finished(ok: bool) -> serde_json::Value {
    serde_json::json!({"event": "finished", "ok": ok, "nodes": []})
}
