//! Walks the tree once more, over the answers that the evaluation got: the same pure steps on the same answers.

use serde::{Deserialize, Serialize};

use super::{Word, named, of_miss};
use crate::dmarc::public_suffix::Discovery;
use crate::dmarc::record::{Place, PolicyRecord, RecordAt, select};
use crate::dmarc::tree_walk::{Found, Walk};
use crate::dns::{Asked, Miss, RecordType};
use crate::domain::{self, Domain};
use crate::evaluation::PublishedPolicy;
use crate::evaluation::discovery::Rules;
use crate::explain::escape::escaped_start;

/// One name of a walk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    /// `record`, `several_records`, `other_records`, `nodata`, `nxdomain`, or the kind of failure.
    pub said: Word,
    pub record: Option<String>,
    /// What is wrong with the record.
    pub problems: Vec<String>,
}

/// The policy that applies to an author domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub domain: String,
    pub record: String,
    pub requested: Word,
    /// How it was discovered, as `policy.discovery` spells it.
    pub discovery: Word,
    /// The tag that asks for it.
    pub by: Word,
    pub testing: bool,
    pub psd: Word,
    pub adkim: Word,
    pub aspf: Word,
}

/// The questions of one message with their answers.
pub struct Walks<'a> {
    /// The questions.
    pub asked: &'a [Asked],
    /// How policies are discovered.
    pub rules: &'a Rules,
    /// Octets of a record's text that are told.
    pub most: usize,
}

impl Walks<'_> {
    /// The walk from `start`, and the organizational domain that it finds.
    pub fn from(&self, start: &Domain) -> (Vec<Step>, Option<String>) {
        if self.rules.discovery == Discovery::PublicSuffix {
            return self.by_list(start);
        }
        let mut walk = Walk::new(start);
        let mut steps = Vec::new();
        while let Some(domain) = walk.due().cloned() {
            let name = policy_name(&domain);
            let (step, found) = self.step(name);
            steps.push(step);
            walk.answer(found);
        }
        (steps, walk.organizational_domain().map(|domain| domain.to_string()))
    }

    /// The walk from an identifier; nothing where it is the author domain or was not walked, since it could make no
    /// difference.
    pub fn of_identifier(&self, domain: &Domain, author: &Domain) -> (Vec<Step>, Option<String>) {
        if domain != author && self.rules.discovery == Discovery::PublicSuffix {
            return (Vec::new(), Some(self.rules.suffixes.organizational_domain(domain).to_string()));
        }
        if domain == author || self.answer_to(&policy_name(domain), RecordType::Txt).is_none() {
            return (Vec::new(), None);
        }
        self.from(domain)
    }

    /// The names that are asked where a list tells the organizational domain (RFC 7489 §6.6.3).
    fn by_list(&self, start: &Domain) -> (Vec<Step>, Option<String>) {
        let organizational = self.rules.suffixes.organizational_domain(start);
        let mut steps = Vec::new();
        for domain in [start, &organizational] {
            let (step, found) = self.step(policy_name(domain));
            steps.push(step);
            let goes_on = matches!(found, Found::Answered(RecordAt::Absent) | Found::Failed);
            if domain == &organizational || !goes_on {
                break;
            }
        }
        (steps, Some(organizational.to_string()))
    }

    /// The policy, and the tag that decides over `author`.
    pub fn policy(&self, policy: &PublishedPolicy, author: &Domain) -> Policy {
        let PublishedPolicy { domain, record, requested, discovery, .. } = policy;
        let place = if domain == author {
            Place::Here
        } else if record.depends_on_existence() && self.is_missing(author) {
            Place::MissingBelow
        } else {
            Place::ExistingBelow
        };
        Policy {
            domain: domain.to_string(),
            record: escaped_start(record.text.as_bytes(), self.most),
            requested: named(*requested),
            discovery: named(*discovery),
            by: deciding_tag(record, place).into(),
            testing: record.testing,
            psd: named(record.psd),
            adkim: named(record.adkim),
            aspf: named(record.aspf),
        }
    }

    fn step(&self, name: String) -> (Step, Found) {
        let without = |said: Word| (said, None, Vec::new());
        let (found, (said, record, problems)) = match self.answer_to(&name, RecordType::Txt).map(|a| &a.answer.outcome)
        {
            Some(Ok(records)) => {
                let at = records.as_txt().map(|txt| txt.parsed(select));
                let at = at.map_or(RecordAt::Absent, |at| RecordAt::clone(&at));
                let said = match &at {
                    RecordAt::Absent => without("other_records".into()),
                    RecordAt::Several => without("several_records".into()),
                    RecordAt::One(record) => {
                        let problems = record.problems.iter().map(ToString::to_string).collect();
                        ("record".into(), Some(escaped_start(record.text.as_bytes(), self.most)), problems)
                    }
                };
                (Found::Answered(at), said)
            }
            Some(Err(Miss::Failed(failure))) => (Found::Failed, without(named(*failure))),
            Some(Err(miss)) => (Found::Answered(RecordAt::Absent), without(of_miss(*miss))),
            // Too long for DNS to carry: what can't exist is not asked for.
            None if name.len() > domain::MAX_LENGTH => (Found::Answered(RecordAt::Absent), without("nxdomain".into())),
            None => (Found::Failed, without("budget".into())),
        };
        (Step { name, said, record, problems }, found)
    }

    fn is_missing(&self, domain: &Domain) -> bool {
        let asked = self.answer_to(domain.as_str(), RecordType::A);
        asked.is_some_and(|asked| matches!(asked.answer.outcome, Err(Miss::NxDomain)))
    }

    fn answer_to(&self, name: &str, record_type: RecordType) -> Option<&Asked> {
        self.asked.iter().find(|asked| &*asked.name == name && asked.record_type == record_type)
    }
}

fn policy_name(domain: &Domain) -> String {
    format!("_dmarc.{domain}")
}

/// RFC 9989 §4.7: `np` before `sp` before `p`, each where it covers the author domain.
fn deciding_tag(record: &PolicyRecord, place: Place) -> &'static str {
    match place {
        Place::MissingBelow if record.np.is_some() => "np",
        Place::MissingBelow | Place::ExistingBelow if record.sp.is_some() => "sp",
        Place::Here | Place::MissingBelow | Place::ExistingBelow => "p",
    }
}
