//! Why the gate itself refuses a command, and what its client is told. Pure.

use crate::smtp::address::PathError;
use crate::smtp::command::CommandError;
use crate::smtp::reply::Reply;

/// Why the gate itself refuses a command, without asking the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandRefusal {
    /// The line can't be taken, whatever the state; or its extension is not on offer.
    Line(CommandError),
    /// The command has no place in this state; the text says why (RFC 5321 §4.1.4).
    OutOfSequence(&'static str),
    /// RCPT, DATA or BDAT without a MAIL that was accepted.
    NoTransaction,
    /// DATA or BDAT without a recipient that was accepted (RFC 5321 §3.3).
    NoRecipients,
    /// RCPT beyond the bound of a transaction (RFC 5321 §4.5.3.1.10).
    TooManyRecipients,
    /// RCPT behind a recipient that is alone in its transaction.
    NotBeside,
    /// An address beyond ASCII behind a MAIL without SMTPUTF8 (RFC 6531 §3.3).
    NeedsSmtpUtf8,
    /// Anything but STARTTLS first, where TLS is required (RFC 3207 §4).
    NeedsTls,
    /// AUTH before TLS (RFC 4954 §6).
    LoginNeedsTls,
}

impl CommandRefusal {
    /// What the client is told.
    pub fn reply(&self) -> Reply {
        match self {
            Self::Line(error) => error.reply(),
            Self::OutOfSequence(text) => Reply::new(503, "5.5.1", text),
            Self::NoTransaction => Reply::new(503, "5.5.1", "Send MAIL first"),
            Self::NoRecipients => Reply::new(554, "5.5.1", "No valid recipients"),
            Self::TooManyRecipients => Reply::new(452, "4.5.3", "Too many recipients"),
            Self::NotBeside => Reply::new(452, "4.5.3", "The recipient before wants a transaction of its own"),
            Self::NeedsSmtpUtf8 => CommandError::Recipient(PathError::NonAscii).reply(),
            Self::NeedsTls => Reply::new(530, "5.7.0", "Must issue a STARTTLS command first"),
            Self::LoginNeedsTls => Reply::new(538, "5.7.11", "Encryption required for AUTH"),
        }
    }

    /// Whether the client may have had no way to know: who sends its commands in groups learns only afterwards that
    /// there is no transaction or no recipient for the rest of a group (RFC 2920 §3.1).
    pub fn is_unforeseen(&self) -> bool {
        matches!(self, Self::NoTransaction | Self::NoRecipients)
    }
}
