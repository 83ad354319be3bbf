//! Looks up, reads and applies the public keys of signers (RFC 6376 §3.6, RFC 8301, RFC 8463).
//!
//! The rules of a key record are ours. The arithmetic is aws-lc's, with a key that is read once and kept with its
//! record in the cache of DNS; mail-auth tells how long an RSA key is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature::{
    ED25519, ParsedPublicKey, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, VerificationAlgorithm,
};
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;

use super::signature::{Algorithm, SignatureFault, Signer};
use super::tag_list::{TagList, colon_list};
use crate::dns::{Lookup, Miss};
use crate::evaluation::DkimResult;
use crate::message::base64;

/// The keys of a message's signatures, as DNS gave them.
#[derive(Default)]
pub struct Keys(Vec<(Box<str>, Found)>);

/// What was found at one name.
type Found = Result<Arc<KeyRecords>, Miss>;

/// What the TXT records at one name hold; kept with them in the cache.
pub(in crate::evaluation) struct KeyRecords {
    keys: Vec<Key>,
    /// What is wrong with the first record that is no usable key.
    fault: Option<&'static str>,
}

/// One usable key.
pub(in crate::evaluation) struct Key {
    public: ParsedPublicKey,
    algorithm: Algorithm,
    bits: usize,
    /// `t=s`: the domain of `i=` must be that of `d=`.
    strict_identity: bool,
    /// `t=y`: the owner is still testing.
    testing: bool,
}

impl Keys {
    /// Asks for the keys at `names` (distinct), all at the same time.
    pub(in crate::evaluation) async fn look_up(names: Vec<Box<str>>, lookup: &impl Lookup) -> Self {
        let questions = names.iter().map(|name| Box::pin(ask(name, lookup)) as Question<'_>).collect();
        let answers = join(questions).await;
        Self(names.into_iter().zip(answers).collect())
    }

    /// The usable keys of a signer, at most [`MAX_KEYS`]; an error if there is none, or if that is not known for now.
    pub(in crate::evaluation) fn of(
        &self,
        signer: &Signer,
        identity: IdentityScope,
    ) -> Result<Vec<&Key>, SignatureFault> {
        let found = self.0.iter().find(|(name, _)| *name == signer.key_name).map(|(_, found)| found);
        let records = match found {
            Some(Ok(records)) => records,
            Some(Err(Miss::NoData | Miss::NxDomain)) => return Err(SignatureFault::permanent("no key")),
            Some(Err(Miss::Failed(failure))) => return Err(SignatureFault::looking_up(*failure)),
            // A name that was not asked for is our fault, and as such no verdict on the signature.
            None => return Err(SignatureFault::new(DkimResult::TempError, "the key was not looked up")),
        };
        let Some(_) = records.keys.first() else {
            return Err(SignatureFault::permanent(records.fault.unwrap_or("no key")));
        };
        let fitting: Vec<_> = records.keys.iter().filter(|key| key.algorithm == signer.algorithm).collect();
        if fitting.is_empty() {
            return Err(SignatureFault::permanent("key type does not fit the algorithm"));
        }
        let allowed = |key: &&Key| identity == IdentityScope::OfDomain || !key.strict_identity;
        let allowed: Vec<_> = fitting.into_iter().filter(allowed).take(MAX_KEYS).collect();
        if allowed.is_empty() {
            return Err(SignatureFault::permanent("key does not allow i= below d="));
        }
        Ok(allowed)
    }
}

/// How the domain of `i=` stands to `d=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::evaluation) enum IdentityScope {
    /// They are the same, or there is no `i=`.
    OfDomain,
    /// It is below.
    BelowDomain,
}

impl Key {
    /// Whether `signature` is this key's over what has this SHA-256: octets that are hashed once for all keys that are
    /// tried.
    pub(in crate::evaluation) fn verifies(&self, hash: &Digest, signature: &[u8]) -> bool {
        let verified = match self.algorithm {
            Algorithm::RsaSha256 => self.public.verify_digest_sig(hash, signature),
            // RFC 8463 §3: what is signed is the SHA-256 of the input.
            Algorithm::Ed25519Sha256 => self.public.verify_sig(hash.as_ref(), signature),
        };
        verified.is_ok()
    }

    /// Whether the owner is still testing.
    pub(in crate::evaluation) fn is_testing(&self) -> bool {
        self.testing
    }

    /// Reads one record (RFC 6376 §3.6.1); the error says what is wrong with it.
    fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let tags = TagList::parse(text).ok_or("key record can't be read")?;
        let version_fits = match tags.get("v") {
            Some(version) => version == b"DKIM1" && tags.first() == Some(b"v"),
            None => true,
        };
        if !version_fits {
            return Err("key record has another version");
        }
        let encoded = tags.squeezed("p").ok_or("key record has no key")?;
        if encoded.is_empty() {
            return Err("key is revoked");
        }
        let has = |tag: &str, words: &[&str]| {
            tags.get(tag)
                .map(|list| colon_list(list).any(|item| words.iter().any(|w| item.eq_ignore_ascii_case(w.as_bytes()))))
        };
        if has("s", &["*", "email"]) == Some(false) {
            return Err("key is for another service");
        }
        if has("h", &["sha256"]) == Some(false) {
            return Err("key does not allow sha256");
        }
        let algorithm = match tags.get("k") {
            None => Algorithm::RsaSha256,
            Some(k) if k.eq_ignore_ascii_case(b"rsa") => Algorithm::RsaSha256,
            Some(k) if k.eq_ignore_ascii_case(b"ed25519") => Algorithm::Ed25519Sha256,
            Some(_) => return Err("unknown key type"),
        };
        let (public, bits) = public_key(algorithm, &encoded)?;
        let (strict_identity, testing) = (has("t", &["s"]) == Some(true), has("t", &["y"]) == Some(true));
        Ok(Self { public, algorithm, bits, strict_identity, testing })
    }
}

impl KeyRecords {
    /// RFC 6376 §3.6.2.2 leaves open what several records at one name mean: those that are keys count.
    fn parse(texts: &[Box<[u8]>]) -> Self {
        let mut records = Self { keys: Vec::new(), fault: None };
        for text in texts.iter().take(MAX_RECORDS) {
            match Key::parse(text) {
                Ok(key) => records.keys.push(key),
                Err(fault) => {
                    records.fault.get_or_insert(fault);
                }
            }
        }
        records
    }
}

/// Keys that are tried for one signature; more would multiply the work that a sender can cause.
const MAX_KEYS: usize = 3;
/// TXT records that are read at one name.
const MAX_RECORDS: usize = 8;
/// Bits of an RSA key (RFC 8301 §3.2 sets the lower bound; the upper one bounds the work).
const RSA_BITS: std::ops::RangeInclusive<usize> = 1024..=8192;
/// Octets of an Ed25519 key (RFC 8463 §4.2).
const ED25519_LENGTH: usize = 32;

/// The key, and how many bits it has.
fn public_key(algorithm: Algorithm, encoded: &[u8]) -> Result<(ParsedPublicKey, usize), &'static str> {
    let unreadable = "public key can't be read";
    let octets = base64::decode(encoded).ok_or(unreadable)?;
    let scheme: &'static dyn VerificationAlgorithm = match algorithm {
        Algorithm::RsaSha256 => &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        Algorithm::Ed25519Sha256 if octets.len() == ED25519_LENGTH => &ED25519,
        Algorithm::Ed25519Sha256 => return Err(unreadable),
    };
    let bits = match algorithm {
        Algorithm::RsaSha256 => rsa_bits(encoded).ok_or(unreadable)?,
        Algorithm::Ed25519Sha256 => ED25519_LENGTH * 8,
    };
    if algorithm == Algorithm::RsaSha256 && bits < *RSA_BITS.start() {
        return Err("key is shorter than 1024 bits");
    }
    if algorithm == Algorithm::RsaSha256 && bits > *RSA_BITS.end() {
        return Err("key is longer than 8192 bits");
    }
    Ok((ParsedPublicKey::new(scheme, &octets).map_err(|_| unreadable)?, bits))
}

/// The length of an RSA key, if it can be read.
fn rsa_bits(encoded: &[u8]) -> Option<usize> {
    let padding = [b'='; 3];
    let padding = padding.get(..(4 - encoded.len() % 4) % 4).unwrap_or_default();
    let key = DomainKey::parse(&[b"k=rsa; p=", encoded, padding].concat()).ok()?;
    Some(key.p.public_key_bits()).filter(|bits| *bits > 0)
}

async fn ask(name: &str, lookup: &impl Lookup) -> Found {
    let records = lookup.txt(name).await?;
    let texts = records.as_txt().ok_or(Miss::NoData)?;
    Ok(texts.parsed(KeyRecords::parse))
}

type Question<'a> = Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

/// Waits for all questions at once. They are few, so that looking at each of them on every wake-up costs nothing.
async fn join(mut questions: Vec<Question<'_>>) -> Vec<Found> {
    let mut answers: Vec<Option<_>> = questions.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut open = 0;
        for (question, answer) in questions.iter_mut().zip(&mut answers) {
            if answer.is_none() {
                match question.as_mut().poll(context) {
                    Poll::Ready(found) => *answer = Some(found),
                    Poll::Pending => open += 1,
                }
            }
        }
        if open == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    // Invariant: none is left open.
    answers.into_iter().flatten().collect()
}

/// What a key record says, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFacts {
    /// `rsa` or `ed25519`.
    pub algorithm: &'static str,
    /// Bits of the key.
    pub bits: usize,
    /// `t=y`: the owner is still testing.
    pub testing: bool,
    /// `t=s`: the domain of `i=` must be that of `d=`.
    pub strict_identity: bool,
}

/// Reads one record as verification does.
///
/// # Errors
///
/// It is no usable key; the text says why.
pub fn inspect(text: &[u8]) -> Result<KeyFacts, &'static str> {
    let key = Key::parse(text)?;
    let algorithm = match key.algorithm {
        Algorithm::RsaSha256 => "rsa",
        Algorithm::Ed25519Sha256 => "ed25519",
    };
    Ok(KeyFacts { algorithm, bits: key.bits, testing: key.testing, strict_identity: key.strict_identity })
}
