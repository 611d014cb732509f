//! What a user may rely on about keys: one is made when asked for, colleagues are added and removed, and the secret stays secret.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::Kitchen;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

/// One user with a folder for keys.
struct User(Kitchen);

impl User {
    fn new() -> User {
        User(Kitchen::new("version: 1\nnodes: {}\n"))
    }

    fn config(&self) -> PathBuf {
        self.0.path("config/decoct")
    }

    fn trust(&self, arguments: &[&str]) -> Output {
        let mut command = self.0.command(&[&["cache", "trust"], arguments].concat());
        command.env("XDG_CONFIG_HOME", self.0.path("config")).env("HOME", self.0.path("")).env("USER", "anna");
        command.env_remove("DECOCT_CONFIG").output().unwrap()
    }

    /// What stdout and stderr said; the command must succeed.
    fn says(&self, arguments: &[&str]) -> (String, String) {
        let output = self.trust(arguments);
        let (said, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{arguments:?}: {told}");
        (said, told)
    }

    fn key(&self) -> String {
        self.says(&["init"]).0.trim().to_string()
    }

    fn secret(&self) -> String {
        let text = std::fs::read_to_string(self.config().join("signing-key")).unwrap();
        text.trim().rsplit(':').next().unwrap().to_string()
    }

    #[track_caller]
    fn refuses(&self, arguments: &[&str], exit: i32, expected: &str) {
        let output = self.trust(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
    }
}

#[test]
fn a_key_is_made_once_and_its_line_for_colleagues_works_as_it_is() {
    let (anna, ben) = (User::new(), User::new());
    let (key, told) = anna.says(&["init"]);
    assert!(told.contains(&format!("decoct cache trust add anna {}", key.trim())), "{told}");
    assert_eq!(anna.says(&["init"]).0, key, "a second time shows the same key");
    let line: Vec<&str> =
        told.lines().last().unwrap().split("decoct cache trust ").nth(1).unwrap().split(' ').collect();
    ben.says(&line);
    assert_eq!(ben.says(&["list"]).0, format!("anna  {key}"));
}

#[test]
fn the_list_says_who_is_trusted_and_which_key_is_ones_own() {
    let (anna, ben, eve) = (User::new(), User::new(), User::new());
    let (said, told) = anna.says(&["list"]);
    assert!(said.is_empty() && told.contains("no signing key yet"), "{said}{told}");
    assert!(!anna.config().exists(), "listing makes nothing");
    let (own, key) = (anna.key(), ben.key());
    anna.says(&["add", "ben", &key]);
    assert_eq!(anna.says(&["list"]).0, format!("you  {own}  (yours)\nben  {key}\n"));
    anna.says(&["add", "benjamin", &key]);
    assert_eq!(anna.says(&["list"]).0, format!("you       {own}  (yours)\nbenjamin  {key}\n"));
    anna.refuses(&["add", "benjamin", &eve.key()], 4, "`benjamin` is the name of another writer");
    let told = anna.says(&["remove", "benjamin"]).1;
    assert!(told.contains(&key), "{told}");
    anna.refuses(&["remove", "benjamin"], 4, "no one is trusted as `benjamin`");
    anna.says(&["add", "me", &own]);
    assert_eq!(anna.says(&["list"]).0, format!("me  {own}  (yours)\n"));
}

#[test]
fn what_is_wrong_is_said_with_the_next_step() {
    let anna = User::new();
    let key = anna.key();
    anna.refuses(&["add", "ben", "decoct1:abcd"], 2, "64 lowercase hexadecimal digits are expected");
    anna.refuses(&["add", "ben smith", &key], 4, "use one word");
    let list = anna.config().join("trusted");
    std::fs::write(&list, format!("# friends\n{key} ben\n{key}\n")).unwrap();
    anna.refuses(&["list"], 4, "line 3: the name behind the key is missing");
    std::fs::remove_file(&list).unwrap();
    let path = anna.config().join("signing-key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    anna.refuses(&["list"], 4, &format!("chmod 600 {}", path.display()));
    anna.refuses(&["init"], 4, "others can read the signing key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "decoct-secret1:1234\n").unwrap();
    anna.refuses(&["init"], 4, "is not a signing key");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "decoct-secret1:1234\n", "never overwritten");
}

#[test]
fn the_folder_of_keys_is_the_one_named() {
    let anna = User::new();
    let flag = anna.0.path("flag");
    let key = anna.says(&["init", "--config", flag.to_str().unwrap()]).0;
    assert!(flag.join("signing-key").exists() && !anna.config().exists());
    let mut command = anna.0.command(&["cache", "trust", "list"]);
    let output = command.env("DECOCT_CONFIG", &flag).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains(key.trim()));
    let mut command = anna.0.command(&["cache", "trust", "init"]);
    command.env_remove("XDG_CONFIG_HOME").env_remove("DECOCT_CONFIG").env("HOME", anna.0.path("home"));
    assert!(command.output().unwrap().status.success());
    assert!(anna.0.path("home/.config/decoct/signing-key").exists());
    let mut command = anna.0.command(&["cache", "trust", "init"]);
    command.env_remove("XDG_CONFIG_HOME").env_remove("DECOCT_CONFIG").env_remove("HOME");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`--config DIR`"));
}

/// The disaster: a key in a chat, pasted from a terminal.
#[test]
fn no_command_shows_the_secret() {
    let anna = User::new();
    anna.says(&["init"]);
    let secret = anna.secret();
    assert_eq!(secret.len(), 64);
    let path = anna.config().join("signing-key");
    for mode in [0o600, 0o644] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        for arguments in [&["init"][..], &["list"], &["add", "ben", &secret], &["remove", &secret[..9]]] {
            let output = anna.trust(arguments);
            let shown = [output.stdout, output.stderr].concat();
            let echoed = arguments.iter().any(|argument| *argument == secret);
            assert!(echoed || !String::from_utf8_lossy(&shown).contains(&secret), "{arguments:?} at {mode:o}");
        }
    }
}
