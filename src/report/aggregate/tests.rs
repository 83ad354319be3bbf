//! Reports as values and as XML; `tests/it/aggregate.rs` has whole ones.

use proptest::prelude::*;

use super::check::Fault;
use super::*;
use crate::label::Label;
use crate::record::{
    AlignmentOutcome, Counted, DiscoveryMethod, DkimAuthResult, NO_DOMAIN, OverrideKind, OverrideReason, Policy,
    Record, ReportDisposition, SpfAuthResult, SpfScope, TestMode, sample,
};

const LIMITS: Limits = Limits { records: 1000, octets: 1_000_000 };
const DAY: i64 = 20_454;

fn reporter(format: Format) -> Reporter {
    Reporter {
        organization: "Example & Sons".into(),
        email: "reports@rcpt.example".into(),
        extra_contact_info: None,
        receiver: Domain::parse("rcpt.example").unwrap(),
        format,
    }
}

fn row(count: u64, change: impl FnOnce(&mut Record)) -> Counted {
    let mut record = sample::record();
    change(&mut record);
    Counted { record, count }
}

/// One report of the rows' only configuration.
fn report(rows: Vec<Counted>, private: PrivateAddresses, limits: Limits) -> (Option<Feedback>, LeftOut) {
    let mut drafts = Drafts::new(private, limits);
    rows.into_iter().for_each(|row| drafts.add(row));
    let (mut drafts, left_out) = drafts.finish();
    assert_eq!((drafts.len(), left_out), (1, LeftOut::default()));
    drafts.remove(0).finish(&reporter(Format::Rfc9990), Period::day(DAY))
}

fn simple(rows: Vec<Counted>) -> Feedback {
    let (feedback, left_out) = report(rows, PrivateAddresses::Omit, LIMITS);
    assert_eq!(left_out, LeftOut::default());
    feedback.unwrap()
}

#[test]
fn rows_that_a_report_does_not_tell_apart_are_one_record() {
    type Change = fn(&mut Record);
    let cases: [(&str, Change, usize); 16] = [
        ("nothing", |_| {}, 1),
        ("time", |r| r.arrived += 60, 1),
        ("who answered, and how", |r| r.reply = crate::record::FinalReply::Accepted, 1),
        ("an address in another form", |r| r.source_ip = "::ffff:192.0.2.1".parse().unwrap(), 1),
        ("address", |r| r.source_ip = "192.0.2.2".parse().unwrap(), 2),
        ("disposition", |r| r.evaluated.disposition = ReportDisposition::Quarantine, 2),
        ("DKIM alignment", |r| r.evaluated.dkim = AlignmentOutcome::Pass, 2),
        ("SPF alignment", |r| r.evaluated.spf = AlignmentOutcome::Pass, 2),
        (
            "reason",
            |r| r.evaluated.reasons = vec![OverrideReason { kind: OverrideKind::Other, comment: "x".into() }],
            2,
        ),
        ("author domain", |r| r.header_from = Domain::parse("a.example.org").ok(), 2),
        ("reverse-path", |r| r.envelope_from.clear(), 2),
        ("reverse-path without a domain", |r| r.envelope_from = NO_DOMAIN.into(), 2),
        ("recipient", |r| r.envelope_to = Some("rcpt.example".into()), 2),
        ("selector", |r| r.dkim[0].selector.push('x'), 2),
        ("no signature", |r| r.dkim.clear(), 2),
        ("SPF", |r| r.spf = None, 2),
    ];
    for (name, change, records) in cases {
        let feedback = simple(vec![row(3, |_| {}), row(4, change)]);
        assert_eq!((feedback.lines.len(), feedback.messages()), (records, 7), "{name}");
    }
}

#[test]
fn only_the_null_reverse_path_is_empty() {
    let rows = || ["", NO_DOMAIN].map(|from| row(1, |r| r.envelope_from = from.into())).into();
    let xml = simple(rows()).to_xml();
    let counts = |xml: &str| ["<record>", "<envelope_from"].map(|text| xml.matches(text).count());
    assert_eq!(counts(&xml), [2, 1], "{xml}");
    let mut drafts = Drafts::new(PrivateAddresses::Omit, LIMITS);
    rows().into_iter().for_each(|row| drafts.add(row));
    let older = drafts.finish().0.remove(0).finish(&reporter(Format::Rfc7489), Period::day(DAY)).0.unwrap().to_xml();
    assert_eq!(counts(&older), [1, 1], "its schema wants one: {older}");
}

#[test]
fn the_order_of_rows_changes_nothing() {
    let rows = |reversed: bool| {
        let mut rows: Vec<_> = (0..20_u8).map(|n| row(1, |r| r.source_ip = [192, 0, 2, n % 7].into())).collect();
        if reversed {
            rows.reverse();
        }
        simple(rows).to_xml()
    };
    assert_eq!(rows(false), rows(true));
}

#[test]
fn each_configuration_is_a_report_of_its_own() {
    type Change = fn(&mut Record);
    let cases: [(&str, Change, usize); 9] = [
        ("what was asked for this author domain", |r| r.policy.as_mut().unwrap().requested = Policy::None, 1),
        ("policy domain", |r| r.policy.as_mut().unwrap().domain = Domain::parse("b.example").unwrap(), 2),
        ("record text", |r| r.policy.as_mut().unwrap().record.push(' '), 2),
        ("discovery", |r| r.policy.as_mut().unwrap().discovery = DiscoveryMethod::PublicSuffix, 2),
        ("p", |r| r.policy.as_mut().unwrap().p = Policy::None, 2),
        ("sp", |r| r.policy.as_mut().unwrap().sp = None, 2),
        ("np", |r| r.policy.as_mut().unwrap().np = Some(Policy::None), 2),
        ("fo", |r| r.policy.as_mut().unwrap().fo = "1".into(), 2),
        ("testing", |r| r.policy.as_mut().unwrap().testing = TestMode::On, 2),
    ];
    for (name, change, reports) in cases {
        let mut drafts = Drafts::new(PrivateAddresses::Omit, LIMITS);
        drafts.add(row(1, |_| {}));
        drafts.add(row(1, change));
        let (drafts, _) = drafts.finish();
        assert_eq!(drafts.len(), reports, "{name}");
        let mut ids: Vec<_> = drafts
            .into_iter()
            .map(|draft| draft.finish(&reporter(Format::Rfc9990), Period::day(DAY)).0.unwrap().file_name())
            .collect();
        ids.dedup();
        assert_eq!(ids.len(), reports, "{name}: one name for two");
    }
}

#[test]
fn ids_and_names_are_stable_and_unique() {
    let policy = simple(vec![row(1, |_| {})]).policy;
    let id = |receiver: &str, day| ReportId::new(&Domain::parse(receiver).unwrap(), &policy, Period::day(day));
    assert_eq!(id("rcpt.example", DAY).as_str(), "81aa8cc979d574beb3415b4cdc94f359", "an id that was once used stays");
    let others = [id("rcpt.example", DAY), id("other.example", DAY), id("rcpt.example", DAY + 1)];
    assert!(others[0] != others[1] && others[0] != others[2]);
    assert!(others.iter().all(|id| id.as_str().len() == 32 && id.as_str().bytes().all(|b| b.is_ascii_alphanumeric())));
    let feedback = simple(vec![row(1, |_| {})]);
    let expected = format!("rcpt.example!example.org!1767225600!1767311999!{}.xml.gz", others[0]);
    assert_eq!(feedback.file_name(), expected);
}

#[test]
fn private_addresses_are_left_out_and_counted() {
    let rows = || vec![row(3, |r| r.source_ip = [10, 0, 0, 1].into()), row(4, |r| r.source_ip = [10, 0, 0, 2].into())];
    let count = |feedback: Option<Feedback>| feedback.map(|f| (f.lines.len(), f.messages()));
    let (feedback, left_out) = report(rows(), PrivateAddresses::Omit, LIMITS);
    assert_eq!((feedback, left_out.private), (None, 7), "a report without a record is none");
    let (feedback, left_out) = report(rows(), PrivateAddresses::Mask, LIMITS);
    assert_eq!((count(feedback), left_out), (Some((1, 7)), LeftOut::default()));
    let (feedback, left_out) = report(rows(), PrivateAddresses::Keep, LIMITS);
    assert_eq!((count(feedback), left_out), (Some((2, 7)), LeftOut::default()));
}

#[test]
fn what_no_report_can_be_about_is_counted() {
    let mut drafts = Drafts::new(PrivateAddresses::Keep, LIMITS);
    drafts.add(row(2, |r| r.policy = None));
    drafts.add(row(3, |r| r.header_from = None));
    let (mut drafts, left_out) = drafts.finish();
    assert_eq!(left_out.subjectless, 2);
    let mut draft = drafts.remove(0);
    draft.add(row(4, |r| r.policy.as_mut().unwrap().p = Policy::None));
    let (feedback, left_out) = draft.finish(&reporter(Format::Rfc9990), Period::day(DAY));
    assert_eq!((feedback, left_out.subjectless), (None, 7));
}

#[test]
fn a_flood_leaves_room_for_what_passed_and_for_what_counts() {
    let mut rows: Vec<_> = (0..5000_u16)
        .map(|n| row(2, |r| r.source_ip = [198, 51, n.to_be_bytes()[0], n.to_be_bytes()[1]].into()))
        .collect();
    rows.insert(100, row(1, |r| r.evaluated.dkim = AlignmentOutcome::Pass));
    rows.insert(4000, row(1000, |r| r.source_ip = [203, 0, 113, 9].into()));
    for limits in [Limits { records: 50, ..LIMITS }, Limits { octets: 50_000, ..LIMITS }] {
        let (feedback, left_out) = report(rows.clone(), PrivateAddresses::Omit, limits);
        let feedback = feedback.unwrap();
        assert!((40..=80).contains(&feedback.lines.len()), "{}", feedback.lines.len());
        assert_eq!(feedback.messages() + left_out.surplus, 11_001, "every message is accounted for");
        let lines = &feedback.lines;
        assert!(lines.iter().any(|(line, count)| line.is_aligned() && *count == 1));
        assert!(lines.iter().any(|(_, count)| *count == 1000));
        let told = format!("{} more messages are not in this report, which is limited in size", left_out.surplus);
        assert_eq!(feedback.error.as_deref(), Some(&*told));
        assert!(feedback.to_xml().len() <= limits.octets + 2000);
    }
}

#[test]
fn an_owner_whose_record_changes_for_each_question_gets_few_reports() {
    let mut drafts = Drafts::new(PrivateAddresses::Omit, LIMITS);
    for n in 0..30 {
        drafts.add(row(1, |r| r.policy.as_mut().unwrap().record = format!("v=DMARC1; p=reject; n={n}")));
    }
    drafts.add(row(1, |r| r.policy.as_mut().unwrap().domain = Domain::parse("b.example").unwrap()));
    let (drafts, left_out) = drafts.finish();
    assert_eq!((drafts.len(), left_out.surplus), (11, 20), "another domain has room of its own");
}

#[test]
fn the_owner_reads_what_is_wrong_with_the_record() {
    let error = |record: &str| {
        let record = record.to_owned();
        simple(vec![row(1, |r| r.policy.as_mut().unwrap().record = record)]).error
    };
    assert_eq!(error("v=DMARC1; p=reject; rua=mailto:a@a.example"), None);
    let text = error("v=DMARC1; p=reject; sp=x; rua=a@a.example; adkim=q").unwrap();
    assert_eq!(text, "sp is invalid; rua lists an invalid URI; adkim is invalid");
}

#[test]
fn a_failure_that_was_treated_otherwise_has_a_reason() {
    use AlignmentOutcome::{Fail, Pass};
    let cases = [
        ("as asked", ReportDisposition::Reject, Fail, Policy::Reject, 0),
        ("milder, and nobody said why", ReportDisposition::None, Fail, Policy::Reject, 1),
        ("passed", ReportDisposition::Pass, Pass, Policy::Reject, 0),
        ("asked for nothing", ReportDisposition::None, Fail, Policy::None, 0),
    ];
    for (name, disposition, dkim, requested, reasons) in cases {
        let feedback = simple(vec![row(1, |r| {
            r.evaluated.disposition = disposition;
            r.evaluated.dkim = dkim;
            r.policy.as_mut().unwrap().requested = requested;
        })]);
        assert_eq!(feedback.lines[0].0.reasons.len(), reasons, "{name}");
    }
}

#[test]
fn every_word_that_a_row_can_have_is_one_of_the_schema() {
    let words = [
        crate::evaluation::DkimResult::ALL.iter().map(|r| r.as_str()).collect::<Vec<_>>(),
        crate::spf::SpfResult::ALL.iter().map(|r| r.as_str()).collect(),
    ];
    for (word, known) in words[0]
        .iter()
        .map(|w| (w, &line::DKIM_RESULTS[..]))
        .chain(words[1].iter().map(|w| (w, &line::SPF_RESULTS[..])))
    {
        assert!(known.contains(word), "{word}");
    }
    let feedback = simple(vec![row(1, |r| {
        r.dkim[0].result = "novel".into();
        r.spf.as_mut().unwrap().result = "best_guess".into();
    })]);
    let line = &feedback.lines[0].0;
    assert_eq!((line.dkim[0].result.as_str(), line.spf.as_ref().unwrap().result.as_str()), ("neutral", "neutral"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn a_damaged_report_is_found() {
    let good = simple(vec![row(1, |_| {}), row(2, |r| r.source_ip = "2001:db8::1".parse().unwrap())]).to_xml();
    check(&good, Format::Rfc9990).unwrap();
    let record = &good[good.find(" <record>").unwrap()..good.find("</record>").unwrap() + 10];
    let cases: Vec<(&str, &str, String, &str)> = vec![
        ("no namespace", " xmlns=\"urn:ietf:params:xml:ns:dmarc-2.0\"", String::new(), "document: wrong attributes"),
        ("another namespace", "dmarc-2.0", "dmarc-2.1".into(), "document: wrong attributes"),
        ("an attribute", "<version>", "<version a=\"b\">".into(), "feedback: wrong attributes"),
        ("the namespace by another name", " xmlns=", " xmlns:x=".into(), "document: wrong attributes"),
        (
            "a declaration inside",
            "<version>",
            "<?xml version=\"1.0\"?><version>".into(),
            "feedback: content that has no place here",
        ),
        ("another version", "1.0</v", "2.0</v".into(), "feedback/version: \"2.0\" is not allowed"),
        ("a prefix", "<version>1.0</version>", "<x:version>1.0</x:version>".into(), "feedback: version is missing"),
        (
            "no address",
            "<email>reports@rcpt.example</email>",
            String::new(),
            "feedback/report_metadata: email is missing",
        ),
        (
            "an empty address",
            "reports@rcpt.example",
            String::new(),
            "feedback/report_metadata/email: \"\" is not allowed",
        ),
        (
            "twice",
            "<p>reject</p>",
            "<p>reject</p><p>reject</p>".into(),
            "feedback/policy_published: \"p\" is not expected",
        ),
        (
            "another order",
            "<p>reject</p>",
            "<sp>none</sp><p>reject</p>".into(),
            "feedback/policy_published: p is missing",
        ),
        (
            "a capital",
            "<p>reject</p>",
            "<p>Reject</p>".into(),
            "feedback/policy_published/p: \"Reject\" is not allowed",
        ),
        (
            "white space",
            "<p>reject</p>",
            "<p> reject</p>".into(),
            "feedback/policy_published/p: \" reject\" is not allowed",
        ),
        ("pct", "<testing>", "<pct>100</pct><testing>".into(), "feedback/policy_published: \"pct\" is not expected"),
        ("no count", "<count>1</count>", String::new(), "feedback/record/row: count is missing"),
        (
            "a count of 0",
            "<count>1</count>",
            "<count>0</count>".into(),
            "feedback/record/row/count: \"0\" is not allowed",
        ),
        (
            "softfail",
            "<disposition>reject",
            "<disposition>softfail".into(),
            "feedback/record/row/policy_evaluated/disposition: \"softfail\" is not allowed",
        ),
        (
            "a reason as text",
            "<spf>fail</spf>",
            "<spf>fail</spf><reason>list</reason>".into(),
            "feedback/record/row/policy_evaluated/reason: content that has no place here",
        ),
        (
            "no address of the source",
            "192.0.2.1",
            "192.0.2".into(),
            "feedback/record/row/source_ip: \"192.0.2\" is not allowed",
        ),
        (
            "no author",
            "<header_from>example.org</header_from>",
            String::new(),
            "feedback/record/identifiers: header_from is missing",
        ),
        ("helo", "mfrom", "helo".into(), "feedback/record/auth_results/spf/scope: \"helo\" is not allowed"),
        ("text between", "<row>", "x<row>".into(), "feedback/record: content that has no place here"),
        ("a comment", "<row>", "<!-- --><row>".into(), "feedback/record: content that has no place here"),
        (
            "CDATA",
            "<version>1.0",
            "<version><![CDATA[1.0]]>".into(),
            "feedback/version: content that has no place here",
        ),
        (
            "a document type",
            "<feedback",
            "<!DOCTYPE feedback><feedback".into(),
            "document: content that has no place here",
        ),
        (
            "an entity",
            "Example &amp;",
            "Example &x;".into(),
            "feedback/report_metadata/org_name: content that has no place here",
        ),
        (
            "a number as entity",
            "Example &amp;",
            "Example &#38;".into(),
            "feedback/report_metadata/org_name: content that has no place here",
        ),
        (
            "a bare ampersand",
            "Example &amp;",
            "Example &".into(),
            "feedback/report_metadata/org_name: no well-formed XML",
        ),
        ("a control character", "Example", "Ex\u{1}ample".into(), "document: content that has no place here"),
        ("no Unicode character", "Example", "Ex\u{FFFE}ample".into(), "document: content that has no place here"),
        ("nesting", "</row>", "</record>".into(), "feedback/record/row: no well-formed XML"),
        (
            "cut",
            "</auth_results>\n </record>\n</feedback>\n",
            String::new(),
            "feedback/record/auth_results: no well-formed XML",
        ),
        ("two roots", "</feedback>", "</feedback><feedback/>".into(), "document: \"feedback\" is not expected"),
        ("text behind", "</feedback>", "</feedback>x".into(), "document: content that has no place here"),
    ];
    for (name, from, to, expected) in cases {
        // The last place, so that the end can be cut; all that are named are there once or in the last record alone.
        let at = good.find(from).unwrap_or_else(|| panic!("{name}: no {from}"));
        let at = if name == "cut" { good.rfind(from).unwrap() } else { at };
        let bad = format!("{}{to}{}", &good[..at], &good[at + from.len()..]);
        let damage = check(&bad, Format::Rfc9990).expect_err(name);
        assert_eq!(damage.to_string(), expected, "{name}");
    }
    let without = good.replace(record, "");
    let without = without.replace(&good[good.rfind(" <record>").unwrap()..good.rfind("</feedback>").unwrap()], "");
    assert_eq!(check(&without, Format::Rfc9990).unwrap_err().fault, Fault::Missing("record"));
    // The first element of this name, with another text.
    for (element, text) in [
        ("report_id", ""),
        ("report_id", "a-b"),
        ("begin", ""),
        ("begin", "1x"),
        ("begin", "123456789012345678901"),
        ("adkim", "x"),
        ("dkim", "none"),
    ] {
        let start = good.find(&format!("<{element}>")).unwrap() + element.len() + 2;
        let end = good.find(&format!("</{element}>")).unwrap();
        let damage = check(&format!("{}{text}{}", &good[..start], &good[end..]), Format::Rfc9990).unwrap_err();
        assert_eq!(damage.fault, Fault::Value(text.into()), "{element}");
    }
    for entity in ["&lt;", "&gt;", "&quot;", "&apos;"] {
        assert_eq!(check(&good.replace("Example &amp;", &format!("Example {entity}")), Format::Rfc9990), Ok(()));
    }
    assert_eq!(check("", Format::Rfc9990).unwrap_err().fault, Fault::Malformed);
    let long = " ".repeat(96 * 1024 * 1024 + 1);
    assert_eq!(check(&long, Format::Rfc9990).unwrap_err().fault, Fault::TooLarge);
    assert!(check(&good, Format::Rfc7489).is_err());
}

#[test]
fn what_a_format_does_not_tell_apart_is_added_up() {
    type Change = fn(&mut Record);
    let with_reason = |r: &mut Record, kind, comment: &str| {
        r.evaluated.reasons = vec![OverrideReason { kind, comment: comment.into() }];
    };
    let cases: [(&str, Change, Change, [usize; 2]); 3] = [
        ("SPF scope", |_| {}, |r| r.spf.as_mut().unwrap().scope = SpfScope::Helo, [1, 2]),
        (
            "pass and none",
            |r| (r.evaluated.disposition, r.evaluated.dkim) = (ReportDisposition::Pass, AlignmentOutcome::Pass),
            |r| (r.evaluated.disposition, r.evaluated.dkim) = (ReportDisposition::None, AlignmentOutcome::Pass),
            [2, 1],
        ),
        (
            "no SPF and none",
            |r| r.spf = None,
            |r| {
                r.spf = Some(SpfAuthResult {
                    domain: "example.org".into(),
                    scope: SpfScope::MailFrom,
                    result: "none".into(),
                });
            },
            [2, 1],
        ),
    ];
    for (name, one, other, expected) in cases {
        let lines = |format| {
            let mut drafts = Drafts::new(PrivateAddresses::Omit, LIMITS);
            drafts.add(row(3, one));
            drafts.add(row(4, other));
            let feedback = drafts.finish().0.remove(0).finish(&reporter(format), Period::day(DAY)).0.unwrap();
            assert_eq!(feedback.messages(), 7, "{name}");
            feedback.lines.len()
        };
        assert_eq!([lines(Format::Rfc9990), lines(Format::Rfc7489)], expected, "{name}");
    }
    let mut testing = row(1, |_| {});
    with_reason(&mut testing.record, OverrideKind::PolicyTestMode, "t=y");
    let mut drafts = Drafts::new(PrivateAddresses::Omit, LIMITS);
    drafts.add(testing);
    let feedback = drafts.finish().0.remove(0).finish(&reporter(Format::Rfc7489), Period::day(DAY)).0.unwrap();
    let expected = OverrideReason { kind: OverrideKind::Other, comment: "policy_test_mode: t=y".into() };
    assert_eq!(feedback.lines[0].0.reasons, [expected]);
}

#[test]
fn signatures_that_can_have_no_name_are_not_listed() {
    let feedback = simple(vec![row(1, |r| {
        r.dkim = [("a.example", "s"), ("", "s"), ("a.example", " ")]
            .map(|(domain, selector)| DkimAuthResult {
                domain: domain.into(),
                selector: selector.into(),
                result: "permerror".into(),
            })
            .to_vec();
    })]);
    assert_eq!(feedback.lines[0].0.dkim.len(), 1);
}

prop_compose! {
    /// What a peer may write, with much of what breaks XML.
    fn hostile()(parts in proptest::collection::vec(
        prop_oneof!["[ -~]{0,8}", "\\PC{0,4}", Just("]]>".into()), Just("<!--".into()), Just("&amp;&#0;".into()),
            Just("\0\u{1}\u{7f}\u{85}\r\n\t".into()), Just("\u{FFFE}\u{FFFF}\u{FDD0}\u{202e}".into())], 0..5))
        -> String { parts.concat() }
}

prop_compose! {
    fn signatures()(list in proptest::collection::vec((hostile(), hostile(), "[a-z]{0,5}|pass|fail"), 0..4))
        -> Vec<DkimAuthResult> {
        list.into_iter().map(|(domain, selector, result)| DkimAuthResult { domain, selector, result }).collect()
    }
}

prop_compose! {
    fn rows()(list in proptest::collection::vec(
        ((any::<u128>(), any::<bool>(), 0..4_usize, any::<bool>()),
         (hostile(), proptest::option::of(hostile()), hostile(), hostile()), signatures(), 1..1000_u64), 1..12))
        -> Vec<Counted> {
        list.into_iter().map(|((ip, is_v4, disposition, is_helo), (from, to, spf, comment), dkim, count)| row(count, |r| {
            let [a, b, c, d, ..] = ip.to_be_bytes();
            r.source_ip = if is_v4 { [a, b, c, d].into() } else { std::net::Ipv6Addr::from(ip).into() };
            r.evaluated.disposition = ReportDisposition::ALL[disposition];
            r.evaluated.reasons = vec![OverrideReason { kind: OverrideKind::ALL[disposition], comment }];
            (r.envelope_from, r.envelope_to, r.dkim) = (from, to, dkim);
            let scope = if is_helo { SpfScope::Helo } else { SpfScope::MailFrom };
            r.spf = (!spf.is_empty()).then(|| SpfAuthResult { domain: spf, scope, result: "pass".into() });
        })).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn whatever_peers_write_makes_a_sound_report(rows in rows(), organization in "[a-z<&]{1,9}", older in any::<bool>()) {
        let messages: u64 = rows.iter().map(|row| row.count).sum();
        let mut drafts = Drafts::new(PrivateAddresses::Mask, LIMITS);
        rows.into_iter().for_each(|row| drafts.add(row));
        let format = if older { Format::Rfc7489 } else { Format::Rfc9990 };
        let reporter = Reporter { organization, ..reporter(format) };
        let (feedback, left_out) = drafts.finish().0.remove(0).finish(&reporter, Period::day(DAY));
        let feedback = feedback.unwrap();
        prop_assert_eq!(left_out, LeftOut::default());
        prop_assert_eq!(feedback.messages(), messages);
        let xml = feedback.to_xml();
        prop_assert_eq!(check(&xml, format), Ok(()), "{}", xml);
        let octets: usize = feedback.lines.iter().map(|(line, _)| line.octets()).sum();
        prop_assert!(xml.len() <= octets + 2000, "{} > {}", xml.len(), octets);
        prop_assert!(octets <= xml.len() + xml.len() / 2, "{} << {}", xml.len(), octets);
    }
}
