//! `dmarcgate reports suppressions`.

use std::io::Write;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::reports::{block_on, moment};
use crate::cli::{ConfigFile, Failure, print};
use crate::clock::epoch_seconds_signed;
use crate::explain::escape::escaped;
use crate::store::jobs::{Jobs, Suppression};

#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Remove(Remove),
}

/// List the addresses that get no reports for a while
///
/// An address that bounces or is refused gets none for a week, then a month, a quarter, a year.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// Also those whose time is over
    #[arg(long)]
    all: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Let an address get reports again, as if it had never refused one
#[derive(Debug, Args)]
pub struct Remove {
    /// The address
    address: String,
    #[command(flatten)]
    file: ConfigFile,
}

/// A suppression as `--json` prints it.
#[derive(Serialize)]
struct JsonLine<'a> {
    address: &'a str,
    strikes: i64,
    since: i64,
    until: i64,
    reason: &'a str,
}

impl Command {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(output),
            Self::Remove(remove) => remove.run(output),
        }
    }
}

impl List {
    fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let location = self.file.load()?.config.store.url;
        let found = block_on(async { Jobs::open_read_only(&location).await?.suppressions().await })?;
        let now = epoch_seconds_signed();
        let found: Vec<_> = found.into_iter().filter(|one| self.all || one.until > now).collect();
        print(output, &if self.json { json(&found) } else { table(&found) })
    }
}

impl Remove {
    fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let location = self.file.load_as_gate()?.config.store.url;
        match block_on(async { Jobs::open(&location).await?.forgive(&self.address).await })? {
            true => print(output, &format!("{} gets reports again\n", escaped(self.address.as_bytes()))),
            false => Err(Failure::Running(format!("{:?} is not suppressed", self.address))),
        }
    }
}

fn table(found: &[Suppression]) -> String {
    let width = found.iter().map(|one| escaped(one.address.as_bytes()).len()).max().unwrap_or(0).max("address".len());
    let mut text = format!("{:width$}  {:>7}  {:16}  {:16}  why\n", "address", "strikes", "since", "until");
    for one in found {
        let (since, until) = (moment(one.since), moment(one.until));
        let (address, reason) = (escaped(one.address.as_bytes()), escaped(one.reason.as_bytes()));
        text.push_str(&format!("{address:width$}  {:>7}  {since:16}  {until:16}  {reason}\n", one.strikes));
    }
    text
}

fn json(found: &[Suppression]) -> String {
    let mut text = String::new();
    for Suppression { address, strikes, since, until, reason } in found {
        let line = JsonLine { address, strikes: *strikes, since: *since, until: *until, reason };
        // Fails only for maps with keys that are no strings; there are none.
        text.push_str(&serde_json::to_string(&line).unwrap_or_default());
        text.push('\n');
    }
    text
}
