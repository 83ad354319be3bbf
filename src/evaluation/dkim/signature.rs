//! Reads the value of a DKIM-Signature (RFC 6376 §3.5) and of its descendants in ARC (RFC 8617 §4.1.2, §4.1.3).

use super::tag_list::{TagList, colon_list, without_white_space};
use crate::dns::Failure;
use crate::domain::Domain;
use crate::evaluation::DkimResult;
use crate::message::base64;
use crate::message::body_hash::{BodyHashSpec, Canonicalization, HashAlgorithm};

/// Signature algorithms that can pass (RFC 8301 §3.1, RFC 8463 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::evaluation) enum Algorithm {
    RsaSha256,
    Ed25519Sha256,
}

/// Why a signature is not verified, or did not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::evaluation) struct SignatureFault {
    pub(in crate::evaluation) result: DkimResult,
    pub(in crate::evaluation) reason: &'static str,
    /// The look-up that failed, if that is why.
    pub(in crate::evaluation) failure: Option<Failure>,
}

/// Who signed, and with what: the tags that signatures and seals share.
#[derive(Debug)]
pub(in crate::evaluation) struct Signer {
    pub(in crate::evaluation) domain: Domain,
    /// Where the key is (RFC 6376 §3.6.2.1).
    pub(in crate::evaluation) key_name: Box<str>,
    pub(in crate::evaluation) algorithm: Algorithm,
    /// `b=`, decoded.
    pub(in crate::evaluation) signature: Vec<u8>,
    /// The value of the field with an empty `b=`.
    pub(in crate::evaluation) own_value: Vec<u8>,
    /// `t=`, in epoch seconds.
    timestamp: Option<u64>,
    /// `x=`, in epoch seconds.
    expiration: Option<u64>,
}

/// A signature over header fields and body.
#[derive(Debug)]
pub(in crate::evaluation) struct Signature {
    pub(in crate::evaluation) signer: Signer,
    pub(in crate::evaluation) header: Canonicalization,
    /// `h=`: see [`Self::signed`].
    signed: Vec<u8>,
    pub(in crate::evaluation) body: BodyHashSpec,
    /// `bh=`, decoded.
    pub(in crate::evaluation) body_hash: Vec<u8>,
    /// The domain of `i=` is below `d=`, which a key may forbid.
    pub(in crate::evaluation) identity_below_domain: bool,
}

/// What a DKIM-Signature says of itself, read as far as it can be, for reports and logs.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) domain: Option<Domain>,
    pub(super) selector: Box<str>,
    pub(super) identity: Option<Box<str>>,
    pub(super) algorithm: Option<&'static str>,
    pub(super) signature_start: Box<str>,
}

impl SignatureFault {
    /// It can't be read (RFC 8601 §2.7.1: neutral).
    const fn unreadable(reason: &'static str) -> Self {
        Self::new(DkimResult::Neutral, reason)
    }

    /// It can be read, and no key could ever make it pass.
    pub(in crate::evaluation) const fn permanent(reason: &'static str) -> Self {
        Self::new(DkimResult::PermError, reason)
    }

    pub(in crate::evaluation) const fn failed(reason: &'static str) -> Self {
        Self::new(DkimResult::Fail, reason)
    }

    /// A result that has nothing to do with a look-up.
    pub(in crate::evaluation) const fn new(result: DkimResult, reason: &'static str) -> Self {
        Self { result, reason, failure: None }
    }

    /// The key could not be looked up for now.
    pub(super) const fn looking_up(failure: Failure) -> Self {
        let reason = match failure {
            Failure::Timeout => "key look-up failed: timeout",
            Failure::ServFail => "key look-up failed: servfail",
            Failure::Refused => "key look-up failed: refused",
            Failure::Network => "key look-up failed: network",
            Failure::Malformed => "key look-up failed: malformed",
            Failure::Budget => "key look-up failed: budget",
            Failure::Deadline => "key look-up failed: deadline",
            Failure::Overload => "key look-up failed: overload",
        };
        Self { result: DkimResult::TempError, reason, failure: Some(failure) }
    }
}

impl Claims {
    pub(super) fn read(tags: &TagList<'_>) -> Self {
        let short = |text: &String| text.len() <= MAX_IDENTITY && !text.contains(char::is_control);
        let start = tags.get("b").unwrap_or_default().iter().filter(|b| !b.is_ascii_whitespace());
        Self {
            domain: name(tags, "d").ok().flatten(),
            // In A-labels, as DNS was asked: characters that can't be seen make no other selector.
            selector: name(tags, "s").ok().flatten().map(|selector| selector.as_str().into()).unwrap_or_default(),
            identity: tags.text("i").filter(short).map(Into::into),
            algorithm: tags.text("a").and_then(|a| ALGORITHMS.into_iter().find(|known| known.eq_ignore_ascii_case(&a))),
            signature_start: start.take(MAX_START).filter(|b| b.is_ascii_graphic()).map(|b| char::from(*b)).collect(),
        }
    }
}

impl Signer {
    /// The tags of §3.5 that a seal has too: `a b d s t x`.
    pub(in crate::evaluation) fn read(tags: &TagList<'_>) -> Result<Self, SignatureFault> {
        let algorithm = algorithm(required(tags, "a")?)?;
        let signature = base64::decode(&without_white_space(required(tags, "b")?))
            .ok_or(SignatureFault::unreadable("b= is not base64"))?;
        let domain = name(tags, "d")?.ok_or(SignatureFault::unreadable("d= is no domain name"))?;
        let selector = name(tags, "s")?.ok_or(SignatureFault::unreadable("s= is no selector"))?;
        let timestamp = number(tags, "t").map_err(|()| SignatureFault::unreadable("t= is no number"))?;
        let expiration = number(tags, "x").map_err(|()| SignatureFault::unreadable("x= is no number"))?;
        if timestamp.zip(expiration).is_some_and(|(t, x)| x <= t) {
            return Err(SignatureFault::permanent("x= is not after t="));
        }
        let key_name = format!("{selector}._domainkey.{domain}").into();
        let own_value = tags.without_value("b");
        Ok(Self { domain, key_name, algorithm, signature, own_value, timestamp, expiration })
    }

    /// Whether the signature is in force at `now`, in epoch seconds. RFC 6376 §3.5 lets a verifier take an expired one
    /// for invalid, and ignore one of the future; here both fail, since the signer does not stand by them now.
    pub(in crate::evaluation) fn check_time(&self, now: u64) -> Result<(), SignatureFault> {
        if self.expiration.is_some_and(|x| x < now) {
            return Err(SignatureFault::failed("signature has expired"));
        }
        if self.timestamp.is_some_and(|t| t > now.saturating_add(CLOCK_TOLERANCE)) {
            return Err(SignatureFault::failed("signature is of the future"));
        }
        Ok(())
    }
}

impl Signature {
    /// A DKIM-Signature.
    pub(super) fn read(tags: &TagList<'_>) -> Result<Self, SignatureFault> {
        match tags.get("v") {
            Some(b"1") => {}
            Some(_) => return Err(SignatureFault::permanent("unknown version")),
            None => return Err(SignatureFault::permanent("v= is missing")),
        }
        let mut signature = Self::read_versionless(tags)?;
        if let Some(identity) = tags.squeezed("i") {
            let domain = identity_domain(&identity).ok_or(SignatureFault::unreadable("i= is no identity"))?;
            if !domain.is_within(&signature.signer.domain) {
                return Err(SignatureFault::permanent("i= is not within d="));
            }
            signature.identity_below_domain = domain != signature.signer.domain;
        }
        Ok(signature)
    }

    /// The tags that an ARC-Message-Signature shares: all but `v=` and `i=` (RFC 8617 §4.1.2).
    pub(in crate::evaluation) fn read_versionless(tags: &TagList<'_>) -> Result<Self, SignatureFault> {
        let signer = Signer::read(tags)?;
        let body_hash = base64::decode(&without_white_space(required(tags, "bh")?))
            .ok_or(SignatureFault::unreadable("bh= is not base64"))?;
        let (header, body) = canonicalizations(tags).ok_or(SignatureFault::unreadable("unknown canonicalization"))?;
        let length = number(tags, "l").map_err(|()| SignatureFault::unreadable("l= is no number"))?;
        let methods = tags.get("q").unwrap_or(b"dns/txt");
        if !colon_list(methods).any(|method| method.eq_ignore_ascii_case(b"dns/txt")) {
            return Err(SignatureFault::permanent("unknown query method"));
        }
        let signed = tags.get("h").ok_or(SignatureFault::permanent("h= is missing"))?;
        if colon_list(signed).take(MAX_SIGNED + 1).count() > MAX_SIGNED {
            return Err(SignatureFault::unreadable("h= has too many names"));
        }
        if names(signed).any(|name| !name.iter().all(u8::is_ascii_graphic)) {
            return Err(SignatureFault::unreadable("h= is no list of names"));
        }
        // RFC 6376 §5.4: From MUST be signed, §6.1.1: else PERMFAIL.
        if !names(signed).any(|name| name.eq_ignore_ascii_case(b"from")) {
            return Err(SignatureFault::permanent("From is not signed"));
        }
        let signed = signed.to_vec();
        let body = BodyHashSpec { canonicalization: body, algorithm: HashAlgorithm::Sha256, length };
        Ok(Self { signer, header, signed, body, body_hash, identity_below_domain: false })
    }

    /// The names of `h=`, as they are spelled.
    pub(in crate::evaluation) fn signed(&self) -> impl Iterator<Item = &[u8]> {
        names(&self.signed)
    }
}

/// The names in `h=`. An empty one is against the grammar, but names no field: whoever hashed none for it has signed
/// the same.
fn names(signed: &[u8]) -> impl Iterator<Item = &[u8]> {
    colon_list(signed).filter(|name| !name.is_empty())
}

/// As Authentication-Results writes them.
const ALGORITHMS: [&str; 3] = ["rsa-sha256", "ed25519-sha256", "rsa-sha1"];
/// Names in `h=`: honest signers list some thirty, oversigned ones twice; each costs memory of its own.
const MAX_SIGNED: usize = 500;
/// Characters of a `b=` that are kept: 48 octets of a signature, alike in two of them only if one is a copy.
const MAX_START: usize = 64;
/// Octets of an `i=` that is kept for reports: 64 for the local part, 255 for the domain, with room for encoding.
const MAX_IDENTITY: usize = 512;
/// Seconds that a signer's clock may be ahead of ours.
const CLOCK_TOLERANCE: u64 = 3600;

/// RFC 6376 §6.1.1: a signature that lacks a required tag is in error for good.
fn required<'a>(tags: &TagList<'a>, name: &str) -> Result<&'a [u8], SignatureFault> {
    let missing = match name {
        "a" => "a= is missing",
        "b" => "b= is missing",
        "bh" => "bh= is missing",
        "d" => "d= is missing",
        _ => "s= is missing",
    };
    tags.get(name).filter(|value| !value.is_empty()).ok_or(SignatureFault::permanent(missing))
}

fn algorithm(name: &[u8]) -> Result<Algorithm, SignatureFault> {
    if name.eq_ignore_ascii_case(b"rsa-sha256") {
        Ok(Algorithm::RsaSha256)
    } else if name.eq_ignore_ascii_case(b"ed25519-sha256") {
        Ok(Algorithm::Ed25519Sha256)
    } else if name.eq_ignore_ascii_case(b"rsa-sha1") {
        // RFC 8301 §3.1: permanently failed, whatever the key.
        Err(SignatureFault::permanent("rsa-sha1 is not accepted"))
    } else {
        Err(SignatureFault::permanent("unknown algorithm"))
    }
}

/// A domain or selector; U-labels become A-labels (RFC 8616 §4). The grammar has no dot at the end.
fn name(tags: &TagList<'_>, tag: &str) -> Result<Option<Domain>, SignatureFault> {
    let value = required(tags, tag)?;
    let text = std::str::from_utf8(value).ok().filter(|text| !text.ends_with('.'));
    Ok(text.and_then(|text| Domain::parse(text).ok()))
}

/// A number of decimal digits; one beyond 64 bits is as good as the largest.
fn number(tags: &TagList<'_>, tag: &str) -> Result<Option<u64>, ()> {
    let Some(value) = tags.get(tag) else { return Ok(None) };
    let digits = std::str::from_utf8(value).map_err(|_| ())?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(());
    }
    Ok(Some(digits.parse().unwrap_or(u64::MAX)))
}

/// RFC 6376 §3.5 on `l=`: up to 76 digits.
const MAX_DIGITS: usize = 76;

/// `c=`: for the header section, then for the body; simple where nothing is said.
fn canonicalizations(tags: &TagList<'_>) -> Option<(Canonicalization, Canonicalization)> {
    let Some(value) = tags.get("c") else { return Some((Canonicalization::Simple, Canonicalization::Simple)) };
    let read = |word: &[u8]| match word {
        _ if word.eq_ignore_ascii_case(b"simple") => Some(Canonicalization::Simple),
        _ if word.eq_ignore_ascii_case(b"relaxed") => Some(Canonicalization::Relaxed),
        _ => None,
    };
    let mut words = value.splitn(2, |b| *b == b'/');
    Some((read(words.next()?)?, words.next().map_or(Some(Canonicalization::Simple), read)?))
}

/// The domain of `i=`, which is in dkim-quoted-printable (RFC 6376 §2.11).
fn identity_domain(identity: &[u8]) -> Option<Domain> {
    let mut decoded = Vec::with_capacity(identity.len());
    let mut rest = identity;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'=' {
            let (digits, tail) = tail.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else {
            decoded.push(*first);
        }
    }
    let at = decoded.iter().rposition(|b| *b == b'@')?;
    Domain::parse(std::str::from_utf8(decoded.get(at + 1..)?).ok()?).ok()
}
