//! What is written, and that nothing put in can make it say more.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::dmarc::alignment::{Alignment, DmarcResult, Doubt};
use crate::dmarc::record::{Parsed, Place, parse};
use crate::domain::Domain;
use crate::evaluation::{ArcOutput, ArcResult, DkimOutput, DkimResult, DmarcOutput, PublishedPolicy};
use crate::message::author::{Author, UnusableFrom};
use crate::policy::{
    Circumstances, LocalPolicy, Mode, OnTempError, OnUnusableFrom, Pct, Recipients, Reject, ReversePathKind, decide,
};
use crate::spf::{Identity, SpfOutput, SpfResult};

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn spf(result: SpfResult, identity: Identity, domain_text: &str) -> SpfOutput {
    SpfOutput {
        result,
        identity,
        domain: Domain::parse(domain_text).ok(),
        term: None,
        reason: "no mechanism matched".into(),
        unsettled: false,
        records: Vec::new(),
    }
}

fn signature(result: DkimResult, domain_text: &str) -> DkimOutput {
    DkimOutput {
        result,
        domain: Some(domain(domain_text)),
        selector: "s1".into(),
        identity: Some(format!("@{domain_text}").into()),
        algorithm: Some("rsa-sha256"),
        signature_start: "abc/d+f=".into(),
        key_found: false,
        reason: "body hash did not verify",
    }
}

fn dmarc(author: &str, result: DmarcResult, tags: &str) -> DmarcOutput {
    let record = match parse(format!("v=DMARC1; {tags}").as_bytes()) {
        Parsed::Record(record) if !tags.is_empty() => Some(Arc::from(record)),
        _ => None,
    };
    DmarcOutput {
        author_domain: domain(author),
        organizational_domain: None,
        result,
        doubt: (result == DmarcResult::TempError).then_some(Doubt::Identifier),
        reason: "no identifier passed",
        policy: record.map(|record: Arc<crate::dmarc::record::PolicyRecord>| PublishedPolicy {
            discovery: crate::dmarc::public_suffix::Discovery::TreeWalk,
            agreement: crate::dmarc::public_suffix::Agreement::Same,
            domain: domain(author),
            requested: record.requested(Place::Here),
            record,
        }),
        spf_alignment: Alignment::Unaligned,
        dkim_alignment: Vec::new(),
        spf_aligned: false,
        dkim_aligned: false,
    }
}

fn evaluation(spf: SpfOutput, dkim: Vec<DkimOutput>, dmarc: Vec<DmarcOutput>) -> Evaluation {
    Evaluation {
        author: Author::Usable {
            domains: dmarc.iter().map(|d| d.author_domain.clone()).collect(),
            address_in_display_name: false,
        },
        spf,
        dkim,
        dkim_skipped: 0,
        arc: ArcOutput { result: ArcResult::None, sealers: Vec::new(), reason: "no chain" },
        dmarc,
        list_fields: false,
        evidence: Vec::new(),
        elapsed: Duration::ZERO,
    }
}

fn action(evaluation: &Evaluation, mode: Mode, reject: Reject) -> Action {
    let circumstances =
        Circumstances { reverse_path: ReversePathKind::Mailbox, recipients: Recipients::Ordinary, sample: 0 };
    let local = LocalPolicy {
        mode,
        reject,
        on_temperror: OnTempError::DeferIfItMatters,
        unusable_from: OnUnusableFrom::Reject,
        pct: Pct::Ignored,
    };
    Action::of(evaluation, &decide(evaluation, &circumstances, &local), &NAMES)
}

fn header(evaluation: &Evaluation, mode: Mode) -> String {
    match action(evaluation, mode, Reject::Corroborated) {
        Action::Relay { header } => header,
        other => panic!("{other:?}"),
    }
}

const NAMES: Names<'_> = Names { authserv_id: "mx.example.net", explain_id: "7f3a-01" };

#[test]
fn the_fields_of_a_pass() {
    let mut facts = evaluation(
        spf(SpfResult::Pass, Identity::MailFrom, "bounce.example.org"),
        vec![signature(DkimResult::Pass, "example.org"), signature(DkimResult::Fail, "example.com")],
        vec![dmarc("example.org", DmarcResult::Pass, "p=reject; t=y")],
    );
    facts.arc = ArcOutput { result: ArcResult::Fail, sealers: Vec::new(), reason: "the chain is broken" };
    let expected = "Authentication-Results: mx.example.net;\r\n \
        spf=pass smtp.mailfrom=bounce.example.org;\r\n \
        dkim=pass header.d=example.org header.i=@example.org header.s=s1\r\n \
        header.a=rsa-sha256 header.b=\"abc/d+f=\";\r\n \
        dkim=fail reason=\"body hash did not verify\" header.d=example.com\r\n \
        header.i=@example.com header.s=s1 header.a=rsa-sha256 header.b=\"abc/d+f=\";\r\n \
        arc=fail reason=\"the chain is broken\";\r\n \
        dmarc=pass (p=reject dis=pass) policy.dmarc=quarantine\r\n \
        header.from=example.org\r\n";
    assert_eq!(header(&facts, Mode::Enforce), expected);
}

#[test]
fn the_fields_of_a_marked_message() {
    let facts = evaluation(
        spf(SpfResult::Fail, Identity::Helo, "mail.example.net"),
        Vec::new(),
        vec![dmarc("example.org", DmarcResult::Fail, "p=quarantine")],
    );
    let expected = "Authentication-Results: mx.example.net;\r\n \
        spf=fail reason=\"no mechanism matched\" smtp.helo=mail.example.net;\r\n \
        dkim=none;\r\n \
        dmarc=fail (p=quarantine dis=quarantine id=7f3a-01) reason=\"no identifier\r\n \
        passed\" policy.dmarc=quarantine header.from=example.org\r\n\
        X-DMARC-Fail-policy: quarantine\r\n";
    assert_eq!(header(&facts, Mode::Enforce), expected);
    let forged = evaluation(
        spf(SpfResult::None, Identity::MailFrom, ""),
        Vec::new(),
        vec![dmarc("example.org", DmarcResult::Fail, "p=reject")],
    );
    assert!(header(&forged, Mode::Tag).ends_with("\r\nX-DMARC-Fail-policy: reject\r\n"));
    let monitored = header(&forged, Mode::Monitor);
    assert!(!monitored.contains("X-DMARC") && !monitored.contains("id="), "{monitored}");
    assert!(monitored.contains("(p=reject dis=none)"), "{monitored}");
}

#[test]
fn failing_author_domains_come_first_and_an_unusable_from_has_none() {
    let facts = evaluation(
        spf(SpfResult::None, Identity::MailFrom, ""),
        Vec::new(),
        vec![
            dmarc("a.example", DmarcResult::Pass, "p=reject"),
            dmarc("b.example", DmarcResult::None, ""),
            dmarc("c.example", DmarcResult::Fail, "p=quarantine"),
        ],
    );
    let results: Vec<_> = read(&header(&facts, Mode::Enforce)).1.into_iter().filter(|r| r.0 == "dmarc").collect();
    let froms: Vec<_> = results.iter().map(|r| r.2.last().unwrap().1.as_str()).collect();
    assert_eq!(froms, ["c.example", "a.example", "b.example"]);

    let mut unusable = evaluation(spf(SpfResult::None, Identity::MailFrom, ""), Vec::new(), Vec::new());
    unusable.author = Author::Unusable(UnusableFrom::NoDomain);
    let (_, results) = read(&header(&unusable, Mode::Tag));
    let reason = ("reason".to_owned(), "From names no usable author domain: no domain".to_owned());
    assert_eq!(results.last().unwrap(), &("dmarc".to_owned(), "permerror".to_owned(), vec![reason]));
}

#[test]
fn a_message_that_was_not_evaluated_says_so() {
    let expected = Action::Relay { header: "Authentication-Results: mx.example.net; none\r\n".to_owned() };
    assert_eq!(Action::bypass("mx.example.net"), expected);
    let expected = Action::Relay { header: "Authentication-Results: mx.example.net; auth=pass\r\n".into() };
    assert_eq!(Action::authenticated("mx.example.net"), expected);
}

#[test]
fn many_signatures_are_cut_with_the_passing_ones_kept() {
    let mut signatures = vec![signature(DkimResult::Fail, "example.com"); 30];
    signatures.push(signature(DkimResult::Pass, "example.org"));
    let mut facts = evaluation(spf(SpfResult::None, Identity::MailFrom, ""), signatures, Vec::new());
    facts.dkim_skipped = 5;
    let field = header(&facts, Mode::Enforce);
    let (_, results) = read(&field);
    let dkim: Vec<_> = results.iter().filter(|r| r.0 == "dkim").collect();
    assert_eq!((dkim.len(), dkim[0].1.as_str()), (20, "pass"));
    assert!(field.contains("(more=16)"), "{field}");
}

#[test]
fn replies_name_dmarc_the_domain_and_an_id() {
    let reject = evaluation(
        spf(SpfResult::None, Identity::MailFrom, ""),
        Vec::new(),
        vec![dmarc("a.example", DmarcResult::None, ""), dmarc("b.example", DmarcResult::Fail, "p=reject")],
    );
    let text = "Email rejected per DMARC policy for b.example: neither SPF nor DKIM gave an aligned pass (id 7f3a-01)";
    let expected = ReplyText { code: 550, enhanced: (5, 7, 1), text: text.to_owned() };
    assert_eq!(action(&reject, Mode::Enforce, Reject::Corroborated), Action::Reject(expected));

    let doubt = evaluation(
        spf(SpfResult::TempError, Identity::MailFrom, "a.example"),
        Vec::new(),
        vec![dmarc("a.example", DmarcResult::TempError, "p=reject")],
    );
    let text = "DMARC for a.example could not be evaluated: temporary DNS failure, please try again later (id 7f3a-01)";
    let expected = ReplyText { code: 451, enhanced: (4, 7, 0), text: text.to_owned() };
    assert_eq!(action(&doubt, Mode::Enforce, Reject::Always), Action::Defer(expected));

    let mut unusable = evaluation(spf(SpfResult::None, Identity::MailFrom, ""), Vec::new(), Vec::new());
    unusable.author = Author::Unusable(UnusableFrom::Repeated);
    let text = "Email rejected: DMARC needs a From field that names one usable author domain; there is more than one From field (id 7f3a-01)";
    let expected = ReplyText { code: 550, enhanced: (5, 7, 1), text: text.to_owned() };
    assert_eq!(action(&unusable, Mode::Enforce, Reject::Never), Action::Reject(expected));
}

#[test]
fn the_longest_reply_stays_below_512_octets() {
    let long = format!("{}example", "a23456789012345678901234567890123456789012345678901234567890.".repeat(4));
    let facts = evaluation(
        spf(SpfResult::None, Identity::MailFrom, ""),
        Vec::new(),
        vec![dmarc(&long, DmarcResult::Fail, "p=reject")],
    );
    let Action::Reject(reply) = action(&facts, Mode::Enforce, Reject::Always) else { panic!() };
    assert!("550 5.7.1 \r\n".len() + reply.text.len() < 512 && reply.text.ends_with("(id 7f3a-01)"), "{reply:?}");
}

#[test]
fn values_are_tokens_or_quoted_or_left_out() {
    let cases = [
        ("s1._x", vec![("header.s", "s1._x")]),
        ("a b", vec![("header.s", "a b")]),
        ("a;dmarc=pass", vec![("header.s", "a;dmarc=pass")]),
        ("a\" (b)\\", vec![("header.s", "a\" (b)\\")]),
        ("a\r\nX: y", vec![]),
        ("s\u{fc}d", vec![]),
        ("", vec![]),
    ];
    for (selector, expected) in cases {
        let signature = DkimOutput {
            selector: selector.into(),
            identity: None,
            algorithm: None,
            signature_start: "".into(),
            domain: None,
            ..signature(DkimResult::Pass, "example.org")
        };
        let facts = evaluation(spf(SpfResult::None, Identity::MailFrom, ""), vec![signature], Vec::new());
        let (_, results) = read(&header(&facts, Mode::Enforce));
        let expected: Vec<_> = expected.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        assert_eq!(results[1].2, expected, "{selector:?}");
    }
    let identities = [
        ("user@example.org", Some("user@example.org")),
        ("@Example.ORG", Some("@example.org")),
        ("a.b+c@example.org", Some("a.b+c@example.org")),
        ("a=20b@example.org", None),
        ("\"a b\"@example.org", None),
        ("a;dmarc=pass@example.org", None),
        ("a@b@example.org", None),
        ("..@example.org", None),
        ("user@exam ple", None),
        ("user", None),
    ];
    for (identity, expected) in identities {
        let signature = DkimOutput { identity: Some(identity.into()), ..signature(DkimResult::Pass, "example.org") };
        let facts = evaluation(spf(SpfResult::None, Identity::MailFrom, ""), vec![signature], Vec::new());
        let (_, results) = read(&header(&facts, Mode::Enforce));
        let found = results[1].2.iter().find(|(name, _)| name == "header.i").map(|(_, value)| value.as_str());
        assert_eq!(found, expected, "{identity:?}");
    }
}

type ResultInfo = (String, String, Vec<(String, String)>);

/// A reader of our own for what a reader of RFC 8601 sees: authserv-id, and each result with `reason` and properties.
fn read(header: &str) -> (String, Vec<ResultInfo>) {
    let text = header.split("\r\nX-DMARC").next().unwrap();
    let text = text.strip_suffix("\r\n").unwrap_or(text).strip_prefix("Authentication-Results:").unwrap();
    let mut parts: Vec<Vec<String>> = vec![Vec::new()];
    let mut word = String::new();
    let (mut quoted, mut depth) = (false, 0);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' if quoted => word.push(characters.next().unwrap()),
            '"' if depth == 0 => quoted = !quoted,
            '\r' | '\n' if quoted => {} // folded
            _ if quoted => word.push(c),
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth > 0 => {}
            ';' => {
                parts.last_mut().unwrap().push(std::mem::take(&mut word));
                parts.push(Vec::new());
            }
            ' ' | '\r' | '\n' => parts.last_mut().unwrap().push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    assert!(!quoted && depth == 0, "{header}");
    parts.last_mut().unwrap().push(word);
    let mut parts = parts.into_iter().map(|p| p.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>());
    let id = parts.next().unwrap().concat();
    let pair = |word: &String| word.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())).unwrap();
    let results = parts.map(|words| {
        let (method, result) = pair(&words[0]);
        (method, result, words[1..].iter().map(pair).collect())
    });
    (id, results.collect())
}

/// Any text, and texts made to break out.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~]{0,40}",
        "[a-z0-9.-]{1,300}",
        "[\\r\\n\\t ;=()\"\\\\a-z@.]{0,40}",
        Just("x\r\nSubject: hello".to_owned()),
        Just("x; dmarc=pass header.from=bank.example".to_owned()),
        Just("(((".to_owned()),
        Just("\"".to_owned()),
        Just("\u{202e}\u{0}\u{7f}\u{85}\u{2028}".to_owned()),
    ]
}

/// Runs of blanks and line ends in a reason become one space.
fn words(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the field may say of a text.
fn meant(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= 253 && text.bytes().all(|b| (0x20..=0x7e).contains(&b));
    fits.then(|| text.to_owned())
}

proptest! {
    #[test]
    fn nothing_put_in_makes_the_field_say_more(
        texts in prop::collection::vec(hostile(), 6),
        signatures in 0_usize..4,
        helo in any::<bool>(),
        tagged in any::<bool>(),
    ) {
        let identity = if helo { Identity::Helo } else { Identity::MailFrom };
        let mut spf = spf(SpfResult::Fail, identity, &texts[0]);
        spf.reason = texts[1].as_str().into();
        let hostile = DkimOutput {
            selector: texts[2].as_str().into(),
            identity: Some(texts[3].as_str().into()),
            signature_start: texts[4].as_str().into(),
            domain: Domain::parse(&texts[0]).ok(),
            ..signature(DkimResult::PermError, "example.org")
        };
        let facts = evaluation(
            spf,
            vec![hostile; signatures],
            vec![dmarc("example.org", DmarcResult::Fail, "p=reject")],
        );
        let mode = if tagged { Mode::Tag } else { Mode::Monitor };
        let circumstances =
            Circumstances { reverse_path: ReversePathKind::Mailbox, recipients: Recipients::Ordinary, sample: 0 };
        let local = LocalPolicy {
            mode,
            reject: Reject::Always,
            on_temperror: OnTempError::Pass,
            unusable_from: OnUnusableFrom::Reject,
            pct: Pct::Ignored,
        };
        let names = Names { authserv_id: "mx.example.net", explain_id: &texts[5] };
        let decision = decide(&facts, &circumstances, &local);
        let Action::Relay { header } = Action::of(&facts, &decision, &names) else { panic!() };

        // Lines: no bare CR or LF, no control character, each continuation with content, none too long.
        prop_assert!(header.ends_with("\r\n"));
        let lines: Vec<&str> = header.strip_suffix("\r\n").unwrap().split("\r\n").collect();
        for (index, line) in lines.iter().enumerate() {
            prop_assert!(line.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{line:?}");
            prop_assert!(line.len() <= 998 && !line.trim().is_empty());
            prop_assert!(line.len() <= 78 || !line.trim().contains(' ') || line.contains('"'), "{line}");
            let begins_field = index == 0 || (tagged && index == lines.len() - 1);
            prop_assert_eq!(!line.starts_with(' '), begins_field, "{}", line);
        }

        // Content: exactly the methods and values that were meant.
        let domain_text = Domain::parse(&texts[0]).ok().map(|d| d.to_string());
        let property = |name: &str, value: Option<String>| value.map(|v| (name.to_owned(), v));
        let mut expected: Vec<ResultInfo> = vec![(
            "spf".to_owned(),
            "fail".to_owned(),
            property("reason", meant(&words(&texts[1]))).into_iter()
                .chain(property(if helo { "smtp.helo" } else { "smtp.mailfrom" }, domain_text.clone())).collect(),
        )];
        for _ in 0..signatures {
            let properties = [
                property("reason", Some("body hash did not verify".to_owned())),
                property("header.d", domain_text.clone()),
                property("header.s", meant(&texts[2])),
                property("header.a", Some("rsa-sha256".to_owned())),
                property("header.b", meant(&texts[4])),
            ];
            expected.push(("dkim".to_owned(), "permerror".to_owned(), properties.into_iter().flatten().collect()));
        }
        if signatures == 0 {
            expected.push(("dkim".to_owned(), "none".to_owned(), Vec::new()));
        }
        let properties = [("reason", "no identifier passed"), ("policy.dmarc", "reject"), ("header.from", "example.org")];
        let properties = properties.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        expected.push(("dmarc".to_owned(), "fail".to_owned(), properties));
        let (id, mut results) = read(&header);
        for (_, _, properties) in &mut results {
            // header.i has its own table; here it must only be harmless.
            properties.retain(|(name, value)| {
                let plain = |c: char| c.is_ascii_alphanumeric() || "@.-_+".contains(c);
                !(name == "header.i" && value.chars().all(plain))
            });
        }
        prop_assert_eq!(id, "mx.example.net");
        prop_assert_eq!(results, expected);
    }
}
