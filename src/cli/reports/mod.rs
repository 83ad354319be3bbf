//! `dmarcgate reports`: what was recorded, what became of the reports on it, sending them by hand, and reports of
//! others.

mod export;
mod inbound;
mod jobs;
mod preview;
mod rows;
mod send;
mod shadow;
mod suppressions;

use std::error::Error;
use std::future::Future;
use std::io::Write;
use std::time::Duration;

use clap::Subcommand;
use tokio::runtime;

use crate::cli::Failure;
use crate::config::{Config, parse_duration};
use crate::report::delivery;
use crate::tls::ClientMetrics;

#[derive(Debug, Subcommand)]
pub enum Command {
    Export(export::Export),
    Inbound(inbound::Inbound),
    List(jobs::List),
    Preview(preview::Preview),
    Rows(rows::Rows),
    Send(send::Send),
    Shadow(shadow::Shadow),
    Show(jobs::Show),
    /// Show or lift what keeps addresses from getting reports
    #[command(subcommand)]
    Suppressions(suppressions::Command),
}

impl Command {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        match self {
            Self::Export(command) => command.run(output),
            Self::Inbound(command) => command.run(output),
            Self::List(command) => command.run(output),
            Self::Preview(command) => command.run(output),
            Self::Rows(command) => command.run(output),
            Self::Send(command) => command.run(output),
            Self::Shadow(command) => command.run(output),
            Self::Show(command) => command.run(output),
            Self::Suppressions(command) => command.run(output),
        }
    }
}

/// Runs what asks the store, on a runtime of its own.
fn block_on<T, E: Error + 'static>(work: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::running(&error))?;
    runtime.block_on(work).map_err(|error| Failure::running(&error))
}

/// How reports are sent; a failure without a sender.
fn settings(config: &Config, metrics: ClientMetrics) -> Result<delivery::Settings, Failure> {
    let settings = config.reports(metrics).map_err(|error| Failure::running(&error))?;
    settings.ok_or_else(|| Failure::Usage("reports.from and reports.organization are not set".to_owned()))
}

pub fn duration(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or(r#"expected a duration such as "12h" or "7d""#)
}

fn before(now: i64, duration: Duration) -> i64 {
    now.saturating_sub(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)).max(0)
}

/// A moment as people read it: UTC, to the minute.
fn moment(seconds: i64) -> String {
    let day = crate::calendar::Date::of_day(seconds.div_euclid(crate::calendar::SECONDS_PER_DAY));
    let minute = seconds.rem_euclid(crate::calendar::SECONDS_PER_DAY) / 60;
    format!("{day} {:02}:{:02}", minute / 60, minute % 60)
}
