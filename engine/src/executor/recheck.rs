//! `run --recheck`: a finished node is executed again, with the replies that are kept, and compared with its cached result.
//! Nothing is published: of two results for one key, the one that others have built on stays.

use super::artifacts::{self, PROVENANCE_FILES, Trouble};
use super::{Executor, caught, summary};
use crate::failure::Exit;
use crate::plan::Why;
use crate::report::words::{counted, thousands};
use crate::report::{Event, NodeSummary, Recheck, State};
use crate::schedule::Ending;
use crate::spec::Node;
use cache::Manifest;
use stages::compare::{self, Difference};
use stages::llm::Meter;
use stages::stage::{Artifact, Output};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Differences that are named; the rest is counted.
const SHOWN_DIFFERENCES: usize = 5;

impl Executor<'_> {
    /// Executes the node again. Those after it go on from the cached result, whatever comes out.
    pub(super) fn recheck(&self, index: usize, cached: Manifest) -> Ending {
        let (node, why) = (self.node(index), "executed again, to be compared with its cached result");
        self.reporter.tell(&Event::Started { node: &node.name, kind: node.kind.name, why });
        let (started, meter) = (Instant::now(), Arc::new(Meter::default()));
        let compared = caught(|| self.compare(node, &cached, &meter));
        let seconds = started.elapsed().as_secs_f64();
        match compared {
            Ok(differing) => self.tell_recheck(index, cached, &differing, &meter, seconds),
            Err(trouble) => self.end_badly(index, trouble, &meter, seconds),
        }
    }

    /// A wish that cannot be met: there is no result to compare with.
    pub(super) fn warn_of_nothing_to_compare(&self, index: usize, why: &Why) {
        let node = &self.node(index).name;
        if self.state().wishes.recheck.contains(node) {
            let message = format!("there is no cached result to compare with ({why}): it runs and is not rechecked");
            self.reporter.tell(&Event::Warned { node: Some(node), message: &message });
        }
    }

    fn tell_recheck(
        &self,
        index: usize,
        cached: Manifest,
        differing: &[String],
        meter: &Meter,
        seconds: f64,
    ) -> Ending {
        let (state, recheck, why) = match differing {
            [] => (State::Hit, Recheck::Same, "executed again, the same came out".to_string()),
            names => {
                self.state().exit.get_or_insert(Exit::NodeFailed);
                let why = format!("executed again, something else came out: {}", names.join(", "));
                (State::Failed, Recheck::Different, why)
            }
        };
        let summary = summary(self.node(index), Some(&cached), state, why, Some(meter), seconds);
        let summary = NodeSummary { recheck: Some(recheck), ..summary };
        self.finish_with(index, cached, summary);
        Ending::Finished
    }

    /// The outputs that differ, each with how much; the first differences of each are told at once.
    fn compare(&self, node: &Node, cached: &Manifest, meter: &Arc<Meter>) -> Result<Vec<String>, Trouble> {
        let _lock = self.lock(node, &cached.preimage)?;
        if !self.store.missing_blobs(cached)?.is_empty() {
            let message = "files of its cached result are gone: its hash is compared, differences cannot be named";
            self.reporter.tell(&Event::Warned { node: Some(&node.name), message });
        }
        let scratch = Scratch::new(self, cached)?;
        let outputs = self.execute(node, false, meter, &scratch.0)?.outputs;
        artifacts::check(&node.stage.outputs(), &outputs)?;
        let mut differing = Vec::new();
        for output in node.stage.outputs() {
            let artifact = &outputs.artifacts[&output.name];
            if artifacts::content(artifact)? != cached.outputs[&output.name].content() {
                differing.push(self.tell_differences(node, cached, &output, artifact, &scratch.0)?);
            }
        }
        Ok(differing)
    }

    /// Warns of the first differences of one output; in how many places it differs.
    fn tell_differences(
        &self,
        node: &Node,
        cached: &Manifest,
        output: &Output,
        artifact: &Artifact,
        scratch: &Path,
    ) -> Result<String, Trouble> {
        let name = if output.name.is_empty() { node.name.clone() } else { format!("{}.{}", node.name, output.name) };
        let old = match artifacts::open(self.store, cached, output, &scratch.join(format!("cached.{}", output.name))) {
            Ok(old) => old,
            Err(Trouble::Damaged(_) | Trouble::Gone(_)) => {
                return Ok(format!("`{name}`, whose cached files are gone or damaged"));
            }
            Err(trouble) => return Err(trouble),
        };
        let found = differences(&old, artifact)?;
        let warn = |text: String| {
            let message = format!("`{name}`: {text}");
            self.reporter.tell(&Event::Warned { node: Some(&node.name), message: &message });
        };
        found.iter().take(SHOWN_DIFFERENCES).for_each(|difference| warn(difference.to_string()));
        if found.len() > SHOWN_DIFFERENCES {
            warn(format!("and {} more", thousands((found.len() - SHOWN_DIFFERENCES) as u64)));
        }
        Ok(format!("`{name}` has {}", counted(found.len() as u64, "difference")))
    }
}

/// Cached → new. New rows are compared as they would have been stored.
fn differences(old: &Artifact, new: &Artifact) -> Result<Vec<Difference>, Trouble> {
    Ok(match (old, new) {
        (Artifact::Model(old), Artifact::Model(new)) => compare::models(old, new, PROVENANCE_FILES)?,
        (old, new) => match (artifacts::rows_of(old)?, artifacts::rows_of(new)?) {
            (Some(old), Some(new)) => compare::rows(&old, &new),
            _ => unreachable!("an output that changed its form was refused"),
        },
    })
}

/// A folder for checkpoints that no earlier attempt has left anything in, and that leaves nothing to a later one.
struct Scratch(PathBuf);

impl Scratch {
    fn new(executor: &Executor, cached: &Manifest) -> Result<Scratch, Trouble> {
        let _ = std::fs::remove_dir_all(executor.store.layout().scratch(&cached.key));
        Ok(Scratch(executor.store.scratch(&cached.key)?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
