//! Public keys of each size and form.

use super::signer::{Signer, SigningKey, base64};
use super::tests::{MESSAGE, ed25519, one, rsa, zone};
use super::*;
use crate::dns::zone::Zone;
use crate::message::body_hash::BodyHasher;
use DkimResult::{Fail, Pass, PermError};

fn with_key(message: &[u8], selector: &str, record: &str) -> (DkimResult, &'static str) {
    let zone = Zone::new().txt(&format!("{selector}._domainkey.a.example"), &[record]);
    let output = one(message, &zone);
    (output.result, output.reason)
}

#[test]
fn rsa_keys_of_each_length() {
    let key_4096 = SigningKey::rsa_of(aws_lc_rs::rsa::KeySize::Rsa4096);
    let record_4096 = key_4096.record();
    let signed_4096 = Signer::new(&key_4096, "a.example", "s").sign(MESSAGE.as_bytes());
    let signed_1536 = [SIGNED_1536, LETTER].concat();
    let signed_by_3 = [SIGNED_BY_EXPONENT_3, LETTER].concat();
    let short = "key is shorter than 1024 bits";
    let unreadable = "public key can't be read";
    let cases = [
        ("512", SIGNED_1024.as_bytes(), KEY_512, PermError, short),
        ("768", SIGNED_1024.as_bytes(), KEY_768, PermError, short),
        ("1024", SIGNED_1024.as_bytes(), KEY_1024, Pass, "signature matches"),
        ("1536", signed_1536.as_bytes(), KEY_1536, Pass, "signature matches"),
        ("4096", &signed_4096, &record_4096, Pass, "signature matches"),
        ("another length than the signature", signed_1536.as_bytes(), KEY_1024, Fail, "signature does not match"),
        ("exponent 3", signed_by_3.as_bytes(), KEY_OF_EXPONENT_3, Pass, "signature matches"),
        ("RSAPublicKey (RFC 6376 §3.6.1)", signed_by_3.as_bytes(), KEY_OF_EXPONENT_3_PKCS1, Pass, "signature matches"),
        ("exponent 0", signed_by_3.as_bytes(), KEY_OF_EXPONENT_0, PermError, unreadable),
        ("exponent 1", signed_by_3.as_bytes(), KEY_OF_EXPONENT_1, PermError, unreadable),
        ("exponent 2", signed_by_3.as_bytes(), KEY_OF_EXPONENT_2, PermError, unreadable),
        ("exponent beyond 33 bits", signed_by_3.as_bytes(), KEY_OF_EXPONENT_BEYOND_33_BITS, PermError, unreadable),
    ];
    for (name, message, record, result, reason) in cases {
        assert_eq!(with_key(message, "s", record), (result, reason), "{name}");
    }
}

#[test]
fn forms_of_public_keys() {
    let rsa_key = SigningKey::rsa().public();
    let unreadable = "public key can't be read";
    let ed = |octets: &[u8]| format!("k=ed25519; p={}", base64(octets));
    let signed_rsa = rsa().sign(MESSAGE.as_bytes());
    let signed_ed = ed25519().sign(MESSAGE.as_bytes());
    let folded = format!("v=DKIM1;\tk=rsa;\r\n p={}", rsa_key.split_at(64).0.to_owned() + "\r\n\t" + &rsa_key[64..]);
    let cut = format!("p={}", &rsa_key[..rsa_key.len() - 40]);
    let longer = format!("p={}AAAA", rsa_key.trim_end_matches('='));
    let padded = format!("p={}=", rsa_key.trim_end_matches('='));
    let inner = format!("p={}={}", &rsa_key[..40], &rsa_key[40..]);
    let cases = [
        ("folded", &signed_rsa, "r", folded, Pass, "signature matches"),
        ("cut short", &signed_rsa, "r", cut, PermError, unreadable),
        // It is the owner's key all the same.
        ("octets behind the key", &signed_rsa, "r", longer, Pass, "signature matches"),
        ("one equals sign for two", &signed_rsa, "r", padded, PermError, unreadable),
        ("an equals sign inside", &signed_rsa, "r", inner, PermError, unreadable),
        ("a word", &signed_rsa, "r", "p=hello".into(), PermError, unreadable),
        ("v=DKIM2", &signed_rsa, "r", format!("v=DKIM2; p={rsa_key}"), PermError, "key record has another version"),
        ("k= empty", &signed_rsa, "r", format!("k=; p={rsa_key}"), PermError, "unknown key type"),
        ("k= in upper case", &signed_rsa, "r", format!("k=RSA; p={rsa_key}"), Pass, "signature matches"),
        ("unknown tags and flags", &signed_rsa, "r", format!("zz=1; t=x:z; p={rsa_key}"), Pass, "signature matches"),
        ("tag name in upper case", &signed_rsa, "r", format!("P={rsa_key}"), PermError, "key record has no key"),
        ("n= beyond ASCII", &signed_rsa, "r", format!("n=\u{e4}; p={rsa_key}"), Pass, "signature matches"),
        ("31 octets", &signed_ed, "e", ed(&[7; 31]), PermError, unreadable),
        ("33 octets", &signed_ed, "e", ed(&[7; 33]), PermError, unreadable),
        ("DER around them", &signed_ed, "e", ed(&[&ED25519_DER[..], &[7; 32]].concat()), PermError, unreadable),
        ("no octets", &signed_ed, "e", ed(&[]), PermError, "key is revoked"),
        ("another Ed25519 key", &signed_ed, "e", ed(&[7; 32]), Fail, "signature does not match"),
        ("Ed25519 key without k=", &signed_ed, "e", ed(&[7; 32])[11..].into(), PermError, unreadable),
    ];
    for (name, message, selector, record, result, reason) in cases {
        assert_eq!(with_key(message, selector, &record), (result, reason), "{name}");
    }
}

#[test]
fn what_a_key_record_says_is_told() {
    let ed = |flags: &str| format!("v=DKIM1; k=ed25519; {flags}p={}", base64(&[7; 32]));
    let facts = |algorithm, bits, testing, strict_identity| Ok(KeyFacts { algorithm, bits, testing, strict_identity });
    let cases = [
        ("Ed25519", ed(""), facts("ed25519", 256, false, false)),
        ("in test mode", ed("t=y; "), facts("ed25519", 256, true, false)),
        ("strict", ed("t=s; "), facts("ed25519", 256, false, true)),
        ("1016 bits", rsa_record(1016), Err("key is shorter than 1024 bits")),
        // Octets count.
        ("1017 bits", rsa_record(1017), facts("rsa", 1024, false, false)),
        ("1024 bits", rsa_record(1024), facts("rsa", 1024, false, false)),
        ("1032 bits", rsa_record(1032), facts("rsa", 1032, false, false)),
        ("1040 bits", rsa_record(1040), facts("rsa", 1040, false, false)),
        ("8192 bits", rsa_record(8192), facts("rsa", 8192, false, false)),
        ("8193 bits", rsa_record(8193), Err("key is longer than 8192 bits")),
        ("no key", "v=DKIM1".into(), Err("key record has no key")),
    ];
    for (name, record, expected) in cases {
        assert_eq!(inspect(record.as_bytes()), expected, "{name}");
        // Padding may be left out.
        assert_eq!(inspect(record.trim_end_matches('=').as_bytes()), expected, "{name}");
    }
}

/// A record with an RSAPublicKey (RFC 6376 §3.6.1) whose modulus has so many bits.
fn rsa_record(bits: usize) -> String {
    let der = |tag: u8, content: &[u8]| match content.len() {
        length @ ..128 => [&[tag, length as u8], content].concat(),
        length @ 128..256 => [&[tag, 0x81, length as u8], content].concat(),
        length => [&[tag, 0x82, (length >> 8) as u8, length as u8], content].concat(),
    };
    let mut modulus = vec![0; bits / 8 + 1];
    modulus[0] = ((1_u16 << (bits % 8)) >> 1) as u8;
    if bits.is_multiple_of(8) {
        modulus[1] = 0x80;
    }
    modulus[bits / 8] |= 1;
    format!("p={}", base64(&der(0x30, &[der(2, &modulus), der(2, &[1, 0, 1])].concat())))
}

/// Answers at the third poll, but for keys of the selector `e`.
struct Slow(Zone);

impl crate::dns::Lookup for Slow {
    async fn ask(&self, name: &str, record_type: crate::dns::RecordType) -> crate::dns::Answer {
        for _ in 0..if name.starts_with("e.") { 0 } else { 2 } {
            let mut is_again = false;
            std::future::poll_fn(|_| match std::mem::replace(&mut is_again, true) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            })
            .await;
        }
        self.0.ask(name, record_type).await
    }
}

#[test]
fn all_answers_are_waited_for() {
    let message = ed25519().sign(&rsa().sign(MESSAGE.as_bytes()));
    let header_end = message.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let section = HeaderSection::parse(message[..header_end].to_vec());
    let signatures = Signatures::read(&section, &[], 20);
    let mut hasher = BodyHasher::new(signatures.body_hash_specs());
    hasher.update(&message[header_end..]);
    let slow = Slow(zone());
    let mut keys = std::pin::pin!(signatures.keys(&slow));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut polls = std::iter::from_fn(|| Some(keys.as_mut().poll(&mut context)));
    assert!(polls.by_ref().take(2).all(|poll| poll.is_pending()));
    let Some(std::task::Poll::Ready(keys)) = polls.next() else { panic!("all have answered") };
    let found = signatures.verify(&section, &keys, &hasher.finish(), 1_800_000_000);
    assert_eq!(found.outputs.iter().map(|output| output.result).collect::<Vec<_>>(), [Pass, Pass]);
}

#[test]
fn a_name_that_dns_cannot_carry_has_no_key_and_is_no_doubt() {
    // Else a forger could have doubt for the asking.
    let selector = format!("{0}.{0}.{0}.{0}", "a".repeat(62));
    let output = one(&rsa().set("s", selector).sign(MESSAGE.as_bytes()), &Zone::new());
    assert_eq!((output.result, output.reason), (PermError, "no key"));
}

/// What stands before the octets of an Ed25519 key in a SubjectPublicKeyInfo.
const ED25519_DER: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
pub(super) const KEY_512: &str = "p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAMBx2GWaO3h8/VBSLKP4o2x13I/Hfs2wKVkxyPIvl9sdaqoB9dlDBtph\
    lKEUisIFawmt4oWvsfKa8bqA3ll2jCECAwEAAQ==";
const KEY_1024: &str = "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDBWxrOOuG8z6R8bIeti+DUy6IiJQdAoGnPw2fWHny\
    YD5FcoEe/i5etBu8Ac2oksrhVWFaZXNxyUiEUWeJKIYbc+gxlJQFDn70aal4sSJ55P4qTZSMeAleLXRhELPUebz8DA\
    yiGTHO9WHib0mj6dt0Q5zmJHLLS+dbP+4hA/s+EDQIDAQAB";
const SIGNED_1024: &str = "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=a.example;\r\n\
    \x20i=@a.example; q=dns/txt; s=s; t=1795360962; h=from : to : subject;\r\n\
    \x20bh=yGIXoM91E1DiKjvCBcC8NlWyw54TdfMQ08sdtwtOO4I=;\r\n\
    \x20b=Gt+Gk+Cx3bH4mXznSrljBfgMdFbvaOLakVuC8ZCDpA/vpVUvIBoOeXw73gPgqC1N4Xzs9\r\n\
    \x20vmFp5cYxD07XNRhDxxRG7h25v/Y3qGw8R5/mo8N6hNEcm+aXZWZ6W9pWbiBSbY8u9PP3+tG\r\n\
    \x20X4Ed3CusNVIDsJKSnog9obe0BZxKl6E=\r\n\
    From: john@a.example\r\n\
    To: t@b.example\r\n\
    Subject: one  two\r\n\
    \r\n\
    Hello  world \r\n\
    \x20\r\n";
const LETTER: &str = "From: john@a.example\r\nTo: t@b.example\r\nSubject: one  two\r\n\r\nHello  world \r\n \r\n";
pub(super) const KEY_768: &str = "p=MHwwDQYJKoZIhvcNAQEBBQADawAwaAJhAMfODqxmEHHKj9MOR/eIdhJdsL2os4oovj6FJmgVlbSkRrx6iG3aVEGtaMocyzSSor\
    jNWzfIxL68/24nBxjqXH7USH3C1nFRZrsgLy2Xkd7So8O3VyiBC+q9x5/UD6cgPwIDAQAB";
const KEY_1536: &str = "v=DKIM1; p=MIHfMA0GCSqGSIb3DQEBAQUAA4HNADCByQKBwQDHiqCCiAjrrRFKwEsivu3Fr2uv6lBgAt+jercSFBaIuhM0//i98\
    20CbsyhWZM2VqY22HxiMN6/+GhRA5PeGU8BKq73ISVGRyZMPrNiYzlyIOrEk61stGHItqBLLmDH5UoV+DYvyKtnkru2NjKuHybIL\
    tRa+Cfx9r2c28QoQ6p7eUd8MygrWRcYe96QVI3LSEt0Zv9x4esda1uuB2ihLOzfnONSdBtVQAPBdns942Qc8D04v/3CxI/5nnpKp\
    s108g0CAwEAAQ==";
const SIGNED_1536: &str = "\
    DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=a.example;\r\n\
    \x20i=@a.example; q=dns/txt; s=s; t=1795383251; h=from : to : subject;\r\n\
    \x20bh=yGIXoM91E1DiKjvCBcC8NlWyw54TdfMQ08sdtwtOO4I=;\r\n\
    \x20b=mFr4sp2OxgIgnDQW83CnrQQ+n93qOh9bCUAuMJaJ4vQk/IWduT8FcdhAf7+/VxJbiohEm\r\n\
    \x20sCVJZh+qrDkh+oV764Mz7IyghglFaRTU0apIfTsLkA6uX/vXlxrW0BmKz0TaplggT2JRH86\r\n\
    \x20O34PFOZaFVhYod/NqhHsvwvDIDOuFVaaDaCNNplHZbWHwn9r77gzg6NF+uIiA9WtKRuPKpK\r\n\
    \x20hlCwzLJHQXkEHVAIU6w0jjN+xJqXy9gXpAtMXXPj4TZnc\r\n";
const KEY_OF_EXPONENT_3: &str = "p=MIIBIDANBgkqhkiG9w0BAQEFAAOCAQ0AMIIBCAKCAQEAmmuqFzX6yBEtGw0/MyPuzj1KU7JSswOMczcrzgEHK4ha4bZZs4Qne9\
    5tEA0gvfF/e5AOxPWxHJaDk8YSF/aCmHnUJUYYg8us+WZ0F9YEOXJZckAcW6RM8BK1B7cEU/I/FEA9Ljf+bj+3rQtHmimx1B0teB\
    YIUC2XSOKy08ZJktzGVxEEFodynAwsBiVFHGZBrKt/LZ8d6t+8jzRuNkt0pUsk26VTJKIcHNEO1+4miAs9RTojlPHOfxjXCRPLdD\
    bl8wR6qpzkNaE2Ml8O4526nHNVok89gelqSPt06QAHDgAf0okxmDlzfzqpttJ9wNQ8oQbSDlyTXr1m+hP981k8qQIBAw==";
const SIGNED_BY_EXPONENT_3: &str = "\
    DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=a.example;\r\n\
    \x20i=@a.example; q=dns/txt; s=s; t=1795383251; h=from : to : subject;\r\n\
    \x20bh=yGIXoM91E1DiKjvCBcC8NlWyw54TdfMQ08sdtwtOO4I=;\r\n\
    \x20b=LX+SbtVnivUrVdmYMefMrwvSvpSbnhQ9Gz2nM+dR5vNG4ksHkhm3008WJ94cf5HJqeHYQ\r\n\
    \x20tNNQEXDxgkkZnKlk+d2qBb+A+SF2mHXJfZC1wN0eGMsXEdw5nQaoslKy8X75LjNntXpidxh\r\n\
    \x207J3Cs8aeWB64bueqQFmSszYuKMZZ4pGvigXky2INrt6qMip7G2CXFhjpbm88x/bp/NkNaun\r\n\
    \x20vKMSRgHNuotF96DupWcMotV14vcoSYMMBqW+VtXJzv9M+3qyRMVap40gXW/MtmQnAyxwpKN\r\n\
    \x20xx8sm/pmBxPli+I61YvEg2nvwAYlxWOnZz8H6i5TGv3GScIQjx7bPn9HofGQ==\r\n";
const KEY_OF_EXPONENT_1: &str = "p=MIIBIDANBgkqhkiG9w0BAQEFAAOCAQ0AMIIBCAKCAQEAmmuqFzX6yBEtGw0/MyPuzj1KU7JSswOMczcrzgEHK4ha4bZZs4Qne9\
    5tEA0gvfF/e5AOxPWxHJaDk8YSF/aCmHnUJUYYg8us+WZ0F9YEOXJZckAcW6RM8BK1B7cEU/I/FEA9Ljf+bj+3rQtHmimx1B0teB\
    YIUC2XSOKy08ZJktzGVxEEFodynAwsBiVFHGZBrKt/LZ8d6t+8jzRuNkt0pUsk26VTJKIcHNEO1+4miAs9RTojlPHOfxjXCRPLdD\
    bl8wR6qpzkNaE2Ml8O4526nHNVok89gelqSPt06QAHDgAf0okxmDlzfzqpttJ9wNQ8oQbSDlyTXr1m+hP981k8qQIBAQ==";
const KEY_OF_EXPONENT_2: &str = "p=MIIBIDANBgkqhkiG9w0BAQEFAAOCAQ0AMIIBCAKCAQEAmmuqFzX6yBEtGw0/MyPuzj1KU7JSswOMczcrzgEHK4ha4bZZs4Qne9\
    5tEA0gvfF/e5AOxPWxHJaDk8YSF/aCmHnUJUYYg8us+WZ0F9YEOXJZckAcW6RM8BK1B7cEU/I/FEA9Ljf+bj+3rQtHmimx1B0teB\
    YIUC2XSOKy08ZJktzGVxEEFodynAwsBiVFHGZBrKt/LZ8d6t+8jzRuNkt0pUsk26VTJKIcHNEO1+4miAs9RTojlPHOfxjXCRPLdD\
    bl8wR6qpzkNaE2Ml8O4526nHNVok89gelqSPt06QAHDgAf0okxmDlzfzqpttJ9wNQ8oQbSDlyTXr1m+hP981k8qQIBAg==";
const KEY_OF_EXPONENT_BEYOND_33_BITS: &str = "p=MIIBJDANBgkqhkiG9w0BAQEFAAOCAREAMIIBDAKCAQEAmmuqFzX6yBEtGw0/MyPuzj1KU7JSswOMczcrzgEHK4ha4bZZs4Qne9\
    5tEA0gvfF/e5AOxPWxHJaDk8YSF/aCmHnUJUYYg8us+WZ0F9YEOXJZckAcW6RM8BK1B7cEU/I/FEA9Ljf+bj+3rQtHmimx1B0teB\
    YIUC2XSOKy08ZJktzGVxEEFodynAwsBiVFHGZBrKt/LZ8d6t+8jzRuNkt0pUsk26VTJKIcHNEO1+4miAs9RTojlPHOfxjXCRPLdD\
    bl8wR6qpzkNaE2Ml8O4526nHNVok89gelqSPt06QAHDgAf0okxmDlzfzqpttJ9wNQ8oQbSDlyTXr1m+hP981k8qQIFAgAAAAE=";
const KEY_OF_EXPONENT_0: &str = "p=MIIBIDANBgkqhkiG9w0BAQEFAAOCAQ0AMIIBCAKCAQEAmmuqFzX6yBEtGw0/MyPuzj1KU7JSswOMczcrzgEHK4ha4bZZs4Qne9\
    5tEA0gvfF/e5AOxPWxHJaDk8YSF/aCmHnUJUYYg8us+WZ0F9YEOXJZckAcW6RM8BK1B7cEU/I/FEA9Ljf+bj+3rQtHmimx1B0teB\
    YIUC2XSOKy08ZJktzGVxEEFodynAwsBiVFHGZBrKt/LZ8d6t+8jzRuNkt0pUsk26VTJKIcHNEO1+4miAs9RTojlPHOfxjXCRPLdD\
    bl8wR6qpzkNaE2Ml8O4526nHNVok89gelqSPt06QAHDgAf0okxmDlzfzqpttJ9wNQ8oQbSDlyTXr1m+hP981k8qQIBAA==";
const KEY_OF_EXPONENT_3_PKCS1: &str = "p=MIIBCAKCAQEAmmuqFzX6yBEtGw0/MyPuzj1KU7JSswOMczcrzgEHK4ha4bZZs4Qne95tEA0gvfF/e5AOxPWxHJaDk8YSF/aCmH\
    nUJUYYg8us+WZ0F9YEOXJZckAcW6RM8BK1B7cEU/I/FEA9Ljf+bj+3rQtHmimx1B0teBYIUC2XSOKy08ZJktzGVxEEFodynAwsBi\
    VFHGZBrKt/LZ8d6t+8jzRuNkt0pUsk26VTJKIcHNEO1+4miAs9RTojlPHOfxjXCRPLdDbl8wR6qpzkNaE2Ml8O4526nHNVok89ge\
    lqSPt06QAHDgAf0okxmDlzfzqpttJ9wNQ8oQbSDlyTXr1m+hP981k8qQIBAw==";
