//! The shadow policy decides by itself, over the same facts, and never over the message.

use super::*;
use crate::config::Config;
use crate::dmarc::alignment::Doubt;
use crate::evaluation::sample::{self, domain};
use crate::evaluation::{ArcResult, DmarcResult};
use crate::label::Label;
use crate::message::author::UnusableFrom;
use crate::policy::overrides::{Criteria, LocalOverride, OverrideAction};
use crate::policy::{OverrideKind, Pct, Reject, Rule};
use crate::smtp::command::MailParameters;

const TO_ANYONE: &str = "<you@rcpt.example>";
const TO_POSTMASTER: &str = "<postmaster@rcpt.example>";

fn envelope(recipient: &str) -> Envelope {
    let (reverse_path, _) = ReversePath::parse(b"<a@b.example>").unwrap();
    let mut envelope = Envelope::new(reverse_path, MailParameters::default());
    envelope.recipients.push(ForwardPath::parse(recipient.as_bytes()).unwrap().0);
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
        kind: OverrideKind::LocalPolicy,
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
