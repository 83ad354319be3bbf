//! Settles where the reports that a policy record asks for may go (RFC 9990 §4, RFC 9991 §2 and §5).
//!
//! The sender of reports checks whether a destination belongs to the policy domain's own organization. If it is not,
//! the texts at [`confirmation_name`] decide: [`Consent::of`] reads them.

use crate::dmarc::record::{Parsed, PolicyRecord, Psd, parse};
use crate::dmarc::report_uri::ReportUri;
use crate::domain::{self, Domain};
use crate::label_enum;

label_enum! {
    /// What is reported, spelled as the tag that asks for it.
    pub enum ReportKind {
        /// Aggregate reports (RFC 9990).
        Aggregate = "rua",
        /// Failure reports (RFC 9991).
        Failure = "ruf",
    }
}

/// Whether a destination outside the policy domain's organization takes its reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consent {
    /// Nothing says so: the URI is ignored.
    NotGiven,
    /// It does, at the address that the policy record names.
    Given,
    /// It does, and wants them at these addresses of its own instead; at most 20.
    Replaced(Vec<ReportUri>),
    /// It names this URI, which is not at the destination host: reports go to neither address.
    Diverted(ReportUri),
}

impl ReportKind {
    /// The URIs at which `record` asks for reports of this kind. None for failure reports if it is a public suffix
    /// domain's: its operator is not to see mail of other organizations (RFC 9991 §2, RFC 9990 §7.3).
    pub fn requested(self, record: &PolicyRecord) -> &[ReportUri] {
        match self {
            Self::Failure if record.psd == Psd::PublicSuffix => &[],
            _ => self.listed(record),
        }
    }

    /// What the tag of this kind lists.
    pub fn listed(self, record: &PolicyRecord) -> &[ReportUri] {
        match self {
            Self::Aggregate => &record.rua,
            Self::Failure => &record.ruf,
        }
    }
}

/// The name at which a destination host says that it takes reports about `policy_domain` (RFC 9990 §4 steps 1 to 3);
/// none if DNS can't carry it, and then there is no consent (step 4).
pub fn confirmation_name(policy_domain: &Domain, destination_host: &Domain) -> Option<String> {
    let name = format!("{policy_domain}._report._dmarc.{destination_host}");
    (name.len() <= domain::MAX_LENGTH).then_some(name)
}

impl Consent {
    /// What the texts at the confirmation name come to (RFC 9990 §4 steps 6 to 9; for failure reports with `ruf`
    /// instead of `rua`, RFC 9991 §5).
    ///
    /// The RFC leaves open what several records mean that name different addresses: all of them count, so that one
    /// elsewhere forbids reports whatever stands beside it. An address that is no valid URI is ignored, as in a policy
    /// record.
    pub fn of<'a>(kind: ReportKind, destination_host: &Domain, texts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut consent = Self::NotGiven;
        for text in texts {
            let Parsed::Record(record) = parse(text) else { continue };
            if consent == Self::NotGiven {
                consent = Self::Given;
            }
            for uri in kind.listed(&record) {
                // A URI without a host can't be at this one.
                if uri.host().as_ref() != Some(destination_host) {
                    return Self::Diverted(uri.clone());
                }
                consent.replace(uri);
            }
        }
        consent
    }

    fn replace(&mut self, uri: &ReportUri) {
        match self {
            Self::Replaced(uris) if uris.len() < MAX_URIS && !uris.contains(uri) => uris.push(uri.clone()),
            Self::Replaced(_) => {}
            Self::NotGiven | Self::Given | Self::Diverted(_) => *self = Self::Replaced(vec![uri.clone()]),
        }
    }
}

/// Addresses that take the place of one: as many as one record is read for.
const MAX_URIS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn consent(kind: ReportKind, texts: &[&str]) -> Consent {
        Consent::of(kind, &domain("red.example.net"), texts.iter().map(|text| text.as_bytes()))
    }

    fn uri(text: &str) -> ReportUri {
        ReportUri::parse(text).unwrap()
    }

    #[test]
    fn what_a_confirming_text_says() {
        let replaced = |texts: &[&str]| Consent::Replaced(texts.iter().map(|text| uri(text)).collect());
        let diverted = |text| Consent::Diverted(uri(text));
        let cases: [(&str, &[&str], Consent); 19] = [
            ("no text", &[], Consent::NotGiven),
            ("another text", &["hello"], Consent::NotGiven),
            ("another version", &["v=DMARC2"], Consent::NotGiven),
            ("the version in another spelling", &["v=dmarc1"], Consent::NotGiven),
            ("the version not first", &["rua=mailto:a@red.example.net; v=DMARC1"], Consent::NotGiven),
            ("the version alone", &["v=DMARC1"], Consent::Given),
            ("with a semicolon", &["v=DMARC1;"], Consent::Given),
            ("a policy, which is no matter here", &["v=DMARC1; p=reject"], Consent::Given),
            ("among other texts", &["hello", "v=DMARC1;", "v=spf1 -all"], Consent::Given),
            ("twice", &["v=DMARC1", "v=DMARC1;"], Consent::Given),
            ("the same host", &["v=DMARC1; rua=mailto:b@red.example.net"], replaced(&["mailto:b@red.example.net"])),
            (
                "the same host in capitals, twice, and a page of its",
                &["v=DMARC1; rua=mailto:b@RED.example.NET,https://red.example.net:443/r,mailto:b@RED.example.NET"],
                replaced(&["mailto:b@RED.example.NET", "https://red.example.net:443/r"]),
            ),
            (
                "the same host in two records",
                &["v=DMARC1; rua=mailto:b@red.example.net", "v=DMARC1", "v=DMARC1; rua=mailto:c@red.example.net"],
                replaced(&["mailto:b@red.example.net", "mailto:c@red.example.net"]),
            ),
            ("another host", &["v=DMARC1; rua=mailto:a@example.org"], diverted("mailto:a@example.org")),
            ("a host above", &["v=DMARC1; rua=mailto:a@example.net"], diverted("mailto:a@example.net")),
            ("a host below", &["v=DMARC1; rua=mailto:a@x.red.example.net"], diverted("mailto:a@x.red.example.net")),
            (
                "another host behind the same and in the second record",
                &["v=DMARC1; rua=mailto:b@red.example.net", "v=DMARC1; rua=mailto:b@red.example.net,tel:+1"],
                diverted("tel:+1"),
            ),
            ("no URI", &["v=DMARC1; rua=a@example.org"], Consent::Given),
            ("for the other kind", &["v=DMARC1; ruf=mailto:a@example.org"], Consent::Given),
        ];
        for (name, texts, expected) in cases {
            assert_eq!(consent(ReportKind::Aggregate, texts), expected, "{name}");
            // RFC 9991 §5: the same with the other tag.
            let swapped: Vec<String> = texts
                .iter()
                .map(|text| text.replace("rua=", "r?=").replace("ruf=", "rua=").replace("r?=", "ruf="))
                .collect();
            let swapped: Vec<&str> = swapped.iter().map(String::as_str).collect();
            assert_eq!(consent(ReportKind::Failure, &swapped), expected, "{name}, failure reports");
        }
    }

    #[test]
    fn replacements_are_bounded() {
        let texts: Vec<String> = (0..50).map(|n| format!("v=DMARC1; rua=mailto:a{n}@red.example.net")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let Consent::Replaced(uris) = consent(ReportKind::Aggregate, &texts) else { panic!("replaced") };
        assert_eq!(uris.len(), 20);
    }

    #[test]
    fn the_name_that_is_asked() {
        let name = confirmation_name(&domain("blue.example.com"), &domain("red.example.net"));
        assert_eq!(name.as_deref(), Some("blue.example.com._report._dmarc.red.example.net"));
        let label = "a".repeat(59);
        let long = |labels: usize| domain(&format!("{}.example", vec![label.as_str(); labels].join(".")));
        assert!(confirmation_name(&long(3), &domain("red.example.net")).is_some(), "218 octets");
        for (last, octets) in [(30, Some(253)), (31, None)] {
            let labels = [63, 63, 63, last].map(|length| "a".repeat(length));
            let name = confirmation_name(&domain(&labels.join(".")), &domain("red.example.net"));
            assert_eq!(name.map(|name| name.len()), octets);
        }
        assert_eq!(confirmation_name(&long(3), &domain(&format!("{label}.example"))), None, "270 octets");
    }

    #[test]
    fn failure_reports_are_none_of_a_public_suffix_operators_business() {
        for (psd, failure) in [("psd=y", 0), ("psd=n", 1), ("psd=u", 1), ("aspf=r", 1)] {
            let text = format!("v=DMARC1; p=none; {psd}; rua=mailto:a@a.example; ruf=mailto:f@a.example");
            let Parsed::Record(record) = parse(text.as_bytes()) else { panic!("a record") };
            assert_eq!(ReportKind::Failure.requested(&record).len(), failure, "{psd}");
            assert_eq!(ReportKind::Failure.listed(&record).len(), 1, "{psd}");
            assert_eq!(ReportKind::Aggregate.requested(&record).len(), 1, "{psd}");
        }
    }
}
