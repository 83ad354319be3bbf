//! The verdict table as a table.

mod table;

use std::time::Duration;

use super::overrides::{Criteria, LocalOverride, OverrideAction};
use super::sample::ORDINARY;
use super::*;
use crate::dmarc::alignment::{Alignment, Doubt};
use crate::evaluation::sample::{self as facts_of, domain, signature, spf};
use crate::evaluation::{ArcOutput, ArcResult, ArcSet, DkimOutput, DkimResult, DmarcFinding, KeySearch};
use crate::label::Label;
use crate::message::author::UnusableFrom;
use crate::spf::{Identity, SpfOutput, SpfResult};

/// `result` is a DMARC result, `temperror/policy` or `temperror/identifier`; `record` the rest of the policy record.
fn dmarc(author: &str, result: &str, tags: &str) -> DmarcOutput {
    let (word, doubt) = match result.split_once('/') {
        Some((word, "policy")) => (word, Some(Doubt::PolicyDiscovery)),
        Some((word, "own")) => (word, Some(Doubt::OwnLimits)),
        Some((word, "above")) => (word, Some(Doubt::EnforcingAbove)),
        Some((word, _)) => (word, Some(Doubt::Identifier)),
        None => (result, None),
    };
    let result = DmarcResult::parse(word).unwrap();
    DmarcOutput {
        organizational_domain: Some(domain(author)),
        doubt,
        policy: (!tags.is_empty()).then(|| facts_of::published(author, tags)),
        ..facts_of::dmarc(author, result)
    }
}

fn evaluation(dmarc: Vec<DmarcOutput>) -> Evaluation {
    let author = dmarc.first().map_or(String::new(), |d| d.author_domain.to_string());
    // A pass of the EHLO name, whosever it is, changes nothing anywhere in these tables (RFC 9989 §4.4.2).
    let spf_helo = SpfOutput { unsettled: true, ..spf(SpfResult::Pass, Identity::Helo, &author) };
    Evaluation { spf_helo: Some(spf_helo), ..facts_of::evaluation(dmarc) }
}

fn unusable(why: UnusableFrom) -> Evaluation {
    Evaluation { author: Author::Unusable(why), ..evaluation(Vec::new()) }
}

const DEFAULT: LocalPolicy = LocalPolicy {
    mode: Mode::Enforce,
    reject: Reject::Corroborated,
    on_temperror: OnTempError::DeferIfItMatters,
    defer_at_most: Duration::from_secs(4 * 3600),
    unusable_from: OnUnusableFrom::Reject,
    pct: Pct::Ignored,
    ignored_signs: Vec::new(),
    trusted_sealers: Vec::new(),
    overrides: Vec::new(),
};

/// `-` relayed, `q` marked quarantine, `r` marked reject, `4` deferred, `X` refused.
fn letter(disposition: Disposition) -> char {
    match disposition {
        Disposition::Accept => '-',
        Disposition::Tag(Mark::Quarantine) => 'q',
        Disposition::Tag(Mark::Reject) => 'r',
        Disposition::Defer => '4',
        Disposition::Refuse => 'X',
    }
}

#[test]
fn temporary_errors_by_configuration() {
    use OnTempError::{Defer, DeferIfItMatters, Pass};
    let cases = [
        ("temperror/policy", "", DeferIfItMatters, '-'),
        ("temperror/policy", "", Defer, '4'),
        ("temperror/policy", "", Pass, '-'),
        ("temperror/own", "", DeferIfItMatters, '4'),
        ("temperror/own", "", Defer, '4'),
        ("temperror/own", "", Pass, '-'),
        ("temperror/above", "", DeferIfItMatters, '4'),
        ("temperror/above", "", Defer, '4'),
        ("temperror/above", "", Pass, '-'),
        ("temperror/identifier", "p=reject", DeferIfItMatters, '4'),
        ("temperror/identifier", "p=reject", Defer, '4'),
        ("temperror/identifier", "p=reject", Pass, '-'),
        ("temperror/identifier", "p=none", Defer, '-'),
        ("temperror/identifier", "p=quarantine; t=y", Defer, '-'),
    ];
    for (result, tags, on_temperror, expected) in cases {
        let facts = evaluation(vec![dmarc("example.org", result, tags)]);
        for mode in [Mode::Monitor, Mode::Tag, Mode::Enforce] {
            let decision = decide(&facts, &ORDINARY, &LocalPolicy { mode, on_temperror, ..DEFAULT });
            let expected = if mode == Mode::Enforce { expected } else { '-' };
            assert_eq!(letter(decision.disposition), expected, "{result} {tags} {on_temperror} {mode}");
        }
    }
}

#[test]
fn an_unusable_from_by_mode_reverse_path_recipients_and_configuration() {
    use OnUnusableFrom::{Reject, Tag};
    use Recipients::{AllExempt, Ordinary};
    use ReversePathKind::{Mailbox, Null};
    use UnusableFrom::{Missing, NoDomain, Repeated};
    let cases = [
        (Missing, Mode::Enforce, Reject, Mailbox, Ordinary, 'X', Rule::UnusableFrom),
        (Missing, Mode::Enforce, Reject, Null, Ordinary, 'q', Rule::UnusableFrom),
        (NoDomain, Mode::Enforce, Reject, Null, Ordinary, 'q', Rule::UnusableFrom),
        (Repeated, Mode::Enforce, Reject, Null, Ordinary, 'q', Rule::UnusableFrom),
        (Missing, Mode::Enforce, Reject, Mailbox, AllExempt, 'q', Rule::ExemptRecipients),
        (Missing, Mode::Enforce, Tag, Mailbox, Ordinary, 'q', Rule::UnusableFrom),
        (Missing, Mode::Enforce, Tag, Null, AllExempt, 'q', Rule::UnusableFrom),
        (Missing, Mode::Tag, Reject, Mailbox, Ordinary, 'q', Rule::UnusableFrom),
        (Missing, Mode::Tag, Tag, Null, Ordinary, 'q', Rule::UnusableFrom),
        (Missing, Mode::Monitor, Reject, Mailbox, Ordinary, '-', Rule::UnusableFrom),
    ];
    for (why, mode, unusable_from, reverse_path, recipients, expected, rule) in cases {
        let local = LocalPolicy { mode, unusable_from, ..DEFAULT };
        let decision = decide(
            &unusable(why),
            &Circumstances {
                reverse_path,
                recipients,
                recipient_domains: Vec::new(),
                host: None,
                in_doubt_for: Vec::new(),
                now: 0,
                sample: 0,
            },
            &local,
        );
        let found = (letter(decision.disposition), decision.rule);
        assert_eq!(found, (expected, rule), "{why} {mode} {unusable_from} {reverse_path} {recipients}");
        assert_eq!((decision.deciding, decision.policy()), (None, None));
        let reported = match expected {
            'X' => ReportDisposition::Reject,
            'q' => ReportDisposition::Quarantine,
            _ => ReportDisposition::None,
        };
        assert_eq!(decision.reported(), reported);
    }
}

#[test]
fn rules_dispositions_and_reasons_of_report_rows() {
    use OverrideKind::{LocalPolicy as Local, MailingList, Other, PolicyTestMode};
    use ReportDisposition as Report;
    type Row<'a> = (&'a str, &'a str, &'a str, &'a LocalPolicy, Rule, Report, &'a [OverrideKind]);
    let monitor = LocalPolicy { mode: Mode::Monitor, ..DEFAULT };
    let tag = LocalPolicy { mode: Mode::Tag, ..DEFAULT };
    let never = LocalPolicy { reject: Reject::Never, ..DEFAULT };
    let pass = LocalPolicy { on_temperror: OnTempError::Pass, ..DEFAULT };
    let doubt = "temperror/identifier";
    let rows: [Row<'_>; 20] = [
        ("pass", "p=reject", "", &DEFAULT, Rule::Pass, Report::Pass, &[]),
        ("pass", "p=reject; t=y", "", &DEFAULT, Rule::Pass, Report::Pass, &[]),
        ("pass", "p=none", "", &DEFAULT, Rule::Pass, Report::None, &[]),
        ("none", "", "", &DEFAULT, Rule::NoRecord, Report::None, &[]),
        ("permerror", "", "", &DEFAULT, Rule::BrokenRecord, Report::None, &[]),
        ("temperror/policy", "", "", &DEFAULT, Rule::PolicyDoubt, Report::None, &[]),
        (doubt, "p=reject", "", &pass, Rule::IdentifierDoubt, Report::None, &[Other]),
        (doubt, "p=none", "", &pass, Rule::IdentifierDoubt, Report::None, &[]),
        ("fail", "p=none", "", &DEFAULT, Rule::FailNone, Report::None, &[]),
        ("fail", "p=quarantine", "", &DEFAULT, Rule::FailQuarantine, Report::Quarantine, &[]),
        ("fail", "p=quarantine; t=y", "", &DEFAULT, Rule::FailNone, Report::None, &[PolicyTestMode]),
        ("fail", "p=reject", "", &DEFAULT, Rule::FailReject, Report::Reject, &[]),
        ("fail", "p=reject; t=y", "", &DEFAULT, Rule::FailQuarantine, Report::Quarantine, &[PolicyTestMode]),
        ("fail", "p=reject", "list", &DEFAULT, Rule::IndirectFlow, Report::Quarantine, &[MailingList]),
        ("fail", "p=reject", "arc", &DEFAULT, Rule::IndirectFlow, Report::Quarantine, &[Local]),
        ("fail", "p=reject", "arc temperror", &DEFAULT, Rule::IndirectFlow, Report::Quarantine, &[Other]),
        ("fail", "p=reject", "", &never, Rule::NeverReject, Report::Quarantine, &[Local]),
        ("fail", "p=reject", "", &tag, Rule::FailReject, Report::Quarantine, &[Local]),
        ("fail", "p=quarantine", "list", &monitor, Rule::FailQuarantine, Report::None, &[Local]),
        ("fail", "p=reject; t=y", "", &monitor, Rule::FailQuarantine, Report::None, &[PolicyTestMode, Local]),
    ];
    for (result, tags, sign, local, rule, reported, kinds) in rows {
        let mut facts = evaluation(vec![dmarc("example.org", result, tags)]);
        match sign {
            "list" => facts.list_fields = true,
            "arc" => facts.arc.result = ArcResult::Pass,
            "arc temperror" => facts.arc.result = ArcResult::TempError,
            _ => {}
        }
        let decision = decide(&facts, &ORDINARY, local);
        let found: Vec<_> = decision.overrides().iter().map(|o| o.kind).collect();
        let name = format!("{result} {tags} {sign} {}", local.mode);
        assert_eq!((decision.rule, decision.reported(), found.as_slice()), (rule, reported, kinds), "{name}");
    }
}

#[test]
fn exempt_recipients_turn_a_refusal_into_a_mark_and_nothing_else() {
    let exempt = Circumstances { recipients: Recipients::AllExempt, ..ORDINARY };
    assert_eq!(LocalPolicy::default(), DEFAULT);
    let cases = [
        ("fail", "p=reject", &DEFAULT, 'q'),
        ("fail", "p=reject", &LocalPolicy { reject: Reject::Always, ..DEFAULT }, 'q'),
        ("fail", "p=reject", &LocalPolicy { reject: Reject::Never, ..DEFAULT }, 'r'),
        ("fail", "p=reject", &LocalPolicy { mode: Mode::Tag, ..DEFAULT }, 'r'),
        ("fail", "p=reject", &LocalPolicy { mode: Mode::Monitor, ..DEFAULT }, '-'),
        ("fail", "p=quarantine", &DEFAULT, 'q'),
        ("temperror/identifier", "p=reject", &DEFAULT, '4'),
    ];
    for (result, tags, local, expected) in cases {
        let decision = decide(&evaluation(vec![dmarc("example.org", result, tags)]), &exempt, local);
        assert_eq!(letter(decision.disposition), expected, "{result} {tags} {}", local.mode);
    }
}

#[test]
fn pct_counts_only_where_it_is_honored_and_never_twice_with_t() {
    let honored = LocalPolicy { pct: Pct::Honored, ..DEFAULT };
    let cases = [
        ("p=reject; pct=0", &DEFAULT, 99, 'X'),
        ("p=reject; pct=50", &honored, 49, 'X'),
        ("p=reject; pct=50", &honored, 50, 'q'),
        ("p=quarantine; pct=50", &honored, 50, '-'),
        ("p=reject; pct=100", &honored, 99, 'X'),
        ("p=reject; pct=0", &honored, 0, 'q'),
        ("p=reject; pct=0; t=y", &honored, 0, 'q'),
    ];
    for (tags, local, sample, expected) in cases {
        let facts = evaluation(vec![dmarc("example.org", "fail", tags)]);
        let decision = decide(&facts, &Circumstances { sample, ..ORDINARY }, local);
        assert_eq!(letter(decision.disposition), expected, "{tags} {} {sample}", local.pct);
    }
    let facts = evaluation(vec![dmarc("example.org", "pass", "p=reject; pct=0")]);
    let decision = decide(&facts, &ORDINARY, &honored);
    assert_eq!((decision.policy(), decision.overrides()), (Some(Policy::Reject), [].as_slice()));
}

#[test]
fn of_several_author_domains_the_strictest_failing_policy_rules() {
    type Outputs<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Outputs<'_>, char, usize); 9] = [
        (&[("pass", "p=reject"), ("fail", "p=reject")], 'X', 1),
        (&[("fail", "p=reject"), ("pass", "p=reject")], 'X', 0),
        (&[("fail", "p=quarantine"), ("fail", "p=reject"), ("fail", "p=none")], 'X', 1),
        (&[("fail", "p=none"), ("fail", "p=quarantine")], 'q', 1),
        (&[("fail", "p=none"), ("pass", "p=reject")], '-', 0),
        (&[("none", ""), ("temperror/identifier", "p=reject")], '4', 1),
        (&[("fail", "p=reject"), ("temperror/identifier", "p=reject")], 'X', 0),
        (&[("fail", "p=quarantine"), ("temperror/identifier", "p=quarantine")], '4', 1),
        (&[("pass", "p=none"), ("pass", "p=reject"), ("none", "")], '-', 1),
    ];
    for (outputs, expected, deciding) in cases {
        let list = outputs.iter().enumerate().map(|(i, (r, t))| dmarc(&format!("d{i}.example"), r, t)).collect();
        let decision = decide(&evaluation(list), &ORDINARY, &DEFAULT);
        assert_eq!((letter(decision.disposition), decision.deciding), (expected, Some(deciding)), "{outputs:?}");
    }
    let two = vec![dmarc("a.example", "pass", "p=reject"), dmarc("b.example", "fail", "p=reject")];
    let decision = decide(&evaluation(two), &ORDINARY, &DEFAULT);
    let innocent = &decision.assessments[0];
    assert_eq!(innocent.reported, ReportDisposition::Reject);
    assert_eq!(innocent.overrides[0].kind, OverrideKind::LocalPolicy);
}

#[test]
fn signs_of_indirect_flow() {
    use Alignment::{Relaxed, Strict, Unaligned, Unknown};
    let signature = |result, key_found| DkimOutput {
        place: 0,
        result,
        domain: Some(domain("example.org")),
        selector: "s".into(),
        identity: None,
        algorithm: None,
        signature_start: "".into(),
        key: if key_found { KeySearch::Found } else { KeySearch::Missing },
        reason: "",
        failure: None,
    };
    // What is done by `reject = "corroborated"` and `"always"`.
    let cases = [
        ("broken", DkimResult::Fail, true, Strict, "qX"),
        ("broken, relaxed", DkimResult::Fail, true, Relaxed, "qX"),
        ("broken, may be aligned", DkimResult::Fail, true, Unknown, "qX"),
        ("octets beyond l=", DkimResult::Policy, true, Strict, "qq"),
        ("octets beyond l=, relaxed", DkimResult::Policy, true, Relaxed, "qq"),
        ("octets beyond l=, of somebody else", DkimResult::Policy, true, Unaligned, "XX"),
        ("octets beyond l=, no key", DkimResult::Policy, false, Strict, "XX"),
        ("fewer octets than l=", DkimResult::PermError, true, Strict, "qX"),
        ("broken, of somebody else", DkimResult::Fail, true, Unaligned, "XX"),
        ("no key: anyone can write that", DkimResult::Fail, false, Strict, "XX"),
        ("permerror without a key", DkimResult::PermError, false, Strict, "XX"),
        ("neutral", DkimResult::Neutral, true, Strict, "XX"),
    ];
    for (name, result, key_found, alignment, expected) in cases {
        let output = DmarcOutput { dkim_alignment: vec![alignment], ..dmarc("example.org", "fail", "p=reject") };
        let facts = Evaluation { dkim: vec![signature(result, key_found)], ..evaluation(vec![output]) };
        let done = [Reject::Corroborated, Reject::Always].map(|reject| {
            let decision = decide(&facts, &ORDINARY, &LocalPolicy { reject, ..DEFAULT });
            let found: Vec<Sign> = decision.signs.iter().map(|found| found.sign).collect();
            assert_eq!(found, signs(&facts, &facts.dmarc[0]), "{name}");
            letter(decision.disposition)
        });
        assert_eq!(String::from_iter(done), expected, "{name}");
    }
    // A list's footer: `always` counts the l= alone, and gives no other reason.
    let output = DmarcOutput { dkim_alignment: vec![Strict], ..dmarc("example.org", "fail", "p=reject") };
    let mut facts = Evaluation { dkim: vec![signature(DkimResult::Policy, true)], ..evaluation(vec![output]) };
    facts.list_fields = true;
    let decision = decide(&facts, &ORDINARY, &LocalPolicy { reject: Reject::Always, ..DEFAULT });
    assert_eq!((decision.rule, decision.reported()), (Rule::IndirectFlow, ReportDisposition::Quarantine));
    assert_eq!(decision.overrides().iter().map(|o| o.kind).collect::<Vec<_>>(), [OverrideKind::LocalPolicy]);
    let mut facts = evaluation(vec![dmarc("example.org", "fail", "p=reject")]);
    facts.list_fields = true;
    facts.arc.result = ArcResult::Fail;
    assert_eq!(signs(&facts, &facts.dmarc[0]), [Sign::ListFields], "an ARC chain that fails is no sign");
}

#[test]
fn signs_that_are_switched_off_are_told_and_do_not_count() {
    // A message with this sign alone; by `reject`: corroborated, always, never. With all on, with this one off, with
    // all others off. `trusted` is whether the chain is that of a trusted sealer.
    let rows = [
        (Sign::BrokenSignature, false, "qXr", "XXr", "qXr"),
        (Sign::UnsignedEnd, false, "qqr", "XXr", "qqr"),
        (Sign::SkippedSignature, false, "qqr", "qqr", "qqr"),
        (Sign::ListFields, false, "qXr", "XXr", "qXr"),
        (Sign::ArcChain, false, "qXr", "XXr", "qXr"),
        (Sign::ArcUndecided, false, "qXr", "XXr", "qXr"),
        (Sign::ArcUndecided, true, "qqr", "qqr", "qqr"),
    ];
    for (sign, trusted, all_on, off, others_off) in rows {
        let switch = if sign == Sign::ArcUndecided { Sign::ArcChain } else { sign };
        let off_alone = Sign::SWITCHABLE.into_iter().filter(|one| *one == switch).collect::<Vec<_>>();
        let others = Sign::SWITCHABLE.into_iter().filter(|one| *one != switch).collect::<Vec<_>>();
        for (ignored_signs, expected) in [(Vec::new(), all_on), (off_alone, off), (others, others_off)] {
            let found = Reject::ALL.iter().map(|reject| {
                let trusted_sealers = if trusted { vec![domain("list.example")] } else { Vec::new() };
                // Else a chain that trusted sealers could vouch for defers.
                let on_temperror = OnTempError::Pass;
                let local = LocalPolicy {
                    reject: *reject,
                    on_temperror,
                    ignored_signs: ignored_signs.clone(),
                    trusted_sealers,
                    ..DEFAULT
                };
                let decision = decide(&with_sign(sign), &ORDINARY, &local);
                let [found] = decision.signs[..] else { panic!("{sign}: {:?}", decision.signs) };
                assert_eq!(found.sign, sign);
                let kept = letter(decision.disposition) == 'q';
                assert!(*reject == Reject::Never || found.counts() == kept, "{sign} {reject} {ignored_signs:?}");
                assert_eq!(decision.rule == Rule::IndirectFlow, kept, "{sign} {reject} {ignored_signs:?}");
                letter(decision.disposition)
            });
            assert_eq!(
                found.collect::<String>(),
                expected,
                "{sign}, trusted sealer: {trusted}, off: {ignored_signs:?}"
            );
        }
    }
}

/// A failure under p=reject with one sign; a chain is `list.example`'s, and vouches for the author.
fn with_sign(sign: Sign) -> Evaluation {
    let failing = dmarc("example.org", "fail", "p=reject");
    let signed = |result| Evaluation {
        dkim: vec![signature(result, "example.org")],
        ..evaluation(vec![DmarcOutput { dkim_alignment: vec![Alignment::Strict], ..failing.clone() }])
    };
    let unsigned = || evaluation(vec![failing.clone()]);
    let vouching = chain("list.example", "example.org");
    match sign {
        Sign::BrokenSignature => signed(DkimResult::Fail),
        Sign::UnsignedEnd => signed(DkimResult::Policy),
        Sign::SkippedSignature => {
            evaluation(vec![DmarcOutput { dkim_skipped_may_be_aligned: true, ..failing.clone() }])
        }
        Sign::ListFields => Evaluation { list_fields: true, ..unsigned() },
        Sign::ArcChain => Evaluation { arc: vouching, ..unsigned() },
        Sign::ArcUndecided => {
            let ArcOutput { sets: unverified, .. } = vouching;
            let arc =
                ArcOutput { result: ArcResult::TempError, sets: Vec::new(), unverified, reason: "", failure: None };
            Evaluation { arc, ..unsigned() }
        }
    }
}

#[test]
fn an_override_refuses_in_spite_of_a_sign_that_is_switched_off_alone() {
    let rejects = LocalPolicy { overrides: vec![one_override(OverrideAction::Reject)], ..DEFAULT };
    let off = LocalPolicy { ignored_signs: vec![Sign::UnsignedEnd], ..rejects.clone() };
    assert_eq!(decide(&with_sign(Sign::UnsignedEnd), &ORDINARY, &rejects).rule, Rule::IndirectFlow);
    assert_eq!(decide(&with_sign(Sign::UnsignedEnd), &ORDINARY, &off).rule, Rule::Override);
    let all = LocalPolicy { ignored_signs: Sign::SWITCHABLE.into(), ..rejects };
    assert_eq!(decide(&with_sign(Sign::SkippedSignature), &ORDINARY, &all).rule, Rule::IndirectFlow);
}

#[test]
fn one_sign_that_counts_is_enough_and_the_only_reason() {
    let facts = Evaluation { list_fields: true, ..with_sign(Sign::BrokenSignature) };
    let local = LocalPolicy { ignored_signs: vec![Sign::BrokenSignature], ..DEFAULT };
    let decision = decide(&facts, &ORDINARY, &local);
    assert_eq!(decision.rule, Rule::IndirectFlow);
    assert_eq!(decision.overrides().iter().map(|o| o.kind).collect::<Vec<_>>(), [OverrideKind::MailingList]);
    let told: Vec<String> = decision.signs.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["broken_signature (not counted)", "list_fields"]);
}

/// A chain of one set, in which `sealer` says that DMARC passes for `author`.
fn chain(sealer: &str, author: &str) -> ArcOutput {
    let dmarc = Some(DmarcFinding { result: DmarcResult::Pass, author_domain: domain(author) });
    let sets = vec![ArcSet { instance: 1, sealer: domain(sealer), dmarc }];
    ArcOutput { result: ArcResult::Pass, sets, unverified: Vec::new(), reason: "", failure: None }
}

#[test]
fn what_a_trusted_sealer_changes() {
    use OverrideKind::{LocalPolicy as Local, Other, PolicyTestMode, TrustedForwarder};
    type Row<'a> = (&'a str, &'a str, Mode, char, Rule, &'a [OverrideKind]);
    let doubt = "temperror/identifier";
    let rows: [Row<'_>; 12] = [
        ("fail", "p=reject", Mode::Enforce, '-', Rule::TrustedSealer, &[TrustedForwarder]),
        ("fail", "p=quarantine", Mode::Enforce, '-', Rule::TrustedSealer, &[TrustedForwarder]),
        ("fail", "p=reject; t=y", Mode::Enforce, '-', Rule::TrustedSealer, &[PolicyTestMode, TrustedForwarder]),
        ("fail", "p=none", Mode::Enforce, '-', Rule::FailNone, &[]),
        ("fail", "p=reject", Mode::Tag, '-', Rule::TrustedSealer, &[TrustedForwarder]),
        ("fail", "p=quarantine", Mode::Tag, '-', Rule::TrustedSealer, &[TrustedForwarder]),
        ("fail", "p=reject", Mode::Monitor, '-', Rule::FailReject, &[Local]),
        ("pass", "p=reject", Mode::Enforce, '-', Rule::Pass, &[]),
        ("none", "", Mode::Enforce, '-', Rule::NoRecord, &[]),
        ("permerror", "", Mode::Enforce, '-', Rule::BrokenRecord, &[]),
        (doubt, "p=reject", Mode::Enforce, '4', Rule::IdentifierDoubt, &[Other]),
        ("temperror/policy", "", Mode::Enforce, '-', Rule::PolicyDoubt, &[]),
    ];
    for (result, tags, mode, done, rule, kinds) in rows {
        for reject in Reject::ALL {
            let arc = chain("list.example", "example.org");
            let facts = Evaluation { arc, ..evaluation(vec![dmarc("example.org", result, tags)]) };
            let local = LocalPolicy { mode, reject: *reject, trusted_sealers: vec![domain("list.example")], ..DEFAULT };
            let decision = decide(&facts, &ORDINARY, &local);
            let found: Vec<_> = decision.overrides().iter().map(|o| o.kind).collect();
            let name = format!("{result} {tags} {mode} {reject}");
            assert_eq!((letter(decision.disposition), decision.rule), (done, rule), "{name}");
            assert_eq!(found, kinds, "{name}");
            let named = decision.deciding_assessment().unwrap().voucher.as_ref().map(|set| set.sealer.as_str());
            assert_eq!(named, (rule == Rule::TrustedSealer).then_some("list.example"), "{name}");
            if rule == Rule::TrustedSealer {
                assert_eq!(decision.reported(), ReportDisposition::None, "{name}");
            }
        }
    }
}

#[test]
fn a_chain_without_a_trusted_sealer_is_a_sign_and_no_more() {
    let local = LocalPolicy { trusted_sealers: vec![domain("list.example")], ..DEFAULT };
    let cases = [
        ("untrusted sealer", chain("evil.example", "example.org"), Rule::IndirectFlow),
        ("another author", chain("list.example", "example.com"), Rule::IndirectFlow),
        (
            "chain fails",
            ArcOutput { result: ArcResult::Fail, ..chain("list.example", "example.org") },
            Rule::FailReject,
        ),
        (
            "chain in doubt",
            ArcOutput { result: ArcResult::TempError, ..chain("evil.example", "example.org") },
            Rule::IndirectFlow,
        ),
    ];
    for (name, arc, rule) in cases {
        let facts = Evaluation { arc, ..evaluation(vec![dmarc("example.org", "fail", "p=reject")]) };
        assert_eq!(decide(&facts, &ORDINARY, &local).rule, rule, "{name}");
    }
}

#[test]
fn a_trusted_sealer_whose_key_cannot_be_had_is_doubt_and_never_a_pass() {
    use OnTempError::{Defer, DeferIfItMatters, Pass};
    let in_doubt = |sealer: &str| {
        let ArcOutput { sets, .. } = chain(sealer, "example.org");
        ArcOutput { result: ArcResult::TempError, sets: Vec::new(), unverified: sets, reason: "", failure: None }
    };
    // By `reject`: corroborated, always, never.
    let rows = [
        ("list.example", "fail", "p=reject", Mode::Enforce, DeferIfItMatters, "444"),
        ("list.example", "fail", "p=reject", Mode::Enforce, Defer, "444"),
        ("list.example", "fail", "p=quarantine", Mode::Enforce, DeferIfItMatters, "444"),
        ("list.example", "fail", "p=none", Mode::Enforce, Defer, "---"),
        ("list.example", "fail", "p=quarantine; t=y", Mode::Enforce, Defer, "---"),
        ("list.example", "fail", "p=reject", Mode::Enforce, Pass, "qqr"),
        ("list.example", "fail", "p=quarantine", Mode::Enforce, Pass, "qqq"),
        ("list.example", "fail", "p=reject", Mode::Tag, Defer, "rrr"),
        ("list.example", "fail", "p=reject", Mode::Monitor, Defer, "---"),
        ("list.example", "pass", "p=reject", Mode::Enforce, Defer, "---"),
        ("evil.example", "fail", "p=reject", Mode::Enforce, Defer, "qXr"),
    ];
    for (sealer, result, tags, mode, on_temperror, expected) in rows {
        let facts = Evaluation { arc: in_doubt(sealer), ..evaluation(vec![dmarc("example.org", result, tags)]) };
        let done = Reject::ALL.iter().map(|reject| {
            let trusted_sealers = vec![domain("list.example")];
            let local = LocalPolicy { mode, reject: *reject, on_temperror, trusted_sealers, ..DEFAULT };
            let decision = decide(&facts, &ORDINARY, &local);
            assert_eq!(decision.deciding_assessment().unwrap().voucher, None);
            if decision.disposition == Disposition::Defer {
                assert_eq!((decision.rule, decision.overrides()[0].kind), (Rule::IdentifierDoubt, OverrideKind::Other));
            }
            letter(decision.disposition)
        });
        assert_eq!(done.collect::<String>(), expected, "{sealer} {result} {tags} {mode} {on_temperror}");
    }
}

#[test]
fn a_signature_beyond_our_bound_is_never_refused_for() {
    let left_out = DmarcOutput { dkim_skipped_may_be_aligned: true, ..dmarc("example.org", "fail", "p=reject") };
    let facts = Evaluation { dkim_skipped: 1, ..evaluation(vec![left_out]) };
    for (reject, expected) in [(Reject::Corroborated, 'q'), (Reject::Always, 'q'), (Reject::Never, 'r')] {
        let decision = decide(&facts, &ORDINARY, &LocalPolicy { reject, ..DEFAULT });
        assert_eq!((letter(decision.disposition), decision.signs[0].sign), (expected, Sign::SkippedSignature));
    }
    // Twenty that fit nothing, and one more: who could sign for the domain would be among the twenty.
    for (result, expected) in [
        (DkimResult::Neutral, 'X'),
        (DkimResult::PermError, 'X'),
        (DkimResult::Fail, 'X'),
        (DkimResult::Policy, 'q'),
        (DkimResult::TempError, 'q'),
    ] {
        let mut facts = facts.clone();
        let mut evaluated = signature(result, "example.org");
        evaluated.key = KeySearch::Missing;
        facts.dkim = vec![evaluated; 20];
        facts.dmarc[0].dkim_alignment = vec![Alignment::Strict; 20];
        let local = LocalPolicy { reject: Reject::Always, ..DEFAULT };
        assert_eq!(letter(decide(&facts, &ORDINARY, &local).disposition), expected, "{result}");
    }
    let of_others = Evaluation { dkim_skipped: 9, ..evaluation(vec![dmarc("example.org", "fail", "p=reject")]) };
    assert_eq!(letter(decide(&of_others, &ORDINARY, &DEFAULT).disposition), 'X');
}

#[test]
fn each_author_domain_needs_a_word_of_its_own() {
    let local = LocalPolicy { trusted_sealers: vec![domain("l1.example"), domain("l2.example")], ..DEFAULT };
    let both = |p| vec![dmarc("example.org", "fail", "p=reject"), dmarc("example.com", "fail", p)];
    let one = Evaluation { arc: chain("l1.example", "example.org"), ..evaluation(both("p=quarantine")) };
    let decision = decide(&one, &ORDINARY, &local);
    assert_eq!((decision.rule, letter(decision.disposition)), (Rule::FailQuarantine, 'q'));
    assert_eq!(decision.assessments[0].rule, Rule::TrustedSealer);

    let mut arc = chain("l1.example", "example.org");
    arc.sets.push(ArcSet { instance: 2, ..chain("l2.example", "example.com").sets.remove(0) });
    let two = Evaluation { arc, ..evaluation(both("p=reject")) };
    let decision = decide(&two, &ORDINARY, &local);
    assert_eq!((decision.rule, letter(decision.disposition)), (Rule::TrustedSealer, '-'));
    let vouchers: Vec<_> = decision.assessments.iter().map(|a| a.voucher.as_ref().unwrap().instance).collect();
    assert_eq!(vouchers, [1, 2]);
}

/// An override for the author domain `example.org`, up to the time 1000.
fn one_override(action: OverrideAction) -> LocalOverride {
    LocalOverride {
        criteria: Criteria { author_domains: vec![domain("example.org")], ..Criteria::default() },
        action,
        kind: Some(OverrideKind::TrustedForwarder),
        note: "our partner".into(),
        until: Some(1000),
    }
}

#[test]
fn no_override_refuses_what_must_not_be_refused_and_none_outlives_its_end() {
    let local = |action| LocalPolicy { overrides: vec![one_override(action)], ..DEFAULT };
    let failing = || evaluation(vec![dmarc("example.org", "fail", "p=reject")]);
    let rejects = local(OverrideAction::Reject);

    let list = Evaluation { list_fields: true, ..failing() };
    assert_eq!(decide(&list, &ORDINARY, &DEFAULT).rule, Rule::IndirectFlow);
    assert_eq!(decide(&list, &ORDINARY, &rejects).rule, Rule::Override, "the operator knows better than a sign");

    let exempt = Circumstances { recipients: Recipients::AllExempt, ..ORDINARY };
    assert_eq!(decide(&failing(), &exempt, &rejects).rule, Rule::ExemptRecipients);

    let mut unsigned = failing();
    unsigned.dkim = vec![signature(DkimResult::Policy, "example.org")];
    unsigned.dmarc[0].dkim_alignment = vec![Alignment::Strict];
    assert_eq!(decide(&unsigned, &ORDINARY, &rejects).rule, Rule::IndirectFlow);

    let passes = local(OverrideAction::Pass);
    for (now, rule) in [(999, Rule::Override), (1000, Rule::FailReject)] {
        assert_eq!(decide(&failing(), &Circumstances { now, ..ORDINARY }, &passes).rule, rule, "{now}");
    }
}

#[test]
fn a_forwarder_or_list_is_no_reason_for_what_is_not_milder_than_published() {
    use OverrideAction::{Pass, Reject, Tag};
    use OverrideKind::{LocalPolicy as Local, MailingList, Other, TrustedForwarder};
    let network = || Criteria { networks: vec!["192.0.2.0/24".parse().unwrap()], ..Criteria::default() };
    let list = || Criteria { list_ids: vec![domain("list.example")], ..network() };
    let author = || Criteria { author_domains: vec![domain("example.org")], ..Criteria::default() };
    let cases = [
        ("fail", "p=reject", network(), Pass, None, TrustedForwarder),
        ("fail", "p=reject", network(), Tag, None, TrustedForwarder),
        ("fail", "p=quarantine", network(), Pass, None, TrustedForwarder),
        ("fail", "p=quarantine", network(), Tag, None, Local),
        ("fail", "p=none", network(), Tag, None, Local),
        ("fail", "p=reject", network(), Reject, None, Local),
        ("fail", "p=reject", list(), Tag, None, MailingList),
        ("fail", "p=none", list(), Tag, None, Local),
        ("fail", "p=reject", author(), Pass, None, Local),
        ("fail", "p=none", network(), Tag, Some(Other), Other),
        ("temperror/identifier", "p=reject", network(), Tag, None, TrustedForwarder),
        ("temperror/identifier", "p=quarantine", network(), Tag, None, Local),
    ];
    for (result, tags, criteria, action, kind, expected) in cases {
        let name = format!("{result} {tags} {action} {criteria:?}");
        let facts = Evaluation {
            list_id: Some(domain("list.example")),
            ..evaluation(vec![dmarc("example.org", result, tags)])
        };
        let overrides = vec![LocalOverride { criteria, kind, ..one_override(action) }];
        let decision = decide(&facts, &ORDINARY, &LocalPolicy { overrides, ..DEFAULT });
        assert_eq!(decision.rule, Rule::Override, "{name}");
        assert_eq!(decision.overrides().last().map(|o| o.kind), Some(expected), "{name}");
    }
}

#[test]
fn an_override_for_a_message_in_doubt() {
    let cases = [
        (OverrideAction::Pass, '-', Rule::Override, Some(0)),
        (OverrideAction::Tag, 'q', Rule::Override, Some(0)),
        (OverrideAction::Reject, '4', Rule::IdentifierDoubt, None),
    ];
    for (action, done, rule, place) in cases {
        let local = LocalPolicy { overrides: vec![one_override(action)], ..DEFAULT };
        let facts = evaluation(vec![dmarc("example.org", "temperror/identifier", "p=reject")]);
        let decision = decide(&facts, &ORDINARY, &local);
        assert_eq!((letter(decision.disposition), decision.rule), (done, rule), "{action}");
        assert_eq!(decision.deciding_assessment().unwrap().overridden_by, place, "{action}");
    }
}

#[test]
fn an_override_that_changes_nothing_is_none() {
    let local = LocalPolicy { overrides: vec![one_override(OverrideAction::Pass)], ..DEFAULT };
    let decision = decide(&evaluation(vec![dmarc("example.org", "fail", "p=none")]), &ORDINARY, &local);
    assert_eq!((decision.rule, decision.overrides()), (Rule::FailNone, [].as_slice()));
}

#[test]
fn each_sign_has_words_of_its_own() {
    let mut comments: Vec<_> = Sign::ALL.iter().map(|sign| sign.comment()).collect();
    assert!(comments.iter().all(|comment| !comment.is_empty()));
    comments.sort_unstable();
    comments.dedup();
    assert_eq!(comments.len(), Sign::ALL.len());
}

#[test]
fn a_host_name_is_wanted_where_an_override_hangs_on_one() {
    let by_host = Criteria { hosts: vec![domain("fwd.example")], ..Criteria::default() };
    let on_host = LocalOverride { criteria: by_host, ..one_override(OverrideAction::Pass) };
    let cases = [
        (Vec::new(), false),
        (vec![one_override(OverrideAction::Pass)], false),
        (vec![one_override(OverrideAction::Pass), on_host], true),
    ];
    for (overrides, expected) in cases {
        let count = overrides.len();
        assert_eq!(LocalPolicy { overrides, ..DEFAULT }.wants_host(), expected, "{count} overrides");
    }
}

#[test]
fn an_override_for_one_author_is_none_for_another() {
    let facts = evaluation(vec![dmarc("example.org", "fail", "p=reject"), dmarc("other.example", "fail", "p=reject")]);
    let local = LocalPolicy { overrides: vec![one_override(OverrideAction::Pass)], ..DEFAULT };
    let decision = decide(&facts, &ORDINARY, &local);
    assert_eq!((decision.deciding, decision.rule), (Some(1), Rule::FailReject));
    assert_eq!(decision.assessments[0].rule, Rule::Override);
}

#[test]
fn doubt_that_lasts_ends_in_a_mark() {
    let hour = |n: u64| Some(Duration::from_secs(n * 3600));
    let cases = [
        ("temperror/identifier", "p=reject", &DEFAULT, None, '4'),
        ("temperror/identifier", "p=reject", &DEFAULT, hour(3), '4'),
        ("temperror/identifier", "p=reject", &DEFAULT, hour(4), 'q'),
        ("temperror/identifier", "p=quarantine", &DEFAULT, hour(4), 'q'),
        ("temperror/identifier", "p=none", &DEFAULT, hour(4), '-'),
        ("temperror/own", "", &DEFAULT, hour(3), '4'),
        ("temperror/own", "", &DEFAULT, hour(4), 'q'),
        ("temperror/policy", "", &DEFAULT, hour(4), '-'),
        ("temperror/policy", "", &LocalPolicy { on_temperror: OnTempError::Defer, ..DEFAULT }, hour(4), 'q'),
        ("temperror/identifier", "p=reject", &LocalPolicy { mode: Mode::Tag, ..DEFAULT }, hour(4), '-'),
        ("fail", "p=reject", &DEFAULT, hour(4), 'X'),
    ];
    for (result, tags, local, in_doubt_for, expected) in cases {
        let facts = evaluation(vec![dmarc("example.org", result, tags)]);
        let decision = decide(&facts, &Circumstances { in_doubt_for: vec![in_doubt_for], ..ORDINARY }, local);
        assert_eq!(letter(decision.disposition), expected, "{result} {tags} {in_doubt_for:?}");
        assert_eq!(decision.rule == Rule::LastingDoubt, expected == 'q', "{result} {tags} {in_doubt_for:?}");
    }
}
