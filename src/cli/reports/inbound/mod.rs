//! `dmarcgate reports inbound`: what others report about our domains.

mod read;
mod summary;

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};

use self::summary::Summary;
use super::{before, block_on, duration};
use crate::cli::{ConfigFile, Failure, print};
use crate::clock::epoch_seconds_signed;
use crate::domain::Domain;
use crate::store::{Error, Reader};

/// Show who sends in the name of our domains, by the reports of others.
///
/// A gate whose configuration has reports.inbound.addresses reads the aggregate reports that come to them. For each
/// domain this tells, source by source, how many messages were seen, how many failed DMARC and what was done with them,
/// for whom they passed SPF and DKIM (which tells whose service it may be), and who reports it. Sources that fail come
/// first, those with most failures on top.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Inbound {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Command {
    Read(read::Read),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// How far back: reports count whose period ended since: "7d", "90d"
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = duration)]
    since: Duration,
    /// Only what was reported on this domain
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    domain: Option<Domain>,
    /// Put addresses of one network together: /24 for IPv4, /48 for IPv6
    #[arg(long)]
    networks: bool,
    /// Sources to show of those that fail and of those that don't, for each domain
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Print one JSON object a line, one for each domain and source
    #[arg(long)]
    json: bool,
}

impl Inbound {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        match self.command {
            Some(Command::Read(command)) => command.run(output),
            None => self.list.run(output),
        }
    }
}

impl List {
    fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        let since = before(epoch_seconds_signed(), self.since);
        let summary = block_on(self.summary(&Reader::new(config.store.url), since))?;
        if summary.is_empty() && config.reports.inbound.addresses.is_empty() && !self.json {
            return print(output, "no reports: reports.inbound.addresses is empty in the configuration\n");
        }
        print(output, &if self.json { summary.json() } else { summary.table(self.top) })
    }

    async fn summary(&self, reader: &Reader, since: i64) -> Result<Summary, Error> {
        let mut summary = Summary::new(self.networks);
        let wanted = |domain: &str| self.domain.as_ref().is_none_or(|wanted| wanted.as_str() == domain);
        for reporting in reader.inbound_reporting(since).await? {
            if wanted(&reporting.policy_domain) {
                summary.add_reporting(reporting);
            }
        }
        let each = |source: crate::store::inbound::Source| {
            if wanted(&source.policy_domain) {
                summary.add(source);
            }
        };
        reader.inbound_sources(since, each).await?;
        Ok(summary)
    }
}

fn domain(text: &str) -> Result<Domain, &'static str> {
    Domain::parse(text).map_err(|_| r#"expected a domain such as "example.net""#)
}

#[cfg(test)]
mod tests;
