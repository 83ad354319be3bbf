//! What is done with a message, or would be in another mode.

use serde::{Deserialize, Serialize};

use super::{Word, named, one_line};
use crate::action::Action;
use crate::policy::{self, Disposition};
use crate::verdict::{self, Verdict};

crate::label_enum! {
    /// What becomes of a message.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Fate {
        /// It is passed on.
        PassedOn = "passed_on",
        /// It is passed on with a mark.
        Tagged = "tagged",
        /// It is refused for good.
        Refused = "refused",
        /// The client is asked to come again.
        Deferred = "deferred",
    }
}

/// The decision in one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub mode: Word,
    pub reject: Word,
    /// Whether it is the configured one.
    pub in_force: bool,
    pub fate: Fate,
    pub rule: Word,
    /// For each author domain: the policy that applies, after `t` and `pct`.
    pub policies: Vec<Option<Word>>,
    pub mark: Option<Word>,
    /// Signs of indirect mail flow for the author domain that decided.
    #[serde(default)]
    pub signs: Vec<Sign>,
    /// Why a failing message is treated otherwise than published.
    pub overrides: Vec<Override>,
    /// With rule `trusted_sealer`: whose word counted.
    pub voucher: Option<String>,
    /// What the client reads; none where the upstream decides.
    pub reply: Option<String>,
    /// The lines of the fields that are added on top.
    pub header_lines: Vec<String>,
    /// How many incoming fields are removed.
    pub removed_fields: usize,
}

/// One sign of indirect mail flow, and whether it counts by `policy.signs` and `policy.reject`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sign {
    pub sign: Word,
    pub counted: bool,
}

/// One reason for a treatment that was not published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Override {
    #[serde(rename = "type")]
    pub kind: Word,
    pub comment: Word,
}

impl Decision {
    /// The decision in force; of a message that goes on, `removed` fields are removed.
    pub fn new(verdict: &Verdict, removed: usize) -> Self {
        Self { in_force: true, ..Self::told(&verdict.decision, &verdict.action, removed) }
    }

    /// With the lines of the Received field that goes on with the message, if it goes on.
    pub fn with_received(mut self, field: &str) -> Self {
        if self.reply.is_none() {
            self.header_lines.extend(field.lines().map(str::to_owned));
        }
        self
    }

    /// That of the shadow policy.
    pub fn of_shadow(verdict: &Verdict, removed: usize) -> Option<Self> {
        verdict.shadow.as_ref().map(|shadow| Self::told(&shadow.decision, &shadow.action, removed))
    }

    fn told(decision: &policy::Decision, action: &Action, removed: usize) -> Self {
        let (reply, header_lines, removed_fields) = match action {
            Action::Relay { header } => (None, header.lines().map(str::to_owned).collect(), removed),
            Action::Reject(text) | Action::Defer(text) => (Some(one_line(&verdict::reply(text))), Vec::new(), 0),
        };
        let overrides = decision.overrides().iter();
        let signs = decision.signs.iter().map(|found| Sign { sign: named(found.sign), counted: found.counts() });
        Self {
            mode: named(decision.mode),
            reject: named(decision.reject),
            in_force: false,
            fate: Fate::of(decision.disposition),
            rule: named(decision.rule),
            policies: decision.assessments.iter().map(|a| a.policy.map(named)).collect(),
            mark: match decision.disposition {
                Disposition::Tag(mark) => Some(named(mark)),
                Disposition::Accept | Disposition::Defer | Disposition::Refuse => None,
            },
            signs: signs.collect(),
            overrides: overrides.map(|o| Override { kind: named(o.kind), comment: o.comment.clone() }).collect(),
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
