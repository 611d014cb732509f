//! What a sweep would remove, and what that frees. Changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Doomed, Held, SweepOptions, SweepPlan, What};
use crate::error::{AtPath, Result};
use crate::hash::{ActionKey, BlobHash};
use crate::history::generations;
use crate::layout::Layout;
use crate::store::Store;
use crate::survey::{self, Stamp, StoredManifest, files_below, files_in, is_held, name_of, unless_gone};
use crate::usage::{NodeUsage, Share, by_node, named_blobs};

impl Store {
    /// Finds out what a sweep would remove. `roots` are keys to keep beside those of runs and pins.
    ///
    /// # Errors
    /// If something cannot be read, a pin above all: then it is not known what must stay.
    pub fn plan_sweep(&self, roots: &BTreeSet<ActionKey>, options: &SweepOptions) -> Result<SweepPlan> {
        let cutoff = SystemTime::now().checked_sub(options.grace).unwrap_or(SystemTime::UNIX_EPOCH);
        let layout = self.layout();
        let manifests = survey::manifests(layout)?;
        let blobs = survey::blobs(layout)?;
        let held = Held::now(layout)?;
        let needed = self.needed(roots, cutoff)?;
        let stays = |found: &&StoredManifest| {
            needed.contains(&found.key) || held.keys.contains(&found.key) || found.stamp.modified > cutoff
        };
        let (kept, dropped): (Vec<_>, Vec<_>) = manifests.iter().partition(stays);
        let named = named_blobs(&kept);
        let mut doomed: Vec<Doomed> = dropped.iter().map(|found| Doomed::generation(found)).collect();
        let unnamed = blobs
            .iter()
            .filter(|(hash, stamp)| !named.contains(hash) && stamp.modified <= cutoff && !held.may_have_made(stamp));
        doomed.extend(unnamed.map(|(hash, stamp)| Doomed {
            what: What::Blob(*hash),
            path: layout.blob(hash),
            stamp: *stamp,
        }));
        let kept_keys = kept.iter().map(|found| found.key).collect();
        let scratches = stale_scratches(layout, &needed, &held, cutoff)?;
        for key in &scratches {
            let files = files_below(&layout.scratch(key))?.into_iter();
            doomed.extend(files.map(|(path, stamp)| Doomed { what: What::Scratch(*key), path, stamp }));
        }
        doomed.extend(self.stale_records(&kept_keys, cutoff)?);
        doomed.extend(stale_locks(layout, cutoff)?);
        let (kept_generations, roots) = (kept.len() as u64, roots.clone());
        Ok(SweepPlan { kept_generations, cutoff, roots, scratches, ..account(&dropped, doomed) })
    }

    fn stale_records(&self, kept: &BTreeSet<ActionKey>, cutoff: SystemTime) -> Result<Vec<Doomed>> {
        let mut stale = Vec::new();
        for (path, stamp) in files_in(&self.layout().histories())? {
            let Some(bytes) = unless_gone(fs::read(&path)).at("read", &path)? else { continue };
            if generations(&bytes).iter().all(|generation| !kept.contains(&generation.key)) {
                stale.push(Doomed { what: What::Record, path, stamp });
            }
        }
        let runs = self.runs()?;
        let finished = runs.iter().filter(|run| !run.is_live && run.keys().all(|key| !kept.contains(&key)));
        let names: BTreeSet<&str> = finished.map(|run| run.name.as_str()).collect();
        let records = files_in(&self.layout().runs())?.into_iter();
        let records =
            records.filter(|(path, _)| name_of(path).strip_suffix(".jsonl").is_some_and(|name| names.contains(name)));
        stale.extend(records.map(|(path, stamp)| Doomed { what: What::Record, path, stamp }));
        let current = files_in(&self.layout().currents())?.into_iter();
        stale.extend(current.map(|(path, stamp)| Doomed { what: What::Record, path, stamp }));
        stale.retain(|doomed| doomed.stamp.modified <= cutoff);
        Ok(stale)
    }
}

impl SweepPlan {
    fn empty(nodes: Vec<NodeUsage>) -> Self {
        let nothing = Share::default();
        Self {
            nodes,
            orphans: nothing,
            scratch: nothing,
            records: nothing,
            total: nothing,
            kept_generations: 0,
            cutoff: SystemTime::UNIX_EPOCH,
            roots: BTreeSet::new(),
            doomed: Vec::new(),
            scratches: Vec::new(),
        }
    }
}

impl Doomed {
    fn generation(found: &StoredManifest) -> Self {
        Self { what: What::Generation(found.key), path: found.path.clone(), stamp: found.stamp }
    }
}

/// Adds up what removing all of `doomed` frees: a file with another name elsewhere frees nothing.
fn account(dropped: &[&StoredManifest], doomed: Vec<Doomed>) -> SweepPlan {
    let mut names: HashMap<(u64, u64), u64> = HashMap::new();
    doomed.iter().for_each(|doomed| *names.entry(doomed.stamp.inode).or_default() += 1);
    let mut free = |stamp: &Stamp| match names.remove(&stamp.inode) {
        Some(count) if count >= stamp.links => stamp.bytes,
        _ => 0,
    };
    let freed: Vec<u64> = doomed.iter().map(|doomed| free(&doomed.stamp)).collect();
    let freed_by_blob: HashMap<BlobHash, u64> =
        doomed.iter().zip(&freed).filter_map(|(doomed, freed)| blob_of(doomed).map(|blob| (blob, *freed))).collect();
    let nodes = by_node(dropped, |blob| freed_by_blob.get(blob).copied().unwrap_or(0));
    let named = named_blobs(dropped);
    let mut plan = SweepPlan::empty(nodes);
    // Locks are empty and no one's data: they are not counted.
    for (doomed, freed) in doomed.iter().zip(freed).filter(|(doomed, _)| !matches!(doomed.what, What::Lock)) {
        plan.total.add(freed);
        match doomed.what {
            What::Blob(hash) if !named.contains(&hash) => plan.orphans.add(freed),
            What::Scratch(_) => plan.scratch.add(freed),
            What::Record => plan.records.add(freed),
            What::Generation(_) | What::Blob(_) | What::Lock => {}
        }
    }
    let damaged = dropped.iter().filter(|found| found.manifest.is_err());
    damaged.for_each(|found| plan.records.add(found.stamp.bytes));
    SweepPlan { doomed, ..plan }
}

fn blob_of(doomed: &Doomed) -> Option<BlobHash> {
    match doomed.what {
        What::Blob(hash) => Some(hash),
        _ => None,
    }
}

/// Keys with checkpoints in which nothing was written within the grace period, and that no one needs or works on.
fn stale_scratches(
    layout: &Layout,
    needed: &BTreeSet<ActionKey>,
    held: &Held,
    cutoff: SystemTime,
) -> Result<Vec<ActionKey>> {
    let mut stale = Vec::new();
    for folder in survey::folders_in(&layout.scratches())? {
        let Ok(key) = name_of(&folder).parse::<ActionKey>() else { continue };
        let is_free = !needed.contains(&key) && !held.keys.contains(&key);
        if is_free && !is_fresh(&folder, &files_below(&folder)?, cutoff) {
            stale.push(key);
        }
    }
    Ok(stale)
}

/// Links to blobs are as old as the blobs: the folder's own time tells when it was begun.
fn is_fresh(folder: &Path, files: &[(PathBuf, Stamp)], cutoff: SystemTime) -> bool {
    let begun = fs::metadata(folder).and_then(|metadata| metadata.modified()).is_ok_and(|begun| begun > cutoff);
    begun || files.iter().any(|(_, stamp)| stamp.modified > cutoff)
}

/// Left by processes that were killed.
fn stale_locks(layout: &Layout, cutoff: SystemTime) -> Result<Vec<Doomed>> {
    let locks = files_in(&layout.locks())?.into_iter();
    let stale = locks.filter(|(path, stamp)| stamp.modified <= cutoff && !is_held(path));
    Ok(stale.map(|(path, stamp)| Doomed { what: What::Lock, path, stamp }).collect())
}
