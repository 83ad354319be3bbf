//! What would be done with the message, in each mode.

use std::net::IpAddr;

use serde::Serialize;

use super::{Findings, one_line, word};
use crate::action::Action;
use crate::cli::check::Fate;
use crate::config::{Mode, Reject};
use crate::label::Label;
use crate::policy::{Circumstances, Disposition};
use crate::verdict::{self, Verdict};

#[derive(Debug, Serialize)]
pub struct Decision {
    pub mode: &'static str,
    pub reject: &'static str,
    /// Whether it is the configured one.
    pub in_force: bool,
    #[serde(serialize_with = "word")]
    pub fate: Fate,
    pub rule: &'static str,
    /// For each author domain: the policy that applies, after `t` and `pct`.
    pub policies: Vec<Option<&'static str>>,
    pub mark: Option<&'static str>,
    /// Why a failing message is treated otherwise than published.
    pub overrides: Vec<Override>,
    /// With rule `trusted_sealer`: whose word counted.
    pub voucher: Option<String>,
    /// What the client would read; none where the upstream decides.
    pub reply: Option<String>,
    /// The lines of the fields that would be added on top.
    pub header_lines: Vec<String>,
    /// How many incoming fields would be removed.
    pub removed_fields: usize,
}

#[derive(Debug, Serialize)]
pub struct Override {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub comment: &'static str,
}

impl Findings<'_> {
    /// The decision in each mode, all under the same circumstances.
    pub(super) fn decisions(&self, client: IpAddr) -> Vec<Decision> {
        let configured = self.config.policy.reject;
        let enforced = Reject::ALL.iter().map(|reject| (Mode::Enforce, *reject));
        let cases = [(Mode::Monitor, configured), (Mode::Tag, configured)].into_iter().chain(enforced);
        let circumstances = self.config.verdict().circumstances(self.envelope);
        cases.map(|case| self.decision(case, &circumstances, client)).collect()
    }

    fn decision(&self, (mode, reject): (Mode, Reject), circumstances: &Circumstances, client: IpAddr) -> Decision {
        let mut config = self.config.clone();
        (config.policy.mode, config.policy.reject) = (mode, reject);
        let settings = config.verdict();
        let verdict = verdict::conclude_under(self.evaluation.clone(), circumstances, &settings, ID);
        let Verdict { decision, action, .. } = verdict;
        let (reply, header_lines, removed_fields) = match action {
            Action::Relay { header } => {
                let removed = settings.removals(&self.received.subject.section, client).count();
                (None, header.lines().map(str::to_owned).collect(), removed)
            }
            Action::Reject(text) | Action::Defer(text) => (Some(one_line(&verdict::reply(&text))), Vec::new(), 0),
        };
        let overrides = decision.overrides().iter();
        Decision {
            mode: mode.as_str(),
            reject: reject.as_str(),
            in_force: mode == self.config.policy.mode && reject == self.config.policy.reject,
            fate: Fate::of(decision.disposition),
            rule: decision.rule.as_str(),
            policies: decision.assessments.iter().map(|a| a.policy.map(Label::as_str)).collect(),
            mark: match decision.disposition {
                Disposition::Tag(mark) => Some(mark.as_str()),
                Disposition::Accept | Disposition::Defer | Disposition::Refuse => None,
            },
            overrides: overrides.map(|o| Override { kind: o.kind.as_str(), comment: o.comment }).collect(),
            voucher: decision.deciding_assessment().and_then(|a| a.voucher.as_ref()).map(|set| set.sealer.to_string()),
            reply,
            header_lines,
            removed_fields,
        }
    }
}

impl Fate {
    fn of(disposition: Disposition) -> Self {
        match disposition {
            Disposition::Accept => Self::PassedOn,
            Disposition::Tag(_) => Self::Tagged,
            Disposition::Defer => Self::Deferred,
            Disposition::Refuse => Self::Refused,
        }
    }
}

/// Stands where a session puts the id of the message.
const ID: &str = "check";
