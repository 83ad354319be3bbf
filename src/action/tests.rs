//! What is written, and that nothing put in can make it say more.

use std::sync::Arc;

use proptest::prelude::*;

use super::reply_text::{REFUSED, UNUSABLE_FROM};
use super::template::{HelpUrl, Placeholder, Template};
use super::*;
use crate::dmarc::alignment::{DmarcResult, Doubt};
use crate::dmarc::record::{Parsed, Place, parse};
use crate::dns::Failure;
use crate::domain::Domain;
use crate::evaluation::sample::{self, domain, spf};
use crate::evaluation::{ArcOutput, ArcResult, DkimOutput, DkimResult, DmarcOutput, PublishedPolicy, Sender};
use crate::evaluation::{ArcSet, DmarcFinding, KeySearch};
use crate::message::author::{Author, UnusableFrom};
use crate::policy::overrides::{Criteria, LocalOverride, OverrideAction};
use crate::policy::sample::ORDINARY;
use crate::policy::{LocalPolicy, Mode, OnTempError, Reject, decide};
use crate::spf::{Identity, SpfOutput, SpfResult};

use self::results::{ReceivedSpf, Results};

#[path = "../../tests/it/support/results.rs"]
#[allow(dead_code, missing_docs)]
mod results;

fn signature(result: DkimResult, domain_text: &str) -> DkimOutput {
    DkimOutput {
        identity: Some(format!("@{domain_text}").into()),
        key: KeySearch::Missing,
        ..sample::signature(result, domain_text)
    }
}

/// With this at the beginning of its `b=`.
fn begun(signature: DkimOutput, start: &str) -> DkimOutput {
    DkimOutput { signature_start: start.into(), ..signature }
}

fn dmarc(author: &str, result: DmarcResult, tags: &str) -> DmarcOutput {
    let record = match parse(format!("v=DMARC1; {tags}").as_bytes()) {
        Parsed::Record(record) if !tags.is_empty() => Some(Arc::from(record)),
        _ => None,
    };
    DmarcOutput {
        doubt: (result == DmarcResult::TempError).then_some(Doubt::Identifier),
        policy: record.map(|record: Arc<crate::dmarc::record::PolicyRecord>| PublishedPolicy {
            discovery: crate::dmarc::public_suffix::Discovery::TreeWalk,
            agreement: crate::dmarc::public_suffix::Agreement::Same,
            domain: domain(author),
            requested: record.requested(Place::Here),
            record,
        }),
        ..sample::dmarc(author, result)
    }
}

fn evaluation(spf: SpfOutput, mut dkim: Vec<DkimOutput>, dmarc: Vec<DmarcOutput>) -> Evaluation {
    dkim.iter_mut().enumerate().for_each(|(place, signature)| signature.place = place);
    Evaluation { spf, dkim, ..sample::evaluation(dmarc) }
}

fn action(evaluation: &Evaluation, mode: Mode, reject: Reject) -> Action {
    let local = LocalPolicy { mode, reject, ..LocalPolicy::default() };
    Action::of(evaluation, &decide(evaluation, &ORDINARY, &local), &NAMES, &Replies::default())
}

fn header(evaluation: &Evaluation, mode: Mode) -> String {
    match action(evaluation, mode, Reject::Corroborated) {
        Action::Relay { header } => header,
        other => panic!("{other:?}"),
    }
}

const NAMES: Names<'_> = Names { authserv_id: "mx.example.net", explain_id: "7f3a-01", receiver: None };

#[test]
fn the_fields_of_a_pass() {
    let mut facts = evaluation(
        spf(SpfResult::Pass, Identity::MailFrom, "bounce.example.org"),
        vec![signature(DkimResult::Pass, "example.org"), begun(signature(DkimResult::Fail, "example.com"), "abc/d+fg")],
        vec![dmarc("example.org", DmarcResult::Pass, "p=reject; t=y")],
    );
    facts.arc = ArcOutput {
        result: ArcResult::Fail,
        sets: Vec::new(),
        unverified: Vec::new(),
        reason: "the chain is broken",
        failure: None,
    };
    let expected = "Authentication-Results: mx.example.net;\r\n \
        spf=pass smtp.mailfrom=bounce.example.org;\r\n \
        dkim=pass header.d=example.org header.i=@example.org header.s=s1\r\n \
        header.a=rsa-sha256 header.b=\"abc/d+f=\";\r\n \
        dkim=fail reason=\"body hash did not verify\" header.d=example.com\r\n \
        header.i=@example.com header.s=s1 header.a=rsa-sha256 header.b=\"abc/d+fg\";\r\n \
        arc=fail reason=\"the chain is broken\";\r\n \
        dmarc=pass (p=reject dis=pass) policy.dmarc=quarantine\r\n \
        header.from=example.org\r\n";
    assert_eq!(header(&facts, Mode::Enforce), expected);
}

#[test]
fn a_chain_that_could_not_be_checked_fails_to_readers() {
    let cases = [
        (ArcResult::None, ""),
        (ArcResult::Pass, "arc=pass;\r\n "),
        (ArcResult::Fail, "arc=fail reason=\"key look-up failed\";\r\n "),
        (ArcResult::TempError, "arc=fail reason=\"key look-up failed\";\r\n "),
    ];
    for (result, expected) in cases {
        let mut facts = evaluation(
            spf(SpfResult::Pass, Identity::MailFrom, "example.org"),
            Vec::new(),
            vec![dmarc("example.org", DmarcResult::Pass, "p=reject")],
        );
        facts.arc =
            ArcOutput { result, sets: Vec::new(), unverified: Vec::new(), reason: "key look-up failed", failure: None };
        let expected = format!("dkim=none;\r\n {expected}dmarc=pass");
        let field = header(&facts, Mode::Enforce);
        assert!(field.contains(&expected), "{result}: {field}");
    }
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
fn the_ehlo_name_has_a_result_of_its_own_behind_that_of_the_reverse_path() {
    let mut facts = evaluation(
        spf(SpfResult::Fail, Identity::MailFrom, "bounce.example.org"),
        Vec::new(),
        vec![dmarc("example.org", DmarcResult::Pass, "p=reject")],
    );
    facts.spf_helo = Some(SpfOutput { reason: "x".into(), ..spf(SpfResult::TempError, Identity::Helo, "mx.example") });
    let expected = "Authentication-Results: mx.example.net;\r\n \
        spf=fail reason=\"no mechanism matched\" smtp.mailfrom=bounce.example.org;\r\n \
        spf=temperror reason=\"x\" smtp.helo=mx.example;\r\n \
        dkim=none;\r\n \
        dmarc=pass (p=reject dis=pass) policy.dmarc=reject header.from=example.org\r\n";
    assert_eq!(header(&facts, Mode::Enforce), expected);
}

/// The fields with Received-SPF among them.
fn header_with_received_spf(evaluation: &Evaluation) -> String {
    let local = LocalPolicy { mode: Mode::Tag, reject: Reject::Never, ..LocalPolicy::default() };
    let names = Names { receiver: Some("mx1.example.net"), ..NAMES };
    match Action::of(evaluation, &decide(evaluation, &ORDINARY, &local), &names, &Replies::default()) {
        Action::Relay { header } => header,
        other => panic!("{other:?}"),
    }
}

#[test]
fn received_spf_tells_the_same_result_below_the_mark() {
    let mut facts = evaluation(
        spf(SpfResult::Fail, Identity::MailFrom, "bounce.example.org"),
        Vec::new(),
        vec![dmarc("example.org", DmarcResult::Fail, "p=quarantine")],
    );
    facts.spf.term = Some("-all".into());
    facts.spf_helo = Some(spf(SpfResult::Pass, Identity::Helo, "mail.example.net"));
    let field = "Received-SPF: fail (mx1.example.net: no mechanism matched) identity=mailfrom;\r\n \
        client-ip=192.0.2.10; envelope-from=\"joe@bounce.example.org\";\r\n \
        helo=mail.example.net; receiver=mx1.example.net; mechanism=-all\r\n";
    let header = header_with_received_spf(&facts);
    assert!(header.ends_with(&format!("X-DMARC-Fail-policy: quarantine\r\n{field}")), "{header}");
}

#[test]
fn a_reverse_path_as_long_as_it_may_be_is_in_received_spf() {
    for (length, is_told) in [(320, true), (321, false)] {
        let mut facts = evaluation(spf(SpfResult::Pass, Identity::MailFrom, "a.example"), Vec::new(), Vec::new());
        facts.sender.mail_from = format!("{}@a.example", "x".repeat(length - "@a.example".len())).into();
        assert_eq!(header_with_received_spf(&facts).contains("envelope-from="), is_told, "{length}");
    }
}

#[test]
fn keys_of_received_spf_table() {
    let read = |facts: &Evaluation| ReceivedSpf::read(&fields(&header_with_received_spf(facts)).pop().unwrap().1);
    let with = |result, identity, term: Option<&str>| {
        let spf = SpfOutput { term: term.map(Into::into), ..spf(result, identity, "a.example") };
        evaluation(spf, Vec::new(), vec![dmarc("example.org", DmarcResult::Pass, "p=none")])
    };
    use Identity::{Helo, MailFrom};
    let cases = [
        (SpfResult::Pass, MailFrom, Some("ip4:192.0.2.0/24"), Some("ip4:192.0.2.0/24"), None),
        (SpfResult::SoftFail, MailFrom, Some("~all"), Some("~all"), None),
        (SpfResult::Neutral, MailFrom, None, Some("default"), None),
        (SpfResult::None, MailFrom, None, None, None),
        (SpfResult::PermError, MailFrom, Some("a:x"), None, Some("no mechanism matched")),
        (SpfResult::TempError, Helo, Some("a:x.example"), None, Some("no mechanism matched")),
        (SpfResult::Pass, Helo, Some("exists:\"%{i}\\;.x"), Some("exists:\"%{i}\\;.x"), None),
    ];
    for (result, identity, term, mechanism, problem) in cases {
        let found = read(&with(result, identity, term));
        let case = format!("{result} {identity} {term:?}: {found:?}");
        assert_eq!(
            (found.result.as_str(), found.get("identity")),
            (result.as_str(), Some(identity.as_str())),
            "{case}"
        );
        assert_eq!((found.get("mechanism"), found.get("problem")), (mechanism, problem), "{case}");
        let path = (identity == MailFrom).then_some("joe@bounce.example.org");
        assert_eq!((found.get("envelope-from"), found.get("client-ip")), (path, Some("192.0.2.10")), "{case}");
        assert_eq!(found.comment, "mx1.example.net: no mechanism matched", "{case}");
    }
    let paths = [
        ("\"a;b=c (d\\\" e\"@a.example", Some("\"a;b=c (d\\\" e\"@a.example")),
        ("a=b+c@a.example", Some("a=b+c@a.example")),
        ("gr\u{fc}n@a.example", None),
        ("a\tb@a.example", None),
    ];
    for (path, expected) in paths {
        let mut facts = with(SpfResult::Pass, MailFrom, None);
        facts.sender.mail_from = path.into();
        facts.sender.ip = "2001:db8::1".parse().unwrap();
        let found = read(&facts);
        assert_eq!((found.get("envelope-from"), found.get("client-ip")), (expected, Some("2001:db8::1")), "{found:?}");
        facts.sender.ip = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(read(&facts).get("client-ip"), Some("192.0.2.7"));
    }
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
    assert_eq!(Action::bypass(BypassReason::TrustedNetwork, "mx.example.net"), expected);
    let expected = Action::Relay { header: "Authentication-Results: mx.example.net; auth=pass\r\n".into() };
    assert_eq!(Action::bypass(BypassReason::Authenticated, "mx.example.net"), expected);
}

#[test]
fn many_signatures_are_cut_with_the_passing_ones_kept() {
    let numbered = |n: usize| begun(signature(DkimResult::Fail, "example.com"), &format!("{n:08}"));
    let mut signatures: Vec<_> = (0..30).map(numbered).collect();
    signatures.push(signature(DkimResult::Pass, "example.org"));
    let mut facts = evaluation(spf(SpfResult::None, Identity::MailFrom, ""), signatures, Vec::new());
    facts.dkim_skipped = 5;
    let field = header(&facts, Mode::Enforce);
    let (_, results) = read(&field);
    let dkim: Vec<_> = results.iter().filter(|r| r.0 == "dkim").collect();
    assert_eq!((dkim.len(), dkim[0].1.as_str()), (20, "pass"));
    assert!(field.contains("(more=16)"), "{field}");
    // As many as there may be stay in their order.
    let mut signatures: Vec<_> = (0..19).map(numbered).collect();
    signatures.push(signature(DkimResult::Pass, "example.org"));
    let facts = evaluation(spf(SpfResult::None, Identity::MailFrom, ""), signatures, Vec::new());
    let field = header(&facts, Mode::Enforce);
    let dkim: Vec<_> = read(&field).1.into_iter().filter(|r| r.0 == "dkim").collect();
    assert_eq!((dkim.len(), dkim[19].1.as_str(), field.contains("more=")), (20, "pass", false));
}

#[test]
fn a_line_holds_what_fits_into_it() {
    for length in 1..=63 {
        let name = format!("{}.example", "a".repeat(length));
        let mut signed =
            [signature(DkimResult::Pass, &name), begun(signature(DkimResult::Fail, "b.example"), "12345678")];
        signed[1].selector = "s".repeat(length).into();
        let failed = vec![dmarc(&name, DmarcResult::Fail, "p=none")];
        let mut facts = evaluation(spf(SpfResult::Fail, Identity::MailFrom, &name), signed.into(), failed);
        facts.sender.mail_from = format!("{}@example.org", "a".repeat(length)).into();
        facts.sender.helo = format!("{}.example.net", "h".repeat(1 + length / 4)).into();
        let header = header_with_received_spf(&facts);
        let lines: Vec<_> = header.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[1].starts_with(' ')) {
            let (next, more) = pair[1].trim_start().split_once(' ').unwrap_or((pair[1].trim_start(), ""));
            assert!(pair[1].len() <= 78 || more.is_empty(), "{header}");
            let is_result = ["spf=", "dkim=", "dmarc="].iter().any(|method| next.starts_with(method));
            // In results there is room left for a semicolon.
            let is_of_spf = header.find(pair[1]) > header.find("Received-SPF");
            let room = next.len() + usize::from(!is_of_spf && !next.ends_with(';'));
            assert!(is_result || pair[0].len() + 1 + room > 78, "{next} has room: {header}");
        }
    }
}

#[test]
fn values_are_as_long_as_they_may_be() {
    let of = |value: String| Action::unevaluated(&value);
    let header = |value: &str| Action::Relay { header: format!("Authentication-Results: {value}; none\r\n") };
    for (length, fits) in [(253, true), (254, false)] {
        let token = "a".repeat(length);
        let quoted = format!("/{}", "a".repeat(length - 1));
        assert_eq!(of(token.clone()), header(if fits { &token } else { "unknown" }));
        assert_eq!(of(quoted.clone()), header(&if fits { format!("\"{quoted}\"") } else { "unknown".into() }));
    }
}

#[test]
fn replies_name_dmarc_the_domain_and_an_id() {
    let reject = evaluation(
        spf(SpfResult::None, Identity::MailFrom, ""),
        Vec::new(),
        vec![dmarc("a.example", DmarcResult::None, ""), dmarc("b.example", DmarcResult::Fail, "p=reject")],
    );
    let text = "Email rejected per DMARC policy for b.example: neither SPF nor DKIM gave an aligned pass (id 7f3a-01)";
    let expected = ReplyText { code: 550, enhanced: (5, 7, 1), lines: vec![text.to_owned()] };
    assert_eq!(action(&reject, Mode::Enforce, Reject::Corroborated), Action::Reject(expected));

    let doubt = evaluation(
        spf(SpfResult::TempError, Identity::MailFrom, "a.example"),
        Vec::new(),
        vec![dmarc("a.example", DmarcResult::TempError, "p=reject")],
    );
    let text = "DMARC for a.example could not be evaluated: temporary DNS failure, please try again later (id 7f3a-01)";
    let expected = ReplyText { code: 451, enhanced: (4, 7, 0), lines: vec![text.to_owned()] };
    assert_eq!(action(&doubt, Mode::Enforce, Reject::Always), Action::Defer(expected));

    let mut unusable = evaluation(spf(SpfResult::None, Identity::MailFrom, ""), Vec::new(), Vec::new());
    unusable.author = Author::Unusable(UnusableFrom::Repeated);
    let text = "Email rejected: DMARC needs a From field that names one usable author domain; there is more than one From field (id 7f3a-01)";
    let expected = ReplyText { code: 550, enhanced: (5, 7, 1), lines: vec![text.to_owned()] };
    assert_eq!(action(&unusable, Mode::Enforce, Reject::Never), Action::Reject(expected));
}

#[test]
fn no_reply_blames_a_policy_or_dns_for_what_is_ours() {
    // The operator refuses what its domain asks nothing for.
    let failing = |tags: &str| {
        let author = dmarc("a.example", DmarcResult::Fail, tags);
        evaluation(spf(SpfResult::None, Identity::MailFrom, ""), Vec::new(), vec![author])
    };
    let refusing = LocalOverride {
        criteria: Criteria { author_domains: vec![domain("a.example")], ..Criteria::default() },
        action: OverrideAction::Reject,
        kind: None,
        note: "no".into(),
        until: None,
    };
    let local = LocalPolicy { overrides: vec![refusing], ..LocalPolicy::default() };
    for tags in ["p=none", "p=reject"] {
        let facts = failing(tags);
        let decision = decide(&facts, &ORDINARY, &local);
        let reply = Replies::default().refusal(&facts, &decision, "1");
        let text = "Email rejected by local policy, DMARC failed for a.example: neither SPF nor DKIM gave an aligned pass (id 1)";
        assert_eq!((reply.code, &*reply.lines), (550, &[text.to_owned()][..]), "{tags}");
        let reply = replies(&["no"], None).refusal(&facts, &decision, "1");
        assert_eq!(reply.lines, ["as I say (DMARC, id 1)"], "{tags}");
    }
    // Nothing but limits of ours kept the answer from us: of an identifier, of the policy, of an ARC chain's keys.
    let by = |doubt| DmarcOutput { doubt: Some(doubt), ..dmarc("a.example", DmarcResult::TempError, "p=reject") };
    let of = |author| evaluation(spf(SpfResult::None, Identity::MailFrom, ""), Vec::new(), vec![author]);
    let sealed = |failure| {
        let finding = DmarcFinding { result: DmarcResult::Pass, author_domain: domain("a.example") };
        let set = ArcSet { instance: 1, sealer: domain("list.example"), dmarc: Some(finding) };
        let arc = ArcOutput {
            result: ArcResult::TempError,
            sets: Vec::new(),
            unverified: vec![set],
            reason: "",
            failure: Some(failure),
        };
        Evaluation { arc, ..failing("p=reject") }
    };
    let (ours, dns) = ("DNS look-ups reached a limit of the receiver", "temporary DNS failure");
    let cases = [
        ("identifier", of(by(Doubt::IdentifierOwnLimits)), ours),
        ("identifier, by DNS", of(by(Doubt::Identifier)), dns),
        ("policy", of(by(Doubt::OwnLimits)), ours),
        ("policy, by DNS", of(by(Doubt::EnforcingAbove)), dns),
        ("chain", sealed(Failure::Budget), ours),
        ("chain, by DNS", sealed(Failure::ServFail), dns),
    ];
    let local = LocalPolicy { trusted_sealers: vec![domain("list.example")], ..LocalPolicy::default() };
    for (name, facts, why) in cases {
        let decision = decide(&facts, &ORDINARY, &local);
        assert_eq!(decision.disposition, Disposition::Defer, "{name}");
        let reply = Replies::default().deferral(&facts, &decision, "1");
        let expected = format!("DMARC for a.example could not be evaluated: {why}, please try again later (id 1)");
        assert_eq!(reply.lines, [expected], "{name}");
        let told = decision.overrides().iter().map(|o| &*o.comment);
        assert!(told.eq((name.starts_with("identifier") || name.starts_with("chain")).then_some(why)), "{name}");
    }
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
    let [line] = &*reply.lines else { panic!("{reply:?}") };
    assert!("550 5.7.1 \r\n".len() + line.len() < 512 && line.ends_with("(id 7f3a-01)"), "{reply:?}");
}

#[test]
fn several_failed_checks_have_a_code_of_their_own() {
    use DkimResult as D;
    use SpfResult as S;
    let cases: &[(S, &[D], (u8, u16, u16))] = &[
        (S::Fail, &[D::Fail], (5, 7, 26)),
        (S::SoftFail, &[D::PermError], (5, 7, 26)),
        (S::PermError, &[D::Neutral, D::Fail], (5, 7, 26)),
        (S::Fail, &[], (5, 7, 1)),
        (S::Fail, &[D::Neutral], (5, 7, 1)),
        (S::Fail, &[D::Fail, D::Pass], (5, 7, 1)),
        (S::Fail, &[D::Fail, D::Policy], (5, 7, 1)),
        (S::Fail, &[D::Fail, D::TempError], (5, 7, 1)),
        (S::Pass, &[D::Fail], (5, 7, 1)),
        (S::None, &[D::Fail], (5, 7, 1)),
        (S::Neutral, &[D::Fail], (5, 7, 1)),
        (S::TempError, &[D::Fail], (5, 7, 1)),
    ];
    for (spf_result, signatures, expected) in cases {
        let facts = evaluation(
            spf(*spf_result, Identity::MailFrom, "bounce.example"),
            signatures.iter().map(|result| signature(*result, "signer.example")).collect(),
            vec![dmarc("a.example", DmarcResult::Fail, "p=reject")],
        );
        let Action::Reject(reply) = action(&facts, Mode::Enforce, Reject::Always) else { panic!() };
        assert_eq!(reply.enhanced, *expected, "{spf_result} {signatures:?}");
    }
}

#[test]
fn signatures_are_told_apart_by_as_much_of_b_as_it_takes() {
    use DkimResult::{Fail, Neutral, Pass, TempError};
    type Signatures<'a> = &'a [(DkimResult, &'a str)];
    let (copy, other) = ("x".repeat(64), format!("{}y", "x".repeat(63)));
    let cases: [(&str, Signatures<'_>, Signatures<'_>, bool); 9] = [
        ("one", &[(Pass, "abcdefghij")], &[(Pass, "abcdefgh")], false),
        ("eight do", &[(Pass, "abcdefghi"), (Fail, "abcdefgXi")], &[(Pass, "abcdefgh"), (Fail, "abcdefgX")], false),
        ("nine do", &[(Pass, "abcdefghij"), (Fail, "abcdefghXj")], &[(Pass, "abcdefghi"), (Fail, "abcdefghX")], false),
        (
            "of three, as many as each needs",
            &[(Fail, "abcdefghij"), (Fail, "abcdefghiX"), (Fail, "abXdefghij")],
            &[(Fail, "abcdefghij"), (Fail, "abcdefghiX"), (Fail, "abXdefgh")],
            false,
        ),
        ("short ones", &[(Fail, "abc"), (Fail, "abcd")], &[(Fail, "abc"), (Fail, "abcd")], false),
        ("all that is kept", &[(Fail, &copy), (Pass, &other)], &[(Fail, &copy), (Pass, &other)], false),
        ("copies of a pass", &[(Fail, &copy), (Pass, &copy), (TempError, &copy)], &[(Pass, "xxxxxxxx")], true),
        ("copies of a failure", &[(TempError, &copy), (Fail, &copy)], &[(TempError, "xxxxxxxx")], true),
        ("none", &[(Neutral, ""), (Neutral, "")], &[(Neutral, ""), (Neutral, "")], false),
    ];
    for (name, signatures, expected, are_left_out) in cases {
        let signatures = signatures.iter().map(|(result, start)| begun(signature(*result, "example.org"), start));
        let facts = evaluation(spf(SpfResult::None, Identity::MailFrom, ""), signatures.collect(), Vec::new());
        let field = header(&facts, Mode::Enforce);
        let (_, results) = read(&field);
        let start = |properties: &[(String, String)]| {
            properties.iter().find(|(name, _)| name == "header.b").map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let dkim = results.iter().filter(|r| r.0 == "dkim").map(|r| (r.1.clone(), start(&r.2)));
        let expected: Vec<_> = expected.iter().map(|(r, start)| (r.to_string(), (*start).to_owned())).collect();
        assert_eq!(dkim.collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(field.contains("(more="), are_left_out, "{name}: {field}");
    }
}

/// The texts of an operator; each line of the first is a line of the reply.
fn replies(refused: &[&str], help_url: Option<&str>) -> Replies {
    let of = |lines: &[&str]| Template::parse(lines).unwrap();
    let help_url = help_url.map(|url| HelpUrl::parse(url).unwrap());
    Replies::new(of(refused), of(&["as I say"]), of(&[UNUSABLE_FROM]), of(&["later"]), help_url)
}

fn wire(text: &ReplyText) -> String {
    String::from_utf8(crate::verdict::reply(text).as_wire().to_vec()).unwrap()
}

#[test]
fn the_operators_words_with_what_they_lack() {
    let url = Some("https://example.net/{id}");
    let cases: &[(&[&str], Option<&str>, &str)] = &[
        (&["no"], None, "550 5.7.1 no (DMARC, id 7f3a-01)\r\n"),
        (&["no, {id}"], None, "550 5.7.1 no, 7f3a-01 (DMARC)\r\n"),
        (&["Dmarc says no"], None, "550 5.7.1 Dmarc says no (id 7f3a-01)\r\n"),
        (
            &["DMARC: {domain} asks for {policy} at {policy_domain}", "You: {client_ip}", "{help_url}"],
            url,
            "550-5.7.1 DMARC: b.example asks for reject at b.example\r\n550-5.7.1 You: 192.0.2.10\r\n\
             550 5.7.1 https://example.net/7f3a-01 (id 7f3a-01)\r\n",
        ),
        // A page that has DMARC in its address is no word to the reader.
        (&["{help_url}"], Some("https://dmarc.example/"), "550 5.7.1 https://dmarc.example/ (DMARC, id 7f3a-01)\r\n"),
        (
            &[REFUSED],
            url,
            "550-5.7.1 Email rejected per DMARC policy for b.example: neither SPF nor DKIM gave an aligned pass (id \
             7f3a-01)\r\n550 5.7.1 For help see https://example.net/7f3a-01\r\n",
        ),
    ];
    let facts = evaluation(
        spf(SpfResult::None, Identity::MailFrom, ""),
        Vec::new(),
        vec![dmarc("b.example", DmarcResult::Fail, "p=reject")],
    );
    let decision = decide(&facts, &ORDINARY, &LocalPolicy::default());
    for (lines, help_url, expected) in cases {
        let replies = replies(lines, *help_url);
        assert_eq!(wire(&replies.refusal(&facts, &decision, "7f3a-01")), *expected, "{lines:?}");
        let deferral = "451 4.7.0 later (id 7f3a-01)\r\n";
        assert_eq!(wire(&replies.deferral(&facts, &decision, "7f3a-01")), deferral);
    }
}

#[test]
fn whether_any_text_names_a_help_page_is_known() {
    for place in 0..5 {
        let of = |at| Template::parse(&[if at == place { "see {help_url}" } else { "no" }]).unwrap();
        assert_eq!(Replies::new(of(0), of(1), of(2), of(3), None).name_help_page(), place < 4, "{place}");
    }
}

#[test]
fn every_reason_fits() {
    for why in UnusableFrom::ALL {
        let facts = Evaluation {
            author: Author::Unusable(*why),
            ..evaluation(spf(SpfResult::None, Identity::MailFrom, ""), Vec::new(), Vec::new())
        };
        let decision = decide(&facts, &ORDINARY, &LocalPolicy::default());
        let reply = Replies::new(
            Template::parse(&["x"]).unwrap(),
            Template::parse(&["x"]).unwrap(),
            Template::parse(&["DMARC {reason}. {id}"]).unwrap(),
            Template::parse(&["x"]).unwrap(),
            None,
        );
        let text = wire(&reply.refusal(&facts, &decision, "1"));
        assert!(text.starts_with("550 5.7.1 DMARC the") && text.ends_with(". 1\r\n"), "{text}");
        assert!(text.len() - "550 5.7.1 DMARC . 1\r\n".len() < Placeholder::Reason.longest(), "{text}");
    }
}

/// A line of an operator: our alphabet, placeholders, and what is none.
fn line() -> impl Strategy<Value = String> {
    let names = prop::sample::select(Placeholder::ALL).prop_map(|placeholder| format!("{{{placeholder}}}"));
    let pieces = prop_oneof![names, "[ -z|~]{0,60}", "[a-z]{300}", hostile()];
    prop::collection::vec(pieces, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn whatever_is_put_in_comes_out_as_a_reply(
        lines in prop::collection::vec(line(), 1..5),
        url in prop::option::of("https://[a-z]{1,150}/(\\{id\\})?"),
        facts in any_evaluation(),
        unusable in any::<bool>(),
        id in hostile(),
    ) {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let Ok(template) = Template::parse(&lines) else { return Ok(()) };
        let url = url.map(|url| HelpUrl::parse(&url).unwrap());
        let replies = Replies::new(template.clone(), template.clone(), template.clone(), template, url);
        let mut facts = facts;
        if unusable {
            facts.author = Author::Unusable(UnusableFrom::Syntax);
        }
        let decision = decide(&facts, &ORDINARY, &LocalPolicy::default());
        let id_in_reply: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
        for (reply, code) in [
            (replies.refusal(&facts, &decision, &id), "550"),
            (replies.deferral(&facts, &decision, &id), "451"),
        ] {
            let text = wire(&reply);
            let enhanced = format!("{}.{}.{} ", reply.enhanced.0, reply.enhanced.1, reply.enhanced.2);
            let lines: Vec<&str> = text.split_terminator("\r\n").collect();
            prop_assert!(text.ends_with("\r\n") && (1..=template::MAX_REPLY_LINES).contains(&lines.len()), "{}", text);
            for (index, line) in lines.iter().enumerate() {
                let mark = if index + 1 < lines.len() { '-' } else { ' ' };
                prop_assert!(line.starts_with(&format!("{code}{mark}{enhanced}")), "{}", text);
                prop_assert!(line.len() + 2 <= 512 && line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{}", text);
            }
            // A long word may be broken.
            let joined: String = lines.iter().map(|line| &line[4 + enhanced.len()..]).collect();
            prop_assert!(joined.contains(&id_in_reply), "{}", text);
            prop_assert!(code == "451" || joined.to_ascii_lowercase().contains("dmarc"), "{}", text);
        }
    }
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

/// What a reader of RFC 8601 sees: authserv-id, and each result with `reason` and properties.
fn read(header: &str) -> (String, Vec<ResultInfo>) {
    let fields = fields(header);
    let Results { id, results, .. } = Results::read(&fields[0].1);
    (id, results.into_iter().map(|result| (result.method, result.result, result.properties)).collect())
}

/// Names and values of fields, folded as they are.
fn fields(header: &str) -> Vec<(String, String)> {
    let text = header.strip_suffix("\r\n").unwrap().replace("\r\n ", "\0 ");
    let fields = text.split("\r\n").map(|field| field.split_once(": ").unwrap());
    fields.map(|(name, value)| (name.to_owned(), value.replace('\0', "\r\n"))).collect()
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

/// What a comment may say of a text.
fn commented(text: &str) -> String {
    let plain = |c: &char| c.is_ascii_graphic() && !"()\\".contains(*c);
    let words = text.split_ascii_whitespace().map(|word| word.chars().filter(plain).take(254).collect::<String>());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).take(30).collect();
    words.join(" ")
}

/// Fields whose lines are such that no reader can take them for anything else.
fn assert_well_formed(header: &str, names: &[&str]) -> Result<(), TestCaseError> {
    prop_assert!(header.ends_with("\r\n"));
    let mut found = Vec::new();
    for line in header.strip_suffix("\r\n").unwrap().split("\r\n") {
        prop_assert!(line.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{line:?}");
        prop_assert!(line.len() <= 998 && !line.trim().is_empty(), "{line:?}");
        prop_assert!(line.len() <= 78 || !line.trim().contains(' ') || line.contains('"'), "{line}");
        found.extend((!line.starts_with(' ')).then(|| line.split(':').next().unwrap()));
    }
    prop_assert_eq!(found, names);
    Ok(())
}

/// The results that are meant, but for `header.i`, which has its own table.
fn meant_results(facts: &Evaluation) -> Vec<ResultInfo> {
    let property = |name: &str, value: Option<String>| value.map(|v| (name.to_owned(), v));
    let reason = |reason: &str, passed: bool| property("reason", meant(&words(reason)).filter(|_| !passed));
    let mut expected = Vec::new();
    for output in [Some(&facts.spf), facts.spf_helo.as_ref()].into_iter().flatten() {
        let name = if output.identity == Identity::Helo { "smtp.helo" } else { "smtp.mailfrom" };
        let properties = [
            reason(&output.reason, output.result == SpfResult::Pass),
            property(name, output.domain.as_ref().map(ToString::to_string)),
        ];
        expected.push(("spf".to_owned(), output.result.to_string(), properties.into_iter().flatten().collect()));
    }
    let known: Vec<_> = facts.dkim.iter().map(|d| (d.result == DkimResult::Pass, &*d.signature_start)).collect();
    for (output, start) in results::told_apart(&known).into_iter().map(|(place, start)| (&facts.dkim[place], start)) {
        let properties = [
            reason(output.reason, output.result == DkimResult::Pass),
            property("header.d", output.domain.as_ref().map(ToString::to_string)),
            property("header.s", meant(&output.selector)),
            property("header.a", output.algorithm.map(str::to_owned)),
            property("header.b", meant(start)),
        ];
        expected.push(("dkim".to_owned(), output.result.to_string(), properties.into_iter().flatten().collect()));
    }
    if facts.dkim.is_empty() {
        expected.push(("dkim".to_owned(), "none".to_owned(), Vec::new()));
    }
    if facts.arc.result != ArcResult::None {
        let properties = reason(facts.arc.reason, facts.arc.result == ArcResult::Pass).into_iter().collect();
        let result = if facts.arc.result == ArcResult::TempError { ArcResult::Fail } else { facts.arc.result };
        expected.push(("arc".to_owned(), result.to_string(), properties));
    }
    // The failing ones first.
    let failing = facts.dmarc.iter().filter(|d| d.result == DmarcResult::Fail);
    for output in failing.chain(facts.dmarc.iter().filter(|d| d.result != DmarcResult::Fail)) {
        let properties = [
            reason(output.reason, output.result == DmarcResult::Pass),
            property("policy.dmarc", output.policy.as_ref().map(|p| p.requested.to_string())),
            property("header.from", Some(output.author_domain.to_string())),
        ];
        expected.push(("dmarc".to_owned(), output.result.to_string(), properties.into_iter().flatten().collect()));
    }
    expected
}

/// The pairs of Received-SPF that are meant.
fn meant_pairs(facts: &Evaluation) -> Vec<(String, String)> {
    let Evaluation { sender, spf, .. } = facts;
    let is_error = matches!(spf.result, SpfResult::TempError | SpfResult::PermError);
    let matched = !is_error && spf.result != SpfResult::None;
    let value = |text: &str| {
        let fits = !text.is_empty() && text.len() <= 320 && text.bytes().all(|b| (0x20..=0x7e).contains(&b));
        fits.then(|| text.to_owned())
    };
    let pairs = [
        ("identity", Some(spf.identity.to_string())),
        ("client-ip", Some(sender.ip.to_canonical().to_string())),
        ("envelope-from", value(&sender.mail_from).filter(|_| spf.identity == Identity::MailFrom)),
        ("helo", value(&sender.helo)),
        ("receiver", Some("mx1.example.net".to_owned())),
        ("mechanism", value(spf.term.as_deref().unwrap_or("default")).filter(|_| matched)),
        ("problem", value(&spf.reason).filter(|_| is_error)),
    ];
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

prop_compose! {
    fn any_spf(identity: Identity)(
        result in prop::sample::select(SpfResult::ALL),
        texts in prop::collection::vec(hostile(), 2),
        term in prop::option::of(hostile()),
    ) -> SpfOutput {
        let output = spf(result, identity, &texts[0]);
        SpfOutput { reason: texts[1].as_str().into(), term: term.map(Into::into), ..output }
    }
}

prop_compose! {
    fn any_signature()(
        result in prop::sample::select(DkimResult::ALL),
        texts in prop::collection::vec(hostile(), 4),
    ) -> DkimOutput {
        DkimOutput {
            selector: texts[0].as_str().into(),
            identity: Some(texts[1].as_str().into()),
            signature_start: texts[2].as_str().into(),
            domain: Domain::parse(&texts[3]).ok(),
            ..signature(result, "example.org")
        }
    }
}

prop_compose! {
    fn any_evaluation()(null in any::<bool>())(
        mail_from in any_spf(if null { Identity::Helo } else { Identity::MailFrom }),
        helo in prop::option::of(any_spf(Identity::Helo)),
        signatures in prop::collection::vec(any_signature(), 0..4),
        arc in prop::sample::select(ArcResult::ALL),
        dmarcs in prop::collection::vec((prop::sample::select(DmarcResult::ALL), any::<bool>()), 0..4),
        texts in prop::collection::vec(hostile(), 2),
        ip in any::<std::net::IpAddr>(),
    ) -> Evaluation {
        let authors = dmarcs.into_iter().enumerate();
        let dmarcs = authors.map(|(n, (result, published))| {
            dmarc(&format!("d{n}.example.org"), result, if published { "p=reject" } else { "" })
        });
        let mut facts = evaluation(mail_from, signatures, dmarcs.collect());
        facts.spf_helo = helo;
        facts.arc = ArcOutput { result: arc, sets: Vec::new(), unverified: Vec::new(), reason: "a reason", failure: None };
        facts.sender = Sender { ip, helo: texts[0].as_str().into(), mail_from: texts[1].as_str().into() };
        facts
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_what_was_meant(
        facts in any_evaluation(),
        mode in prop::sample::select(&[Mode::Monitor, Mode::Tag][..]),
        received_spf in any::<bool>(),
        id in hostile(),
    ) {
        let local = LocalPolicy { mode, reject: Reject::Always, on_temperror: OnTempError::Pass, ..LocalPolicy::default() };
        let receiver = received_spf.then_some("mx1.example.net");
        let names = Names { authserv_id: "mx.example.net", explain_id: &id, receiver };
        let decision = decide(&facts, &ORDINARY, &local);
        let Action::Relay { header } = Action::of(&facts, &decision, &names, &Replies::default()) else { panic!() };

        let is_tagged = matches!(decision.disposition, Disposition::Tag(_));
        let names = [
            Some("Authentication-Results"),
            is_tagged.then_some(FAIL_POLICY),
            received_spf.then_some("Received-SPF"),
        ];
        assert_well_formed(&header, &names.into_iter().flatten().collect::<Vec<_>>())?;
        let (found_id, mut results) = read(&header);
        for (_, _, properties) in &mut results {
            // Here it must only be harmless.
            properties.retain(|(name, value)| {
                let plain = |c: char| c.is_ascii_alphanumeric() || "@.-_+".contains(c);
                !(name == "header.i" && value.chars().all(plain))
            });
        }
        prop_assert_eq!(found_id, "mx.example.net");
        prop_assert_eq!(results, meant_results(&facts));
        if received_spf {
            let found = ReceivedSpf::read(&fields(&header).pop().unwrap().1);
            prop_assert_eq!(found.result, facts.spf.result.to_string());
            prop_assert_eq!(found.comment, commented(&format!("mx1.example.net: {}", facts.spf.reason)));
            prop_assert_eq!(found.pairs, meant_pairs(&facts));
        }
    }
}
