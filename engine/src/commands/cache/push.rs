//! `decoct cache push`: sends finished work and replies to the shared store.

use super::moving::{self, Scene};
use crate::cli::CachePushArgs;
use crate::failure::{Exit, Result};
use cache::ActionKey;

pub fn run(arguments: &CachePushArgs) -> Result<Exit> {
    let scene = Scene::open(&arguments.recipe, &arguments.store)?;
    let keys = if arguments.all { scene.store.keys()? } else { current(&scene, arguments)? };
    let absent = scene.store.push(&keys, &moving::progress("sent"))?;
    scene.tell();
    if !absent.is_empty() {
        eprintln!("warning: {} of {} results are no longer whole here, and were left out", absent.len(), keys.len());
    }
    Ok(Exit::Done)
}

/// What the recipe as it stands has finished.
fn current(scene: &Scene, arguments: &CachePushArgs) -> Result<Vec<ActionKey>> {
    let (finished, open) = scene.finished(&arguments.until)?;
    if !open.is_empty() {
        eprintln!("not finished, so not sent: {}", open.join(", "));
    }
    Ok(finished)
}
