//! Validates the ARC chain of a message (RFC 8617 §5.2): evidence of who handled it, and no more than that.
//!
//! The steps and the primitives are those of [`dkim`](super::dkim). Whatever is wrong with a chain makes it `fail`,
//! never an error and never a refusal; a failed look-up is `temperror`, where RFC 8617 §5.2.1 says fail: unlike a
//! sealer we don't pass the result on, and a retry may find the key.

use crate::dns::Lookup;
use crate::evaluation::dkim::{Fault, Identity};
use crate::evaluation::dkim::{FieldIndex, Keys, Message, Signature, Signer, TagList, write_field, write_own};
use crate::evaluation::{ArcOutput, ArcResult, DkimResult};
use crate::message::body_hash::{BodyHashSpec, BodyHashes, Canonicalization};
use crate::message::header::HeaderSection;

/// The ARC sets of one message.
#[derive(Debug)]
pub struct Chain(Result<Vec<Set>, Broken>);

impl Chain {
    /// Reads the ARC fields and checks the structure of the chain (RFC 8617 §5.2, steps 1 to 3).
    pub fn read(section: &HeaderSection) -> Chain {
        Chain(read_sets(section))
    }

    /// The body hash that the newest signature needs.
    pub fn body_hash_spec(&self) -> Option<BodyHashSpec> {
        self.newest().map(|set| set.message.body)
    }

    /// The DNS names of the keys, each once, the newest set's first; at most [`MAX_KEY_NAMES`].
    pub fn key_names(&self) -> Vec<Box<str>> {
        self.0.as_deref().map(key_names).unwrap_or_default()
    }

    /// Asks for the keys, all at once, each name once.
    pub async fn keys(&self, lookup: &impl Lookup) -> Keys {
        Keys::look_up(self.key_names(), lookup).await
    }

    /// Verifies the newest ARC-Message-Signature and all seals at `now`, in epoch seconds (RFC 8617 §5.2, steps 4
    /// and 6). `section` is the one that was read.
    pub fn verify(&self, section: &HeaderSection, keys: &Keys, hashes: &BodyHashes, now: u64) -> ArcOutput {
        let sets = match &self.0 {
            Ok(sets) => sets,
            Err(Broken(reason)) => return output(ArcResult::Fail, reason),
        };
        let Some(newest) = sets.last() else { return output(ArcResult::None, "no chain") };
        let message = Message { fields: FieldIndex::new(section), keys, hashes, now };
        let signature =
            message.keys_of(&newest.message).and_then(|k| message.verify(&newest.message, newest.places[1], &k));
        let mut doubt = None;
        // A chain that can't pass fails, whatever else DNS did not tell.
        for checked in std::iter::once(signature.map(|_| ())).chain(verify_seals(sets, &message)) {
            match checked {
                Ok(()) => {}
                Err(Fault { result: DkimResult::TempError, reason }) => doubt = doubt.or(Some(reason)),
                Err(fault) => return output(ArcResult::Fail, fault.reason),
            }
        }
        match doubt {
            Some(reason) => output(ArcResult::TempError, reason),
            None => {
                let sealers = sets.iter().map(|set| set.seal.domain.clone()).collect();
                ArcOutput { sealers, ..output(ArcResult::Pass, "chain validates") }
            }
        }
    }

    fn newest(&self) -> Option<&Set> {
        self.0.as_ref().ok().and_then(|sets| sets.last())
    }
}

/// Why the structure of a chain is broken.
#[derive(Debug, Clone, Copy)]
struct Broken(&'static str);

/// One ARC set of a sound chain.
#[derive(Debug)]
struct Set {
    /// The places of its three fields, in the order in which a seal covers them (RFC 8617 §5.1.1).
    places: [usize; 3],
    message: Signature,
    seal: Signer,
}

/// The fields of a set, in the order of [`Set::places`].
const NAMES: [&str; 3] = ["ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal"];
/// RFC 8617 §4.2.1.
const MAX_SETS: usize = 50;
/// Keys that are looked up for a chain. RFC 8617 §9.2 warns of chains that are made up to cause look-ups; they must not
/// use up what the message needs for DMARC. Honest chains have two or three sealers.
const MAX_KEY_NAMES: usize = 10;

fn output(result: ArcResult, reason: &'static str) -> ArcOutput {
    ArcOutput { result, sealers: Vec::new(), reason }
}

fn read_sets(section: &HeaderSection) -> Result<Vec<Set>, Broken> {
    let mut places: Vec<[Option<usize>; 3]> = Vec::new();
    let fields: Vec<_> = section.fields().collect();
    for (place, field) in fields.iter().enumerate() {
        let Some(kind) = NAMES.iter().position(|name| field.name.eq_ignore_ascii_case(name.as_bytes())) else {
            continue;
        };
        let instance = instance(field.value).ok_or(Broken("i= is not from 1 to 50"))?;
        if places.len() < instance {
            places.resize(instance, [None; 3]);
        }
        let slot = places.get_mut(instance - 1).and_then(|set| set.get_mut(kind));
        if slot.is_some_and(|slot| slot.replace(place).is_some()) {
            return Err(Broken("a field stands twice in one set"));
        }
    }
    let mut sets = Vec::with_capacity(places.len());
    for set in &places {
        let [Some(results), Some(message), Some(seal)] = *set else { return Err(Broken("a set is not complete")) };
        let value = |place: usize| fields.get(place).map(|field| field.value).unwrap_or_default();
        let expected = if sets.is_empty() { "none" } else { "pass" };
        let message_signature = read_message_signature(value(message))?;
        let signer = read_seal(value(seal), expected)?;
        sets.push(Set { places: [results, message, seal], message: message_signature, seal: signer });
    }
    if key_names(&sets).len() > MAX_KEY_NAMES {
        return Err(Broken("too many sealers"));
    }
    Ok(sets)
}

fn key_names(sets: &[Set]) -> Vec<Box<str>> {
    let mut names: Vec<Box<str>> = Vec::new();
    let newest = sets.last().map(|set| &set.message.signer);
    for signer in newest.into_iter().chain(sets.iter().rev().map(|set| &set.seal)) {
        if !names.contains(&signer.key_name) {
            names.push(signer.key_name.clone());
        }
    }
    names
}

/// The instance of any of the three fields: the `i=` that stands first in an ARC-Authentication-Results (RFC 8617
/// §4.1.1) and anywhere in the others, whose signers don't always begin with it.
fn instance(value: &[u8]) -> Option<usize> {
    let number = |tags: TagList<'_>| tags.text("i");
    let first = value.split(|b| *b == b';').next().and_then(TagList::parse).and_then(number);
    let text = first.or_else(|| TagList::parse(value).and_then(number))?;
    let is_number = text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| is_number && (1..=MAX_SETS).contains(n))
}

fn read_message_signature(value: &[u8]) -> Result<Signature, Broken> {
    let tags = TagList::parse(value).ok_or(Broken("ARC-Message-Signature can't be read"))?;
    let signature = Signature::read_versionless(&tags).map_err(|fault| Broken(fault.reason))?;
    // RFC 8617 §4.1.2: none of the three may be signed by it.
    let is_arc = |name: &Vec<u8>| NAMES.iter().any(|arc| name.eq_ignore_ascii_case(arc.as_bytes()));
    if signature.signed.iter().any(is_arc) {
        return Err(Broken("ARC-Message-Signature signs ARC fields"));
    }
    Ok(signature)
}

fn read_seal(value: &[u8], expected: &str) -> Result<Signer, Broken> {
    let tags = TagList::parse(value).ok_or(Broken("ARC-Seal can't be read"))?;
    // RFC 8617 §4.1.3: MUST result in fail.
    if tags.get("h").is_some() {
        return Err(Broken("ARC-Seal has h="));
    }
    match tags.text("cv") {
        Some(cv) if cv.eq_ignore_ascii_case(expected) => {}
        Some(cv) if cv.eq_ignore_ascii_case("fail") => return Err(Broken("a sealer found the chain broken")),
        _ => return Err(Broken("cv= is not what it must be")),
    }
    Signer::read(&tags).map_err(|fault| Broken(fault.reason))
}

/// Checks each seal, the newest first: it signs all sets up to its own, relaxed, and itself without `b=` (RFC 8617
/// §5.1.1).
fn verify_seals(sets: &[Set], message: &Message<'_>) -> impl Iterator<Item = Result<(), Fault>> {
    let mut covered = Vec::new();
    let mut inputs = Vec::with_capacity(sets.len());
    for set in sets {
        let [results, message_signature, seal] = set.places.map(|place| message.fields.at(place));
        for field in [results, message_signature].into_iter().flatten() {
            write_field(field, Canonicalization::Relaxed, &mut covered);
        }
        let mut own = Vec::new();
        if let Some(seal) = seal {
            write_own(seal, &set.seal.own_value, Canonicalization::Relaxed, &mut own);
            inputs.push((covered.len(), own));
            write_field(seal, Canonicalization::Relaxed, &mut covered);
        }
    }
    sets.iter().zip(inputs).rev().map(move |(set, (covered_length, own))| {
        let keys = message.keys.of(&set.seal, Identity::OfDomain)?;
        let input = [covered.get(..covered_length).unwrap_or_default(), &own].concat();
        let fits = keys.iter().any(|key| key.verifies(&input, &set.seal.signature));
        if fits { Ok(()) } else { Err(Fault::failed("a seal does not match")) }
    })
}
