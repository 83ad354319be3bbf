//! Settles which reports are due, when each is tried, and what becomes of it. Pure.
//!
//! A job is one report to one destination: (policy domain, period, configuration, destination). Its id, its report's id
//! and the moment at which it is due are hashes over these, so that all gates of a fleet plan the same job, which is in
//! the store once. [`next`] is all that ever changes a job's state.

use aws_lc_rs::digest::{self, SHA256};

use crate::calendar::SECONDS_PER_DAY;
use crate::dmarc::public_suffix::List;
use crate::dmarc::record::{Parsed, parse};
use crate::dmarc::report_destination::ReportKind;
use crate::dmarc::report_uri::ReportUri;
use crate::domain::Domain;
use crate::hex::hex;
use crate::label::Label;
use crate::label_enum;
use crate::record::{AlignmentOutcome, FinalReply, Record};
use crate::report::aggregate::{Configuration, Period, ReportId};
use crate::report::recipient::Address;
use crate::store::jobs::{Effort, JobState, NewJob, Room, Sent, Shares};
use crate::store::{Part, SETTLING};

/// What determines a report's id, when it is due, and which of many addresses get it.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The receiver's domain: two receivers never make one report id.
    pub receiver: &'a Domain,
    /// Seconds over which the reports of a period are spread; never longer than the period.
    pub window: i64,
    /// What tells organizations apart.
    pub suffixes: &'a List,
}

/// What happened to a claimed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The relay has taken the report.
    Taken,
    /// Nothing was delivered, for a cause that may pass.
    Postponed,
    /// The end of the message was sent and no reply came: it may have been delivered.
    Unanswered,
    /// The relay refuses the destination for good.
    DestinationRefused,
    /// The relay refuses the message for good.
    MessageRefused,
    /// The destination is suppressed.
    Suppressed,
    /// There is no report to be sent, and never will be.
    NotWanted(Skip),
    /// Nothing was tried: the destination or its organization has had its share of today, or there is no room for what
    /// replaces it.
    CapReached,
}

label_enum! {
    /// Why a report is not sent at all.
    pub enum Skip {
        /// The operator's list forbids it.
        Denied = "denied",
        /// The destination is elsewhere and does not say that it takes these reports (RFC 9990 §4).
        NoConsent = "no_consent",
        /// It has named other addresses of its own, which get reports of their own.
        Replaced = "replaced",
        /// The upstream refused all mail that the domain really sent: spammers use and drop such domains.
        Reputation = "reputation",
        /// It is an address of the gate's own reports.
        OwnAddress = "own_address",
        /// No address can be made of the URI.
        NoAddress = "no_address",
        /// The rows are gone.
        NoRows = "no_rows",
        /// The report failed the check of its structure.
        Malformed = "malformed",
    }
}

/// The state that a job goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state.
    pub state: JobState,
    /// When it is tried again, if it is; else when it ended. In seconds since the epoch.
    pub due: i64,
    /// Whether it is settled that the message was or was not delivered: every end of data got a reply.
    pub answered: bool,
}

/// What became of a domain's own mail (with an aligned pass) in a period. If the upstream refused all of it, spammers
/// will have dropped the domain by tomorrow; the owner of a domain that was forged gets a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conduct {
    accepted: bool,
    refused: bool,
    forged: bool,
}

impl Event {
    /// Whether the relay, or DNS, was asked for it.
    pub fn effort(self) -> Effort {
        match self {
            Self::Taken | Self::Postponed | Self::Unanswered | Self::DestinationRefused | Self::MessageRefused => {
                Effort::Spent
            }
            Self::Suppressed | Self::NotWanted(_) | Self::CapReached => Effort::Spared,
        }
    }
}

/// What transitions need to know about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The present state.
    pub state: JobState,
    /// Attempts that were made, the present one included.
    pub attempts: i64,
    /// When it is given up, in seconds since the epoch.
    pub deadline: i64,
}

/// How much room organizations have for jobs of one UTC day.
pub fn shares(room: Room, suffixes: &List) -> Shares<'_> {
    Shares { suffixes, room, of_organization: MOST_OF_ORGANIZATION }
}

/// Why nothing more goes to an address now, where one may get `daily_cap` reports within 24 hours; none if it may.
pub fn is_full(sent: Sent, daily_cap: i64) -> Option<String> {
    if sent.to_address >= daily_cap {
        return Some(format!("{} reports went there within 24 hours", sent.to_address));
    }
    let most = daily_cap.saturating_mul(ADDRESSES_OF_ORGANIZATION);
    (sent.to_organization >= most)
        .then(|| format!("{} reports on that day went to its organization", sent.to_organization))
}

/// The UTC day of a period.
pub fn day(period: Period) -> i64 {
    period.begin.div_euclid(SECONDS_PER_DAY)
}

/// When reporting on a period is given up.
fn deadline(period: Period) -> i64 {
    period.end.saturating_add(1 + KEEP_TRYING)
}

/// The part of the day that a period is.
pub fn part(period: Period) -> Part {
    let begin_hour = period.begin.rem_euclid(SECONDS_PER_DAY) / SECONDS_PER_HOUR;
    Part { begin_hour, hours: period.seconds() / SECONDS_PER_HOUR }
}

/// The UTC days of the periods whose reports may have to be planned at `now`, the oldest first: those too old to be
/// tried are left out. Today is included, since periods may be hours.
pub fn days(now: i64) -> impl Iterator<Item = i64> {
    let today = now.div_euclid(SECONDS_PER_DAY);
    let days = today.saturating_sub(KEEP_TRYING / SECONDS_PER_DAY + 1)..=today;
    days.filter(move |day| now < deadline(Period::day(*day)))
}

/// Whether the report on a period is to be planned at `now`: the period has ended, the last rows of all gates have had
/// time to arrive, and the deadline has not passed.
pub fn is_ripe(period: Period, now: i64) -> bool {
    period.end + SETTLING < now && now < deadline(period)
}

/// The jobs that a published policy makes of a period: one for each address that it names, once, up to a bound. Those of
/// the policy domain's own organization come first, since they need nobody's consent: five that give none would stand
/// before them. What is no address gets a job that is skipped and says why, and does not count towards the bound.
pub fn jobs(policy: &Configuration, period: Period, plan: &Plan<'_>) -> Vec<NewJob> {
    let Parsed::Record(record) = parse(policy.record.as_bytes()) else { return Vec::new() };
    let mut known = Vec::new();
    let mut jobs = Vec::new();
    let mut room = MAX_DESTINATIONS;
    let own = plan.suffixes.organizational_domain(&policy.domain);
    let is_own =
        |uri: &ReportUri| uri.mail_host().is_some_and(|host| plan.suffixes.organizational_domain(&host) == own);
    let uris: Vec<_> = ReportKind::Aggregate.requested(&record).iter().collect();
    let (first, others): (Vec<_>, Vec<_>) = uris.into_iter().partition(|uri| is_own(uri));
    for uri in first.into_iter().chain(others) {
        let to = Address::of(uri).map_err(|_| uri.as_str());
        if known.contains(&to) || (to.is_ok() && room == 0) {
            continue;
        }
        room -= usize::from(to.is_ok());
        known.push(to);
        jobs.push(job(policy, period, uri.as_str(), plan));
    }
    jobs
}

/// The job of one destination.
pub fn job(policy: &Configuration, period: Period, destination: &str, plan: &Plan<'_>) -> NewJob {
    let configuration = configuration(policy);
    let jitter = jitter(
        &[&configuration, &period.begin.to_string(), &period.end.to_string()],
        plan.window.min(period.seconds()),
    );
    let due = period.end.saturating_add(1 + SETTLING).saturating_add(jitter);
    let [id, former_id] = job_ids(&configuration, period, destination);
    NewJob {
        id,
        former_id,
        report_id: ReportId::new(plan.receiver, policy, period).to_string(),
        policy_domain: policy.domain.to_string(),
        configuration,
        begin: period.begin,
        end: period.end,
        destination: destination.to_owned(),
        due,
        deadline: deadline(period),
    }
}

/// The job beside or in place of one whose destination names another address of its own.
pub fn redirected(job: &NewJob, to: &Address, now: i64) -> NewJob {
    let destination = uri(to);
    let [id, former_id] = job_ids(&job.configuration, Period { begin: job.begin, end: job.end }, &destination);
    NewJob { id, former_id, destination, due: now, ..job.clone() }
}

/// The id of a job, by the address that it is for, however its URI is written; then that by the URI as it is written,
/// which was the id in earlier versions. For most URIs they are one. Without the receiver: a site that changes its name
/// does not report again.
fn job_ids(configuration: &str, period: Period, destination: &str) -> [String; 2] {
    let of = |destination: &str| id(&[configuration, &period.begin.to_string(), &period.end.to_string(), destination]);
    let address = ReportUri::parse(destination).and_then(|uri| Address::of(&uri).ok());
    let former = of(destination);
    [address.map_or_else(|| former.clone(), |address| of(&uri(&address))), former]
}

/// The URI of an address; whatever has a meaning in a URI or a policy record is escaped.
fn uri(address: &Address) -> String {
    let mut uri = "mailto:".to_owned();
    for byte in address.local_part().bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~+".contains(&byte) => uri.push(char::from(byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("{uri}@{}", address.domain())
}

/// Identifies a configuration of a policy domain: every published value, but not which of p, sp and np was requested
/// (RFC 9990 §3.1.1.5).
pub fn configuration(policy: &Configuration) -> String {
    let word = |policy: Option<crate::record::Policy>| policy.map_or("", Label::as_str);
    id(&[
        policy.domain.as_str(),
        policy.discovery.as_str(),
        &policy.record,
        policy.adkim.as_str(),
        policy.aspf.as_str(),
        policy.p.as_str(),
        word(policy.sp),
        word(policy.np),
        &policy.fo,
        policy.testing.as_str(),
    ])
}

/// What `event` makes of a job at `now`; none if the job can't have met it, and then nothing is changed.
pub fn next(job: Progress, event: Event, now: i64) -> Option<Transition> {
    if job.state != JobState::Claimed {
        return None;
    }
    let ended = |state| Transition { state, due: now, answered: true };
    let again = |pause: i64, answered| {
        let due = now.saturating_add(pause);
        // No attempt is made after the deadline.
        match due < job.deadline {
            true => Transition { state: JobState::Due, due, answered },
            false => Transition { state: JobState::Failed, due: now, answered },
        }
    };
    Some(match event {
        Event::Taken => ended(JobState::Sent),
        Event::Postponed => again(back_off(job.attempts), true),
        Event::Unanswered => again(back_off(job.attempts), false),
        Event::CapReached => again(CAP_PAUSE, true),
        Event::DestinationRefused | Event::MessageRefused => ended(JobState::Failed),
        Event::Suppressed => ended(JobState::Suppressed),
        Event::NotWanted(_) => ended(JobState::Skipped),
    })
}

/// Seconds between the `attempts`th attempt and the next: doubling, up to some hours.
pub fn back_off(attempts: i64) -> i64 {
    let doublings = u32::try_from(attempts.clamp(1, 16) - 1).unwrap_or_default();
    (FIRST_PAUSE << doublings).min(LONGEST_PAUSE)
}

impl Conduct {
    /// Takes a row into account.
    pub fn add(&mut self, record: &Record) {
        let is_own = [record.evaluated.dkim, record.evaluated.spf].contains(&AlignmentOutcome::Pass);
        self.forged |= !is_own;
        match record.reply {
            FinalReply::Accepted if is_own => self.accepted = true,
            // By SPF: a signature anyone can send again, and keep the report from its owner.
            FinalReply::RefusedByUpstream => self.refused |= record.evaluated.spf == AlignmentOutcome::Pass,
            // What the gate refuses says nothing about the upstream's opinion.
            FinalReply::Accepted | FinalReply::RefusedByGate => {}
        }
    }

    /// Whether the domain gets reports: not if nothing but mail of its own came and all of it was refused.
    pub fn earns_report(self) -> bool {
        self.accepted || self.forged || !self.refused
    }
}

/// Seconds of the window at which a report is due, the same on every gate.
fn jitter(parts: &[&str], window: i64) -> i64 {
    let hash = hash(&[&["jitter"], parts].concat());
    let number = hash.as_ref().iter().take(7).fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
    if window > 0 { number % window } else { 0 }
}

/// A name for what `parts` say.
fn id(parts: &[&str]) -> String {
    hex(hash(parts).as_ref().iter().take(ID_OCTETS))
}

/// Every part is preceded by its length, so that no text can pass for two.
fn hash(parts: &[&str]) -> digest::Digest {
    let mut hash = digest::Context::new(&SHA256);
    for part in parts {
        hash.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finish()
}

/// Seconds after a period's end for which its reports are tried. A later report helps nobody.
const KEEP_TRYING: i64 = 3 * SECONDS_PER_DAY;
/// Seconds between the first attempt and the second; each further pause doubles.
const FIRST_PAUSE: i64 = 15 * 60;
/// The longest pause.
const LONGEST_PAUSE: i64 = 6 * 3600;
/// Seconds until a destination that has had its share of today is looked at again.
const CAP_PAUSE: i64 = 3600;
/// Addresses of one record: real ones name one or two.
const MAX_DESTINATIONS: usize = 5;
/// Jobs on all policy domains of one organization and one UTC day: a large one with a hundred records of its own. As many
/// more as there are parts of the day, where they are of such.
const MOST_OF_ORGANIZATION: i64 = 100;
/// Reports on one UTC day to all addresses of one organization, for each that one address may get (`reports.daily_cap`):
/// services that read reports for many owners give each an address.
const ADDRESSES_OF_ORGANIZATION: i64 = 10;
const SECONDS_PER_HOUR: i64 = 3600;
/// Octets of a hash in an id: 96 bits, so that no two are the same.
const ID_OCTETS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{AlignmentOutcome as A, DiscoveryMethod, FinalReply as R, Policy, PolicyPublished, sample};

    fn policy() -> Configuration {
        Configuration::from(&sample::record().policy.unwrap())
    }

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn plan(receiver: &Domain, window: i64) -> Plan<'_> {
        Plan { receiver, window, suffixes: &List::BuiltIn }
    }

    /// With a window of four hours.
    fn planned(policy: &Configuration, day: i64) -> Vec<NewJob> {
        jobs(policy, Period::day(day), &plan(&domain("gate.example"), WINDOW))
    }

    const WINDOW: i64 = 4 * 3600;

    #[test]
    fn hours_are_due_when_their_last_rows_are_in() {
        let period = Period::of_hours(20_454, 6, 2);
        assert_eq!((period.begin, period.end), (20_454 * 86_400 + 6 * 3600, 20_454 * 86_400 + 8 * 3600 - 1));
        assert_eq!((day(period), part(period)), (20_454, Part { begin_hour: 6, hours: 2 }));
        assert_eq!(part(Period::day(20_454)), Part::default());
        let now = period.end + SETTLING;
        assert!(days(now).any(|day| day == 20_454));
        let given_up = deadline(Period::day(20_450));
        assert_eq!((days(given_up - 1).next(), days(given_up).next()), (Some(20_450), Some(20_451)));
        assert!(!is_ripe(period, now) && is_ripe(period, now + 1) && !is_ripe(period, deadline(period)));
        let gate = domain("gate.example");
        let plan = plan(&gate, WINDOW);
        let due = job(&policy(), period, "mailto:d@example.org", &plan).due - period.end - 1 - SETTLING;
        assert!((0..2 * 3600).contains(&due), "{due}");
        let ids: Vec<_> = [period, Period::of_hours(20_454, 8, 2), Period::day(20_454)]
            .map(|period| job(&policy(), period, "mailto:d@example.org", &plan))
            .map(|job| (job.id, job.report_id))
            .into();
        assert!(ids[0].0 != ids[1].0 && ids[0].1 != ids[1].1 && ids[0].0 != ids[2].0);
    }

    #[test]
    fn a_day_is_due_when_its_last_rows_are_in_and_until_nobody_would_read_it() {
        let days = |now| days(now).filter(|day| is_ripe(Period::day(*day), now)).collect::<Vec<_>>();
        let midnight = 20_454 * SECONDS_PER_DAY;
        assert_eq!(days(midnight), [20_451, 20_452], "the day that has just ended has not settled");
        assert_eq!(days(midnight + SETTLING - 1), [20_451, 20_452]);
        assert_eq!(days(midnight + SETTLING), [20_451, 20_452, 20_453]);
        assert_eq!(days(midnight - 1), [20_450, 20_451, 20_452]);
    }

    #[test]
    fn all_gates_plan_the_same_jobs() {
        let mut policy = policy();
        policy.record = "v=DMARC1; p=reject; rua=mailto:a@example.org,mailto:b@example.net,mailto:a@example.org".into();
        let period = Period::day(20_454);
        let made = planned(&policy, 20_454);
        assert_eq!(made, planned(&policy, 20_454));
        let destinations: Vec<_> = made.iter().map(|job| &*job.destination).collect();
        assert_eq!(destinations, ["mailto:a@example.org", "mailto:b@example.net"], "each once");
        assert_ne!(made[0].id, made[1].id);
        assert_eq!(made[0].report_id, made[1].report_id, "one report, two destinations");
        assert_eq!(made[0].due, made[1].due);
        assert_eq!(made[0].deadline, period.end + 1 + 3 * SECONDS_PER_DAY);
        let first = period.end + 1 + SETTLING;
        assert!((first..first + WINDOW).contains(&made[0].due));
    }

    #[test]
    fn each_address_of_a_record_counts_once_and_what_is_none_takes_no_place() {
        let destinations = |rua: &str| {
            let record = format!("v=DMARC1; p=none; rua={rua}");
            let made = planned(&Configuration { record, ..policy() }, 20_454);
            made.into_iter().map(|job| job.destination).collect::<Vec<_>>()
        };
        let cases: [(&str, &[&str]); 4] = [
            ("mailto:d@dup.example,mailto:d@DUP.example", &["mailto:d@dup.example"]),
            (
                "mailto:%64@dup.example?subject=x,MAILTO:d@dup.example,mailto:e@dup.example",
                &["mailto:%64@dup.example?subject=x", "mailto:e@dup.example"],
            ),
            ("https://a.example,https://a.example,x:y", &["https://a.example", "x:y"]),
            (
                "https://1.example,https://2.example,https://3.example,https://4.example,mailto:a%25b@c.example,\
                 mailto:1@c.example,mailto:2@c.example,mailto:3@c.example,mailto:4@c.example,mailto:5@c.example,\
                 mailto:6@c.example",
                &[
                    "https://1.example",
                    "https://2.example",
                    "https://3.example",
                    "https://4.example",
                    "mailto:a%25b@c.example",
                    "mailto:1@c.example",
                    "mailto:2@c.example",
                    "mailto:3@c.example",
                    "mailto:4@c.example",
                    "mailto:5@c.example",
                ],
            ),
        ];
        for (rua, expected) in cases {
            assert_eq!(destinations(rua), expected, "{rua}");
        }
    }

    #[test]
    fn addresses_of_the_owners_own_organization_count_first() {
        let elsewhere: Vec<_> = (0..6).map(|n| format!("mailto:x@ext{n}.example")).collect();
        let own = ["mailto:a@example.org", "mailto:b@mail.example.org"];
        let record = format!("v=DMARC1; p=none; rua={},{}", elsewhere.join(","), own.join(","));
        let made = planned(&Configuration { record, ..policy() }, 20_454);
        let destinations: Vec<_> = made.into_iter().map(|job| job.destination).collect();
        assert_eq!(destinations[..2], own);
        assert_eq!(destinations[2..], elsewhere[..3], "five in all");
    }

    #[test]
    fn one_address_has_one_job_however_it_is_written() {
        let ids = |uri: &str| job_ids("c", Period::day(1), uri);
        let plain = ids("mailto:new@svc.example");
        assert_eq!(plain[0], plain[1], "as earlier versions had it");
        for same in ["mailto:new@SVC.example", "MAILTO:new@svc.example", "mailto:%6Eew@svc.example?subject=x"] {
            let [id, former] = ids(same);
            assert_eq!(id, plain[0], "{same}");
            assert_ne!(former, plain[0], "{same}: earlier versions had another");
        }
        for other in ["mailto:New@svc.example", "mailto:new@svc.example.org", "https://svc.example", "x:y"] {
            assert_ne!(ids(other)[0], plain[0], "{other}");
        }
        let first = planned(&policy(), 1).remove(0);
        let to = Address::of(&ReportUri::parse("mailto:%22a%20b%22@SVC.example").unwrap()).unwrap();
        let instead = redirected(&first, &to, 5);
        assert_eq!((&*instead.destination, instead.due), ("mailto:%22a%20b%22@svc.example", 5));
        let itself = ReportUri::parse(&first.destination).unwrap();
        assert_eq!(redirected(&first, &Address::of(&itself).unwrap(), 5).id, first.id);
    }

    #[test]
    fn an_address_and_its_organization_have_a_share_each() {
        let why = |to_address, to_organization| is_full(Sent { to_address, to_organization }, 3);
        assert_eq!(why(2, 29), None);
        assert_eq!(why(3, 3).as_deref(), Some("3 reports went there within 24 hours"));
        assert_eq!(why(0, 30).as_deref(), Some("30 reports on that day went to its organization"));
    }

    #[test]
    fn a_record_with_tabs_or_a_long_one_makes_the_jobs_that_it_asks_for() {
        let destinations = |published: &str| {
            let Parsed::Record(record) = parse(published.as_bytes()) else { panic!("no record: {published}") };
            let policy = PolicyPublished::new(&domain("example.org"), DiscoveryMethod::TreeWalk, &record, Policy::None);
            let made = planned(&Configuration::from(&policy), 20_454);
            made.into_iter().map(|job| job.destination).collect::<Vec<_>>()
        };
        let both = ["mailto:a@example.org", "mailto:b@example.org"];
        assert_eq!(destinations("v=DMARC1;\tp=reject;\trua=mailto:a@example.org,\tmailto:b@example.org"), both);
        assert_eq!(destinations("v\t=\tDMARC1\t;\trua\t=\tmailto:a@example.org\t,mailto:b@example.org"), both);
        let long = format!("v=DMARC1; p=none; x={}; rua={}", "y".repeat(2000), both.join(", "));
        assert_eq!(destinations(&long), both);
        let longer = format!("v=DMARC1; p=none; rua={},mailto:{}@example.net", both.join(","), "c".repeat(5000));
        assert_eq!(destinations(&longer), both, "no half of an address");
    }

    #[test]
    fn whatever_makes_another_report_makes_another_job() {
        let id = |change: &dyn Fn(&mut Configuration), day| {
            let mut policy = policy();
            change(&mut policy);
            planned(&policy, day)[0].id.clone()
        };
        let ids = [
            id(&|_| {}, 20_454),
            id(&|_| {}, 20_455),
            id(&|p| p.record.push(' '), 20_454),
            id(&|p| p.sp = None, 20_454),
            id(&|p| p.np = Some(Policy::None), 20_454),
            id(&|p| p.domain = domain("example.com"), 20_454),
            id(&|p| p.record = p.record.replace("mailto:d@", "mailto:e@"), 20_454),
        ];
        for (i, id) in ids.iter().enumerate() {
            assert!(!ids[..i].contains(id), "{i}");
        }
    }

    #[test]
    fn a_job_in_place_of_another_differs_in_destination_and_time_alone() {
        let receiver = domain("gate.example");
        let plan = plan(&receiver, WINDOW);
        let [old, new] = ["mailto:d@example.org", "mailto:n@example.org"];
        let (old, direct) = (job(&policy(), Period::day(1), old, &plan), job(&policy(), Period::day(1), new, &plan));
        let to = Address::parse("n@example.org").unwrap();
        assert_eq!(redirected(&old, &to, 7), NewJob { due: 7, ..direct });
    }

    #[test]
    fn no_attempt_is_made_at_the_deadline_or_later() {
        let next = |deadline| next(Progress { state: JobState::Claimed, attempts: 1, deadline }, Event::Postponed, 7);
        let state = |deadline| next(deadline).map(|transition| transition.state);
        assert_eq!([7 + FIRST_PAUSE, 8 + FIRST_PAUSE].map(state), [Some(JobState::Failed), Some(JobState::Due)]);
    }

    #[test]
    fn a_site_that_changes_its_name_reports_once() {
        let made = |receiver| job(&policy(), Period::day(1), "mailto:d@example.org", &plan(receiver, 0));
        let (one, other) = (made(&domain("a.example")), made(&domain("b.example")));
        assert_eq!(one.id, other.id);
        assert_ne!(one.report_id, other.report_id);
    }

    #[test]
    fn reports_are_spread_over_the_window() {
        let due = |day| planned(&policy(), day)[0].due - Period::day(day).end;
        let dues: Vec<_> = (0..400).map(due).collect();
        let quarter = WINDOW / 4;
        for part in 0..4 {
            let begin = 1 + SETTLING + part * quarter;
            let range = begin..begin + quarter;
            let hits = dues.iter().filter(|due| range.contains(due)).count();
            assert!((60..140).contains(&hits), "{hits} of 400 in quarter {part}");
        }
        let at_once = job(&policy(), Period::day(1), "", &plan(&domain("a.example"), 0));
        assert_eq!(at_once.due, Period::day(1).end + 1 + SETTLING);
    }

    #[test]
    fn a_record_that_wants_no_reports_makes_no_jobs() {
        for record in
            ["v=DMARC1; p=reject", "v=DMARC1; p=none; rua=", "nonsense", "v=DMARC1; p=none; ruf=mailto:a@b.example"]
        {
            assert_eq!(planned(&Configuration { record: record.into(), ..policy() }, 1), []);
        }
        let many: Vec<_> = (0..20).map(|i| format!("mailto:a{i}@example.org")).collect();
        let record = format!("v=DMARC1; p=none; rua={}", many.join(","));
        assert_eq!(planned(&Configuration { record, ..policy() }, 1).len(), MAX_DESTINATIONS);
    }

    #[test]
    fn what_sent_nothing_leaves_its_place_in_the_minute() {
        for event in [Event::Suppressed, Event::CapReached, Event::NotWanted(Skip::NoConsent)] {
            assert_eq!(event.effort(), Effort::Spared, "{event:?}");
        }
        for event in [Event::Taken, Event::Postponed, Event::Unanswered, Event::DestinationRefused] {
            assert_eq!(event.effort(), Effort::Spent, "{event:?}");
        }
    }

    #[test]
    fn every_state_meets_every_event() {
        use Event as E;
        use JobState as S;
        let (now, deadline) = (1000, 1_000_000);
        let ended = |state| Some(Transition { state, due: now, answered: true });
        let again = |due, answered| Some(Transition { state: S::Due, due, answered });
        let cases = [
            (E::Taken, ended(S::Sent), ended(S::Sent)),
            (E::Postponed, again(now + 1800, true), ended(S::Failed)),
            (E::Unanswered, again(now + 1800, false), Some(Transition { state: S::Failed, due: now, answered: false })),
            (E::DestinationRefused, ended(S::Failed), ended(S::Failed)),
            (E::MessageRefused, ended(S::Failed), ended(S::Failed)),
            (E::Suppressed, ended(S::Suppressed), ended(S::Suppressed)),
            (E::CapReached, again(now + 3600, true), ended(S::Failed)),
        ];
        let skips = Skip::ALL.iter().map(|skip| (E::NotWanted(*skip), ended(S::Skipped), ended(S::Skipped)));
        for (event, expected, late) in cases.into_iter().chain(skips) {
            for state in S::ALL {
                let progress = |deadline| Progress { state: *state, attempts: 2, deadline };
                let (expected, late) = if *state == S::Claimed { (expected, late) } else { (None, None) };
                assert_eq!(next(progress(deadline), event, now), expected, "{state} {event:?}");
                assert_eq!(next(progress(now + 60), event, now), late, "{state} {event:?} near the deadline");
            }
        }
    }

    #[test]
    fn pauses_double_up_to_some_hours() {
        let pauses: Vec<_> = (0..8).map(back_off).collect();
        assert_eq!(pauses, [900, 900, 1800, 3600, 7200, 14_400, 21_600, 21_600]);
        assert_eq!(back_off(i64::MAX), LONGEST_PAUSE);
        assert_eq!(back_off(i64::MIN), FIRST_PAUSE);
    }

    #[test]
    fn who_only_sent_what_the_upstream_refused_gets_no_report() {
        let cases: [(&str, &[(A, A, R)], bool); 9] = [
            ("nothing", &[], true),
            ("only forged, refused by the gate", &[(A::Fail, A::Fail, R::RefusedByGate)], true),
            ("only forged, refused by the upstream", &[(A::Fail, A::Fail, R::RefusedByUpstream)], true),
            ("own mail accepted", &[(A::Pass, A::Fail, R::Accepted)], true),
            ("own mail refused", &[(A::Pass, A::Pass, R::RefusedByUpstream)], false),
            ("a signature, perhaps replayed, refused", &[(A::Pass, A::Fail, R::RefusedByUpstream)], true),
            ("own mail by SPF refused", &[(A::Fail, A::Pass, R::RefusedByUpstream)], false),
            ("some of it accepted", &[(A::Pass, A::Pass, R::RefusedByUpstream), (A::Pass, A::Pass, R::Accepted)], true),
            (
                "own mail refused, a forgery accepted",
                &[(A::Pass, A::Pass, R::RefusedByUpstream), (A::Fail, A::Fail, R::Accepted)],
                true,
            ),
        ];
        for (name, rows, expected) in cases {
            let mut conduct = Conduct::default();
            for (dkim, spf, reply) in rows {
                let mut record = Record { reply: *reply, ..sample::record() };
                (record.evaluated.dkim, record.evaluated.spf) = (*dkim, *spf);
                conduct.add(&record);
            }
            assert_eq!(conduct.earns_report(), expected, "{name}");
        }
    }
}
