//! `decoct cache pull`: fetches finished work and replies from the shared store.

use super::moving::{self, Scene};
use crate::cli::CachePullArgs;
use crate::failure::{Exit, Result};

pub fn run(arguments: &CachePullArgs) -> Result<Exit> {
    let scene = Scene::open(&arguments.recipe, &arguments.store)?;
    let (finished, open) = scene.finished(&arguments.until)?;
    let absent = scene.store.pull(&finished, &moving::progress("fetched"))?;
    // Opening them fetches what others have added.
    drop(scene.store.replies()?);
    scene.tell();
    if !open.is_empty() {
        eprintln!("in neither store, so left to `decoct run`: {}", open.join(", "));
    }
    if !absent.is_empty() {
        eprintln!("warning: {} of {} results are not whole in the shared store", absent.len(), finished.len());
    }
    Ok(Exit::Done)
}
