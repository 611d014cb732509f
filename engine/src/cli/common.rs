//! Arguments that several commands take.

use crate::spec::Overrides;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// A recipe and what is laid over it.
#[derive(Debug, Clone, Args)]
pub struct RecipeArgs {
    /// The recipe file
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: OverrideArgs,
}

#[derive(Debug, Clone, Default, Args)]
pub struct OverrideArgs {
    /// Lay a profile of the recipe over it (repeatable, in order)
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// Override one value, such as `params.seed=8` (repeatable, after profiles)
    #[arg(long, value_name = "A.B.C=VALUE")]
    pub set: Vec<String>,
    /// Take a seeded, stable sample of N rows at each source
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub sharing: SharingArgs,
}

/// How the store that the recipe's team shares is used.
#[derive(Debug, Clone, Default, Args)]
pub struct SharingArgs {
    /// Go on without the shared store that the recipe names
    #[arg(long)]
    pub no_remote: bool,
    /// Use what no trusted writer has signed in the shared store; nothing of it is kept
    #[arg(long)]
    pub allow_unsigned: bool,
    #[command(flatten)]
    pub trust: TrustArgs,
}

impl OverrideArgs {
    pub fn overrides(&self) -> Overrides {
        let limit = self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Overrides { profile: self.profile.clone(), set: self.set.clone(), limit }
    }
}

#[derive(Debug, Clone, Default, Args)]
pub struct StoreArgs {
    /// The folder with finished work [default: $XDG_CACHE_HOME/decoct]
    #[arg(long, value_name = "DIR", env = "DECOCT_CACHE", hide_env_values = true)]
    pub cache: Option<PathBuf>,
    /// Read every source file again, even where size and times are unchanged
    #[arg(long)]
    pub no_stat_cache: bool,
}

impl StoreArgs {
    /// The folder named, or the one where caches of this user lie. `None` where neither is known.
    pub fn folder(&self) -> Option<PathBuf> {
        self.cache.clone().or_else(|| folder_of_user("XDG_CACHE_HOME", ".cache"))
    }
}

/// Where the keys lie.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustArgs {
    /// The folder with your signing key and the list of trusted writers [default: $XDG_CONFIG_HOME/decoct]
    #[arg(long, value_name = "DIR", env = "DECOCT_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
}

impl TrustArgs {
    /// The folder named, or the one where settings of this user lie. `None` where neither is known.
    pub fn folder(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| folder_of_user("XDG_CONFIG_HOME", ".config"))
    }
}

/// Our folder below the one that `variable` names, or below `fallback` in the user's home.
fn folder_of_user(variable: &str, fallback: &str) -> Option<PathBuf> {
    let from = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let above = from(variable).or_else(|| Some(from("HOME")?.join(fallback)));
    above.map(|above| above.join("decoct"))
}

#[derive(Debug, Clone, Args)]
pub struct MachineArgs {
    /// Where models compute: auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Threads for computing [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub jobs: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    Auto,
    Cpu,
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        let ordinal = |text: &str| text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            other => ordinal(other).map(DeviceChoice::Cuda).ok_or_else(|| "expected auto, cpu or cuda:N".to_string()),
        }
    }
}

/// Which nodes, and what to do again.
#[derive(Debug, Clone, Default, Args)]
pub struct ScopeArgs {
    /// Stop at this node: it and what it needs (repeatable)
    #[arg(long, value_name = "NODE")]
    pub until: Vec<String>,
    /// Run this node again although nothing changed (repeatable)
    #[arg(long, value_name = "NODE")]
    pub force: Vec<String>,
    /// Ask again for rows of this node whose replies never parsed (repeatable)
    #[arg(long, value_name = "NODE")]
    pub retry_marked: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EventFormat {
    #[default]
    Plain,
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_cuda_names_them() {
        for (text, expected) in [
            ("auto", Some(DeviceChoice::Auto)),
            ("cpu", Some(DeviceChoice::Cpu)),
            ("cuda", Some(DeviceChoice::Cuda(0))),
            ("cuda:3", Some(DeviceChoice::Cuda(3))),
            ("cuda:x", None),
            ("gpu", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }
}
