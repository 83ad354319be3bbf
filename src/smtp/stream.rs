//! Buffered line I/O over a connection: bounded lines in, whole reply groups out.
//!
//! Deadlines are the caller's: every read can be cancelled and taken up again without losing an octet. A connection
//! that waits with nothing buffered holds no buffer. TLS takes a new stream ([`Stream::over`]), and what was read
//! before is lost with the old one: nothing that came in the clear is believed afterwards.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio::time::timeout;

use super::reply::{Reply, ReplyError, ReplyReader};

/// A connection with its input and output buffers.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    input: Vec<u8>,
    /// Where the unread part of `input` begins.
    at: usize,
    /// How far the unread part has been searched for a line end.
    searched: usize,
    output: Vec<u8>,
    /// How much of `output` has left.
    written: usize,
    /// Inside a line that was too long: everything up to its end is dropped.
    dropping: bool,
}

/// What carries the octets under TLS.
pub trait Secured: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Secured for T {}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Secured(Box<dyn Secured>),
    /// Taken for a handshake: reads as closed, and takes no writes.
    Gone,
}

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The line is longer than the limit; it was dropped whole and the next one can be read.
    #[error("line too long")]
    TooLong,
    /// The peer closed the connection.
    #[error("connection closed by the peer")]
    Closed,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a reply could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplyReadError {
    /// No line came.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What came is no reply.
    #[error(transparent)]
    Reply(#[from] ReplyError),
}

impl Stream {
    /// Wraps a connected socket.
    pub fn new(socket: TcpStream) -> Self {
        Self::with(Transport::Plain(socket))
    }

    /// Wraps a connection under TLS.
    pub fn over(secured: Box<dyn Secured>) -> Self {
        Self::with(Transport::Secured(secured))
    }

    /// The connection as it is, for a handshake that yields another one; what stays here reads as closed.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::with(Transport::Gone))
    }

    /// The plain socket, for a handshake on it; what was read and not consumed is thrown away, what is queued not sent.
    /// None under TLS already.
    pub fn into_socket(self) -> Option<TcpStream> {
        match self.transport {
            Transport::Plain(socket) => Some(socket),
            Transport::Secured(_) | Transport::Gone => None,
        }
    }

    /// The plain socket and what was read from it and not consumed, for a handshake that has begun with these octets.
    /// None under TLS already.
    pub fn into_parts(mut self) -> Option<(TcpStream, Vec<u8>)> {
        self.input.drain(..self.at);
        match self.transport {
            Transport::Plain(socket) => Some((socket, self.input)),
            Transport::Secured(_) | Transport::Gone => None,
        }
    }

    fn with(transport: Transport) -> Self {
        Self { transport, input: Vec::new(), at: 0, searched: 0, output: Vec::new(), written: 0, dropping: false }
    }

    /// Whether TLS protects the connection.
    pub fn is_secured(&self) -> bool {
        matches!(self.transport, Transport::Secured(_))
    }

    /// Reads a line of at most `limit` octets and gives it without its line end, which is CRLF or LF alone.
    ///
    /// # Errors
    ///
    /// The peer's fault or the network's. After [`ReadError::TooLong`] reading may go on.
    pub async fn read_line(&mut self, limit: usize) -> Result<&[u8], ReadError> {
        let end = loop {
            if let Some(length) = self.line_length() {
                let end = self.at + length;
                let start = std::mem::replace(&mut self.at, end);
                self.searched = 0;
                if std::mem::take(&mut self.dropping) || length > limit {
                    return Err(ReadError::TooLong);
                }
                break (start, end);
            }
            if self.buffered().len() > limit {
                self.dropping = true;
                self.consume(self.buffered().len());
            }
            if self.fill().await? == 0 {
                return Err(ReadError::Closed);
            }
        };
        let line = self.input.get(end.0..end.1).unwrap_or_default();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// Reads one reply, all its lines.
    ///
    /// # Errors
    ///
    /// The server's fault or the network's; the connection is of no more use.
    pub async fn read_reply(&mut self, reader: &mut ReplyReader) -> Result<Reply, ReplyReadError> {
        loop {
            let line = self.read_line(MAX_REPLY_LINE).await?;
            if let Some(reply) = reader.line(line)? {
                return Ok(reply);
            }
        }
    }

    /// Whether a whole line is waiting: the peer sends a group of commands (RFC 2920 §3.1).
    pub fn has_line(&mut self) -> bool {
        self.line_length().is_some()
    }

    /// The whole lines that are waiting, without their line ends.
    pub fn waiting_lines(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.buffered().split_inclusive(|b| *b == b'\n');
        lines.filter_map(|line| line.strip_suffix(b"\n")).map(|line| line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// What was read and not yet consumed.
    pub fn buffered(&self) -> &[u8] {
        self.input.get(self.at..).unwrap_or_default()
    }

    /// Drops the first `count` buffered octets.
    pub fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.input.len());
        self.searched = 0;
    }

    /// Reads what is there, at least one octet, and gives their number; 0 when the peer has closed.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub async fn fill(&mut self) -> io::Result<usize> {
        if self.at == self.input.len() {
            self.input.clear();
        } else if self.at > 0 {
            self.input.drain(..self.at);
        }
        self.at = 0;
        // Octets land on the stack first: whoever waits here holds no buffer.
        let Self { transport, input, .. } = self;
        poll_fn(|context| {
            let mut scratch = [MaybeUninit::uninit(); BUFFER];
            let mut scratch = ReadBuf::uninit(&mut scratch);
            ready!(transport.poll_read(context, &mut scratch))?;
            input.extend_from_slice(scratch.filled());
            Poll::Ready(Ok(scratch.filled().len()))
        })
        .await
    }

    /// Like [`Stream::fill`] with room for a large piece: for the content of messages. Here too, whoever waits with
    /// nothing buffered holds no buffer.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub async fn fill_large(&mut self) -> io::Result<usize> {
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
        }
        let Self { transport, input, .. } = self;
        poll_fn(|context| {
            let mut scratch = [MaybeUninit::uninit(); LARGE_BUFFER];
            let mut scratch = ReadBuf::uninit(&mut scratch);
            match transport.poll_read(context, &mut scratch) {
                Poll::Ready(read) => {
                    input.extend_from_slice(scratch.filled());
                    Poll::Ready(read.map(|()| scratch.filled().len()))
                }
                Poll::Pending => {
                    // A fast client keeps its buffer; one that keeps us waiting gives it back.
                    if input.is_empty() {
                        *input = Vec::new();
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Gives the input buffer back if nothing is in it: called before a wait that may be long.
    pub fn release(&mut self) {
        if self.at == self.input.len() {
            self.input = Vec::new();
            self.at = 0;
            self.searched = 0;
        }
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// Puts octets into the output buffer.
    pub fn queue(&mut self, octets: &[u8]) {
        self.output.extend_from_slice(octets);
    }

    /// Octets that wait to be flushed.
    pub fn queued(&self) -> usize {
        self.output.len().saturating_sub(self.written)
    }

    /// Writes out what was queued, in one go where the network allows. It can be cancelled and taken up again: nothing
    /// leaves twice.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.write_queued().await?;
        self.transport.flush().await
    }

    /// Writes `octets` at once, behind what was queued.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub async fn write_all(&mut self, octets: &[u8]) -> io::Result<()> {
        self.write_queued().await?;
        self.transport.write_all(octets).await?;
        self.transport.flush().await
    }

    /// Whether the peer has said nothing and not closed since the last exchange.
    pub fn is_quiet(&mut self) -> bool {
        if !self.buffered().is_empty() {
            return false;
        }
        let mut scratch = [MaybeUninit::uninit(); BUFFER];
        let mut scratch = ReadBuf::uninit(&mut scratch);
        // This look wakes nobody: whoever waits for input asks again. Without `unconstrained`, a task that has used up
        // its turn would be told that there is nothing.
        let look = pin!(unconstrained(poll_fn(|context| self.transport.poll_read(context, &mut scratch))));
        let is_quiet = look.poll(&mut Context::from_waker(Waker::noop())).is_pending();
        self.input.extend_from_slice(scratch.filled());
        is_quiet
    }

    /// Ends the output direction, so that the peer reads the last reply before the end.
    pub async fn shutdown(&mut self) {
        // Nothing is left to be done if the peer has gone first. Under TLS this writes, and a peer that takes nothing
        // must not hold us up.
        let _ = timeout(SHUTDOWN_WAIT, self.transport.shutdown()).await;
    }

    /// Reads and drops what the peer still sends until it closes, at most for `limit`. A socket that is closed with
    /// unread octets is reset by the kernel, and the reset may overtake our last reply.
    pub async fn linger(&mut self, limit: Duration) {
        let mut scrap = [0u8; 256];
        // However it ends, the connection is over.
        let _ = timeout(limit, async { while matches!(self.transport.read(&mut scrap).await, Ok(1..)) {} }).await;
    }

    async fn write_queued(&mut self) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.transport.write(rest).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                octets => self.written += octets,
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    fn line_length(&mut self) -> Option<usize> {
        let rest = self.input.get(self.at + self.searched..)?;
        match memchr::memchr(b'\n', rest) {
            Some(found) => Some(self.searched + found + 1),
            None => {
                self.searched += rest.len();
                None
            }
        }
    }
}

impl Transport {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Secured(secured) => Pin::new(secured).poll_read(context, buffer),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, octets),
            Self::Secured(secured) => Pin::new(secured).poll_write(context, octets),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Secured(secured) => Pin::new(secured).poll_flush(context),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Secured(secured) => Pin::new(secured).poll_shutdown(context),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

/// How long the end of the output direction may take to be written.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(1);
/// Octets read at once while lines are exchanged.
const BUFFER: usize = 4 * 1024;
/// Octets read at once while a message comes.
const LARGE_BUFFER: usize = 64 * 1024;
/// Octets of a reply line of the upstream; RFC 5321 §4.5.3.1.5 has 512, some servers go beyond.
const MAX_REPLY_LINE: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Stream::new(listener.accept().await.unwrap().0), peer)
    }

    #[tokio::test]
    async fn lines_of_a_group_are_read_one_by_one() {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(b"one\r\ntwo\nthr").await.unwrap();
        assert_eq!(stream.read_line(10).await.unwrap(), b"one");
        assert!(stream.has_line());
        assert_eq!(stream.read_line(10).await.unwrap(), b"two");
        assert!(!stream.has_line());
        peer.write_all(b"ee\r\n").await.unwrap();
        assert_eq!(stream.read_line(10).await.unwrap(), b"three");
        stream.release();
        assert!(stream.is_quiet());
        drop(peer);
        assert!(matches!(stream.read_line(10).await, Err(ReadError::Closed)));
    }

    #[tokio::test]
    async fn a_line_beyond_the_limit_is_dropped_whole() {
        let (mut stream, mut peer) = pair().await;
        let writer = tokio::spawn(async move {
            peer.write_all(&[b'x'; 300_000]).await.unwrap();
            peer.write_all(b"\r\nnext\r\n").await.unwrap();
            peer
        });
        assert!(matches!(stream.read_line(100).await, Err(ReadError::TooLong)));
        assert_eq!(stream.read_line(100).await.unwrap(), b"next");
        drop(writer.await.unwrap());
    }

    #[tokio::test]
    async fn who_is_waited_for_holds_no_buffer() {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(&[b'x'; 30_000]).await.unwrap();
        let mut taken = 0;
        while taken < 30_000 {
            taken += stream.fill_large().await.unwrap();
        }
        assert_eq!(stream.buffered().len(), 30_000);
        assert!(timeout(Duration::from_millis(1), stream.fill_large()).await.is_err());
        assert_eq!(stream.buffered().len(), 30_000, "what is not taken yet stays");
        stream.consume(30_000);
        assert!(timeout(Duration::from_millis(1), stream.fill_large()).await.is_err());
        assert_eq!(stream.input.capacity(), 0);
        peer.write_all(b"y").await.unwrap();
        assert_eq!(stream.fill_large().await.unwrap(), 1);
        assert_eq!(stream.buffered(), b"y");
    }

    #[tokio::test]
    async fn a_task_that_has_used_up_its_turn_is_not_told_that_the_peer_is_quiet() {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(b"421 bye\r\n").await.unwrap();
        // So that the octets are known to be there, and not taken.
        let Transport::Plain(socket) = &stream.transport else { unreachable!("it is plain") };
        socket.readable().await.unwrap();
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        assert!(!stream.is_quiet());
    }

    #[tokio::test]
    async fn what_was_queued_leaves_in_order() {
        let (mut stream, mut peer) = pair().await;
        stream.queue(b"a");
        stream.queue(b"b");
        stream.write_all(b"c").await.unwrap();
        stream.shutdown().await;
        let mut got = Vec::new();
        peer.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"abc");
    }

    #[tokio::test]
    async fn a_flush_that_is_cut_off_goes_on_where_it_was() {
        let (ours, mut peer) = tokio::io::duplex(10);
        let mut stream = Stream::over(Box::new(ours));
        stream.queue(b"250 one\r\n250 two\r\n");
        assert!(timeout(Duration::from_millis(1), stream.flush()).await.is_err(), "there is room for ten octets alone");
        assert_eq!(stream.queued(), 8);
        stream.queue(b"250 three\r\n");
        let mut got = [0; 29];
        let (flushed, read) = tokio::join!(stream.flush(), peer.read_exact(&mut got));
        flushed.unwrap();
        read.unwrap();
        assert_eq!(got.escape_ascii().to_string(), "250 one\\r\\n250 two\\r\\n250 three\\r\\n");
        assert_eq!(stream.queued(), 0);
        drop(stream);
        assert_eq!(peer.read_to_end(&mut Vec::new()).await.unwrap(), 0, "nothing more");
    }
}
