//! What takes how much space in a store, by pipeline and node. Counts bytes of files, each file once however many names it has.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

use serde::Serialize;

use crate::error::Result;
use crate::hash::BlobHash;
use crate::manifest::{Manifest, Output};
use crate::memo;
use crate::store::Store;
use crate::survey::{self, Stamp, StoredManifest, files_below};

/// Some files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    pub files: u64,
    pub bytes: u64,
}

impl Share {
    pub fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What the generations of one node take: their files and their manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeUsage {
    pub pipeline: String,
    pub node: String,
    pub generations: u64,
    /// A file that several generations hold is counted at the newest of them.
    pub bytes: u64,
    /// Part of `bytes` that other nodes hold too.
    pub shared_bytes: u64,
}

/// What the kept replies take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepliesUsage {
    pub replies: u64,
    pub logs: u64,
    /// With their indexes.
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Largest first.
    pub nodes: Vec<NodeUsage>,
    /// Files of outputs that no manifest names.
    pub orphans: Share,
    pub replies: RepliesUsage,
    /// Checkpoints of work in progress.
    pub scratch: Share,
    /// Files being written.
    pub temporary: Share,
    /// Histories, records of runs, pins.
    pub records: Share,
    /// All else: locks, the stat cache, what cannot be read.
    pub rest: Share,
    pub total: Share,
}

impl Store {
    /// Counts everything in the store.
    ///
    /// # Errors
    /// If a folder of it cannot be listed or a manifest cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let layout = self.layout();
        let mut tally = Tally::default();
        let manifests = survey::manifests(layout)?;
        let intact: Vec<_> = manifests.iter().filter(|found| found.manifest.is_ok()).collect();
        let blobs = survey::blobs(layout)?;
        let named = named_blobs(&intact);
        let mut orphans = Share::default();
        for (hash, stamp) in &blobs {
            let bytes = tally.count(stamp);
            if !named.contains(hash) {
                orphans.add(bytes);
            }
        }
        for found in &intact {
            tally.count(&found.stamp);
        }
        let scratch = tally.count_below(layout.scratches())?;
        let mut records = Share::default();
        for folder in [layout.histories(), layout.runs(), layout.pins()] {
            let share = tally.count_below(folder)?;
            records = Share { files: records.files + share.files, bytes: records.bytes + share.bytes };
        }
        let (logs, replies) = memo::count(&layout.replies())?;
        let replies = RepliesUsage { replies, logs, bytes: tally.count_below(layout.replies())?.bytes };
        let temporary = tally.count_below(layout.temporary())?;
        let rest = tally.count_below(layout.root().to_owned())?;
        let nodes = by_node(&intact, |hash| blobs.get(hash).map_or(0, |stamp| stamp.bytes));
        Ok(Usage { nodes, orphans, replies, scratch, temporary, records, rest, total: tally.total })
    }
}

/// Counts each file at the first of its names that is met.
#[derive(Default)]
struct Tally {
    seen: HashSet<(u64, u64)>,
    total: Share,
}

impl Tally {
    /// The bytes that the file adds to what was counted before.
    fn count(&mut self, stamp: &Stamp) -> u64 {
        match self.seen.insert(stamp.inode) {
            true => {
                self.total.add(stamp.bytes);
                stamp.bytes
            }
            false => 0,
        }
    }

    /// Files under `folder` that were not counted before.
    fn count_below(&mut self, folder: PathBuf) -> Result<Share> {
        let mut share = Share::default();
        for (_, stamp) in files_below(&folder)? {
            if !self.seen.contains(&stamp.inode) {
                share.add(self.count(&stamp));
            }
        }
        Ok(share)
    }
}

/// Every blob that one of these manifests names.
pub(crate) fn named_blobs(manifests: &[&StoredManifest]) -> BTreeSet<BlobHash> {
    let outputs = manifests.iter().filter_map(|found| found.manifest.as_ref().ok());
    outputs.flat_map(blobs_of).collect()
}

/// What these generations take, largest node first. `bytes_of` says how much a blob counts.
pub(crate) fn by_node(manifests: &[&StoredManifest], bytes_of: impl Fn(&BlobHash) -> u64) -> Vec<NodeUsage> {
    let mut newest_first: Vec<_> =
        manifests.iter().filter_map(|found| Some((found.manifest.as_ref().ok()?, found))).collect();
    newest_first.sort_by_key(|(manifest, found)| std::cmp::Reverse((manifest.provenance.finished_at, found.key)));
    let holders = holders(newest_first.iter().map(|(manifest, _)| *manifest));
    let mut nodes: BTreeMap<(&str, &str), NodeUsage> = BTreeMap::new();
    let mut counted = HashSet::new();
    for (manifest, found) in newest_first {
        let (pipeline, node) = name_of(manifest);
        let usage = nodes.entry((pipeline, node)).or_insert_with(|| NodeUsage {
            pipeline: pipeline.to_owned(),
            node: node.to_owned(),
            ..NodeUsage::default()
        });
        usage.generations += 1;
        usage.bytes += found.stamp.bytes;
        for blob in blobs_of(manifest).filter(|blob| counted.insert(*blob)) {
            usage.bytes += bytes_of(&blob);
            usage.shared_bytes += if holders[&blob].len() > 1 { bytes_of(&blob) } else { 0 };
        }
    }
    let mut nodes: Vec<_> = nodes.into_values().collect();
    nodes.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| (&a.pipeline, &a.node).cmp(&(&b.pipeline, &b.node))));
    nodes
}

/// By blob: the nodes that hold it.
fn holders<'a>(manifests: impl Iterator<Item = &'a Manifest>) -> BTreeMap<BlobHash, BTreeSet<(&'a str, &'a str)>> {
    let mut holders = BTreeMap::<_, BTreeSet<_>>::new();
    for manifest in manifests {
        for blob in blobs_of(manifest) {
            holders.entry(blob).or_default().insert(name_of(manifest));
        }
    }
    holders
}

fn name_of(manifest: &Manifest) -> (&str, &str) {
    (&manifest.provenance.pipeline, &manifest.provenance.node)
}

fn blobs_of(manifest: &Manifest) -> impl Iterator<Item = BlobHash> + '_ {
    manifest.outputs.values().flat_map(Output::blobs).map(|(blob, _)| blob)
}
