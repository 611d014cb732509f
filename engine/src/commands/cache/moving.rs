//! What `push` and `pull` have in common: a recipe, its two stores, and a line that says how far it is.

use crate::cli::{RecipeArgs, StoreArgs};
use crate::failure::{Failure, Result};
use crate::plan::{Decision, Planner, Wishes};
use crate::report::PlainReporter;
use crate::report::words::bytes;
use crate::workplace::Workplace;
use cache::{ActionKey, Store, Transfer};
use std::io::{IsTerminal, Write};

pub struct Scene {
    workplace: Workplace,
    pub store: Store,
    reporter: PlainReporter,
}

impl Scene {
    /// # Errors
    /// If the recipe names no shared store, or it does not answer.
    pub fn open(recipe: &RecipeArgs, store: &StoreArgs) -> Result<Scene> {
        let workplace = Workplace::open(recipe, store)?;
        if workplace.team.is_none() {
            let hint = "add `cache: { remote: … }` to it, or say `--set cache.remote=…`".to_string();
            let message = format!("`{}` names no shared store", workplace.recipe.path.display());
            return Err(Failure::usage(message, Some(hint)));
        }
        let store = workplace.store()?;
        Ok(Scene { workplace, store, reporter: PlainReporter::new() })
    }

    /// Keys of nodes that are finished, in either store, and names of those that are not.
    pub fn finished(&self, until: &[String]) -> Result<(Vec<ActionKey>, Vec<String>)> {
        let wishes = Wishes { until: self.workplace.nodes_named(until)?, ..Wishes::default() };
        let past = self.workplace.past(Some(&self.store), &self.reporter);
        let planner = Planner::new(&self.workplace.recipe, &self.workplace.graph, &past, &wishes);
        let mut known = self.workplace.known(&planner)?;
        let (mut finished, mut open) = (Vec::new(), Vec::new());
        for planned in planner.plan(&mut known, &wishes)? {
            match planned.decision {
                Decision::Hit(manifest) => finished.push(manifest.key),
                _ => open.push(self.workplace.graph.name(planned.node).to_string()),
            }
        }
        Ok((finished, open))
    }

    pub fn tell(&self) {
        self.workplace.team.iter().for_each(|team| team.tell(&self.reporter));
    }
}

/// One line that is written over as things move; nothing where no one watches.
pub fn progress(done: &'static str) -> impl Fn(Transfer) + Sync {
    let is_watched = std::io::stderr().is_terminal();
    move |transfer: Transfer| {
        if is_watched {
            let end = if transfer.done == transfer.of { "\r\x1b[K" } else { "" };
            let line = format!("\r{done} {} of {}, {}{end}", transfer.done, transfer.of, bytes(transfer.bytes));
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}
