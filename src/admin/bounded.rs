//! Connections that end by themselves: bounded in number, time and octets.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{self, Sleep};
use tracing::warn;

/// A listener that accepts no more connections than it has places for; the rest waits in the kernel.
pub struct BoundedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// A connection with a deadline for all of it and a bound on what is read.
pub struct Bounded {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    may_read: usize,
    _place: OwnedSemaphorePermit,
}

impl BoundedListener {
    /// Wraps a bound listener.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }
}

impl Listener for BoundedListener {
    type Io = Bounded;
    type Addr = SocketAddr;

    #[expect(clippy::expect_used, reason = "the semaphore is never closed, so that a place always comes")]
    async fn accept(&mut self) -> (Bounded, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is open");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let deadline = Box::pin(time::sleep(DEADLINE));
                    return (Bounded { stream, deadline, may_read: MAX_REQUEST, _place: place }, address);
                }
                // Mostly no file descriptors left: that passes.
                Err(error) => {
                    warn!(%error, "the admin listener can't accept");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Bounded {
    /// Our own address of the connection.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    fn check_deadline(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.deadline.as_mut().poll(context).is_ready() {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_deadline(context)?;
        if self.may_read == 0 {
            return Poll::Ready(Err(ErrorKind::InvalidData.into()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        self.may_read = self.may_read.saturating_sub(read);
        result
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.check_deadline(context)?;
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Connections at a time: a few scrapers and probes.
const MAX_CONNECTIONS: usize = 32;
/// Time for a request and its reply; a scrape takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);
/// Octets of a request, roughly: one read may go beyond it. Ours have some hundred.
const MAX_REQUEST: usize = 16 * 1024;
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_ends_at_its_bounds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = BoundedListener::new(listener);
        let address = listener.local_addr().unwrap();

        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await;
        client.write_all(&vec![b'x'; 2 * MAX_REQUEST]).await.unwrap();
        let mut octets = Vec::new();
        assert_eq!(server.read_to_end(&mut octets).await.unwrap_err().kind(), ErrorKind::InvalidData);

        let _silent = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await;
        server.deadline = Box::pin(time::sleep(Duration::from_millis(20)));
        assert_eq!(server.read_to_end(&mut octets).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn beyond_the_places_a_connection_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = BoundedListener::new(listener);
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let client = TcpStream::connect(address).await.unwrap();
            held.push((client, listener.accept().await));
        }
        let _waiting = TcpStream::connect(address).await.unwrap();
        assert!(time::timeout(Duration::from_millis(50), listener.accept()).await.is_err());
        held.pop();
        assert!(time::timeout(Duration::from_secs(5), listener.accept()).await.is_ok());
    }
}
