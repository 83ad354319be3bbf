//! The session's state machine: what the client and the upstream say, and what is to be done about it. Pure.
//!
//! A state owns what exists in it. Every pair of state and event has an outcome; the driver (`session`) performs the
//! effect and comes back with the next event.

use crate::envelope::{Envelope, Hello, Protocol};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::command::{Command, CommandError, MailParameters};
use crate::smtp::reply::Reply;

/// Where a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The greeting was sent; the client has not introduced itself.
    Greeted,
    /// Between transactions.
    Ready(Hello),
    /// MAIL was relayed; its answer is awaited.
    MailSent(Hello, Envelope),
    /// A transaction is open.
    MailGiven(Hello, Envelope),
    /// RCPT was relayed; its answer is awaited.
    RcptSent(Hello, Envelope, ForwardPath),
    /// The message is coming, or is being evaluated and handed on.
    Receiving(Hello, Envelope),
    /// The session is over.
    Closed,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The client sent a line.
    Line(Result<Command, CommandError>),
    /// The upstream's answer to what was relayed, or ours in its place.
    Answer(Reply),
    /// The relay guard does not let this recipient through.
    Guarded,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send the reply and read on.
    Say(Reply),
    /// Send the reply and close, for this reason.
    Close(Parting, Reply),
    /// Tell the client what is offered; the connection to the upstream, if there is one, is dropped.
    Introduce(Hello),
    /// Relay MAIL.
    RelayMail(ReversePath, MailParameters),
    /// Check the relay guard and relay RCPT.
    RelayRcpt(ForwardPath),
    /// Send 354 and take the message; its answer comes back as an event.
    Receive(Envelope),
    /// End the transaction with the upstream, then send the reply.
    Reset(Reply),
}

/// Why the state machine closes a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// The client said QUIT.
    Quit,
    /// The upstream closes, or the client is to come again.
    Unavailable,
    /// A PROXY header where none is expected.
    ProxyHeader,
    /// Mail of a client that has no address.
    HealthCheck,
}

/// What bounds a session's transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Recipients of a transaction.
    pub recipients: usize,
    /// Whether mail may be sent at all.
    pub client: ClientKind,
}

/// Who opened the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// A client that may send mail.
    Sender,
    /// A balancer's health check (PROXY v1 UNKNOWN, v2 LOCAL): it names no client, so it sends no mail.
    HealthCheck,
}

/// The outcome of an event in a state.
pub fn step(state: State, event: Event, bounds: Bounds) -> (State, Effect) {
    match event {
        Event::Line(Ok(command)) => on_command(state, command, bounds),
        Event::Line(Err(error)) => (state, Effect::Say(error.reply())),
        Event::Answer(reply) => on_answer(state, reply),
        Event::Guarded => on_guarded(state),
    }
}

fn on_command(state: State, command: Command, bounds: Bounds) -> (State, Effect) {
    use Command as C;
    match (command, state) {
        (C::Quit, _) => (State::Closed, Effect::Close(Parting::Quit, Reply::new(221, "2.0.0", "Bye"))),
        (C::ProxyHeader, _) => {
            let text = "A PROXY header is not expected from this address";
            (State::Closed, Effect::Close(Parting::ProxyHeader, Reply::new(554, "5.7.0", text)))
        }
        (C::Noop, state) => (state, Effect::Say(Reply::new(250, "2.0.0", "OK"))),
        (C::Help, state) => (state, Effect::Say(Reply::new(214, "2.0.0", "See RFC 5321"))),
        (C::Verify, state) => (state, Effect::Say(Reply::new(252, "2.5.0", "Send some mail, I'll try my best"))),
        // Nothing can be asked while an answer is awaited: the driver reads the client only between effects.
        (_, state @ (State::MailSent(..) | State::RcptSent(..) | State::Receiving(..) | State::Closed)) => {
            (state, bad_sequence("Wait for the reply"))
        }
        (C::Ehlo(name), _) => introduce(Hello { name, protocol: Protocol::Esmtp }),
        (C::Helo(name), _) => introduce(Hello { name, protocol: Protocol::Smtp }),
        (C::Rset, state) => (without_transaction(state), Effect::Reset(Reply::new(250, "2.0.0", "OK"))),
        (C::Mail { reverse_path, parameters }, State::Ready(hello)) => match bounds.client {
            ClientKind::HealthCheck => {
                let reply = Reply::new(421, "4.7.0", "No client address, no mail");
                (State::Closed, Effect::Close(Parting::HealthCheck, reply))
            }
            ClientKind::Sender => {
                let envelope = Envelope::new(reverse_path.clone(), parameters.clone());
                (State::MailSent(hello, envelope), Effect::RelayMail(reverse_path, parameters))
            }
        },
        (C::Mail { .. }, State::Greeted) => (State::Greeted, bad_sequence("Send EHLO or HELO first")),
        (C::Mail { .. }, state) => (state, bad_sequence("A transaction is open already")),
        (C::Rcpt(_), State::MailGiven(hello, envelope)) if envelope.recipients.len() >= bounds.recipients => {
            (State::MailGiven(hello, envelope), Effect::Say(Reply::new(452, "4.5.3", "Too many recipients")))
        }
        (C::Rcpt(path), State::MailGiven(hello, envelope)) => {
            (State::RcptSent(hello, envelope, path.clone()), Effect::RelayRcpt(path))
        }
        (C::Data, State::MailGiven(hello, envelope)) if envelope.recipients.is_empty() => {
            // RFC 5321 §3.3: 554 where no recipient was accepted; a client that pipelines may have sent DATA blindly.
            let reply = Reply::new(554, "5.5.1", "No valid recipients");
            (State::MailGiven(hello, envelope), Effect::Say(reply))
        }
        (C::Data, State::MailGiven(hello, envelope)) => {
            (State::Receiving(hello, envelope.clone()), Effect::Receive(envelope))
        }
        (C::Rcpt(_) | C::Data, state) => (state, bad_sequence("Send MAIL first")),
    }
}

fn on_answer(state: State, reply: Reply) -> (State, Effect) {
    // RFC 5321 §3.8: the server closes; so does the gate, having said so once.
    if reply.code() == 421 {
        return (State::Closed, Effect::Close(Parting::Unavailable, reply));
    }
    let accepted = reply.is_positive();
    let state = match state {
        State::MailSent(hello, envelope) if accepted => State::MailGiven(hello, envelope),
        State::MailSent(hello, _) | State::Receiving(hello, _) => State::Ready(hello),
        State::RcptSent(hello, mut envelope, path) => {
            if accepted {
                envelope.recipients.push(path);
            }
            State::MailGiven(hello, envelope)
        }
        // No answer is awaited.
        state @ (State::Greeted | State::Ready(_) | State::MailGiven(..) | State::Closed) => state,
    };
    (state, Effect::Say(reply))
}

fn on_guarded(state: State) -> (State, Effect) {
    on_answer(state, Reply::new(550, "5.7.1", "Relaying is not permitted"))
}

fn introduce(hello: Hello) -> (State, Effect) {
    // RFC 5321 §4.1.4: a second EHLO clears everything, as RSET does.
    (State::Ready(hello.clone()), Effect::Introduce(hello))
}

fn without_transaction(state: State) -> State {
    match state {
        State::MailGiven(hello, _) => State::Ready(hello),
        state => state,
    }
}

fn bad_sequence(text: &str) -> Effect {
    Effect::Say(Reply::new(503, "5.5.1", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { recipients: 2, client: ClientKind::Sender };

    fn command(line: &str) -> Command {
        Command::parse(line.as_bytes(), None).unwrap()
    }

    fn hello() -> Hello {
        let Command::Ehlo(name) = command("EHLO a.example") else { unreachable!() };
        Hello { name, protocol: Protocol::Esmtp }
    }

    fn path(text: &str) -> ForwardPath {
        ForwardPath::parse(text.as_bytes()).unwrap().0
    }

    fn envelope(recipients: usize) -> Envelope {
        let mut envelope = Envelope::new(ReversePath::Null, MailParameters::default());
        envelope.recipients = vec![path("<c@d.example>"); recipients];
        envelope
    }

    /// One of each state, by name.
    fn states() -> Vec<(&'static str, State)> {
        vec![
            ("greeted", State::Greeted),
            ("ready", State::Ready(hello())),
            ("mail sent", State::MailSent(hello(), envelope(0))),
            ("no recipient", State::MailGiven(hello(), envelope(0))),
            ("one recipient", State::MailGiven(hello(), envelope(1))),
            ("full", State::MailGiven(hello(), envelope(2))),
            ("rcpt sent", State::RcptSent(hello(), envelope(1), path("<e@f.example>"))),
            ("receiving", State::Receiving(hello(), envelope(1))),
            ("closed", State::Closed),
        ]
    }

    fn name(state: &State) -> String {
        match states().into_iter().find(|(_, s)| s == state) {
            Some((name, _)) => name.into(),
            None => format!("{state:?}"),
        }
    }

    fn outcome(effect: &Effect) -> String {
        match effect {
            Effect::Say(reply) => reply.code().to_string(),
            Effect::Close(parting, reply) => format!("{} close, {parting:?}", reply.code()),
            Effect::Introduce(_) => "introduce".into(),
            Effect::RelayMail(..) => "relay mail".into(),
            Effect::RelayRcpt(_) => "relay rcpt".into(),
            Effect::Receive(_) => "receive".into(),
            Effect::Reset(reply) => format!("reset {}", reply.code()),
        }
    }

    /// Every (state, event) pair; `=` means that the state stays.
    #[test]
    fn every_state_meets_every_event() {
        let order = states().into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        let table: [(&str, Event, [&str; 9]); 13] = [
            ("quit", line("QUIT"), ["221 close, Quit > closed"; 9]),
            ("proxy", line("PROXY TCP4"), ["554 close, ProxyHeader > closed"; 9]),
            ("noop", line("NOOP"), ["250 ="; 9]),
            ("help", line("HELP"), ["214 ="; 9]),
            ("vrfy", line("VRFY x"), ["252 ="; 9]),
            ("nonsense", Event::Line(Err(CommandError::Unknown)), ["500 ="; 9]),
            ("ehlo", line("EHLO a.example"), between("introduce > ready")),
            ("rset", line("RSET"), {
                let mut row = between("reset 250 > ready");
                row[0] = "reset 250 =";
                row[1] = "reset 250 =";
                row
            }),
            ("mail", line("MAIL FROM:<>"), {
                let mut row = ["503 ="; 9];
                row[1] = "relay mail > mail sent";
                row
            }),
            ("rcpt", line("RCPT TO:<e@f.example>"), {
                let mut row = ["503 ="; 9];
                row[3] = "relay rcpt > RcptSent";
                row[4] = "relay rcpt > rcpt sent";
                row[5] = "452 =";
                row
            }),
            ("data", line("DATA"), {
                let mut row = ["503 ="; 9];
                row[3] = "554 =";
                row[4] = "receive > receiving";
                row[5] = "receive > Receiving";
                row
            }),
            ("refused", Event::Answer(Reply::new(550, "", "no")), {
                let mut row = ["550 ="; 9];
                row[2] = "550 > ready";
                row[6] = "550 > one recipient";
                row[7] = "550 > ready";
                row
            }),
            ("upstream closes", Event::Answer(Reply::new(421, "", "bye")), ["421 close, Unavailable > closed"; 9]),
        ];
        for (event_name, event, row) in table {
            for ((state_name, state), expected) in states().into_iter().zip(row) {
                let (after, effect) = step(state.clone(), event.clone(), BOUNDS);
                let (said, place) = expected.split_once(" > ").unwrap_or((expected.trim_end_matches(" ="), "="));
                assert_eq!(outcome(&effect), said, "{event_name} when {state_name}");
                match place {
                    "=" => assert_eq!(after, state, "{event_name} when {state_name}"),
                    place if order.contains(&place) => {
                        assert_eq!(name(&after), place, "{event_name} when {state_name}")
                    }
                    place => assert!(name(&after).starts_with(place), "{event_name} when {state_name}: {after:?}"),
                }
            }
        }
    }

    /// A row in which nothing is allowed while an answer is awaited.
    fn between(outcome: &'static str) -> [&'static str; 9] {
        ["503 =", "503 =", "503 =", "503 =", "503 =", "503 =", "503 =", "503 =", "503 ="].map({
            let mut at = 0;
            move |waiting| {
                at += 1;
                if [3, 7, 8, 9].contains(&at) { waiting } else { outcome }
            }
        })
    }

    fn line(text: &str) -> Event {
        Event::Line(Ok(command(text)))
    }

    #[test]
    fn accepted_answers_move_on() {
        let ok = || Event::Answer(Reply::new(250, "2.0.0", "OK"));
        let (state, _) = step(State::MailSent(hello(), envelope(0)), ok(), BOUNDS);
        assert_eq!(state, State::MailGiven(hello(), envelope(0)));
        let (state, _) = step(State::RcptSent(hello(), envelope(0), path("<c@d.example>")), ok(), BOUNDS);
        assert_eq!(state, State::MailGiven(hello(), envelope(1)));
        let (state, effect) =
            step(State::RcptSent(hello(), envelope(1), path("<e@f.example>")), Event::Guarded, BOUNDS);
        assert_eq!((name(&state).as_str(), outcome(&effect).as_str()), ("one recipient", "550"));
        let (state, _) = step(State::Receiving(hello(), envelope(1)), ok(), BOUNDS);
        assert_eq!(state, State::Ready(hello()));
    }

    #[test]
    fn a_health_check_sends_no_mail() {
        let bounds = Bounds { client: ClientKind::HealthCheck, ..BOUNDS };
        let (state, effect) = step(State::Ready(hello()), line("MAIL FROM:<>"), bounds);
        assert_eq!((state, outcome(&effect).as_str()), (State::Closed, "421 close, HealthCheck"));
    }
}
