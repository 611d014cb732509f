//! How fast finished work is found, published, and copied in and out; what waits for the disk stands beside the same work done
//! plainly. `cargo bench --workspace --bench store`.

mod support;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use cache::{ActionKey, Manifest, Output, Placement, Preimage, Provenance, Store, Table};
use support::{Time, compare, report};

const SMALL_OUTPUTS: usize = 1_000;
const TURN: usize = 50;
const LARGE_BYTES: usize = 1 << 30;
/// About as much text as the prompts and settings of one node.
const PROMPT_BYTES: usize = 2_000;

fn main() {
    for manifests in [1_000, 100_000] {
        lookups(manifests);
    }
    publish_small();
    large_blob();
}

/// Manifests are written without waiting for the disk: finding them is what is measured.
fn lookups(manifests: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path()).expect("a store");
    let template = publish(&store, "template", &small_table());
    let keys: Vec<ActionKey> = (0..manifests).map(|number| put_aside(&store, &template, number)).collect();
    let find = |key| assert!(black_box(store.lookup(key)).is_ok_and(|found| found.intact().is_some()));
    report("lookup, found", manifests, Time::shortest(|| keys.iter().for_each(find)));
    let missing: Vec<ActionKey> = (0..manifests).map(|number| preimage(&format!("no {number}")).action_key()).collect();
    let miss = |key| assert!(black_box(store.lookup(key)).is_ok_and(|found| found.intact().is_none()));
    report("lookup, missing", manifests, Time::shortest(|| missing.iter().for_each(miss)));
}

fn put_aside(store: &Store, template: &Manifest, number: usize) -> ActionKey {
    let preimage = preimage(&number.to_string());
    let key = preimage.action_key();
    let path = store.layout().manifest(&key);
    fs::create_dir_all(path.parent().expect("manifests lie in folders")).expect("a folder");
    fs::write(path, Manifest { key, preimage, ..template.clone() }.to_bytes()).expect("room for a manifest");
    key
}

fn preimage(name: &str) -> Preimage {
    Preimage::new().text("name", name).text("prompt", &"dose ".repeat(PROMPT_BYTES / 5))
}

fn publish(store: &Store, name: &str, table: &Table) -> Manifest {
    let mut publication = store.publish(preimage(name));
    publication.table("rows", table).expect("room for a table");
    publication.commit(Provenance::default()).expect("room for a manifest")
}

fn small_table() -> Table {
    let texts: ArrayRef = Arc::new((0..10).map(|row| Some(format!("give {row} of 45 mg"))).collect::<StringArray>());
    let batch = RecordBatch::try_from_iter([("text", texts)]).expect("one column");
    Table::new(batch.schema(), vec![batch])
}

/// One after another, all different, each safe from a power cut when the next begins; in turns with files of the same sizes, with the
/// same syncs and nothing else, as a shared disk is not equally fast all the time.
fn publish_small() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("store")).expect("a store");
    let (mut ours, mut plain) = (Time::default(), Time::default());
    for first in (0..SMALL_OUTPUTS).step_by(TURN) {
        let turn = first..first + TURN;
        let tables: Vec<Table> = turn.clone().map(numbered_table).collect();
        let mut sizes = Vec::new();
        ours += Time::of(|| {
            for (number, table) in turn.clone().zip(&tables) {
                let manifest = publish(&store, &number.to_string(), table);
                sizes.push((number, blob_bytes(&manifest), manifest.to_bytes().len()));
            }
        });
        plain += Time::of(|| plain_files(&folder.path().join("plain"), &sizes));
    }
    report("publish, small, durable", SMALL_OUTPUTS, ours);
    report("the same files and syncs", SMALL_OUTPUTS, plain);
    compare("publish, small, durable", ours, plain);
}

fn numbered_table(number: usize) -> Table {
    let text: ArrayRef = Arc::new(StringArray::from(vec![format!("give {number} of 45 mg"); 10]));
    let batch = RecordBatch::try_from_iter([("text", text)]).expect("one column");
    Table::new(batch.schema(), vec![batch])
}

fn blob_bytes(manifest: &Manifest) -> usize {
    manifest.outputs.values().map(Output::bytes).sum::<u64>() as usize
}

fn plain_files(folder: &Path, sizes: &[(usize, usize, usize)]) {
    for (number, blob, manifest) in sizes {
        for (kind, bytes) in [("blob", blob), ("manifest", manifest)] {
            let target = folder.join(kind).join(format!("{:02x}", number % 256));
            fs::create_dir_all(&target).expect("a folder");
            let aside = folder.join("aside");
            let mut file = File::create(&aside).expect("a file");
            file.write_all(&vec![7; *bytes]).and_then(|()| file.sync_all()).expect("room");
            fs::rename(&aside, target.join(number.to_string())).expect("a renamed file");
            File::open(&target).and_then(|folder| folder.sync_all()).expect("a folder that syncs");
        }
    }
}

/// In: hashed, synced, published. Out: verified and copied. Beside a copy with a sync, and a plain read.
fn large_blob() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("a folder");
    let source = model.join("model.safetensors");
    write_noise(&source);
    let store = Store::open(&folder.path().join("store")).expect("a store");
    let copied = folder.path().join("copied");
    let mut manifest: Option<Manifest> = None;
    let publish_large = || {
        manifest.take().iter().for_each(|old| forget(&store, old));
        let mut publication = store.publish(preimage("large"));
        publication.tree("model", &model, &[]).expect("room for a blob");
        manifest = Some(publication.commit(Provenance::default()).expect("room for a manifest"));
    };
    let (ours, plain) = Time::in_turns(publish_large, || plain_copy(&source, &copied));
    let manifest = manifest.expect("published above");
    let (blob, bytes) = manifest.outputs["model"].blobs()[0];
    let megabytes = bytes as usize >> 20;
    report("1 GiB in", megabytes, ours);
    report("1 GiB copied and synced", megabytes, plain);
    compare("1 GiB in", ours, plain);
    let open = || drop(store.open_blob(&blob).expect("a store").expect("an intact blob"));
    let (ours, plain) = Time::in_turns(open, || plain_read(&source));
    report("1 GiB opened, verified", megabytes, ours);
    report("1 GiB read", megabytes, plain);
    compare("1 GiB opened, verified", ours, plain);
    let out = folder.path().join("out");
    let place =
        |how| store.materialise(&manifest, "model", &out, how).expect("a store").intact().expect("an intact blob");
    report("1 GiB out, linked", megabytes, Time::shortest(|| place(Placement::Link)));
    report("1 GiB out, copied", megabytes, Time::shortest(|| place(Placement::Copy)));
}

fn forget(store: &Store, manifest: &Manifest) {
    for (blob, _) in manifest.outputs.values().flat_map(Output::blobs) {
        fs::remove_file(store.layout().blob(&blob)).expect("a blob to remove");
    }
}

/// Bytes that no disk can squeeze.
fn write_noise(path: &Path) {
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut file = File::create(path).expect("a file");
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..LARGE_BYTES / chunk.len() {
        noise.fill(&mut chunk);
        file.write_all(&chunk).expect("room for 1 GiB");
    }
    file.sync_all().expect("a disk that syncs");
}

fn plain_copy(from: &Path, to: &Path) {
    let _ = fs::remove_file(to);
    let (mut input, mut output) = (File::open(from).expect("a source"), File::create(to).expect("a target"));
    io::copy(&mut input, &mut output).and_then(|_| output.sync_all()).expect("room for 1 GiB");
}

fn plain_read(path: &Path) {
    let mut file = File::open(path).expect("a source");
    let mut chunk = vec![0; 1 << 20];
    while file.read(&mut chunk).expect("a readable file") > 0 {
        black_box(&chunk);
    }
}
