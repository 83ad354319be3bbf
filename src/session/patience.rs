//! Counts what a client does without sending mail: commands that lead to none, and errors. Pure.

use super::Ended;
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
    is_recipient: bool,
    /// Whether the last command belongs to a transaction that MAIL has begun, or was to.
    is_inside: bool,
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
        self.is_inside = matches!(line, Ok(Command::Rcpt { .. } | Command::Data | Command::Bdat(_)));
        if matches!(line, Ok(Command::Mail { .. })) {
            self.has_recipient = false;
        }
    }

    /// Counts the reply to the last command. Recipients that are accepted lead to mail. Those that are put off don't
    /// count (a client that sends all of its list at once, or meets greylisting, has done nothing wrong), nor those
    /// that are refused beside accepted ones (who keeps a list has dead ones on it), nor those behind a MAIL that was
    /// refused; all up to the bound of a transaction.
    pub fn answered(&mut self, reply: &Reply, answer: Answer, bounds: Bounds) {
        // RFC 2920 §3.1: who sends a group knows only afterwards that there is no transaction or no recipient for the
        // rest of it.
        let is_behind = self.is_inside && matches!(reply.code(), 503 | 554);
        // What the upstream refuses is for the upstream to count.
        self.errors += usize::from(answer == Answer::Ours && reply.is_permanent() && !is_behind);
        if !self.is_recipient {
            return;
        }
        self.has_recipient |= reply.is_positive();
        let is_excused = reply.is_transient() || self.has_recipient || answer == Answer::Ours && is_behind;
        let is_put_off = is_excused && self.put_off < bounds.recipients;
        if reply.is_positive() || is_put_off {
            self.put_off += usize::from(!reply.is_positive());
            self.commands = self.commands.saturating_sub(1);
        }
    }

    /// Counts a login that was refused or can't be made.
    pub fn refused(&mut self) {
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
            // Behind a MAIL that was refused, or without a recipient.
            ("RCPT TO:<x@b.example>", 503, ours, Some((16, Ended::Commands))),
            ("RCPT TO:<x@b.example>", 553, ours, Some((4, Ended::Errors))),
            ("DATA", 503, ours, Some((6, Ended::Commands))),
            ("DATA", 554, ours, Some((6, Ended::Commands))),
            ("BDAT 100", 503, ours, Some((6, Ended::Commands))),
            ("BDAT 100", 554, ours, Some((6, Ended::Commands))),
            ("BDAT 5000", 502, ours, Some((4, Ended::Errors))),
            ("MAIL FROM:<>", 503, ours, Some((4, Ended::Errors))),
            ("AUTH PLAIN", 503, ours, Some((4, Ended::Errors))),
        ];
        for (line, code, answer, expected) in cases {
            assert_eq!(end(line, code, answer), expected, "{line} {code} {answer:?}");
        }
    }

    #[test]
    fn a_message_that_is_accepted_starts_the_counts_anew() {
        let mut patience = Patience::default();
        for _ in 0..100 {
            for n in 0..5 {
                patience.command(&Ok(Command::Noop));
                let code = if n < 3 { 500 } else { 250 };
                patience.answered(&Reply::new(code, "", "x"), Answer::Ours, BOUNDS);
                assert!(patience.is_over(BOUNDS).is_none());
            }
            patience.delivered();
        }
    }

    #[test]
    fn no_message_makes_up_for_guessed_passwords() {
        let mut patience = Patience::default();
        for _ in 0..BOUNDS.errors {
            patience.refused();
            patience.delivered();
            assert!(patience.is_over(BOUNDS).is_none());
        }
        patience.refused();
        assert_eq!(patience.is_over(BOUNDS).map(|(reason, _)| reason), Some(Ended::Errors));
    }

    #[test]
    fn what_is_read_for_nothing_has_a_bound() {
        let end = |size: u64| {
            let mut patience = Patience::default();
            (1..=1_000_000).find(|_| {
                patience.command(&Command::parse(format!("BDAT {size}").as_bytes(), None));
                patience.wasted(size);
                patience.answered(&Reply::new(554, "", "x"), Answer::Ours, BOUNDS);
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
            patience.answered(&Reply::new(code, "", "x"), Answer::Upstreams, bounds);
            patience.is_over(bounds).is_some()
        };
        assert!(!say("MAIL FROM:<>", 250) && !say("RCPT TO:<x@b.example>", 250));
        assert!((0..10).all(|_| !say("RCPT TO:<y@b.example>", 550)));
        // But not without end.
        assert!((0..10).any(|_| say("RCPT TO:<y@b.example>", 550)));
    }
}
