//! The rules and examples of RFC 9989 that need no DNS and no message, each by name.

use super::alignment::{Alignment, Placed, alignment};
use super::record::{
    AlignmentMode, FailureOptions, FailureScope, Fault, Parsed, Place, Policy, PolicyRecord, Psd, RecordAt, Standing,
    Tag, parse, select,
};
use super::tree_walk::{Found, Selection, Walk, names};
use crate::domain::Domain;

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

/// A record that one reads, whatever it is worth.
fn record(text: impl AsRef<[u8]>) -> PolicyRecord {
    let text = text.as_ref();
    match parse(text) {
        Parsed::Record(record) => *record,
        Parsed::Foreign => panic!("no record: {}", text.escape_ascii()),
    }
}

/// The walk from `start` where these records stand.
fn walk(start: &str, zone: &[(&str, &str)]) -> Walk {
    let mut walk = Walk::new(&domain(start));
    while let Some(name) = walk.due() {
        let texts: Vec<Box<[u8]>> =
            zone.iter().filter(|(at, _)| *at == name.as_str()).map(|(_, text)| text.as_bytes().into()).collect();
        walk.answer(Found::Answered(select(&texts)));
    }
    walk
}

fn organizational(start: &str, zone: &[(&str, &str)]) -> String {
    walk(start, zone).organizational_domain().unwrap().to_string()
}

fn policy_domain(start: &str, zone: &[(&str, &str)]) -> Option<String> {
    match walk(start, zone).policy_record() {
        Selection::Found { domain, .. } => Some(domain.to_string()),
        Selection::NoRecord => None,
        Selection::Open => panic!("every name was answered"),
    }
}

fn relaxed(author: &str, identifier: &str, zone: &[(&str, &str)]) -> Alignment {
    let (author, identifier) = (domain(author), domain(identifier));
    let of = |start: &Domain| walk(start.as_str(), zone).organization();
    let (of_author, of_identifier) = (of(&author), of(&identifier));
    alignment(
        AlignmentMode::Relaxed,
        Placed { domain: &author, organization: Some(&of_author) },
        Placed { domain: &identifier, organization: Some(&of_identifier) },
    )
}

const R: &str = "v=DMARC1; p=reject";
const YES: &str = "v=DMARC1; p=reject; psd=y";
const NO: &str = "v=DMARC1; p=reject; psd=n";

#[test]
fn section_4_4_table_1() {
    let zone = [("example.com", R), ("example.net", R)];
    assert_eq!(relaxed("news.example.com", "foo.example.com", &zone), Alignment::Relaxed);
    assert_eq!(relaxed("news.example.com", "news.example.com", &zone), Alignment::Strict);
    assert_eq!(relaxed("news.example.com", "foo.example.net", &zone), Alignment::Unaligned);
    assert_eq!(relaxed("NEWS.example.com", "news.EXAMPLE.com", &zone), Alignment::Strict, "names have no case");
}

#[test]
fn section_4_7_the_version_is_first_and_spelled_so() {
    let cases: [(&str, &[u8], bool); 24] = [
        ("alone", b"v=DMARC1", true),
        ("with a semicolon", b"v=DMARC1;", true),
        ("with a semicolon and a space", b"v=DMARC1; ", true),
        ("spaces around the equals sign", b"v = DMARC1", true),
        ("tabs around the equals sign", b"v\t=\tDMARC1\t;p=none", true),
        ("the tag's name in upper case", b"V=DMARC1; p=none", true),
        ("the value in lower case", b"v=dmarc1; p=none", false),
        ("the value in mixed case", b"v=Dmarc1; p=none", false),
        ("another version", b"v=DMARC2; p=none", false),
        ("a longer version", b"v=DMARC1.0; p=none", false),
        ("a version that begins alike", b"v=DMARC11; p=none", false),
        ("no value", b"v=; p=none", false),
        ("no equals sign", b"vDMARC1; p=none", false),
        ("not first", b"p=none; v=DMARC1", false),
        ("behind an empty tag", b";v=DMARC1; p=none", false),
        ("behind a space", b" v=DMARC1; p=none", false),
        ("behind a byte order mark", b"\xef\xbb\xbfv=DMARC1; p=none", false),
        ("in quotes", b"\"v=DMARC1; p=none\"", false),
        ("no semicolon before the next tag", b"v=DMARC1 p=none", false),
        ("a comma before the next tag", b"v=DMARC1, p=none", false),
        ("a line end behind it", b"v=DMARC1\r\n; p=none", false),
        ("NUL behind it", b"v=DMARC1\0; p=none", false),
        ("SPF", b"v=spf1 -all", false),
        ("nothing", b"", false),
    ];
    for (name, text, expected) in cases {
        assert_eq!(matches!(parse(text), Parsed::Record(_)), expected, "{name}");
    }
}

#[test]
fn section_4_7_defaults() {
    let r = record("v=DMARC1; p=reject");
    assert_eq!(
        (r.adkim, r.aspf, r.testing, r.psd),
        (AlignmentMode::Relaxed, AlignmentMode::Relaxed, false, Psd::Unstated)
    );
    assert_eq!(r.fo, FailureOptions { dmarc: Some(FailureScope::AllFailed), dkim: false, spf: false });
    assert!(r.rua.is_empty() && r.ruf.is_empty() && r.problems.is_empty());
}

#[test]
fn section_4_7_fo_counts_beside_ruf_alone() {
    assert_eq!(record("v=DMARC1; p=none; fo=1:d:s").fo, FailureOptions::default());
    let options = FailureOptions { dmarc: Some(FailureScope::AnyFailed), dkim: true, spf: true };
    assert_eq!(record("v=DMARC1; p=none; fo=1:d:s; ruf=mailto:a@b.example").fo, options);
}

#[test]
fn section_4_7_psd_in_every_spelling() {
    let cases = [
        ("psd=y", Psd::PublicSuffix),
        ("psd=Y", Psd::PublicSuffix),
        ("PSD = y ", Psd::PublicSuffix),
        ("psd=n", Psd::Organizational),
        ("psd=u", Psd::Unstated),
        ("psd=yes", Psd::Unstated),
        ("psd=", Psd::Unstated),
        ("psd", Psd::Unstated),
        ("psd=y; psd=n", Psd::Unstated),
        ("psd=y; psd=y", Psd::Unstated),
        ("psd=y x", Psd::Unstated),
    ];
    for (tag, expected) in cases {
        assert_eq!(record(format!("v=DMARC1; p=reject; {tag}")).psd, expected, "{tag}");
    }
}

#[test]
fn section_4_7_one_step_below_under_test() {
    let below = [Policy::Reject, Policy::Quarantine, Policy::None].map(Policy::one_below);
    assert_eq!(below, [Policy::Quarantine, Policy::None, Policy::None]);
    for (tag, expected) in
        [("t=y", true), ("t=Y", true), ("t=n", false), ("t=1", false), ("t=yes", false), ("t=y;t=y", false)]
    {
        assert_eq!(record(format!("v=DMARC1; p=reject; {tag}")).testing, expected, "{tag}");
    }
}

/// What stands in a record beside its policy never changes it (§4.7, §4.8).
#[test]
fn section_4_8_what_is_wrong_in_the_rest_is_discarded() {
    let cases: [(&str, &[u8]); 24] = [
        ("an unknown tag", b"v=DMARC1; p=reject; zz=none"),
        ("an unknown tag with a known beginning", b"v=DMARC1; p=reject; pp=none; p1=none; p-x=none"),
        ("an unknown tag before it", b"v=DMARC1; zz=1; p=reject"),
        ("empty tags", b"v=DMARC1;;; ;p=reject;;"),
        ("no last semicolon", b"v=DMARC1;p=reject"),
        ("spaces", b"v=DMARC1 ;  p =  reject  ; "),
        ("tabs", b"v=DMARC1\t;\tp\t=\treject\t"),
        ("the name in upper case", b"v=DMARC1; P=reject"),
        ("the value in upper case", b"v=DMARC1; p=REJECT"),
        ("a word", b"v=DMARC1; p=reject; hello"),
        ("an equals sign alone", b"v=DMARC1; p=reject; ="),
        ("a tag without a value", b"v=DMARC1; p=reject; rua="),
        ("a value without a tag", b"v=DMARC1; p=reject; =none"),
        ("octets beyond ASCII in a tag of their own", b"v=DMARC1; p=reject; \xff\xfe\x80"),
        ("octets beyond ASCII in another value", b"v=DMARC1; p=reject; adkim=\xc3\xa9"),
        ("NUL in another value", b"v=DMARC1; p=reject; aspf=s\0"),
        ("a line end in another value", b"v=DMARC1; p=reject; fo=1\r\n"),
        ("the version again", b"v=DMARC1; p=reject; v=DMARC1"),
        ("another version again", b"v=DMARC1; p=reject; v=DMARC2"),
        ("a repeated tag that does not matter", b"v=DMARC1; p=reject; adkim=s; adkim=r"),
        ("an address that is no URI", b"v=DMARC1; p=reject; rua=a@b.example"),
        ("historic tags", b"v=DMARC1; p=reject; pct=0; ri=x; rf=iodef"),
        ("another record behind it", b"v=DMARC1; p=reject; v=spf1 -all"),
        ("a comment", b"v=DMARC1; p=reject; (comment)"),
    ];
    for (name, text) in cases {
        let r = record(text);
        assert_eq!((r.standing, r.requested(Place::Here)), (Standing::Sound, Policy::Reject), "{name}");
        assert!(r.text.is_ascii() && !r.text.contains(|c: char| c.is_ascii_control()), "{name}: {}", r.text);
    }
    // The alignment modes that were wrong or repeated are the default.
    let r = record("v=DMARC1; p=reject; adkim=s; adkim=s; aspf=strict");
    assert_eq!((r.adkim, r.aspf), (AlignmentMode::Relaxed, AlignmentMode::Relaxed));
    let faults: Vec<_> = r.problems.iter().map(|p| (p.tag, p.fault)).collect();
    assert_eq!(faults, [(Some(Tag::Adkim), Fault::Repeated), (Some(Tag::Aspf), Fault::Invalid)]);
}

#[test]
fn section_4_8_obsolete_size_limits_are_ignored() {
    let r = record("v=DMARC1; p=none; rua=mailto:a@b.example!10m,mailto:c@d.example!5 , mailto:e@f.example!k");
    let uris: Vec<_> = r.rua.iter().map(|uri| uri.as_str()).collect();
    assert_eq!(uris, ["mailto:a@b.example", "mailto:c@d.example"], "an exclamation point must be escaped");
}

#[test]
fn section_4_8_records_without_bound_are_read_within_bounds() {
    let cases = [
        ("one huge value", format!("v=DMARC1; p=reject; x={}", "y".repeat(65_000))),
        ("many tags", format!("v=DMARC1; p=reject{}", "; a=b".repeat(13_000))),
        ("many semicolons", format!("v=DMARC1; p=reject{}", ";".repeat(65_000))),
        ("many URIs", format!("v=DMARC1; p=reject; rua={}", "mailto:a@b.example,".repeat(3_400))),
        ("many faults", format!("v=DMARC1; p=reject{}", "; adkim=x; \u{fc}; =".repeat(3_000))),
        ("spaces", format!("v=DMARC1;{}p=reject", " ".repeat(65_000))),
    ];
    for (name, text) in cases {
        let r = record(&text);
        assert_eq!(r.requested(Place::Here), Policy::Reject, "{name}");
        assert!(r.text.len() <= 4096 && r.rua.len() <= 20 && r.problems.len() <= 2 * 14, "{name}");
    }
}

#[test]
fn section_4_10_the_walk_from_thirteen_labels() {
    let asked = names(&domain("a.b.c.d.e.f.g.h.i.j.mail.example.com"));
    let expected = [
        "a.b.c.d.e.f.g.h.i.j.mail.example.com",
        "g.h.i.j.mail.example.com",
        "h.i.j.mail.example.com",
        "i.j.mail.example.com",
        "j.mail.example.com",
        "mail.example.com",
        "example.com",
        "com",
    ];
    assert_eq!(asked.iter().map(Domain::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn section_4_10_no_name_takes_more_than_eight_questions() {
    for labels in 1..=120 {
        let name = vec!["a"; labels].join(".");
        assert_eq!(names(&domain(&name)).len(), labels.min(8), "{labels}");
    }
}

#[test]
fn section_4_10_several_records_are_discarded_and_do_not_stop_the_walk() {
    let zone = [("a.example.com", NO), ("a.example.com", NO), ("example.com", R)];
    assert_eq!(organizational("a.example.com", &zone), "example.com");
    assert_eq!(policy_domain("a.example.com", &zone).as_deref(), Some("example.com"));
    let texts: [Box<[u8]>; 3] = [R.as_bytes().into(), b"v=DMARC2; p=none"[..].into(), b"hello"[..].into()];
    assert!(matches!(select(&texts), RecordAt::One(_)), "what is of no current version is discarded before");
}

#[test]
fn section_4_10_1_policy_discovery() {
    let cases: [(&str, &str, &[(&str, &str)], Option<&str>); 8] = [
        (
            "the author domain's",
            "a.b.example.com",
            &[("a.b.example.com", R), ("example.com", R)],
            Some("a.b.example.com"),
        ),
        ("the organizational domain's", "a.b.example.com", &[("example.com", R)], Some("example.com")),
        ("the suffix's", "a.b.example.com", &[("com", YES)], Some("com")),
        (
            "not the suffix's beside the organization's",
            "a.example.com",
            &[("example.com", R), ("com", YES)],
            Some("example.com"),
        ),
        ("not one between", "a.b.example.com", &[("b.example.com", R), ("com", YES)], Some("com")),
        ("none", "a.b.example.com", &[], None),
        ("several are none", "a.example.com", &[("example.com", R), ("example.com", R)], None),
        ("a suffix that does not say so is an organization", "a.example.com", &[("com", R)], Some("com")),
    ];
    for (name, author, zone, expected) in cases {
        assert_eq!(policy_domain(author, zone).as_deref(), expected, "{name}");
    }
}

#[test]
fn section_4_10_1_which_tag_rules() {
    let cases = [
        ("p alone", R, [Policy::Reject, Policy::Reject, Policy::Reject]),
        ("sp", "v=DMARC1; p=reject; sp=none", [Policy::Reject, Policy::None, Policy::None]),
        ("np", "v=DMARC1; p=none; np=reject", [Policy::None, Policy::None, Policy::Reject]),
        ("all", "v=DMARC1; p=none; sp=quarantine; np=reject", [Policy::None, Policy::Quarantine, Policy::Reject]),
    ];
    for (name, text, expected) in cases {
        let r = record(text);
        assert_eq!(
            [Place::Here, Place::ExistingBelow, Place::MissingBelow].map(|p| r.requested(p)),
            expected,
            "{name}"
        );
    }
}

#[test]
fn section_4_10_1_without_a_valid_policy_a_valid_rua_decides() {
    let broken = [
        "v=DMARC1",
        "v=DMARC1;",
        "v=DMARC1; p=",
        "v=DMARC1; p",
        "v=DMARC1; p=rejects",
        "v=DMARC1; p=reject none",
        "v=DMARC1; p=none; p=reject",
        "v=DMARC1; p=reject; sp=x",
        "v=DMARC1; p=reject; sp=",
        "v=DMARC1; p=reject; np=x",
        "v=DMARC1; p=reject; sp=none; sp=none",
        "v=DMARC1; p=r\u{e9}ject",
        "v=DMARC1; sp=reject",
        "v=DMARC1; np=reject; t=y; psd=y; adkim=s",
    ];
    for text in broken {
        assert_eq!(record(text).standing, Standing::Unusable, "{text}");
        let r = record(format!("{text}; rua=nonsense, mailto:a@b.example"));
        assert_eq!((r.standing, r.requested(Place::Here)), (Standing::ReportsOnly, Policy::None), "{text}");
        for rua in ["", "a@b.example", "mailto:", "mailto:a@b.example mailto:c@d.example", ","] {
            assert_eq!(record(format!("{text}; rua={rua}")).standing, Standing::Unusable, "{text}; rua={rua}");
        }
        assert_eq!(record(format!("{text}; ruf=mailto:a@b.example")).standing, Standing::Unusable, "ruf is no rua");
    }
}

#[test]
fn section_4_10_2_examples() {
    let start = "a.mail.example.com";
    assert_eq!(organizational(start, &[("mail.example.com", R), ("example.com", R)]), "example.com");
    assert_eq!(organizational(start, &[("mail.example.com", NO)]), "mail.example.com");
    assert_eq!(organizational(start, &[("com", YES)]), "example.com");
    // Rule 2: one label below the suffix, whether it has a record or not.
    assert_eq!(organizational("mail.example.com", &[("example.com", YES)]), "mail.example.com");
    assert_eq!(organizational(start, &[("example.com", YES)]), "mail.example.com");
    // And not where the walk starts there.
    assert_eq!(organizational("example.com", &[("example.com", YES)]), "example.com");
    assert_eq!(organizational(start, &[]), start, "nothing found");
}

#[test]
fn section_4_10_2_all_orders_of_psd() {
    // Records at a.b.example.com, b.example.com, example.com from the longest name on; the organizational domain.
    let cases = [
        ([R, R, R], "example.com"),
        ([YES, R, R], "a.b.example.com"),
        ([NO, R, R], "a.b.example.com"),
        ([R, YES, R], "a.b.example.com"),
        ([R, NO, YES], "b.example.com"),
        ([R, R, YES], "b.example.com"),
        ([R, R, NO], "example.com"),
        ([R, YES, NO], "a.b.example.com"),
    ];
    for (records, expected) in cases {
        let zone: Vec<_> = ["a.b.example.com", "b.example.com", "example.com"].into_iter().zip(records).collect();
        assert_eq!(organizational("a.b.example.com", &zone), expected, "{records:?}");
    }
}

#[test]
fn section_5_1_8_the_zone_cut_is_never_found() {
    let author = "mail.a.b.c.d.e.f.g.example.com";
    let cut = ("b.c.d.e.f.g.example.com", NO);
    assert!(!names(&domain(author)).contains(&domain(cut.0)));
    assert_eq!(policy_domain(author, &[cut, ("example.com", R)]).as_deref(), Some("example.com"));
    assert_eq!(policy_domain(author, &[cut, (author, R)]).as_deref(), Some(author), "the remedy");
}

#[test]
fn appendix_b_2_1_to_b_2_3_and_b_2_5_records() {
    // The strings of each zone file as DNS joins them; p, URIs of rua and ruf, test mode.
    let cases: [(&str, &[&str], Policy, usize, usize, bool); 5] = [
        ("B.2.1", &["v=DMARC1; p=none; ", "rua=mailto:dmarc-feedback@example.com"], Policy::None, 1, 0, false),
        (
            "B.2.2",
            &["v=DMARC1; p=none; ", "rua=mailto:dmarc-feedback@example.com; ", "ruf=mailto:auth-reports@example.com"],
            Policy::None,
            1,
            1,
            false,
        ),
        (
            "B.2.3",
            &[
                "v=DMARC1; p=none; ",
                "rua=mailto:dmarc-feedback@example.com; ",
                "ruf=mailto:auth-reports@thirdparty.example.net",
            ],
            Policy::None,
            1,
            1,
            false,
        ),
        (
            "B.2.5 under test",
            &[
                "v=DMARC1; p=quarantine; ",
                "rua=mailto:dmarc-feedback@example.com,",
                "mailto:tld-test@thirdparty.example.net; ",
                "t=y",
            ],
            Policy::Quarantine,
            2,
            0,
            true,
        ),
        (
            "B.2.5 afterwards",
            &[
                "v=DMARC1; p=reject; ",
                "rua=mailto:dmarc-feedback@example.com,",
                "mailto:tld-test@thirdparty.example.net",
            ],
            Policy::Reject,
            2,
            0,
            false,
        ),
    ];
    for (name, strings, p, rua, ruf, testing) in cases {
        let r = record(strings.concat());
        assert_eq!((r.standing, r.requested(Place::Here)), (Standing::Sound, p), "{name}");
        assert_eq!((r.rua.len(), r.ruf.len(), r.testing, r.problems.len()), (rua, ruf, testing, 0), "{name}");
    }
}

/// What a third party publishes to take reports is a record by its version (RFC 9990 reads it), never a policy.
#[test]
fn appendix_b_2_3_and_b_2_4_consent_to_reports_is_no_policy() {
    assert_eq!(record("v=DMARC1;").standing, Standing::Unusable);
    let overriding = "v=DMARC1; rua=mailto:aggregate-reports@thirdparty.example.net; \
                      ruf=mailto:failure-reports@thirdparty.example.net";
    let r = record(overriding);
    assert_eq!((r.requested(Place::Here), r.rua.len(), r.ruf.len()), (Policy::None, 1, 1));
}

#[test]
fn appendix_b_4_1_simple_organizational_and_policy_example() {
    let zone = [("example.com", R), ("signing.example.com", R)];
    assert_eq!(organizational("example.com", &zone), "example.com");
    assert_eq!(organizational("signing.example.com", &zone), "example.com");
    assert_eq!(relaxed("example.com", "example.com", &zone), Alignment::Strict);
    assert_eq!(relaxed("example.com", "signing.example.com", &zone), Alignment::Relaxed);
    assert_eq!(policy_domain("example.com", &zone).as_deref(), Some("example.com"));
}

#[test]
fn appendix_b_4_2_deep_tree_walk_example() {
    let zone = [("example.com", R), ("signing.example.com", R)];
    let author = "a.b.c.d.e.f.g.h.i.j.k.example.com";
    let asked = names(&domain(author));
    let expected = [
        author,
        "g.h.i.j.k.example.com",
        "h.i.j.k.example.com",
        "i.j.k.example.com",
        "j.k.example.com",
        "k.example.com",
        "example.com",
        "com",
    ];
    assert_eq!(asked.iter().map(Domain::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(organizational(author, &zone), "example.com");
    assert_eq!(policy_domain(author, &zone).as_deref(), Some("example.com"));
    assert_eq!(relaxed(author, "example.com", &zone), Alignment::Relaxed);
    assert_eq!(relaxed(author, "signing.example.com", &zone), Alignment::Relaxed);
}

#[test]
fn appendix_b_4_3_example_with_a_psd_policy_record() {
    let zone = [("bank.example", YES), ("giant.bank.example", R)];
    assert_eq!(organizational("giant.bank.example", &zone), "giant.bank.example");
    assert_eq!(organizational("mail.giant.bank.example", &zone), "giant.bank.example");
    assert_eq!(organizational("mail.mega.bank.example", &zone), "mega.bank.example");
    assert_eq!(relaxed("giant.bank.example", "mail.giant.bank.example", &zone), Alignment::Relaxed);
    assert_eq!(relaxed("giant.bank.example", "mail.mega.bank.example", &zone), Alignment::Unaligned);
    assert_eq!(policy_domain("giant.bank.example", &zone).as_deref(), Some("giant.bank.example"));
}

#[test]
fn section_11_8_the_wrong_organizational_domain() {
    let owned = [("mail.example.com", NO), ("example.com", R)];
    assert_eq!(relaxed("evil.example.com", "mail.example.com", &owned), Alignment::Unaligned);
    assert_eq!(relaxed("a.mail.example.com", "mail.example.com", &owned), Alignment::Relaxed);
    let unsaid = [("mail.example.com", R), ("example.com", R)];
    assert_eq!(relaxed("evil.example.com", "mail.example.com", &unsaid), Alignment::Relaxed, "the RFC warns of it");
    // A suffix that publishes a record without psd=y makes one organization of all below it; psd=n is the remedy.
    assert_eq!(relaxed("a.com", "b.com", &[("com", R)]), Alignment::Relaxed);
    assert_eq!(relaxed("a.com", "b.com", &[("com", R), ("a.com", NO)]), Alignment::Unaligned);
}
