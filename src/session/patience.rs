//! Counts what a client does without sending mail: commands that lead to none, and errors. Pure.

use super::Ended;
use crate::smtp::command::{Command, CommandError};
use crate::smtp::reply::Reply;

/// How much of it a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Permanent errors that the gate itself finds.
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
    commands: usize,
    put_off: usize,
    is_recipient: bool,
    /// Whether the transaction has an accepted recipient.
    has_recipient: bool,
}

/// Who answered a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The gate by itself.
    Ours,
    /// The upstream, or the gate in its place.
    Upstreams,
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

    /// Counts the reply to the last command. Recipients that are accepted lead to mail. Those that are put off don't
    /// count (a client that sends all of its list at once, or meets greylisting, has done nothing wrong), nor those
    /// that are refused beside accepted ones (who keeps a list has dead ones on it); both up to the bound of a
    /// transaction.
    pub fn answered(&mut self, reply: &Reply, answer: Answer, bounds: Bounds) {
        // What the upstream refuses is for the upstream to count.
        self.errors += usize::from(answer == Answer::Ours && reply.is_permanent());
        if !self.is_recipient {
            return;
        }
        self.has_recipient |= reply.is_positive();
        let is_put_off = (reply.is_transient() || self.has_recipient) && self.put_off < bounds.recipients;
        if reply.is_positive() || is_put_off {
            self.put_off += usize::from(!reply.is_positive());
            self.commands = self.commands.saturating_sub(1);
        }
    }

    /// Counts an error that somebody else has found, as a password that is wrong.
    pub fn refused(&mut self) {
        self.errors = self.errors.saturating_add(1);
    }

    /// Counts what had to be read for nothing.
    pub fn wasted(&mut self) {
        self.commands = self.commands.saturating_add(1);
    }

    /// A message was accepted.
    pub fn delivered(&mut self) {
        (self.commands, self.put_off) = (0, 0);
    }

    /// Why the session is to end, and what its client is told, if it is to.
    pub fn is_over(&self, bounds: Bounds) -> Option<(Ended, Reply)> {
        if self.errors > bounds.errors {
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

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { errors: 3, commands: 5, recipients: 10 };

    /// What ends a session in which `line` gets the reply `code`, and at which of a hundred times.
    fn end(line: &str, code: u16, answer: Answer) -> Option<(usize, Ended)> {
        let mut patience = Patience::default();
        (1..=100).find_map(|n| {
            patience.command(&Command::parse(line.as_bytes(), None));
            patience.answered(&Reply::new(code, "", "x"), answer, BOUNDS);
            patience.is_over(BOUNDS).map(|(reason, _)| (n, reason))
        })
    }

    #[test]
    fn what_leads_to_no_mail_ends_a_session() {
        let (ours, theirs) = (Answer::Ours, Answer::Upstreams);
        let cases = [
            ("NOOP", 250, ours, Some((6, Ended::Commands))),
            ("VRFY x", 252, ours, Some((6, Ended::Commands))),
            ("EHLO a.example", 250, ours, Some((6, Ended::Commands))),
            ("MAIL FROM:<>", 250, theirs, Some((6, Ended::Commands))),
            ("MAIL FROM:<>", 451, theirs, Some((6, Ended::Commands))),
            ("MAIL FROM:<>", 550, theirs, Some((6, Ended::Commands))),
            ("NONSENSE", 500, ours, Some((4, Ended::Errors))),
            ("RCPT TO:<x@b.example>", 250, theirs, None),
            ("RCPT TO:<x@b.example>", 550, theirs, Some((6, Ended::Commands))),
            ("RCPT TO:<x@b.example>", 450, theirs, Some((16, Ended::Commands))),
            ("RCPT TO:<x@b.example>", 452, theirs, Some((16, Ended::Commands))),
            ("RCPT TO:<x@b.example>", 452, ours, Some((16, Ended::Commands))),
            ("DATA", 452, ours, Some((6, Ended::Commands))),
        ];
        for (line, code, answer, expected) in cases {
            assert_eq!(end(line, code, answer), expected, "{line} {code} {answer:?}");
        }
    }

    #[test]
    fn a_message_that_is_accepted_starts_the_count_of_commands_anew() {
        let mut patience = Patience::default();
        for _ in 0..100 {
            for _ in 0..5 {
                patience.command(&Ok(Command::Noop));
                assert!(patience.is_over(BOUNDS).is_none());
            }
            patience.delivered();
        }
    }

    #[test]
    fn dead_recipients_beside_a_living_one_do_not_count() {
        let bounds = Bounds { errors: 3, commands: 5, recipients: 10 };
        let mut patience = Patience::default();
        let mut say = |line: &str, code: u16| {
            patience.command(&Command::parse(line.as_bytes(), None));
            patience.answered(&Reply::new(code, "", "x"), Answer::Upstreams, bounds);
            patience.is_over(bounds).is_some()
        };
        assert!(!say("MAIL FROM:<>", 250) && !say("RCPT TO:<x@b.example>", 250));
        assert!((0..10).all(|_| !say("RCPT TO:<y@b.example>", 550)));
        // But not without end.
        assert!((0..10).any(|_| say("RCPT TO:<y@b.example>", 550)));
    }
}
