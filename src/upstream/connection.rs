//! One connection to the upstream: opened, the client handed over, commands and a message sent.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::handover::{Identity, Introduction, proxy_v1, proxy_v2, xclient_commands};
use super::servers::Slot;
use super::{MessageParts, Timeouts};
use crate::smtp::extension::Capabilities;
use crate::smtp::reply::{Reply, ReplyError, ReplyReader};
use crate::smtp::stream::{ReadError, ReplyReadError, Stream};

/// An open connection on which the client was handed over and EHLO said.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    capabilities: Capabilities,
    sight: Sight,
    /// Given back when the connection is closed.
    slot: Option<Slot>,
}

/// Whether the upstream sees the real client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// By XCLIENT or PROXY.
    Client,
    /// It sees the gate alone.
    Gate,
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
        step: &'static str,
        /// What happened.
        cause: ExchangeError,
    },
    /// It refused the gate itself before it knew the client.
    #[error("{step} was refused: {reply}")]
    GateRefused {
        /// Where in the dialogue.
        step: &'static str,
        /// With these words.
        reply: Reply,
    },
    /// It refused the client, whom it knows: this is its answer to MAIL. With what it had announced by then.
    #[error("refuses the client: {0}")]
    ClientRefused(Reply, Capabilities),
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
    /// The reply is none.
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

impl Connection {
    /// Connects, hands the client over and says EHLO, in the order of the hand-over (PROXY before the greeting,
    /// XCLIENT behind our own EHLO).
    ///
    /// # Errors
    ///
    /// [`OpenError`] says whose fault it is.
    pub async fn open(
        server: SocketAddr,
        identity: Identity,
        introduction: &Introduction,
        hostname: &str,
        timeouts: &Timeouts,
    ) -> Result<Self, OpenError> {
        let socket = timeout(timeouts.connect, TcpStream::connect(server))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(OpenError::Unreachable)?;
        // Every write is a whole group: waiting for more (Nagle) would only add 40 ms.
        socket.set_nodelay(true).map_err(OpenError::Unreachable)?;
        let mut connection =
            Self { stream: Stream::new(socket), capabilities: Capabilities::default(), sight: Sight::Gate, slot: None };
        let proxied = match identity {
            Identity::ProxyV1 => Some(proxy_v1(&introduction.client)),
            Identity::ProxyV2 => Some(proxy_v2(&introduction.client)),
            _ => None,
        };
        if let Some(header) = proxied {
            connection.stream.queue(&header);
            connection.sight = Sight::Client;
        }
        connection.greet(introduction, hostname, timeouts).await?;
        if matches!(identity, Identity::Auto | Identity::Xclient) {
            connection.xclient(identity, introduction, timeouts).await?;
        }
        Ok(connection)
    }

    /// What the upstream announced last.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the upstream sees the real client.
    pub fn sight(&self) -> Sight {
        self.sight
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
        if !self.stream.buffered().is_empty() {
            return Err(ExchangeError::Nonsense(ReplyError::Unasked));
        }
        self.stream.queue(line.as_bytes());
        self.stream.queue(b"\r\n");
        self.exchange(limit).await
    }

    /// Sends the message behind a 354 and reads the final reply.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`] tells whether the upstream may have the message.
    pub async fn send(&mut self, message: MessageParts, timeouts: &Timeouts) -> Result<Reply, DeliveryError> {
        let MessageParts { mut head, mut body, end } = message;
        while let Some(piece) = body.next().await.map_err(DeliveryError::Spool)? {
            if head.len() + piece.len() <= ONE_WRITE {
                // A small message leaves in one write with its end.
                head.extend_from_slice(piece);
            } else {
                self.write(&head, timeouts).await?;
                head.clear();
                self.write(piece, timeouts).await?;
            }
        }
        // What an upstream says before the end of data, or has said behind its 354, is no answer to it: taken for one, it
        // would be a 250 to a message that nobody has.
        if !self.stream.is_quiet() {
            return Err(match self.exchange(EARLY_REPLY).await {
                Ok(reply) if reply.is_transient() || reply.is_permanent() => DeliveryError::Refused(reply),
                Ok(_) => DeliveryError::BeforeEnd(ExchangeError::Nonsense(ReplyError::Unasked)),
                Err(error) => DeliveryError::BeforeEnd(error),
            });
        }
        head.extend_from_slice(end);
        self.write(&head, timeouts).await?;
        // From here on the upstream may have the message, whatever becomes of the connection.
        self.exchange(timeouts.final_reply).await.map_err(DeliveryError::AfterEnd)
    }

    /// Says QUIT and goes, without waiting for the reply.
    pub async fn quit(mut self) {
        self.stream.queue(b"QUIT\r\n");
        // A peer that takes nothing any more must not hold the session up.
        let _ = timeout(QUIT_WAIT, self.stream.flush()).await;
        self.stream.shutdown().await;
    }

    async fn write(&mut self, octets: &[u8], timeouts: &Timeouts) -> Result<(), DeliveryError> {
        let lost = match timeout(timeouts.block, self.stream.write_all(octets)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => ExchangeError::Lost(error),
            Err(_) => ExchangeError::Timeout,
        };
        Err(DeliveryError::BeforeEnd(lost))
    }

    /// Greeting and EHLO. A refusal is the client's once PROXY has named it, ours before.
    async fn greet(
        &mut self,
        introduction: &Introduction,
        hostname: &str,
        timeouts: &Timeouts,
    ) -> Result<(), OpenError> {
        let greeting = self.exchange(timeouts.greeting).await;
        let reply = greeting.map_err(|cause| OpenError::Setup { step: "greeting", cause })?;
        self.require_positive("greeting", reply)?;
        if self.sight == Sight::Client && !self.stream.buffered().is_empty() {
            let reply = self.exchange(timeouts.command).await;
            let reply = reply.map_err(|cause| OpenError::Setup { step: PROXY, cause })?;
            return Err(self.not_proxied(reply));
        }
        let name = match self.sight {
            Sight::Client => introduction.hello.name.as_str(),
            Sight::Gate => hostname,
        };
        self.hello("EHLO", name, timeouts).await
    }

    /// EHLO, and HELO where that is not known.
    async fn hello(&mut self, step: &'static str, name: &str, timeouts: &Timeouts) -> Result<(), OpenError> {
        let setup = |cause| OpenError::Setup { step, cause };
        let mut reply = self.command(&format!("EHLO {name}"), timeouts.command).await.map_err(setup)?;
        if matches!(reply.code(), 500 | 502 | 504) {
            if step == "EHLO" && self.sight == Sight::Client {
                return Err(self.not_proxied(reply));
            }
            reply = self.command(&format!("HELO {name}"), timeouts.command).await.map_err(setup)?;
            self.require_positive(step, reply)?;
            self.capabilities = Capabilities::default();
            return Ok(());
        }
        let found = Capabilities::read(&reply);
        self.require_positive(step, reply)?;
        self.capabilities = found;
        Ok(())
    }

    /// What `reply` means that comes in the place of one to EHLO: whoever speaks PROXY speaks EHLO, so it answers the
    /// header, and the client was not handed over.
    fn not_proxied(&mut self, reply: Reply) -> OpenError {
        self.sight = Sight::Gate;
        OpenError::GateRefused { step: PROXY, reply }
    }

    async fn xclient(
        &mut self,
        identity: Identity,
        introduction: &Introduction,
        timeouts: &Timeouts,
    ) -> Result<(), OpenError> {
        const STEP: &str = "XCLIENT";
        let announced = self.capabilities.xclient.take().unwrap_or_default();
        let commands = xclient_commands(introduction, &announced);
        // Without ADDR the upstream would go on to take the gate for the client.
        if commands.is_empty() || !announced.iter().any(|a| &**a == "ADDR") {
            return match identity {
                Identity::Auto => Ok(()),
                _ => Err(OpenError::GateRefused {
                    step: STEP,
                    reply: Reply::new(502, "5.5.1", "the upstream does not announce XCLIENT ADDR to this gate"),
                }),
            };
        }
        for command in &commands {
            self.stream.queue(command.as_bytes());
            let reply = self.exchange(timeouts.command).await;
            let reply = reply.map_err(|cause| OpenError::Setup { step: STEP, cause })?;
            match reply.code() {
                // 550 is Postfix's 'insufficient authorization'; the others say that it can't read the command.
                500..=504 | 550 => return Err(OpenError::GateRefused { step: STEP, reply }),
                _ => self.sight = Sight::Client,
            }
            self.require_positive(STEP, reply)?;
        }
        self.hello("EHLO behind XCLIENT", introduction.hello.name.as_str(), timeouts).await
    }

    fn require_positive(&self, step: &'static str, reply: Reply) -> Result<(), OpenError> {
        match self.sight {
            _ if reply.is_positive() => Ok(()),
            Sight::Client if reply.is_transient() || reply.is_permanent() => {
                Err(OpenError::ClientRefused(reply, self.capabilities.clone()))
            }
            _ => Err(OpenError::GateRefused { step, reply }),
        }
    }

    async fn exchange(&mut self, limit: Duration) -> Result<Reply, ExchangeError> {
        let mut reader = ReplyReader::default();
        let exchange = async {
            self.stream.flush().await.map_err(ExchangeError::Lost)?;
            self.stream.read_reply(&mut reader).await.map_err(|error| match error {
                ReplyReadError::Reply(error) => ExchangeError::Nonsense(error),
                ReplyReadError::Read(ReadError::Io(error)) => ExchangeError::Lost(error),
                ReplyReadError::Read(ReadError::Closed) => ExchangeError::Lost(io::ErrorKind::UnexpectedEof.into()),
                ReplyReadError::Read(ReadError::TooLong) => ExchangeError::Nonsense(ReplyError::TooLong),
            })
        };
        timeout(limit, exchange).await.unwrap_or(Err(ExchangeError::Timeout))
    }
}

/// The step of a hand-over by PROXY.
const PROXY: &str = "the PROXY header";
/// How long the rest of a reply that has begun before the end of data may take.
const EARLY_REPLY: Duration = Duration::from_secs(5);
/// Octets up to which a message leaves in one write.
const ONE_WRITE: usize = 64 * 1024;
/// How long a QUIT may take to be written.
const QUIT_WAIT: Duration = Duration::from_secs(1);
