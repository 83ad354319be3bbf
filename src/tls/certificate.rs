//! A certificate with its key: read from files, checked, and what it says of itself.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, InconsistentKeys, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::secret::Secret;

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the certificate first, then those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM: its private key, not encrypted.
    pub key: PathBuf,
}

/// What is wrong with a file. The operator's to mend.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct FileError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

impl FileError {
    /// Where to look, if the system does not let the process have the file.
    pub fn hint(&self) -> Option<&'static str> {
        let Fault::Io(error) = &self.fault else { return None };
        (error.kind() == io::ErrorKind::PermissionDenied).then_some(
            "whose it is and its mode; or process.landlock, which lets a gate read only the directories that it knew at \
             its start: then a restart helps",
        )
    }
}

/// What can be wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    /// It is no file of certificates or keys.
    #[error("is larger than a megabyte; expected PEM")]
    Size,
    /// What is between the lines of PEM is not what it should be.
    #[error("is not PEM as it should be: {0}")]
    Pem(pem::Error),
    /// No certificate in it.
    #[error("has no certificate; expected PEM with \"-----BEGIN CERTIFICATE-----\"")]
    NoCertificate,
    /// No key in it.
    #[error("has no private key; expected PEM with \"-----BEGIN PRIVATE KEY-----\" (or RSA or EC PRIVATE KEY)")]
    NoKey,
    /// The key has a passphrase that nobody could give at a start.
    #[error("has an encrypted private key; expected one without a passphrase")]
    EncryptedKey,
    /// The key is of a kind that can't be used.
    #[error("has a private key that can't be used: {0}; expected RSA (2048 bits or more), ECDSA or Ed25519")]
    Key(rustls::Error),
    /// The certificate can't be read.
    #[error("has a certificate that can't be read: {0}; expected X.509 version 3")]
    Certificate(String),
    /// Certificate and key are not of one pair.
    #[error("the key does not fit the certificate in {}; expected the two of one pair", .0.display())]
    Mismatch(PathBuf),
}

/// A certificate that can be shown, with its key.
#[derive(Debug)]
pub struct Certificate {
    /// The file that it came from.
    pub path: PathBuf,
    /// The names that it is for, in lower case; `*.` begins a wildcard.
    pub names: Vec<Box<str>>,
    /// From when it holds, in seconds since 1970.
    pub not_before: i64,
    /// Until when it holds, in seconds since 1970.
    pub not_after: i64,
    /// Chain and key.
    pub certified: Arc<CertifiedKey>,
}

/// What tells that files were replaced without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<(u64, u64, u64, i64, i64)>>);

impl Certificate {
    /// Reads certificate and key and checks that they fit.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, and in which file. Dates are no error here.
    pub fn load(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Self, FileError> {
        let in_certificate = |fault| FileError { path: files.certificate.clone(), fault };
        let in_key = |fault| FileError { path: files.key.clone(), fault };
        let chain = certificates(&files.certificate)?;
        let pem = Secret::new(read(&files.key)?);
        let key = private_key(pem.expose()).map_err(in_key)?;
        let key = provider.key_provider.load_private_key(key).map_err(|error| in_key(Fault::Key(error)))?;
        let Facts { names, not_before, not_after } =
            chain.first().ok_or(Fault::NoCertificate).and_then(|first| facts(first)).map_err(in_certificate)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(in_key(Fault::Mismatch(files.certificate.clone()))),
            Err(error) => return Err(in_certificate(Fault::Certificate(error.to_string()))),
        }
        Ok(Self { path: files.certificate.clone(), names, not_before, not_after, certified: Arc::new(certified) })
    }

    /// Whether it is for `name`: one of its names, or a wildcard in place of the first label (RFC 6125 §6.4.3).
    pub fn covers(&self, name: &str) -> bool {
        let behind_first = name.split_once('.').map(|(_, rest)| rest);
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            Some(domain) => behind_first.is_some_and(|rest| rest.eq_ignore_ascii_case(domain)),
            None => own.eq_ignore_ascii_case(name),
        })
    }

    /// Whether its key can sign in one of these ways.
    pub fn signs(&self, schemes: &[SignatureScheme]) -> bool {
        self.certified.key.choose_scheme(schemes).is_some()
    }
}

impl Fingerprint {
    /// Of the files as they are now; one that can't be seen has none.
    pub fn of(files: &[CertificateFiles]) -> Self {
        let each = files.iter().flat_map(|files| [&files.certificate, &files.key]);
        // What a link leads to counts: certbot replaces links, others replace files.
        let fingerprint = |path: &PathBuf| {
            let meta = path.metadata().ok()?;
            Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
        };
        Self(each.map(fingerprint).collect())
    }
}

/// The certificates of a PEM file; at least one.
///
/// # Errors
///
/// What is wrong with the file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let in_file = |fault| FileError { path: path.to_owned(), fault };
    let pem = read(path)?;
    let found = CertificateDer::pem_slice_iter(without_mark(&pem)).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| in_file(Fault::Pem(error)))?;
    if found.is_empty() { Err(in_file(Fault::NoCertificate)) } else { Ok(found) }
}

/// SubjectPublicKeyInfo of a certificate.
pub fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate.subject_pki.raw)
}

/// From when until when a certificate holds, in seconds since 1970.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

struct Facts {
    names: Vec<Box<str>>,
    not_before: i64,
    not_after: i64,
}

fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, Fault> {
    let unreadable = |error: &dyn std::fmt::Display| Fault::Certificate(error.to_string());
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| unreadable(&error))?;
    let alternatives = parsed.subject_alternative_name().map_err(|error| unreadable(&error))?;
    let names = alternatives.iter().flat_map(|found| &found.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        _ => None,
    });
    let validity = parsed.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Ok(Facts { names: names.collect(), not_before, not_after })
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Fault> {
    let is_encrypted = || ENCRYPTED.iter().any(|mark| memchr::memmem::find(pem, mark).is_some());
    match PrivateKeyDer::from_pem_slice(without_mark(pem)) {
        Ok(key) => Ok(key),
        Err(_) if is_encrypted() => Err(Fault::EncryptedKey),
        Err(pem::Error::NoItemsFound) => Err(Fault::NoKey),
        Err(error) => Err(Fault::Pem(error)),
    }
}

/// Without the mark with which some editors begin a file: it would hide the first line of PEM.
fn without_mark(pem: &[u8]) -> &[u8] {
    pem.strip_prefix(b"\xef\xbb\xbf").unwrap_or(pem)
}

/// The file whole, if it is of a sensible size: a path that names a device or a disk must not fill the memory.
fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let in_file = |fault| FileError { path: path.to_owned(), fault };
    let file = File::open(path).map_err(|error| in_file(error.into()))?;
    // At once: a buffer that grows would leave pieces of a key behind.
    let size = file.metadata().map_or(0, |meta| meta.len().min(MAX_FILE));
    let mut octets = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    file.take(MAX_FILE + 1).read_to_end(&mut octets).map_err(|error| in_file(error.into()))?;
    if octets.len() as u64 > MAX_FILE { Err(in_file(Fault::Size)) } else { Ok(octets) }
}

/// Octets of a file of certificates; all authorities of a system are a quarter of it.
const MAX_FILE: u64 = 1 << 20;
/// What tells an encrypted key in PEM: of PKCS#8, and of OpenSSL's older forms.
const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
