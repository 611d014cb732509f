//! What only a real object store can show: large blobs in parts, empty ones, a bucket that is not there, secrets in errors.

mod support;

use std::fs;
use std::path::Path;

use cache::{Error, Placement, Push, Sharing, SharingOptions, Store, Trust};
use support::s3::Server;
use support::{REMOTE, Team, open, preimage};

/// Runs `role` of this test binary in a process whose environment knows the server.
fn run(role: &str, server: &Server, more: &[(&str, &str)]) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child_process", "--nocapture"]).envs(server.environment());
    let output =
        child.env(REMOTE, server.url()).env("CACHE_TEST_ROLE", role).envs(more.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let is_run = output.status.success() && text(&output.stdout).contains("1 passed");
    assert!(is_run, "{}\n{}", text(&output.stdout), text(&output.stderr));
}

/// Not a test of its own: what a spawned process does.
#[test]
fn child_process() {
    let Ok(role) = std::env::var("CACHE_TEST_ROLE") else { return };
    let url = std::env::var(REMOTE).unwrap();
    match role.as_str() {
        "move a model" => move_a_model(&url),
        "no bucket" => no_bucket(),
        other => panic!("no role `{other}`"),
    }
}

const LARGE: usize = (20 << 20) + 12_345;

fn model(folder: &Path) {
    let weights: Vec<u8> = (0..LARGE as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in [("model.safetensors", &weights[..]), ("config.json", b"{}"), ("empty.txt", b"")] {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

fn move_a_model(url: &str) {
    let team = Team::new(2, open(url));
    let (folder, target) = (team.folder.path().join("model"), team.folder.path().join("copy"));
    model(&folder);
    let mut publication = team.machine(0).publish(preimage("a"));
    publication.tree("model", &folder, &[]).unwrap();
    let manifest = publication.commit(Default::default()).unwrap();
    let store = team.machine(1);
    let found = store.lookup(&manifest.key).unwrap().intact().expect("there");
    assert!(store.missing_blobs(&found).unwrap().is_empty());
    assert!(store.materialise(&found, "model", &target, Placement::Copy).unwrap().intact().is_some());
    for name in ["model.safetensors", "config.json", "empty.txt"] {
        assert!(fs::read(folder.join(name)).unwrap() == fs::read(target.join(name)).unwrap(), "{name}");
    }
    let fetched = store.sharing().unwrap().report().fetched;
    assert_eq!((fetched.manifests, fetched.blobs), (1, 3));
    assert!(fetched.bytes > LARGE as u64);
}

fn no_bucket() {
    let options = SharingOptions { push: Push::Always, trust: Trust::none().into(), allow_unsigned: false };
    let sharing = Sharing::open("s3://misspelled/store", options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap().shared(sharing.clone());
    for error in [sharing.reach().unwrap_err(), store.lookup(&preimage("a").action_key()).unwrap_err()] {
        assert!(matches!(error, Error::Remote { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("s3://misspelled/store") && text.contains("NoSuchBucket"), "{text}");
        assert!(!text.contains("a-test-secret") && !text.contains("a-test-token"), "{text}");
    }
}

#[test]
fn a_model_goes_there_in_parts_and_comes_back_whole() {
    run("move a model", &Server::start(), &[]);
}

/// The disaster: a misspelled bucket looks like an empty one, and everything is paid for again.
#[test]
fn a_bucket_that_is_not_there_is_an_error_without_secrets() {
    run("no bucket", &Server::start(), &[("AWS_SESSION_TOKEN", "a-test-token")]);
}
