//! What happens to one report: whether it may be sent, what it says, and how it leaves.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tracing::warn;

use crate::clock::epoch_seconds_signed;
use crate::dmarc::record::{Parsed, parse};
use crate::dmarc::report_destination::ReportKind;
use crate::dmarc::report_uri::ReportUri;
use crate::domain::Domain;
use crate::label::Label;
use crate::report::aggregate::{Configuration, Draft, Feedback, Limits, Period, check};
use crate::report::delivery::{Delivery, LEASE, Reputation, Settings};
use crate::report::message;
use crate::report::metrics::{JobOutcome, Omission};
use crate::report::recipient::{self, Address, DenyList, recipients};
use crate::report::relay::{self, Envelope, Outcome};
use crate::report::schedule::{self, Event, Skip};
use crate::report::signing::sign;
use crate::store::Error;
use crate::store::jobs::{Departure, Job, JobState, PageCursor, Reservation, Room};

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// What happened to the job.
    pub event: Event,
    /// Why, in words.
    pub note: String,
    /// The address, once it is known.
    pub recipient: Option<String>,
    /// Until when the job is held, in seconds since the epoch, if the message was on its way.
    pub departed: Option<i64>,
    /// Messages that the report covers.
    pub messages: u64,
    /// Whether it went into a file instead.
    pub written: bool,
}

/// A report that is ready to be sent.
struct BuiltReport {
    message: Vec<u8>,
    messages: u64,
    /// Beside the message, for a dry run.
    xml: Option<String>,
}

/// Why there is nothing to send.
enum Empty {
    Skip(Skip, String),
    Store(Error),
}

impl Ending {
    fn new(event: Event, note: impl Into<String>) -> Self {
        Self { event, note: note.into(), recipient: None, departed: None, messages: 0, written: false }
    }

    fn skip(skip: Skip, note: &str) -> Self {
        Self::new(Event::NotWanted(skip), format!("{skip}: {note}"))
    }

    /// How the attempt is counted, given the state that the job goes to.
    pub fn outcome(&self, state: JobState) -> JobOutcome {
        match self.event {
            Event::Postponed | Event::CapReached if state == JobState::Failed => JobOutcome::GivenUp,
            Event::Taken if self.written => JobOutcome::Written,
            Event::Taken => JobOutcome::Sent,
            Event::Postponed => JobOutcome::Postponed,
            Event::Unanswered => JobOutcome::Unanswered,
            Event::DestinationRefused => JobOutcome::DestinationRefused,
            Event::MessageRefused => JobOutcome::MessageRefused,
            Event::Suppressed => JobOutcome::Suppressed,
            Event::CapReached => JobOutcome::Capped,
            Event::NotWanted(_) => JobOutcome::Skipped,
        }
    }
}

impl Delivery {
    /// Tries to bring a claimed job to its end.
    ///
    /// # Errors
    ///
    /// The store's: nothing more is sent, and the job is taken up again.
    pub(super) async fn attempt(&self, settings: &Arc<Settings>, job: &Job) -> Result<Ending, Error> {
        if job.planned.deadline <= self.now() {
            return Ok(Ending::new(Event::Postponed, "its time is over"));
        }
        let Some(uri) = ReportUri::parse(&job.planned.destination) else {
            return Ok(Ending::skip(Skip::NoAddress, "the destination is no URI"));
        };
        let address = match Address::of(&uri) {
            Ok(address) => address,
            Err(refusal) => return Ok(Ending::skip(Skip::NoAddress, refusal.as_str())),
        };
        let mut ending = match self.may_be_sent(settings, job, &address).await? {
            Some(ending) => ending,
            None => match self.consent(job, &address).await? {
                Some(ending) => ending,
                None => match self.has_room(settings, job, &address).await? {
                    Some(ending) => ending,
                    None => self.send(settings, job, &address).await?,
                },
            },
        };
        ending.recipient = Some(address.to_string());
        Ok(ending)
    }

    /// Why a report is not sent to an address now, by what is known here.
    async fn may_be_sent(&self, settings: &Settings, job: &Job, address: &Address) -> Result<Option<Ending>, Error> {
        let policy_domain = Domain::parse(&job.planned.policy_domain).ok();
        // A name that is no domain is detected when its consent is asked for.
        if settings.denies(policy_domain.as_ref().unwrap_or(address.domain()), address) {
            return Ok(Some(Ending::skip(Skip::Denied, "reports.deny names it")));
        }
        if settings.is_own(address) {
            return Ok(Some(Ending::skip(Skip::OwnAddress, "it is the sender of reports itself")));
        }
        let (now, address) = (self.now(), address.to_string());
        if let Some(found) = self.with_jobs(async |jobs| jobs.suppression(&address, now).await).await? {
            return Ok(Some(Ending::new(Event::Suppressed, found.reason)));
        }
        let to = self.reservation(job, &address);
        let sent = self.with_jobs(async |jobs| jobs.sent(&to).await).await?;
        Ok(schedule::is_full(sent, settings.daily_cap).map(|why| Ending::new(Event::CapReached, why)))
    }

    /// Why an address that wants the report has no room for it; none if it has, which is taken then. Not before it has
    /// said so: strangers would take it from those whose reports it wants.
    async fn has_room(&self, settings: &Settings, job: &Job, address: &Address) -> Result<Option<Ending>, Error> {
        let address = address.to_string();
        let to = self.reservation(job, &address);
        let Some(sent) = self.with_jobs(async |jobs| jobs.reserve(&to).await).await? else {
            return Ok(Some(Ending::new(Event::Postponed, TAKEN_OVER)));
        };
        Ok(schedule::is_full(sent, settings.daily_cap).map(|why| Ending::new(Event::CapReached, why)))
    }

    fn reservation<'a>(&'a self, job: &'a Job, address: &'a str) -> Reservation<'a> {
        Reservation { id: &job.planned.id, holder: &self.shared().holder, address, since: self.now() - DAY }
    }

    /// Why a destination gets no report, by what it says itself (RFC 9990 §4); none if it gets it. Addresses that it names
    /// beside or instead of itself get jobs of their own.
    async fn consent(&self, job: &Job, address: &Address) -> Result<Option<Ending>, Error> {
        let planned = &job.planned;
        let Ok(policy_domain) = Domain::parse(&planned.policy_domain) else {
            return Ok(Some(Ending::skip(Skip::NoConsent, "the policy domain is none")));
        };
        // As if it were the only destination: each has a job of its own.
        let Parsed::Record(record) = parse(format!("v=DMARC1; p=none; rua={}", planned.destination).as_bytes()) else {
            return Ok(Some(Ending::skip(Skip::NoAddress, "the destination can't stand in a record")));
        };
        let lookup = self.shared().resolver.for_message(None);
        let rules = Arc::clone(&self.shared().rules.borrow());
        let all = recipient::Settings { at_most: MOST_REPLACEMENTS, deny: DenyList::default() };
        let about = (&policy_domain, &*record);
        let found = recipients(&lookup.unmetered(), &rules, &all, ReportKind::Aggregate, about).await;
        let others: Vec<_> = found.to.iter().filter(|to| *to != address).collect();
        if !others.is_empty() {
            let now = self.now();
            let jobs: Vec<_> = others.iter().map(|to| schedule::redirected(planned, to, now)).collect();
            let planned = self.put((&jobs, Room::Replacing), now).await?;
            let names = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let is_named = others.len() < found.to.len();
            match (is_named, planned.left_out) {
                (false, 0) => return Ok(Some(Ending::skip(Skip::Replaced, &names))),
                // Its replacements were not all planned: this job stays.
                (false, _) => {
                    let why = format!("it names {names}: the domain's organization had its share of the day");
                    return Ok(Some(Ending::new(Event::CapReached, why)));
                }
                (true, 0) => {}
                (true, left_out) => {
                    let job = &*job.planned.id;
                    warn!(job, names, left_out, "others get no report: the domain's organization had its share");
                }
            }
        }
        if found.to.contains(address) {
            return Ok(None);
        }
        Ok(Some(match found.refused.first() {
            Some((_, refusal)) => Ending::skip(Skip::NoConsent, refusal.as_str()),
            None => Ending::new(Event::Postponed, "DNS does not say whether the destination takes reports"),
        }))
    }

    async fn send(&self, settings: &Arc<Settings>, job: &Job, address: &Address) -> Result<Ending, Error> {
        let built = match job.message.is_empty() {
            // What may have arrived is sent again unchanged, or it would be another report.
            false => BuiltReport { message: job.message.clone(), messages: job.messages.unsigned_abs(), xml: None },
            true => match self.build(settings, job, address).await {
                Ok(built) => built,
                Err(Empty::Store(cause)) => return Err(cause),
                Err(Empty::Skip(skip, note)) => return Ok(Ending::skip(skip, &note)),
            },
        };
        let messages = built.messages;
        let ending = match settings.dry_run.clone() {
            Some(directory) => write(directory, job, built).await,
            None => self.hand_over(settings, job, address, built).await?,
        };
        Ok(Ending { messages, ..ending })
    }

    /// Makes the report and its message.
    async fn build(&self, settings: &Arc<Settings>, job: &Job, address: &Address) -> Result<BuiltReport, Empty> {
        let feedback = self.feedback(settings, job).await?;
        let (settings, address, date) = (Arc::clone(settings), address.clone(), job.changed);
        let made = spawn_blocking(move || {
            let xml = feedback.to_xml();
            check(&xml, feedback.reporter.format).map_err(|damage| Empty::Skip(Skip::Malformed, damage.to_string()))?;
            let broken = |cause: &dyn std::error::Error| Empty::Skip(Skip::Malformed, cause.to_string());
            let message = message::aggregate(&feedback, &xml, &settings.author, &address, date);
            let message = sign(&message.map_err(|cause| broken(&cause))?, &settings.keys);
            let message = message.map_err(|cause| broken(&cause))?;
            Ok(BuiltReport { message, messages: feedback.messages(), xml: settings.dry_run.is_some().then_some(xml) })
        });
        made.await.unwrap_or_else(|cause| Err(Empty::Skip(Skip::Malformed, cause.to_string())))
    }

    /// Reads the rows of the job's period, page by page, and adds up those of its configuration.
    async fn feedback(&self, settings: &Settings, job: &Job) -> Result<Feedback, Empty> {
        let period = Period { begin: job.planned.begin, end: job.planned.end };
        let (day, part, domain) = (schedule::day(period), schedule::part(period), &job.planned.policy_domain);
        let mut draft: Option<Draft> = None;
        let mut reputation = schedule::Conduct::default();
        let mut cursor = Some(PageCursor::default());
        while let Some(from) = cursor {
            let (page, next) = self
                .with_jobs(async |jobs| jobs.rows(day, Some(part), domain, &from).await)
                .await
                .map_err(Empty::Store)?;
            for row in page {
                reputation.add(&row.record);
                let Some(policy) = &row.record.policy else { continue };
                let configuration = Configuration::from(policy);
                if schedule::configuration(&configuration) == job.planned.configuration {
                    let new = || Draft::new(configuration, settings.private, Limits::default());
                    draft.get_or_insert_with(new).add(row);
                }
            }
            cursor = next;
        }
        let nothing = || Empty::Skip(Skip::NoRows, "there is nothing to tell".to_owned());
        if settings.reputation == Reputation::On && !reputation.earns_report() {
            let note = "all mail that the domain really sent was refused by the upstream".to_owned();
            return Err(Empty::Skip(Skip::Reputation, note));
        }
        let (feedback, left_out) = draft.ok_or_else(nothing)?.finish(&settings.reporter, period);
        let omitted = &self.shared().metrics.omitted;
        omitted.of(Omission::PrivateAddress).inc_by(left_out.private);
        omitted.of(Omission::Surplus).inc_by(left_out.surplus);
        feedback.ok_or_else(nothing)
    }

    /// Hands the message to the relay. The store knows of it before its end is sent.
    async fn hand_over(
        &self,
        settings: &Settings,
        job: &Job,
        address: &Address,
        built: BuiltReport,
    ) -> Result<Ending, Error> {
        let sender = match &settings.bounce_domain {
            Some(domain) => self.key().await?.address(&job.planned.id, epoch_seconds_signed(), domain),
            None => settings.author.address.to_string(),
        };
        let address = address.to_string();
        let envelope = Envelope { sender: &sender, recipient: &address, size: built.message.len() };
        let ready = match relay::begin(&settings.relay, &envelope).await {
            Ok(ready) => ready,
            Err(outcome) => return Ok(ended(outcome, None)),
        };
        let departure = Departure {
            holder: &self.shared().holder,
            lease: self.now() + LEASE,
            recipient: &address,
            messages: i64::try_from(built.messages).unwrap_or(i64::MAX),
            message: &built.message,
        };
        let id = &job.planned.id;
        if !self.with_jobs(async |jobs| jobs.depart(id, &departure).await).await? {
            return Ok(Ending::new(Event::Postponed, TAKEN_OVER));
        }
        Ok(ended(ready.send(&built.message).await, Some(departure.lease)))
    }
}

/// What the relay's answer means.
fn ended(outcome: Outcome, departed: Option<i64>) -> Ending {
    let (event, note) = match outcome {
        Outcome::Taken(reply) => (Event::Taken, reply.summary()),
        Outcome::Postponed(why) => (Event::Postponed, why),
        Outcome::RecipientRefused(reply) => (Event::DestinationRefused, reply.summary()),
        Outcome::MessageRefused(reply) => (Event::MessageRefused, reply.summary()),
        Outcome::Unanswered(why) => (Event::Unanswered, why),
    };
    Ending { departed, ..Ending::new(event, note) }
}

/// Writes message and XML into files that have the job's name.
async fn write(directory: std::path::PathBuf, job: &Job, built: BuiltReport) -> Ending {
    let name = file_name(&job.planned.policy_domain, &job.planned.id);
    let name = move |end: &str| format!("{name}.{end}");
    let written = spawn_blocking(move || {
        if let Some(xml) = built.xml {
            put(&directory, &name("xml"), xml.as_ref())?;
        }
        put(&directory, &name("eml"), &built.message)
    });
    match written.await.unwrap_or_else(|cause| Err(cause.to_string())) {
        Ok(path) => Ending { written: true, ..Ending::new(Event::Taken, format!("dry run: written to {path}")) },
        Err(cause) => Ending::new(Event::Postponed, format!("dry run: {cause}")),
    }
}

/// The name of the files of a report, without what it ends in: short enough for a file system whatever the domain.
pub fn file_name(domain: &str, id: &str) -> String {
    let domain: String = domain.chars().take(MAX_DOMAIN_IN_NAME).collect();
    format!("{domain}-{id}")
}

/// Writes a file for its owner alone, in a directory that is made if it is not there. Gives its path, or what failed.
pub fn put(directory: &Path, name: &str, octets: &[u8]) -> Result<String, String> {
    let failed = |path: &Path, cause: std::io::Error| format!("{} can't be written: {cause}", path.display());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|cause| failed(directory, cause))?;
    let path = directory.join(name);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    match file.and_then(|mut file| file.write_all(octets)) {
        Ok(()) => Ok(path.display().to_string()),
        Err(cause) => Err(failed(&path, cause)),
    }
}

/// Addresses of its own that a destination may name instead of one.
const MOST_REPLACEMENTS: usize = 5;
/// Why a job is left alone whose lease has run out meanwhile.
const TAKEN_OVER: &str = "another gate has taken it over";
/// Octets of a domain in the name of a file, which has 255 at most.
const MAX_DOMAIN_IN_NAME: usize = 200;
/// Seconds for which reports to one address are counted.
const DAY: i64 = 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dry_run_writes_is_for_its_owner_alone_and_a_failure_names_the_path() {
        use std::os::unix::fs::MetadataExt;
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("a/reports");
        let path = put(&directory, "one.eml", b"octets").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"octets");
        for (path, mode) in [(directory.as_path(), 0o700), (Path::new(&path), 0o600)] {
            assert_eq!(path.metadata().unwrap().mode() & 0o777, mode, "{}", path.display());
        }
        let below_a_file = put(Path::new(&path), "two.eml", b"").unwrap_err();
        assert!(below_a_file.starts_with(&format!("{path} can't be written: ")), "{below_a_file}");
    }

    #[test]
    fn the_name_of_a_file_fits_whatever_the_domain() {
        assert_eq!(file_name("a.example", "0123"), "a.example-0123");
        let long = [&*"a".repeat(60); 4].join(".");
        let name = file_name(&long, "0123456789abcdef01234567");
        assert!(name.len() < 240 && name.starts_with(&long[..200]) && name.ends_with("-0123456789abcdef01234567"));
    }

    #[test]
    fn what_has_no_time_left_is_given_up() {
        let cases = [
            (Event::Postponed, JobState::Due, JobOutcome::Postponed),
            (Event::Postponed, JobState::Failed, JobOutcome::GivenUp),
            (Event::CapReached, JobState::Due, JobOutcome::Capped),
            (Event::CapReached, JobState::Failed, JobOutcome::GivenUp),
            // It may have arrived: the outcome says so whether it is tried again or not.
            (Event::Unanswered, JobState::Due, JobOutcome::Unanswered),
            (Event::Unanswered, JobState::Failed, JobOutcome::Unanswered),
            (Event::DestinationRefused, JobState::Failed, JobOutcome::DestinationRefused),
            (Event::MessageRefused, JobState::Failed, JobOutcome::MessageRefused),
            (Event::Taken, JobState::Sent, JobOutcome::Sent),
        ];
        for (event, state, expected) in cases {
            assert_eq!(Ending::new(event, "").outcome(state), expected, "{event:?} {state}");
        }
    }
}
