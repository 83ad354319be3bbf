//! One `record` of a report: what it tells apart, and no more.

use crate::domain::Domain;
use crate::label::Label;
use crate::record::{
    AlignmentOutcome, DkimAuthResult, MAX_DKIM_RESULTS, NO_DOMAIN, OverrideKind, OverrideReason, Policy, Record,
    ReportDisposition, SpfAuthResult, SpfScope,
};
use crate::report::aggregate::{Format, PrivateAddresses, Source, clean};

/// Messages that a report counts in one record: one for each combination of address, result and identifiers (RFC 9990
/// §3.1.1.7). All texts are clean.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Where they came from.
    pub source: Source,
    /// What was done.
    pub disposition: ReportDisposition,
    /// Whether DKIM gave an aligned pass.
    pub dkim_aligned: AlignmentOutcome,
    /// Whether SPF gave an aligned pass.
    pub spf_aligned: AlignmentOutcome,
    /// Why something else was done than the owner asks for.
    pub reasons: Vec<OverrideReason>,
    /// The author domain.
    pub header_from: Domain,
    /// The domain of the reverse-path; empty for the null reverse-path, none for one without a domain.
    pub envelope_from: Option<String>,
    /// The recipients' domain, if the operator reports it.
    pub envelope_to: Option<String>,
    /// What came of the signatures, in the order of RFC 9990 §3.1.3.
    pub dkim: Vec<DkimAuthResult>,
    /// What came of SPF.
    pub spf: Option<SpfAuthResult>,
}

/// Why a row is in no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreported {
    /// It came from a private address.
    Private,
    /// There is no policy or no author domain that a report could be about.
    Subjectless,
}

impl Line {
    /// The line of a row.
    pub(super) fn new(record: Record, private: PrivateAddresses) -> Result<Self, Unreported> {
        let record = record.bounded();
        let (Some(policy), Some(header_from)) = (&record.policy, record.header_from) else {
            return Err(Unreported::Subjectless);
        };
        let source = Source::new(record.source_ip, private).ok_or(Unreported::Private)?;
        let evaluated = record.evaluated;
        let mut line = Self {
            source,
            disposition: evaluated.disposition,
            dkim_aligned: evaluated.dkim,
            spf_aligned: evaluated.spf,
            reasons: evaluated.reasons,
            header_from,
            envelope_from: Some(record.envelope_from).filter(|from| from != NO_DOMAIN).map(|from| clean(&from)),
            envelope_to: record.envelope_to.map(|domain| clean(&domain)),
            dkim: record.dkim.into_iter().take(MAX_DKIM_RESULTS).filter_map(signature).collect(),
            spf: record.spf.filter(|spf| is_given(&spf.domain)).map(|spf| SpfAuthResult {
                domain: clean(&spf.domain),
                result: known(&spf.result, &SPF_RESULTS),
                ..spf
            }),
        };
        line.reasons.iter_mut().for_each(|reason| reason.comment = clean(&reason.comment));
        line.explain(policy.requested);
        Ok(line)
    }

    /// The line as a format has it, with what the format does not tell apart made equal.
    pub(super) fn in_format(mut self, format: Format) -> Self {
        match format {
            // The EHLO name that stands in for a null reverse-path is part of the MAIL FROM identity (RFC 7208 §2.4).
            Format::Rfc9990 => self.spf.iter_mut().for_each(|spf| spf.scope = SpfScope::MailFrom),
            Format::Rfc7489 => {
                // RFC 7489 has no word for it.
                if self.disposition == ReportDisposition::Pass {
                    self.disposition = ReportDisposition::None;
                }
                self.reasons = self.reasons.into_iter().map(older_reason).collect();
                // Its schema wants both in any case.
                self.envelope_from.get_or_insert_default();
                let domain = &self.header_from;
                let none = || SpfAuthResult {
                    domain: domain.to_string(),
                    scope: SpfScope::MailFrom,
                    result: "none".to_owned(),
                };
                self.spf.get_or_insert_with(none);
            }
        }
        self
    }

    /// Whether DMARC passed: no forger can make such lines.
    pub(super) fn is_aligned(&self) -> bool {
        [self.dkim_aligned, self.spf_aligned].contains(&AlignmentOutcome::Pass)
    }

    /// Octets of the record in XML, at most, and not many less.
    pub(super) fn octets(&self) -> usize {
        let reasons = self.reasons.iter().map(|reason| REASON_OCTETS + escaped(&reason.comment));
        let signatures = self.dkim.iter().map(|dkim| RESULT_OCTETS + escaped(&dkim.domain) + escaped(&dkim.selector));
        let spf = self.spf.iter().map(|spf| RESULT_OCTETS + escaped(&spf.domain));
        let names = [
            self.header_from.as_str(),
            self.envelope_from.as_deref().unwrap_or_default(),
            self.envelope_to.as_deref().unwrap_or_default(),
        ];
        let names = names.map(escaped).into_iter();
        RECORD_OCTETS + reasons.chain(signatures).chain(spf).chain(names).sum::<usize>()
    }

    /// A reason must be there if alignment failed and something else was done than the owner asks for (RFC 9990
    /// §3.1.1.9); whoever wrote the row should have given one.
    fn explain(&mut self, requested: Policy) {
        let as_asked = self.disposition.as_str() == requested.as_str();
        if !self.is_aligned() && !as_asked && self.reasons.is_empty() {
            self.reasons.push(OverrideReason { kind: OverrideKind::Other, comment: String::new() });
        }
    }
}

/// A signature without a domain or a selector, both of which a report has to name, can't have been verified.
fn signature(dkim: DkimAuthResult) -> Option<DkimAuthResult> {
    (is_given(&dkim.domain) && is_given(&dkim.selector)).then(|| DkimAuthResult {
        domain: clean(&dkim.domain),
        selector: clean(&dkim.selector),
        result: known(&dkim.result, &DKIM_RESULTS),
    })
}

fn is_given(text: &str) -> bool {
    !text.trim().is_empty()
}

/// RFC 7489 knows no test mode; its `sampled_out` is about `pct`, which is something else.
fn older_reason(OverrideReason { kind, comment }: OverrideReason) -> OverrideReason {
    let comment = match kind {
        OverrideKind::PolicyTestMode if comment.is_empty() => kind.to_string(),
        OverrideKind::PolicyTestMode => format!("{kind}: {comment}"),
        _ => return OverrideReason { kind, comment },
    };
    OverrideReason { kind: OverrideKind::Other, comment }
}

/// Octets of a text with `&amp;` and the like in it.
fn escaped(text: &str) -> usize {
    text.len() + 4 * text.bytes().filter(|b| b"&<>".contains(b)).count()
}

/// A result that the schema knows; a row of another version may have one that it doesn't, which says neither pass nor
/// fail.
fn known(result: &str, words: &[&str]) -> String {
    if words.contains(&result) { result.to_owned() } else { "neutral".to_owned() }
}

/// The words of RFC 8601 §2.7.1.
pub(super) const DKIM_RESULTS: [&str; 7] = ["none", "pass", "fail", "policy", "neutral", "temperror", "permerror"];
/// The words of RFC 8601 §2.7.2.
pub(super) const SPF_RESULTS: [&str; 8] =
    ["none", "pass", "fail", "softfail", "policy", "neutral", "temperror", "permerror"];

/// Octets of a record's tags, with address, count and line ends.
const RECORD_OCTETS: usize = 480;
/// Octets of a result's tags.
const RESULT_OCTETS: usize = 130;
/// Octets of a reason's tags.
const REASON_OCTETS: usize = 90;
