//! `dmarcgate forwarders suggest`.

use std::io::Write;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::runtime;

use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::cli::reports::duration;
use crate::cli::{ConfigFile, Failure, print};
use crate::clock;
use crate::config;
use crate::forwarders::{Observations, Suggestion, Thresholds};
use crate::policy::overrides::Criteria;
use crate::store::Reader;

#[derive(Debug, Subcommand)]
pub enum Command {
    Suggest(Suggest),
}

/// Suggest overrides for forwarders and lists, from what was recorded
///
/// Lists who carries mail of many domains that fails DMARC there, while its own signature or SPF domain passes
/// steadily, with the numbers and the `[[policy.override]]` to paste. Nothing is applied, and what an override or a
/// trusted network covers already is not listed.
///
/// What the numbers cannot tell: whether that mail is wanted. A spammer who signs forged mail with their own domain
/// looks like a forwarder here, after some days in which your mail server accepts that mail; so does a service that
/// sends in the name of customers whose DNS is not set up for it. Look at who it is before you paste.
/// "accepted" is what your mail server said to the failing mail that reached it: where it accepts everything, it says
/// nothing.
#[derive(Debug, Args)]
pub struct Suggest {
    #[command(flatten)]
    file: ConfigFile,
    /// How far back: "12h", "30d"; whole days are looked at
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = duration)]
    since: Duration,
    /// Policy domains whose mail has to fail through it
    #[arg(long, value_name = "N", default_value_t = 5)]
    domains: usize,
    /// Days on which it has to
    #[arg(long, value_name = "N", default_value_t = 3)]
    days: usize,
    /// Messages that have to
    #[arg(long, value_name = "N", default_value_t = 20)]
    messages: u64,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// A line as `--json` prints it.
#[derive(Serialize)]
struct JsonLine<'a> {
    identity: &'a str,
    domain: &'a str,
    networks: Vec<String>,
    policy_domains: usize,
    days: usize,
    last_day: String,
    failed: u64,
    messages: u64,
    failed_share: f64,
    accepted_by_upstream: u64,
    refused_by_upstream: u64,
    accepted_share: Option<f64>,
    toml: String,
}

impl Command {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let Self::Suggest(suggest) = self;
        suggest.run(output)
    }
}

impl Suggest {
    fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        let reader = Reader::new(config.store.url);
        let now = SystemTime::now();
        let since = now.checked_sub(self.since).unwrap_or(SystemTime::UNIX_EPOCH);
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::running(&error))?;
        let mut observations = Observations::default();
        let read =
            runtime.block_on(reader.observe(clock::signed(clock::since_epoch(since)), |seen| observations.add(seen)));
        read.map_err(|error| Failure::running(&error))?;

        let thresholds =
            Thresholds { domains: self.domains, days: self.days, messages: self.messages, ..Thresholds::default() };
        let today = clock::signed(clock::since_epoch(now)).div_euclid(SECONDS_PER_DAY);
        let holding = config.policy.overrides.iter().filter(|o| o.until.is_none_or(|until| today < until.to_day()));
        let granted: Vec<Criteria> = holding.map(config::Override::criteria).collect();
        let suggestions = observations.suggest(&thresholds, &granted, &config.bypass.trusted_networks);
        let mut text = if self.json { json(&suggestions) } else { table(&suggestions) };
        if observations.is_cut() && !self.json {
            text.push_str(
                "\nThere were more signers and SPF domains than could be kept; a shorter --since sees them all.\n",
            );
        }
        print(output, &text)
    }
}

fn table(suggestions: &[Suggestion]) -> String {
    if suggestions.is_empty() {
        return "No forwarder stands out. `dmarcgate forwarders suggest --help` tells what is looked for.\n".into();
    }
    let mut text = String::new();
    for suggestion in suggestions {
        let (key, domain) = suggestion.identity.parts();
        let accepted = match suggestion.accepted_share() {
            Some(share) => format!("{}% accepted by the mail server", percent(share)),
            None => "none seen by the mail server".into(),
        };
        text.push_str(&format!(
            "# {key} {domain}: {} messages of {} domains failed on {} days, the last on {}\n# {}% of its mail failed; of \
             that {accepted}\n",
            suggestion.failed,
            suggestion.domains,
            suggestion.days,
            Date::of_day(suggestion.last_day),
            percent(suggestion.failed_share()),
        ));
        if suggestion.networks.is_empty() {
            text.push_str("# It comes from too many networks to name them: its identity alone would grant this.\n");
        }
        text.push_str(&suggestion.to_toml());
        text.push('\n');
    }
    text.pop();
    text
}

fn json(suggestions: &[Suggestion]) -> String {
    let lines = suggestions.iter().map(|suggestion| {
        let (identity, domain) = suggestion.identity.parts();
        let line = JsonLine {
            identity,
            domain: domain.as_str(),
            networks: suggestion.networks.iter().map(ToString::to_string).collect(),
            policy_domains: suggestion.domains,
            days: suggestion.days,
            last_day: Date::of_day(suggestion.last_day).to_string(),
            failed: suggestion.failed,
            messages: suggestion.messages,
            failed_share: suggestion.failed_share(),
            accepted_by_upstream: suggestion.accepted,
            refused_by_upstream: suggestion.refused,
            accepted_share: suggestion.accepted_share(),
            toml: suggestion.to_toml(),
        };
        // Fails only for maps with keys that are no strings; there are none.
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    });
    lines.collect()
}

/// Rounded down: 100 is all.
fn percent(share: f64) -> String {
    format!("{:.0}", (share * 100.0).floor())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::{configuration, run};
    use crate::metrics::Registry;
    use crate::record::{FinalReply, Record, SpfScope, sample};
    use crate::store::{Location, Settings, Store};

    /// What a list makes of mail of six author domains on four days.
    fn records(now: i64) -> Vec<Record> {
        let of = |n: i64, day: i64| {
            let mut record = sample::record();
            record.arrived = now - day * SECONDS_PER_DAY;
            record.source_ip = [203, 0, 113, 7].into();
            record.evaluated.dkim = crate::record::AlignmentOutcome::Fail;
            record.evaluated.spf = crate::record::AlignmentOutcome::Fail;
            record.policy.as_mut().unwrap().domain =
                crate::domain::Domain::parse(&format!("author{n}.example")).unwrap();
            record.dkim.truncate(1);
            (record.dkim[0].domain, record.dkim[0].result) = ("lists.example".into(), "pass".into());
            let spf = record.spf.as_mut().unwrap();
            (spf.domain, spf.scope, spf.result) = ("lists.example".into(), SpfScope::MailFrom, "pass".into());
            record.reply = FinalReply::Accepted;
            record
        };
        (0..6).flat_map(|n| (0..4).map(move |day| of(n, day))).collect()
    }

    #[test]
    fn what_is_suggested_is_a_valid_configuration_and_not_suggested_again() {
        let (directory, path) = configuration("");
        let empty = run(&["forwarders", "suggest", "--config", &path]);
        assert!(empty.is_err(), "there is no database before the first start");
        let location = Location::Sqlite(directory.path().join("store.db"));
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(Settings::new(location), &Registry::new()).await.unwrap();
            records(clock::epoch_seconds_signed()).into_iter().for_each(|record| store.appender().append(record));
            store.close(Duration::from_secs(5)).await;
        });
        let text = run(&["forwarders", "suggest", "--config", &path]).unwrap();
        assert!(text.starts_with("# dkim lists.example: 24 messages of 6 domains failed on 4 days"), "{text}");
        assert!(text.contains("# 100% of its mail failed; of that 100% accepted by the mail server\n"), "{text}");
        assert!(text.contains("network = [\"203.0.113.7/32\"]\ndkim = [\"lists.example\"]\n"), "{text}");
        let json = run(&["forwarders", "suggest", "--json", "--config", &path]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["policy_domains"], &json["failed"]), (&6.into(), &24.into()), "{json}");
        assert_eq!(json["accepted_share"], 1.0);
        let stricter = run(&["forwarders", "suggest", "--days", "5", "--config", &path]).unwrap();
        assert!(stricter.starts_with("No forwarder stands out."), "{stricter}");

        let pasted = std::fs::read_to_string(&path).unwrap() + &text;
        std::fs::write(&path, pasted).unwrap();
        let checked = run(&["config", "check", "--config", &path]).unwrap();
        assert!(checked.contains("configuration is valid") && !checked.contains("policy.override"), "{checked}");
        let again = run(&["forwarders", "suggest", "--config", &path]).unwrap();
        assert!(again.starts_with("No forwarder stands out."), "{again}");
    }
}
