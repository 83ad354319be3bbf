//! Bounces of reports: the addresses that they come back to, and what they say. Pure.
//!
//! Each report leaves with a reverse-path of its own in a domain reserved for bounces. The address names the job and a
//! day and is signed, so that nobody else can make one. What arrives there is not trusted: only a delivery status
//! notification (RFC 3464) of a permanent failure counts, and nothing else in it does.

use aws_lc_rs::hmac;

use crate::calendar::SECONDS_PER_DAY;
use crate::domain::Domain;
use crate::hex::hex;
use crate::label_enum;
use crate::message::header::HeaderSection;
use crate::message::mime::MimeField;
use crate::report::form::REPORT;
use crate::report::mailbox::is_about_mailbox;

/// What signs addresses; the same on all gates of one store.
#[derive(Clone)]
pub struct Key(hmac::Key);

label_enum! {
    /// What came to an address for bounces.
    pub enum BounceKind {
        /// The address of the report does not take mail, for good.
        Failed = "failed",
        /// This report was refused for good, for what the gate, its sender or the report is.
        Refused = "refused",
        /// It did not take this one for now, or not for long enough.
        Temporary = "temporary",
        /// A notice that all is well, or takes longer.
        Notice = "notice",
        /// No delivery status notification: an automatic reply, or anything else.
        Other = "other",
    }
}

/// What a message to such an address says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounce {
    /// What it is.
    pub kind: BounceKind,
    /// The status code and what the other server said, in a bounded line; empty if it says nothing.
    pub reason: String,
}

impl Key {
    /// The key of these octets.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The address for bounces of the report of `job`, sent at `now` (seconds since the epoch).
    pub fn address(&self, job: &str, now: i64, domain: &Domain) -> String {
        let day = now.div_euclid(SECONDS_PER_DAY);
        format!("r-{job}-{day:x}-{}@{domain}", self.signature(job, day))
    }

    /// The job that an address of ours is for; none if it is not ours or older than [`LIFETIME`] days at `now`.
    pub fn job(&self, local_part: &str, now: i64) -> Option<String> {
        let local_part = local_part.to_ascii_lowercase();
        let mut parts = local_part.strip_prefix("r-")?.split('-');
        let (job, day, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let day = i64::from_str_radix(day, 16).ok()?;
        let age = now.div_euclid(SECONDS_PER_DAY).checked_sub(day)?;
        let is_young = (-1..=LIFETIME).contains(&age);
        let expected = self.signature(job, day);
        let is_ours =
            aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_bytes(), signature.as_bytes()).is_ok();
        (is_young && is_ours && parts.next().is_none()).then(|| job.to_owned())
    }

    fn signature(&self, job: &str, day: i64) -> String {
        let tag = hmac::sign(&self.0, format!("bounce {job} {day}").as_bytes());
        hex(tag.as_ref().iter().take(SIGNATURE_OCTETS))
    }
}

impl Bounce {
    /// Reads a message: its header section and the beginning of its body.
    ///
    /// Of the body only the part of the type `message/delivery-status` counts, wherever it stands. With several
    /// recipients the worst of them counts: we have written to one.
    pub fn read(header: &HeaderSection, body: &[u8]) -> Self {
        let other = Self { kind: BounceKind::Other, reason: String::new() };
        if !MimeField::first(header, "Content-Type").value.starts_with(REPORT) {
            return other;
        }
        let text = String::from_utf8_lossy(body);
        let Some(fields) = delivery_status(&text) else { return other };
        let mut found = other;
        let mut group = Group::default();
        // A last empty line, so that every group has an end.
        for line in fields.chain([""]).take(MAX_LINES) {
            if line.trim().is_empty() {
                found = found.worse(std::mem::take(&mut group).bounce());
            } else {
                group.take(line);
            }
        }
        found
    }

    fn worse(self, other: Option<Self>) -> Self {
        let rank = |kind| match kind {
            BounceKind::Failed => 4,
            BounceKind::Refused => 3,
            BounceKind::Temporary => 2,
            BounceKind::Notice => 1,
            BounceKind::Other => 0,
        };
        other.filter(|other| rank(other.kind) > rank(self.kind)).unwrap_or(self)
    }
}

/// The lines of the first part of a delivery status, its header left out.
fn delivery_status(text: &str) -> Option<impl Iterator<Item = &str>> {
    let mut lines = text.lines();
    let mut in_header = false;
    let found = loop {
        let line = lines.next()?;
        if line.starts_with("--") {
            in_header = true;
        } else if line.trim().is_empty() {
            in_header = false;
        } else if in_header
            && let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-type")
        {
            // RFC 6533 §4 has another name for it.
            if matches!(
                &*MimeField::parse(value.as_bytes()).value,
                "message/delivery-status" | "message/global-delivery-status"
            ) {
                break lines;
            }
        }
    };
    // The rest of the part's header, and what it contains up to the next boundary.
    Some(found.skip_while(|line| !line.trim().is_empty()).take_while(|line| !line.starts_with("--")))
}

/// The fields of one recipient (RFC 3464 §2.3).
#[derive(Default)]
struct Group {
    action: String,
    status: String,
    diagnostic: String,
    /// Whether the last line was one of the diagnostic code, which may go on in the next.
    in_diagnostic: bool,
}

impl Group {
    fn take(&mut self, line: &str) {
        if line.starts_with([' ', '\t']) {
            if self.in_diagnostic {
                self.diagnostic.push(' ');
                self.diagnostic.push_str(line.trim());
            }
            return;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.trim();
        self.in_diagnostic = name.eq_ignore_ascii_case("diagnostic-code");
        if self.in_diagnostic {
            // RFC 3464 §2.3.6: the type stands before it.
            value.split_once(';').map_or(value, |(_, text)| text.trim()).clone_into(&mut self.diagnostic);
        } else if name.eq_ignore_ascii_case("action") {
            self.action = value.split_ascii_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        } else if name.eq_ignore_ascii_case("status") {
            value.split_ascii_whitespace().next().unwrap_or_default().clone_into(&mut self.status);
        }
    }

    fn bounce(self) -> Option<Bounce> {
        let kind = match (&*self.action, is_permanent(&self.status)) {
            ("failed", true) if self.is_about_mailbox() => BounceKind::Failed,
            ("failed", true) => BounceKind::Refused,
            ("failed", false) => BounceKind::Temporary,
            ("delayed" | "delivered" | "relayed" | "expanded", _) => BounceKind::Notice,
            _ => return None,
        };
        let said = format!("{} {}", self.status, self.diagnostic);
        let reason = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect::<String>();
        Some(Bounce { kind, reason: reason.trim().to_owned() })
    }
}

impl Group {
    fn is_about_mailbox(&self) -> bool {
        if self.status != "5.0.0" {
            return is_about_mailbox(550, &format!("{} {}", self.status, self.diagnostic));
        }
        // Exim's status of all that failed: what the other server said is in the diagnostic code.
        let (code, text) = self.diagnostic.split_at_checked(3).unwrap_or_default();
        is_about_mailbox(code.parse().unwrap_or_default(), text.trim_start_matches([' ', '-']))
    }
}

/// Whether a status code (RFC 3463 §2) is of the class 5.
fn is_permanent(status: &str) -> bool {
    let mut parts = status.split('.');
    let is_number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    parts.next() == Some("5") && parts.clone().count() == 2 && parts.all(is_number)
}

/// Octets of a body that are read: a notification has its status at the beginning, followed by the returned message.
pub const MAX_BODY: usize = 64 * 1024;
/// Days for which an address takes bounces: servers try for five, some for longer.
pub const LIFETIME: i64 = 30;
/// Lines of a delivery status that are read.
const MAX_LINES: usize = 500;
/// Characters of the reason that are kept.
const MAX_REASON: usize = 200;
/// Octets of a signature: nobody guesses 80 bits over SMTP.
const SIGNATURE_OCTETS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;
    const JOB: &str = "0123456789abcdef01234567";

    fn domain() -> Domain {
        Domain::parse("bounces.gate.example").unwrap()
    }

    #[test]
    fn an_address_names_its_job_and_nobody_can_make_one() {
        let key = Key::new(b"secret");
        let address = key.address(JOB, NOW, &domain());
        let (local_part, host) = address.split_once('@').unwrap();
        assert!(host == "bounces.gate.example" && local_part.len() <= 64, "{address}");
        let day = SECONDS_PER_DAY;
        let job = |text: &str, now| key.job(text, now);
        for now in [NOW, NOW + LIFETIME * day, NOW - day] {
            assert_eq!(job(local_part, now).as_deref(), Some(JOB));
        }
        assert_eq!(job(&local_part.to_uppercase(), NOW).as_deref(), Some(JOB), "some servers change the case");
        assert_eq!(job(local_part, NOW + (LIFETIME + 1) * day), None, "too old");
        assert_eq!(job(local_part, NOW - 2 * day), None, "from the future");
        assert_eq!(Key::new(b"another").job(local_part, NOW), None);
        for position in 0..local_part.len() {
            let mut wrong = local_part.as_bytes().to_vec();
            wrong[position] = if wrong[position] == b'0' { b'1' } else { b'0' };
            assert_eq!(job(std::str::from_utf8(&wrong).unwrap(), NOW), None, "{position}");
        }
        for nonsense in
            ["", "r-", "r---", "postmaster", &format!("{local_part}-"), &format!("{local_part}-x"), "r-ü-ü-ü"]
        {
            assert_eq!(job(nonsense, NOW), None, "{nonsense}");
        }
    }

    const REPORT: &str = "From: MAILER-DAEMON\r\nContent-Type: multipart/report;\r\n report-type=delivery-status; \
                          boundary=\"b\"\r\n";

    fn read(header: &str, body: &[u8]) -> Bounce {
        Bounce::read(&HeaderSection::parse(header.as_bytes().to_vec()), body)
    }

    fn body(status: &str) -> String {
        format!(
            "This is a MIME message.\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nSorry. Action: failed\r\n\r\n--b\r\n\
             Content-Description: report\r\nContent-Type: message/delivery-status; charset=us-ascii\r\n\r\n\
             Reporting-MTA: dns; mx.a.example\r\n\r\n{status}\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\
             Action: failed\r\nStatus: 5.9.9\r\n--b--\r\n"
        )
    }

    #[test]
    fn only_a_failure_for_good_counts() {
        use BounceKind as K;
        let group = |action: &str, status: &str| {
            format!("Final-Recipient: rfc822; d@a.example\r\nAction: {action}\r\nStatus: {status}\r\n")
        };
        let cases = [
            ("failed for good", body(&group("failed", "5.1.1")), K::Failed),
            (
                "in other letters",
                body(&group("FAILED (really)", "5.1.1 (no such user)")).replace("Action", "aCTION"),
                K::Failed,
            ),
            ("failed in the end", body(&group("failed", "4.4.7")), K::Temporary),
            ("no status", body("Action: failed\r\n"), K::Temporary),
            ("refused for its sender", body(&group("failed", "5.7.26")), K::Refused),
            ("refused for its sender", body(&group("failed", "5.1.8")), K::Refused),
            ("no status to speak of", body(&group("failed", "5.0.0")), K::Refused),
            (
                "Exim's",
                body(&(group("failed", "5.0.0") + "Diagnostic-Code: smtp; 550-5.1.1 no such\r\n address\r\n")),
                K::Failed,
            ),
            ("Exim's", body(&(group("failed", "5.0.0") + "Diagnostic-Code: smtp; 550 Unknown user\r\n")), K::Failed),
            (
                "Exim's",
                body(&(group("failed", "5.0.0") + "Diagnostic-Code: smtp; 550 5.7.1 on a list\r\n")),
                K::Refused,
            ),
            ("odd statuses", body(&group("failed", "5.1")), K::Temporary),
            ("odd statuses", body(&group("failed", "5.1.1.1")), K::Temporary),
            ("odd statuses", body(&group("failed", "5.x.1")), K::Temporary),
            ("odd statuses", body(&group("failed", "55.1.1")), K::Temporary),
            ("delayed", body(&group("delayed", "4.4.1")), K::Notice),
            ("delivered", body(&group("delivered", "2.0.0")), K::Notice),
            ("relayed with a lying status", body(&group("relayed", "5.1.1")), K::Notice),
            (
                "the worst of two",
                body(&format!("{}\r\n{}", group("delayed", "4.4.1"), group("failed", "5.2.1"))),
                K::Failed,
            ),
            (
                "words in the header of the part",
                body(&group("delayed", "4.4.1")).replace("; charset=us-ascii", "\r\nAction: failed\r\nStatus: 5.1.1"),
                K::Notice,
            ),
            ("unknown action", body(&group("exploded", "5.1.1")), K::Other),
            ("no delivery status", body("").replace("message/delivery-status", "text/plain"), K::Other),
            ("nothing", String::new(), K::Other),
            (
                "global",
                body(&group("failed", "5.1.1")).replace("message/delivery", "message/global-delivery"),
                K::Failed,
            ),
            ("bare line feeds", body(&group("failed", "5.1.1")).replace("\r\n", "\n"), K::Failed),
            ("cut off inside", body(&group("failed", "5.1.1")).split("5.1.1").next().unwrap().to_owned(), K::Temporary),
        ];
        for (name, body, expected) in cases {
            assert_eq!(read(REPORT, body.as_bytes()).kind, expected, "{name}: {body}");
        }
        let failed = body(&group("failed", "5.1.1"));
        let without = "Content-Type: Multipart/Report report-type=delivery-status; boundary=b\r\n";
        assert_eq!(read(without, failed.as_bytes()).kind, K::Failed, "a semicolon is missing");
        for header in
            ["", "Auto-Submitted: auto-replied\r\n", "Subject: multipart/report\r\nContent-Type: text/plain\r\n"]
        {
            assert_eq!(read(header, failed.as_bytes()).kind, K::Other, "{header}");
        }
    }

    #[test]
    fn what_it_says_is_one_bounded_line() {
        let status = "Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no\r\n such \x07user\r\nX: y\r\n z\r\n";
        let found = read(REPORT, body(status).as_bytes());
        assert_eq!(found.reason, "5.1.1 550 5.1.1 no such  user");
        let two = "Action: failed\r\nStatus: 5.1.1\r\n\r\nAction: failed\r\nStatus: 5.2.2\r\n";
        assert_eq!(read(REPORT, body(two).as_bytes()).reason, "5.1.1", "the first of the worst");
        let long = format!("Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; {}\r\n", "ä".repeat(5000));
        assert_eq!(read(REPORT, body(&long).as_bytes()).reason.chars().count(), MAX_REASON);
        let many = "Action: delayed\r\n\r\n".repeat(10_000) + "Action: failed\r\nStatus: 5.1.1\r\n";
        assert_eq!(read(REPORT, body(&many).as_bytes()).kind, BounceKind::Notice, "bounded");
    }

    #[test]
    fn no_octets_make_it_panic() {
        let mut state = 7_u32;
        for length in 0..2000_usize {
            let octets: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"-\r\n: ;bAction:failedStatus5.1\xff"[(state >> 24) as usize % 30]
                })
                .collect();
            let _ = read(REPORT, &octets);
        }
    }
}
