//! `decoct cache trust`: whose work from a shared store is used.

use crate::cli::{CacheTrustCommand, TrustArgs};
use crate::failure::{Exit, Result};
use cache::{PublicKey, Trust};

pub fn run(command: &CacheTrustCommand) -> Result<Exit> {
    match command {
        CacheTrustCommand::Init(arguments) => init(&open(&arguments.trust)?)?,
        CacheTrustCommand::Add(arguments) => add(&mut open(&arguments.trust)?, &arguments.name, arguments.key)?,
        CacheTrustCommand::List(arguments) => list(&open(&arguments.trust)?),
        CacheTrustCommand::Remove(arguments) => remove(&mut open(&arguments.trust)?, &arguments.name)?,
    }
    Ok(Exit::Done)
}

/// The keys of this user; where no folder for them is known, no one is trusted.
pub fn open(arguments: &TrustArgs) -> Result<Trust> {
    match arguments.folder() {
        Some(folder) => Ok(Trust::open(&folder)?),
        None => Ok(Trust::none()),
    }
}

/// The key alone goes to stdout, so that a script can take it.
fn init(trust: &Trust) -> Result<()> {
    let is_new = trust.own().is_none();
    let key = trust.signer()?.public();
    eprintln!("{}", if is_new { "made your signing key; its public half:" } else { "your public key:" });
    println!("{key}");
    eprintln!("who shall use your work, runs: decoct cache trust add {} {key}", name_of_user());
    Ok(())
}

fn add(trust: &mut Trust, name: &str, key: PublicKey) -> Result<()> {
    trust.add(name, key)?;
    eprintln!("work by `{name}` is used from now on");
    Ok(())
}

fn list(trust: &Trust) {
    let own = trust.own();
    let unnamed = own.filter(|own| trust.list().iter().all(|writer| writer.key != *own)).map(|own| ("you", own));
    let named = trust.list().iter().map(|writer| (writer.name.as_str(), writer.key));
    let rows: Vec<(&str, PublicKey)> = unnamed.into_iter().chain(named).collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, key) in &rows {
        println!("{name:width$}  {key}{}", if own == Some(*key) { "  (yours)" } else { "" });
    }
    if own.is_none() {
        eprintln!("you have no signing key yet: the first push makes one, or `decoct cache trust init`");
    }
}

fn remove(trust: &mut Trust, name: &str) -> Result<()> {
    let removed = trust.remove(name)?;
    eprintln!("work by `{}`, {}, is used no longer", removed.name, removed.key);
    Ok(())
}

/// A name to propose for this user; anyone may choose another.
fn name_of_user() -> String {
    let is_word = |name: &String| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    std::env::var("USER").ok().filter(is_word).unwrap_or_else(|| "NAME".to_string())
}
