//! The commands that use a trained model.

use super::{MachineArgs, OverrideArgs, StoreArgs};
use clap::Args;
use std::path::PathBuf;

/// A model, where it lies and where it computes.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A folder in Hugging Face layout, or RECIPE:NODE
    pub model: String,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// How tokens are drawn.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "seed"])]
    pub greedy: bool,
    /// Sampling temperature [default: the model's own, or 1]
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub temperature: Option<f64>,
    /// Draw from the K likeliest tokens only; 0 draws from all [default: the model's own, or 0]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have probability P [default: the model's own, or 1]
    #[arg(long, value_name = "P", value_parser = share)]
    pub top_p: Option<f64>,
    /// Draw from tokens at least P times as likely as the likeliest [default: the model's own, or 0]
    #[arg(long, value_name = "P", value_parser = share)]
    pub min_p: Option<f64>,
    /// End an answer before this text (repeatable)
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Tokens to write at most, an answer
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub max_tokens: usize,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// JSONL with `{"prompt": text}` or `{"messages": […]}` a line; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    pub prompts: PathBuf,
    /// Write to a file in place of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Answers to each prompt, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "greedy", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub samples: usize,
    /// Give the log-probability of each written token
    #[arg(long)]
    pub logprobs: bool,
    /// Prompts are tokenized as they are, without a chat template
    #[arg(long)]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// JSONL with `{"prompt": text, "completion": text}` a line, or `messages` in place of the prompt, or `token_ids` in place of
    /// the completion; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Write to a file in place of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Score under the distribution at this temperature
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = temperature)]
    pub temperature: f64,
    /// Prompts are tokenized as they are, without a chat template
    #[arg(long)]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the model is told first
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

fn temperature(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number such as 0.7".to_string())?;
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err("expected a number above 0; to take the likeliest tokens, say --greedy".into())
    }
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number such as 0.9".to_string())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("expected a number from 0 to 1".into()) }
}
