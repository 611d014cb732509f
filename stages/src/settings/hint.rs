//! Hints for names that do not exist: the nearest one that does.

use std::path::Path;

/// Of a long list of names only the nearest are told.
const LISTED_NAMES: usize = 10;
/// Files of a folder among which a near name is looked for.
const LOOKED_AT_FILES: usize = 1_000;

/// The nearest of `known`, or, when nothing is near, which names there are (of many those that come nearest).
pub fn nearest_hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    near(name, &known).map(did_you_mean).or_else(|| listed(name, known))
}

/// The nearest of `known` alone, for messages that list all of them.
pub fn near_hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    near(name, &known.into_iter().collect::<Vec<_>>()).map(did_you_mean)
}

/// The name in the same folder that is nearest to that of `file`, which is not there; else those with the same ending.
pub fn nearest_file(file: &Path) -> Option<String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Some(format!("there is no folder `{}` either", shown_path(folder)));
    };
    let names = entries.flatten().take(LOOKED_AT_FILES).filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort_unstable();
    let (wanted, ending) = (file.file_name()?.to_str()?, file.extension().unwrap_or_default());
    let alike = || names.iter().map(String::as_str).filter(|name| Path::new(name).extension() == Some(ending));
    near_hint(wanted, names.iter().map(String::as_str)).or_else(|| listed(wanted, alike().collect()))
}

/// A path as people write it, without `./` in front.
pub fn shown_path(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

/// The nearest name, if it is near: one edit in three letters, a capital letter being none.
fn near<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let (wanted, length) = (name.to_lowercase(), name.chars().count());
    let edits_max = (length / 3).max(1);
    // Most names fall out by their length alone, which counts where a recipe has thousands.
    let alike = known.iter().filter(|candidate| candidate.chars().count().abs_diff(length) <= edits_max);
    let near = alike.map(|candidate| (strsim::osa_distance(&wanted, &candidate.to_lowercase()), *candidate));
    near.filter(|(edits, _)| *edits <= edits_max).min().map(|(_, nearest)| nearest)
}

fn listed(name: &str, mut known: Vec<&str>) -> Option<String> {
    let more = known.len().saturating_sub(LISTED_NAMES);
    if more > 0 {
        let shared = |candidate: &str| name.bytes().zip(candidate.bytes()).take_while(|(a, b)| a == b).count();
        known.sort_by_key(|candidate| std::cmp::Reverse(shared(candidate)));
        known.truncate(LISTED_NAMES);
    }
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!known.is_empty()).then(|| format!("known here: `{}`{rest}", known.join("`, `")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, known: &[&str], expected: Option<&str>) {
        assert_eq!(nearest_hint(name, known.iter().copied()).as_deref(), expected, "{name}");
    }

    #[test]
    fn a_near_name_is_meant_and_otherwise_all_are_told() {
        let known = ["input", "model", "keep"];
        check("inptu", &known, Some("did you mean `input`?"));
        check("Input", &known, Some("did you mean `input`?"));
        check("kep", &known, Some("did you mean `keep`?"));
        check("temperature", &known, Some("known here: `input`, `model`, `keep`"));
        check("input", &[], None);
        assert_eq!(near_hint("temperature", known), None);
        assert_eq!(near_hint("modle", known).as_deref(), Some("did you mean `model`?"));
    }

    #[test]
    fn of_many_names_the_nearest_are_told() {
        let names: Vec<String> = (0..100).map(|number| format!("n{number}")).chain(["sample_rows".into()]).collect();
        let hint = nearest_hint("samples", names.iter().map(String::as_str)).unwrap();
        assert!(hint.starts_with("known here: `sample_rows`, `n0`") && hint.ends_with("and 91 more"), "{hint}");
    }
}
