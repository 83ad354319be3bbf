//! `dmarcgate healthcheck`: for containers, which may have neither curl nor a shell.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::{ConfigFile, Failure, print};

/// Ask a running gate whether it is well.
///
/// Asks /healthz (or /readyz) of the configured admin address. Exit code 0: it is; 1: it is not, or does not answer.
#[derive(Debug, Args)]
pub struct Healthcheck {
    #[command(flatten)]
    file: ConfigFile,
    /// Ask whether it is ready for mail, not only alive
    #[arg(long)]
    ready: bool,
}

impl Healthcheck {
    pub fn run(self, output: &mut dyn Write) -> Result<(), Failure> {
        let address = reachable(self.file.load()?.config.admin.address);
        let path = if self.ready { "/readyz" } else { "/healthz" };
        let (status, body) = ask(address, ("GET", path, ""), PATIENCE)
            .map_err(|error| Failure::Running(format!("{address} does not answer: {error}")))?;
        match status {
            200 => print(output, &body),
            _ => Err(Failure::Running(body.trim_end().to_owned())),
        }
    }
}

/// Loopback where the gate listens on every address.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// One HTTP/1.1 request, with header fields beside its own, to our own admin listener, which closes after its reply.
/// `patience` is for all of it.
pub fn ask(
    address: SocketAddr,
    (method, path, fields): (&str, &str, &str),
    patience: Duration,
) -> io::Result<(u16, String)> {
    let end = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{fields}\r\n")?;
    let (mut reply, mut piece) = (Vec::new(), [0; 4096]);
    while reply.len() < MAX_REPLY {
        // A peer that drips gets no more time than one that is silent.
        let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        match stream.read(&mut piece)? {
            0 => break,
            length => reply.extend_from_slice(piece.get(..length).unwrap_or_default()),
        }
    }
    let reply = String::from_utf8_lossy(&reply);
    let status = reply.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let body = reply.split_once("\r\n\r\n").map(|(_, body)| body);
    status.zip(body.map(clean)).ok_or_else(|| io::Error::other("what answers is not dmarcgate"))
}

/// Without control characters: who knows what listens there.
fn clean(body: &str) -> String {
    body.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

/// A reload may take eight seconds.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Octets of a reply.
const MAX_REPLY: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admin::access::Token;
    use crate::admin::status::Status;
    use crate::admin::{self, Sources};
    use crate::cli::tests::{configuration, run};
    use crate::config::Config;
    use crate::metrics::Registry;
    use crate::readiness::{Condition, Readiness};
    use crate::session::latest::Latest;

    #[test]
    fn a_running_gate_is_asked() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let registry = Registry::new();
        let readiness = Readiness::new(&[Condition::Upstream], &registry);
        let reloads = tokio::sync::mpsc::channel(1).0;
        let token = Token::new("0123456789abcdef");
        let settings = Arc::new(Config::built_in().status());
        let settings = tokio::sync::watch::channel(settings).1;
        let status = Status::new(settings, registry.clone(), readiness.clone(), Latest::default());
        let sources = Sources { registry, readiness: readiness.clone(), reloads, status, token };
        let server = runtime.spawn(admin::serve(listener, sources, std::future::pending()));

        let (_directory, path) = configuration(&format!("[admin]\naddress = \"0.0.0.0:{port}\""));
        assert_eq!(run(&["healthcheck", "--config", &path]).unwrap(), "ok\n");
        let (code, message) = run(&["healthcheck", "--ready", "--config", &path]).unwrap_err();
        assert_eq!((code, &*message), (1, "not ready\nupstream: not checked yet"));
        assert!(crate::cli::init::is_gate(([127, 0, 0, 1], port).into()));
        readiness.holds(Condition::Upstream);
        assert_eq!(run(&["healthcheck", "--ready", "--config", &path]).unwrap(), "ready\n");

        server.abort();
        let _ = runtime.block_on(server);
        assert!(!crate::cli::init::is_gate(([127, 0, 0, 1], port).into()));
        let (code, message) = run(&["healthcheck", "--config", &path]).unwrap_err();
        assert_eq!(code, 1);
        assert!(message.contains(&format!("127.0.0.1:{port} does not answer")), "{message}");
    }

    #[test]
    fn who_drips_gets_no_more_time_than_who_is_silent() {
        for drips in [false, true] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let peer = std::thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
                // Until the other side has gone: then there is an error.
                while !drips || stream.write_all(b"x").is_ok() {
                    match stream.read(&mut [0; 100]) {
                        Ok(1..) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        _ => break,
                    }
                }
            });
            let began = Instant::now();
            assert!(ask(address, ("GET", "/", ""), Duration::from_millis(200)).is_err());
            assert!(began.elapsed() < Duration::from_secs(5), "drips: {drips}");
            peer.join().unwrap();
        }
    }
}
