//! Counts what a client does without sending mail: commands that lead to none, and errors. Pure.

use super::Ended;
use super::refusal::CommandRefusal;
use crate::smtp::command::{Command, CommandError};
use crate::smtp::reply::Reply;

/// How much of it a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Permanent errors that the gate itself finds, since the last message that was accepted, and failed logins.
    pub errors: usize,
    /// Commands since the last message that was accepted.
    pub commands: usize,
    /// Recipients of a transaction: as many beyond it may be put off before they count as commands.
    pub recipients: usize,
}

/// What a session's client has done so far.
#[derive(Debug, Default)]
pub struct Patience {
    errors: usize,
    /// Logins that were refused: no message makes up for a guess.
    logins: usize,
    commands: usize,
    put_off: usize,
    /// Octets that were read for nothing.
    wasted: u64,
    /// Whether the last command names a recipient.
    is_recipient: bool,
    /// Whether the transaction has an accepted recipient.
    has_recipient: bool,
}

impl Patience {
    /// Counts a command.
    pub fn command(&mut self, line: &Result<Command, CommandError>) {
        // The chunks of a message are one way to send it, but for crumbs.
        let is_chunk = matches!(line, Ok(Command::Bdat(chunk)) if chunk.size >= SMALL_CHUNK);
        self.commands = self.commands.saturating_add(usize::from(!is_chunk));
        self.is_recipient = matches!(line, Ok(Command::Rcpt { .. }));
        if matches!(line, Ok(Command::Mail { .. })) {
            self.has_recipient = false;
        }
    }

    /// Counts what the upstream said to the last command, or the gate in its place. Recipients that are accepted lead to
    /// mail. Those that are put off don't count (a client that sends all of its list at once, or meets greylisting, has
    /// done nothing wrong), nor those that are refused beside accepted ones (who keeps a list has dead ones on it); all
    /// up to the bound of a transaction. What the upstream refuses is for the upstream to count as an error.
    pub fn answered(&mut self, reply: &Reply, bounds: Bounds) {
        if self.is_recipient && reply.is_positive() {
            self.has_recipient = true;
            self.commands = self.commands.saturating_sub(1);
        } else {
            self.recipient_fails(reply.is_transient(), bounds);
        }
    }

    /// Counts what the gate itself refused. What the client could not foresee is no error, and a recipient of that kind
    /// counts as one that is put off.
    pub fn refused(&mut self, refusal: &CommandRefusal, bounds: Bounds) {
        let is_permanent = refusal.reply().is_permanent();
        self.errors += usize::from(is_permanent && !refusal.is_unforeseen());
        self.recipient_fails(!is_permanent || refusal.is_unforeseen(), bounds);
    }

    /// Takes back that the last command counts, if it names a recipient that is excused for not being taken.
    fn recipient_fails(&mut self, is_put_off: bool, bounds: Bounds) {
        if self.is_recipient && (is_put_off || self.has_recipient) && self.put_off < bounds.recipients {
            self.put_off += 1;
            self.commands = self.commands.saturating_sub(1);
        }
    }

    /// Counts a login that was refused or can't be made.
    pub fn login_refused(&mut self) {
        self.logins = self.logins.saturating_add(1);
    }

    /// Counts octets that are read for nothing: those of chunks without a transaction or recipient, which a client may
    /// have sent before it could know.
    pub fn wasted(&mut self, octets: u64) {
        let before = self.wasted / WASTE;
        self.wasted = self.wasted.saturating_add(octets);
        let more = usize::try_from(self.wasted / WASTE - before).unwrap_or(usize::MAX);
        self.commands = self.commands.saturating_add(more);
    }

    /// A message was accepted.
    pub fn delivered(&mut self) {
        (self.errors, self.commands, self.put_off) = (0, 0, 0);
    }

    /// Why the session is to end, and what its client is told, if it is to.
    pub fn is_over(&self, bounds: Bounds) -> Option<(Ended, Reply)> {
        if self.errors.saturating_add(self.logins) > bounds.errors {
            Some((Ended::Errors, Reply::new(421, "4.7.0", "Too many errors")))
        } else if self.commands > bounds.commands {
            Some((Ended::Commands, Reply::new(421, "4.7.0", "Too many commands without mail")))
        } else {
            None
        }
    }
}

/// Octets of a chunk below which it counts as a command: an honest message has few of them.
const SMALL_CHUNK: u64 = 1024;
/// Octets read for nothing that count as a command.
const WASTE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { errors: 3, commands: 5, recipients: 10 };

    /// What ends a session in which the same becomes of `line` again and again, and at which of a hundred times.
    fn end(line: &str, outcome: impl Fn(&mut Patience)) -> Option<(usize, Ended)> {
        let mut patience = Patience::default();
        (1..=100).find_map(|n| {
            patience.command(&Command::parse(line.as_bytes(), None));
            outcome(&mut patience);
            patience.is_over(BOUNDS).map(|(reason, _)| (n, reason))
        })
    }

    #[test]
    fn what_leads_to_no_mail_ends_a_session() {
        let answered = [
            ("NOOP", 250, Some((6, Ended::Commands))),
            ("VRFY x", 252, Some((6, Ended::Commands))),
            ("EHLO a.example", 250, Some((6, Ended::Commands))),
            ("MAIL FROM:<>", 250, Some((6, Ended::Commands))),
            ("MAIL FROM:<>", 451, Some((6, Ended::Commands))),
            ("MAIL FROM:<>", 550, Some((6, Ended::Commands))),
            ("RCPT TO:<x@b.example>", 250, None),
            ("RCPT TO:<x@b.example>", 550, Some((6, Ended::Commands))),
            ("RCPT TO:<x@b.example>", 450, Some((16, Ended::Commands))),
            ("RCPT TO:<x@b.example>", 452, Some((16, Ended::Commands))),
            ("DATA", 452, Some((6, Ended::Commands))),
        ];
        for (line, code, expected) in answered {
            let end = end(line, |patience| patience.answered(&Reply::new(code, "", "x"), BOUNDS));
            assert_eq!(end, expected, "{line} {code}");
        }
        use CommandRefusal as R;
        let refused = [
            ("NONSENSE", R::Line(CommandError::Unknown), Some((4, Ended::Errors))),
            ("RCPT TO:<x@b.example>", R::TooManyRecipients, Some((16, Ended::Commands))),
            ("RCPT TO:<x@b.example>", R::NotBeside, Some((16, Ended::Commands))),
            ("RCPT TO:<x@b.example>", R::NeedsSmtpUtf8, Some((4, Ended::Errors))),
            // Behind a MAIL that was refused, or without a recipient.
            ("RCPT TO:<x@b.example>", R::NoTransaction, Some((16, Ended::Commands))),
            ("DATA", R::NoTransaction, Some((6, Ended::Commands))),
            ("DATA", R::NoRecipients, Some((6, Ended::Commands))),
            ("BDAT 100", R::NoTransaction, Some((6, Ended::Commands))),
            ("BDAT 100", R::NoRecipients, Some((6, Ended::Commands))),
            ("BDAT 5000", R::Line(CommandError::NotOffered), Some((4, Ended::Errors))),
            ("RCPT TO:<x@b.example>", R::OutOfSequence("x"), Some((4, Ended::Errors))),
            ("MAIL FROM:<>", R::OutOfSequence("x"), Some((4, Ended::Errors))),
            ("MAIL FROM:<>", R::NeedsTls, Some((4, Ended::Errors))),
            ("AUTH PLAIN", R::LoginNeedsTls, Some((4, Ended::Errors))),
        ];
        for (line, refusal, expected) in refused {
            let end = end(line, |patience| patience.refused(&refusal, BOUNDS));
            assert_eq!(end, expected, "{line} {refusal:?}");
        }
    }

    #[test]
    fn a_message_that_is_accepted_starts_the_counts_anew() {
        let mut patience = Patience::default();
        for _ in 0..100 {
            for n in 0..5 {
                patience.command(&Ok(Command::Noop));
                if n < 3 {
                    patience.refused(&CommandRefusal::Line(CommandError::Unknown), BOUNDS);
                }
                assert!(patience.is_over(BOUNDS).is_none());
            }
            patience.delivered();
        }
    }

    #[test]
    fn no_message_makes_up_for_guessed_passwords() {
        let mut patience = Patience::default();
        for _ in 0..BOUNDS.errors {
            patience.login_refused();
            patience.delivered();
            assert!(patience.is_over(BOUNDS).is_none());
        }
        patience.login_refused();
        assert_eq!(patience.is_over(BOUNDS).map(|(reason, _)| reason), Some(Ended::Errors));
    }

    #[test]
    fn what_is_read_for_nothing_has_a_bound() {
        let end = |size: u64| {
            let mut patience = Patience::default();
            (1..=1_000_000).find(|_| {
                patience.command(&Command::parse(format!("BDAT {size}").as_bytes(), None));
                patience.wasted(size);
                patience.refused(&CommandRefusal::NoRecipients, BOUNDS);
                patience.is_over(BOUNDS).is_some()
            })
        };
        assert_eq!([end(0), end(1024), end(1 << 16), end(1 << 30)], [Some(6), Some(6 << 10), Some(6 << 4), Some(1)]);
    }

    #[test]
    fn dead_recipients_beside_a_living_one_do_not_count() {
        let bounds = Bounds { errors: 3, commands: 5, recipients: 10 };
        let mut patience = Patience::default();
        let mut say = |line: &str, code: u16| {
            patience.command(&Command::parse(line.as_bytes(), None));
            patience.answered(&Reply::new(code, "", "x"), bounds);
            patience.is_over(bounds).is_some()
        };
        assert!(!say("MAIL FROM:<>", 250) && !say("RCPT TO:<x@b.example>", 250));
        assert!((0..10).all(|_| !say("RCPT TO:<y@b.example>", 550)));
        // But not without end.
        assert!((0..10).any(|_| say("RCPT TO:<y@b.example>", 550)));
    }
}
