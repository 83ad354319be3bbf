//! Mistakes that the verifier of mail-auth makes, one test each: ours must not make them, and must stay in use.

use super::signer::{Signer, SigningKey};
use super::tests::{MESSAGE, evaluate, one, rsa, zone};
use super::*;
use crate::dns::zone::Zone;
use crate::message::author::{Author, UnusableFrom};
use crate::message::body_hash::BodyHasher;
use DkimResult::{Neutral, Pass, PermError, Policy, TempError};

fn result(signer: &Signer<'_>, zone: &Zone) -> (DkimResult, &'static str) {
    let output = one(&signer.sign(MESSAGE.as_bytes()), zone);
    (output.result, output.reason)
}

/// A zone whose key has these tags beside it.
fn key_with(tags: &str) -> Zone {
    Zone::new().txt("r._domainkey.a.example", &[&format!("{tags} p={}", SigningKey::rsa().public())])
}

#[test]
fn white_space_lines_at_the_end_of_a_relaxed_body_are_ignored() {
    let end = |end: &str| format!("From: j@a.example\r\n\r\nx\r\n{end}");
    let signed = rsa().sign(end("").as_bytes());
    for white in [" \r\n", "\t\r\n \r\n", "\r\n \t \r\n\r\n"] {
        let longer = [signed.as_slice(), white.as_bytes()].concat();
        assert_eq!(one(&longer, &zone()).result, Pass, "{white:?}");
        assert_eq!(one(&rsa().sign(end(white).as_bytes()), &zone()).result, Pass, "{white:?}");
    }
}

#[test]
fn a_length_counts_canonicalized_octets() {
    // "a b\r\n" is what is left of nine octets.
    let message = b"From: j@a.example\r\n\r\na  \t b \r\n";
    assert_eq!(one(&rsa().set("l", 5).sign(message), &zone()).result, Pass);
    assert_eq!(one(&rsa().set("l", 9).sign(message), &zone()).result, PermError);
}

#[test]
fn a_length_of_zero_is_a_length() {
    assert_eq!(result(&rsa().set("l", 0), &zone()), (Policy, "the end of the body is not signed (l=)"));
}

#[test]
fn a_signature_with_a_length_does_not_vanish() {
    let outputs = evaluate(&rsa().set("l", 3).sign(MESSAGE.as_bytes()), &zone());
    assert_eq!(outputs.iter().map(|o| o.result).collect::<Vec<_>>(), [Policy]);
}

#[test]
fn a_body_hash_that_is_missing_is_our_fault_and_no_panic() {
    let signed = rsa().sign(MESSAGE.as_bytes());
    let header_end = signed.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let section = HeaderSection::parse(signed[..header_end].to_vec());
    let signatures = Signatures::read(&section, &[], 20);
    let keys = super::tests::ready(signatures.keys(&zone()));
    let outputs = signatures.verify(&section, &keys, &BodyHasher::new(Vec::new()).finish(), 0).outputs;
    assert_eq!((outputs[0].result, outputs[0].reason), (TempError, "body was not hashed"));
}

#[test]
fn many_lengths_are_not_as_many_running_hashes() {
    let many: String = (0..499).map(|l| rsa().set("l", l).set("b", "AAAA").field(MESSAGE.as_bytes())).collect();
    let section = HeaderSection::parse((many + MESSAGE).into_bytes());
    let signatures = Signatures::read(&section, &[], 20);
    assert_eq!((signatures.body_hash_specs().len(), signatures.skipped.len()), (20, 479));
}

#[test]
fn a_signature_that_does_not_sign_from_is_none() {
    assert_eq!(result(&rsa().set("h", "to:subject"), &zone()), (PermError, "From is not signed"));
}

#[test]
fn a_key_for_another_service_is_none() {
    assert_eq!(result(&rsa(), &key_with("s=tlsrpt;")), (PermError, "key is for another service"));
}

#[test]
fn a_key_for_other_hashes_is_none() {
    assert_eq!(result(&rsa(), &key_with("h=sha1;")), (PermError, "key does not allow sha256"));
}

#[test]
fn rsa_sha1_never_passes() {
    assert_eq!(result(&rsa().set("a", "rsa-sha1"), &zone()), (PermError, "rsa-sha1 is not accepted"));
    assert_eq!(result(&rsa().set("a", "rsa-sha1"), &key_with("h=sha1;")).0, PermError);
}

#[test]
fn a_signature_without_a_version_is_none() {
    assert_eq!(result(&rsa().without("v"), &zone()), (PermError, "v= is missing"));
}

#[test]
fn short_keys_never_pass() {
    for key in [super::key_tests::KEY_512, super::key_tests::KEY_768] {
        let zone = Zone::new().txt("r._domainkey.a.example", &[key]);
        assert_eq!(result(&rsa(), &zone), (PermError, "key is shorter than 1024 bits"));
    }
}

#[test]
fn signatures_that_cannot_be_read_do_not_vanish() {
    let garbage = ["DKIM-Signature:\r\n", "DKIM-Signature: v=1; b\r\n", "DKIM-Signature: v=1; v=1\r\n"].concat();
    let message = [garbage.as_bytes(), &rsa().sign(MESSAGE.as_bytes())].concat();
    let results: Vec<_> = evaluate(&message, &zone()).iter().map(|o| o.result).collect();
    assert_eq!(results, [PermError, Neutral, Neutral, Pass]);
}

#[test]
fn tags_for_reports_and_third_parties_cause_no_look_up() {
    let zone = zone();
    let signer = rsa().set("r", "y").set("atps", "b.example").set("atpsh", "none");
    assert_eq!(result(&signer, &zone).0, Pass);
    assert_eq!(zone.asked().len(), 1);
}

#[test]
fn a_line_without_a_colon_does_not_end_the_header_section() {
    let signed = String::from_utf8(rsa().sign(MESSAGE.as_bytes())).unwrap();
    let message = signed.replacen("From:", "no field\r\nFrom:", 1);
    assert_eq!(one(message.as_bytes(), &zone()).result, Pass, "the body begins where it did");
    let section = HeaderSection::parse(message.into_bytes());
    assert!(matches!(Author::read(&section), Author::Unusable(UnusableFrom::MalformedHeader)));
}
