//! Signs our reports with DKIM, so that they pass DMARC where they arrive (RFC 9990 §3.5.2).

use std::fmt;

use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256};
use mail_auth::common::headers::HeaderWriter;
use mail_auth::dkim::{DkimSigner, Done};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use zeroize::Zeroize;

use crate::domain::Domain;

/// A private key, and where its public one is published.
pub struct Key {
    domain: Domain,
    selector: Box<str>,
    signer: Signer,
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's: the file has no private key in PEM form.
    #[error("no private key in PEM form")]
    NoKey,
    /// The operator's: a selector that DNS can't carry.
    #[error("not a selector")]
    Selector,
    /// Ours: the key does not sign.
    #[error("not signed: {0}")]
    Sign(mail_auth::Error),
    /// The operator's: neither an RSA key of 2048 bits or more nor an Ed25519 one.
    #[error("neither an RSA key of 2048 bits or more nor an Ed25519 key")]
    UnknownKey,
}

enum Signer {
    Rsa(Box<DkimSigner<RsaKey<Sha256>, Done>>),
    Ed25519(Box<DkimSigner<Ed25519Key, Done>>),
}

impl Key {
    /// Reads a key in PEM form (PKCS #1 or #8); its public one is at `<selector>._domainkey.<domain>`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn from_pem(domain: Domain, selector: &str, pem: &[u8]) -> Result<Self, Error> {
        // One or more labels (RFC 6376 §3.1), with room for the rest of the name.
        Domain::parse(&format!("{selector}._domainkey.{domain}")).map_err(|_| Error::Selector)?;
        let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| Error::NoKey)?;
        let ed25519 = match &der {
            PrivateKeyDer::Pkcs8(der) => Ed25519Key::from_pkcs8_maybe_unchecked_der(der.secret_pkcs8_der()).ok(),
            _ => None,
        };
        let (name, selector) = (domain.as_str(), selector.to_ascii_lowercase());
        let signer = match ed25519 {
            Some(key) => {
                der.zeroize();
                let signer = DkimSigner::from_key(key).domain(name).selector(&*selector).headers(SIGNED);
                Signer::Ed25519(Box::new(signer))
            }
            None => {
                let key = RsaKey::from_key_der(der).map_err(|_| Error::UnknownKey)?;
                Signer::Rsa(Box::new(DkimSigner::from_key(key).domain(name).selector(&*selector).headers(SIGNED)))
            }
        };
        Ok(Self { domain, selector: selector.into(), signer })
    }

    /// The domain that signs.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}._domainkey.{})", self.selector, self.domain)
    }
}

/// The message with a signature of each key on top, the first one uppermost. The signatures say when they were made: by
/// the system's clock, which mail-auth reads itself.
///
/// # Errors
///
/// Ours; then the message must not be sent, since it would fail DMARC at its destination.
pub fn sign(message: &[u8], keys: &[Key]) -> Result<Vec<u8>, Error> {
    let mut signed = Vec::new();
    for Key { signer, .. } in keys {
        let signature = match signer {
            Signer::Rsa(signer) => signer.sign(message),
            Signer::Ed25519(signer) => signer.sign(message),
        };
        signed.extend_from_slice(signature.map_err(Error::Sign)?.to_header().as_bytes());
    }
    signed.extend_from_slice(message);
    Ok(signed)
}

/// The fields that are signed. Those listed twice occur once: a second one, added by someone else, would break the
/// signature (RFC 6376 §5.4).
const SIGNED: [&str; 16] = [
    "From",
    "From",
    "To",
    "To",
    "Subject",
    "Subject",
    "Date",
    "Date",
    "Message-ID",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Reply-To",
    "Auto-Submitted",
];

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeyPair as RsaPair, KeySize};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;
    use crate::dns::zone::Zone;
    use crate::evaluation::DkimResult;
    use crate::evaluation::dkim::Signatures;
    use crate::message::base64::encode;
    use crate::message::body_hash::BodyHasher;
    use crate::message::header::HeaderSection;

    const MESSAGE: &str = "From: \"A\" <reports@a.example>\r\nTo: <r@b.example>\r\nSubject: Report Domain: b.example\r\n\t\
        Submitter: a.example\r\nDate: Fri, 2 Jan 2026 00:00:00 +0000\r\nMessage-ID: <x@a.example>\r\n\r\n text \r\n\r\n";

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", encode(der))
    }

    /// Keys of both kinds, and what DNS says of them.
    fn keys() -> (Vec<Key>, Zone) {
        let domain = Domain::parse("a.example").unwrap();
        let rsa = RsaPair::generate(KeySize::Rsa2048).unwrap();
        let rsa_public = AsDer::<PublicKeyX509Der<'_>>::as_der(rsa.public_key()).unwrap();
        let rsa_private = AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
        let ed25519 = Ed25519KeyPair::generate().unwrap();
        let ed25519_private = AsDer::<Pkcs8V1Der<'_>>::as_der(&ed25519).unwrap();
        let zone =
            Zone::new().txt("r._domainkey.a.example", &[&format!("v=DKIM1; p={}", encode(rsa_public.as_ref()))]).txt(
                "e.two._domainkey.a.example",
                &[&format!("v=DKIM1; k=ed25519; p={}", encode(ed25519.public_key().as_ref()))],
            );
        let keys = vec![
            Key::from_pem(domain.clone(), "r", pem(rsa_private.as_ref()).as_bytes()).unwrap(),
            Key::from_pem(domain, "e.two", pem(ed25519_private.as_ref()).as_bytes()).unwrap(),
        ];
        (keys, zone)
    }

    /// What our own evaluation makes of the signatures.
    async fn results(message: &[u8], zone: &Zone) -> Vec<(DkimResult, String)> {
        let header_end = message.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let section = HeaderSection::parse(message[..header_end].to_vec());
        let signatures = Signatures::read(&section, &[Domain::parse("a.example").unwrap()], 10);
        let mut hasher = BodyHasher::new(signatures.body_hash_specs());
        hasher.update(&message[header_end..]);
        let keys = signatures.keys(zone).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let outputs = signatures.verify(&section, &keys, &hasher.finish(), now).outputs;
        outputs.into_iter().map(|output| (output.result, output.selector.to_string())).collect()
    }

    #[tokio::test]
    async fn our_own_evaluation_verifies_both_signatures() {
        let (keys, zone) = keys();
        let signed = sign(MESSAGE.as_bytes(), &keys).unwrap();
        let expected = [(DkimResult::Pass, "r".to_owned()), (DkimResult::Pass, "e.two".to_owned())];
        assert_eq!(results(&signed, &zone).await, expected);
        assert!(signed.ends_with(MESSAGE.as_bytes()));
        assert!(std::str::from_utf8(&signed).unwrap().split("\r\n").all(|line| line.len() <= 120), "{signed:?}");
        // Nobody adds a second author, recipient or subject.
        for field in ["From: x@evil.example\r\n", "To: x@evil.example\r\n", "Subject: x\r\n"] {
            let (signatures, message) = signed.split_at(signed.len() - MESSAGE.len());
            let changed = [signatures, field.as_bytes(), message].concat();
            let found = results(&changed, &zone).await;
            assert!(found.iter().all(|(result, _)| *result != DkimResult::Pass), "{field}: {found:?}");
        }
    }

    #[test]
    fn what_is_no_key() {
        let key = |selector: &str, pem: &str| {
            Key::from_pem(Domain::parse("a.example").unwrap(), selector, pem.as_bytes())
                .map(drop)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(key("s", ""), "no private key in PEM form");
        assert_eq!(key("s", &pem(b"x")), "neither an RSA key of 2048 bits or more nor an Ed25519 key");
        assert_eq!(key("a b", &pem(b"x")), "not a selector");
        assert_eq!(key("", &pem(b"x")), "not a selector");
    }
}
