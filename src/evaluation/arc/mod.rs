//! Validates the ARC chain of a message (RFC 8617 §5.2): evidence of who handled it, and no more than that.
//!
//! The steps and the primitives are those of [`dkim`](super::dkim). Whatever is wrong with a chain makes it `fail`,
//! never an error and never a refusal; a failed look-up is `temperror`, where RFC 8617 §5.2.1 says fail: a retry may
//! find the key. What is passed on, in Authentication-Results, says fail.
//!
//! Older ARC-Message-Signatures are not even read: step 5 of RFC 8617 §5.2 is optional, costs a body hash and a key for
//! each, and tells nothing that decides here; whatever is wrong with one, the seals say that it was there. So
//! Authentication-Results has no `header.oldest-pass` (RFC 8617 §10.2).

use aws_lc_rs::digest::{Context, SHA256};

use crate::dns::Lookup;
use crate::evaluation::dkim::{IdentityScope, SignatureFault};
use crate::evaluation::dkim::{Keys, Message, Signature, Signer, TagList, write_field, write_own};
use crate::evaluation::{ArcOutput, ArcResult, ArcSet, DkimResult};
use crate::message::body_hash::{BodyHashSpec, BodyHashes, Canonicalization};
use crate::message::header::HeaderSection;

pub mod results;

use results::{dmarc_finding, instance_text};

/// The ARC sets of one message, if it has any.
#[derive(Debug)]
pub struct Chain(Result<Option<Sets>, Broken>);

impl Chain {
    /// Reads the ARC fields and checks the structure of the chain (RFC 8617 §5.2, steps 1 to 3).
    pub fn read(section: &HeaderSection) -> Chain {
        Chain(read_sets(section))
    }

    /// The body hash that the newest signature needs.
    pub fn body_hash_spec(&self) -> Option<BodyHashSpec> {
        self.sets().map(|sets| sets.message.body)
    }

    /// The DNS names of the keys, each once, the newest set's first; at most ten.
    pub fn key_names(&self) -> Vec<Box<str>> {
        self.sets().map(Sets::key_names).unwrap_or_default()
    }

    /// Asks for the keys, all at once, each name once.
    pub async fn keys(&self, lookup: &impl Lookup) -> Keys {
        Keys::look_up(self.key_names(), lookup).await
    }

    /// Verifies the newest ARC-Message-Signature and all seals at `now`, in epoch seconds (RFC 8617 §5.2, steps 4
    /// and 6). `section` is the one that was read.
    pub fn verify(&self, section: &HeaderSection, keys: &Keys, hashes: &BodyHashes, now: u64) -> ArcOutput {
        let Sets { sets, message: newest, place } = match &self.0 {
            Ok(Some(sets)) => sets,
            Ok(None) => return output(ArcResult::None, "no chain"),
            Err(Broken(reason)) => return output(ArcResult::Fail, reason),
        };
        let message = Message::new(section, keys, hashes, now);
        let signature = message.keys_of(newest).and_then(|keys| message.verify(newest, *place, &keys));
        let mut doubt = None;
        // A chain that can't pass fails, whatever else DNS did not tell.
        for checked in std::iter::once(signature.map(|_| ())).chain(verify_seals(sets, &message)) {
            match checked {
                Ok(()) => {}
                Err(fault) if fault.result == DkimResult::TempError => doubt = doubt.or(Some(fault)),
                Err(fault) => return output(ArcResult::Fail, fault.reason),
            }
        }
        let value = |set: &Set| message.fields.at(set.places[0]).map(|field| field.value).unwrap_or_default();
        let said = |(index, set): (usize, &Set)| ArcSet {
            instance: index + 1,
            sealer: set.seal.domain.clone(),
            dmarc: dmarc_finding(value(set)),
        };
        let said = sets.iter().enumerate().map(said).collect();
        match doubt {
            Some(SignatureFault { reason, failure, .. }) => {
                ArcOutput { unverified: said, failure, ..output(ArcResult::TempError, reason) }
            }
            None => ArcOutput { sets: said, ..output(ArcResult::Pass, "chain validates") },
        }
    }

    fn sets(&self) -> Option<&Sets> {
        self.0.as_ref().ok().and_then(Option::as_ref)
    }
}

/// Why the structure of a chain is broken.
#[derive(Debug, Clone, Copy)]
struct Broken(&'static str);

/// A chain of sound structure, of one set at least.
#[derive(Debug)]
struct Sets {
    /// From the first instance up.
    sets: Vec<Set>,
    /// The ARC-Message-Signature of the newest.
    message: Signature,
    /// Its place among the fields.
    place: usize,
}

/// One ARC set of a sound chain.
#[derive(Debug)]
struct Set {
    /// The places of its three fields, in the order in which a seal covers them (RFC 8617 §5.1.1).
    places: [usize; 3],
    seal: Signer,
}

impl Sets {
    /// The DNS names of the keys, each once, the newest set's first.
    fn key_names(&self) -> Vec<Box<str>> {
        let mut names: Vec<Box<str>> = Vec::new();
        for signer in std::iter::once(&self.message.signer).chain(self.sets.iter().rev().map(|set| &set.seal)) {
            if !names.contains(&signer.key_name) {
                names.push(signer.key_name.clone());
            }
        }
        names
    }
}

/// The fields of a set, in the order of [`Set::places`].
const NAMES: [&str; 3] = ["ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal"];
/// The place of the first in [`NAMES`].
const RESULTS: usize = 0;
/// RFC 8617 §4.2.1.
const MAX_SETS: usize = 50;
/// Keys that are looked up for a chain. RFC 8617 §9.2 warns of chains that are made up to cause look-ups; they must not
/// use up what the message needs for DMARC. Honest chains have two or three sealers.
const MAX_KEY_NAMES: usize = 10;

fn output(result: ArcResult, reason: &'static str) -> ArcOutput {
    ArcOutput { result, sets: Vec::new(), unverified: Vec::new(), reason, failure: None }
}

fn read_sets(section: &HeaderSection) -> Result<Option<Sets>, Broken> {
    let mut places: Vec<[Option<usize>; 3]> = Vec::new();
    let fields: Vec<_> = section.fields().collect();
    for (place, field) in fields.iter().enumerate() {
        let Some(kind) = NAMES.iter().position(|name| field.name.eq_ignore_ascii_case(name.as_bytes())) else {
            continue;
        };
        let instance = instance(kind, field.value).ok_or(Broken("i= is not from 1 to 50"))?;
        if places.len() < instance {
            places.resize(instance, [None; 3]);
        }
        let slot = places.get_mut(instance - 1).and_then(|set| set.get_mut(kind));
        if slot.is_some_and(|slot| slot.replace(place).is_some()) {
            return Err(Broken("a field stands twice in one set"));
        }
    }
    let value = |place: usize| fields.get(place).map(|field| field.value).unwrap_or_default();
    let mut sets: Vec<Set> = Vec::with_capacity(places.len());
    for set in &places {
        let [Some(results), Some(message), Some(seal)] = *set else { return Err(Broken("a set is not complete")) };
        let expected = if sets.is_empty() { "none" } else { "pass" };
        sets.push(Set { places: [results, message, seal], seal: read_seal(value(seal), expected)? });
    }
    let Some([_, place, _]) = sets.last().map(|newest| newest.places) else { return Ok(None) };
    let sets = Sets { sets, message: read_message_signature(value(place))?, place };
    if sets.key_names().len() > MAX_KEY_NAMES {
        return Err(Broken("too many sealers"));
    }
    Ok(Some(sets))
}

/// The instance of a field, whose name is at `kind` in [`NAMES`]: the `i=` that stands first in an
/// ARC-Authentication-Results, comments beside it or not (RFC 8617 §4.1.1), and anywhere in the others, which are tag
/// lists and whose signers don't always begin with it.
fn instance(kind: usize, value: &[u8]) -> Option<usize> {
    let number = |tags: TagList<'_>| tags.text("i");
    let text = if kind == RESULTS {
        instance_text(value)?.to_owned()
    } else {
        let first = value.split(|b| *b == b';').next().and_then(TagList::parse).and_then(number);
        first.or_else(|| TagList::parse(value).and_then(number))?
    };
    let is_number = text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| is_number && (1..=MAX_SETS).contains(n))
}

fn read_message_signature(value: &[u8]) -> Result<Signature, Broken> {
    let tags = TagList::parse(value).ok_or(Broken("ARC-Message-Signature can't be read"))?;
    let signature = Signature::read_versionless(&tags).map_err(|fault| Broken(fault.reason))?;
    // RFC 8617 §4.1.2: none of the three may be signed by it.
    let is_arc = |name: &[u8]| NAMES.iter().any(|arc| name.eq_ignore_ascii_case(arc.as_bytes()));
    if signature.signed().any(is_arc) {
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
/// §5.1.1). Each field is hashed once, in the order of the sets.
fn verify_seals(sets: &[Set], message: &Message<'_>) -> impl Iterator<Item = Result<(), SignatureFault>> {
    let mut covered = Context::new(&SHA256);
    let mut hashes = Vec::with_capacity(sets.len());
    let mut octets = Vec::new();
    for set in sets {
        let [results, message_signature, seal] = set.places.map(|place| message.fields.at(place));
        for field in [results, message_signature].into_iter().flatten() {
            octets.clear();
            write_field(field, Canonicalization::Relaxed, &mut octets);
            covered.update(&octets);
        }
        if let Some(seal) = seal {
            let mut own = covered.clone();
            octets.clear();
            write_own(seal, &set.seal.own_value, Canonicalization::Relaxed, &mut octets);
            own.update(&octets);
            hashes.push(own.finish());
            octets.clear();
            write_field(seal, Canonicalization::Relaxed, &mut octets);
            covered.update(&octets);
        }
    }
    sets.iter().zip(hashes).rev().map(move |(set, hash)| {
        let keys = message.keys.of(&set.seal, IdentityScope::OfDomain)?;
        let fits = keys.iter().any(|key| key.verifies(&hash, &set.seal.signature));
        if fits { Ok(()) } else { Err(SignatureFault::failed("a seal does not match")) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::zone::Zone;
    use crate::dns::{Failure, RecordType};
    use crate::evaluation::dkim::signer::{Signer as TestSigner, SigningKey};
    use crate::label::Label;
    use crate::message::body_hash::BodyHasher;
    use ArcResult::{Fail, None as NoChain, Pass, TempError};

    const NOW: u64 = 1_800_000_000;
    const MESSAGE: &str = "From: j@a.example\r\nTo: t@b.example\r\nSubject: s\r\n\r\nHello\r\n \r\n";

    fn zone() -> Zone {
        let record = SigningKey::rsa().record();
        Zone::new()
            .txt("k._domainkey.one.example", &[&record])
            .txt("k._domainkey.two.example", &[&SigningKey::ed25519().record()])
            .txt("k._domainkey.three.example", &[&record])
    }

    fn one() -> TestSigner<'static> {
        TestSigner::new(SigningKey::rsa(), "one.example", "k")
    }

    fn two() -> TestSigner<'static> {
        TestSigner::new(SigningKey::ed25519(), "two.example", "k")
    }

    fn sealed(message: &str, signer: &TestSigner<'_>, instance: usize, cv: &str) -> String {
        signer.arc_set(message.as_bytes(), instance, cv) + message
    }

    /// Sealed by one.example, changed by a list that two.example runs, sealed again.
    fn chain() -> String {
        sealed(&sealed(MESSAGE, &one(), 1, "none").replace("Subject: s", "Subject: [list] s"), &two(), 2, "pass")
    }

    fn evaluate(message: &str, zone: &Zone) -> ArcOutput {
        let header_end = message.find("\r\n\r\n").unwrap() + 4;
        let section = HeaderSection::parse(message.as_bytes()[..header_end].to_vec());
        let chain = Chain::read(&section);
        let mut hasher = BodyHasher::new(chain.body_hash_spec().into_iter().collect());
        hasher.update(&message.as_bytes()[header_end..]);
        let mut keys = std::pin::pin!(chain.keys(zone));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(keys) = keys.as_mut().poll(&mut context) else { panic!("the zone waits") };
        chain.verify(&section, &keys, &hasher.finish(), NOW)
    }

    #[test]
    fn a_sound_chain_passes_and_names_its_sealers() {
        let zone = zone();
        let found = evaluate(&chain(), &zone);
        assert_eq!((found.result, found.reason), (Pass, "chain validates"));
        let sets: Vec<_> = found.sets.iter().map(|set| (set.instance, set.sealer.as_str())).collect();
        assert_eq!(sets, [(1, "one.example"), (2, "two.example")]);
        assert_eq!(zone.asked().len(), 2);
        let single = evaluate(&sealed(MESSAGE, &one().set("c", "simple/simple"), 1, "none"), &zone);
        assert_eq!((single.result, single.sets.len()), (Pass, 1));
        let mut long = sealed(MESSAGE, &one(), 1, "none");
        for instance in 2..=50 {
            let signer = if instance % 2 == 0 { two() } else { one() };
            long = sealed(&long, &signer, instance, "pass");
        }
        assert_eq!(evaluate(&long, &zone).reason, "chain validates");
        let too_long = long.replacen("i=50;", "i=51;", 9);
        assert_eq!(evaluate(&too_long, &zone).reason, "i= is not from 1 to 50");
    }

    #[test]
    fn the_sets_tell_what_their_sealers_found() {
        let said = |message: &str, signer: &TestSigner<'_>, instance, cv, results: &str| {
            signer.arc_set_saying(message.as_bytes(), instance, cv, results) + message
        };
        let first = said(MESSAGE, &one(), 1, "none", "dmarc=pass header.from=A.example; spf=pass");
        let changed = first.replace("Subject: s", "Subject: [list] s");
        let message =
            said(&changed, &two(), 2, "pass", "dmarc=fail header.from=a.example; dmarc=pass header.from=a.example");
        let found = evaluate(&message, &zone());
        let findings: Vec<_> = found.sets.iter().map(|set| set.dmarc.as_ref().map(|d| d.result.as_str())).collect();
        assert_eq!(findings, [Some("pass"), None]);
        let doubt = evaluate(&message, &zone().fail("k._domainkey.one.example", RecordType::Txt, Failure::Timeout));
        assert_eq!((doubt.result, doubt.sets.len()), (TempError, 0), "no set of a chain in doubt is evidence");
        assert_eq!((found.unverified.len(), doubt.unverified), (0, found.sets), "it tells what may yet be said");
        let broken = message.replace("[list]", "[List]");
        let broken = evaluate(&broken, &zone().fail("k._domainkey.one.example", RecordType::Txt, Failure::Timeout));
        assert_eq!((broken.result, broken.unverified.len()), (Fail, 0), "what can't pass any more is no doubt");
    }

    #[test]
    fn what_is_wrong_with_a_chain_makes_it_fail() {
        let chain = chain();
        let without = |name: &str| {
            let at = chain.find(name).unwrap();
            let end = at + chain[at..].find("\r\nARC").or(chain[at..].find("\r\nFrom")).unwrap() + 2;
            format!("{}{}", &chain[..at], &chain[end..])
        };
        let resealed = |signer: &TestSigner<'_>, instance: usize, cv: &str| sealed(&chain, signer, instance, cv);
        let twice = chain.replacen("ARC-Seal: i=2", "ARC-Seal: i=2; x=y\r\nARC-Seal: i=2", 1);
        let sealers = |count: usize| {
            (0..count).fold(MESSAGE.to_owned(), |message, i| {
                let signer = TestSigner::new(SigningKey::ed25519(), &format!("d{i}.example"), "k");
                sealed(&message, &signer, i + 1, if i == 0 { "none" } else { "pass" })
            })
        };
        let garbage_behind = chain.replacen("ARC-Seal: i=2;", "ARC-Seal: i=2; \u{1};", 1);
        let cases: [(&str, String, ArcResult, &str); 28] = [
            ("no ARC field", MESSAGE.into(), NoChain, "no chain"),
            ("body changed", chain.replace("Hello", "Hallo"), Fail, "body hash does not match"),
            ("signed field changed", chain.replace("[list]", "[List]"), Fail, "signature does not match"),
            ("results forged", chain.replacen("spf=pass", "spf=fail", 1), Fail, "a seal does not match"),
            ("old results forged", chain.replace("i=1; relay", "i=1; other"), Fail, "a seal does not match"),
            ("old seal changed", chain.replace("i=1; a=rsa", "i=1; y=z; a=rsa"), Fail, "a seal does not match"),
            ("results missing", without("ARC-Authentication-Results: i=1"), Fail, "a set is not complete"),
            ("seal missing", without("ARC-Seal: i=2"), Fail, "a set is not complete"),
            ("signature missing", without("ARC-Message-Signature"), Fail, "a set is not complete"),
            ("a seal alone", format!("ARC-Seal: i=1; cv=none\r\n{MESSAGE}"), Fail, "a set is not complete"),
            ("gap", resealed(&one(), 4, "pass"), Fail, "a set is not complete"),
            ("instance again", resealed(&one(), 2, "pass"), Fail, "a field stands twice in one set"),
            ("seal twice", twice, Fail, "a field stands twice in one set"),
            ("instance 0", format!("ARC-Seal: i=0; cv=none\r\n{chain}"), Fail, "i= is not from 1 to 50"),
            ("instance missing", format!("ARC-Seal: cv=none\r\n{chain}"), Fail, "i= is not from 1 to 50"),
            ("signed instance", format!("ARC-Seal: i=+1; cv=none\r\n{chain}"), Fail, "i= is not from 1 to 50"),
            ("zeros", format!("ARC-Seal: i=001; cv=none\r\n{chain}"), Fail, "i= is not from 1 to 50"),
            ("garbage", format!("ARC-Seal: \u{1}\r\n{chain}"), Fail, "i= is not from 1 to 50"),
            ("garbage behind the instance", garbage_behind, Fail, "ARC-Seal can't be read"),
            ("huge instance", format!("ARC-Seal: i=99999999999999999999\r\n{chain}"), Fail, "i= is not from 1 to 50"),
            ("cv=fail", resealed(&one(), 3, "fail"), Fail, "a sealer found the chain broken"),
            ("cv=none later", resealed(&one(), 3, "none"), Fail, "cv= is not what it must be"),
            ("cv=pass first", sealed(MESSAGE, &one(), 1, "pass"), Fail, "cv= is not what it must be"),
            (
                "signs ARC fields",
                sealed(MESSAGE, &one().set("h", "from:arc-seal"), 1, "none"),
                Fail,
                "ARC-Message-Signature signs ARC fields",
            ),
            ("expired", sealed(MESSAGE, &one().set("x", 5), 1, "none"), Fail, "signature has expired"),
            (
                "end unsigned",
                sealed(MESSAGE, &one().set("l", 2), 1, "none"),
                Fail,
                "the end of the body is not signed (l=)",
            ),
            ("ten sealers, all without a key", sealers(10), Fail, "no key"),
            ("eleven sealers", sealers(11), Fail, "too many sealers"),
        ];
        for (name, message, result, reason) in cases {
            let found = evaluate(&message, &zone());
            assert_eq!((found.result, found.reason), (result, reason), "{name}");
            assert!(found.sets.is_empty(), "{name}");
        }
    }

    #[test]
    fn of_the_message_signatures_the_newest_alone_counts() {
        let cases = [
            ("algorithm", one().set("a", "rsa-sha1"), "rsa-sha1 is not accepted"),
            ("From unsigned", one().set("h", "subject"), "From is not signed"),
            ("signs ARC fields", one().set("h", "from:arc-seal"), "ARC-Message-Signature signs ARC fields"),
            ("canonicalization", one().set("c", "loose/relaxed"), "unknown canonicalization"),
            ("body hash missing", one().set("bh", ""), "bh= is missing"),
            ("signature wrong", one().set("b", "AAAA"), "signature does not match"),
            ("query method", one().set("q", "dns/other"), "unknown query method"),
            ("expired", one().set("x", 5), "signature has expired"),
        ];
        for (name, signer, reason) in cases {
            let first = sealed(MESSAGE, &signer, 1, "none");
            let newest = evaluate(&first, &zone());
            assert_eq!((newest.result, newest.reason), (Fail, reason), "{name}");
            let older = evaluate(&sealed(&first, &two(), 2, "pass"), &zone());
            assert_eq!((older.result, older.reason, older.sets.len()), (Pass, "chain validates", 2), "{name}");
        }
    }

    #[test]
    fn comments_may_stand_beside_the_instance_of_results() {
        for (value, result) in [
            ("i=1 (first); relay.example; spf=pass", Pass),
            (" (a (b)) i (c) = (d) 1 (e\\)) ; relay.example; spf=pass", Pass),
            ("i=1 (first; relay.example; spf=pass", Fail),
            ("(i=1); relay.example; spf=pass", Fail),
            ("relay.example; i=1; spf=pass", Fail),
        ] {
            let found = evaluate(&(one().arc_set_with(MESSAGE.as_bytes(), 1, "none", value) + MESSAGE), &zone());
            assert_eq!(found.result, result, "{value}: {}", found.reason);
        }
    }

    #[test]
    fn odd_fields_cost_nothing_but_the_chain() {
        let field = |name: &str, value: &str| format!("{name}: {value}\r\n");
        let hundreds: String = (1..=300).flat_map(|i| NAMES.map(|name| field(name, &format!("i={i}; a=b")))).collect();
        let again: String = (0..300).map(|_| field("ARC-Seal", "i=1; cv=none")).collect();
        let cases = [
            ("hundreds of sets", hundreds),
            ("hundreds of fields of one set", again),
            ("a huge field", field("ARC-Seal", &format!("i=1; {}", "x".repeat(900_000)))),
            ("a huge list", field("ARC-Message-Signature", &"i=1;".repeat(200_000))),
            ("many foldings", field("ARC-Authentication-Results", &"\r\n i=1;".repeat(50_000))),
            ("many comments", field("ARC-Authentication-Results", &format!("i=1; {}", "(".repeat(500_000)))),
            ("empty", NAMES.map(|name| field(name, "")).concat()),
            ("NUL", field("ARC-Seal", "i=1\0; cv=none")),
            ("NUL alone", field("ARC-Seal", "\0")),
            ("bare CR", field("ARC-Seal", "i=1;\rcv=none")),
            ("beyond ASCII", field("ARC-Seal", "i=\u{661}; cv=none")),
            ("signed instance", field("ARC-Seal", "i=+1; cv=none")),
            ("zeros", field("ARC-Seal", "i=0001; cv=none")),
            ("space before the colon", field("ARC-Seal ", "i=1; cv=none")),
            ("another case", field("arc-SEAL", "i=1; cv=none")),
            ("no value", "ARC-Seal:\r\nARC-Message-Signature:\r\n".into()),
        ];
        for (name, fields) in cases {
            let found = evaluate(&(fields + &chain()), &zone());
            assert_eq!((found.result, found.sets.len()), (Fail, 0), "{name}");
        }
    }

    #[test]
    fn h_in_a_seal_fails() {
        let message = chain().replacen("ARC-Seal: i=2;", "ARC-Seal: i=2; h=from;", 1);
        assert_eq!(evaluate(&message, &zone()).reason, "ARC-Seal has h=");
    }

    #[test]
    fn dns_decides_what_the_chain_leaves_open() {
        let seal = "k._domainkey.one.example";
        let record = SigningKey::ed25519().record();
        let partly = || Zone::new().txt("k._domainkey.two.example", &[&record]);
        let broken = chain().replace("Hello", "Hallo");
        let cases = [
            ("no key", chain(), partly(), Fail, "no key"),
            (
                "SERVFAIL",
                chain(),
                partly().fail(seal, RecordType::Txt, Failure::ServFail),
                TempError,
                "key look-up failed: servfail",
            ),
            (
                "broken anyway",
                broken,
                partly().fail(seal, RecordType::Txt, Failure::Timeout),
                Fail,
                "body hash does not match",
            ),
        ];
        for (name, message, zone, result, reason) in cases {
            let found = evaluate(&message, &zone);
            assert_eq!((found.result, found.reason), (result, reason), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn mutated_chains_never_panic(at in 0_usize..3000, octet in 0_u8..128, remove in proptest::bool::ANY) {
            let mut message = chain().into_bytes();
            let at = at % (message.len() - MESSAGE.len());
            if remove { message.remove(at); } else { message[at] = octet; }
            if let Ok(text) = String::from_utf8(message) && text.contains("\r\n\r\n") {
                evaluate(&text, &zone());
            }
        }
    }
}
