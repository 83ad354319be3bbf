//! Reports that others send, and bounces of ours.

use std::fmt::Write as _;

use dmarcgate::message::header::HeaderSection;
use dmarcgate::report::bounce::{Bounce, BounceKind, Key};
use dmarcgate::report::inbound::{Report, feedback, read, read_any, read_file};

/// A message with a report, a report, packed or not: whatever it is, it is read within its bounds or refused.
pub fn inbound(input: &[u8]) {
    for report in [read(input), read_file(input), read_any(input)].into_iter().flatten() {
        assert!(report.rows.len() <= feedback::MAX_ROWS && report.begin <= report.end && !report.report_id.is_empty());
        for text in texts(&report) {
            assert!(text.len() <= MAX_TEXT && !text.contains(char::is_control), "{text:?}");
        }
        let mut rows: Vec<_> = report.rows.iter().map(|(row, _)| row.clone()).collect();
        rows.dedup();
        assert_eq!(rows.len(), report.rows.len(), "like rows are one");
        again(&report);
    }
}

/// What was read, written down anew, is read as the same.
fn again(report: &Report) {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let domains = |mechanism: &str, list: &str| {
        let one = |domain: &str| format!("<{mechanism}><domain>{domain}</domain><result>pass</result></{mechanism}>");
        list.split_ascii_whitespace().map(one).collect::<String>()
    };
    let mut xml = format!(
        "<feedback><report_metadata><org_name>{}</org_name><report_id>{}</report_id><date_range><begin>{}</begin>\
         <end>{}</end></date_range></report_metadata><policy_published><domain>{}</domain><p>{}</p></policy_published>",
        escaped(&report.organization),
        escaped(&report.report_id),
        report.begin,
        report.end,
        report.policy_domain,
        report.policy
    );
    for (row, messages) in &report.rows {
        let reason = |kind: &str| format!("<reason><type>{kind}</type></reason>");
        let _ = write!(
            xml,
            "<record><row><source_ip>{}</source_ip><count>{messages}</count><policy_evaluated><disposition>{}\
             </disposition><dkim>{}</dkim><spf>{}</spf>{}</policy_evaluated></row><identifiers><header_from>{}\
             </header_from></identifiers><auth_results>{}{}</auth_results></record>",
            row.source_ip,
            row.disposition.map(|d| d.to_string()).unwrap_or_default(),
            row.dkim,
            row.spf,
            row.reasons.split_ascii_whitespace().map(reason).collect::<String>(),
            row.header_from.as_ref().map(ToString::to_string).unwrap_or_default(),
            domains("dkim", &row.dkim_passed),
            domains("spf", &row.spf_passed)
        );
    }
    xml.push_str("</feedback>");
    // A number that came together of several may be more than one record can have.
    if report.rows.iter().all(|(_, messages)| *messages <= feedback::MAX_COUNT) {
        let expected = Report { left_out: 0, ..report.clone() };
        assert_eq!(read_file(xml.as_bytes()), Ok(expected), "{xml}");
    }
}

/// The header section of what comes to an address for bounces, then, behind an octet that UTF-8 has not, its body: what
/// is believed of it is bounded, and once there is a status, nothing behind its part changes it. Nor is any text an
/// address.
pub fn bounce(input: &[u8]) {
    let at = input.iter().position(|b| *b == SEPARATOR).unwrap_or(input.len());
    let (header, body) = (&input[..at], input.get(at + 1..).unwrap_or_default());
    let section = HeaderSection::parse(header.to_vec());
    let found = Bounce::read(&section, body);
    assert!(found.reason.chars().count() <= 200 && !found.reason.contains(char::is_control), "{:?}", found.reason);
    assert!(found.kind != BounceKind::Other || found.reason.is_empty());
    let mentions = |text: &[u8], word: &[u8]| text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    // Comments and quotes may stand between, so that it need not be there in one piece.
    let mut octets = header.iter().map(u8::to_ascii_lowercase);
    let is_there = b"content-type:multipart/report".iter().all(|wanted| octets.any(|octet| octet == *wanted));
    assert!(found.kind == BounceKind::Other || is_there);
    assert!(found.kind != BounceKind::Failed || mentions(body, b"failed") && mentions(body, b"5."));
    if found.kind != BounceKind::Other {
        let more = b"\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nAction: failed\r\nStatus: 5.0.0\r\n";
        assert_eq!(Bounce::read(&section, &[body, more].concat()), found);
    }
    assert_eq!(Key::new(b"known to nobody").job(&String::from_utf8_lossy(input), NOW), None);
}

fn texts(report: &Report) -> impl Iterator<Item = &str> {
    let of_rows = report.rows.iter().flat_map(|(row, _)| [&*row.dkim_passed, &*row.spf_passed, &*row.reasons]);
    [&*report.organization, &*report.report_id, &*report.policy].into_iter().chain(of_rows)
}

/// Between the parts of an input.
const SEPARATOR: u8 = 0xff;
const NOW: i64 = 1_800_000_000;
/// Octets of a text: four domains with spaces between.
const MAX_TEXT: usize = 4 * 254;
