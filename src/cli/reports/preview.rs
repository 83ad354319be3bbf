//! `dmarcgate reports preview`: the report as it stands.

use std::io::Write;

use clap::Args;

use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::cli::reports::block_on;
use crate::cli::{ConfigFile, Failure, print};
use crate::clock::epoch_seconds_signed;
use crate::config::Config;
use crate::domain::Domain;
use crate::report::aggregate::{Drafts, Limits, Period, Reporter, check};
use crate::store::jobs::{Jobs, PageCursor};

/// Print the report on a domain as it would be sent
///
/// For one of the last days, or for today so far: one XML document for each policy that the domain
/// published. Nothing is sent and nothing changes.
#[derive(Debug, Args)]
pub struct Preview {
    /// The policy domain: where the DMARC record stands
    #[arg(value_parser = |text: &str| Domain::parse(text).map_err(|error| error.to_string()))]
    domain: Domain,
    #[command(flatten)]
    file: ConfigFile,
    /// The UTC day, as "2026-11-25"; today if it is left out
    #[arg(long, value_name = "DAY", value_parser = day)]
    period: Option<i64>,
}

impl Preview {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        let day = self.period.unwrap_or_else(|| epoch_seconds_signed().div_euclid(SECONDS_PER_DAY));
        let drafts = block_on(async {
            let mut jobs = Jobs::open_read_only(&config.store.url).await?;
            let mut drafts = Drafts::new(config.reports.private_addresses, Limits::default());
            let mut cursor = Some(PageCursor::default());
            while let Some(from) = cursor {
                let (page, next) = jobs.rows(day, None, self.domain.as_str(), &from).await?;
                page.into_iter().for_each(|row| drafts.add(row));
                cursor = next;
            }
            Ok::<_, crate::store::Error>(drafts)
        })?;
        let (drafts, _) = drafts.finish();
        let reporter = reporter(&config);
        let mut shown = false;
        for draft in drafts {
            let (Some(feedback), _) = draft.finish(&reporter, Period::day(day)) else { continue };
            let xml = feedback.to_xml();
            check(&xml, reporter.format).map_err(|damage| Failure::running(&damage))?;
            print(output, &xml)?;
            shown = true;
        }
        if shown {
            return Ok(());
        }
        let (domain, date) = (&self.domain, Date::of_day(day));
        Err(Failure::Running(format!(
            "there is nothing to report on {domain} for {date}: see `dmarcgate reports rows`"
        )))
    }
}

/// Who reports; what is not configured yet is made up from the host's name.
fn reporter(config: &Config) -> Reporter {
    let reports = &config.reports;
    let receiver = reports.from.as_ref().and_then(|from| from.domain.clone());
    Reporter {
        organization: reports.organization.clone().unwrap_or_else(|| config.hostname.to_string()),
        email: match &reports.from {
            Some(from) => from.to_string(),
            None => format!("postmaster@{}", config.hostname),
        },
        extra_contact_info: reports.contact.clone(),
        receiver: receiver.unwrap_or_else(|| config.hostname.clone()),
        format: reports.format,
    }
}

fn day(text: &str) -> Result<i64, &'static str> {
    Date::parse(text).map(Date::to_day).ok_or(r#"expected a day such as "2026-11-25""#)
}
