//! Tells of MAIL and RCPT that the gate itself refuses: nothing else would, since no message comes of them.

use std::time::Instant;

use tracing::info;

use super::Session;
use super::refusal::CommandRefusal;
use crate::label_enum;
use crate::smtp::address::PathError;
use crate::smtp::command::{Command, CommandError};
use crate::smtp::reply::Reply;

label_enum! {
    /// Why the gate itself refuses MAIL or RCPT, or drops a chunk without a message.
    pub enum Objection {
        /// A recipient in the domain for bounces of reports that takes no mail, not this mail, or not now; or one behind
        /// such a recipient.
        BounceAddress = "bounce_address",
        /// SIZE, or the size of a chunk that has no message, is more than the gate takes.
        MessageSize = "message_size",
        /// An address beyond ASCII without SMTPUTF8 (RFC 6531 §3.3).
        NonAscii = "non_ascii",
        /// The listener requires TLS, and there is none (RFC 3207 §4).
        NeedsTls = "needs_tls",
        /// A parameter that is not on offer, or one whose value can't be read.
        Parameter = "parameter",
        /// An address, or the command itself, can't be read.
        Syntax = "syntax",
    }
}

impl Objection {
    /// Why a command line is refused; none if it is no MAIL or RCPT.
    pub fn to(line: &[u8], error: &CommandError) -> Option<Self> {
        let verb = line.get(..4)?;
        let is_mail = verb.eq_ignore_ascii_case(b"MAIL") || verb.eq_ignore_ascii_case(b"RCPT");
        let objection = match error {
            // A longer word.
            CommandError::Unknown => return None,
            CommandError::TooBig => Self::MessageSize,
            CommandError::Address(PathError::NonAscii) | CommandError::Recipient(PathError::NonAscii) => Self::NonAscii,
            CommandError::ParameterUnknown | CommandError::ParameterValue => Self::Parameter,
            CommandError::Address(_)
            | CommandError::Recipient(_)
            | CommandError::Arguments
            | CommandError::ChunkSize
            | CommandError::LineTooLong
            | CommandError::NotOffered => Self::Syntax,
        };
        is_mail.then_some(objection)
    }

    /// Why the state machine refuses MAIL or RCPT; none for what is told otherwise, as the order of commands.
    pub fn of(refusal: &CommandRefusal) -> Option<Self> {
        match refusal {
            CommandRefusal::NeedsSmtpUtf8 => Some(Self::NonAscii),
            CommandRefusal::NeedsTls => Some(Self::NeedsTls),
            CommandRefusal::NotBeside => Some(Self::BounceAddress),
            // A line that can't be taken was told when it was read, and recipients beyond the bound are a limit's.
            CommandRefusal::Line(_)
            | CommandRefusal::OutOfSequence(_)
            | CommandRefusal::NoTransaction
            | CommandRefusal::NoRecipients
            | CommandRefusal::TooManyRecipients
            | CommandRefusal::LoginNeedsTls => None,
        }
    }
}

/// The verb of MAIL or RCPT; none of anything else.
pub fn mail_verb(line: &Result<Command, CommandError>) -> Option<&'static str> {
    match line {
        Ok(Command::Mail { .. }) => Some("MAIL"),
        Ok(Command::Rcpt { .. }) => Some("RCPT"),
        _ => None,
    }
}

impl Session {
    /// Counts a refusal, and says it in the log: once a second at most, of all sessions together, since anybody can make
    /// any number of them.
    pub(super) fn object(&self, objection: Objection, command: &str, reply: &Reply) {
        self.gate.metrics.objections.inc(objection);
        if let Some(times) = self.gate.complaints.objection(Instant::now()) {
            info!(
                session = &*self.id,
                client_ip = %self.client.ip(),
                listener = %self.gate.listener,
                command,
                reason = %objection,
                reply = reply.summary(),
                times,
                "command refused"
            );
        }
    }
}

/// As much of a command line as an event tells.
pub fn excerpt(line: &[u8]) -> Box<str> {
    String::from_utf8_lossy(line.get(..MAX_EXCERPT).unwrap_or(line)).into()
}

/// Octets of a command line in an event.
const MAX_EXCERPT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_and_rcpt_are_refused_for_a_reason_and_nothing_else_is_told() {
        let cases = [
            ("MAIL FROM:<a@b..example>", Some(Objection::Syntax)),
            ("mail to", Some(Objection::Syntax)),
            ("MAIL FROM:<ü@b.example>", Some(Objection::NonAscii)),
            ("MAIL FROM:<a@b.example> SIZE=1", Some(Objection::Parameter)),
            ("RCPT TO:<a b@c.example>", Some(Objection::Syntax)),
            ("RCPT TO:<a@c.example> FOO", Some(Objection::Parameter)),
            ("MAILX", None),
            ("AUTH", None),
            ("EHLO a b", None),
            ("", None),
        ];
        for (line, expected) in cases {
            let error = Command::parse(line.as_bytes(), None).unwrap_err();
            assert_eq!(Objection::to(line.as_bytes(), &error), expected, "{line}");
        }
        assert_eq!(Objection::to(b"MAIL", &CommandError::TooBig), Some(Objection::MessageSize));
        assert_eq!(excerpt(&"ü".repeat(1000).into_bytes()).chars().count(), 128);
    }
}
