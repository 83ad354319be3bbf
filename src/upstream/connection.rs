//! One connection to the upstream: opened, the client handed over, commands and a message sent.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::warn;

use super::handover::{Identity, Introduction, proxy_v1, proxy_v2, xclient_command};
use super::security::Security;
use super::servers::Slot;
use super::{MessageParts, Settings, Timeouts};
use crate::envelope::Client;
use crate::label::Label;
use crate::label_enum;
use crate::smtp::data::{Unstuffer, end_of_data};
use crate::smtp::extension::Capabilities;
use crate::smtp::reply::{Reply, ReplyError, ReplyReader};
use crate::smtp::stream::{ReadError, ReplyReadError, Stream};
use crate::tls;

/// What a connection is opened for.
struct Attempt<'a> {
    server: SocketAddr,
    /// What a verified certificate has to be for.
    name: &'a str,
    introduction: &'a Introduction,
    settings: &'a Settings,
}

/// An open connection on which the client was handed over and EHLO said.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    capabilities: Capabilities,
    /// Whether it has announced them: EHLO was answered, under TLS if there is any.
    announced: bool,
    sight: Sight,
    /// Whether XCLIENT may name the client's login.
    takes_login: bool,
    /// Given back when the connection is closed.
    slot: Option<Slot>,
    /// When the last octet of the message at hand went out.
    sent: Option<Instant>,
}

/// Whether the upstream sees the real client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// By XCLIENT or PROXY.
    Client,
    /// It sees the gate alone.
    Gate,
}

label_enum! {
    /// Where in the dialogue an opening failed.
    pub enum Step {
        /// All of it took too long together.
        Opening = "opening",
        /// The hand-over by PROXY.
        Proxy = "the PROXY header",
        /// The greeting.
        Greeting = "greeting",
        /// The first EHLO.
        Ehlo = "EHLO",
        /// The wish for TLS.
        StartTls = "STARTTLS",
        /// The TLS handshake.
        Handshake = "handshake",
        /// EHLO once more, under TLS or for a client that PROXY has named.
        EhloBehindStartTls = "EHLO behind STARTTLS",
        /// The hand-over by XCLIENT.
        Xclient = "XCLIENT",
        /// EHLO once more, in the client's name.
        EhloBehindXclient = "EHLO behind XCLIENT",
    }
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody answers there.
    #[error("can't be reached: {0}")]
    Unreachable(io::Error),
    /// It answers, but not as it should; our fault or its own, never the client's.
    #[error("{step} failed: {cause}")]
    Setup {
        /// Where in the dialogue.
        step: Step,
        /// What happened.
        cause: ExchangeError,
    },
    /// TLS failed, or is not to be had where it is demanded.
    #[error("no TLS: {step}: {cause}")]
    Unprotected {
        /// Where in the dialogue.
        step: Step,
        /// What happened.
        cause: String,
        /// Whether it was silence.
        timed_out: bool,
    },
    /// It refused the gate itself before it knew the client.
    #[error("{step} was refused: {reply}")]
    GateRefused {
        /// Where in the dialogue.
        step: Step,
        /// With these words.
        reply: Reply,
    },
    /// It can't be told who the client is: it does not announce XCLIENT with ADDR, which `upstream.identity` wants.
    #[error("XCLIENT ADDR is not announced to this gate")]
    XclientNotAnnounced,
    /// It refused the client, whom it knows: this is its answer to MAIL. With what it had announced by then; none if it
    /// refused the client before that.
    #[error("refuses the client: {0}")]
    ClientRefused(Reply, Option<Capabilities>),
}

impl OpenError {
    /// Whether the server has said no, and would say so again.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::GateRefused { reply, .. } | Self::ClientRefused(reply, _) => reply.is_permanent(),
            _ => false,
        }
    }

    /// What a refusal means. A server that has not taken a PROXY header may well be refusing the header, which it
    /// can't read, rather than the client: that is ours to mend, and never a bounce.
    pub fn settled(self, identity: Identity, sees_clients: bool) -> Self {
        match self {
            Self::ClientRefused(reply, _)
                if matches!(identity, Identity::ProxyV1 | Identity::ProxyV2) && !sees_clients =>
            {
                Self::GateRefused { step: Step::Proxy, reply }
            }
            error => error,
        }
    }

    /// What a refusal means to a session. A 550 to XCLIENT from a server that has never taken one may be meant for the
    /// gate, in words of its own.
    pub fn settled_in_session(self, identity: Identity, sees_clients: bool) -> Self {
        match self.settled(identity, sees_clients) {
            Self::ClientRefused(reply, _) if reply.code() == REFUSED && !sees_clients => {
                Self::GateRefused { step: Step::Xclient, reply }
            }
            error => error,
        }
    }

    /// Whether the server has refused the gate itself, whoever the client is, and will do so until somebody mends it.
    pub fn refuses_gate_for_good(&self) -> bool {
        match self {
            Self::GateRefused { reply, .. } => reply.is_permanent(),
            Self::XclientNotAnnounced => true,
            _ => false,
        }
    }

    /// Whether the client may be the reason, since it had been named by then: a server may drop one that it has banned
    /// without a word. How the server is with all others, a probe has to find out.
    pub fn may_be_for_the_client(&self, identity: Identity) -> bool {
        match self {
            Self::ClientRefused(..) => true,
            // A silent server is left alone, whatever the reason: it would hold up the next session, too.
            Self::Unreachable(_) => false,
            Self::Setup { cause: ExchangeError::Timeout, .. } | Self::Unprotected { timed_out: true, .. } => false,
            Self::XclientNotAnnounced => false,
            // The header goes first: it has named the client before anything can fail, TLS included.
            Self::Setup { .. } | Self::GateRefused { .. } | Self::Unprotected { .. } if identity.is_proxy() => true,
            Self::Unprotected { .. } => false,
            Self::Setup { step, .. } => matches!(step, Step::Xclient | Step::EhloBehindXclient),
            // It may be a value that it can't read (Postfix is strict about names), or words that only seem to be for
            // us.
            Self::GateRefused { step, .. } => matches!(step, Step::Xclient | Step::EhloBehindXclient),
        }
    }
}

/// Why a command got no reply.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection was lost.
    #[error("connection lost: {0}")]
    Lost(io::Error),
    /// No reply in time.
    #[error("no reply in time")]
    Timeout,
    /// What came is not a reply.
    #[error("the reply can't be read: {0}")]
    Nonsense(#[from] ReplyError),
}

/// Why a message has no final reply.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Before the final dot was sent: nothing was delivered.
    #[error("before the end of data: {0}")]
    BeforeEnd(ExchangeError),
    /// The spool could not be read back; nothing was delivered.
    #[error("the spool can't be read: {0}")]
    Spool(io::Error),
    /// The upstream refused the message before its end; the end was not sent.
    #[error("refused before the end of data: {0}")]
    Refused(Reply),
    /// After the final dot: the upstream may have taken the message.
    #[error("no reply to the end of data: {0}")]
    AfterEnd(ExchangeError),
}

/// How long a delivery may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// Each step.
    pub timeouts: &'a Timeouts,
    /// When it began: all of it, the final reply included, has [`Timeouts::final_reply`]. If the gate waited on after
    /// the client has given up, every message taken then would become a duplicate.
    pub began: Instant,
}

impl Limits<'_> {
    /// What is left.
    ///
    /// # Errors
    ///
    /// Nothing: no more must be sent, the end least of all.
    pub fn left(&self) -> Result<Duration, DeliveryError> {
        let left = self.timeouts.final_reply.checked_sub(self.began.elapsed()).filter(|left| !left.is_zero());
        left.ok_or(DeliveryError::BeforeEnd(ExchangeError::Timeout))
    }
}

impl Connection {
    /// Connects, hands the client over and says EHLO, in the order of the hand-over (PROXY before TLS and greeting,
    /// XCLIENT behind our own EHLO and STARTTLS). `name` is what a verified certificate has to be for; `session`, if
    /// there is one, what a warning names.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says whose fault it is.
    pub async fn open(
        server: SocketAddr,
        name: &str,
        introduction: &Introduction,
        settings: &Settings,
        session: Option<&str>,
    ) -> Result<Self, OpenError> {
        let attempt = Attempt { server, name, introduction, settings };
        match attempt.open(&settings.security).await {
            Err(OpenError::Unprotected { step, cause, .. })
                if matches!(settings.security, Security::Opportunistic(_)) =>
            {
                // Mail never waits for protection that is not demanded; the connection on which it failed is gone.
                let step = step.as_str();
                warn!(session, %server, step, error = cause, "no TLS with the upstream; continuing in the clear");
                attempt.open(&Security::Off).await
            }
            result => result,
        }
    }

    /// What the upstream announced last.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the upstream sees the real client.
    pub fn sight(&self) -> Sight {
        self.sight
    }

    /// Whether XCLIENT tells it who the client has authenticated as.
    pub fn takes_login(&self) -> bool {
        self.takes_login
    }

    /// Keeps `slot` as long as the connection is open.
    pub fn occupy(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// Whether the upstream has said nothing on its own and not closed.
    pub fn is_quiet(&mut self) -> bool {
        self.stream.is_quiet()
    }

    /// Gives buffers back before a long wait.
    pub fn release(&mut self) {
        self.stream.release();
    }

    /// Sends a command line (without its CRLF) and reads the reply.
    ///
    /// # Errors
    ///
    /// The connection is of no more use.
    pub async fn command(&mut self, line: &str, limit: Duration) -> Result<Reply, ExchangeError> {
        self.queue(line)?;
        self.reply(limit).await
    }

    /// Queues a command line; it leaves with the next [`Connection::reply`], so that a group leaves in one write
    /// (RFC 2920 §3.1).
    ///
    /// # Errors
    ///
    /// The upstream has sent a reply that nobody asked for, so it can no longer be known which command the next
    /// answers.
    pub fn queue(&mut self, line: &str) -> Result<(), ExchangeError> {
        if self.stream.queued() == 0 && !self.stream.buffered().is_empty() {
            return Err(ExchangeError::Nonsense(ReplyError::Unasked));
        }
        self.stream.queue(line.as_bytes());
        self.stream.queue(b"\r\n");
        Ok(())
    }

    /// Reads the reply to the first command that is not answered yet.
    ///
    /// # Errors
    ///
    /// The connection is of no more use.
    pub async fn reply(&mut self, limit: Duration) -> Result<Reply, ExchangeError> {
        self.exchange(limit).await
    }

    /// Sends the message behind a 354 and reads the final reply.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`] tells whether the upstream may have the message.
    pub async fn send(&mut self, message: MessageParts, limits: Limits<'_>) -> Result<Reply, DeliveryError> {
        self.sent = None;
        let end = end_of_data(message.ends_with_line);
        let MessageParts { mut head, mut body, .. } = message;
        while let Some(piece) = body.next().await.map_err(DeliveryError::Spool)? {
            if head.len() + piece.len() <= ONE_WRITE {
                // A small message leaves in one write with its end.
                head.extend_from_slice(piece);
            } else {
                self.write(&head, limits).await?;
                head.clear();
                self.write(piece, limits).await?;
            }
        }
        // What it holds of the spool's budget is for others while the upstream thinks.
        drop(body);
        self.require_quiet().await?;
        head.extend_from_slice(end);
        self.write(&head, limits).await?;
        drop(head);
        self.sent = Some(Instant::now());
        // From here on the upstream may have the message, whatever becomes of the connection.
        self.exchange(limits.left().unwrap_or_default()).await.map_err(DeliveryError::AfterEnd)
    }

    /// Sends the message as one chunk (RFC 3030 §2) and reads the final reply.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`] tells whether the upstream may have the message.
    pub async fn send_chunk(&mut self, message: MessageParts, limits: Limits<'_>) -> Result<Reply, DeliveryError> {
        self.sent = None;
        let size = message.content_size();
        let MessageParts { head, mut body, .. } = message;
        let mut left = size;
        let mut out = format!("BDAT {size} LAST\r\n").into_bytes();
        let (mut unstuffer, mut announced) = (Unstuffer::default(), out.len());
        unstuffer.unstuff(&head, &mut out);
        loop {
            let piece = body.next().await.map_err(DeliveryError::Spool)?;
            let is_last = piece.is_none();
            if is_last || out.len() >= ONE_WRITE {
                // One octet more than announced would be read as a command: better to send nothing.
                let octets = out.len().saturating_sub(std::mem::take(&mut announced)) as u64;
                left = left.checked_sub(octets).filter(|left| *left == 0 || !is_last).ok_or_else(miscounted)?;
                if is_last {
                    self.require_quiet().await?;
                }
                self.write(&out, limits).await?;
                out.clear();
            }
            match piece {
                Some(piece) => unstuffer.unstuff(piece, &mut out),
                None => break,
            }
        }
        drop((body, out));
        self.sent = Some(Instant::now());
        self.exchange(limits.left().unwrap_or_default()).await.map_err(DeliveryError::AfterEnd)
    }

    /// When the last message was sent whole; none if it was not.
    pub fn sent_at(&self) -> Option<Instant> {
        self.sent
    }

    /// What an upstream says after its 354 and before the end of data does not answer the end of data: a 250 among it
    /// would be one for a message that nobody has.
    async fn require_quiet(&mut self) -> Result<(), DeliveryError> {
        if self.stream.is_quiet() {
            return Ok(());
        }
        Err(match self.exchange(EARLY_REPLY).await {
            Ok(reply) if reply.is_transient() || reply.is_permanent() => DeliveryError::Refused(reply),
            Ok(_) => DeliveryError::BeforeEnd(ExchangeError::Nonsense(ReplyError::Unasked)),
            Err(error) => DeliveryError::BeforeEnd(error),
        })
    }

    /// Says QUIT and goes, without waiting for the reply.
    pub async fn quit(mut self) {
        self.stream.queue(b"QUIT\r\n");
        // A peer that no longer reads must not hold up the session.
        let _ = timeout(QUIT_WAIT, self.stream.flush()).await;
        self.stream.shutdown().await;
    }

    /// Writes a piece of the message. An upstream that takes no more may have said why before it left or stopped, such
    /// as a permanent refusal of a message that is too large.
    async fn write(&mut self, octets: &[u8], limits: Limits<'_>) -> Result<(), DeliveryError> {
        let limit = limits.timeouts.block.min(limits.left()?);
        let (lost, patience) = match timeout(limit, self.stream.write_all(octets)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => (ExchangeError::Lost(error), EARLY_REPLY),
            // What it has said by now.
            Err(_) => (ExchangeError::Timeout, Duration::ZERO),
        };
        Err(match timeout(patience, self.read()).await {
            Ok(Ok(reply)) if reply.is_transient() || reply.is_permanent() => DeliveryError::Refused(reply),
            _ => DeliveryError::BeforeEnd(lost),
        })
    }

    /// EHLO, or HELO if the server does not know EHLO.
    async fn hello(&mut self, step: Step, name: &str, timeouts: &Timeouts) -> Result<(), OpenError> {
        let setup = |cause| OpenError::Setup { step, cause };
        let mut reply = self.command(&format!("EHLO {name}"), timeouts.command).await.map_err(setup)?;
        if step == Step::Ehlo && self.sight == Sight::Client {
            match reply.code() {
                // RFC 5321 §4.3.2: these are for the name that the client gave itself. Exim: "501 Syntactically invalid
                // EHLO argument(s)".
                501 | 504 => return Err(OpenError::ClientRefused(reply, self.announced())),
                // These do not answer EHLO, but a header that was not understood.
                500 | 502 | 503 => return Err(self.not_proxied(reply)),
                _ => {}
            }
        }
        if matches!(reply.code(), 500 | 502 | 504) {
            reply = self.command(&format!("HELO {name}"), timeouts.command).await.map_err(setup)?;
            self.require_positive(step, reply)?;
            (self.capabilities, self.announced) = (Capabilities::default(), true);
            return Ok(());
        }
        let found = Capabilities::read(&reply);
        self.require_positive(step, reply)?;
        (self.capabilities, self.announced) = (found, true);
        Ok(())
    }

    /// What it means to get `reply` instead of one to EHLO: a server that speaks PROXY speaks EHLO, so this answers the
    /// header, and the client was not handed over.
    fn not_proxied(&mut self, reply: Reply) -> OpenError {
        self.sight = Sight::Gate;
        OpenError::GateRefused { step: Step::Proxy, reply }
    }

    async fn xclient(&mut self, introduction: &Introduction, settings: &Settings) -> Result<(), OpenError> {
        let (identity, timeouts) = (settings.identity, &settings.timeouts);
        let announced = self.capabilities.xclient.take().unwrap_or_default();
        // Without ADDR the upstream would go on to take the gate for the client.
        let has_address = announced.iter().any(|attribute| &**attribute == "ADDR");
        let Some(command) = xclient_command(introduction, &announced).filter(|_| has_address) else {
            return match identity {
                Identity::Auto => Ok(()),
                _ => Err(OpenError::XclientNotAnnounced),
            };
        };
        self.stream.queue(command.as_bytes());
        let reply = self.exchange(timeouts.command).await;
        let reply = reply.map_err(|cause| OpenError::Setup { step: Step::Xclient, cause })?;
        match reply.code() {
            // 530 and 538 want TLS of us; the others say that it can't read the command.
            500..=504 | 530 | 538 => return Err(OpenError::GateRefused { step: Step::Xclient, reply }),
            // Postfix: "550 5.7.0 Error: insufficient authorization". Other words of a 550 are for the client.
            REFUSED if speaks_of_xclient(&reply) => {
                return Err(OpenError::GateRefused { step: Step::Xclient, reply });
            }
            _ => self.sight = Sight::Client,
        }
        self.require_positive(Step::Xclient, reply)?;
        self.takes_login = announced.iter().any(|attribute| &**attribute == "LOGIN");
        self.hello(Step::EhloBehindXclient, introduction.hello.name.as_str(), timeouts).await
    }

    /// STARTTLS, if it is offered, and the handshake; everything announced before is forgotten, and what was sent
    /// before is thrown away. Says whether the connection is under TLS; a server that has no TLS for us may go on
    /// without.
    async fn start_tls(mut self, tls: &tls::Client, name: &str, limit: Duration) -> Result<(Self, bool), OpenError> {
        if !self.capabilities.starttls {
            return Ok((self, false));
        }
        let reply = self.command("STARTTLS", limit).await.map_err(|cause| unprotected(Step::StartTls, &cause))?;
        match reply.code() {
            220 => Ok((self.handshake(tls, name).await?, true)),
            400.. => Ok((self, false)),
            code => {
                let cause = ReplyError::Unexpected(code).to_string();
                Err(OpenError::Unprotected { step: Step::StartTls, cause, timed_out: false })
            }
        }
    }

    async fn handshake(self, tls: &tls::Client, name: &str) -> Result<Self, OpenError> {
        let failed = |cause: tls::HandshakeError| OpenError::Unprotected {
            step: Step::Handshake,
            cause: cause.to_string(),
            timed_out: matches!(cause, tls::HandshakeError::Timeout),
        };
        let (stream, _) = tls.connect(self.stream, name).await.map_err(failed)?;
        Ok(Self {
            stream,
            capabilities: Capabilities::default(),
            announced: false,
            sight: self.sight,
            takes_login: false,
            slot: self.slot,
            sent: None,
        })
    }

    fn require_positive(&self, step: Step, reply: Reply) -> Result<(), OpenError> {
        match self.sight {
            _ if reply.is_positive() => Ok(()),
            Sight::Client if reply.is_transient() || reply.is_permanent() => {
                Err(OpenError::ClientRefused(reply, self.announced()))
            }
            _ => Err(OpenError::GateRefused { step, reply }),
        }
    }

    /// What it has announced; none if it did not come to that.
    fn announced(&self) -> Option<Capabilities> {
        self.announced.then(|| self.capabilities.clone())
    }

    async fn exchange(&mut self, limit: Duration) -> Result<Reply, ExchangeError> {
        let exchange = async {
            self.stream.flush().await.map_err(ExchangeError::Lost)?;
            self.read().await
        };
        timeout(limit, exchange).await.unwrap_or(Err(ExchangeError::Timeout))
    }

    async fn read(&mut self) -> Result<Reply, ExchangeError> {
        self.stream.read_reply(&mut ReplyReader::default()).await.map_err(|error| match error {
            ReplyReadError::Reply(error) => ExchangeError::Nonsense(error),
            ReplyReadError::Read(ReadError::Io(error)) => ExchangeError::Lost(error),
            ReplyReadError::Read(ReadError::Closed) => ExchangeError::Lost(io::ErrorKind::UnexpectedEof.into()),
            ReplyReadError::Read(ReadError::TooLong) => ExchangeError::Nonsense(ReplyError::TooLong),
        })
    }
}

/// The spool gave back more or less than it took: our fault.
fn miscounted() -> DeliveryError {
    DeliveryError::Spool(io::Error::other("the octets of the message were miscounted"))
}

/// Whether a refusal is of the command itself, or of who may give it.
fn speaks_of_xclient(reply: &Reply) -> bool {
    let text = reply.summary().to_ascii_lowercase();
    ["authoriz", "xclient"].iter().any(|word| text.contains(word))
}

/// The gate as the client of its own connection. That is what LOCAL (version 2) and UNKNOWN (version 1) are for, but
/// Postfix 3.7 does not know the latter.
pub fn own_ends(socket: &TcpStream) -> io::Result<Client> {
    Ok(Client::new(socket.local_addr()?, socket.peer_addr()?))
}

impl Attempt<'_> {
    async fn open(&self, security: &Security) -> Result<Connection, OpenError> {
        let mut connection = self.connect(security).await?;
        let greeting = connection.exchange(self.settings.timeouts.greeting).await;
        let reply = greeting.map_err(|cause| OpenError::Setup { step: Step::Greeting, cause })?;
        connection.require_positive(Step::Greeting, reply)?;
        if connection.sight == Sight::Client && !connection.stream.buffered().is_empty() {
            let reply = connection.exchange(self.settings.timeouts.command).await;
            let reply = reply.map_err(|cause| OpenError::Setup { step: Step::Proxy, cause })?;
            return Err(connection.not_proxied(reply));
        }
        connection = match security.by_starttls() {
            Some(tls) => self.introduce_under_tls(connection, tls, security).await?,
            None => self.introduce(connection, Step::Ehlo).await?,
        };
        if matches!(self.settings.identity, Identity::Auto | Identity::Xclient) {
            connection.xclient(self.introduction, self.settings).await?;
        }
        Ok(connection)
    }

    /// Up to where the greeting is due.
    async fn connect(&self, security: &Security) -> Result<Connection, OpenError> {
        let Settings { identity, timeouts, .. } = self.settings;
        let socket = timeout(timeouts.connect, TcpStream::connect(self.server))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(OpenError::Unreachable)?;
        // Every write is a whole group: waiting for more (Nagle) would only add 40 ms.
        socket.set_nodelay(true).map_err(OpenError::Unreachable)?;
        let client = match &self.introduction.client {
            Some(client) => client.clone(),
            None => own_ends(&socket).map_err(OpenError::Unreachable)?,
        };
        let mut connection = Connection {
            stream: Stream::new(socket),
            capabilities: Capabilities::default(),
            announced: false,
            sight: Sight::Gate,
            takes_login: false,
            slot: None,
            sent: None,
        };
        if identity.is_proxy() {
            let header = if *identity == Identity::ProxyV1 { proxy_v1 } else { proxy_v2 };
            connection.stream.queue(&header(&client));
            connection.sight = Sight::Client;
        }
        let Security::Implicit(tls) = security else { return Ok(connection) };
        // The kernel takes so short a text from a new socket at once.
        let flushed = connection.stream.flush().await;
        flushed.map_err(|cause| OpenError::Setup { step: Step::Proxy, cause: ExchangeError::Lost(cause) })?;
        connection.handshake(tls, self.name).await
    }

    /// EHLO in the name of the one that the upstream sees. A refusal is the client's once PROXY has named it, ours
    /// before.
    async fn introduce(&self, mut connection: Connection, step: Step) -> Result<Connection, OpenError> {
        let name = match connection.sight {
            Sight::Client => self.introduction.hello.name.as_str(),
            Sight::Gate => &self.settings.hostname,
        };
        connection.hello(step, name, &self.settings.timeouts).await?;
        Ok(connection)
    }

    /// EHLO in our own name, STARTTLS, and EHLO again where that is still due: under TLS, and for a client that the
    /// upstream sees already.
    async fn introduce_under_tls(
        &self,
        mut connection: Connection,
        tls: &tls::Client,
        security: &Security,
    ) -> Result<Connection, OpenError> {
        // What the server says to our own name is not meant for the client.
        let sight = std::mem::replace(&mut connection.sight, Sight::Gate);
        connection = self.introduce(connection, Step::Ehlo).await?;
        let offered = connection.capabilities.starttls;
        let (mut connection, secured) = connection.start_tls(tls, self.name, self.settings.timeouts.command).await?;
        if !secured && matches!(security, Security::Required(_)) {
            let cause = if offered { "is refused" } else { "is not offered" };
            let (step, cause) = (Step::StartTls, cause.to_owned());
            return Err(OpenError::Unprotected { step, cause, timed_out: false });
        }
        connection.sight = sight;
        if !secured && sight == Sight::Gate {
            return Ok(connection);
        }
        self.introduce(connection, Step::EhloBehindStartTls).await.map_err(|error| match error {
            // With TLS 1.3 it shows only now that a server has ended the handshake, for example because it wants a
            // certificate of ours.
            OpenError::Setup { step, cause } if secured => unprotected(step, &cause),
            error => error,
        })
    }
}

/// No protection, since a command got no reply.
fn unprotected(step: Step, cause: &ExchangeError) -> OpenError {
    OpenError::Unprotected { step, cause: cause.to_string(), timed_out: matches!(cause, ExchangeError::Timeout) }
}

/// How Postfix refuses XCLIENT to whom it does not permit it, and many a rule a client.
pub const REFUSED: u16 = 550;
/// How long the rest of a reply that has begun before the end of data may take.
const EARLY_REPLY: Duration = Duration::from_secs(5);
/// Octets up to which a message leaves in one write.
const ONE_WRITE: usize = 64 * 1024;
/// How long a QUIT may take to be written.
const QUIT_WAIT: Duration = Duration::from_secs(1);
