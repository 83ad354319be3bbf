//! The client before the gate: sends what a test says, octet by octet if need be, and reads replies whole.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::certificates::{Handshake, Negotiated};
use super::proxy::{ProxyHeader, ProxyVersion};
use super::signer::base64;

/// A connection to the gate. A wait in vain or a closed connection panics with the transcript, except where a method
/// says otherwise.
pub struct Client {
    stream: Box<dyn Transport>,
    tls: Option<Negotiated>,
    buffer: Vec<u8>,
    transcript: Vec<String>,
}

/// What carries the octets: a socket, or TLS over it.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// One reply, all its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The code of its last line.
    pub code: u16,
    /// What follows code and separator in each line.
    pub lines: Vec<String>,
    /// The octets as they came.
    pub raw: Vec<u8>,
}

/// The replies to one transaction.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// To MAIL.
    pub mail: Reply,
    /// To each RCPT.
    pub recipients: Vec<Reply>,
    /// To DATA; `None` where MAIL failed.
    pub data: Option<Reply>,
    /// To the content; `None` where it was not sent.
    pub end: Option<Reply>,
}

impl Client {
    /// Connects and sends nothing.
    pub async fn connect(gate: SocketAddr) -> Self {
        let stream = TcpStream::connect(gate).await.unwrap_or_else(|e| panic!("no connection to {gate}: {e}"));
        Self::over(stream)
    }

    /// Connects from an address of the loopback network (`127.0.0.0/8`).
    pub async fn connect_from(gate: SocketAddr, source: IpAddr) -> Self {
        let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("a socket");
        socket.bind(SocketAddr::new(source, 0)).unwrap_or_else(|e| panic!("{source} is no address of ours: {e}"));
        let stream = socket.connect(gate).await.unwrap_or_else(|e| panic!("no connection to {gate}: {e}"));
        Self::over(stream)
    }

    /// Connects with as small a receive buffer as there can be: what is not read soon finds no room.
    pub async fn connect_narrowly(gate: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(1).expect("the kernel takes its least");
        let stream = socket.connect(gate).await.unwrap_or_else(|e| panic!("no connection to {gate}: {e}"));
        Self::over(stream)
    }

    /// Connects so that the connection is reset when it is dropped.
    pub async fn connect_abruptly(gate: SocketAddr) -> Self {
        let stream = TcpStream::connect(gate).await.unwrap_or_else(|e| panic!("no connection to {gate}: {e}"));
        stream.set_zero_linger().expect("a socket option");
        Self::over(stream)
    }

    /// Connects and sends a PROXY header.
    pub async fn connect_through(gate: SocketAddr, header: ProxyHeader) -> Self {
        let mut client = Self::connect(gate).await;
        client.send(&header.encode()).await;
        client
    }

    /// Connects with implicit TLS, believing any certificate.
    pub async fn connect_tls(gate: SocketAddr) -> Self {
        let mut client = Self::connect(gate).await;
        client.handshake(&Handshake::default()).await;
        client
    }

    /// STARTTLS and the handshake, believing any certificate. EHLO has to be said again by the test.
    pub async fn start_tls(&mut self) {
        self.start_tls_with(&Handshake::default()).await;
    }

    /// As [`Client::start_tls`], with a handshake of the test's choice.
    pub async fn start_tls_with(&mut self, handshake: &Handshake) {
        self.command("STARTTLS").await.assert(220);
        self.handshake(handshake).await;
    }

    /// The handshake alone; one that fails is a failure.
    pub async fn handshake(&mut self, handshake: &Handshake) {
        if let Err(error) = self.try_handshake(handshake).await {
            self.fail(&format!("no TLS: {error}"));
        }
    }

    /// The handshake alone; after one that fails the connection is of no more use.
    pub async fn try_handshake(&mut self, handshake: &Handshake) -> std::io::Result<()> {
        assert!(self.buffer.is_empty(), "octets before the handshake\n{}", self.transcript());
        let (config, name) = handshake.client();
        let socket = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let connecting = TlsConnector::from(config).connect(name, socket);
        let Ok(secured) = tokio::time::timeout(super::PATIENCE, connecting).await else {
            self.fail("the gate does not shake hands");
        };
        let secured = secured?;
        let negotiated = Negotiated::of(secured.get_ref().1, None);
        self.transcript.push(format!("-- {} {}", negotiated.version, negotiated.cipher));
        self.tls = Some(negotiated);
        self.stream = Box::new(secured);
        Ok(())
    }

    /// What the handshake came to; without one there is nothing to ask for.
    #[track_caller]
    pub fn negotiated(&self) -> &Negotiated {
        self.tls.as_ref().unwrap_or_else(|| panic!("no TLS\n{}", self.transcript()))
    }

    /// A client at `address`: connects with a PROXY v2 header, reads the greeting, and says EHLO in the name `name`.
    pub async fn introduced(gate: SocketAddr, address: &str, name: &str) -> Self {
        let address = address.parse().expect("an address");
        let mut client = Self::connect_through(gate, ProxyHeader::naming(ProxyVersion::V2, address)).await;
        client.expect(220).await;
        client.command(&format!("EHLO {name}")).await.assert(250);
        client
    }

    /// Sends octets as they are.
    pub async fn send(&mut self, octets: &[u8]) {
        let shown = octets.get(..200).unwrap_or(octets).escape_ascii();
        self.transcript.push(format!("C: {shown} [{} octets]", octets.len()));
        if let Err(e) = self.write(octets).await {
            self.fail(&format!("the gate does not read: {e}"));
        }
    }

    /// Sends octets; a gate that has closed is no failure. For input that it may refuse half-way.
    pub async fn try_send(&mut self, octets: &[u8]) -> bool {
        self.write(octets).await.is_ok()
    }

    /// Sends a line and reads its reply.
    pub async fn command(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes()).await;
        self.read_reply().await
    }

    /// Sends lines in one go and reads a reply to each (RFC 2920).
    pub async fn pipeline(&mut self, lines: &[&str]) -> Vec<Reply> {
        let octets: String = lines.iter().flat_map(|line| [*line, "\r\n"]).collect();
        self.send(octets.as_bytes()).await;
        let mut replies = Vec::with_capacity(lines.len());
        for _ in lines {
            replies.push(self.read_reply().await);
        }
        replies
    }

    /// Sends content with dots stuffed and end-of-data, and reads the reply. Content without a last CRLF gets one.
    pub async fn content(&mut self, content: &[u8]) -> Reply {
        self.send(&encode(content)).await;
        self.read_reply().await
    }

    /// Sends one BDAT chunk with its command in one go and reads the reply.
    pub async fn chunk(&mut self, octets: &[u8], place: Chunk) -> Reply {
        self.send(&bdat(octets, place)).await;
        self.read_reply().await
    }

    /// AUTH PLAIN with an initial response, and its reply.
    pub async fn auth_plain(&mut self, name: &str, password: &str) -> Reply {
        self.command(&format!("AUTH PLAIN {}", plain(name, password))).await
    }

    /// AUTH LOGIN to its end, or to the first reply that is no challenge.
    pub async fn auth_login(&mut self, name: &str, password: &str) -> Reply {
        let mut reply = self.command("AUTH LOGIN").await;
        for response in [name, password] {
            if reply.code != 334 {
                break;
            }
            reply = self.command(&base64(response.as_bytes())).await;
        }
        reply
    }

    /// One transaction, command by command. DATA is sent if any recipient was accepted; the content after a 354.
    pub async fn deliver(&mut self, from: &str, recipients: &[&str], content: &[u8]) -> Delivery {
        let mail = self.command(&format!("MAIL FROM:<{from}>")).await;
        let mut delivery = Delivery { mail, recipients: Vec::new(), data: None, end: None };
        if delivery.mail.code != 250 {
            return delivery;
        }
        for recipient in recipients {
            delivery.recipients.push(self.command(&format!("RCPT TO:<{recipient}>")).await);
        }
        if !delivery.recipients.iter().any(|r| r.code / 100 == 2) {
            return delivery;
        }
        let data = self.command("DATA").await;
        if data.code == 354 {
            delivery.end = Some(self.content(content).await);
        }
        delivery.data = Some(data);
        delivery
    }

    /// Reads a reply.
    pub async fn read_reply(&mut self) -> Reply {
        match self.try_read_reply().await {
            Some(reply) => reply,
            None => self.fail("the gate closed instead of replying"),
        }
    }

    /// Reads a reply; `None` where the gate closed instead.
    pub async fn try_read_reply(&mut self) -> Option<Reply> {
        let mut reply = Reply { code: 0, lines: Vec::new(), raw: Vec::new() };
        loop {
            let line = self.read_line().await?;
            reply.raw.extend(&line);
            let Some(text) = line.strip_suffix(b"\r\n") else { self.fail("a reply line ends in a bare LF") };
            let text = String::from_utf8_lossy(text).into_owned();
            let (code, rest) = text.split_at_checked(3).unwrap_or((&text, ""));
            let Ok(code) = code.parse() else { self.fail(&format!("{text:?} is no reply line")) };
            if reply.code != 0 && reply.code != code {
                self.fail(&format!("the code changes from {} to {code} inside a reply", reply.code));
            }
            reply.code = code;
            reply.lines.push(rest.get(1..).unwrap_or_default().to_owned());
            match rest.bytes().next() {
                Some(b'-') => {}
                Some(b' ') | None => return Some(reply),
                Some(_) => self.fail(&format!("{text:?} is no reply line")),
            }
        }
    }

    /// Reads a reply and holds it to a code.
    pub async fn expect(&mut self, code: u16) -> Reply {
        let reply = self.read_reply().await;
        if reply.code != code {
            self.fail(&format!("{code} was due, {reply} came"));
        }
        reply
    }

    /// What one read of the socket gives, which is one write of the gate where that is short.
    pub async fn read_once(&mut self) -> Vec<u8> {
        assert!(self.buffer.is_empty(), "unread replies\n{}", self.transcript());
        self.buffer.reserve(64 * 1024);
        match tokio::time::timeout(super::PATIENCE, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(1..)) => std::mem::take(&mut self.buffer),
            _ => self.fail("the gate says nothing"),
        }
    }

    /// Whether the gate has said nothing that was not read.
    pub fn is_silent(&mut self) -> bool {
        let mut scratch = [0; 1024];
        let mut scratch = ReadBuf::new(&mut scratch);
        let read = Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut scratch);
        self.buffer.extend_from_slice(scratch.filled());
        self.buffer.is_empty() && matches!(read, Poll::Pending)
    }

    /// Ends the client's side, as one that has nothing more to say.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap_or_else(|e| self.fail(&format!("the gate has gone: {e}")));
    }

    /// As [`Client::finish`], for one that the gate may have left already.
    pub async fn end(&mut self) {
        // Nothing is left to be ended then.
        _ = self.stream.shutdown().await;
    }

    /// Waits until the gate closes; anything that it still says is a failure.
    pub async fn expect_close(&mut self) {
        if let Some(line) = self.read_line().await {
            self.fail(&format!("the gate was to close and said {:?}", line.escape_ascii().to_string()));
        }
    }

    /// Everything said so far, for a failing test to show.
    pub fn transcript(&self) -> String {
        self.transcript.join("\n")
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket option");
        Self { stream: Box::new(stream), tls: None, buffer: Vec::new(), transcript: Vec::new() }
    }

    async fn write(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(octets).await?;
        // What is written under TLS may wait for more.
        self.stream.flush().await
    }

    /// A line with its end, or `None` at the end of the stream. A reset counts as an end.
    async fn read_line(&mut self) -> Option<Vec<u8>> {
        let end = loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                break end;
            }
            match tokio::time::timeout(super::PATIENCE, self.stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(1..)) => {}
                Ok(_) if self.buffer.is_empty() => return None,
                Ok(_) => self.fail("the gate closed inside a line"),
                Err(_) => self.fail("the gate says nothing"),
            }
        };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        self.transcript.push(format!("S: {}", line.escape_ascii()));
        Some(line)
    }

    #[track_caller]
    fn fail(&self, why: &str) -> ! {
        panic!("{why}\n{}", self.transcript())
    }
}

impl Reply {
    /// All lines, joined by line feeds.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Whether the text holds `part`.
    pub fn says(&self, part: &str) -> bool {
        self.text().contains(part)
    }

    /// Panics unless the code is `code`.
    #[track_caller]
    pub fn assert(&self, code: u16) -> &Self {
        assert_eq!(self.code, code, "{self}");
        self
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.raw).trim_end())
    }
}

impl Delivery {
    /// The last reply: what became of the message.
    pub fn outcome(&self) -> &Reply {
        let refused = || self.recipients.last().unwrap_or(&self.mail);
        self.end.as_ref().or(self.data.as_ref()).unwrap_or_else(refused)
    }
}

/// Whether a chunk ends its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    Inner,
    Last,
}

/// BDAT and its octets (RFC 3030).
pub fn bdat(octets: &[u8], place: Chunk) -> Vec<u8> {
    let last = if place == Chunk::Last { " LAST" } else { "" };
    [format!("BDAT {}{last}\r\n", octets.len()).as_bytes(), octets].concat()
}

/// The response of AUTH PLAIN.
pub fn plain(name: &str, password: &str) -> String {
    base64(format!("\0{name}\0{password}").as_bytes())
}

/// Content as it goes over the wire: dots stuffed, a last CRLF if it lacks one, end-of-data.
pub fn encode(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 5);
    let mut rest = content;
    while !rest.is_empty() {
        let length = memchr::memmem::find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
        let (line, next) = rest.split_at(length);
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend(line);
        rest = next;
    }
    if !wire.is_empty() && !wire.ends_with(b"\r\n") {
        wire.extend(b"\r\n");
    }
    wire.extend(b".\r\n");
    wire
}
