//! What the page tells out of the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::Settings;
use super::cached::Cached;
use super::facts::{
    Among, Difference, Failing, Forwarder, Forwarders, Inbound, Job, Replies, Reported, Reports, Section, Shadow,
    Snippet, SourceAddress, Tally,
};
use super::text::Text;
use crate::calendar::SECONDS_PER_DAY;
use crate::causes::Causes;
use crate::clock::epoch_seconds_signed;
use crate::forwarders::{Observations, Suggestion, Thresholds};
use crate::label::Label;
use crate::policy::overrides::Criteria;
use crate::policy::treatment::{Opinion, Treatment};
use crate::record::UpstreamReply;
use crate::store::comparison::{self, Comparisons, Total};
use crate::store::jobs::{self, Jobs, Selection};
use crate::store::{Error, Reader, overview};

/// What was read a while ago.
#[derive(Debug)]
pub struct Stored {
    sums: Cached<Sums>,
    forwarders: Cached<Arc<Section<Forwarders>>>,
}

/// What a few quick questions give.
#[derive(Debug, Clone)]
pub struct Sums {
    /// Author domains that fail.
    pub failing: Arc<Section<Vec<Failing>>>,
    /// The shadow policy.
    pub shadow: Arc<Section<Shadow>>,
    /// Reports that are sent.
    pub reports: Arc<Section<Reports>>,
    /// Reports of others.
    pub inbound: Arc<Section<Inbound>>,
}

impl Default for Stored {
    fn default() -> Self {
        let sums = Sums {
            failing: Arc::new(Section::unread(WEEK)),
            shadow: Arc::new(Section::unread(WEEK)),
            reports: Arc::new(Section::unread(WEEK)),
            inbound: Arc::new(Section::unread(MONTH)),
        };
        let forwarders = Cached::new(Arc::new(Section::unread(MONTH)), SCAN_REST);
        Self { sums: Cached::new(sums, REST), forwarders }
    }
}

impl Stored {
    /// The last reading, or a new one where that is too old.
    pub async fn read(&self, settings: &Arc<Settings>) -> (Arc<Sums>, Arc<Section<Forwarders>>) {
        let (sums, scan) = (Arc::clone(settings), Arc::clone(settings));
        let sums = self.sums.value(PATIENCE, move || read_sums(sums));
        let forwarders = self.forwarders.value(SCAN_PATIENCE, move || async move { Arc::new(scan_rows(scan).await) });
        let (sums, forwarders) = tokio::join!(sums, forwarders);
        (sums, Arc::clone(&forwarders))
    }
}

async fn read_sums(settings: Arc<Settings>) -> Sums {
    let now = epoch_seconds_signed();
    let reader = Reader::new(settings.location.clone());
    let (week, month) = (now - WEEK * SECONDS_PER_DAY, now - MONTH * SECONDS_PER_DAY);
    let failing = section(now, WEEK, async {
        Ok(reader.failing(week, MOST, MOST_ADDRESSES).await?.into_iter().map(Failing::from).collect())
    });
    let shadow = section(now, WEEK, async { Ok(Shadow::from(reader.comparisons(week, now, MOST_NAMES).await?)) });
    let reports = section(now, WEEK, async {
        let states = reader.report_tally(week).await?.into_iter().map(Tally::from).collect();
        let selection = Selection { since: week, limit: MOST_JOBS };
        let latest = Jobs::open_read_only(&settings.location).await?.list(&selection).await?;
        Ok(Reports { enabled: settings.reports, last_run: 0, states, latest: latest.iter().map(Job::from).collect() })
    });
    let inbound = section(now, MONTH, async {
        let found = reader.inbound(month, MOST_NAMES * 4).await?;
        Ok(Inbound {
            enabled: settings.inbound,
            reports: found.reports,
            messages: found.messages,
            last_end: found.last_end,
            reporters: found.reporters,
            sources: found.sources.into_iter().map(Reported::from).collect(),
        })
    });
    // One after the other: no more than one connection is used.
    Sums {
        failing: Arc::new(failing.await),
        shadow: Arc::new(shadow.await),
        reports: Arc::new(reports.await),
        inbound: Arc::new(inbound.await),
    }
}

/// Looks through the rows of a month. What was seen when the time is over counts.
async fn scan_rows(settings: Arc<Settings>) -> Section<Forwarders> {
    let now = epoch_seconds_signed();
    let mut observations = Observations::default();
    let since = now - MONTH * SECONDS_PER_DAY;
    let reader = Reader::new(settings.location.clone());
    let is_whole = match timeout(SCAN, reader.observe(since, |seen| observations.add(seen))).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => return failed(MONTH, &error),
        Err(_) => false,
    };
    let today = now.div_euclid(SECONDS_PER_DAY);
    let holding = settings.granted.iter().filter(|(_, until)| until.is_none_or(|until| today < until));
    let granted: Vec<Criteria> = holding.map(|(criteria, _)| criteria.clone()).collect();
    let suggestions = observations.suggest(&Thresholds::default(), &granted, &settings.trusted);
    let suggestions = suggestions.iter().take(MOST).map(Forwarder::from).collect();
    let found = Forwarders { suggestions, is_cut: !is_whole || observations.is_cut() };
    Section { read: Some(now), days: MONTH, found: Some(found), error: None }
}

async fn section<T>(now: i64, days: i64, read: impl Future<Output = Result<T, Error>>) -> Section<T> {
    match timeout(QUESTION, read).await {
        Ok(Ok(found)) => Section { read: Some(now), days, found: Some(found), error: None },
        Ok(Err(error)) => failed(days, &error),
        Err(_) => Section { error: Some("the database did not answer in time"), ..Section::unread(days) },
    }
}

/// Why is in the log, whose readers may know more than who sees the page.
fn failed<T>(days: i64, error: &Error) -> Section<T> {
    warn!(error = %Causes(error), "the status page can't read the store");
    Section { error: Some("the database can't be read; the log says why"), ..Section::unread(days) }
}

impl From<overview::Failing> for Failing {
    fn from(failing: overview::Failing) -> Self {
        let source = |(ip, messages): (String, i64)| SourceAddress { ip: Text::of(ip), messages };
        Self {
            author_domain: Text::of(failing.author_domain),
            messages: failing.messages,
            refused: failing.refused,
            quarantined: failing.quarantined,
            addresses: failing.addresses,
            from: failing.from.into_iter().map(source).collect(),
        }
    }
}

impl From<overview::Tally> for Tally {
    fn from(tally: overview::Tally) -> Self {
        Self { state: tally.state.as_str(), reports: tally.reports, messages: tally.messages }
    }
}

impl From<overview::Reported> for Reported {
    fn from(reported: overview::Reported) -> Self {
        Self {
            policy_domain: Text::of(reported.policy_domain),
            ip: Text::of(reported.source_ip),
            messages: reported.messages,
            failed: reported.failed,
            reporters: reported.reporters,
            signers: Text::of(reported.signers),
        }
    }
}

impl From<&jobs::Job> for Job {
    fn from(job: &jobs::Job) -> Self {
        Self {
            id: Text::of(job.planned.id.get(..12).unwrap_or(&job.planned.id)),
            begin: job.planned.begin,
            policy_domain: Text::of(&job.planned.policy_domain),
            destination: Text::of(&job.planned.destination),
            state: job.state.as_str(),
            attempts: job.attempts,
            due: job.planned.due,
            note: Text::of(&job.note),
        }
    }
}

impl From<&Suggestion> for Forwarder {
    fn from(suggestion: &Suggestion) -> Self {
        let (identity, domain) = suggestion.identity.parts();
        Self {
            identity,
            domain: Text::of(domain.as_str()),
            policy_domains: suggestion.domains,
            days: suggestion.days,
            failed: suggestion.failed,
            messages: suggestion.messages,
            accepted: suggestion.accepted,
            refused: suggestion.refused,
            toml: Snippet(suggestion.to_toml()),
        }
    }
}

impl From<comparison::Among> for Among {
    fn from(among: comparison::Among) -> Self {
        let comparison::Among { name, messages, accepted, refused } = among;
        Self { name: Text::of(name), messages, accepted, refused }
    }
}

impl From<Comparisons> for Shadow {
    fn from(found: Comparisons) -> Self {
        // What the mail server defers comes again.
        let compared = found.totals.iter().filter(|total| total.reply != Some(UpstreamReply::Deferred));
        let compared: Vec<&Total> = compared.filter(|total| total.shadow.is_some()).collect();
        let sum = |of: &dyn Fn(&Total) -> bool| {
            compared.iter().filter(|total| of(total)).map(|total| total.messages).fold(0_i64, i64::saturating_add)
        };
        let pairs = Treatment::ALL.iter().flat_map(|active| Treatment::ALL.iter().map(move |shadow| (active, shadow)));
        let difference = |(active, shadow): (&Treatment, &Treatment)| {
            let is_it = |total: &Total| total.active == *active && total.shadow == Some(*shadow);
            let said = |reply| sum(&|total| is_it(total) && total.reply == Some(reply));
            Difference {
                active: active.as_str(),
                shadow: shadow.as_str(),
                messages: sum(&is_it),
                accepted: said(UpstreamReply::Accepted),
                refused: said(UpstreamReply::Refused),
            }
        };
        let differences = pairs.filter(|(active, shadow)| active != shadow).map(difference);
        let differences: Vec<Difference> = differences.filter(|difference| difference.messages > 0).collect();
        let replies = |opinion: &Opinion| {
            let said = |reply| {
                let alike = found.totals.iter().filter(|total| total.opinion == *opinion && total.reply == Some(reply));
                alike.map(|total| total.messages).fold(0_i64, i64::saturating_add)
            };
            Replies {
                verdict: opinion.as_str(),
                accepted: said(UpstreamReply::Accepted),
                refused: said(UpstreamReply::Refused),
                deferred: said(UpstreamReply::Deferred),
            }
        };
        Self {
            compared: sum(&|_| true),
            different: differences.iter().map(|difference| difference.messages).fold(0, i64::saturating_add),
            replies: Opinion::ALL.iter().map(replies).collect(),
            differences,
            author_domains: found.author_domains.into_iter().map(Among::from).collect(),
            sources: found.sources.into_iter().map(Among::from).collect(),
        }
    }
}

/// How far back mail is looked at, in days.
const WEEK: i64 = 7;
/// How far back what comes seldom is looked at, in days.
const MONTH: i64 = 30;
/// How old sums may be.
const REST: Duration = Duration::from_secs(10);
/// How old a look through all rows may be.
const SCAN_REST: Duration = Duration::from_secs(300);
/// How long a page waits for sums.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long it waits for a look through all rows.
const SCAN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// How long a look through all rows may take.
const SCAN: Duration = Duration::from_secs(20);
/// Domains and forwarders that are told.
const MOST: usize = 50;
/// Addresses that are told of each domain.
const MOST_ADDRESSES: usize = 4;
/// Names of the shadow policy's differences that are told.
const MOST_NAMES: i64 = 10;
/// Reports that are told.
const MOST_JOBS: i64 = 100;
