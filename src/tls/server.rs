//! The server side: handshakes with clients, and the certificates that they are shown.
//!
//! A certificate that is expired or not yet valid is shown all the same, with an error in the log: MTAs rarely look at
//! it, and those that do hold their mail back and try again, while a gate that does not start takes no mail at all.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, join};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use tracing::{debug, error, info, warn};

use super::certificate::{Certificate, CertificateFiles, FileError, Fingerprint};
use super::client_certificate::{Asker, ClientFingerprint};
use super::metrics::{Handshake, Reload, ServerMetrics};
use super::{HandshakeError, Protection, provider};
use crate::clock::epoch_seconds_signed;
use crate::domain::Domain;
use crate::smtp::stream::{Secured, Stream};

/// What the operator sets for TLS towards clients.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// At least one. The first that can is shown to clients that name no host, or one that nobody has.
    pub certificates: Vec<CertificateFiles>,
    /// Clients that STARTTLS is not offered to: those that ask for it and then fail.
    pub hide_from: Vec<IpNet>,
    /// The gate's name, which a certificate should be for.
    pub hostname: Domain,
    /// How long a handshake may take.
    pub handshake: Duration,
}

/// Certificates of clients that somebody has a use for.
pub type Named = Arc<[ClientFingerprint]>;

/// The server side of TLS. A clone is the same one.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    settings: ServerSettings,
    acceptor: TlsAcceptor,
    provider: Arc<CryptoProvider>,
    shown: Arc<Shown>,
    watch: Mutex<Watch>,
    metrics: ServerMetrics,
}

/// The certificates in force. A handshake takes them as they are when the client's first message is there; a session
/// that has begun no longer needs them.
#[derive(Debug)]
struct Shown(RwLock<Arc<[Arc<Certificate>]>>);

impl Server {
    /// Reads the certificates and logs what is wrong with them.
    ///
    /// # Errors
    ///
    /// A file that can't be used: no gate starts with it.
    pub fn open(settings: ServerSettings, metrics: ServerMetrics) -> Result<Self, FileError> {
        let provider = provider();
        // Before they are read: what changes meanwhile is seen as a change.
        let watch = Mutex::new(Watch::new(Fingerprint::of(&settings.certificates)));
        let shown = Arc::new(Shown(RwLock::new(load(&settings.certificates, &provider)?)));
        let mut config = builder(&provider).with_no_client_auth().with_cert_resolver(Arc::<Shown>::clone(&shown));
        // Tickets need no memory for each client. One is enough: an MTA resumes seldom. Without randomness for their
        // key nothing is resumed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        match aws_lc_rs::Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(cause) => warn!(error = %cause, "TLS sessions are not resumed"),
        }
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let server = Self(Arc::new(Shared { settings, acceptor, provider, shown, watch, metrics }));
        server.examine();
        Ok(server)
    }

    /// Whether STARTTLS is kept from a client.
    pub fn is_hidden_from(&self, ip: IpAddr) -> bool {
        self.0.settings.hide_from.iter().any(|network| network.contains(&ip))
    }

    /// The handshake behind STARTTLS, whose reply has been flushed. What was read in the clear is thrown away. If there
    /// are any `named`, the client is asked for a certificate.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn accept(&self, stream: Stream, named: &Named) -> Result<(Stream, Protection), HandshakeError> {
        let handshake = async { self.shake(stream.into_socket().ok_or(HandshakeError::Twice)?, named).await };
        self.counted(handshake).await
    }

    /// The handshake that opens a connection. What was read and not consumed is the client's first message, which came
    /// in one piece with the PROXY header. `named` as for [`accept`](Self::accept).
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn accept_first(&self, stream: Stream, named: &Named) -> Result<(Stream, Protection), HandshakeError> {
        let handshake = async {
            let (socket, begun) = stream.into_parts().ok_or(HandshakeError::Twice)?;
            if begun.is_empty() {
                return self.shake(socket, named).await;
            }
            let (reader, writer) = socket.into_split();
            self.shake(join(std::io::Cursor::new(begun).chain(reader), writer), named).await
        };
        self.counted(handshake).await
    }

    /// Reads the files anew and shows what they hold from now on; where one is broken, what was read from it before.
    /// Sessions go on as they are. Returns what is broken, which has been logged and counted.
    pub async fn reload(&self) -> Vec<FileError> {
        let (result, faults) = self.read_anew().await;
        self.tell(result, &faults);
        faults
    }

    /// Watches the files for ever: reads them anew when they have changed, and logs every day what is wrong with the
    /// certificates in them.
    pub async fn watch(self) {
        let mut minute = interval(POLL);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once, when everything has just been read.
        minute.tick().await;
        let mut ticks: u32 = 0;
        loop {
            minute.tick().await;
            ticks = ticks.wrapping_add(1);
            self.look().await;
            if ticks.is_multiple_of(POLLS_A_DAY) {
                self.examine();
            }
        }
    }

    /// One look at the files. None if they are what is shown, or if it is too early to say that they are broken.
    pub(super) async fn look(&self) -> Option<Reload> {
        let now = self.fingerprint().await;
        if now == self.watching().shown {
            self.watching().failures = 0;
            return None;
        }
        let (result, faults) = self.read_anew().await;
        if result == Reload::Failed {
            // Certificate and key are two files, so for a moment they may not fit: the second look tells.
            let mut watch = self.watching();
            watch.failures = watch.failures.saturating_add(1);
            if watch.failures % REMINDER != 2 {
                return None;
            }
        }
        self.tell(result, &faults);
        Some(result)
    }

    fn tell(&self, result: Reload, faults: &[FileError]) {
        self.0.metrics.reloads.inc(result);
        for fault in faults {
            error!(error = %fault, hint = fault.hint(), "a certificate can't be read anew; the one from before is kept");
        }
        if result == Reload::Done {
            info!("certificates were read anew");
        }
        self.examine();
    }

    /// Off this thread, like all that follows: the files may be on a slow disk.
    async fn fingerprint(&self) -> Fingerprint {
        let files = self.0.settings.certificates.clone();
        let fingerprint = spawn_blocking(move || Fingerprint::of(&files)).await;
        // Only if the runtime has ended the task: nobody looks any more.
        fingerprint.unwrap_or_else(|_| Fingerprint::of(&[]))
    }

    async fn read_anew(&self) -> (Reload, Vec<FileError>) {
        let server = self.clone();
        let faults = spawn_blocking(move || server.read_files()).await.unwrap_or_default();
        (if faults.is_empty() { Reload::Done } else { Reload::Failed }, faults)
    }

    fn read_files(&self) -> Vec<FileError> {
        let Shared { settings, provider, shown, .. } = &*self.0;
        let fingerprint = Fingerprint::of(&settings.certificates);
        let (mut next, mut faults) = (Vec::new(), Vec::new());
        for (files, former) in settings.certificates.iter().zip(&*shown.all()) {
            match Certificate::load(files, provider) {
                Ok(certificate) => next.push(Arc::new(certificate)),
                Err(fault) => {
                    faults.push(fault);
                    next.push(Arc::clone(former));
                }
            }
        }
        shown.replace(next.into());
        if faults.is_empty() {
            *self.watching() = Watch::new(fingerprint);
        }
        faults
    }

    fn watching(&self) -> MutexGuard<'_, Watch> {
        self.0.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what is wrong with the certificates in force, and measures when the first of them expires.
    fn examine(&self) {
        let certificates = self.0.shown.all();
        let soonest = certificates.iter().map(|certificate| certificate.not_after).min();
        self.0.metrics.expiry.set(soonest.unwrap_or(0));
        for concern in concerns(&certificates, &self.0.settings.hostname, epoch_seconds_signed()) {
            match concern {
                Concern::Grave(text) => error!(concern = text, "something is wrong with the certificates"),
                Concern::Slight(text) => warn!(concern = text, "something may go wrong with the certificates"),
            }
        }
    }

    /// For a client that is to show its certificate. Nothing is resumed: a ticket would stand for a proof that was not
    /// given on this connection.
    fn asking(&self, named: &Named) -> (TlsAcceptor, Arc<Asker>) {
        let Shared { provider, shown, .. } = &*self.0;
        let asker = Arc::new(Asker::new(Arc::clone(named), Arc::clone(provider)));
        let verifier = Arc::<Asker>::clone(&asker);
        let mut config =
            builder(provider).with_client_cert_verifier(verifier).with_cert_resolver(Arc::<Shown>::clone(shown));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        (TlsAcceptor::from(Arc::new(config)), asker)
    }

    async fn shake<IO>(&self, socket: IO, named: &Named) -> Result<(Stream, Protection), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug + 'static,
    {
        let (acceptor, asker) = match named.is_empty() {
            true => (self.0.acceptor.clone(), None),
            false => {
                let (acceptor, asker) = self.asking(named);
                (acceptor, Some(asker))
            }
        };
        let secured = timeout(self.0.settings.handshake, acceptor.accept(socket)).await;
        let secured = secured.map_err(|_| HandshakeError::Timeout)?.map_err(HandshakeError::Failed)?;
        let connection = secured.get_ref().1;
        let protection = Protection::of(connection).ok_or(HandshakeError::Twice)?;
        let protection = Protection { certificate: asker.and_then(|asker| asker.proven()), ..protection };
        debug!(tls = %protection.version, cipher = protection.cipher, sni = connection.server_name(), "client under TLS");
        let secured: Box<dyn Secured> = Box::new(secured);
        Ok((Stream::over(secured), protection))
    }

    async fn counted(
        &self,
        handshake: impl Future<Output = Result<(Stream, Protection), HandshakeError>>,
    ) -> Result<(Stream, Protection), HandshakeError> {
        // A handshake holds some kilobytes that an idle session need not keep room for.
        let result = Box::pin(handshake).await;
        match &result {
            Ok((_, protection)) => {
                self.0.metrics.handshakes.inc(Handshake::Ok);
                self.0.metrics.versions.inc(protection.version);
            }
            Err(cause) => {
                self.0.metrics.handshakes.inc(cause.cause());
                debug!(error = %cause, cause = %cause.cause(), "no TLS with a client");
            }
        }
        result
    }
}

/// Reads all certificates and says in words what is wrong with them: for a look at the configuration without a gate.
///
/// # Errors
///
/// The first file that can't be used.
pub fn inspect(settings: &ServerSettings) -> Result<Vec<String>, FileError> {
    let certificates = load(&settings.certificates, &provider())?;
    let text = |concern| match concern {
        Concern::Grave(text) | Concern::Slight(text) => text,
    };
    Ok(concerns(&certificates, &settings.hostname, epoch_seconds_signed()).into_iter().map(text).collect())
}

impl Shown {
    fn all(&self) -> Arc<[Arc<Certificate>]> {
        // A thread that panicked while holding the lock has not changed it: it is replaced as a whole.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, certificates: Arc<[Arc<Certificate>]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certificates;
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        let all = self.all();
        let usable = || all.iter().filter(|certificate| certificate.signs(hello.signature_schemes()));
        let named = usable().find(|certificate| name.is_some_and(|name| certificate.covers(name)));
        // A name that nobody has is no reason to fail, though RFC 6066 §3 would allow it: the sender has looked up an
        // MX and asks for the name that it found. Where no signature fits, the first all the same: rustls then finds
        // out, and tells the client, what it is that is not shared.
        let chosen = named.or_else(|| usable().next()).or(all.first());
        debug!(
            sni = name,
            certificate = chosen.map(|chosen| tracing::field::display(chosen.path.display())),
            "a client begins TLS"
        );
        chosen.map(|chosen| Arc::clone(&chosen.certified))
    }
}

/// What is remembered of the files.
#[derive(Debug)]
struct Watch {
    /// The files as they were when what is shown was read from them.
    shown: Fingerprint,
    /// How often in a row they had changed and could not be read.
    failures: u32,
}

impl Watch {
    fn new(shown: Fingerprint) -> Self {
        Self { shown, failures: 0 }
    }
}

/// What the operator should know about a certificate that is shown all the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Concern {
    /// Mail is lost for those who look.
    Grave(String),
    /// It may be, or will be.
    Slight(String),
}

pub(super) fn concerns(certificates: &[Arc<Certificate>], hostname: &Domain, now: i64) -> Vec<Concern> {
    let mut concerns = Vec::new();
    for certificate in certificates {
        let path = certificate.path.display();
        let left = certificate.not_after.saturating_sub(now);
        if left < 0 {
            let ago = days(left);
            concerns.push(Concern::Grave(format!(
                "the certificate in {path} EXPIRED {ago} ago and is shown all the same; senders that verify it \
                 do not deliver"
            )));
        } else if certificate.not_before > now {
            concerns.push(Concern::Grave(format!(
                "the certificate in {path} is NOT YET VALID and is shown all the same; senders that verify it do not \
                 deliver. Is the clock right?"
            )));
        } else if left < WARNING_DAYS * DAY {
            concerns.push(Concern::Slight(format!("the certificate in {path} expires in {}", days(left))));
        }
    }
    if !certificates.iter().any(|certificate| certificate.covers(hostname.as_str())) {
        // Who made it that way has the name in the CN, as a rule (RFC 6125 §6.4.4).
        let nameless = certificates.iter().any(|certificate| certificate.names.is_empty());
        let hint = if nameless { " (names are in subjectAltName; the CN does not count)" } else { "" };
        concerns.push(Concern::Slight(format!(
            "no certificate is for {hostname} (hostname): senders that verify the name of the MX may not deliver{hint}"
        )));
    }
    concerns
}

/// A time, in seconds, as whole days.
fn days(seconds: i64) -> String {
    match seconds.unsigned_abs() / DAY.unsigned_abs() {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

#[expect(clippy::expect_used, reason = "the provider is a constant of ours, and it has ciphers for both versions")]
fn builder(provider: &Arc<CryptoProvider>) -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
}

fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Arc<[Arc<Certificate>]>, FileError> {
    files.iter().map(|files| Certificate::load(files, provider).map(Arc::new)).collect()
}

/// Between two looks at the files.
const POLL: Duration = Duration::from_secs(60);
/// Looks between two reminders of what is wrong with the certificates.
const POLLS_A_DAY: u32 = 24 * 60;
/// Failed looks of which one is logged: one an hour.
const REMINDER: u32 = 60;
/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;
/// Days before its end from which on a certificate is warned of: Let's Encrypt renews 30 days ahead.
const WARNING_DAYS: i64 = 14;
