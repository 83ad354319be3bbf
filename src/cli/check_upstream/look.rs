//! What a server says to the gate before anything is asked of it: its addresses, greeting and EHLO list, as they come.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::smtp::reply::{Reply, ReplyReader};
use crate::smtp::stream::Stream;
use crate::upstream::Settings;
use crate::upstream::connection::own_ends;
use crate::upstream::handover::{Identity, proxy_v1, proxy_v2};
use crate::upstream::security::Security;

/// How far the first words with a server came.
#[derive(Debug, Default)]
pub struct Look {
    /// What its name stands for.
    pub addresses: Vec<SocketAddr>,
    /// The first of them that took the connection, and the gate's own end of it.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// What it says first.
    pub greeting: Option<Reply>,
    /// Its answer to EHLO in the gate's name.
    pub ehlo: Option<Reply>,
    /// Why there is no more.
    pub trouble: Option<String>,
}

impl Look {
    /// Takes a look; a PROXY header goes first where sessions send one, in the gate's own name.
    pub async fn take(server: &str, settings: &Settings) -> Self {
        let mut look = Self::default();
        if let Err(trouble) = look.talk(server, settings).await {
            look.trouble = Some(trouble);
        }
        look
    }

    async fn talk(&mut self, server: &str, settings: &Settings) -> Result<(), String> {
        let limit = settings.timeouts.connect;
        let addresses = within(limit, lookup_host(server)).await;
        self.addresses = addresses.map_err(|error| format!("its name can't be resolved: {error}"))?.collect();
        let mut socket = Err(io::Error::from(io::ErrorKind::NotFound));
        for address in &self.addresses {
            socket = within(limit, TcpStream::connect(address)).await;
            if socket.is_ok() {
                break;
            }
        }
        let socket = socket.map_err(|error| format!("can't be reached: {error}"))?;
        let gate = own_ends(&socket).map_err(|error| format!("can't be reached: {error}"))?;
        self.ends = Some((gate.local, gate.address));
        let mut stream = Stream::new(socket);
        match settings.identity {
            Identity::ProxyV1 => stream.queue(&proxy_v1(&gate)),
            Identity::ProxyV2 => stream.queue(&proxy_v2(&gate)),
            _ => {}
        }
        if let Security::Implicit(tls) = &settings.security {
            stream.flush().await.map_err(|error| format!("can't be reached: {error}"))?;
            let secured = tls.connect(stream, settings.certificate_name(server)).await;
            stream = secured.map_err(|error| error.to_string())?.0;
        }
        let limit = settings.timeouts.greeting.min(PATIENCE);
        let greeting = reply(&mut stream, limit).await.map_err(|error| format!("no greeting: {error}"))?;
        let greets = greeting.is_positive();
        self.greeting = Some(greeting);
        if !greets {
            return Err("it greets with a refusal".to_owned());
        }
        stream.queue(format!("EHLO {}\r\n", settings.hostname).as_bytes());
        let limit = settings.timeouts.command.min(PATIENCE);
        self.ehlo = Some(reply(&mut stream, limit).await.map_err(|error| format!("no answer to EHLO: {error}"))?);
        stream.queue(b"QUIT\r\n");
        // Nothing more is asked: whether it takes a goodbye is of no interest.
        let _ = timeout(limit, stream.flush()).await;
        Ok(())
    }
}

async fn reply(stream: &mut Stream, limit: Duration) -> Result<Reply, String> {
    let mut reader = ReplyReader::default();
    let exchange = async {
        stream.flush().await.map_err(|error| error.to_string())?;
        stream.read_reply(&mut reader).await.map_err(|error| error.to_string())
    };
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(format!("nothing came within {limit:?}")))
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// How long a person waits for one reply.
const PATIENCE: Duration = Duration::from_secs(30);
