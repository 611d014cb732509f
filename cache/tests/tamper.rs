//! Every byte of a shared store may be another's: whoever reads it finds what was written or nothing, and never believes a forgery.

mod support;

use std::sync::Arc;

use cache::{Manifest, PublicKey, Push, Put, ReplyAddress, Sharing, SharingOptions, SharingReport, Store};
use serde_json::Value;
use support::{Memory, Team, find, preimage, publish};

const ACTIONS: [(&str, &[i64]); 2] = [("a", &[1, 2, 3]), ("b", &[4, 5])];
const REPLIES: usize = 3;

fn address(number: usize) -> ReplyAddress {
    preimage("reply").with("number", number).reply_address()
}

fn reply(number: usize) -> Vec<u8> {
    format!("reply {number}").into_bytes()
}

/// Two members, and what the first has sent.
fn team() -> Team {
    let team = Team::new(2, Arc::new(Memory::default()));
    for (writer, (action, rows)) in ACTIONS.into_iter().enumerate() {
        let store = team.machine(writer);
        publish(&store, action, rows);
        let replies = store.replies().unwrap();
        let numbers = writer * REPLIES..(writer + 1) * REPLIES;
        numbers.for_each(|number| replies.put(&address(number), &reply(number)).unwrap());
    }
    team
}

/// The second member, who keeps nothing and so sees everything anew each time.
struct Reader<'a> {
    team: &'a Team,
    root: std::path::PathBuf,
}

impl Reader<'_> {
    fn store(&self, allow_unsigned: bool) -> Store {
        let options = SharingOptions { push: Push::Never, trust: Arc::new(self.team.trust(1)), allow_unsigned };
        let sharing = Sharing::with_bucket(self.team.bucket.clone(), options);
        Store::open(&self.root).unwrap().shared(sharing).looking()
    }

    /// How much there is for this reader, all of it right.
    fn count(&self, story: &str) -> usize {
        let store = self.store(false);
        let rows = ACTIONS.iter().filter(|(action, rows)| {
            let found = find(&store, action);
            assert!(found.is_none() || found.as_deref() == Some(rows), "{story}: wrong rows {found:?}");
            found.is_some()
        });
        let rows = rows.count();
        let replies = store.replies().unwrap();
        let known = (0..ACTIONS.len() * REPLIES).filter(|number| {
            let found = replies.get(&address(*number));
            assert!(found.is_none() || found == Some(reply(*number)), "{story}: wrong reply {found:?}");
            found.is_some()
        });
        rows + known.count()
    }
}

fn with_reader(test: impl FnOnce(&Team, &Reader)) {
    let team = team();
    let root = team.folder.path().join("reader");
    test(&team, &Reader { team: &team, root });
}

/// Paths of everything that is read there, except the mark of the format.
fn objects(team: &Team) -> Vec<String> {
    let shelves = (0..=255).flat_map(|shelf| ["ac", "cas"].map(|folder| format!("{folder}/{shelf:02x}")));
    let folders: Vec<String> = shelves.chain(["replies".to_owned()]).collect();
    let below = |folder: &String| {
        let names = team.bucket.list(folder).unwrap().into_iter().map(|(name, _)| name);
        names.map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    folders.iter().flat_map(below).collect()
}

const ALL: usize = ACTIONS.len() * (1 + REPLIES);

#[test]
fn a_flipped_bit_at_any_byte_and_a_cut_at_any_length_never_gives_a_wrong_answer() {
    with_reader(|team, reader| {
        assert_eq!(reader.count("undisturbed"), ALL);
        let objects = objects(team);
        assert_eq!(objects.len(), 6, "{objects:?}");
        for path in &objects {
            let whole = team.bucket.get(path).unwrap().unwrap();
            for position in 0..whole.len() {
                let mut flipped = whole.clone();
                flipped[position] ^= 1 << (position % 8);
                team.bucket.put(path, &flipped, Put::Replace).unwrap();
                let flipped = reader.count(&format!("{path}, bit {} of byte {position}", position % 8));
                team.bucket.put(path, &whole[..position], Put::Replace).unwrap();
                let cut = reader.count(&format!("{path}, cut at {position}"));
                // A hexadecimal digit of a checksum may be written large.
                assert!(flipped < ALL || path.starts_with("ac/"), "{path}: a flip at {position} went unnoticed");
                assert!(cut < ALL, "{path}: a cut at {position} went unnoticed");
            }
            team.bucket.put(path, &whole, Put::Replace).unwrap();
        }
        assert_eq!(reader.count("mended"), ALL);
    });
}

#[test]
fn any_object_under_the_name_of_any_other_never_gives_a_wrong_answer() {
    with_reader(|team, reader| {
        let objects = objects(team);
        for path in &objects {
            let whole = team.bucket.get(path).unwrap().unwrap();
            for other in objects.iter().filter(|other| *other != path) {
                let theirs = team.bucket.get(other).unwrap().unwrap();
                team.bucket.put(path, &theirs, Put::Replace).unwrap();
                assert!(reader.count(&format!("{other} as {path}")) < ALL, "{other} as {path} went unnoticed");
            }
            team.bucket.remove(path).unwrap();
            assert!(reader.count(&format!("without {path}")) < ALL);
            team.bucket.put(path, &whole, Put::Replace).unwrap();
        }
    });
}

/// `a` with the rows of `b`, whole and under the right key.
fn forged(team: &Team) -> Manifest {
    let store = team.machine(1);
    let manifest = |name: &str| store.lookup(&preimage(name).action_key()).unwrap().intact().unwrap();
    Manifest { outputs: manifest("b").outputs, ..manifest("a") }
}

/// The two lines of a manifest, and its seal with some fields replaced by those of another.
fn with_fields_of(sealed: &[u8], other: &[u8], fields: &[&str]) -> Vec<u8> {
    let lines = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (body, seal) = text.trim_end().split_once('\n').unwrap();
        (body.to_owned(), serde_json::from_str::<Value>(seal).unwrap())
    };
    let ((body, mut seal), (_, theirs)) = (lines(sealed), lines(other));
    for field in fields {
        seal[*field] = theirs[*field].clone();
    }
    format!("{body}\n{seal}\n").into_bytes()
}

/// What a reader finds and is told after `bytes` were put in the place of the manifest of `a`.
fn read_forged(reader: &Reader, bytes: &[u8], allow_unsigned: bool) -> (Option<Vec<i64>>, SharingReport) {
    let store = reader.store(allow_unsigned);
    let path = store.layout().manifest(&preimage("a").action_key());
    let path = path.strip_prefix(store.layout().root()).unwrap().to_str().unwrap();
    reader.team.bucket.put(path, bytes, Put::Replace).unwrap();
    (find(&store, "a"), store.sharing().unwrap().report())
}

/// The disaster: whoever can write to the bucket decides what the team trains on.
#[test]
fn no_forged_manifest_is_used() {
    with_reader(|team, reader| {
        let (forged, owner) = (forged(team), team.trust(0).signer().unwrap());
        let stranger = cache::Trust::open(&team.folder.path().join("eve")).unwrap().signer().unwrap();
        let path = reader.store(false).layout().manifest(&forged.key);
        let path = path.strip_prefix(&reader.root).unwrap().to_str().unwrap().to_owned();
        let genuine = team.bucket.get(&path).unwrap().unwrap();
        let (unsigned, by_stranger) = (forged.to_bytes(), forged.to_signed_bytes(&stranger));
        let check = |story: &str, bytes: &[u8], refused: Option<Option<PublicKey>>| {
            let (found, report) = read_forged(reader, bytes, false);
            assert_eq!(found, None, "{story}");
            let expected = refused.map(|signer| (signer, 1)).into_iter().collect();
            assert_eq!((report.refused, report.damaged), (expected, u64::from(refused.is_none())), "{story}");
            // Who says `--allow-unsigned` takes what no one signed, and even then nothing that is signed wrongly.
            let dared = read_forged(reader, bytes, true).0;
            assert_eq!(dared.as_deref(), refused.map(|_| ACTIONS[1].1), "{story}, dared");
        };
        check("unsigned", &unsigned, Some(None));
        check("signed by a stranger", &by_stranger, Some(Some(stranger.public())));
        let body = |bytes: &[u8]| bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap().to_vec();
        let seal = &genuine[body(&genuine).len()..];
        check("with the seal of the genuine one", &[body(&unsigned), seal.to_vec()].concat(), None);
        let signature = ["signer", "signature"];
        check(
            "with its own checksum and our signature over other bytes",
            &with_fields_of(&unsigned, &genuine, &signature),
            None,
        );
        check("a stranger's signature under our name", &with_fields_of(&by_stranger, &genuine, &["signer"]), None);
        check("our signature under a stranger's name", &with_fields_of(&by_stranger, &genuine, &["signature"]), None);
        check("our name and no signature", &with_fields_of(&unsigned, &genuine, &["signer"]), None);
        // What makes the difference is the signature alone.
        assert_eq!(read_forged(reader, &forged.to_signed_bytes(&owner), false).0.as_deref(), Some(ACTIONS[1].1));
        assert_eq!(read_forged(reader, &genuine, false).0.as_deref(), Some(ACTIONS[0].1));
    });
}
