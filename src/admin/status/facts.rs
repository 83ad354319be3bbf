//! What the page and the API tell, as values: one for both, so that they can't differ.
//!
//! The field names are those of the API and stay as they are. Texts of peers are [`Text`]; all others are words of
//! ours.

use std::sync::Arc;

use serde::Serialize;

use super::history::{Counts, Minute, by_name};
use super::text::Text;

/// All that is told.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// Now, in seconds since the epoch, as all times here.
    pub now: i64,
    /// The gate itself.
    pub gate: Gate,
    /// Mail.
    pub mail: Mail,
    /// The last messages that did not go through, the newest first; in this process's memory.
    pub refusals: Vec<Refused>,
    /// Author domains of failing mail, of some days.
    #[serde(serialize_with = "shared")]
    pub failing: Arc<Section<Vec<Failing>>>,
    /// Forwarders that an override could be made for.
    #[serde(serialize_with = "shared")]
    pub forwarders: Arc<Section<Forwarders>>,
    /// What the shadow policy would have done.
    #[serde(serialize_with = "shared")]
    pub shadow: Arc<Section<Shadow>>,
    /// DNS and its cache.
    pub dns: Dns,
    /// The mail server.
    pub upstream: Upstream,
    /// The store.
    pub store: Store,
    /// Reports that are sent.
    #[serde(serialize_with = "shared")]
    pub reports: Arc<Section<Reports>>,
    /// Reports that others send.
    #[serde(serialize_with = "shared")]
    pub inbound: Arc<Section<Inbound>>,
}

/// What was read from the store at some time, or why not.
#[derive(Debug, Clone, Serialize)]
pub struct Section<T> {
    /// When it was read; none if it was not yet.
    pub read: Option<i64>,
    /// How far back it looks, in days.
    pub days: i64,
    /// What is stored; none if it could not be read.
    pub found: Option<T>,
    /// Why it could not.
    pub error: Option<&'static str>,
}

/// The gate itself.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Gate {
    /// Its name.
    pub hostname: Text,
    /// Its version.
    pub version: &'static str,
    /// `monitor`, `tag`, `enforce`, or `mixed`.
    pub mode: Text,
    /// When this process began.
    pub started: i64,
    /// When the configuration in force was read.
    pub configured: i64,
    /// Whether it should be sent mail.
    pub ready: bool,
    /// What it lacks.
    pub lacking: Vec<Lacking>,
    /// SMTP sessions open now.
    pub sessions: u64,
    /// Those that may be.
    pub sessions_limit: u64,
    /// Octets of memory that messages take.
    pub spool_bytes: u64,
    /// Octets that they may take.
    pub spool_limit_bytes: u64,
    /// When the certificate for clients that expires first does so; 0 without one.
    pub certificate_expires: i64,
    /// Faults of ours.
    pub panics: u64,
}

/// A condition of readiness that does not hold.
#[derive(Debug, Clone, Serialize)]
pub struct Lacking {
    /// Which.
    pub condition: &'static str,
    /// Why.
    pub reason: Text,
}

/// Mail since the process began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Mail {
    /// Messages by outcome, as `dmarcgate_messages_total`.
    #[serde(serialize_with = "by_name")]
    pub messages: Counts,
    /// The same, minute by minute; minutes without mail are left out.
    pub minutes: Vec<Minute>,
    /// Author domains by DMARC result.
    pub dmarc: Vec<(&'static str, u64)>,
    /// Messages by SPF result.
    pub spf: Vec<(&'static str, u64)>,
    /// Signatures by DKIM result.
    pub dkim: Vec<(&'static str, u64)>,
    /// Messages by ARC result.
    pub arc: Vec<(&'static str, u64)>,
    /// From the final dot to the verdict.
    pub evaluation: Times,
    /// From the final dot to the reply.
    pub end_of_data: Times,
}

/// How long something takes, in seconds; none without observations.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Times {
    /// The median.
    pub median: Option<f64>,
    /// What nineteen of twenty stay below.
    pub p95: Option<f64>,
}

/// A message that did not go through.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// Its id.
    pub id: Text,
    /// When its end of data came.
    pub arrived: i64,
    /// The client.
    pub ip: String,
    /// The author domain.
    pub author_domain: Option<Text>,
    /// What became of it.
    pub outcome: &'static str,
    /// What the client was told.
    pub reply: Text,
    /// Where its story is told; none if it is not kept.
    pub explained: bool,
}

/// Mail in the name of one author domain without an aligned pass.
#[derive(Debug, Clone, Serialize)]
pub struct Failing {
    /// The author domain; empty where From names none.
    pub author_domain: Text,
    /// Messages.
    pub messages: i64,
    /// Those that the gate refused.
    pub refused: i64,
    /// Those treated as quarantine.
    pub quarantined: i64,
    /// From how many addresses.
    pub addresses: usize,
    /// The ones with most of them.
    pub from: Vec<SourceAddress>,
}

/// One address.
#[derive(Debug, Clone, Serialize)]
pub struct SourceAddress {
    /// Which.
    pub ip: Text,
    /// Messages from it.
    pub messages: i64,
}

/// Forwarders that stand out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Forwarders {
    /// Those that are suggested.
    pub suggestions: Vec<Forwarder>,
    /// Whether not everything could be looked at.
    pub is_cut: bool,
}

/// A suggestion.
#[derive(Debug, Clone, Serialize)]
pub struct Forwarder {
    /// `dkim` or `spf`.
    pub identity: &'static str,
    /// Who.
    pub domain: Text,
    /// Policy domains whose mail fails through it.
    pub policy_domains: usize,
    /// Days on which it did.
    pub days: usize,
    /// Messages that failed.
    pub failed: u64,
    /// All its messages.
    pub messages: u64,
    /// Of the failing ones those that the mail server accepted.
    pub accepted: u64,
    /// Of the failing ones those that it refused.
    pub refused: u64,
    /// What to paste into the configuration.
    pub toml: Snippet,
}

/// Lines of a configuration, made by us of domains and networks that our parsers have read.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Snippet(pub(super) String);

/// What the shadow policy would have done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Shadow {
    /// Messages that it judged.
    pub compared: i64,
    /// Those that it would have treated otherwise.
    pub different: i64,
    /// How.
    pub differences: Vec<Difference>,
    /// The most frequent author domains among them.
    pub author_domains: Vec<Among>,
    /// The most frequent sources.
    pub sources: Vec<Among>,
    /// What DMARC says of messages that were passed on, and what the mail server said.
    pub replies: Vec<Replies>,
}

/// Messages that were treated one way and would have been another.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// What was done.
    pub active: &'static str,
    /// What would have been done.
    pub shadow: &'static str,
    /// How many.
    pub messages: i64,
    /// Those that the mail server accepted.
    pub accepted: i64,
    /// Those that it refused.
    pub refused: i64,
}

/// One of several names that messages are counted for.
#[derive(Debug, Clone, Serialize)]
pub struct Among {
    /// Which.
    pub name: Text,
    /// How many.
    pub messages: i64,
    /// Those that the mail server accepted.
    pub accepted: i64,
    /// Those that it refused.
    pub refused: i64,
}

/// What the mail server said to messages of which DMARC says one thing.
#[derive(Debug, Clone, Serialize)]
pub struct Replies {
    /// What DMARC says.
    pub verdict: &'static str,
    /// Accepted.
    pub accepted: i64,
    /// Refused.
    pub refused: i64,
    /// Deferred.
    pub deferred: i64,
}

/// DNS, since the process began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Dns {
    /// Questions of messages by where the answer came from.
    pub lookups: Vec<(&'static str, u64)>,
    /// Questions put to name servers.
    pub queries: u64,
    /// Those of them without a usable answer.
    pub failures: u64,
    /// Answers in the cache.
    pub cache_entries: u64,
    /// Answers that left it for want of room.
    pub cache_evictions: u64,
    /// Questions under way.
    pub outstanding: u64,
    /// Time for an answer.
    pub query: Times,
}

/// The mail server.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Upstream {
    /// Servers that did not answer as they should when last tried.
    pub down: u64,
    /// Connections open now.
    pub open: u64,
    /// Attempts to connect that succeeded.
    pub connected: u64,
    /// Those that did not.
    pub failed: u64,
    /// Connections lost inside a transaction.
    pub lost: u64,
    /// Transactions put off because no connection became free in time.
    pub slot_timeouts: u64,
}

/// The store.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Store {
    /// Whether the last batch was written.
    pub up: bool,
    /// Rows handed to it.
    pub appended: u64,
    /// Rows written.
    pub written: u64,
    /// Rows that wait.
    pub pending: u64,
    /// Rows lost.
    pub lost: u64,
    /// Octets in use.
    pub bytes: u64,
}

/// Reports that are sent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Reports {
    /// Whether any are sent.
    pub enabled: bool,
    /// When this gate last looked for those that are due; 0: never.
    pub last_run: i64,
    /// How many are in which state.
    pub states: Vec<Tally>,
    /// The last ones.
    pub latest: Vec<Job>,
}

/// Reports of one state.
#[derive(Debug, Clone, Serialize)]
pub struct Tally {
    /// The state.
    pub state: &'static str,
    /// How many.
    pub reports: i64,
    /// Messages that they tell of.
    pub messages: i64,
}

/// One report to one destination.
#[derive(Debug, Clone, Serialize)]
pub struct Job {
    /// Its id.
    pub id: Text,
    /// The first second of its period.
    pub begin: i64,
    /// Whose domain.
    pub policy_domain: Text,
    /// Where to.
    pub destination: Text,
    /// Its state.
    pub state: &'static str,
    /// How often it was tried.
    pub attempts: i64,
    /// The next attempt, or when it ended.
    pub due: i64,
    /// Why.
    pub note: Text,
}

/// Reports of others.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Inbound {
    /// Whether any are read.
    pub enabled: bool,
    /// Reports.
    pub reports: i64,
    /// Messages in them.
    pub messages: i64,
    /// When the last of their periods ended; 0 without any.
    pub last_end: i64,
    /// Organizations that sent them.
    pub reporters: i64,
    /// The addresses with most failures.
    pub sources: Vec<Reported>,
}

/// What others report of one address under one of our domains.
#[derive(Debug, Clone, Serialize)]
pub struct Reported {
    /// Our domain.
    pub policy_domain: Text,
    /// Where the messages came from.
    pub ip: Text,
    /// Messages.
    pub messages: i64,
    /// Those without an aligned pass.
    pub failed: i64,
    /// Organizations that say so.
    pub reporters: i64,
    /// Domains of signatures that passed.
    pub signers: Text,
}

/// As what it holds.
fn shared<T: Serialize, S: serde::Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
    T::serialize(value, serializer)
}

impl<T> Section<T> {
    /// One that nobody has read yet.
    pub fn unread(days: i64) -> Self {
        Self { read: None, days, found: None, error: None }
    }
}
