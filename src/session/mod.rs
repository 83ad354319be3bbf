//! Drives one SMTP session: reads what the client says, lets the state machine decide, performs what it says.
//!
//! It owns the client's connection and the link to the upstream, and nothing outlives it. A client that goes takes its
//! transaction with it. What a client hears when the upstream can't be used stands in one place (`relay::trouble`);
//! whatever goes wrong, replies name neither mechanism nor host.

pub mod aftermath;
pub mod background;
mod bounce;
pub mod complaints;
mod data;
pub mod doubts;
mod login;
mod failure_report;
pub mod fault;
mod id;
pub mod latest;
pub mod metrics;
pub mod objection;
mod pace;
pub mod patience;
pub mod receive;
pub mod refusal;
mod relay;
mod reverse;
mod secure;
pub mod settings;
pub mod state;
pub mod transaction;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error};

use self::background::{Background, alongside};
use self::complaints::Complaints;
use self::data::Incoming;
use self::doubts::Doubts;
use self::id::new_id;
use self::latest::Latest;
use self::login::MAX_AUTH_LINE;
pub use self::metrics::{Ended, Outcome};
use self::metrics::{Limit, Metrics};
use self::objection::{Objection, excerpt, mail_verb};
use self::patience::Patience;
use self::refusal::CommandRefusal;
use self::reverse::ReverseLookup;
use self::settings::AuthOffer;
pub use self::settings::Settings;
use self::state::{Bounds, ClientKind, Effect, Event, Login, Security, State, step};
use self::transaction::Transaction;
use crate::dns::resolver::Resolver;
use crate::envelope::{Client, Hello, Protocol};
use crate::evaluation::discovery::Rules;
use crate::evaluation::gather::Gathered;
use crate::explain::Recorder;
use crate::message::spool::{Share, Spooler};
use crate::panics::{Panicked, caught};
use crate::report::delivery::Delivery;
use crate::report::failure_reporter::FailureReporter;
use crate::report::inbound::Collector;
use crate::smtp::command::{ChunkPosition, Command, CommandError};
use crate::smtp::extension::{Offer, Terms};
use crate::smtp::reply::Reply;
use crate::smtp::stream::{ReadError, Stream};
use crate::store::Appender;
use crate::tls;
use crate::upstream::Link;
use crate::upstream::probe::Survey;

/// What the sessions of one listener share, most of it with those of the others.
pub struct Gate {
    /// Where the listener listens.
    pub listener: SocketAddr,
    /// The settings in force there.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// DNS.
    pub resolver: Resolver,
    /// How policies are discovered.
    pub discovery: watch::Receiver<Arc<Rules>>,
    /// Where bodies wait.
    pub spooler: Spooler,
    /// What the upstreams offer.
    pub survey: watch::Receiver<Survey>,
    /// Where rows go.
    pub rows: Appender,
    /// Where bounces of reports are written down.
    pub reports: Delivery,
    /// Takes messages that failed and whose Domain Owner wants a report.
    pub failure_reporter: FailureReporter,
    /// Since when mail is deferred for DNS, at this listener: another may put off nothing.
    pub doubts: Doubts,
    /// Takes what `explain` will tell of messages that were no plain pass.
    pub explanations: Recorder,
    /// The last refusals, for the status page.
    pub latest: Latest,
    /// Where reports go that arrive.
    pub inbound: Collector,
    /// TLS towards clients; none without a certificate.
    pub tls: Option<tls::Server>,
    /// What is counted.
    pub metrics: Metrics,
    /// What is said of peers, sparingly; all listeners have the same.
    pub complaints: Arc<Complaints>,
    /// True once the gate stops.
    pub stop: watch::Receiver<bool>,
}

/// One session.
pub struct Session {
    gate: Arc<Gate>,
    stream: Stream,
    client: Client,
    kind: ClientKind,
    /// TLS when the session began.
    security: Security,
    id: Box<str>,
    offer: Option<Offer>,
    /// What there was of AUTH when the offer was made.
    login: Login,
    /// Octets of a message that gate and upstream take.
    message_size: u64,
    link: Link,
    reverse: ReverseLookup,
    /// What the client's network has of the spool, once it has sent a message.
    share: Option<Arc<Share>>,
    transaction: Option<Transaction>,
    /// The message whose chunks are coming.
    incoming: Option<Box<Incoming>>,
    evaluation: Option<Background<Result<Gathered, Panicked>>>,
    stop: watch::Receiver<bool>,
    patience: Patience,
    /// Until when the client has to introduce itself; none once it has.
    introduce_by: Option<Instant>,
    /// Since when replies are held back while the upstream is waited for; none while none are.
    held_since: Option<Instant>,
    guarded: usize,
}

/// The end of a session.
struct End {
    reason: Option<Ended>,
    last_word: Option<Reply>,
}

/// A client that has come.
#[derive(Debug)]
pub struct Arrival {
    /// Who it is. The PROXY header, if there was one, has been read.
    pub client: Client,
    /// Whether it may send mail at all.
    pub kind: ClientKind,
    /// What there is of TLS where it has come.
    pub security: Security,
}

/// Serves one client to the end of its session.
pub async fn run(gate: Arc<Gate>, stream: Stream, arrival: Arrival) {
    let mut session = Session::new(Arc::clone(&gate), stream, arrival);
    let (id, ip) = (session.id.clone(), session.client.ip());
    // Boxed, as is what only some moments of a session need: ten thousand of them wait at a time for the next command.
    let whole = Box::pin(async move {
        let end = session.converse().await;
        Box::pin(session.finish(end)).await;
    });
    if caught(whole).await.is_err() {
        gate.metrics.ended.inc(Ended::Panic);
        error!(session = &*id, client_ip = %ip, "session ended by a fault of ours: its task panicked");
    }
}

impl Session {
    fn new(gate: Arc<Gate>, stream: Stream, Arrival { client, kind, security }: Arrival) -> Self {
        let settings = Arc::clone(&gate.settings.borrow());
        let id = new_id();
        let link = Link::new(Arc::clone(&settings.servers), &id);
        let reverse = ReverseLookup::start(&gate.resolver, &client, settings.servers.settings().identity, kind);
        let stop = gate.stop.clone();
        gate.metrics.sessions.inc();
        gate.metrics.active.inc();
        Self {
            gate,
            stream,
            client,
            kind,
            security,
            id,
            offer: None,
            login: Login::Unavailable,
            message_size: settings.message.message_size,
            link,
            reverse,
            share: None,
            transaction: None,
            incoming: None,
            evaluation: None,
            stop,
            patience: Patience::default(),
            introduce_by: None,
            held_since: None,
            guarded: 0,
        }
    }

    async fn converse(&mut self) -> End {
        let settings = self.settings();
        if let Err(end) = Box::pin(self.await_silence(&settings)).await {
            return end;
        }
        self.introduce_by = Some(Instant::now() + settings.timeouts.first_command);
        self.say(&Reply::new(
            220,
            "",
            &format!("{} {}", settings.hostname, settings.banner.as_deref().unwrap_or("ESMTP")),
        ));
        let mut state = State::Greeted;
        loop {
            let line = match self.next_line(&state).await {
                Ok(line) => line,
                Err(end) => {
                    self.tell_of_broken_off(&state, &end);
                    return end;
                }
            };
            state = match Box::pin(self.perform(state, Event::Line(line))).await {
                Ok(state) => state,
                Err(end) => return end,
            };
            if let Some((reason, reply)) = self.patience.is_over(self.settings().patience) {
                return End::saying(reason, reply);
            }
        }
    }

    /// Waits before the greeting, if that is wanted: an honest client is silent until it has read it.
    async fn await_silence(&mut self, settings: &Settings) -> Result<(), End> {
        let is_asked = self.kind == ClientKind::Sender && !settings.trusts(self.client.ip());
        if settings.pregreet_delay.is_zero() || !is_asked {
            return Ok(());
        }
        if self.stream.buffered().is_empty() {
            match timeout(settings.pregreet_delay, self.stream.fill()).await {
                Err(_) => return Ok(()),
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(End::silently(Ended::ClientGone)),
            }
        }
        let reply = Reply::new(554, "5.5.1", "Protocol error: wait for the greeting before you speak");
        Err(End::saying(Ended::Pregreet, reply))
    }

    async fn finish(&mut self, end: End) {
        if let Some(reply) = end.last_word {
            self.say(&reply);
        }
        if let Some(reason) = end.reason {
            self.gate.metrics.ended.inc(reason);
            if reason == Ended::ProxyHeader {
                self.gate.complaints.unlisted_header(self.client.ip());
            }
            debug!(session = &*self.id, client_ip = %self.client.ip(), reason = %reason, "session ended");
        }
        // The client may have gone already; a peer that takes nothing must not hold the session's slot. Both at once,
        // so that a client that reads nothing holds nothing upstream, and an upstream that reads nothing no reply.
        let _ = tokio::join!(timeout(LAST_WORD, self.stream.flush()), self.link.quit());
        self.stream.shutdown().await;
        tokio::select! {
            () = self.stream.linger(LINGER) => {}
            () = async { stopped(&mut self.stop).await; sleep(HASTE).await } => {}
        }
    }

    /// The settings that the transaction began with; without one, those in force now.
    fn settings(&self) -> Arc<Settings> {
        let begun = self.transaction.as_ref().map(|transaction| Arc::clone(&transaction.settings));
        begun.unwrap_or_else(|| Arc::clone(&self.gate.settings.borrow()))
    }

    /// The end of a session that has come where it can't: the fault is ours, and `what` says in the log where.
    fn broken(&self, what: &str) -> End {
        error!(session = &*self.id, client_ip = %self.client.ip(), what, "session ended by a fault of ours");
        End::saying(Ended::Fault, Reply::new(451, "4.3.0", "Please try again later"))
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
        let deadline = self.introduce_by.map_or(deadline, |by| by.min(deadline));
        // The pauses between chunks belong to the time for the whole message.
        let deadline = self.incoming.as_ref().map_or(deadline, |incoming| incoming.deadline().min(deadline));
        loop {
            let hold = if between { self.link.idle_left() } else { self.link.hold_left() };
            let (wanted, offer) = (self.link.wanted(), self.offer.as_ref());
            let wait = async {
                tokio::select! {
                    biased;
                    // First, so that a client that never pauses between its transactions does not hold up the stop.
                    () = stopped(&mut self.stop), if between => Wake::Stop,
                    line = self.stream.read_line(MAX_AUTH_LINE) => Wake::Line(match line {
                        Ok(line) => Ok(read_command(line, offer).map_err(|error| {
                            let told = Objection::to(line, &error).map(|objection| (objection, excerpt(line)));
                            (error, told)
                        })),
                        Err(ReadError::TooLong) => Ok(Err((CommandError::LineTooLong, None))),
                        Err(_) => Err(()),
                    }),
                    () = sleep_until(deadline) => Wake::Silence,
                    () = pause(hold) => Wake::Hold,
                    () = wanted => Wake::Hold,
                }
            };
            let woken = alongside(&mut self.evaluation, pin!(wait)).await;
            match woken {
                Wake::Line(Ok(Ok(command))) => return Ok(Ok(command)),
                Wake::Line(Ok(Err((error, told)))) => {
                    if let Some((objection, command)) = told {
                        self.object(objection, &command, &error.reply());
                    }
                    return Ok(Err(error));
                }
                Wake::Line(Err(())) => return Err(End::silently(Ended::ClientGone)),
                Wake::Silence => {
                    return Err(End::saying(Ended::Timeout, Reply::new(421, "4.4.2", "Timeout, closing")));
                }
                Wake::Stop => {
                    let reply = Reply::new(421, "4.3.2", "Service is being restarted, please try again");
                    return Err(End::saying(Ended::Stopping, reply));
                }
                Wake::Hold => self.let_upstream_go().await,
            }
        }
    }

    /// Performs what the state machine says about `event`, and about what comes of it.
    async fn perform(&mut self, mut state: State, mut event: Event) -> Result<State, End> {
        let settings = self.settings();
        let mut verb = None;
        if let Event::Line(line) = &event {
            self.patience.command(line);
            verb = mail_verb(line);
        }
        let mut ends_message = false;
        loop {
            let bounds = Bounds {
                recipients: settings.patience.recipients,
                client: self.kind,
                security: self.security(),
                login: self.login_state(),
                chunking: self.offer.as_ref().is_some_and(|offer| offer.chunking),
            };
            let effect;
            (state, effect) = step(state, event, bounds);
            event = match effect {
                Effect::Say(reply) => {
                    self.patience.answered(&reply, settings.patience);
                    if matches!(state, State::Ready(_)) {
                        self.forget_transaction();
                    }
                    self.say(&reply);
                    if ends_message {
                        self.hand_out_outcome(&settings).await?;
                    }
                    return Ok(state);
                }
                Effect::Refuse(refusal) => {
                    self.refuse(&refusal, verb, settings.patience);
                    return Ok(state);
                }
                Effect::Close(parting, reply) => {
                    return Err(End { reason: Ended::of(parting), last_word: Some(reply) });
                }
                Effect::Introduce(hello) => {
                    self.introduce(&hello).await?;
                    self.introduce_by = None;
                    return Ok(state);
                }
                Effect::Reset(reply) => {
                    self.link.reset().await;
                    self.forget_transaction();
                    self.say(&reply);
                    return Ok(state);
                }
                Effect::RelayMail(reverse_path, parameters) => {
                    Event::Answer(self.relay_mail(&state, &reverse_path, &parameters).await?)
                }
                Effect::Secure => {
                    self.secure().await?;
                    return Ok(state);
                }
                Effect::LogIn(mechanism, initial) => Event::Answer(self.log_in(&state, &mechanism, initial).await?),
                Effect::RelayRcpt(path, parameters) => self.relay_recipient(&state, &path, &parameters).await?,
                Effect::Receive => {
                    ends_message = true;
                    let reply = self.receive(&state).await;
                    Event::Answer(reply.inspect_err(|end| self.tell_of_broken_off(&state, end))?)
                }
                Effect::ReceiveChunk(chunk) => {
                    ends_message = chunk.position == ChunkPosition::Last;
                    let reply = self.receive_chunk(&state, chunk).await;
                    Event::Answer(reply.inspect_err(|end| self.tell_of_broken_off(&state, end))?)
                }
                Effect::Skip(chunk, refusal) => {
                    // RFC 3030 §2: behind a chunk that failed, the others of its group come all the same.
                    self.patience.wasted(chunk.size);
                    self.patience.refused(&refusal, settings.patience);
                    self.skip(chunk).await?;
                    self.say(&refusal.reply());
                    return Ok(state);
                }
            };
        }
    }

    /// Says why a command is refused, and counts it; `verb` is that of MAIL or RCPT.
    fn refuse(&mut self, refusal: &CommandRefusal, verb: Option<&str>, bounds: patience::Bounds) {
        let reply = refusal.reply();
        if let Some((objection, verb)) = Objection::of(refusal).zip(verb) {
            self.object(objection, verb, &reply);
        }
        if *refusal == CommandRefusal::TooManyRecipients {
            self.gate.metrics.limits.inc(Limit::Recipients);
        }
        self.patience.refused(refusal, bounds);
        self.say(&reply);
    }

    /// Answers EHLO or HELO. What is offered hangs on the upstream: until it was seen, nobody can say.
    async fn introduce(&mut self, hello: &Hello) -> Result<(), End> {
        match self.link.is_pinned() {
            true => self.link.reset().await,
            false => self.link.quit().await,
        }
        self.forget_transaction();
        let settings = self.settings();
        let mut survey = self.gate.survey.clone();
        let known = timeout(SURVEY_WAIT, survey.wait_for(|s| s.capabilities.is_some())).await;
        let capabilities = known.ok().and_then(|s| s.ok().and_then(|s| s.capabilities.clone()));
        let Some(capabilities) = capabilities else {
            let reply = Reply::new(421, "4.3.2", "Service not available yet, please try again later");
            return Err(End::saying(Ended::Unavailable, reply));
        };
        let terms = Terms {
            size: settings.message.message_size,
            hidden: &settings.hidden,
            starttls: self.security() == Security::Offered || self.security() == Security::Required,
            auth: match settings.auth {
                AuthOffer::UnderTls => self.stream.is_secured(),
                AuthOffer::Always => true,
                AuthOffer::Never => false,
            },
        };
        let offer = Offer::new(&capabilities, terms);
        self.message_size = offer.size;
        self.login = self.login_offered(&offer, &capabilities.auth);
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

    fn forget_transaction(&mut self) {
        self.transaction = None;
        self.incoming = None;
        self.evaluation = None;
    }

    /// Sends what became of a message: a client that does not hear of it in time sends the message again, so that it
    /// waits for no command behind it. It need not leave by itself where the group is at its end, or QUIT is the end of
    /// it.
    async fn hand_out_outcome(&mut self, settings: &Settings) -> Result<(), End> {
        let is_behind = self.stream.waiting_lines().next().is_some_and(|line| !line.eq_ignore_ascii_case(b"QUIT"));
        if is_behind { self.flush(settings.timeouts.command).await } else { Ok(()) }
    }

    async fn flush(&mut self, limit: Duration) -> Result<(), End> {
        self.held_since = None;
        match alongside(&mut self.evaluation, pin!(timeout(limit, self.stream.flush()))).await {
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

impl End {
    fn saying(reason: Ended, reply: Reply) -> Self {
        Self { reason: Some(reason), last_word: Some(reply) }
    }

    fn silently(reason: Ended) -> Self {
        Self { reason: Some(reason), last_word: None }
    }
}

/// What woke a session up.
enum Wake {
    /// A line; why one is refused, with what is told of it; or the client's end.
    Line(Result<Result<Command, Refused>, ()>),
    Silence,
    Hold,
    Stop,
}

/// Why a line is refused, and what is told of it.
type Refused = (CommandError, Option<(Objection, Box<str>)>);

/// Only AUTH may fill the longest line.
fn read_command(line: &[u8], offer: Option<&Offer>) -> Result<Command, CommandError> {
    let is_auth = || line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
    if line.len() + LINE_END > MAX_COMMAND_LINE && !is_auth() {
        return Err(CommandError::LineTooLong);
    }
    Command::parse(line, offer)
}

async fn pause(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
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
/// Octets of CRLF.
const LINE_END: usize = 2;
/// Octets of replies that may wait while a client sends its group of commands and reads nothing.
const MAX_QUEUED: usize = 16 * 1024;
/// How long EHLO waits for the first probe of the upstream to succeed.
const SURVEY_WAIT: Duration = Duration::from_secs(5);
/// How long the last reply may take to be written.
const LAST_WORD: Duration = Duration::from_secs(10);
/// How long a client that was told the last word may take to close its side.
const LINGER: Duration = Duration::from_secs(2);
/// The same while the gate stops: the others wait for it.
pub const HASTE: Duration = Duration::from_millis(250);
