//! Verifies DKIM signatures (RFC 6376, with RFC 8301, 8463 and 8616).
//!
//! In four steps, so that the work overlaps with the transfer of the body: [`Signatures::read`] as soon as the header
//! section is there, [`Signatures::keys`] while the body comes in and is hashed as [`Signatures::body_hash_specs`]
//! asks, [`Signatures::verify`] at the end of data. The last is pure, takes microseconds as a rule, and is bounded:
//! what one signature signs is hashed once, however many keys are tried, and of all of them 4 MiB at most.
//!
//! Reading signatures and key records, choosing and canonicalizing the signed fields and hashing the body are ours;
//! mail-auth is asked for nothing but the length of a key. `verifier_traps` has a test of each mistake that its own
//! verifier makes: h= without From, keys for other services or hashes, rsa-sha1, short keys, missing v=, `l=0`, white
//! space lines at the end of a relaxed body, signatures that vanish.
//!
//! Results: `neutral` is what can't be read; `permerror` what can be read, but never pass; `fail` a signature that does
//! not fit the message or is not in force; `policy` one that fits, but leaves the end of the body unsigned (`l=`), or
//! beside which a field stands again that a message has once, as Subject: readers may show what was put on top of a
//! signed letter by somebody else. `temperror` one whose key DNS did not give. A look-up that failed comes before all
//! that the message itself gets wrong, since whether there is a key matters even for a broken signature: it tells
//! forwarding from forgery.

use std::cell::Cell;
use std::collections::HashSet;

use aws_lc_rs::digest::{Digest, SHA256, digest};

use crate::dns::Lookup;
use crate::domain::Domain;
use crate::evaluation::{DkimOutput, DkimResult, KeySearch};
use crate::message::body_hash::{BodyHashSpec, BodyHashes};
use crate::message::header::HeaderSection;

mod canonical;
mod key;
mod signature;
mod tag_list;

use canonical::Single;
pub(in crate::evaluation) use canonical::{FieldIndex, write_field, write_own};
pub(in crate::evaluation) use key::{IdentityScope, Key};
pub use key::{KeyFacts, Keys, inspect};
pub(in crate::evaluation) use signature::{Signature, SignatureFault, Signer};
pub(in crate::evaluation) use tag_list::TagList;

/// The signatures of one message that are evaluated.
#[derive(Debug)]
pub struct Signatures {
    chosen: Vec<Chosen>,
    skipped: Vec<Chosen>,
}

/// What came of the signatures of a message.
#[derive(Debug)]
pub struct Verified {
    /// One for each signature that was evaluated, in the order of the fields.
    pub outputs: Vec<DkimOutput>,
    /// DKIM-Signature fields that were not evaluated for a bound of ours.
    pub skipped: usize,
    /// The `d=` of those that might have passed, each once.
    pub skipped_domains: Vec<Domain>,
}

impl Signatures {
    /// Reads the DKIM-Signature fields and chooses at most `limit` of them: first those of an author domain, then those
    /// of a domain above or below one, then those that share two labels with one (siblings under relaxed alignment),
    /// then the others, then what can't be read; among equals the topmost.
    pub fn read(section: &HeaderSection, authors: &[Domain], limit: usize) -> Signatures {
        let fields = section.fields().enumerate();
        let signatures = fields.filter(|(_, field)| field.name.eq_ignore_ascii_case(b"DKIM-Signature"));
        let mut chosen: Vec<_> = signatures.map(|(place, field)| Chosen::read(place, field.value)).collect();
        chosen.sort_by_cached_key(|signature| signature.distance(authors));
        let skipped = chosen.split_off(limit.min(chosen.len()));
        Signatures { chosen, skipped }
    }

    /// The body hashes that are needed, to be given to a [`BodyHasher`](crate::message::body_hash::BodyHasher).
    pub fn body_hash_specs(&self) -> Vec<BodyHashSpec> {
        let mut specs = Vec::new();
        for signature in self.readable() {
            if !specs.contains(&signature.body) {
                specs.push(signature.body);
            }
        }
        specs
    }

    /// The signing domains, which may turn out to be aligned.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.readable().map(|signature| &signature.signer.domain)
    }

    /// The DNS names of the keys, each once.
    pub fn key_names(&self) -> Vec<Box<str>> {
        let mut names = Vec::new();
        for signature in self.readable() {
            if !names.contains(&signature.signer.key_name) {
                names.push(signature.signer.key_name.clone());
            }
        }
        names
    }

    /// Asks for the keys, all at once, each name once.
    pub async fn keys(&self, lookup: &impl Lookup) -> Keys {
        Keys::look_up(self.key_names(), lookup).await
    }

    /// Verifies the signatures at `now`, in epoch seconds, the likeliest to be aligned first.
    ///
    /// `section` is the one that was read, `hashes` those of [`Self::body_hash_specs`].
    pub fn verify(&self, section: &HeaderSection, keys: &Keys, hashes: &BodyHashes, now: u64) -> Verified {
        let message = Message::new(section, keys, hashes, now);
        let (mut outputs, mut skipped) = (Vec::with_capacity(self.chosen.len()), Vec::new());
        for chosen in &self.chosen {
            if message.hashed.get() < MAX_OCTETS {
                outputs.push(chosen.verify(&message));
            } else {
                skipped.push(chosen);
            }
        }
        outputs.sort_by_key(|output| output.place);
        skipped.extend(&self.skipped);
        let domains = skipped.iter().filter_map(|c| Some(c.signature.as_ref().ok()?.signer.domain.clone()));
        let skipped_domains: HashSet<Domain> = domains.collect();
        Verified { outputs, skipped: skipped.len(), skipped_domains: skipped_domains.into_iter().collect() }
    }

    /// What the signature that `output` tells of was made over in `section`, the one that was read: the canonicalized
    /// header fields with its own (RFC 6376 §3.7), and which hash of the body. None if it can't be read.
    pub fn signed(&self, section: &HeaderSection, output: &DkimOutput) -> Option<(Vec<u8>, BodyHashSpec)> {
        let chosen = self.chosen.iter().find(|chosen| chosen.place == output.place)?;
        let signature = chosen.signature.as_ref().ok()?;
        Some((signed_input(&FieldIndex::new(section), signature, chosen.place), signature.body))
    }

    fn readable(&self) -> impl Iterator<Item = &Signature> {
        self.chosen.iter().filter_map(|chosen| chosen.signature.as_ref().ok())
    }
}

/// What signatures are verified against.
pub(in crate::evaluation) struct Message<'a> {
    pub(in crate::evaluation) fields: FieldIndex<'a>,
    pub(in crate::evaluation) keys: &'a Keys,
    pub(in crate::evaluation) hashes: &'a BodyHashes,
    pub(in crate::evaluation) now: u64,
    /// Octets of header fields that were hashed so far.
    hashed: Cell<usize>,
}

impl<'a> Message<'a> {
    pub(in crate::evaluation) fn new(
        section: &'a HeaderSection,
        keys: &'a Keys,
        hashes: &'a BodyHashes,
        now: u64,
    ) -> Self {
        Self { fields: FieldIndex::new(section), keys, hashes, now, hashed: Cell::new(0) }
    }

    /// The usable keys of a signature.
    pub(in crate::evaluation) fn keys_of(&self, signature: &Signature) -> Result<Vec<&Key>, SignatureFault> {
        let below = signature.identity_below_domain;
        self.keys.of(&signature.signer, if below { IdentityScope::BelowDomain } else { IdentityScope::OfDomain })
    }

    /// Whether one of the keys fits the signature in the field at `place`; the key that does.
    pub(in crate::evaluation) fn verify<'k>(
        &self,
        signature: &Signature,
        place: usize,
        keys: &[&'k Key],
    ) -> Result<&'k Key, SignatureFault> {
        signature.signer.check_time(self.now)?;
        // A spec that was not hashed is our fault, and as such no verdict on the signature.
        let unhashed = SignatureFault::new(DkimResult::TempError, "body was not hashed");
        let body = self.hashes.get(&signature.body).ok_or(unhashed)?;
        // RFC 6376 §3.5 on l=: MUST NOT be larger than the body.
        let signed_length = signature.body.length.unwrap_or(body.canonical_length);
        if signed_length > body.canonical_length {
            return Err(SignatureFault::permanent("l= is larger than the body"));
        }
        if signature.body_hash != body.digest() {
            return Err(SignatureFault::failed(BODY_HASH_MISMATCH));
        }
        let hash = self.signed_hash(signature, place);
        let key = keys.iter().find(|key| key.verifies(&hash, &signature.signer.signature));
        let key = key.ok_or(SignatureFault::failed("signature does not match"))?;
        if signed_length < body.canonical_length {
            return Err(SignatureFault::new(DkimResult::Policy, "the end of the body is not signed (l=)"));
        }
        if let Some(single) = self.fields.unsigned_twin(|| signature.signed(), &SINGLES) {
            return Err(SignatureFault::new(DkimResult::Policy, single.again));
        }
        Ok(key)
    }

    /// The hash of the signed fields, then the signature's own without its `b=` (RFC 6376 §3.7).
    fn signed_hash(&self, signature: &Signature, place: usize) -> Digest {
        let input = signed_input(&self.fields, signature, place);
        self.hashed.set(self.hashed.get().saturating_add(input.len()));
        digest(&SHA256, &input)
    }
}

/// The signed fields, canonicalized, then the signature's own without its `b=` (RFC 6376 §3.7).
fn signed_input(fields: &FieldIndex<'_>, signature: &Signature, place: usize) -> Vec<u8> {
    let mut input = Vec::with_capacity(SIGNED_CAPACITY);
    fields.write_signed(signature.signed(), place, signature.header, &mut input);
    if let Some(own) = fields.at(place) {
        write_own(own, &signature.signer.own_value, signature.header, &mut input);
    }
    input
}

/// One DKIM-Signature field.
#[derive(Debug)]
struct Chosen {
    /// Its place among the fields.
    place: usize,
    claims: signature::Claims,
    signature: Result<Signature, SignatureFault>,
}

impl Chosen {
    fn read(place: usize, value: &[u8]) -> Self {
        match TagList::parse(value) {
            Some(tags) => Self { place, claims: signature::Claims::read(&tags), signature: Signature::read(&tags) },
            None => {
                let fault = SignatureFault::new(DkimResult::Neutral, "signature can't be read");
                Self { place, claims: signature::Claims::default(), signature: Err(fault) }
            }
        }
    }

    /// How far the signer is from the authors: 0 for the same domain, more for less likely alignment.
    fn distance(&self, authors: &[Domain]) -> u8 {
        let Ok(signature) = &self.signature else { return 4 };
        let signer = &signature.signer.domain;
        let distance = |author: &Domain| match signer {
            _ if author == signer => 0,
            _ if author.is_within(signer) || signer.is_within(author) => 1,
            _ if author.last_labels(2) == signer.last_labels(2) => 2,
            _ => 3,
        };
        authors.iter().map(distance).min().unwrap_or(3)
    }

    fn verify(&self, message: &Message<'_>) -> DkimOutput {
        let signature = self.signature.as_ref().map_err(|fault| *fault);
        let keys = signature.and_then(|s| message.keys_of(s).map(|keys| (s, keys)));
        let key = match &keys {
            Ok(_) => KeySearch::Found,
            Err(fault) if self.signature.is_err() || fault.result == DkimResult::TempError => KeySearch::Unknown,
            Err(_) => KeySearch::Missing,
        };
        let verified = keys.and_then(|(signature, keys)| message.verify(signature, self.place, &keys));
        let (result, reason, failure) = match verified {
            Ok(key) if key.is_testing() => (DkimResult::Pass, "signature matches; the key is in test mode (t=y)", None),
            Ok(_) => (DkimResult::Pass, "signature matches", None),
            Err(SignatureFault { result, reason, failure }) => (result, reason, failure),
        };
        DkimOutput {
            place: self.place,
            result,
            domain: self.claims.domain.clone(),
            selector: self.claims.selector.clone(),
            identity: self.claims.identity.clone(),
            algorithm: self.claims.algorithm,
            signature_start: self.claims.signature_start.clone(),
            key,
            reason,
            failure,
        }
    }
}

/// Octets of header fields that are hashed for the signatures of a message; the last one that begins below it is hashed
/// whole. A header section of 200 kB can have twenty signatures over all of it.
const MAX_OCTETS: usize = 4 << 20;
/// Why a signature fails whose body hash is not that of the body (RFC 6376 §6.1.3).
pub const BODY_HASH_MISMATCH: &str = "body hash does not match";
/// Fields that a message has once at most (RFC 5322 §3.6, RFC 2045 §3) and that readers are shown, or that say how.
const SINGLES: [Single; 10] = [
    Single { name: "From", again: "From stands again, unsigned" },
    Single { name: "Sender", again: "Sender stands again, unsigned" },
    Single { name: "Reply-To", again: "Reply-To stands again, unsigned" },
    Single { name: "To", again: "To stands again, unsigned" },
    Single { name: "Cc", again: "Cc stands again, unsigned" },
    Single { name: "Subject", again: "Subject stands again, unsigned" },
    Single { name: "Date", again: "Date stands again, unsigned" },
    Single { name: "MIME-Version", again: "MIME-Version stands again, unsigned" },
    Single { name: "Content-Type", again: "Content-Type stands again, unsigned" },
    Single { name: "Content-Transfer-Encoding", again: "Content-Transfer-Encoding stands again, unsigned" },
];
/// Octets that the signed fields of most messages fit into.
const SIGNED_CAPACITY: usize = 4096;

#[cfg(test)]
#[path = "../../../tests/it/support/signer.rs"]
#[allow(missing_docs, dead_code, reason = "the socket tests use all of it")]
pub(super) mod signer;

#[cfg(test)]
mod verifier_traps;
#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod tests;
