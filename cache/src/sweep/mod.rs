//! Removes what nothing needs any more: a plan that changes nothing, then its execution.
//!
//! Needed is what a root names: keys handed in (of recipes), keys of runs that go on or are younger than the grace period, pins.
//! Whatever was written within the grace period stays in any case. No lock keeps a run waiting; instead the order of looking makes up
//! for what runs do meanwhile:
//!
//! ```text
//! a run    locks the key · writes blobs · writes the manifest · writes its record · lets go of the key
//! a sweep  lists manifests · asks which keys are locked · reads records     then removes manifests
//!          asks which keys are locked · lists manifests                     then removes blobs
//! ```
//! A manifest whose key is free when the sweep asks is on record when it reads; a blob without a manifest is older than every lock
//! that is held, or stays. For that, publishing always puts its own copy of a blob in place, never relies on one that is there. A run
//! that was about to read what a sweep removes finds it missing and makes it again: it pays time, never with wrong rows. Removing goes
//! manifests first, so a sweep that dies leaves blobs that no manifest names, and the next one takes them.

mod plan;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::Result;
use crate::hash::{ActionKey, BlobHash};
use crate::layout::Layout;
use crate::lock::FileLock;
use crate::store::Store;
use crate::survey::{self, Stamp, files_in, is_held, name_of, remove_if_same};
use crate::usage::{NodeUsage, Share, named_blobs};

/// Long enough for a holiday, short enough for a disk.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Clone, Copy, Debug)]
pub struct SweepOptions {
    /// What is younger stays whatever it is, and so does what younger runs used.
    pub grace: Duration,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { grace: DEFAULT_GRACE }
    }
}

/// What a sweep would remove, and what that frees.
#[derive(Debug)]
pub struct SweepPlan {
    /// Generations that no root names, by node, with the files that only they hold; largest first.
    pub nodes: Vec<NodeUsage>,
    /// Files of outputs that no manifest names.
    pub orphans: Share,
    /// Checkpoints of work that no one is busy with.
    pub scratch: Share,
    /// Histories and records of runs of which no result is left, and manifests that cannot be read.
    pub records: Share,
    /// All of it.
    pub total: Share,
    /// Generations that stay.
    pub kept_generations: u64,
    cutoff: SystemTime,
    roots: BTreeSet<ActionKey>,
    doomed: Vec<Doomed>,
    /// Whose checkpoints are among them; a folder of these may be empty.
    scratches: Vec<ActionKey>,
}

/// What a sweep has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub removed: Share,
    /// Files of the plan that stayed, because a run has come to need them since.
    pub spared: u64,
}

#[derive(Debug)]
struct Doomed {
    what: What,
    path: PathBuf,
    stamp: Stamp,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Generation(ActionKey),
    Blob(BlobHash),
    /// A file in the folder of this key.
    Scratch(ActionKey),
    /// A history or the record of a run.
    Record,
    Lock,
}

impl Store {
    /// Does what `plan` says, except for what has come into use since.
    ///
    /// # Errors
    /// If something cannot be removed; what was removed before stays so, and a later sweep goes on.
    pub fn sweep(&self, plan: &SweepPlan) -> Result<Swept> {
        let layout = self.layout();
        let (mut swept, held) = (Swept::default(), Held::now(layout)?);
        let needed = self.needed(&plan.roots, plan.cutoff)?;
        for doomed in &plan.doomed {
            if let What::Generation(key) = doomed.what {
                let is_free = !needed.contains(&key) && !held.keys.contains(&key);
                swept.note(is_free, doomed, layout)?;
            }
        }
        let held = Held::now(layout)?;
        let named = named_blobs(&survey::manifests(layout)?.iter().collect::<Vec<_>>());
        for doomed in &plan.doomed {
            match doomed.what {
                What::Blob(hash) => {
                    let is_free = !named.contains(&hash) && !held.may_have_made(&doomed.stamp);
                    swept.note(is_free, doomed, layout)?;
                }
                What::Record => swept.note(!is_held(&doomed.path), doomed, layout)?,
                What::Lock => remove_lock(&doomed.path)?,
                What::Generation(_) | What::Scratch(_) => {}
            }
        }
        self.sweep_scratch(plan, &needed, &mut swept)?;
        Ok(swept)
    }

    fn needed(&self, roots: &BTreeSet<ActionKey>, cutoff: SystemTime) -> Result<BTreeSet<ActionKey>> {
        let mut needed = roots.clone();
        needed.extend(self.pins()?.iter().flat_map(|pin| pin.keys.values().copied()));
        let runs = self.runs()?;
        needed.extend(runs.iter().filter(|run| run.is_live || run.modified > cutoff).flat_map(|run| run.keys()));
        Ok(needed)
    }

    /// Folder by folder, each under its key's lock.
    fn sweep_scratch(&self, plan: &SweepPlan, needed: &BTreeSet<ActionKey>, swept: &mut Swept) -> Result<()> {
        let mut files: HashMap<ActionKey, Vec<&Doomed>> = HashMap::new();
        for doomed in &plan.doomed {
            if let What::Scratch(key) = doomed.what {
                files.entry(key).or_default().push(doomed);
            }
        }
        for key in &plan.scratches {
            let lock = if needed.contains(key) { None } else { self.try_lock(key)? };
            for doomed in files.remove(key).into_iter().flatten() {
                swept.note(lock.is_some(), doomed, self.layout())?;
            }
            if lock.is_some() {
                remove_empty_folders(&self.layout().scratch(key));
            }
        }
        Ok(())
    }
}

impl Swept {
    fn note(&mut self, is_free: bool, doomed: &Doomed, layout: &Layout) -> Result<()> {
        // Asked now: another name of it may have been removed since the plan.
        let is_last_name = fs::symlink_metadata(&doomed.path).is_ok_and(|metadata| Stamp::of(&metadata).links == 1);
        match is_free && remove_if_same(layout, &doomed.path, &doomed.stamp)? {
            true => self.removed.add(if is_last_name { doomed.stamp.bytes } else { 0 }),
            false => self.spared += 1,
        }
        Ok(())
    }
}

impl SweepPlan {
    pub fn is_empty(&self) -> bool {
        self.doomed.is_empty() && self.scratches.is_empty()
    }
}

/// Keys that someone works on.
struct Held {
    keys: BTreeSet<ActionKey>,
    /// When the oldest of these locks was taken, or before.
    since: Option<SystemTime>,
}

impl Held {
    fn now(layout: &Layout) -> Result<Self> {
        let locks = files_in(&layout.locks())?.into_iter().filter(|(path, _)| is_held(path));
        let locks: Vec<(PathBuf, Stamp)> = locks.collect();
        let keys = locks.iter().filter_map(|(path, _)| name_of(path).parse().ok()).collect();
        Ok(Self { keys, since: locks.iter().map(|(_, stamp)| stamp.modified).min() })
    }

    /// Whether someone at work may have written this blob, and not yet named it in a manifest.
    fn may_have_made(&self, blob: &Stamp) -> bool {
        self.since.is_some_and(|since| blob.modified >= since)
    }
}

fn remove_lock(path: &Path) -> Result<()> {
    if let Some(lock) = FileLock::try_acquire(path)? {
        lock.remove();
    }
    Ok(())
}

/// Folders only; one that holds a file stays.
fn remove_empty_folders(folder: &Path) {
    for inner in survey::folders_in(folder).into_iter().flatten() {
        remove_empty_folders(&inner);
    }
    let _ = fs::remove_dir(folder);
}
