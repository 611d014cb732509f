//! The command line: every command, flag and exit code, as `--help` shows them.

use crate::spec::Overrides;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a node failed
  2    the recipe or the command line is wrong
  3    the budget is reached
  4    a problem of the cache or of trust
  5    a remote service is unavailable
  70   a bug of decoct
  130  interrupted";

/// Boils a strong model's searched reasoning down into a small one: a recipe in, a trained model out.
#[derive(Debug, Parser)]
#[command(name = "decoct", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Whether a program reads what happens, so that failures are events too.
    pub fn wants_events(&self) -> bool {
        let format = match &self.command {
            Command::Run(arguments) => arguments.format,
            Command::Plan(arguments) => arguments.format,
            Command::Check(arguments) => arguments.format,
            Command::Explain(arguments) => arguments.format,
            Command::Show(_) | Command::Generate(_) | Command::Cache(_) | Command::Schema => EventFormat::Plain,
        };
        format == EventFormat::Json
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring every node of a recipe up to date
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
    /// Say what `run` would do, and why; runs nothing
    Plan(PlanArgs),
    /// Say which ingredients of a node's result changed, up to the edit that began it
    Explain(ExplainArgs),
    /// Find every mistake in a recipe; runs nothing
    Check(CheckArgs),
    /// Show the rows, the report or the metrics of a finished node
    Show(ShowArgs),
    /// Let a trained model write: prompts in, texts out (JSONL)
    Generate(GenerateArgs),
    /// Look after the store of finished work, and share it
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Print the JSON Schema of recipes, for editors
    Schema,
}

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
        let from = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let caches = || from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")));
        self.cache.clone().or_else(|| Some(caches()?.join("decoct")))
    }
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

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Execute this finished node again and compare: publishes nothing, fails where something else comes out (repeatable)
    #[arg(long, value_name = "NODE")]
    pub recheck: Vec<String>,
    /// Stop cleanly before spending more than X US dollars on model calls
    #[arg(long, value_name = "X", value_parser = dollars)]
    pub budget_usd: Option<f64>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Lines for people, or one JSON object a line on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub scope: ScopeArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Lines for people, or one JSON object a line on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  decoct explain pipelines/medical.yaml stories")]
pub struct ExplainArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// The node
    pub node: String,
    /// Compare with the result whose key begins with HASH [default: the newest under another key]
    #[arg(long, value_name = "HASH")]
    pub against: Option<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Lines for people, or one JSON object a line on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Lines for people, or one JSON object a line on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum RowFormat {
    #[default]
    Table,
    Json,
    Csv,
    Parquet,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// The node, or `node.output`
    pub node: String,
    /// Show N rows [default: 10 as a table, all in other formats]
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    /// Show one row whole: its number from 0, or its id
    #[arg(long, value_name = "K", conflicts_with = "rows")]
    pub row: Option<String>,
    /// How rows are written (json: one object a line) [default: table]
    #[arg(long, value_enum)]
    pub format: Option<RowFormat>,
    /// Write to a file; its ending chooses the format where none is given
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// A folder in Hugging Face layout, or RECIPE:NODE
    pub model: String,
    /// JSONL with `{"prompt": text}` or `{"messages": […]}` a line; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    pub prompts: PathBuf,
    /// Write to a file in place of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temperature", "seed"])]
    pub greedy: bool,
    /// Sampling temperature
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = temperature)]
    pub temperature: f64,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Tokens to write at most, a prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_tokens: usize,
    /// Give the log-probability of each written token
    #[arg(long)]
    pub logprobs: bool,
    /// Prompts are tokenized as they are, without a chat template
    #[arg(long)]
    pub raw: bool,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Say what takes how much space, by pipeline and node
    Stat(CacheStatArgs),
    /// Read everything; drop what is damaged, so that it is made again
    Verify(CacheVerifyArgs),
    /// Drop what no recipe, recent run or pin needs; a rehearsal unless `--yes` is given
    Sweep(CacheSweepArgs),
    /// Keep the finished work of a recipe from sweeps
    Pin(CachePinArgs),
    /// Send finished work and replies to the shared store
    Push(CachePushArgs),
    /// Fetch finished work and replies from the shared store
    Pull(CachePullArgs),
    /// Whose work from a shared store is used
    #[command(subcommand)]
    Trust(CacheTrustCommand),
}

#[derive(Debug, Args)]
pub struct CacheStatArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct CacheVerifyArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct CacheSweepArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct CachePinArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct CachePushArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct CachePullArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Subcommand)]
pub enum CacheTrustCommand {
    /// Make this user's signing key
    Init,
}

fn dollars(text: &str) -> Result<f64, String> {
    let amount: f64 = text.parse().map_err(|_| "expected an amount such as 2.50".to_string())?;
    if amount.is_finite() && amount >= 0.0 { Ok(amount) } else { Err("expected an amount that is not negative".into()) }
}

fn temperature(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number such as 0.7".to_string())?;
    if value.is_finite() && value > 0.0 { Ok(value) } else { Err("expected a number above 0; see --greedy".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_declaration_is_sound() {
        Cli::command().debug_assert();
    }

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
