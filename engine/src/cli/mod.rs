//! The command line: every command, flag and exit code, as `--help` shows them.

mod cache;
mod common;
mod examples;
mod models;

pub use cache::*;
pub use common::*;
pub use models::*;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// The commands of the first page, by what one wants to do. Clap knows no groups; a test holds these lines against the declarations below.
const COMMANDS: &str = "\
Begin:
  init         Write a recipe for a new domain, with its prompts and a few questions
  check        Find every mistake in a recipe; runs nothing

Work:
  plan         Say what `run` would do, and why; runs nothing
  run          Bring every node of a recipe up to date

Look:
  show         Show the rows, the report or the metrics of a finished node
  explain      Say which ingredients of a node's result changed, up to the edit that began it
  trace        Tell one row's way: every prompt, reply, verdict and strategy on it
  diff         Compare two versions of an output, by row and in numbers; or two runs
  runs         List the runs on record, by the names that `diff` takes

Use:
  generate     Let a trained model write: prompts in, texts out (JSONL)
  score        Say how likely a trained model finds given texts (JSONL)
  chat         Talk to a trained model

Keep:
  cache        Look after the store of finished work, and share it

Set up:
  doctor       Look at this machine, or at what the server of a model can do
  schema       Print the JSON Schema of recipes, for editors
  completions  Print a script with which a shell completes commands and flags
  man          Print the manual page, or write one for each command

`decoct help COMMAND` says more.";

/// Clap's own order, with the grouped commands.
const TEMPLATE: &str =
    "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}\n";

/// Boils a strong model's searched reasoning down into a small one: a recipe in, a trained model out.
#[derive(Debug, Parser)]
#[command(name = "decoct", version, help_template = TEMPLATE, before_help = COMMANDS, after_help = examples::ALL)]
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
            Command::Doctor(arguments) => arguments.format,
            Command::Trace(arguments) => arguments.format,
            Command::Cache(CacheCommand::Stat(arguments)) => arguments.format,
            Command::Cache(CacheCommand::Verify(arguments)) => arguments.format,
            Command::Cache(CacheCommand::Sweep(arguments)) => arguments.format,
            Command::Cache(CacheCommand::Pin(arguments)) => arguments.format,
            Command::Show(_) | Command::Cache(_) => EventFormat::Plain,
            Command::Generate(_) | Command::Score(_) | Command::Chat(_) => EventFormat::Plain,
            Command::Init(_) | Command::Schema | Command::Completions(_) | Command::Man(_) => EventFormat::Plain,
        };
        format == EventFormat::Json
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a recipe for a new domain, with its prompts and a few questions
    #[command(after_help = examples::INIT)]
    Init(InitArgs),
    /// Find every mistake in a recipe; runs nothing
    #[command(after_help = examples::CHECK)]
    Check(CheckArgs),
    /// Say what `run` would do, and why; runs nothing
    #[command(after_help = examples::PLAN)]
    Plan(PlanArgs),
    /// Bring every node of a recipe up to date
    #[command(after_help = examples::RUN)]
    Run(RunArgs),
    /// Show the rows, the report or the metrics of a finished node
    #[command(after_help = examples::SHOW)]
    Show(ShowArgs),
    /// Say which ingredients of a node's result changed, up to the edit that began it
    #[command(after_help = examples::EXPLAIN)]
    Explain(ExplainArgs),
    /// Tell one row's way: every prompt, reply, verdict and strategy on it
    #[command(after_help = examples::TRACE)]
    Trace(TraceArgs),
    /// Compare two versions of an output, by row and in numbers; or two runs
    #[command(after_help = examples::DIFF)]
    Diff(DiffArgs),
    /// List the runs on record, by the names that `diff` takes
    #[command(after_help = examples::RUNS)]
    Runs(RunsArgs),
    /// Let a trained model write: prompts in, texts out (JSONL)
    #[command(after_help = examples::GENERATE)]
    Generate(GenerateArgs),
    /// Say how likely a trained model finds given texts (JSONL)
    #[command(after_help = examples::SCORE)]
    Score(ScoreArgs),
    /// Talk to a trained model
    #[command(after_help = examples::CHAT)]
    Chat(ChatArgs),
    /// Look after the store of finished work, and share it
    #[command(subcommand, after_help = examples::CACHE)]
    Cache(CacheCommand),
    /// Look at this machine, or at what the server of a model can do
    #[command(after_help = examples::DOCTOR)]
    Doctor(DoctorArgs),
    /// Print the JSON Schema of recipes, for editors
    #[command(after_help = examples::SCHEMA)]
    Schema,
    /// Print a script with which a shell completes commands and flags
    #[command(after_help = examples::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command
    #[command(after_help = examples::MAN)]
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where the recipe goes; made where it is not there
    #[arg(default_value = ".")]
    pub folder: PathBuf,
    /// What the model shall be good at: one word, the name of the recipe
    #[arg(long, value_name = "NAME", value_parser = domain)]
    pub domain: String,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this folder
    pub folder: Option<PathBuf>,
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

#[derive(Debug, Args)]
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

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The recipe with the model [default: the only one in this folder]
    #[arg(requires = "model")]
    pub recipe: Option<PathBuf>,
    /// Ask the server of this model what it can do, with a few small calls
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Lines for people, or one JSON object on stdout
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
    /// Write to a file; its ending chooses the format where none is given. Without such an ending: the folder of a model
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the metrics of a training as TensorBoard event files, each node in a folder of its own below this one
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["rows", "row", "format", "output"])]
    pub tensorboard: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
}

fn dollars(text: &str) -> Result<f64, String> {
    let amount: f64 = text.parse().map_err(|_| "expected an amount such as 2.50".to_string())?;
    if amount.is_finite() && amount >= 0.0 { Ok(amount) } else { Err("expected an amount that is not negative".into()) }
}

/// It becomes the name of a file and of a folder.
fn domain(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let is_word = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits);
    if is_word { Ok(text.to_string()) } else { Err("expected one word of letters, digits, `_` and `-`".to_string()) }
}

#[cfg(test)]
mod tests;
