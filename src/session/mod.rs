//! Drives one SMTP session: reads what the client says, lets the state machine decide, performs what it says.
//!
//! It owns the client's connection and the link to the upstream, and nothing outlives it. A client that goes takes its
//! transaction with it. Errors of ours are told in one place ([`trouble`]), in words without mechanism or name.

pub mod background;
mod data;
pub mod metrics;
pub mod receive;
mod report;
pub mod state;
pub mod transaction;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use self::background::{Background, alongside};
use self::metrics::{BypassReason, Ended, Metrics};
use self::state::{Bounds, ClientKind, Effect, Event, State, step};
use self::transaction::Transaction;
use crate::dns::resolver::Resolver;
use crate::dns::reverse::{ConfirmedName, confirmed_name};
use crate::domain::Domain;
use crate::envelope::{Client, Hello, Protocol};
use crate::evaluation::gather::{Gathered, Lookups, Sender, gather};
use crate::label_enum;
use crate::message::spool::Spooler;
use crate::smtp::address::{DomainPart, ForwardPath, ReversePath};
use crate::smtp::command::{Command, CommandError, MailParameters};
use crate::smtp::extension::{ADDED_FIELDS, Capabilities, Offer};
use crate::smtp::reply::Reply;
use crate::smtp::stream::{ReadError, Stream};
use crate::store::Appender;
use crate::upstream::handover::{Identity, Introduction};
use crate::upstream::probe::Survey;
use crate::upstream::{self, Link};
use crate::verdict;

/// What the operator sets for sessions. A transaction keeps the settings that it began with.
#[derive(Debug)]
pub struct Settings {
    /// The gate's name: greeting and EHLO reply.
    pub hostname: Box<str>,
    /// What the greeting says behind the name; "ESMTP" by default.
    pub banner: Option<Box<str>>,
    /// Recipients of a transaction.
    pub recipients: usize,
    /// Permanent errors, of ours or the upstream's, that a session may cause.
    pub errors: usize,
    /// What bounds a message.
    pub message: receive::Bounds,
    /// What becomes of bare CR and LF.
    pub bare_newline: BareNewline,
    /// Where recipients may be, from clients that are not trusted.
    pub relay_guard: RelayGuard,
    /// Clients whose mail is not evaluated.
    pub trusted_networks: Vec<IpNet>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How a message is judged.
    pub verdict: verdict::Settings,
    /// How the upstream is reached.
    pub upstream: Arc<upstream::Settings>,
}

label_enum! {
    /// What becomes of bare CR and LF in a message.
    pub enum BareNewline {
        /// LF goes on as CRLF, CR as a space.
        Normalize = "normalize",
        /// The message is refused.
        Reject = "reject",
    }
}

/// Where recipients may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayGuard {
    /// The upstream guards itself.
    Upstream,
    /// In these domains alone, and nowhere that routing in the address might lead.
    Domains(Vec<Domain>),
}

/// How long a client may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Silence between commands, and before the first (RFC 5321 §4.5.3.2.7).
    pub command: Duration,
    /// Silence inside DATA.
    pub data_block: Duration,
    /// The whole of DATA.
    pub data: Duration,
    /// Our own work after the end of data.
    pub evaluation: Duration,
}

/// What all sessions share.
pub struct Gate {
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// DNS.
    pub resolver: Resolver,
    /// Where bodies wait.
    pub spooler: Spooler,
    /// What the upstreams offer.
    pub survey: watch::Receiver<Survey>,
    /// Where rows go.
    pub rows: Appender,
    /// What is counted.
    pub metrics: Metrics,
    /// What the upstream side counts.
    pub upstream_metrics: upstream::Metrics,
    /// True once the gate stops.
    pub stop: watch::Receiver<bool>,
}

/// One session.
pub struct Session {
    gate: Arc<Gate>,
    stream: Stream,
    client: Client,
    kind: ClientKind,
    id: Box<str>,
    offer: Option<Offer>,
    /// Octets of a message that gate and upstream take.
    message_size: u64,
    link: Link,
    reverse: ReverseLookup,
    transaction: Option<Transaction>,
    evaluation: Option<Background<Gathered>>,
    stop: watch::Receiver<bool>,
    errors: usize,
    guarded: usize,
}

/// The end of a session.
struct End {
    reason: Option<Ended>,
    last_word: Option<Reply>,
}

/// The client's name, looked up from the session's beginning.
enum ReverseLookup {
    Running(JoinHandle<ConfirmedName>),
    Done(ConfirmedName),
}

/// Serves one client to the end of its session. The PROXY header, if there was one, has been read.
pub async fn run(gate: Arc<Gate>, stream: Stream, client: Client, kind: ClientKind) {
    let mut session = Session::new(gate, stream, client, kind);
    let end = session.converse().await;
    session.finish(end).await;
}

impl Session {
    fn new(gate: Arc<Gate>, stream: Stream, client: Client, kind: ClientKind) -> Self {
        let settings = Arc::clone(&gate.settings.borrow());
        let link = Link::new(Arc::clone(&settings.upstream), gate.upstream_metrics.clone());
        let reverse = ReverseLookup::start(&gate.resolver, &client, settings.upstream.identity, kind);
        let stop = gate.stop.clone();
        gate.metrics.sessions.inc();
        gate.metrics.active.inc();
        Self {
            gate,
            stream,
            client,
            kind,
            id: transaction::new_id(),
            offer: None,
            message_size: settings.message.message_size,
            link,
            reverse,
            transaction: None,
            evaluation: None,
            stop,
            errors: 0,
            guarded: 0,
        }
    }

    async fn converse(&mut self) -> End {
        let settings = self.settings();
        self.say(&Reply::new(
            220,
            "",
            &format!("{} {}", settings.hostname, settings.banner.as_deref().unwrap_or("ESMTP")),
        ));
        let mut state = State::Greeted;
        loop {
            let line = match self.next_line(&state).await {
                Ok(line) => line,
                Err(end) => return end,
            };
            state = match self.perform(state, Event::Line(line)).await {
                Ok(state) => state,
                Err(end) => return end,
            };
            if self.errors > settings.errors {
                return End::saying(Ended::Errors, Reply::new(421, "4.7.0", "Too many errors"));
            }
        }
    }

    async fn finish(&mut self, end: End) {
        if let Some(reply) = end.last_word {
            self.say(&reply);
        }
        if let Some(reason) = end.reason {
            self.gate.metrics.ended.inc(reason);
            debug!(session = &*self.id, client_ip = %self.client.ip(), reason = %reason, "session ended");
        }
        // The client may have gone already; a peer that takes nothing must not hold the session's slot.
        let _ = timeout(LAST_WORD, self.stream.flush()).await;
        self.stream.shutdown().await;
        self.link.close().await;
        self.stream.linger(LINGER).await;
    }

    /// The settings in force now.
    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.gate.settings.borrow())
    }

    fn say(&mut self, reply: &Reply) {
        self.stream.queue(reply.as_wire());
    }

    /// The client's next line. Replies that wait are sent before, once the client's group of commands is read.
    async fn next_line(&mut self, state: &State) -> Result<Result<Command, CommandError>, End> {
        let settings = self.settings();
        let between = matches!(state, State::Greeted | State::Ready(_));
        if !self.stream.has_line() || self.stream.queued() > MAX_QUEUED {
            self.flush(settings.timeouts.command).await?;
            self.stream.release();
            self.link.release();
        }
        let deadline = Instant::now() + settings.timeouts.command;
        loop {
            let hold = if between { self.link.idle_left() } else { self.link.hold_left() };
            let offer = self.offer.as_ref();
            let wait = async {
                tokio::select! {
                    biased;
                    // First, so that a client that never pauses between its transactions does not hold up the stop.
                    () = stopped(&mut self.stop), if between => Wake::Stop,
                    line = self.stream.read_line(MAX_COMMAND_LINE) => Wake::Line(match line {
                        Ok(line) => Ok(Command::parse(line, offer)),
                        Err(ReadError::TooLong) => Ok(Err(CommandError::LineTooLong)),
                        Err(_) => Err(()),
                    }),
                    () = sleep_until(deadline) => Wake::Silence,
                    () = pause(hold) => Wake::Hold,
                }
            };
            match alongside(&mut self.evaluation, wait).await {
                Wake::Line(Ok(line)) => return Ok(line),
                Wake::Line(Err(())) => return Err(End::silently(Ended::ClientGone)),
                Wake::Silence => {
                    return Err(End::saying(Ended::Timeout, Reply::new(421, "4.4.2", "Timeout, closing")));
                }
                Wake::Stop => {
                    let reply = Reply::new(421, "4.3.2", "Service is being restarted, please try again");
                    return Err(End::saying(Ended::Stopping, reply));
                }
                Wake::Hold => self.link.let_go().await,
            }
        }
    }

    /// Performs what the state machine says about `event`, and about what comes of it.
    async fn perform(&mut self, mut state: State, mut event: Event) -> Result<State, End> {
        let bounds = Bounds { recipients: self.settings().recipients, client: self.kind };
        loop {
            // What the upstream refuses is for the upstream to count.
            let is_ours = matches!(event, Event::Line(_));
            let effect;
            (state, effect) = step(state, event, bounds);
            event = match effect {
                Effect::Say(reply) => {
                    self.errors += usize::from(is_ours && reply.is_permanent());
                    if matches!(state, State::Ready(_)) {
                        self.forget_transaction();
                    }
                    self.say(&reply);
                    return Ok(state);
                }
                Effect::Close(reply) => {
                    let reason = match reply.code() {
                        221 => None,
                        421 => Some(Ended::Unavailable),
                        _ => Some(Ended::ProxyHeader),
                    };
                    return Err(End { reason, last_word: Some(reply) });
                }
                Effect::Introduce(hello) => {
                    self.introduce(&hello).await?;
                    return Ok(state);
                }
                Effect::Reset(reply) => {
                    self.link.reset().await;
                    self.forget_transaction();
                    self.say(&reply);
                    return Ok(state);
                }
                Effect::RelayMail(reverse_path, parameters) => {
                    Event::Answer(self.relay_mail(&state, &reverse_path, &parameters).await)
                }
                Effect::RelayRcpt(path) => self.relay_recipient(&state, &path).await,
                Effect::Receive(envelope) => Event::Answer(self.receive(&state, envelope).await?),
            };
        }
    }

    /// Answers EHLO or HELO. What is offered hangs on the upstream: until it was seen, nobody can say.
    async fn introduce(&mut self, hello: &Hello) -> Result<(), End> {
        self.link.close().await;
        self.forget_transaction();
        let settings = self.settings();
        let mut survey = self.gate.survey.clone();
        let known = timeout(SURVEY_WAIT, survey.wait_for(|s| s.capabilities.is_some())).await;
        let capabilities = known.ok().and_then(|s| s.ok().and_then(|s| s.capabilities.clone()));
        let Some(capabilities) = capabilities else {
            let reply = Reply::new(421, "4.3.2", "Service not available yet, please try again later");
            return Err(End::saying(Ended::Unavailable, reply));
        };
        let offer = Offer::new(&capabilities, settings.message.message_size);
        self.message_size = offer.size;
        match hello.protocol {
            Protocol::Esmtp => {
                self.say(&offer.reply(&settings.hostname));
                self.offer = Some(offer);
            }
            Protocol::Smtp => {
                self.say(&Reply::new(250, "", &settings.hostname));
                self.offer = None;
            }
        }
        Ok(())
    }

    async fn relay_mail(&mut self, state: &State, path: &ReversePath, parameters: &MailParameters) -> Reply {
        let State::MailSent(hello, _) = state else { return trouble(&upstream::Error::Unavailable) };
        self.begin(hello, path);
        let introduction = self.introduction(hello).await;
        let line = |found: &Capabilities| {
            // RFC 6152 §3: what a server has not offered must not be used; nothing is ever converted.
            (parameters.body.is_none() || found.eight_bit_mime)
                .then(|| format!("MAIL FROM:{path}{}", parameters.for_upstream(found.size.is_some(), ADDED_FIELDS)))
        };
        let reply = alongside(&mut self.evaluation, self.link.mail(&introduction, line)).await;
        reply.unwrap_or_else(|error| self.told(&error))
    }

    async fn relay_recipient(&mut self, state: &State, path: &ForwardPath) -> Event {
        let State::RcptSent(hello, ..) = state else { return Event::Answer(trouble(&upstream::Error::Unavailable)) };
        if !self.may_send_to(path) {
            self.gate.metrics.guarded.inc();
            self.tell_of_guard(path);
            return Event::Guarded;
        }
        let introduction = self.introduction(hello).await;
        let text = path.to_string();
        let reply = alongside(&mut self.evaluation, self.link.recipient(&introduction, &text)).await;
        Event::Answer(reply.unwrap_or_else(|error| self.told(&error)))
    }

    /// Begins a transaction, and with it the evaluation: SPF needs no more than this.
    fn begin(&mut self, hello: &Hello, path: &ReversePath) {
        let settings = self.settings();
        let ip = self.client.ip();
        let trusted = settings.trusts(ip);
        let mut transaction = Transaction::new(settings, trusted.then_some(BypassReason::TrustedNetwork));
        if transaction.bypass.is_none() {
            let (subject, subject_comes) = oneshot::channel();
            let lookup = Arc::new(self.gate.resolver.for_message());
            let sender = Sender {
                ip,
                helo: hello.name.as_str().into(),
                mail_from: path.mailbox().map_or("", |m| m.as_str()).into(),
            };
            (transaction.subject, transaction.lookup) = (Some(subject), Some(Arc::clone(&lookup)));
            self.evaluation = Some(Background::new(async move {
                let lookups = Lookups { identifiers: &*lookup, policy: &lookup.unmetered() };
                gather(lookups, &sender, async { subject_comes.await.ok() }).await
            }));
        }
        self.transaction = Some(transaction);
    }

    fn forget_transaction(&mut self) {
        self.transaction = None;
        self.evaluation = None;
    }

    /// The relay guard: with it, mail from strangers goes to the configured domains alone.
    fn may_send_to(&self, path: &ForwardPath) -> bool {
        let settings = self.transaction.as_ref().map(|t| &t.settings);
        let Some(settings) = settings else { return false };
        let RelayGuard::Domains(domains) = &settings.relay_guard else { return true };
        settings.trusts(self.client.ip()) || is_guarded_recipient(path, domains)
    }

    /// The first refusal of a session is told to the operator, who may be asked about it; a flood is not.
    fn tell_of_guard(&mut self, path: &ForwardPath) {
        self.guarded += 1;
        if self.guarded == 1 {
            info!(
                session = &*self.id,
                client_ip = %self.client.ip(),
                recipient = path.to_string(),
                "recipient refused by smtp.recipient_domains"
            );
        }
    }

    /// What the upstream is told about the client; waits for its name by DNS, which was asked for at the beginning.
    async fn introduction(&mut self, hello: &Hello) -> Introduction {
        let name = alongside(&mut self.evaluation, self.reverse.name()).await;
        Introduction { client: self.client.clone(), name, hello: hello.clone() }
    }

    /// What the client is told of a failure of ours or the upstream's.
    fn told(&self, error: &upstream::Error) -> Reply {
        warn!(session = &*self.id, client_ip = %self.client.ip(), error = %error, "transaction failed");
        trouble(error)
    }

    async fn flush(&mut self, limit: Duration) -> Result<(), End> {
        match alongside(&mut self.evaluation, timeout(limit, self.stream.flush())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::silently(Ended::ClientGone)),
            Err(_) => Err(End::silently(Ended::Timeout)),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let ReverseLookup::Running(task) = &self.reverse {
            task.abort();
        }
        // Here, so that a session that panics is not counted for ever.
        self.gate.metrics.active.dec();
    }
}

impl Settings {
    /// Whether a client's mail is not evaluated, and its recipients are not guarded, for its address.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted_networks.iter().any(|network| network.contains(&ip))
    }
}

impl End {
    fn saying(reason: Ended, reply: Reply) -> Self {
        Self { reason: Some(reason), last_word: Some(reply) }
    }

    fn silently(reason: Ended) -> Self {
        Self { reason: Some(reason), last_word: None }
    }
}

impl ReverseLookup {
    /// Begins the look-up, if the name will be told to the upstream.
    fn start(resolver: &Resolver, client: &Client, identity: Identity, kind: ClientKind) -> Self {
        let is_told = matches!(identity, Identity::Auto | Identity::Xclient | Identity::Received);
        if kind == ClientKind::HealthCheck || !is_told {
            return Self::Done(ConfirmedName::None);
        }
        let (lookup, ip) = (resolver.for_message(), client.ip());
        Self::Running(tokio::spawn(async move {
            timeout(REVERSE_LOOKUP, confirmed_name(&lookup, ip)).await.unwrap_or(ConfirmedName::TempError)
        }))
    }

    async fn name(&mut self) -> ConfirmedName {
        if let Self::Running(task) = self {
            // The task ends only by itself; should it have panicked, the name is as unknown as after a time-out.
            *self = Self::Done(task.await.unwrap_or(ConfirmedName::TempError));
        }
        match self {
            Self::Done(name) => name.clone(),
            Self::Running(_) => ConfirmedName::TempError,
        }
    }
}

/// What woke a session up.
enum Wake {
    Line(Result<Result<Command, CommandError>, ()>),
    Silence,
    Hold,
    Stop,
}

/// What a client is told of a failure that is not its own. A temporary doubt never ends in 5xx.
pub fn trouble(error: &upstream::Error) -> Reply {
    let (enhanced, text) = match error {
        upstream::Error::Unavailable => ("4.4.1", "Mail server not available, please try again later"),
        upstream::Error::Refused => ("4.3.0", "Mail system can't take mail now, please try again later"),
        upstream::Error::Lost | upstream::Error::Delivery(_) => {
            ("4.4.2", "Lost the mail server inside the transaction, please try again later")
        }
        upstream::Error::Unguarded => ("4.3.5", "Service is not configured completely, please try again later"),
        upstream::Error::Extension => ("4.3.3", "An extension in use is not available now, please try again later"),
    };
    Reply::new(451, enhanced, text)
}

/// Whether the relay guard lets a recipient through: in one of the domains, without a route to elsewhere.
fn is_guarded_recipient(path: &ForwardPath, domains: &[Domain]) -> bool {
    let mailbox = path.mailbox();
    if mailbox.is_routed() {
        return false;
    }
    match mailbox.domain() {
        DomainPart::Name(domain) => domains.contains(&domain),
        // RFC 5321 §4.5.1: postmaster without a domain is the server's own.
        DomainPart::Absent => mailbox.local_part().eq_ignore_ascii_case("postmaster"),
        DomainPart::Literal => false,
    }
}

async fn pause(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender goes only with the process.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Octets of a command line with its line end: RFC 5321 §4.5.3.1.4 has 512, extensions and long VERP addresses go
/// beyond it.
const MAX_COMMAND_LINE: usize = 2048;
/// Octets of replies that may wait while a client sends its group of commands and reads nothing.
const MAX_QUEUED: usize = 16 * 1024;
/// How long EHLO waits for the first probe of the upstream to succeed.
const SURVEY_WAIT: Duration = Duration::from_secs(5);
/// How long the look-up of the client's name may take, from the beginning of the session.
const REVERSE_LOOKUP: Duration = Duration::from_secs(5);
/// How long the last reply may take to be written.
const LAST_WORD: Duration = Duration::from_secs(10);
/// How long a client that was told the last word may take to close its side.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_guard_lets_own_domains_through() {
        let domains = [Domain::parse("example.net").unwrap()];
        let cases = [
            ("<a@example.net>", true),
            ("<a@EXAMPLE.NET>", true),
            ("<a@x.example.net>", false),
            ("<a@example.net.evil.example>", false),
            ("<a@evil.example>", false),
            ("<a%evil.example@example.net>", false),
            ("<evil.example!a@example.net>", false),
            ("<\"a@evil.example\"@example.net>", false),
            ("<@example.net:a@evil.example>", false),
            ("<@evil.example:a@example.net>", false),
            ("<a@[192.0.2.1]>", false),
            ("<Postmaster>", true),
            ("<a>", false),
        ];
        for (text, expected) in cases {
            let (path, _) = ForwardPath::parse(text.as_bytes()).unwrap();
            assert_eq!(is_guarded_recipient(&path, &domains), expected, "{text}");
        }
    }
}
