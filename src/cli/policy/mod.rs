//! `dmarcgate policy test`: says what the configuration decides for cases that an operator writes down.
//!
//! A case gives what was found out about the identifiers of a message, and what DNS has of DMARC; from there on it is
//! the code of sessions that decides: discovery, alignment and result, bypass, policy, reply. `judge` runs it, `facts`
//! holds what came out, for people and for programs.

mod facts;
mod judge;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use tokio::runtime;

use self::facts::Facts;
use self::judge::judge;
use crate::cli::check::at_listener;
use crate::cli::{ConfigFile, Failure, print};
use crate::config::cases;

#[derive(Debug, Subcommand)]
pub enum Command {
    Test(Test),
}

/// Say what the configuration decides for cases in a file
///
/// Each case is a table `[[case]]` in a TOML file: the author domain, its policy, what SPF, DKIM and ARC came to, the
/// client and the recipients, as far as they matter, and what is expected. contrib/policy/cases.toml shows every key.
/// Nothing is asked of DNS and nothing is sent: alignment, the result of DMARC, bypass, policy and reply come from the
/// code that sessions use.
#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Test {
    /// The file of cases
    #[arg(value_name = "CASES.toml")]
    cases: PathBuf,
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Yields whether every case came out as expected.
    pub fn run(self, output: &mut dyn Write) -> Result<bool, Failure> {
        match self {
            Self::Test(test) => test.run(output),
        }
    }
}

impl Test {
    fn run(self, output: &mut dyn Write) -> Result<bool, Failure> {
        let config = self.file.load()?.config;
        let cases = cases::load(&self.cases).map_err(|error| Failure::Usage(error.to_string()))?;
        let runtime = runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|error| Failure::running(&error))?;
        let mut facts = Facts::default();
        for case in &cases {
            let config = at_listener(config.clone(), case.listener).map_err(|failure| match failure {
                Failure::Usage(wrong) => {
                    Failure::Usage(format!("{}:{}: case.listener: {wrong}", self.cases.display(), case.line))
                }
                failure @ Failure::Running(_) => failure,
            })?;
            facts.add(runtime.block_on(judge(case, &config)));
        }
        let text = if self.json { facts.to_json() } else { facts.tell(&self.cases.display().to_string()) };
        print(output, &text).map(|()| facts.differ == 0)
    }
}

const EXIT_CODES: &str = "\
Exit code:
  0  every case came out as expected
  1  some did not
  2  wrong usage, configuration or cases";

#[cfg(test)]
mod tests;
