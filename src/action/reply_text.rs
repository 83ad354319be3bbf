//! Writes the replies to messages that are refused or deferred: clear to the sender's postmaster and to machines, with
//! an id that our own postmaster can look up (RFC 9989 §7.2).
//!
//! The words are the operator's, or ours by default. Whatever they are, a refusal has the word DMARC in it and each
//! reply the id; a peer's domain gets in as a checked [`Domain`](crate::domain::Domain), its address as an address.

use crate::evaluation::{DkimResult, DmarcOutput, DoubtCause, Evaluation};
use crate::label::Label;
use crate::message::author::{Author, UnusableFrom};
use crate::policy::{Decision, Rule};
use crate::spf::SpfResult;

pub use super::template::{HelpUrl, Placeholder, Template, Values};

/// A reply of one or several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyText {
    /// The reply code.
    pub code: u16,
    /// The enhanced status code (RFC 3463).
    pub enhanced: (u8, u16, u16),
    /// The text: at least one line of printable ASCII, each short enough for 512 octets on the wire
    /// (RFC 5321 §4.5.3.1.5).
    pub lines: Vec<String>,
}

/// The texts of replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replies {
    refused: Template,
    overridden: Template,
    unusable_from: Template,
    deferred: Template,
    help_url: Option<HelpUrl>,
}

impl Replies {
    /// The operator's texts with what none may lack: the id, in a refusal the word DMARC (RFC 9989 §7.2), and behind
    /// our own words the help page.
    pub fn new(
        refused: Template,
        overridden: Template,
        unusable_from: Template,
        deferred: Template,
        help_url: Option<HelpUrl>,
    ) -> Self {
        let helpful = |template: Template, text: &str| match &help_url {
            Some(_) if template.lines().eq([text]) => template.followed_by("For help see {help_url}"),
            _ => template,
        };
        Self {
            refused: helpful(complete(refused, Needs::DmarcAndId), REFUSED),
            overridden: helpful(complete(overridden, Needs::DmarcAndId), OVERRIDDEN),
            unusable_from: helpful(complete(unusable_from, Needs::DmarcAndId), UNUSABLE_FROM),
            deferred: complete(deferred, Needs::Id),
            help_url,
        }
    }

    /// 550: the author domain's policy, an override of the operator's, or no usable author domain.
    pub fn refusal(&self, evaluation: &Evaluation, decision: &Decision, explain_id: &str) -> ReplyText {
        let (template, reason, enhanced) = match &evaluation.author {
            Author::Unusable(why) => (&self.unusable_from, in_words(*why), POLICY),
            Author::Usable { .. } => {
                // Where the operator refuses what its domain lets pass, no policy of that domain is to blame.
                let template = if decision.rule == Rule::Override { &self.overridden } else { &self.refused };
                (template, NO_ALIGNED_PASS, code(evaluation))
            }
        };
        let lines = template.fill(&self.values(evaluation, decision, explain_id, reason));
        ReplyText { code: 550, enhanced, lines }
    }

    /// 451 4.7.0: DNS, or a bound of ours, left DMARC undecided.
    pub fn deferral(&self, evaluation: &Evaluation, decision: &Decision, explain_id: &str) -> ReplyText {
        let cause = deciding(evaluation, decision).map_or(DoubtCause::Dns, |dmarc| evaluation.cause_of_doubt(dmarc));
        let values = self.values(evaluation, decision, explain_id, cause.in_words());
        ReplyText { code: 451, enhanced: DNS, lines: self.deferred.fill(&values) }
    }

    /// Whether a help page is named anywhere.
    pub fn name_help_page(&self) -> bool {
        let texts = [&self.refused, &self.overridden, &self.unusable_from, &self.deferred];
        texts.iter().any(|text| text.names(Placeholder::HelpUrl))
    }

    /// Each text with its key and example values, for who writes them.
    pub fn examples(&self) -> [(&'static str, ReplyText); 4] {
        let example = |template: &Template, reason, code, enhanced| {
            let mut values = Values::unknown();
            values.put(Placeholder::Domain, "mail.example.org");
            values.put(Placeholder::PolicyDomain, "example.org");
            values.put(Placeholder::Policy, "reject");
            values.put(Placeholder::Reason, reason);
            values.put(Placeholder::Id, "4ZQ0N8M2T7W1K");
            values.put(Placeholder::ClientIp, "192.0.2.1");
            self.put_help_url(&mut values);
            ReplyText { code, enhanced, lines: template.fill(&values) }
        };
        [
            ("refused", example(&self.refused, NO_ALIGNED_PASS, 550, POLICY)),
            ("overridden", example(&self.overridden, NO_ALIGNED_PASS, 550, POLICY)),
            ("unusable_from", example(&self.unusable_from, in_words(UnusableFrom::Missing), 550, POLICY)),
            ("deferred", example(&self.deferred, DoubtCause::Dns.in_words(), 451, DNS)),
        ]
    }

    fn put_help_url(&self, values: &mut Values) {
        if let Some(url) = &self.help_url {
            let url = url.fill(values);
            values.put(Placeholder::HelpUrl, &url);
        }
    }

    fn values(&self, evaluation: &Evaluation, decision: &Decision, explain_id: &str, reason: &str) -> Values {
        let mut values = Values::unknown();
        let id: String = explain_id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        values.put(Placeholder::Id, &id);
        values.put(Placeholder::Reason, reason);
        values.put(Placeholder::ClientIp, &evaluation.sender.ip.to_canonical().to_string());
        if let Some(dmarc) = deciding(evaluation, decision) {
            values.put(Placeholder::Domain, dmarc.author_domain.as_str());
            if let Some(policy) = &dmarc.policy {
                values.put(Placeholder::PolicyDomain, policy.domain.as_str());
            }
        }
        if let Some(policy) = decision.policy() {
            values.put(Placeholder::Policy, policy.as_str());
        }
        self.put_help_url(&mut values);
        values
    }
}

impl Default for Replies {
    fn default() -> Self {
        let [refused, overridden, unusable_from, deferred] =
            [REFUSED, OVERRIDDEN, UNUSABLE_FROM, DEFERRED].map(text_of_ours);
        Self::new(refused, overridden, unusable_from, deferred, None)
    }
}

/// One of [`REFUSED`], [`OVERRIDDEN`], [`UNUSABLE_FROM`] and [`DEFERRED`].
#[expect(clippy::expect_used, reason = "they are one line each, and well-formed, as a test shows")]
pub fn text_of_ours(text: &'static str) -> Template {
    Template::parse(&[text]).expect("a text of ours is well-formed")
}

/// What a text must have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Id,
    DmarcAndId,
}

fn complete(template: Template, needs: Needs) -> Template {
    let lacks_word = needs == Needs::DmarcAndId && !template.says("DMARC");
    match (lacks_word, template.names(Placeholder::Id)) {
        (false, true) => template,
        (false, false) => template.ending(" (id {id})"),
        (true, true) => template.ending(" (DMARC)"),
        (true, false) => template.ending(" (DMARC, id {id})"),
    }
}

/// RFC 7372 §4: 5.7.26 where more than one check failed and that is why. Only what failed beyond doubt counts: SPF does
/// not permit the client, and there are signatures of which none is good. Where one of both is missing or merely not
/// aligned, no check failed but the policy asks for the refusal: 5.7.1.
fn code(evaluation: &Evaluation) -> (u8, u16, u16) {
    let spf = matches!(evaluation.spf.result, SpfResult::Fail | SpfResult::SoftFail | SpfResult::PermError);
    let has = |wanted: &[DkimResult]| evaluation.dkim.iter().any(|signature| wanted.contains(&signature.result));
    let good = [DkimResult::Pass, DkimResult::Policy, DkimResult::TempError];
    let dkim = has(&[DkimResult::Fail, DkimResult::PermError]) && !has(&good);
    if spf && dkim { SEVERAL_CHECKS } else { POLICY }
}

/// What the sender's postmaster has to mend.
fn in_words(why: UnusableFrom) -> &'static str {
    match why {
        UnusableFrom::Missing => "there is no From field",
        UnusableFrom::Repeated => "there is more than one From field",
        UnusableFrom::Syntax => "the From field is malformed",
        UnusableFrom::NoDomain => "the From field names nobody with a domain",
        UnusableFrom::Disagreement => "the From field can be read in two ways",
        UnusableFrom::TooManyDomains => "the From field names too many domains",
        UnusableFrom::TooLong => "the From field or a line of it is too long",
        UnusableFrom::MalformedHeader => "the header section has a line that is no header field",
    }
}

fn deciding<'a>(evaluation: &'a Evaluation, decision: &Decision) -> Option<&'a DmarcOutput> {
    evaluation.dmarc.get(decision.deciding?)
}

/// The built-in text for failures.
pub const REFUSED: &str = "Email rejected per DMARC policy for {domain}: {reason} (id {id})";
/// The built-in text for failures that an override of the operator's refuses.
pub const OVERRIDDEN: &str = "Email rejected by local policy, DMARC failed for {domain}: {reason} (id {id})";
/// The built-in text for a From that names no author domain.
pub const UNUSABLE_FROM: &str =
    "Email rejected: DMARC needs a From field that names one usable author domain; {reason} (id {id})";
/// The built-in text for what DNS, or a bound of ours, left undecided.
pub const DEFERRED: &str = "DMARC for {domain} could not be evaluated: {reason}, please try again later (id {id})";
/// Why a message fails.
const NO_ALIGNED_PASS: &str = "neither SPF nor DKIM gave an aligned pass";
/// RFC 3463 §3.8: undefined, since no code says that it was DNS which kept a policy from being applied.
const DNS: (u8, u16, u16) = (4, 7, 0);
/// RFC 3463 §3.8: delivery is not authorized.
const POLICY: (u8, u16, u16) = (5, 7, 1);
/// RFC 7372 §3.4: several authentication checks failed.
const SEVERAL_CHECKS: (u8, u16, u16) = (5, 7, 26);
