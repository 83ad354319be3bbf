//! Signatures made for the test, right and wrong, through the whole of the module.

use proptest::prelude::*;

use super::key_tests::KEY_512;
use super::signer::{Signer, SigningKey, base64};
use super::*;
use crate::dns::zone::Zone;
use crate::dns::{Failure, RecordType};
use crate::label::Label;
use crate::message::body_hash::BodyHasher;
use DkimResult::{Fail, Neutral, Pass, PermError, Policy, TempError};

const NOW: u64 = 1_800_000_000;
pub(super) const MESSAGE: &str = "From: John <john@a.example>\r\nTo: t@b.example\r\nSubject: one\r\n  two \r\nX-Other: x\r\n\r\n\
    Hello  world \r\n\r\n bye\r\n \r\n\r\n";

pub(super) fn zone() -> Zone {
    let rsa = SigningKey::rsa().record();
    let ed25519 = SigningKey::ed25519().record();
    Zone::new().txt("r._domainkey.a.example", &[&rsa]).txt("e._domainkey.a.example", &[&ed25519])
}

pub(super) fn rsa() -> Signer<'static> {
    Signer::new(SigningKey::rsa(), "a.example", "r")
}

pub(super) fn ed25519() -> Signer<'static> {
    Signer::new(SigningKey::ed25519(), "a.example", "e")
}

pub(super) fn evaluate(message: &[u8], zone: &Zone) -> Vec<DkimOutput> {
    evaluate_for(message, zone, &["a.example"], 20)
}

fn evaluate_for(message: &[u8], zone: &Zone, authors: &[&str], limit: usize) -> Vec<DkimOutput> {
    verified(message, zone, authors, limit).outputs
}

fn verified(message: &[u8], zone: &Zone, authors: &[&str], limit: usize) -> Verified {
    let header_end = message.windows(4).position(|w| w == b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    let section = HeaderSection::parse(message[..header_end].to_vec());
    let authors: Vec<_> = authors.iter().map(|a| Domain::parse(a).unwrap()).collect();
    let signatures = Signatures::read(&section, &authors, limit);
    let mut hasher = BodyHasher::new(signatures.body_hash_specs());
    hasher.update(&message[header_end..]);
    let keys = ready(signatures.keys(zone));
    signatures.verify(&section, &keys, &hasher.finish(), NOW)
}

/// The test zone answers at the first poll.
pub(super) fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the zone waits"),
    }
}

pub(super) fn one(message: &[u8], zone: &Zone) -> DkimOutput {
    let mut outputs = evaluate(message, zone);
    assert_eq!(outputs.len(), 1);
    outputs.remove(0)
}

#[test]
fn sound_signatures_pass() {
    let messages = [
        ("plain", MESSAGE),
        ("empty body", "From: j@a.example\r\nTo: t\r\nSubject: s\r\n\r\n"),
        ("no empty line", "From: j@a.example\r\nTo: t\r\nSubject: s\r\n"),
        ("no final line end", "From: j@a.example\r\n\r\nx"),
        ("white space lines at the end", "From: j@a.example\r\n\r\nx\r\n \t\r\n \r\n"),
        ("white space lines alone", "From: j@a.example\r\n\r\n \t\r\n \r\n"),
        ("bare CR", "From: j@a.example\r\nSubject: a\rb\r\n\r\nx\ry\r\n\r"),
        ("odd spelling", "FROM : j@a.example\r\nsubject:\r\n folded\r\n\t \r\n\tmore\r\n\r\nx"),
    ];
    for (name, message) in messages {
        for signer in [rsa(), ed25519()] {
            for c in ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed", "relaxed", "Simple"] {
                let output = one(&signer.clone().set("c", c.to_lowercase()).sign(message.as_bytes()), &zone());
                assert_eq!(output.result, Pass, "{name}, {c}: {}", output.reason);
                assert_eq!(output.key, KeySearch::Found);
            }
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn each_tag_has_its_rules() {
    let whole = rsa().field(MESSAGE.as_bytes());
    let (_, bh) = whole.split_once("bh=").unwrap();
    let bh = bh.split_once(';').unwrap().0;
    let names = |count: usize| format!("from{}", ":x".repeat(count - 1));
    let cases: [(&str, Signer, DkimResult, &str); 78] = [
        ("simple is the default", rsa().without("c"), Pass, ""),
        ("tags unknown", rsa().set("zz", "x=y").set("z", "From:a=7C"), Pass, ""),
        ("white space in lists", rsa().set("h", "From : To :\r\n Subject"), Pass, ""),
        ("query method", rsa().set("q", "dns/txt"), Pass, ""),
        ("query methods", rsa().set("q", "x/y : DNS/TXT"), Pass, ""),
        ("query method unknown", rsa().set("q", "dns/other"), PermError, "unknown query method"),
        ("expires later", rsa().set("t", NOW - 9).set("x", NOW), Pass, ""),
        ("expired", rsa().set("t", NOW - 9).set("x", NOW - 1), Fail, "signature has expired"),
        ("expired without t=", rsa().set("x", 1), Fail, "signature has expired"),
        ("x= before t=", rsa().set("t", NOW - 9).set("x", NOW - 10), PermError, "x= is not after t="),
        ("x= huge", rsa().set("x", "9".repeat(70)), Pass, ""),
        ("x= no number", rsa().set("x", "-1"), Neutral, "x= is no number"),
        ("clock ahead", rsa().set("t", NOW + 600), Pass, ""),
        ("clock ahead as far as it may be", rsa().set("t", NOW + 3600), Pass, ""),
        ("a second further", rsa().set("t", NOW + 3601), Fail, "signature is of the future"),
        ("of the future", rsa().set("t", NOW + 86_400), Fail, "signature is of the future"),
        ("t= empty", rsa().set("t", ""), Neutral, "t= is no number"),
        ("i= of d=", rsa().set("i", "john@a.example"), Pass, ""),
        ("i= without local part", rsa().set("i", "@A.example"), Pass, ""),
        ("i= below d=", rsa().set("i", "@x.a.example"), Pass, ""),
        ("i= encoded", rsa().set("i", "j=20o=\r\n 3B@a.ex=61mple"), Pass, ""),
        ("i= badly encoded", rsa().set("i", "j=2@a.example"), Neutral, "i= is no identity"),
        ("i= without at sign", rsa().set("i", "a.example"), Neutral, "i= is no identity"),
        ("i= above d=", rsa().set("i", "@example"), PermError, "i= is not within d="),
        ("i= elsewhere", rsa().set("i", "@b.example"), PermError, "i= is not within d="),
        ("i= looks like d=", rsa().set("i", "@xa.example"), PermError, "i= is not within d="),
        ("From oversigned", rsa().set("h", "from:from:to:subject:cc:cc"), Pass, ""),
        ("From not signed", rsa().set("h", "to:subject"), PermError, "From is not signed"),
        ("h= with as many names as it may have", rsa().set("h", names(500)), Pass, ""),
        ("h= with one more", rsa().set("h", names(501)), Neutral, "h= has too many names"),
        ("h= with empty names", rsa().set("h", "from::to:"), Pass, "signature matches"),
        ("h= of nothing", rsa().set("h", ":"), PermError, "From is not signed"),
        ("h= missing", rsa().without("h"), PermError, "h= is missing"),
        ("v= missing", rsa().without("v"), PermError, "v= is missing"),
        ("v=2", rsa().set("v", "2"), PermError, "unknown version"),
        ("a= missing", rsa().without("a"), PermError, "a= is missing"),
        ("a= in upper case", rsa().set("a", "RSA-SHA256"), Pass, ""),
        ("rsa-sha1", rsa().set("a", "rsa-sha1"), PermError, "rsa-sha1 is not accepted"),
        ("a= unknown", rsa().set("a", "rsa-sha512"), PermError, "unknown algorithm"),
        ("a= of another key", rsa().set("a", "ed25519-sha256"), PermError, "key type does not fit the algorithm"),
        ("c= unknown", rsa().set("c", "relaxed/nofws"), Neutral, "unknown canonicalization"),
        ("d= missing", rsa().without("d"), PermError, "d= is missing"),
        ("d= odd", rsa().set("d", "a.example(.b.example"), Neutral, "d= is no domain name"),
        ("d= empty", rsa().set("d", ""), PermError, "d= is missing"),
        ("d= in upper case", rsa().set("d", "A.Example"), Pass, ""),
        ("s= missing", rsa().without("s"), PermError, "s= is missing"),
        ("s= odd", rsa().set("s", "r/x"), Neutral, "s= is no selector"),
        ("s= with a dot at its end", rsa().set("s", "r."), Neutral, "s= is no selector"),
        ("d= with a dot at its end", rsa().set("d", "a.example."), Neutral, "d= is no domain name"),
        ("white space inside d=", rsa().set("d", "a. example"), Neutral, "d= is no domain name"),
        ("white space inside s=", rsa().set("s", "r\r\n r"), Neutral, "s= is no selector"),
        ("white space inside c=", rsa().set("c", "relaxed /relaxed"), Neutral, "unknown canonicalization"),
        ("white space inside a=", rsa().set("a", "rsa -sha256"), PermError, "unknown algorithm"),
        ("white space around values", rsa().set("d", " a.example\t").set("s", "\r\n r ").set("v", " 1 "), Pass, ""),
        ("white space inside bh=", rsa().set("bh", format!("\r\n\t{}", bh.replace('a', "a \t"))), Pass, ""),
        ("padding of bh= missing", rsa().set("bh", bh.trim_end_matches('=')), Pass, ""),
        ("padding of bh= doubled", rsa().set("bh", format!("{bh}=")), Neutral, "bh= is not base64"),
        ("tag twice", rsa().set("d", "a.example; d=a.example"), Neutral, "signature can't be read"),
        ("tag in another case is another", rsa().set("D", "b.example"), Pass, ""),
        ("required tag in another case", rsa().without("d").set("D", "a.example"), PermError, "d= is missing"),
        ("v=DKIM1", rsa().set("v", "DKIM1"), PermError, "unknown version"),
        ("v=01", rsa().set("v", "01"), PermError, "unknown version"),
        ("x= equal to t=", rsa().set("t", NOW - 9).set("x", NOW - 9), PermError, "x= is not after t="),
        ("i= as a U-label of d=", rsa().set("i", "@bücher.a.example"), Pass, ""),
        ("i= with two at signs", rsa().set("i", "@b.example@a.example"), Pass, ""),
        ("i= with its domain elsewhere", rsa().set("i", "@a.example@b.example"), PermError, "i= is not within d="),
        ("l= empty", rsa().set("l", ""), Neutral, "l= is no number"),
        ("l= negative", rsa().set("l", "-1"), Neutral, "l= is no number"),
        ("bh= missing", rsa().set("bh", ""), PermError, "bh= is missing"),
        ("bh= of another body", rsa().set("bh", base64(&[7; 32])), Fail, "body hash does not match"),
        ("bh= short", rsa().set("bh", base64(&[7; 3])), Fail, "body hash does not match"),
        ("bh= no base64", rsa().set("bh", "*"), Neutral, "bh= is not base64"),
        ("b= empty", rsa().set("b", ""), PermError, "b= is missing"),
        ("b= no base64", rsa().set("b", "abc*"), Neutral, "b= is not base64"),
        ("b= garbage", rsa().set("b", base64(&[7; 256])), Fail, "signature does not match"),
        ("b= garbage, ed25519", ed25519().set("b", base64(&[7; 64])), Fail, "signature does not match"),
        ("b= short", rsa().set("b", "AAAA"), Fail, "signature does not match"),
        ("l= no number", rsa().set("l", "1 0"), Neutral, "l= is no number"),
    ];
    for (name, signer, result, reason) in cases {
        let output = one(&signer.sign(MESSAGE.as_bytes()), &zone());
        assert_eq!(output.result, result, "{name}: {}", output.reason);
        assert_eq!(output.reason, if reason.is_empty() { "signature matches" } else { reason }, "{name}");
    }
}

#[test]
fn length_covers_the_whole_body_or_is_policy() {
    // Relaxed, the body of MESSAGE is "Hello world\r\n\r\n bye\r\n": 21 octets.
    let cases = [
        (21, Pass, "signature matches"),
        (20, Policy, "the end of the body is not signed (l=)"),
        (0, Policy, "the end of the body is not signed (l=)"),
        (22, PermError, "l= is larger than the body"),
        (u64::MAX, PermError, "l= is larger than the body"),
    ];
    for (length, result, reason) in cases {
        let output = one(&rsa().set("l", length).sign(MESSAGE.as_bytes()), &zone());
        assert_eq!((output.result, output.reason), (result, reason), "l={length}");
    }
    let appended = [rsa().set("l", 21).sign(MESSAGE.as_bytes()), b"more\r\n".to_vec()].concat();
    assert_eq!(one(&appended, &zone()).result, Policy);
    let empty_lines = [rsa().set("l", 21).sign(MESSAGE.as_bytes()), b"\r\n \r\n".to_vec()].concat();
    assert_eq!(one(&empty_lines, &zone()).result, Pass);
    let beyond_64_bits = rsa().set("l", "9".repeat(76)).sign(MESSAGE.as_bytes());
    assert_eq!(one(&beyond_64_bits, &zone()).result, PermError);
}

#[test]
fn a_changed_message_fails() {
    let signed = String::from_utf8(rsa().set("h", "from:from:to:subject:cc").sign(MESSAGE.as_bytes())).unwrap();
    let cases = [
        ("nothing", "From: ", "From: ", Pass),
        ("unsigned field", "X-Other: x", "X-Other: y", Pass),
        ("white space", "Subject: one\r\n  two", "subject :one two", Pass),
        ("Subject", "one", "two", Fail),
        ("From", "john@", "jane@", Fail),
        ("To removed", "To: t@b.example\r\n", "", Fail),
        ("oversigned From on top", "DKIM-Signature", "From: x@b.example\r\nDKIM-Signature", Fail),
        ("oversigned From below", "X-Other", "From: x@b.example\r\nX-Other", Fail),
        ("Cc added", "X-Other", "Cc: x@b.example\r\nX-Other", Fail),
        ("second To below", "X-Other", "To: x@b.example\r\nX-Other", Fail),
        ("second To above", "From: ", "To: x@b.example\r\nFrom: ", Policy),
        ("second unsigned field above", "From: ", "X-Other: y\r\nFrom: ", Pass),
        ("body", "bye", "bye!", Fail),
        ("white space in the body", "bye", "bye\t ", Pass),
        ("own field", "c=relaxed/relaxed", "c=relaxed/relaxed ", Fail),
        ("own field's white space", "c=relaxed/relaxed;", "c=relaxed/relaxed;  ", Pass),
        ("white space in b=", "b=", "b= \r\n ", Pass),
    ];
    for (name, from, to, expected) in cases {
        assert!(signed.contains(from), "{name}");
        // The signature stands first; what is meant is the last mention.
        let changed = match signed.rfind(from) {
            Some(at) if name != "white space in b=" => format!("{}{to}{}", &signed[..at], &signed[at + from.len()..]),
            _ => signed.replacen("\tb=", "\tb= \r\n ", 1),
        };
        let output = one(changed.as_bytes(), &zone());
        assert_eq!(output.result, expected, "{name}: {}", output.reason);
        assert_eq!(output.key, KeySearch::Found, "{name}");
    }
}

#[test]
fn a_field_that_stands_once_is_covered_as_often_as_it_stands() {
    let message = MESSAGE.replacen("To: ", "Date: today\r\nTo: ", 1);
    let once = "from:to:subject:date:x-other";
    let cases = [
        ("nothing", once, "", Pass, "signature matches"),
        ("Subject", once, "Subject: two\r\n", Policy, "Subject stands again, unsigned"),
        ("in another case", once, "SUBJECT : two\r\n", Policy, "Subject stands again, unsigned"),
        ("To", once, "To: u@b.example\r\n", Policy, "To stands again, unsigned"),
        ("Date", once, "Date: then\r\n", Policy, "Date stands again, unsigned"),
        ("a copy", once, "Subject: one two\r\n", Pass, "signature matches"),
        ("a copy and another", once, "Subject: one two\r\nSubject: one\r\n", Policy, "Subject stands again, unsigned"),
        ("two of them", once, "Date: then\r\nTo: u@b.example\r\n", Policy, "To stands again, unsigned"),
        ("From", once, "From: u@b.example\r\n", Policy, "From stands again, unsigned"),
        ("what may stand often", once, "X-Other: two\r\nReceived: x\r\n", Pass, "signature matches"),
        ("what was not there", once, "Reply-To: u@b.example\r\nContent-Type: text/html\r\n", Pass, "signature matches"),
        ("twice, never signed", "from:date", "Subject: two\r\n", Pass, "signature matches"),
        ("oversigned", "from:to:subject:subject", "Subject: two\r\n", Fail, "signature does not match"),
    ];
    for (name, signed, added, result, reason) in cases {
        let signed = rsa().set("h", signed).sign(message.as_bytes());
        let output = one(&[added.as_bytes(), &signed].concat(), &zone());
        assert_eq!((output.result, output.reason), (result, reason), "{name}");
    }
    // Signed as it stands, both of them.
    let twice = message.replacen("Subject: ", "Subject: two\r\nSubject: ", 1);
    let signer = rsa().set("h", "from:subject:to:subject");
    assert_eq!(one(&signer.sign(twice.as_bytes()), &zone()).result, Pass);
    let three = [b"Subject: three\r\n".as_slice(), &signer.sign(twice.as_bytes())].concat();
    assert_eq!(one(&three, &zone()).reason, "Subject stands again, unsigned");
}

#[test]
fn keys_have_their_rules() {
    let rsa_key = SigningKey::rsa().public();
    let ed_key = SigningKey::ed25519().public();
    // With the equals sign, since letters alone may stand in any key.
    let (rsa_tag, ed_tag) = (format!("p={rsa_key}"), format!("p={ed_key}"));
    let record = |text: &str| text.replace("p=RSA", &rsa_tag).replace("p=ED", &ed_tag);
    let spaced = rsa_key.split_at(40);
    let spaced = format!("p={} \t{};", spaced.0, spaced.1);
    let unpadded = format!("p={}", rsa_key.trim_end_matches('='));
    let below = || rsa().set("i", "@x.a.example");
    // The first octet of the exponent's tag is broken.
    let broken_der = base64(&[0x30, 0x82, 0x01, 0x0a, 0x02, 0x82]);
    let cases: [(&str, Signer, &[&str], DkimResult, &str); 38] = [
        ("plain", rsa(), &["v=DKIM1; p=RSA"], Pass, "signature matches"),
        ("key alone", rsa(), &["p=RSA"], Pass, "signature matches"),
        ("semicolons", rsa(), &["v=DKIM1;;k=rsa; p=RSA;;"], Pass, "signature matches"),
        ("white space in the key", rsa(), &[&spaced], Pass, "signature matches"),
        ("no padding", rsa(), &[&unpadded], Pass, "signature matches"),
        ("upper case kind", rsa(), &["k=RSA-; p=RSA"], PermError, "unknown key type"),
        (
            "all allowed",
            rsa(),
            &["v=DKIM1; h=sha1 : SHA256; k=rsa; s=x:email; t=x; n=note; p=RSA"],
            Pass,
            "signature matches",
        ),
        ("any service", rsa(), &["s=*; p=RSA"], Pass, "signature matches"),
        ("ed25519", ed25519(), &["k=ed25519; p=ED"], Pass, "signature matches"),
        ("test mode", rsa(), &["t=y; p=RSA"], Pass, "signature matches; the key is in test mode (t=y)"),
        ("granularity is historic", rsa(), &["g=; p=RSA"], Pass, "signature matches"),
        ("v= not first", rsa(), &["k=rsa; v=DKIM1; p=RSA"], PermError, "key record has another version"),
        ("v= in lower case", rsa(), &["v=dkim1; p=RSA"], PermError, "key record has another version"),
        ("v= of something else", rsa(), &["v=spf1 -all"], PermError, "key record has another version"),
        ("no tag list", rsa(), &["hello"], PermError, "key record can't be read"),
        ("twice the key", rsa(), &["p=RSA; p=RSA"], PermError, "key record can't be read"),
        ("no key", rsa(), &["v=DKIM1; k=rsa"], PermError, "key record has no key"),
        ("revoked", rsa(), &["v=DKIM1; p="], PermError, "key is revoked"),
        ("other service", rsa(), &["s=tlsrpt; p=RSA"], PermError, "key is for another service"),
        ("other hash", rsa(), &["h=sha1; p=RSA"], PermError, "key does not allow sha256"),
        ("other kind", ed25519(), &["p=RSA"], PermError, "key type does not fit the algorithm"),
        ("other kind, RSA", rsa(), &["k=ed25519; p=ED"], PermError, "key type does not fit the algorithm"),
        ("kind unknown", rsa(), &["k=x; p=RSA"], PermError, "unknown key type"),
        ("RSA key as ed25519", ed25519(), &["k=ed25519; p=RSA"], PermError, "public key can't be read"),
        ("ed25519 key as RSA", rsa(), &["k=rsa; p=ED"], PermError, "public key can't be read"),
        ("no base64", rsa(), &["p=*"], PermError, "public key can't be read"),
        ("broken DER", rsa(), &[&format!("p={broken_der}")], PermError, "public key can't be read"),
        ("512 bits", rsa(), &[KEY_512], PermError, "key is shorter than 1024 bits"),
        ("i= below d= allowed", below(), &["p=RSA"], Pass, "signature matches"),
        ("i= below d= forbidden", below(), &["t=y:s; p=RSA"], PermError, "key does not allow i= below d="),
        ("i= of d= with t=s", rsa().set("i", "x@a.example"), &["t=s; p=RSA"], Pass, "signature matches"),
        ("the second record is a key", rsa(), &["hello", "v=spf1 -all", "p=RSA"], Pass, "signature matches"),
        ("the second key fits", rsa(), &[OTHER_KEY, "p=RSA"], Pass, "signature matches"),
        ("the third key fits", rsa(), &["k=ed25519; p=ED", OTHER_KEY, "p=RSA"], Pass, "signature matches"),
        (
            "the fourth key is not tried",
            rsa(),
            &[OTHER_KEY, OTHER_KEY, OTHER_KEY, "p=RSA"],
            Fail,
            "signature does not match",
        ),
        ("no key fits", rsa(), &[OTHER_KEY], Fail, "signature does not match"),
        ("revoked beside another", rsa(), &["p=", "p=RSA"], Pass, "signature matches"),
        ("t=s beside another", below(), &["t=s; p=RSA", "p=RSA"], Pass, "signature matches"),
    ];
    for (name, signer, texts, result, reason) in cases {
        let texts: Vec<String> = texts.iter().map(|text| record(text)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let zone = Zone::new().txt("r._domainkey.a.example", &texts).txt("e._domainkey.a.example", &texts);
        let output = one(&signer.sign(MESSAGE.as_bytes()), &zone);
        assert_eq!((output.result, output.reason), (result, reason), "{name}");
        assert_eq!(output.key == KeySearch::Found, result != PermError, "{name}");
    }
}

#[test]
fn dns_has_the_first_word() {
    let broken = [rsa().sign(MESSAGE.as_bytes()), b"more".to_vec()].concat();
    let name = "r._domainkey.a.example";
    let cases = [
        ("no such name", Zone::new(), PermError, "no key"),
        ("no such record", Zone::new().a(name, &["192.0.2.1"]), PermError, "no key"),
        (
            "SERVFAIL",
            Zone::new().fail(name, RecordType::Txt, Failure::ServFail),
            TempError,
            "key look-up failed: servfail",
        ),
        (
            "time-out",
            Zone::new().fail(name, RecordType::Txt, Failure::Timeout),
            TempError,
            "key look-up failed: timeout",
        ),
        ("budget", Zone::new().fail(name, RecordType::Txt, Failure::Budget), TempError, "key look-up failed: budget"),
        ("key", zone(), Fail, "body hash does not match"),
    ];
    for (case, zone, result, reason) in cases {
        let output = one(&broken, &zone);
        assert_eq!((output.result, output.reason), (result, reason), "{case}");
        assert_eq!(output.key == KeySearch::Found, result == Fail, "{case}");
        assert_eq!(zone.asked().len(), 1, "{case}");
    }
}

#[test]
fn claims_are_kept_for_reports() {
    let signer = rsa().set("i", "j ohn@a.example").set("b", "ab c\r\n defghijk=");
    let output = one(&signer.sign(MESSAGE.as_bytes()), &zone());
    assert_eq!(output.domain, Some(Domain::parse("a.example").unwrap()));
    assert_eq!(&*output.selector, "r");
    assert_eq!(output.identity.as_deref(), Some("john@a.example"));
    assert_eq!(output.algorithm, Some("rsa-sha256"));
    assert_eq!(&*output.signature_start, "abcdefghijk=");
    let long = one(&rsa().set("b", "ab ".repeat(40)).sign(MESSAGE.as_bytes()), &zone());
    assert_eq!(*long.signature_start, *"ab".repeat(32));

    let garbage = one(b"DKIM-Signature: hello\r\nFrom: a@b\r\n\r\n", &zone());
    assert_eq!((garbage.result, garbage.domain, &*garbage.selector), (Neutral, None, ""));
    let sha1 = one(&rsa().set("a", "rsa-sha1").sign(MESSAGE.as_bytes()), &zone());
    assert_eq!(sha1.algorithm, Some("rsa-sha1"));
}

#[test]
fn internationalized_names_are_looked_up_as_a_labels() {
    let zone = Zone::new().txt("xn--nd-fka._domainkey.xn--bcher-kva.example", &[&SigningKey::rsa().record()]);
    let signer = Signer::new(SigningKey::rsa(), "Bücher.example", "önd").set("i", "@x.bücher.example");
    let output = one(&signer.sign(MESSAGE.as_bytes()), &zone);
    assert_eq!(output.domain, Some(Domain::parse("xn--bcher-kva.example").unwrap()));
    assert_eq!(zone.asked()[0].0.split_once("._domainkey.").unwrap().1, "xn--bcher-kva.example");
}

#[test]
fn aligned_signatures_are_chosen_first_and_reported_in_the_order_of_the_fields() {
    let mut message = MESSAGE.as_bytes().to_vec();
    let domains = ["a.example", "z.example", "sub.a.example", "b.x.example", "example", "a.example", "y.example"];
    for domain in domains.iter().rev() {
        message = Signer::new(SigningKey::ed25519(), domain, "e").sign(&message);
    }
    message = [b"DKIM-Signature: garbage\r\n".to_vec(), message].concat();
    let chosen = |limit, authors: &[&str]| {
        let outputs = evaluate_for(&message, &zone(), authors, limit);
        outputs.iter().map(|o| o.domain.as_ref().map_or("-".into(), Domain::to_string)).collect::<Vec<_>>().join(" ")
    };
    let all = "- a.example z.example sub.a.example b.x.example example a.example y.example";
    assert_eq!(chosen(20, &["a.example"]), all);
    assert_eq!(chosen(7, &["a.example"]), all[2..]);
    assert_eq!(chosen(2, &["a.example"]), "a.example a.example");
    assert_eq!(chosen(4, &["a.example"]), "a.example sub.a.example example a.example");
    assert_eq!(chosen(1, &["c.x.example"]), "example");
    assert_eq!(chosen(2, &["c.x.example"]), "b.x.example example");
    assert_eq!(chosen(2, &["z.example", "y.example"]), "z.example y.example");
    assert_eq!(chosen(2, &[]), "a.example z.example");
    assert_eq!(chosen(0, &["a.example"]), "");
    let section = HeaderSection::parse(message.clone());
    assert_eq!(Signatures::read(&section, &[], 3).skipped.len(), 5);
    assert_eq!(Signatures::read(&section, &[], 30).skipped.len(), 0);
}

#[test]
fn what_is_left_out_tells_whose_it_was() {
    let signed = rsa().sign(MESSAGE.as_bytes());
    let never = [rsa().without("h"), rsa().set("v", 2)].map(|signer| signer.field(MESSAGE.as_bytes())).concat();
    let foreign: String = (0..3).map(|i| rsa().set("d", "b.example").set("n", i).field(MESSAGE.as_bytes())).collect();
    let message = [never.as_bytes(), b"DKIM-Signature: garbage\r\n", foreign.as_bytes(), &signed].concat();
    let none = verified(&message, &zone(), &["a.example"], 0);
    let mut domains: Vec<_> = none.skipped_domains.iter().map(Domain::as_str).collect();
    domains.sort_unstable();
    assert_eq!((none.outputs.len(), none.skipped, domains), (0, 7, vec!["a.example", "b.example"]));
    let one = verified(&message, &zone(), &["a.example"], 1);
    assert_eq!((one.outputs[0].result, one.skipped), (Pass, 6));
    assert_eq!(one.skipped_domains.len(), 1, "what can never pass is no loss");
}

#[test]
fn the_octets_that_are_hashed_are_bounded_and_the_authors_signatures_come_first() {
    let big = format!("X-Big: {}\r\n{MESSAGE}", "x".repeat(1 << 20));
    let foreign = |i: u8| ed25519().set("d", "b.example").set("n", i).set("h", "from:x-big").field(big.as_bytes());
    let own = ed25519().set("h", "from:x-big").field(big.as_bytes());
    let message = (0..5).map(foreign).collect::<String>() + &own + &big;
    let zone = zone().txt("e._domainkey.b.example", &[&SigningKey::ed25519().record()]);
    let found = verified(message.as_bytes(), &zone, &["a.example"], 20);
    let results: Vec<_> = found.outputs.iter().map(|o| (o.domain.as_ref().unwrap().as_str(), o.result)).collect();
    let foreign = ("b.example", Pass);
    assert_eq!(results, [foreign, foreign, foreign, ("a.example", Pass)]);
    assert_eq!((found.skipped, found.skipped_domains.len()), (2, 1));
}

#[test]
fn an_identity_is_told_if_it_is_short_and_plain() {
    let fitting = format!("{}@a.example", "a".repeat(512 - "@a.example".len()));
    let longer = format!("a{fitting}");
    for (identity, is_told) in [("x@a.example", true), (&fitting, true), (&longer, false), ("x\u{85}@a.example", false)]
    {
        let found = one(&rsa().set("i", identity).sign(MESSAGE.as_bytes()), &zone());
        assert_eq!(found.identity.as_deref(), is_told.then_some(identity));
    }
}

#[test]
fn whether_there_is_a_key_is_told() {
    let signed = String::from_utf8(ed25519().sign(MESSAGE.as_bytes())).unwrap();
    let garbage = format!("DKIM-Signature: \u{1}\r\n{MESSAGE}");
    let nameless = format!("DKIM-Signature: v=1; a=rsa-sha256\r\n{MESSAGE}");
    let silent = || Zone::new().fail("e._domainkey.a.example", RecordType::Txt, Failure::ServFail);
    let cases = [
        ("there", &signed, zone(), KeySearch::Found),
        ("there, but the body is another", &signed.replace("\r\n\r\n", "\r\n\r\nx"), zone(), KeySearch::Found),
        ("not there", &signed, Zone::new(), KeySearch::Missing),
        ("not known", &signed, silent(), KeySearch::Unknown),
        ("not asked for, a signature that can't be read", &garbage, zone(), KeySearch::Unknown),
        ("not asked for, one that names none", &nameless, zone(), KeySearch::Unknown),
    ];
    for (name, message, zone, expected) in cases {
        assert_eq!(evaluate(message.as_bytes(), &zone)[0].key, expected, "{name}");
    }
}

#[test]
fn keys_and_hashes_are_asked_for_once() {
    let message = rsa().sign(&rsa().set("c", "simple/relaxed").sign(&rsa().set("l", 3).sign(MESSAGE.as_bytes())));
    let zone = zone();
    let outputs = evaluate(&message, &zone);
    assert_eq!(outputs.iter().map(|o| o.result).collect::<Vec<_>>(), [Pass, Pass, Policy]);
    assert_eq!(zone.asked().len(), 1);
}

#[test]
fn a_signature_may_sign_older_ones_but_never_itself() {
    let older = ed25519().sign(MESSAGE.as_bytes());
    let both = rsa().set("h", "from:dkim-signature:dkim-signature").sign(&older);
    let outputs = evaluate(&both, &zone());
    assert_eq!(outputs.iter().map(|o| o.result).collect::<Vec<_>>(), [Pass, Pass]);
}

#[test]
fn what_was_signed_is_told_of_the_very_field() {
    let copy = |h: &str| rsa().set("h", h).set("b", "A".repeat(100));
    let message = copy("from").sign(&copy("from:subject").sign(MESSAGE.as_bytes()));
    let head = message.split_inclusive(|b| *b == b'\n').take_while(|line| *line != b"\r\n");
    let section = HeaderSection::parse(head.collect::<Vec<_>>().concat());
    let signatures = Signatures::read(&section, &[], 20);
    let outputs = evaluate(&message, &zone());
    let signs_subject = |output: &DkimOutput| {
        let (header, _) = signatures.signed(&section, output).unwrap();
        header.windows(8).any(|octets| octets == b"subject:")
    };
    assert_eq!(outputs.iter().map(signs_subject).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn the_field_name_may_be_spelled_oddly() {
    for name in ["dkim-signature", "DKIM-SIGNATURE ", "Dkim-Signature\t"] {
        for c in ["simple/simple", "relaxed/relaxed"] {
            let signed = rsa().field_name(name).set("c", c).sign(MESSAGE.as_bytes());
            assert_eq!(one(&signed, &zone()).result, Pass, "{name:?} {c}");
        }
    }
}

#[test]
fn without_signatures_nothing_is_asked() {
    let zone = zone();
    assert!(evaluate(MESSAGE.as_bytes(), &zone).is_empty());
    assert!(zone.asked().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn mutated_signatures_never_panic_and_never_pass_wrongly(
        edits in proptest::collection::vec((0_usize..600, any::<u8>(), 0_u8..3), 1..4)
    ) {
        let signed = ed25519().set("t", NOW).set("i", "@a.example").set("l", 21).sign(MESSAGE.as_bytes());
        let mut mutated = signed.clone();
        for (at, octet, kind) in edits {
            let at = at % mutated.len();
            match kind {
                0 => mutated[at] = octet,
                1 => mutated.insert(at, octet),
                _ => { mutated.remove(at); }
            }
        }
        for output in evaluate(&mutated, &zone()) {
            prop_assert!(DkimResult::ALL.contains(&output.result));
            // A pass is a pass for the key's owner, whatever was changed where nothing is signed.
            if output.result == Pass {
                let domain = output.domain.unwrap();
                prop_assert_eq!(domain.as_str(), "a.example");
            }
        }
    }

    #[test]
    fn garbage_never_panics(
        value in "[vabdhsilctxq=;: \t0-9A-Za-z+/@.\r\n\u{0}-\u{ff}]{0,120}",
        record in "[vkpsthn=;: A-Za-z0-9+/\u{0}-\u{ff}]{0,80}",
    ) {
        let zone = Zone::new().txt("r._domainkey.a.example", &[&record]);
        evaluate(format!("DKIM-Signature: {value}\r\nFrom: a@b\r\n\r\nx").as_bytes(), &zone);
        evaluate(&rsa().sign(MESSAGE.as_bytes()), &zone);
    }
}

const OTHER_KEY: &str = "p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtS94jddM78/CvGXINH/0ti0w218LmFHFOIHFSBNLFJO8\
    gt3jW2RDvdNNqs4MIiGOVcj5Vvr7EyS5Jficp9DA7EgelXOhKxOqy9qwQ0JQtKu+cPQ6ksVQwNLFfhoO3/R8mopY86\
    r0D54z2zpVP6bduwrQJ7c7hWNeHJ82/hzaxMcNcshP82ZeyRGgW81aPEtoXuFRvjkU5Dpd9BEmbYp6KgWwmhrTGxW7\
    HmGNhPw64csWrTD8GORyvjYnYm8Dea07uo3k79iAzvn0S5D/VSYc+rvM00SC8pa8PnmyFvt/+0esbvegzxYvfoaJ8z\
    FfrrOH8C+bxplylJPMhL3gKt3MBwIDAQAB";
