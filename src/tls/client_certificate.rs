//! Certificates of clients: asked for where the operator names some, and known by their fingerprints alone.
//!
//! A client that shows none, or one that the operator has not named, is served like any other: an MTA shows what it has
//! when it is asked. A fingerprint counts only if the client has proved that it holds the key; authorities, names and
//! dates are not looked at.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme};
use tracing::debug;

/// The SHA-256 of a certificate in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientFingerprint([u8; SIZE]);

/// Asks one client for its certificate, and keeps what it has proved.
#[derive(Debug)]
pub(super) struct Asker {
    named: Arc<[ClientFingerprint]>,
    proven: OnceLock<ClientFingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ClientFingerprint {
    /// Reads 64 hexadecimal digits, with a colon between all pairs or none; also as openssl prints it, with its name
    /// before.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = match text.split_once('=') {
            Some((name, digits)) if name.eq_ignore_ascii_case("sha256 fingerprint") => digits,
            Some(_) => return None,
            None => text,
        };
        let pairs: Vec<&str> = match digits.contains(':') {
            true => digits.split(':').collect(),
            // In ASCII, so that no slice cuts a character in two.
            false if digits.is_ascii() => {
                (0..digits.len()).step_by(2).map(|at| digits.get(at..at + 2).unwrap_or_default()).collect()
            }
            false => return None,
        };
        let octet = |pair: &str| {
            let is_pair = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(pair, 16).ok().filter(|_| is_pair)
        };
        let octets: Option<Vec<u8>> = pairs.into_iter().map(octet).collect();
        octets?.try_into().ok().map(Self)
    }

    fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut octets = [0; SIZE];
        // Invariant: a SHA-256 has as many.
        octets.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(octets)
    }
}

impl fmt::Display for ClientFingerprint {
    /// As openssl prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, octet) in self.0.iter().enumerate() {
            let colon = if place > 0 { ":" } else { "" };
            write!(f, "{colon}{octet:02X}")?;
        }
        Ok(())
    }
}

impl Asker {
    pub fn new(named: Arc<[ClientFingerprint]>, provider: Arc<CryptoProvider>) -> Self {
        Self { named, proven: OnceLock::new(), provider }
    }

    /// The certificate whose key the client holds.
    pub fn proven(&self) -> Option<ClientFingerprint> {
        self.proven.get().copied()
    }

    /// A signature that can't be verified ends the handshake only of a client that claims to be a named one. From
    /// anyone else, with a key too short or a certificate too old for the library, it proves nothing and does no harm.
    fn prove(
        &self,
        certificate: &CertificateDer<'_>,
        verified: Result<HandshakeSignatureValid, TlsError>,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let fingerprint = ClientFingerprint::of(certificate);
        match verified {
            Ok(valid) => {
                let _ = self.proven.set(fingerprint);
                Ok(valid)
            }
            Err(cause) if self.named.contains(&fingerprint) => Err(cause),
            Err(cause) => {
                debug!(%fingerprint, error = %cause, "a client's certificate proves nothing");
                Ok(HandshakeSignatureValid::assertion())
            }
        }
    }
}

impl ClientCertVerifier for Asker {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// RFC 8446 §4.2.4: no hint which authorities would do, since none counts.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.prove(certificate, verify_tls12_signature(message, certificate, signature, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.prove(certificate, verify_tls13_signature(message, certificate, signature, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Octets of a SHA-256.
const SIZE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_in_the_forms_in_which_it_is_shown() {
        let shown = format!("{}0F", "AB:".repeat(31));
        let expected = ClientFingerprint::parse(&shown).unwrap();
        assert_eq!(expected.to_string(), shown);
        let plain = shown.replace(':', "");
        for text in [
            &plain,
            &plain.to_lowercase(),
            &format!("sha256 Fingerprint={shown}"),
            &format!("SHA256 Fingerprint={plain}"),
        ] {
            assert_eq!(ClientFingerprint::parse(text), Some(expected), "{text}");
        }
        let wrong = [
            "",
            &plain[1..],
            &plain[2..],
            &format!("{plain}00"),
            &shown.replacen(':', "", 1),
            &shown.replacen("AB", "A", 1),
            &shown.replacen("AB", "+B", 1),
            &format!("SHA1 Fingerprint={shown}"),
            &"\u{e9}".repeat(32),
            &plain.replace("0F", "0G"),
        ];
        for text in wrong {
            assert_eq!(ClientFingerprint::parse(text), None, "{text}");
        }
    }
}
