//! The command line: every command, flag and exit code, as `--help` shows them.

mod cache;
mod common;

pub use cache::*;
pub use common::*;

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
            Command::Diff(arguments) => arguments.format.into(),
            Command::Runs(arguments) => arguments.format,
            Command::Trace(arguments) => arguments.format,
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
    /// Tell one row's way from its source to a node: every prompt, reply, verdict and strategy
    Trace(TraceArgs),
    /// Compare two versions of an output, by row and in numbers; or two runs
    Diff(DiffArgs),
    /// List the runs on record, by the names that `diff` takes
    Runs(RunsArgs),
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

const TRACE_EXAMPLES: &str = "\
Examples:
  decoct trace pipelines/medical.yaml stories 0               the first row of `stories`
  decoct trace pipelines/medical.yaml solved 3fa9c2           the row whose id begins so, also one that was dropped on the way
  decoct trace pipelines/medical.yaml chains@90bd12 0 --full  an earlier generation, whole texts";

#[derive(Debug, Args)]
#[command(after_help = TRACE_EXAMPLES)]
pub struct TraceArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// The node, `node.output` or `node@KEY` for an earlier generation
    pub node: String,
    /// The row: its id, the beginning of its id, or its number in the output from 0
    pub row: String,
    /// Show whole texts, however long
    #[arg(long)]
    pub full: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Lines for people, or one JSON object on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

const DIFF_EXAMPLES: &str = "\
Examples:
  decoct diff pipelines/medical.yaml:stories                  the version before, and this one
  decoct diff a.yaml:chains b.yaml:chains                     of two recipes
  decoct diff medical.yaml:stories@3fa9c2 medical.yaml:stories
  decoct diff last~1 last                                     the last two runs, node by node";

#[derive(Debug, Args)]
#[command(after_help = DIFF_EXAMPLES)]
pub struct DiffArgs {
    /// RECIPE:NODE, RECIPE:NODE.output or RECIPE:NODE@KEY; or a run: `last`, `last~1`, or its name. Alone: what was before is
    /// compared with it
    #[arg(value_name = "OLD")]
    pub old: String,
    /// What it is compared with
    #[arg(value_name = "NEW")]
    pub new: Option<String>,
    /// Show N changed rows [default: 5]
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Lines for people, one JSON object, or a CSV line for each changed cell
    #[arg(long, value_enum, default_value_t)]
    pub format: DiffFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DiffFormat {
    #[default]
    Plain,
    Json,
    Csv,
}

impl From<DiffFormat> for EventFormat {
    fn from(format: DiffFormat) -> EventFormat {
        if format == DiffFormat::Json { EventFormat::Json } else { EventFormat::Plain }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  decoct runs")]
pub struct RunsArgs {
    /// List the newest N [default: 20]
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Lines for people, or one JSON object on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: EventFormat,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The recipe file
    #[arg(required_unless_present = "codes")]
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    /// Print the table of all kinds of mistakes instead
    #[arg(long, conflicts_with = "recipe")]
    pub codes: bool,
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
    /// Show one row whole: its number from 0, its id, or the beginning of its id
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
}
