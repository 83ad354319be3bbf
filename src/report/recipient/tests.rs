//! Who gets a report, from what DNS says.

use super::*;
use crate::dmarc::record::{Parsed, parse};
use crate::dns::zone::Zone;
use crate::dns::{Failure, RecordType};

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn uri(text: &str) -> ReportUri {
    ReportUri::parse(text).unwrap()
}

#[test]
fn addresses_of_uris() {
    let long = format!("mailto:{}@a.example", "x".repeat(65));
    let cases = [
        ("mailto:r@a.example", Ok("r@a.example")),
        ("MAILTO:R@A.Example", Ok("R@a.example")),
        ("mailto:r@a.example?subject=x&bcc=y@b.example", Ok("r@a.example")),
        ("mailto:r%2Bdmarc@a.example", Ok("r+dmarc@a.example")),
        ("mailto:r+dmarc@a.example", Ok("r+dmarc@a.example")),
        ("mailto:a%2Cb@a.example", Ok("\"a,b\"@a.example")),
        ("mailto:a.@a.example", Ok("\"a.\"@a.example")),
        ("mailto:%22a%20b%22@a.example", Ok("\"a b\"@a.example")),
        ("mailto:%22plain%22@a.example", Ok("plain@a.example")),
        ("mailto:%22a%5C%22b%22@a.example", Ok("\"a\\\"b\"@a.example")),
        ("mailto:%22open@a.example", Err(Refusal::Unreadable)),
        ("mailto:%22a%22b@a.example", Err(Refusal::Unreadable)),
        ("mailto:%22%22@a.example", Err(Refusal::Unreadable)),
        ("mailto:a%0D%0ABcc@a.example", Err(Refusal::Unreadable)),
        ("mailto:a%00@a.example", Err(Refusal::Unreadable)),
        ("mailto:a%FF@a.example", Err(Refusal::Unreadable)),
        ("mailto:b%C3%BCcher@a.example", Err(Refusal::NonAscii)),
        ("mailto:a%40b.example@a.example", Err(Refusal::Routed)),
        ("mailto:a%25b.example@a.example", Err(Refusal::Routed)),
        ("mailto:b.example%21a@a.example", Err(Refusal::Routed)),
        (long.as_str(), Err(Refusal::Unreadable)),
        ("https://a.example/dmarc", Err(Refusal::NotMail)),
    ];
    for (text, expected) in cases {
        let address = Address::of(&uri(text)).map(|address| address.to_string());
        assert_eq!(address, expected.map(str::to_owned), "{text}");
    }
    assert_eq!(Address::parse("r@b\u{fc}cher.example").unwrap().to_string(), "r@xn--bcher-kva.example");
    assert_eq!(Address::parse("nobody"), Err(Refusal::Unreadable));
    assert_eq!(Address::parse("\"a b\"@a.example").unwrap().local_part(), "\"a b\"");
}

#[test]
fn what_is_asked_before_a_report_goes_outside() {
    let [a, b, org] = ["a.org.example", "b.org.example", "org.example"].map(domain);
    let (other, other_org) = (domain("r.other.example"), domain("other.example"));
    let long = domain(&format!("{}.example", vec!["x".repeat(60); 4].join(".")));
    let name = "a.org.example._report._dmarc.r.other.example".to_owned();
    let cases = [
        ("the same host", (&a, None), (&a, None), Question::Needless),
        ("the same organization", (&a, Some(&org)), (&b, Some(&org)), Question::Needless),
        ("another one", (&a, Some(&org)), (&other, Some(&other_org)), Question::TextsAt(name)),
        ("DNS was silent of ours", (&a, None), (&other, Some(&other_org)), Question::Open),
        ("DNS was silent of theirs", (&a, Some(&org)), (&other, None), Question::Open),
        ("a name too long", (&a, Some(&org)), (&long, Some(&other_org)), Question::TooLong),
    ];
    for (name, own, host, expected) in cases {
        assert_eq!(Question::new(own, host), expected, "{name}");
    }
}

#[test]
fn what_an_answer_settles() {
    let address = Address::parse("r@other.example").unwrap();
    let send = |texts: &[&str]| Verdict::Send(texts.iter().map(|text| Address::parse(text).unwrap()).collect());
    let texts: [(&[&str], Verdict); 8] = [
        (&["v=DMARC1"], send(&["r@other.example"])),
        (&["hello"], Verdict::Refuse(Refusal::NotConfirmed)),
        (&["v=DMARC1; rua=mailto:n@other.example"], send(&["n@other.example"])),
        (
            &["v=DMARC1; rua=mailto:n@other.example,mailto:m@other.example"],
            send(&["n@other.example", "m@other.example"]),
        ),
        (&["v=DMARC1; rua=mailto:n@other.example,https://other.example/"], send(&["n@other.example"])),
        (&["v=DMARC1; rua=https://other.example/"], Verdict::Refuse(Refusal::NotMail)),
        (&["v=DMARC1; rua=mailto:n@third.example"], Verdict::Refuse(Refusal::Diverted)),
        (&[], Verdict::Refuse(Refusal::NotConfirmed)),
    ];
    for (texts, expected) in texts {
        let answer = Ok(texts.iter().map(|text| text.as_bytes()));
        assert_eq!(settle(ReportKind::Aggregate, &address, answer), expected, "{texts:?}");
    }
    let misses = [
        (Miss::NoData, Verdict::Refuse(Refusal::NotConfirmed)),
        (Miss::NxDomain, Verdict::Refuse(Refusal::NotConfirmed)),
        (Miss::Failed(Failure::ServFail), Verdict::Postpone),
        (Miss::Failed(Failure::Timeout), Verdict::Postpone),
    ];
    for (miss, expected) in misses {
        assert_eq!(settle(ReportKind::Aggregate, &address, Err::<[&[u8]; 0], _>(miss)), expected, "{miss:?}");
    }
}

const MANY: [&str; 4] =
    ["mailto:1@many.example", "mailto:2@many.example", "mailto:3@many.example", "mailto:4@many.example"];

fn zone() -> Zone {
    Zone::new()
        .txt("_dmarc.a.example", &["v=DMARC1; p=none"])
        .txt("a.example._report._dmarc.other.example", &["v=DMARC1"])
        .txt("a.example._report._dmarc.moved.example", &["v=DMARC1; rua=mailto:new@moved.example"])
        .txt("a.example._report._dmarc.diverted.example", &["v=DMARC1; rua=mailto:v@victim.example"])
        .txt("a.example._report._dmarc.many.example", &[&format!("v=DMARC1; rua={}", MANY.join(","))])
        .fail("a.example._report._dmarc.broken.example", RecordType::Txt, Failure::ServFail)
        .fail("_dmarc.silent.example", RecordType::Txt, Failure::Timeout)
}

/// `to | postponed | refused`.
async fn shown(list: &str, settings: &Settings) -> String {
    let text = format!("v=DMARC1; p=none; rua={list}");
    let Parsed::Record(record) = parse(text.as_bytes()) else { panic!("a record") };
    let policy_domain = domain("a.example");
    let about = (&policy_domain, &*record);
    let found = recipients(&zone(), &Rules::default(), settings, ReportKind::Aggregate, about).await;
    let join = |addresses: &[Address]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let refused: Vec<_> = found.refused.iter().map(|(uri, why)| format!("{}={why}", uri.as_str())).collect();
    format!("{} | {} | {}", join(&found.to), join(&found.postponed), refused.join(","))
}

#[tokio::test]
async fn recipients_of_a_record() {
    let cases = [
        ("mailto:r@a.example", "r@a.example |  | "),
        ("mailto:r@sub.a.example", "r@sub.a.example |  | "),
        ("mailto:r@other.example,mailto:r@a.example", "r@other.example,r@a.example |  | "),
        ("mailto:r@a.example,mailto:r@A.example?x", "r@a.example |  | "),
        ("mailto:old@moved.example,mailto:older@moved.example", "new@moved.example |  | "),
        ("mailto:r@many.example", "1@many.example,2@many.example,3@many.example |  | mailto:r@many.example=too_many"),
        ("mailto:r@stranger.example", " |  | mailto:r@stranger.example=not_confirmed"),
        ("mailto:r@diverted.example", " |  | mailto:r@diverted.example=diverted"),
        ("mailto:r@broken.example,mailto:r@a.example", "r@a.example | r@broken.example | "),
        ("mailto:r@silent.example", " | r@silent.example | "),
        ("mailto:r@broken.example,mailto:r@broken.example?x", " | r@broken.example | "),
        (
            "mailto:a@a.example,mailto:b@a.example,mailto:r@broken.example,mailto:s@broken.example",
            "a@a.example,b@a.example | r@broken.example | mailto:s@broken.example=too_many",
        ),
        ("https://a.example/,mailto:r@a.example", "r@a.example |  | https://a.example/=not_mail"),
        (
            "mailto:r@denied.example,mailto:x@sub.denied.example",
            " |  | mailto:r@denied.example=denied,mailto:x@sub.denied.example=denied",
        ),
        ("mailto:One@a.example,mailto:two@a.example", "two@a.example |  | mailto:One@a.example=denied"),
        (
            "mailto:a@a.example,mailto:b@a.example,mailto:c@a.example,mailto:d@a.example",
            "a@a.example,b@a.example,c@a.example |  | mailto:d@a.example=too_many",
        ),
    ];
    let deny = DenyList::parse(["denied.example", "one@a.example"]).unwrap();
    let settings = Settings { at_most: 3, deny };
    for (list, expected) in cases {
        assert_eq!(shown(list, &settings).await, expected, "{list}");
    }
}

#[tokio::test]
async fn nothing_is_asked_about_the_policy_domain_itself() {
    let Parsed::Record(record) = parse(b"v=DMARC1; p=none; rua=mailto:r@a.example") else { panic!("a record") };
    let (zone, policy_domain) = (zone(), domain("a.example"));
    let (rules, settings, about) = (Rules::default(), Settings::default(), (&policy_domain, &*record));
    let found = recipients(&zone, &rules, &settings, ReportKind::Aggregate, about).await;
    assert_eq!((found.to.len(), zone.asked().len()), (1, 0));
}

#[test]
fn deny_lists() {
    assert_eq!(DenyList::parse(["a.example", "b c"]), Err("b c"));
    assert_eq!(DenyList::parse(["@a.example"]), Err("@a.example"));
    let list = DenyList::parse(["a.example", "r@b.example"]).unwrap();
    let cases = [
        ("x@a.example", true),
        ("x@sub.a.example", true),
        ("x@nota.example", false),
        ("R@b.example", true),
        ("r@sub.b.example", false),
        ("x@b.example", false),
    ];
    for (address, expected) in cases {
        assert_eq!(list.has(&Address::parse(address).unwrap()), expected, "{address}");
    }
}
