//! The command line: every command, flag and exit code, as `--help` shows them.

use crate::spec::Overrides;
use cache::PublicKey;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

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

const TRUST_EXAMPLE: &str = "\
Example:
  anna$ decoct cache trust init
  decoct1:8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c
  ben$  decoct cache trust add anna decoct1:8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";

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
            Command::Cache(CacheCommand::Stat(arguments)) => arguments.format,
            Command::Cache(CacheCommand::Verify(arguments)) => arguments.format,
            Command::Cache(CacheCommand::Sweep(arguments)) => arguments.format,
            Command::Cache(CacheCommand::Pin(arguments)) => arguments.format,
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
    #[command(subcommand, after_help = TRUST_EXAMPLE)]
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

const SWEEP_HELP: &str = "\
Kept is what a recipe given here needs, what a run of the grace period used or made, what is pinned, and replies.
Examples:
  decoct cache sweep                                   say what would go
  decoct cache sweep pipelines/medical.yaml --yes      keep that recipe's work, remove the rest that is old";

#[derive(Debug, Args)]
#[command(after_help = SWEEP_HELP)]
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
#[command(
    after_help = "Example:\n  decoct cache push pipelines/medical.yaml --set cache.remote=s3://our-bucket/decoct"
)]
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
#[command(after_help = "Example:\n  decoct cache pull pipelines/medical.yaml --until student")]
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
    Init(CacheTrustInitArgs),
    /// Use the work of a writer from now on
    #[command(after_help = TRUST_EXAMPLE)]
    Add(CacheTrustAddArgs),
    /// List whose work is used: you and those you added
    List(CacheTrustListArgs),
    /// Use the work of a writer no longer
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

fn dollars(text: &str) -> Result<f64, String> {
    let amount: f64 = text.parse().map_err(|_| "expected an amount such as 2.50".to_string())?;
    if amount.is_finite() && amount >= 0.0 { Ok(amount) } else { Err("expected an amount that is not negative".into()) }
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
