//! The store that a recipe's team shares, as a command uses it: opened by the recipe's word, told about at the end.

use crate::cli::SharingArgs;
use crate::commands::cache::trust;
use crate::failure::{Exit, Failure, Result};
use crate::report::words::counted;
use crate::report::{Event, Reporter};
use crate::spec::{PushPolicy, SharingSettings, TrustPolicy};
use cache::{PublicKey, Push, Sharing, SharingOptions, SharingReport};
use std::path::Path;
use std::sync::Arc;

pub struct Team {
    sharing: Sharing,
    policy: TrustPolicy,
    /// Stands in for a store that was never made here, for commands that make none.
    stand_in: tempfile::TempDir,
}

impl Team {
    /// `None` where the recipe names no shared store, or the command line does without it. Nothing is sent.
    pub fn open(settings: &SharingSettings, arguments: &SharingArgs) -> Result<Option<Team>> {
        let Some(remote) = settings.remote.as_ref().filter(|_| !arguments.no_remote) else { return Ok(None) };
        let push = match settings.push {
            PushPolicy::Always => Push::Always,
            PushPolicy::Manual => Push::Manual,
            PushPolicy::Never => Push::Never,
        };
        let trust = Arc::new(trust::open(&arguments.trust)?);
        let options = SharingOptions { push, trust, allow_unsigned: arguments.allow_unsigned };
        let unable = |error| Failure::new(Exit::NodeFailed, format!("cannot make a temporary folder: {error}"));
        let stand_in = tempfile::tempdir().map_err(unable)?;
        Ok(Some(Team { sharing: Sharing::open(remote, options)?, policy: settings.trust, stand_in }))
    }

    /// The shared store, which answers.
    ///
    /// # Errors
    /// If it does not: without it, what others have paid for would be paid for again.
    pub fn reached(&self) -> Result<Sharing> {
        self.sharing.reach().map_err(|error| match error.into() {
            Failure::Plain { exit, message, .. } => {
                let hint = Some("try again when it answers, or go on without it: `--no-remote`".to_string());
                Failure::Plain { exit, message, hint }
            }
            mistakes => mistakes,
        })?;
        Ok(self.sharing.clone())
    }

    /// Another one in each process: see [`stages::context::Context::first_row`]. It decides who pays for what, never what comes out.
    pub fn first_row(&self) -> usize {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&(std::process::id(), cache::now_seconds(), self.stand_in.path()), &mut hasher);
        std::hash::Hasher::finish(&hasher) as usize
    }

    pub fn stand_in(&self) -> &Path {
        self.stand_in.path()
    }

    /// Under `trust: strict`, work by strangers is no reason to do it again.
    ///
    /// # Errors
    /// If something was refused so far.
    pub fn check(&self) -> Result<()> {
        let refused = self.sharing.report().refused;
        match (self.policy, refused.first_key_value()) {
            (TrustPolicy::Strict, Some(_)) => Err(Failure::Plain {
                exit: Exit::Cache,
                message: format!("{}, and the recipe says `trust: strict`", refusal(&refused)),
                hint: Some(how_to_trust(&refused)),
            }),
            _ => Ok(()),
        }
    }

    /// What was shared, and what could not be.
    pub fn tell(&self, reporter: &dyn Reporter) {
        let report = self.sharing.report();
        for message in warnings(&report) {
            reporter.tell(&Event::Warned { node: None, message: &message });
        }
        reporter.tell(&Event::Shared { place: self.sharing.name(), report: &report });
    }
}

type Refused = std::collections::BTreeMap<Option<PublicKey>, u64>;

fn warnings(report: &SharingReport) -> Vec<String> {
    let mut warnings = Vec::new();
    if !report.refused.is_empty() {
        warnings.push(format!(
            "{}, and counted as missing; {}",
            refusal(&report.refused),
            how_to_trust(&report.refused)
        ));
    }
    if report.damaged > 0 {
        warnings.push(format!(
            "{} in the shared store were damaged and counted as missing",
            counted(report.damaged, "file")
        ));
    }
    if let Some(reason) = &report.cut_off {
        warnings.push(format!(
            "replies of others could not be fetched in the end, so some may be paid twice: {}",
            first_line(reason)
        ));
    }
    if let Some(unsent) = &report.unsent {
        let results = (unsent.results > 0).then(|| counted(unsent.results as u64, "result"));
        let replies = unsent.replies.then(|| "replies".to_string());
        let what: Vec<String> = results.into_iter().chain(replies).collect();
        let reason = first_line(&unsent.reason);
        warnings.push(format!(
            "{} could not be shared ({reason}); `decoct cache push` makes up for it",
            what.join(" and ")
        ));
    }
    warnings
}

fn refusal(refused: &Refused) -> String {
    let by = |(signer, count): (&Option<PublicKey>, &u64)| match signer {
        Some(key) => format!("{count} by the unknown writer {}", key.short()),
        None => format!("{count} by no one"),
    };
    let total: u64 = refused.values().sum();
    let list: Vec<String> = refused.iter().map(by).collect();
    format!("{} in the shared store were not signed by a trusted writer ({})", counted(total, "file"), list.join(", "))
}

fn how_to_trust(refused: &Refused) -> String {
    match refused.keys().flatten().next() {
        Some(key) => format!("if you know whose key it is: `decoct cache trust add NAME {key}`"),
        None => "`--allow-unsigned` uses them in this run".to_string(),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
