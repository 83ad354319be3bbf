//! Recognizes reports by the form of their header section. The form proves nothing: anyone can imitate it.

use crate::message::header::HeaderSection;
use crate::message::mime::MimeField;

/// Whether a header section is that of an aggregate report (RFC 9990 §3.5.1) or a failure report (RFC 9991 §3).
pub fn is_report(section: &HeaderSection) -> bool {
    let subject = section.unfolded("Subject").to_ascii_lowercase();
    let content = MimeField::first(section, "Content-Type");
    let is_aggregate = subject.starts_with("report domain:")
        && ["submitter:", "report-id:"].iter().all(|word| subject.contains(word))
        && ["multipart/mixed", "application/gzip", "application/zip"]
            .iter()
            .any(|known| content.value.starts_with(known));
    let of_failures = |kind: &[u8]| kind.eq_ignore_ascii_case(b"feedback-report");
    let is_failure = content.value.starts_with(REPORT) && content.parameter("report-type").is_some_and(of_failures);
    is_aggregate || is_failure
}

/// Whether it is that of a report of any kind, on deliveries and dispositions, too (RFC 6522).
pub fn is_any_report(section: &HeaderSection) -> bool {
    is_report(section) || MimeField::first(section, "Content-Type").value.starts_with(REPORT)
}

/// The type of reports (RFC 6522 §3); some forget the semicolon behind it.
pub(super) const REPORT: &str = "multipart/report";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_known_by_their_form() {
        let subject = "Subject: Report Domain: a.example\r\n Submitter: b.example\r\n Report-ID: <x>\r\n";
        let cases = [
            (format!("{subject}Content-Type: multipart/mixed; boundary=x\r\n\r\n"), true, true),
            (format!("{subject}Content-Type: application/gzip; name=x\r\n\r\n"), true, true),
            (format!("{subject}Content-Type: APPLICATION/ZIP\r\n\r\n"), true, true),
            (format!("{subject}Content-Type: text/html\r\n\r\n"), false, false),
            (format!("{subject}\r\n"), false, false),
            ("Subject: Report Domain: a.example\r\nContent-Type: multipart/mixed\r\n\r\n".to_owned(), false, false),
            ("Content-Type: multipart/report;\r\n\treport-type=feedback-report\r\n\r\n".to_owned(), true, true),
            ("Content-Type: multipart/report; report-type=delivery-status\r\n\r\n".to_owned(), false, true),
            ("Content-Type: Multipart/Report; Report-Type = \"Feedback-Report\"\r\n\r\n".to_owned(), true, true),
            ("Content-Type: multipart/report; boundary=feedback-report\r\n\r\n".to_owned(), false, true),
            ("\r\n".to_owned(), false, false),
        ];
        for (text, expected, of_any_kind) in cases {
            let section = HeaderSection::parse(text.clone().into_bytes());
            assert_eq!((is_report(&section), is_any_report(&section)), (expected, of_any_kind), "{text}");
        }
    }
}
