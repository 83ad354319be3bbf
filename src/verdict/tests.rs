//! The shadow policy decides by itself, over the same facts, and never over the message.

use super::*;
use crate::config::Config;
use crate::dmarc::alignment::Doubt;
use crate::evaluation::sample::{self, domain};
use crate::evaluation::{ArcResult, DmarcResult};
use crate::label::Label;
use crate::message::author::UnusableFrom;
use crate::policy::overrides::{Criteria, LocalOverride, OverrideAction};
use crate::policy::{Pct, Reject, Rule};
use crate::record::AlignmentOutcome;
use crate::smtp::command::MailParameters;

const TO_ANYONE: &str = "<you@rcpt.example>";
const TO_POSTMASTER: &str = "<postmaster@rcpt.example>";

fn envelope(recipient: &str) -> Envelope {
    envelope_of("<a@b.example>", &[recipient])
}

fn envelope_of(reverse_path: &str, recipients: &[&str]) -> Envelope {
    let (reverse_path, _) = ReversePath::parse(reverse_path.as_bytes()).unwrap();
    let mut envelope = Envelope::new(reverse_path, MailParameters::default());
    envelope.recipients.extend(recipients.iter().map(|path| ForwardPath::parse(path.as_bytes()).unwrap().0));
    envelope
}

fn settings(policy: LocalPolicy, shadow: Option<LocalPolicy>) -> Settings {
    let built_in = Config::built_in().verdict();
    let shadow = shadow.map(|policy| ShadowPolicy { policy, exempt_recipients: Vec::new() });
    Settings { policy, shadow, ..built_in }
}

fn verdict(evaluation: &Evaluation, recipient: &str, settings: &Settings) -> Verdict {
    let envelope = envelope(recipient);
    let circumstances = settings.circumstances(&envelope, 0);
    conclude(evaluation.clone(), &envelope, &circumstances, settings, "ID")
}

fn facts(record: &str, result: DmarcResult) -> Evaluation {
    let doubt = (result == DmarcResult::TempError).then_some(Doubt::Identifier);
    let policy = Some(sample::published("author.example", record));
    sample::evaluation(vec![DmarcOutput { doubt, policy, ..sample::dmarc("author.example", result) }])
}

/// Every kind of message that policies may treat in different ways.
fn all_facts() -> Vec<(String, Evaluation)> {
    let mut all = Vec::new();
    for record in ["p=none", "p=quarantine", "p=reject", "p=reject; pct=0", "p=reject; t=y"] {
        for result in [DmarcResult::Pass, DmarcResult::Fail, DmarcResult::TempError] {
            let plain = facts(record, result);
            let listed = Evaluation { list_fields: true, ..plain.clone() };
            let mut sealed = plain.clone();
            sealed.arc.result = ArcResult::Pass;
            for (name, facts) in [("", plain), ("list", listed), ("arc", sealed)] {
                all.push((format!("{record} {result} {name}"), facts));
            }
        }
    }
    let author = Author::Unusable(UnusableFrom::Missing);
    all.push(("unusable".to_owned(), Evaluation { author, ..sample::evaluation(Vec::new()) }));
    all
}

fn policies() -> Vec<LocalPolicy> {
    let mut all = Vec::new();
    for mode in Mode::ALL {
        for reject in Reject::ALL {
            for on_temperror in OnTempError::ALL {
                let (mode, reject, on_temperror) = (*mode, *reject, *on_temperror);
                all.push(LocalPolicy { mode, reject, on_temperror, ..LocalPolicy::default() });
            }
        }
    }
    let tag = LocalOverride {
        criteria: Criteria { recipient_domains: vec![domain("rcpt.example")], ..Criteria::default() },
        action: OverrideAction::Tag,
        kind: None,
        note: "n".into(),
        until: None,
    };
    all.push(LocalPolicy { pct: Pct::Honored, ..LocalPolicy::default() });
    all.push(LocalPolicy { overrides: vec![tag], ..LocalPolicy::default() });
    all
}

#[test]
fn the_shadow_decides_as_if_it_were_in_force_and_what_is_in_force_as_if_there_were_none() {
    let mut differences = 0;
    let (policies, mut settings) = (policies(), settings(LocalPolicy::default(), None));
    for (name, facts) in all_facts() {
        settings.shadow = None;
        let mut alone = Vec::new();
        for policy in &policies {
            settings.policy = policy.clone();
            alone.push(verdict(&facts, TO_ANYONE, &settings));
        }
        for (active, expected) in policies.iter().zip(&alone) {
            settings.policy = active.clone();
            for (shadow, expected_shadow) in policies.iter().zip(&alone) {
                settings.shadow = Some(ShadowPolicy { policy: shadow.clone(), exempt_recipients: Vec::new() });
                let both = verdict(&facts, TO_ANYONE, &settings);
                assert_eq!((&both.decision, &both.action), (&expected.decision, &expected.action), "{name}");
                let found = both.shadow.as_ref().expect("a shadow");
                let expected = (&expected_shadow.decision, &expected_shadow.action);
                assert_eq!((&found.decision, &found.action), expected, "{name}: {active:?} | {shadow:?}");
                let differs = both.decision.disposition != found.decision.disposition;
                assert_eq!(both.shadow_differs(), differs, "{name}");
                differences += usize::from(differs);
            }
        }
        assert!(alone.iter().all(|verdict| verdict.shadow.is_none() && !verdict.shadow_differs()));
    }
    assert!(differences > 1000, "{differences}");
}

#[test]
fn the_shadow_has_recipients_of_its_own_that_it_exempts() {
    let facts = facts("p=reject", DmarcResult::Fail);
    let settings = settings(LocalPolicy::default(), Some(LocalPolicy::default()));
    let verdict = verdict(&facts, TO_POSTMASTER, &settings);
    assert_eq!(verdict.decision.rule, Rule::ExemptRecipients);
    assert_eq!(verdict.shadow.unwrap().decision.rule, Rule::FailReject);
}

#[test]
fn both_see_the_same_sample() {
    let facts = facts("p=reject; pct=50", DmarcResult::Fail);
    let honored = LocalPolicy { pct: Pct::Honored, ..LocalPolicy::default() };
    let settings = settings(honored.clone(), Some(honored));
    for _ in 0..200 {
        assert!(!verdict(&facts, TO_ANYONE, &settings).shadow_differs());
    }
}

#[test]
fn an_evaluation_that_did_not_finish_is_deferred_or_let_through() {
    let mut settings = settings(LocalPolicy::default(), None);
    for mode in Mode::ALL {
        for on_temperror in OnTempError::ALL {
            (settings.policy.mode, settings.policy.on_temperror) = (*mode, *on_temperror);
            let action = undecided(&settings, "ID");
            let expected = match (mode, on_temperror) {
                (Mode::Enforce, OnTempError::Defer | OnTempError::DeferIfItMatters) => None,
                _ => Some(Action::unevaluated(&settings.authserv_id)),
            };
            match (action, expected) {
                (Action::Defer(text), None) => assert_eq!((text.code, text.enhanced), (451, (4, 3, 0))),
                (action, expected) => assert_eq!(Some(action), expected, "{mode} {on_temperror}"),
            }
        }
    }
}

#[test]
fn results_in_our_name_are_removed_but_from_hosts_that_may_write_them() {
    let built_in = settings(LocalPolicy::default(), None);
    let settings = Settings {
        own_ids: AuthservIds::new(["gate.example"]),
        keep_results_from: vec!["192.0.2.0/24".parse().unwrap()],
        ..built_in
    };
    let section = HeaderSection::parse(b"Authentication-Results: gate.example; spf=pass\r\n\r\n".to_vec());
    for (ip, removed) in [("192.0.2.1", 0), ("198.51.100.1", 1), ("2001:db8::1", 1)] {
        assert_eq!(settings.removals(&section, ip.parse().unwrap()).count(), removed, "{ip}");
    }
}

#[test]
fn a_row_has_the_facts_of_its_author_domain() {
    let policy = Some(sample::published("b.example", "p=none"));
    let aligned = DmarcOutput { policy, spf_aligned: true, ..sample::dmarc("b.example", DmarcResult::Pass) };
    let mut facts = sample::evaluation(vec![sample::dmarc("a.example", DmarcResult::None), aligned]);
    facts.spf = sample::spf(SpfResult::Pass, Identity::MailFrom, "b.example");
    let settings = settings(LocalPolicy::default(), None);
    let ip = "192.0.2.1".parse().unwrap();
    let rows = |facts: &Evaluation, path: &str| {
        let verdict = verdict(facts, TO_ANYONE, &settings);
        records(&verdict, ip, &envelope_of(path, &[TO_ANYONE]), FinalReply::Accepted, 7)
    };
    let found = rows(&facts, "<x@b.example>");
    let short =
        |row: &Record| (row.header_from.as_ref().map(Domain::to_string), row.policy.is_some(), row.evaluated.spf);
    let domain = |name: &str| Some(name.to_owned());
    let expected =
        [(domain("a.example"), false, AlignmentOutcome::Fail), (domain("b.example"), true, AlignmentOutcome::Pass)];
    assert_eq!(found.iter().map(short).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|row| (row.arrived, row.source_ip, &*row.envelope_from) == (7, ip, "b.example")));
    let spf = found[0].spf.as_ref().unwrap();
    assert_eq!((&*spf.domain, spf.scope, &*spf.result), ("b.example", SpfScope::MailFrom, "pass"));
    assert_eq!(rows(&facts, "<x@[192.0.2.1]>")[0].envelope_from, NO_DOMAIN);
    facts.spf.identity = Identity::Helo;
    facts.author = Author::Unusable(UnusableFrom::Missing);
    facts.dmarc = Vec::new();
    let unusable = rows(&facts, "<>");
    assert_eq!(unusable.iter().map(short).collect::<Vec<_>>(), [(None, false, AlignmentOutcome::Fail)]);
    assert_eq!((&*unusable[0].envelope_from, unusable[0].spf.as_ref().unwrap().scope), ("", SpfScope::Helo));
}

#[test]
fn signatures_stand_in_the_order_of_their_worth() {
    use Alignment::{Relaxed, Strict, Unaligned};
    use DkimResult::{Fail, Pass};
    let signatures = [(Fail, Unaligned), (Fail, Strict), (Pass, Unaligned), (Pass, Relaxed), (Pass, Strict)];
    let mut dmarc = sample::dmarc("author.example", DmarcResult::Pass);
    let mut facts = sample::evaluation(Vec::new());
    for (place, (result, alignment)) in signatures.into_iter().enumerate() {
        facts.dkim.push(sample::signature(result, &format!("s{place}.example")));
        dmarc.dkim_alignment.push(alignment);
    }
    let of = |dmarc| dkim_results(&facts, dmarc).into_iter().map(|dkim| dkim.domain).collect::<Vec<_>>();
    assert_eq!(of(Some(&dmarc)), ["s4.example", "s3.example", "s2.example", "s1.example", "s0.example"]);
    assert_eq!(of(None), ["s2.example", "s3.example", "s4.example", "s0.example", "s1.example"]);
}

#[test]
fn recipients_domains_are_read_where_an_override_of_either_policy_may_ask_for_them() {
    let plain = LocalPolicy::default;
    let with_override = || policies().pop().unwrap();
    let cases = [
        (plain(), None, 0),
        (plain(), Some(plain()), 0),
        (with_override(), None, 1),
        (plain(), Some(with_override()), 1),
    ];
    for (policy, shadow, domains) in cases {
        let circumstances = settings(policy, shadow).circumstances(&envelope(TO_ANYONE), 0);
        assert_eq!(circumstances.recipient_domains.len(), domains);
    }
}

#[test]
fn a_row_for_each_domain_of_the_recipients() {
    let recipients = ["<a@x.example>", "<b@X.example>", "<c@[192.0.2.1]>", "<d@y.example>", "<postmaster>"];
    let record = crate::record::sample::record();
    let rows = by_recipient_domain(vec![record.clone(), record], &envelope_of("<>", &recipients));
    let domains: Vec<_> = rows.iter().map(|row| row.envelope_to.as_deref()).collect();
    let each = [Some("x.example"), None, Some("y.example")];
    assert_eq!(domains, [each, each].concat());
}

#[test]
fn a_message_is_of_its_signer_or_its_spf_domain_or_its_network() {
    let pass = sample::signature(DkimResult::Pass, "s.example");
    let fail = sample::signature(DkimResult::Fail, "f.example");
    let spf = |result| sample::spf(result, Identity::MailFrom, "m.example");
    let cases = [
        (vec![fail.clone(), pass.clone()], spf(SpfResult::Pass), "d=s.example"),
        (vec![fail.clone()], spf(SpfResult::Pass), "spf=m.example"),
        (vec![fail], spf(SpfResult::SoftFail), "192.0.2.0/24"),
        (vec![], spf(SpfResult::Fail), "192.0.2.0/24"),
    ];
    for (dkim, spf, expected) in cases {
        let facts = Evaluation { dkim, spf, ..sample::evaluation(Vec::new()) };
        assert_eq!(source(&facts, "192.0.2.77".parse().unwrap()), expected);
    }
}

#[test]
fn tagged_is_what_goes_on_with_a_mark() {
    let tag = |mode| settings(LocalPolicy { mode, ..LocalPolicy::default() }, None);
    for (mode, expected) in [(Mode::Monitor, false), (Mode::Tag, true), (Mode::Enforce, false)] {
        let verdict = verdict(&facts("p=reject", DmarcResult::Fail), TO_ANYONE, &tag(mode));
        assert_eq!(verdict.is_tagged(), expected, "{mode}");
    }
}

/// Anyone can write any number of signatures that fail, with long names.
#[test]
fn rows_hold_few_signatures_that_failed() {
    let output = |n: usize, result| sample::signature(result, &format!("s{n}.example"));
    let mut dmarc = sample::dmarc("author.example", DmarcResult::Fail);
    let mut evaluation = sample::evaluation(Vec::new());
    for n in 0..30 {
        let (result, alignment) = match n % 3 {
            0 => (DkimResult::Fail, Alignment::Unaligned),
            1 => (DkimResult::Fail, Alignment::Relaxed),
            _ => (DkimResult::Pass, Alignment::Unaligned),
        };
        evaluation.dkim.push(output(n, result));
        dmarc.dkim_alignment.push(alignment);
    }
    let names: Vec<_> =
        dkim_results(&evaluation, Some(&dmarc)).into_iter().map(|dkim| (dkim.domain, dkim.result)).collect();
    let of = |places: &[usize], result: &str| {
        places.iter().map(|n| (format!("s{n}.example"), result.to_owned())).collect::<Vec<_>>()
    };
    let passed = of(&[2, 5, 8, 11, 14, 17, 20, 23, 26, 29], "pass");
    assert_eq!(names, [passed, of(&[1, 4, 7, 10, 13], "fail"), of(&[0, 3], "fail")].concat());
}
