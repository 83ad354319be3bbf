//! What came out of each case, as one value: what people read and what programs read are drawn from it.
//!
//! The field names are those of `--json` and stay as they are.

use serde::Serialize;

use crate::config::cases::{Case, CaseOutcome};
use crate::explain::facts::decision::Decision;
use crate::explain::story::Story;
use crate::label::Label;
use crate::policy::bypass::BypassReason;
use crate::policy::{Disposition, Mark};
use crate::verdict::Verdict;

/// Of all cases.
#[derive(Debug, Default, Serialize)]
pub struct Facts<'a> {
    pub cases: Vec<CaseFacts<'a>>,
    /// How many came out as expected.
    pub as_expected: usize,
    /// How many did not.
    pub differ: usize,
}

/// Of one case.
#[derive(Debug, Serialize)]
pub struct CaseFacts<'a> {
    pub name: &'a str,
    pub line: usize,
    pub outcome: &'static str,
    /// None where nothing is expected.
    pub as_expected: Option<bool>,
    /// What is expected, and what came out instead.
    pub differences: Vec<Difference>,
    /// Why it is not evaluated.
    pub bypass: Option<&'static str>,
    pub dmarc: Vec<Dmarc>,
    /// None where it is not evaluated.
    pub decision: Option<Decision>,
    /// That of the shadow policy, if there is one.
    pub shadow: Option<Decision>,
}

/// One thing that came out otherwise.
#[derive(Debug, Serialize)]
pub struct Difference {
    pub what: &'static str,
    pub expected: String,
    pub found: String,
}

/// DMARC for one author domain.
#[derive(Debug, Serialize)]
pub struct Dmarc {
    pub author_domain: String,
    pub result: &'static str,
    pub reason: &'static str,
    /// Where the policy record stands.
    pub policy_domain: Option<String>,
    /// D: what it asks for after `t` and `pct`.
    pub policy: Option<&'static str>,
}

/// What became of a case.
pub enum Judged {
    /// It is not evaluated.
    Bypassed(BypassReason),
    /// It was judged.
    Evaluated(Box<Verdict>),
}

impl<'a> Facts<'a> {
    /// Adds a case.
    pub fn add(&mut self, case: CaseFacts<'a>) {
        match case.as_expected {
            Some(true) => self.as_expected += 1,
            Some(false) => self.differ += 1,
            None => {}
        }
        self.cases.push(case);
    }

    /// One object on several lines, the fields in the order in which they stand here.
    pub fn to_json(&self) -> String {
        // Fails only for maps with keys that are no strings; there are none.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// A block of lines for each case, with the place in `file` that editors jump to, and the sum.
    pub fn tell(&self, file: &str) -> String {
        let mut story = Story::default();
        for case in &self.cases {
            let word = match case.as_expected {
                Some(true) => "ok",
                Some(false) => "DIFFERS",
                None => "told",
            };
            story.heading(&format!("{file}:{}: {word}: {}", case.line, case.name));
            case.tell(&mut story);
        }
        let told = self.cases.len() - self.as_expected - self.differ;
        let counts =
            format!("{} as expected, {} otherwise, {told} without an expectation", self.as_expected, self.differ);
        story.line(&format!("\n{} case(s): {counts}", self.cases.len()));
        story.end()
    }
}

impl<'a> CaseFacts<'a> {
    /// Holds what became of a case against what it expects.
    pub fn new(case: &'a Case, judged: Judged) -> Self {
        let outcome = judged.outcome();
        let (bypass, verdict) = match judged {
            Judged::Bypassed(reason) => (Some(reason.as_str()), None),
            Judged::Evaluated(verdict) => (None, Some(verdict)),
        };
        let decision = verdict.as_ref().map(|verdict| Decision::new(verdict, 0));
        let rule = decision.as_ref().map_or("none", |decision| &*decision.rule);
        let notes = || decision.iter().flat_map(|decision| &decision.overrides).map(|o| &*o.comment);
        let said = notes().collect::<Vec<_>>().join("; ");
        let expected = &case.expected;
        let mut differences = Vec::new();
        let mut compare = |what, expected: Option<&str>, found: &str| {
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                differences.push(Difference { what, expected: expected.to_owned(), found: found.to_owned() });
            }
        };
        compare("outcome", expected.outcome.map(CaseOutcome::as_str), outcome.as_str());
        compare("rule", expected.rule.map(Label::as_str), rule);
        let missing_note = expected.note.as_deref().filter(|note| !notes().any(|found| found == *note));
        compare("note", missing_note, if said.is_empty() { "none" } else { &said });
        compare("bypass", expected.bypass.map(Label::as_str), bypass.unwrap_or("none"));
        let expects = expected.outcome.is_some()
            || expected.rule.is_some()
            || expected.note.is_some()
            || expected.bypass.is_some();
        Self {
            name: &case.name,
            line: case.line,
            outcome: outcome.as_str(),
            as_expected: expects.then_some(differences.is_empty()),
            differences,
            bypass,
            dmarc: verdict.as_ref().map(|verdict| dmarc(verdict)).unwrap_or_default(),
            shadow: verdict.as_ref().and_then(|verdict| Decision::of_shadow(verdict, 0)),
            decision,
        }
    }

    fn tell(&self, story: &mut Story) {
        for Difference { what, expected, found } in &self.differences {
            story.fact("expected", &format!("{what} \"{expected}\", not \"{found}\""));
        }
        if let Some(reason) = self.bypass {
            story.fact("bypass", &format!("{reason}: it is not evaluated"));
        }
        for Dmarc { author_domain, result, reason, policy_domain, policy } in &self.dmarc {
            let policy = match (policy, policy_domain) {
                (Some(policy), Some(at)) => format!("{policy} (record at {at})"),
                _ => "none applies".to_owned(),
            };
            story.fact("DMARC", &format!("{author_domain}: {result}, {reason}; policy {policy}"));
        }
        if let Some(decision) = &self.decision {
            story.decision(decision, "");
            if let Some(shadow) = &self.shadow {
                story.shadow(shadow, decision);
            }
        }
    }
}

impl Judged {
    fn outcome(&self) -> CaseOutcome {
        let Self::Evaluated(verdict) = self else { return CaseOutcome::Bypass };
        match verdict.decision.disposition {
            Disposition::Accept => CaseOutcome::Pass,
            Disposition::Tag(Mark::Quarantine) => CaseOutcome::TagQuarantine,
            Disposition::Tag(Mark::Reject) => CaseOutcome::TagReject,
            Disposition::Defer => CaseOutcome::Defer,
            Disposition::Refuse => CaseOutcome::Refuse,
        }
    }
}

fn dmarc(Verdict { evaluation, decision, .. }: &Verdict) -> Vec<Dmarc> {
    let of = |(found, assessment): (&crate::evaluation::DmarcOutput, &crate::policy::Assessment)| Dmarc {
        author_domain: found.author_domain.to_string(),
        result: found.result.as_str(),
        reason: found.reason,
        policy_domain: found.policy.as_ref().map(|policy| policy.domain.to_string()),
        policy: assessment.policy.map(Label::as_str),
    };
    evaluation.dmarc.iter().zip(&decision.assessments).map(of).collect()
}
