//! `decoct cache …`: the commands that look after the store and share it.

use super::{EventFormat, OverrideArgs, RecipeArgs, StoreArgs, TrustArgs, examples};
use cache::PublicKey;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Say what takes how much space, by pipeline and node
    #[command(after_help = examples::CACHE_STAT)]
    Stat(CacheStatArgs),
    /// Read everything; drop what is damaged, so that it is made again
    #[command(after_help = examples::CACHE_VERIFY)]
    Verify(CacheVerifyArgs),
    /// Drop what no recipe, recent run or pin needs; a rehearsal unless `--yes` is given
    #[command(after_help = examples::CACHE_SWEEP)]
    Sweep(CacheSweepArgs),
    /// Keep the finished work of a recipe from sweeps
    #[command(after_help = examples::CACHE_PIN)]
    Pin(CachePinArgs),
    /// Send finished work and replies to the shared store
    #[command(after_help = examples::CACHE_PUSH)]
    Push(CachePushArgs),
    /// Fetch finished work and replies from the shared store
    #[command(after_help = examples::CACHE_PULL)]
    Pull(CachePullArgs),
    /// Whose work from a shared store is used
    #[command(subcommand, after_help = examples::TRUST)]
    Trust(CacheTrustCommand),
}

#[derive(Debug, Args)]
pub struct CacheStatArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Tables for people, or one JSON object on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

#[derive(Debug, Args)]
pub struct CacheVerifyArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Lines for people, or one JSON object on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

#[derive(Debug, Args)]
pub struct CacheSweepArgs {
    /// Recipes whose finished work is kept, however old
    #[arg(value_name = "RECIPE")]
    pub recipes: Vec<PathBuf>,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    /// What is younger stays whatever it is, such as 12h, 7d or 0s
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = time_span)]
    pub grace: Duration,
    /// Merge finished logs of replies too, without what is damaged or superseded; no reply is lost
    #[arg(long)]
    pub replies: bool,
    /// Do it; without this nothing is removed
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Tables for people, or one JSON object on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

#[derive(Debug, Args)]
pub struct CachePinArgs {
    /// The recipe whose finished work is kept
    #[arg(required_unless_present_any = ["list", "remove"])]
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    /// Keep this node and what it needs, not the whole recipe (repeatable)
    #[arg(long, value_name = "NODE")]
    pub until: Vec<String>,
    /// The pin's name; one of the same name is replaced [default: the recipe's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// List the pins
    #[arg(long, conflicts_with_all = ["recipe", "until", "name", "remove"])]
    pub list: bool,
    /// Let go of what the pin NAME keeps
    #[arg(long, value_name = "NAME", conflicts_with_all = ["recipe", "until", "name"])]
    pub remove: Option<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Tables for people, or one JSON object on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

#[derive(Debug, Args)]
pub struct CachePushArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Only this node and what it needs (repeatable)
    #[arg(long, value_name = "NODE", conflicts_with = "all")]
    pub until: Vec<String>,
    /// Everything finished in the store: all recipes, all generations
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct CachePullArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Only this node and what it needs (repeatable)
    #[arg(long, value_name = "NODE")]
    pub until: Vec<String>,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Subcommand)]
pub enum CacheTrustCommand {
    /// Make your signing key, if you have none, and show what to send to those who use your work
    #[command(after_help = examples::TRUST)]
    Init(CacheTrustInitArgs),
    /// Use the work of a writer from now on
    #[command(after_help = examples::TRUST)]
    Add(CacheTrustAddArgs),
    /// List whose work is used: you and those you added
    #[command(after_help = examples::TRUST_LIST)]
    List(CacheTrustListArgs),
    /// Use the work of a writer no longer
    #[command(after_help = examples::TRUST_REMOVE)]
    Remove(CacheTrustRemoveArgs),
}

#[derive(Debug, Args)]
pub struct CacheTrustInitArgs {
    #[command(flatten)]
    pub trust: TrustArgs,
}

#[derive(Debug, Args)]
pub struct CacheTrustAddArgs {
    /// What you call the writer: one word
    pub name: String,
    /// The public key that `decoct cache trust init` showed the writer
    pub key: PublicKey,
    #[command(flatten)]
    pub trust: TrustArgs,
}

#[derive(Debug, Args)]
pub struct CacheTrustListArgs {
    #[command(flatten)]
    pub trust: TrustArgs,
}

#[derive(Debug, Args)]
pub struct CacheTrustRemoveArgs {
    /// The writer's name, or public key
    pub name: String,
    #[command(flatten)]
    pub trust: TrustArgs,
}

/// `90s`, `45m`, `12h`, `30d` or `2w`.
fn time_span(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and one of s, m, h, d, w, such as 12h or 30d".to_string();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let count: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    let unit_seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        'w' => 7 * 24 * 3600,
        _ => return Err(wrong()),
    };
    count.checked_mul(unit_seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_have_a_unit() {
        for (text, expected_seconds) in [
            ("0s", Some(0)),
            ("45m", Some(2700)),
            ("12h", Some(43_200)),
            ("30d", Some(2_592_000)),
            ("2w", Some(1_209_600)),
            ("30", None),
            ("d", None),
            ("", None),
            ("-1d", None),
            ("1é", None),
            ("99999999999999999999w", None),
            ("9999999999999999999w", None),
        ] {
            assert_eq!(time_span(text).ok(), expected_seconds.map(Duration::from_secs), "{text}");
        }
    }
}
