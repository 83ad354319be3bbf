//! The client side: handshakes with the upstream, whose certificate is verified by the system's authorities, by those
//! of a file or by pinned keys, or not at all.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use tracing::{debug, warn};

use super::certificate::{FileError, certificates, public_key, validity};
use super::metrics::{ClientMetrics, Handshake};
use super::{HandshakeError, Protection, provider};
use crate::smtp::stream::Stream;

/// What the operator sets for TLS towards the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Whose certificate is trusted.
    pub trust: Trust,
    /// How long a handshake may take.
    pub handshake: Duration,
}

/// Whose certificate is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Anyone's: this protects against those who only listen.
    Anyone,
    /// Those that an authority of the system vouches for.
    System,
    /// Those that an authority in this PEM file vouches for.
    File(PathBuf),
    /// Those with one of these keys, whatever else they say.
    Pins(Vec<Pin>),
}

/// The SHA-256 of a SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

/// Why TLS towards the upstream can't be set up. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system has no authorities.
    #[error(
        "the system has no certification authorities; install them (ca-certificates), or name a file that has some"
    )]
    NoRoots,
    /// The file has no certificate that could be an authority's.
    #[error("{}: has no certificate of an authority: {cause}", path.display())]
    Verifier {
        /// Which file.
        path: PathBuf,
        /// What rustls says.
        cause: String,
    },
}

/// The client side of TLS. A clone is the same one.
#[derive(Clone)]
pub struct Client {
    connector: TlsConnector,
    settings: ClientSettings,
    metrics: ClientMetrics,
}

impl Client {
    /// Reads whom to trust.
    ///
    /// # Errors
    ///
    /// No certificate could ever be trusted.
    pub fn open(settings: &ClientSettings, metrics: ClientMetrics) -> Result<Self, TrustError> {
        let connector = TlsConnector::from(Arc::new(client_config(&settings.trust)?));
        Ok(Self { connector, settings: settings.clone(), metrics })
    }

    /// The handshake; what the server said in the clear and nobody has read is thrown away. `name` is a domain name or
    /// an IP address: what the certificate has to be for, and the name asked for (SNI).
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn connect(&self, stream: Stream, name: &str) -> Result<(Stream, Protection), HandshakeError> {
        let result = Box::pin(self.shake(stream, name)).await;
        match &result {
            Ok((_, protection)) => {
                self.metrics.handshakes.inc(Handshake::Ok);
                self.metrics.versions.inc(protection.version);
                debug!(tls = %protection.version, cipher = protection.cipher, name, "upstream under TLS");
            }
            Err(cause) => self.metrics.handshakes.inc(cause.cause()),
        }
        result
    }

    async fn shake(&self, stream: Stream, name: &str) -> Result<(Stream, Protection), HandshakeError> {
        let server = ServerName::try_from(name.to_owned()).map_err(|_| HandshakeError::Name(name.into()))?;
        let socket = stream.into_socket().ok_or(HandshakeError::Twice)?;
        let secured = timeout(self.settings.handshake, self.connector.connect(server, socket)).await;
        let secured = secured.map_err(|_| HandshakeError::Timeout)?.map_err(HandshakeError::Failed)?;
        let protection = Protection::of(secured.get_ref().1).ok_or(HandshakeError::Twice)?;
        Ok((Stream::over(Box::new(secured)), protection))
    }
}

/// What rustls needs of us: for [`Client`], and for the DNS transport, whose library makes its connections itself.
///
/// # Errors
///
/// No certificate could ever be trusted.
#[expect(clippy::expect_used, reason = "the provider is a constant of ours, and it has ciphers for both versions")]
pub fn client_config(trust: &Trust) -> Result<ClientConfig, TrustError> {
    let provider = provider();
    let verifier = Verifier { rule: rule(trust, &provider)?, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// By their settings: what a file contained when it was read is not compared.
impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Client {}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn rule(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Rule, TrustError> {
    let (roots, listed, path) = match trust {
        Trust::Anyone => return Ok(Rule::Anyone),
        Trust::Pins(pins) => return Ok(Rule::Pinned(pins.clone())),
        Trust::File(path) => {
            let listed = certificates(path)?;
            (roots(listed.clone()), listed, path.clone())
        }
        Trust::System => {
            let found = rustls_native_certs::load_native_certs();
            for cause in &found.errors {
                warn!(error = %cause, "certification authorities of the system can't all be read");
            }
            (roots(found.certs), Vec::new(), PathBuf::new())
        }
    };
    if roots.is_empty() && *trust == Trust::System {
        return Err(TrustError::NoRoots);
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    let authorities = verifier.map_err(|cause| TrustError::Verifier { path, cause: cause.to_string() })?;
    Ok(Rule::Vouched { authorities, listed })
}

/// The certificates that can be authorities; a bundle may hold others.
fn roots(certificates: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(certificates);
    debug!(added, ignored, "certification authorities for the upstream");
    roots
}

/// Decides whose certificate is trusted.
#[derive(Debug)]
struct Verifier {
    rule: Rule,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Rule {
    /// Every certificate. Not even its signature is looked at: whoever could forge it could show one of their own.
    Anyone,
    /// Certificates that authorities vouch for, and those that are listed themselves.
    Vouched {
        authorities: Arc<WebPkiServerVerifier>,
        /// Those of the operator's file. webpki refuses one that calls itself an authority and is shown by a server,
        /// which is how `openssl req -x509` makes self-signed ones.
        listed: Vec<CertificateDer<'static>>,
    },
    /// Certificates with certain keys, for any name and at any time: a key that is pinned says all.
    Pinned(Vec<Pin>),
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match &self.rule {
            Rule::Anyone => Ok(ServerCertVerified::assertion()),
            Rule::Vouched { authorities, listed } => {
                let verdict = authorities.verify_server_cert(certificate, chain, name, ocsp, now);
                if verdict.is_ok() || !listed.contains(certificate) {
                    return verdict;
                }
                verify_listed(certificate, name, now)
            }
            Rule::Pinned(pins) => verify_pinned(certificate, pins),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if matches!(self.rule, Rule::Anyone) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if matches!(self.rule, Rule::Anyone) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate that is trusted by itself is for this name and time.
fn verify_listed(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, TlsError> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    let (begin, end) = validity(certificate).ok_or(CertificateError::BadEncoding)?;
    match i64::try_from(now.as_secs()).unwrap_or(i64::MAX) {
        now if now < begin => Err(CertificateError::NotValidYet.into()),
        now if now > end => Err(CertificateError::Expired.into()),
        _ => Ok(ServerCertVerified::assertion()),
    }
}

fn verify_pinned(certificate: &CertificateDer<'_>, pins: &[Pin]) -> Result<ServerCertVerified, TlsError> {
    let key = public_key(certificate).ok_or(CertificateError::BadEncoding)?;
    let found = digest::digest(&digest::SHA256, key);
    match pins.iter().any(|pin| pin.0 == found.as_ref()) {
        true => Ok(ServerCertVerified::assertion()),
        false => Err(CertificateError::ApplicationVerificationFailure.into()),
    }
}
