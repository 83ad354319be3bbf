//! The message that carries an aggregate report (RFC 9990 §3.5.2).
//!
//! One for each recipient, in ASCII alone, so that any mail server takes it. The same report always has the same octets
//! but for Date, and the same Message-ID, file name and id, so that a recipient can tell that it arrived twice.

use std::io::{self, Write};

use aws_lc_rs::digest::{SHA256, digest};
use flate2::{Compression, GzBuilder};

pub use crate::report::mime::Author;

use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::hex::hex;
use crate::report::aggregate::{Feedback, Period};
use crate::report::mime::Message;
use crate::report::recipient::Address;

/// Builds the message of a report, unsigned; `xml` is what [`Feedback::to_xml`] gave, `sent` is in epoch seconds.
///
/// # Errors
///
/// Ours: the report could not be compressed.
pub fn aggregate(feedback: &Feedback, xml: &str, author: &Author, to: &Address, sent: i64) -> io::Result<Vec<u8>> {
    let Feedback { reporter, id, policy, .. } = feedback;
    let compressed = gzip(xml.as_bytes())?;
    // The report's id is part of the Message-ID, and no two recipients have one (RFC 9990 §3.5.2).
    let message_id = format!("{id}.{}@{}", address_key(to), author.address.domain());
    let mut message = Message::new(author, to, sent, &message_id);
    let (domain, receiver, report_id) = (policy.domain.as_str(), reporter.receiver.as_str(), format!("<{id}>"));
    let subject = ["Report", "Domain:", domain, "Submitter:", receiver, "Report-ID:", &report_id];
    message.field("Subject", subject);
    // No line of base64, and none of the text, has an underscore behind an equals sign.
    let boundary = format!("=_{id}");
    message.field("Content-Type", ["multipart/mixed;", &format!("boundary=\"{boundary}\"")]);
    message.end_header();
    message.boundary(&boundary);
    message.field("Content-Type", ["text/plain;", "charset=us-ascii"]);
    message.end_header();
    message.text(&annotation(feedback));
    message.boundary(&boundary);
    let file_name = feedback.file_name();
    message.field("Content-Type", ["application/gzip;", &format!("name=\"{file_name}\"")]);
    message.field("Content-Disposition", ["attachment;", &format!("filename=\"{file_name}\"")]);
    message.field("Content-Transfer-Encoding", ["base64"]);
    message.end_header();
    message.base64(&compressed);
    message.last_boundary(&boundary);
    Ok(message.into_bytes())
}

/// Compresses a report; the same octets each time (RFC 1952: without a time or a name).
///
/// # Errors
///
/// None in practice: writing to memory does not fail.
pub fn gzip(octets: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(octets)?;
    encoder.finish()
}

/// Identifies an address where the address itself is not to appear: 16 hexadecimal digits.
fn address_key(address: &Address) -> String {
    let hash = digest(&SHA256, address.to_string().as_bytes());
    hex(hash.as_ref().iter().take(8))
}

fn annotation(feedback: &Feedback) -> String {
    let Feedback { reporter, period, policy, lines, .. } = feedback;
    let messages = match feedback.messages() {
        1 => "1 message".to_owned(),
        count => format!("{count} messages"),
    };
    let questions = match reporter.email.is_ascii() {
        true => format!("Questions: {}\r\n", reporter.email.replace(char::is_control, "")),
        false => String::new(),
    };
    format!(
        "What {} has seen of mail in the name of {}:\r\na DMARC aggregate report is attached.\r\n\r\nPeriod: {}\r\n\
         Content: {messages}, {} records\r\n{questions}",
        reporter.receiver,
        policy.domain,
        period_text(*period),
        lines.len(),
    )
}

fn period_text(Period { begin, end }: Period) -> String {
    let moment = |seconds: i64| {
        let (day, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        format!("{} {:02}:{:02}:{:02}", Date::of_day(day), second / 3600, second / 60 % 60, second % 60)
    };
    format!("{} to {} UTC", moment(begin), moment(end))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::domain::Domain;
    use crate::record::{Counted, sample};
    use crate::report::aggregate::{Drafts, Format, Limits, PrivateAddresses, Reporter};

    fn feedback(receiver: &str, policy_domain: &str) -> Feedback {
        let mut record = sample::record();
        record.policy.as_mut().unwrap().domain = Domain::parse(policy_domain).unwrap();
        let mut drafts = Drafts::new(PrivateAddresses::Omit, Limits::default());
        drafts.add(Counted { record, count: 1 });
        let reporter = Reporter {
            organization: "Söhne".into(),
            email: "reports@rcpt.example".into(),
            extra_contact_info: None,
            receiver: Domain::parse(receiver).unwrap(),
            format: Format::Rfc9990,
        };
        drafts.finish().0.remove(0).finish(&reporter, Period::day(20_454)).0.unwrap()
    }

    fn message(feedback: &Feedback, to: &str, sent: i64) -> String {
        let author = Author {
            address: Address::parse("reports@rcpt.example").unwrap(),
            name: feedback.reporter.organization.clone(),
        };
        let to = Address::parse(to).unwrap();
        String::from_utf8(aggregate(feedback, &feedback.to_xml(), &author, &to, sent).unwrap()).unwrap()
    }

    #[test]
    fn a_message_is_what_the_rfc_says() {
        let feedback = feedback("rcpt.example", "example.org");
        let text = message(&feedback, "d@example.org", 1_767_312_000);
        let id = feedback.id.as_str();
        let expected = format!(
            "From: =?utf-8?B?U8O2aG5l?= <reports@rcpt.example>\r\nTo: <d@example.org>\r\nDate: Fri, 2 Jan 2026 00:00:00 \
             +0000\r\nMessage-ID: <{id}.{}@rcpt.example>\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n\
             Subject: Report Domain: example.org Submitter: rcpt.example Report-ID:\r\n\t<{id}>\r\n\
             Content-Type: multipart/mixed; boundary=\"=_{id}\"\r\n\r\n\r\n--=_{id}\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\n\
             What rcpt.example has seen of mail in the name of example.org:\r\na DMARC aggregate report is \
             attached.\r\n\r\nPeriod: 2026-01-01 00:00:00 to 2026-01-01 23:59:59 UTC\r\nContent: 1 message, 1 \
             records\r\nQuestions: reports@rcpt.example\r\n\r\n--=_{id}\r\nContent-Type: application/gzip;\r\n\t\
             name=\"{name}\"\r\nContent-Disposition: attachment;\r\n\tfilename=\"{name}\"\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n",
            address_key(&Address::parse("d@example.org").unwrap()),
            name = feedback.file_name(),
        );
        assert!(text.starts_with(&expected), "{text}\n---\n{expected}");
        assert!(text.ends_with(&format!("\r\n--=_{id}--\r\n")));
        let data = text.split("base64\r\n\r\n").nth(1).unwrap().split("\r\n\r\n--").next().unwrap().replace("\r\n", "");
        let data = crate::message::base64::decode(data.as_bytes()).unwrap();
        let mut xml = String::new();
        flate2::read::GzDecoder::new(&*data).read_to_string(&mut xml).unwrap();
        assert_eq!(xml, feedback.to_xml());
        assert_eq!(data[4..8], [0; 4], "no time");
    }

    #[test]
    fn a_resend_differs_in_its_date_alone() {
        let feedback = feedback("rcpt.example", "example.org");
        let without_date = |sent| {
            let text = message(&feedback, "d@example.org", sent);
            text.lines().filter(|line| !line.starts_with("Date: ")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(without_date(1_767_312_000), without_date(1_767_400_000));
        let id = |to: &str| {
            let text = message(&feedback, to, 0);
            text.lines().find(|line| line.starts_with("Message-ID:")).unwrap().to_owned()
        };
        assert_ne!(id("a@example.org"), id("b@example.org"));
    }

    #[test]
    fn the_longest_names_make_lines_that_every_server_takes() {
        let label = "a".repeat(61);
        let long = format!("{}.example", [label.as_str(); 3].join("."));
        let feedback = feedback(&long, &format!("b.{long}"));
        let text = message(&feedback, &format!("{}@{long}", "l".repeat(64)), 0);
        assert!(text.is_ascii());
        assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])));
    }
}
