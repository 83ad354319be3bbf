//! Certificates for tests, made on the spot by rcgen, and the scripted peers' side of TLS.
//!
//! The scripted client believes every certificate and says what it was shown: what to think of it is the test's affair.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData, SanType, SignatureAlgorithm};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, ServerConfig, SignatureScheme,
    SupportedProtocolVersion, version,
};

/// A certificate with its key, as PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate, then its authority's if it has one.
    pub chain: String,
    pub key: String,
}

/// An authority that issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate in the making.
#[derive(Debug, Clone)]
pub struct Wanted {
    names: Vec<String>,
    algorithm: &'static SignatureAlgorithm,
    not_before: SystemTime,
    not_after: SystemTime,
    is_authority: bool,
}

/// How a client shakes hands. The default: TLS 1.2 and 1.3, no SNI, every signature.
#[derive(Debug, Clone, Default)]
pub struct Handshake {
    name: Option<String>,
    version: Option<&'static SupportedProtocolVersion>,
    schemes: Option<Vec<SignatureScheme>>,
    /// What it shows if it is asked: a certificate, and the key that it signs with.
    shown: Option<(Certificate, String)>,
}

/// What a handshake came to.
#[derive(Debug, Clone)]
pub struct Negotiated {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite as rustls spells it.
    pub cipher: String,
    /// What the other side showed, the end entity's first; empty where it showed none.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The name that the client asked for, as the server saw it.
    pub sni: Option<String>,
}

impl Wanted {
    /// For these names and IP addresses, with an ECDSA key, from yesterday for 90 days.
    pub fn new(names: &[&str]) -> Self {
        Self {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
            not_before: SystemTime::now() - DAY,
            not_after: SystemTime::now() + 90 * DAY,
            is_authority: false,
        }
    }

    /// With an RSA key.
    pub fn rsa(mut self) -> Self {
        self.algorithm = &rcgen::PKCS_RSA_SHA256;
        self
    }

    /// Of one that calls itself an authority.
    pub fn authority(mut self) -> Self {
        self.is_authority = true;
        self
    }

    /// Until then.
    pub fn until(mut self, end: SystemTime) -> Self {
        self.not_after = end;
        self
    }

    /// From then on.
    pub fn from(mut self, begin: SystemTime) -> Self {
        self.not_before = begin;
        self
    }

    /// Signed by itself.
    pub fn self_signed(self) -> Certificate {
        let key = KeyPair::generate_for(self.algorithm).expect("a key");
        let certificate = self.params().self_signed(&key).expect("a certificate");
        Certificate { chain: certificate.pem(), key: key.serialize_pem() }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(self.names.clone()).expect("names for a certificate");
        for name in &mut params.subject_alt_names {
            // An address is a name of another kind.
            let SanType::DnsName(text) = name else { continue };
            if let Ok(address) = text.as_str().parse() {
                *name = SanType::IpAddress(address);
            }
        }
        if self.is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params
    }
}

impl Certificate {
    /// Self-signed, for these names, with an ECDSA key.
    pub fn new(names: &[&str]) -> Self {
        Wanted::new(names).self_signed()
    }

    /// Writes `NAME.pem` and `NAME.key` into `directory`, over what is there, each whole.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (chain, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        for (path, text) in [(&chain, &self.chain), (&key, &self.key)] {
            let draft = path.with_extension("new");
            std::fs::write(&draft, text).expect("a writable directory");
            std::fs::rename(&draft, path).expect("a writable directory");
        }
        (chain, key)
    }

    /// The end entity's certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("PEM of ours")
    }

    /// The SHA-256 of the certificate as openssl prints it.
    pub fn fingerprint(&self) -> String {
        let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &self.der());
        digest.as_ref().iter().map(|octet| format!("{octet:02X}")).collect::<Vec<_>>().join(":")
    }

    /// The SHA-256 of its SubjectPublicKeyInfo in hexadecimal digits.
    pub fn pin(&self) -> String {
        let key = KeyPair::from_pem(&self.key).expect("PEM of ours");
        let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
        digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// A server's configuration that shows it to everyone.
    pub fn server(&self) -> Arc<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM of ours");
        let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("known versions")
            .with_no_client_auth()
            .with_single_cert(chain, key);
        Arc::new(config.expect("certificate and key fit"))
    }
}

impl Authority {
    /// A fresh one that nobody knows.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate.
    pub fn issue(&self, wanted: &Wanted) -> Certificate {
        let key = KeyPair::generate_for(wanted.algorithm).expect("a key");
        let certificate = wanted.params().signed_by(&key, &self.issuer).expect("a certificate");
        Certificate { chain: format!("{}{}", certificate.pem(), self.pem), key: key.serialize_pem() }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    /// Asks for this name by SNI.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Speaks TLS 1.2 alone.
    pub fn version_1_2(mut self) -> Self {
        self.version = Some(&version::TLS12);
        self
    }

    /// Knows these ways to sign alone.
    pub fn schemes(mut self, schemes: &[SignatureScheme]) -> Self {
        self.schemes = Some(schemes.to_vec());
        self
    }

    /// Shows this certificate if it is asked for one.
    pub fn showing(self, certificate: &Certificate) -> Self {
        self.claiming(certificate, &certificate.key)
    }

    /// Shows this certificate, whose key it lacks: it signs with another one.
    pub fn claiming(mut self, certificate: &Certificate, key: &str) -> Self {
        self.shown = Some((certificate.clone(), key.to_owned()));
        self
    }

    /// The client's configuration and the name to connect with.
    pub fn client(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let known = provider.signature_verification_algorithms.supported_schemes();
        let schemes = self.schemes.clone().unwrap_or(known);
        let versions = self.version.map_or(version_list(), |version| vec![version]);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .expect("known versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(schemes)));
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM of ours");
                let key = provider.key_provider.load_private_key(key).expect("a key of ours");
                let certified = CertifiedKey::new(vec![certificate.der()], key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        config.enable_sni = self.name.is_some();
        let name = self.name.clone().unwrap_or_else(|| "unnamed.example".to_owned());
        (Arc::new(config), ServerName::try_from(name).expect("a name"))
    }
}

impl Negotiated {
    /// Of a connection whose handshake is over.
    pub fn of(connection: &tokio_rustls::rustls::CommonState, sni: Option<&str>) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            other => panic!("version {other:?}"),
        };
        let suite = connection.negotiated_cipher_suite().expect("the handshake is over").suite();
        Self {
            version,
            cipher: format!("{suite:?}"),
            certificates: connection
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|c| c.clone().into_owned())
                .collect(),
            sni: sni.map(str::to_owned),
        }
    }

    /// Whether the other side showed this certificate.
    pub fn is_shown(&self, certificate: &Certificate) -> bool {
        self.certificates.first() == Some(&certificate.der())
    }
}

fn version_list() -> Vec<&'static SupportedProtocolVersion> {
    vec![&version::TLS12, &version::TLS13]
}

/// Believes everything, and offers these ways to sign.
#[derive(Debug)]
struct Credulous(Vec<SignatureScheme>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// One day.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
