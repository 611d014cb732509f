//! The `cache:` part of a recipe: the shared store, what is sent to it, and whose work is used.

use super::diagnostic::Diagnostic;
use super::resolve::placed;
use super::tree::{self, Tree};
use stages::settings::{Reader, Settings, Step};
use std::path::Path;

/// Address schemes of object stores; anything else is a folder.
const SCHEMES: &[&str] = &["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file"];

stages::choice! {
    /// When finished work goes to the shared store.
    pub enum PushPolicy {
        /// As soon as a node is finished, replies while they come.
        "always" => Always,
        /// With `decoct cache push`.
        "manual" => Manual,
        /// Not from here.
        "never" => Never,
    }
}

stages::choice! {
    /// What happens to work that no trusted writer has signed.
    pub enum TrustPolicy {
        /// It is made again, and said once.
        "warn" => Warn,
        /// The run ends.
        "strict" => Strict,
    }
}

stages::settings! {
    /// The store that a team shares.
    pub struct SharingSettings {
        /// A folder, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. Nothing is shared without it.
        pub remote: Option<String> = None,
        /// When finished work is sent: `always`, with `decoct cache push` (`manual`), or `never`.
        pub push: PushPolicy = PushPolicy::Always,
        /// Work by writers who are not trusted is made again (`warn`) or ends the run (`strict`).
        pub trust: TrustPolicy = TrustPolicy::Warn,
    }
}

impl Default for SharingSettings {
    fn default() -> Self {
        Self { remote: None, push: PushPolicy::Always, trust: TrustPolicy::Warn }
    }
}

/// Reads the part; a folder's path becomes relative to where we are, not to the recipe.
pub fn read(recipe: &Tree, folder: &Path) -> (SharingSettings, Vec<Diagnostic>) {
    let at = Step::Key("cache".to_string());
    let Some(part) = recipe.get("cache").filter(|part| !part.is_null()) else { return Default::default() };
    let mut reader = Reader::default();
    let read = match part.as_map() {
        Some(entries) => SharingSettings::read_fields(&tree::json_fields(entries), &mut reader),
        None => {
            reader.mistake("wrong-type", "`cache` must be a mapping", Some("`cache: { remote: … }`".to_string()));
            None
        }
    };
    let mut settings = read.unwrap_or_default();
    if let Some(remote) = &mut settings.remote {
        *remote = reader.within(Step::Key("remote".to_string()), |reader| located(remote, folder, reader));
    }
    let place = |steps: &[Step]| recipe.place(&[std::slice::from_ref(&at), steps].concat());
    let mistakes = reader.mistakes.into_iter().map(|mistake| placed(mistake, place)).collect();
    (settings, mistakes)
}

fn located(remote: &str, folder: &Path, reader: &mut Reader) -> String {
    let Some((scheme, rest)) = remote.split_once("://") else { return folder.join(remote).display().to_string() };
    if !SCHEMES.contains(&scheme) {
        let hint = "a folder, or an address that begins with `s3://`, `gs://` or `az://`".to_string();
        reader.mistake("unknown-word", format!("`{scheme}://` is no store that decoct knows"), Some(hint));
    }
    if rest.split('/').next().is_some_and(|host| host.contains('@') && host.contains(':')) {
        let hint = "keys come from the environment, such as AWS_ACCESS_KEY_ID".to_string();
        reader.mistake("secret", "a password does not belong into a recipe", Some(hint));
    }
    remote.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<SharingSettings, &str>) {
        let mut mistakes = Vec::new();
        let tree = tree::parse(text, 0, &mut mistakes).unwrap();
        let (settings, mistakes) = read(&tree, Path::new("recipes"));
        match (mistakes.first(), expected) {
            (None, Ok(expected)) => assert_eq!(settings, expected, "{text}"),
            (Some(mistake), Err(expected)) => {
                assert!(mistake.message.contains(expected), "{text}: {}", mistake.message)
            }
            (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_shared_store_is_a_folder_by_the_recipe_or_an_address() {
        let with = |remote: &str| SharingSettings { remote: Some(remote.to_string()), ..Default::default() };
        check("version: 1", Ok(SharingSettings::default()));
        check("cache: { remote: team }", Ok(with("recipes/team")));
        check("cache: { remote: /team }", Ok(with("/team")));
        check("cache: { remote: 's3://bucket/a' }", Ok(with("s3://bucket/a")));
        let strict = SharingSettings { push: PushPolicy::Manual, trust: TrustPolicy::Strict, ..with("gs://b") };
        check("cache: { remote: 'gs://b', push: manual, trust: strict }", Ok(strict));
        check("cache: { remote: 'ftp://b' }", Err("`ftp://` is no store"));
        check("cache: { remote: 's3://key:word@b' }", Err("a password does not belong"));
        check("cache: { remot: team }", Err("unknown key `remot`"));
        check("cache: { push: sometimes }", Err("`sometimes` is not one of"));
        check("cache: team", Err("must be a mapping"));
    }
}
