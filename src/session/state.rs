//! The session's state machine: what the client and the upstream say, and what is to be done about it. Pure.
//!
//! A state owns what exists in it. Every pair of state and event has an outcome; the driver (`session`) performs the
//! effect and comes back with the next event.

use super::refusal::CommandRefusal;
use crate::envelope::{Envelope, Hello, Protocol};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::command::{AuthLine, Chunk, ChunkPosition, Command, CommandError, MailParameters, RcptParameters};
use crate::smtp::reply::Reply;

/// Where a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The greeting was sent; the client has not introduced itself.
    Greeted,
    /// Between transactions.
    Ready(Hello),
    /// AUTH was relayed; its answer is awaited.
    AuthSent(Hello),
    /// MAIL was relayed; its answer is awaited.
    MailSent(Hello, Envelope),
    /// A transaction is open.
    MailGiven(Hello, Envelope),
    /// A transaction is open whose only recipient is one for bounces of reports.
    BounceGiven(Hello, Envelope),
    /// RCPT was relayed; its answer is awaited.
    RcptSent(Hello, Envelope, ForwardPath),
    /// The message is coming, or is being evaluated and handed on.
    Receiving(Hello, Envelope),
    /// A chunk is coming; behind the last one the message is being evaluated and handed on.
    ChunkSent(Hello, Envelope, ChunkPosition),
    /// Between the chunks of a message.
    Chunked(Hello, Envelope),
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
    /// This recipient is for bounces of reports: the gate itself takes what comes to it.
    Caught,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send the reply and read on.
    Say(Reply),
    /// Say why not, and read on.
    Refuse(CommandRefusal),
    /// Send the reply and close, for this reason.
    Close(Parting, Reply),
    /// Tell the client what is offered. The connection to the upstream, if there is one, is closed; or only reset, where
    /// the client has authenticated on it.
    Introduce(Hello),
    /// Say 220, throw away what the client has sent, and shake hands.
    Secure,
    /// Relay AUTH to its end; its answer comes back as an event.
    LogIn(Box<str>, Option<AuthLine>),
    /// Relay MAIL.
    RelayMail(ReversePath, MailParameters),
    /// Check the relay guard and relay RCPT.
    RelayRcpt(ForwardPath, RcptParameters),
    /// Send 354 and take the message; its answer comes back as an event.
    Receive,
    /// Take the octets of a chunk; the answer to it, or to the whole message, comes back as an event.
    ReceiveChunk(Chunk),
    /// Drop as many octets as were announced, then say why not.
    Skip(Chunk, CommandRefusal),
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
    /// What the client sends can't be told apart any more.
    Lost,
    /// Mail of a client that has no address.
    HealthCheck,
}

/// What bounds a session and its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Recipients of a transaction.
    pub recipients: usize,
    /// Whether mail may be sent at all.
    pub client: ClientKind,
    /// What there is of TLS.
    pub security: Security,
    /// What there is of AUTH.
    pub login: Login,
    /// Whether BDAT is on offer.
    pub chunking: bool,
}

/// What there is of TLS on a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Nothing.
    Unavailable,
    /// STARTTLS may be given.
    Offered,
    /// STARTTLS must be given before anything else (RFC 3207 §4).
    Required,
    /// It protects the connection.
    Active,
}

/// What there is of AUTH on a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// Nothing.
    Unavailable,
    /// It may be given once TLS protects the connection.
    NeedsTls,
    /// It may be given.
    Offered,
    /// It was given.
    Done,
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
        // What follows can't be told apart from what the client wants said.
        Event::Line(Err(error @ CommandError::ChunkSize)) => {
            (State::Closed, Effect::Close(Parting::Lost, error.reply()))
        }
        Event::Line(Err(error)) => (state, Effect::Refuse(CommandRefusal::Line(error))),
        Event::Answer(reply) => on_answer(state, reply),
        Event::Guarded => on_guarded(state),
        Event::Caught => on_caught(state),
    }
}

fn on_command(state: State, command: Command, bounds: Bounds) -> (State, Effect) {
    match command {
        Command::Quit => (State::Closed, Effect::Close(Parting::Quit, Reply::new(221, "2.0.0", "Bye"))),
        Command::ProxyHeader => {
            let text = "A PROXY header is not expected from this address";
            (State::Closed, Effect::Close(Parting::ProxyHeader, Reply::new(554, "5.7.0", text)))
        }
        Command::Noop => (state, Effect::Say(Reply::new(250, "2.0.0", "OK"))),
        // The octets come whatever the answer, so they are read before it.
        Command::Bdat(chunk) => on_chunk(state, chunk, bounds),
        // Nothing can be asked while an answer is awaited: the driver reads the client only between effects.
        _ if is_waiting(&state) => (state, out_of_sequence("Wait for the reply")),
        Command::Ehlo(name) => introduce(Hello { name, protocol: Protocol::Esmtp }),
        Command::Helo(name) => introduce(Hello { name, protocol: Protocol::Smtp }),
        Command::StartTls => on_starttls(state, bounds.security),
        _ if bounds.security == Security::Required => (state, Effect::Refuse(CommandRefusal::NeedsTls)),
        Command::Help => (state, Effect::Say(Reply::new(214, "2.0.0", "See RFC 5321"))),
        Command::Verify => (state, Effect::Say(Reply::new(252, "2.5.0", "Send some mail, I'll try my best"))),
        Command::Rset => (without_transaction(state), Effect::Reset(Reply::new(250, "2.0.0", "OK"))),
        command => on_mail_command(state, command, bounds),
    }
}

/// The commands that make up a transaction, and AUTH.
fn on_mail_command(state: State, command: Command, bounds: Bounds) -> (State, Effect) {
    use Command as C;
    match (command, state) {
        (C::Mail { .. } | C::Auth { .. }, State::Ready(_)) if bounds.client == ClientKind::HealthCheck => {
            let reply = Reply::new(421, "4.7.0", "No client address, no mail");
            (State::Closed, Effect::Close(Parting::HealthCheck, reply))
        }
        (C::Auth { mechanism, initial }, State::Ready(hello)) => on_auth(hello, mechanism, initial, bounds.login),
        (C::Auth { .. }, state) => (state, out_of_sequence("AUTH is not possible here")),
        (C::Mail { reverse_path, parameters }, State::Ready(hello)) => {
            let envelope = Envelope::new(reverse_path.clone(), parameters.clone());
            (State::MailSent(hello, envelope), Effect::RelayMail(reverse_path, parameters))
        }
        (C::Mail { .. }, State::Greeted) => (State::Greeted, out_of_sequence("Send EHLO or HELO first")),
        (C::Mail { .. }, state) => (state, out_of_sequence("A transaction is open already")),
        (_, state @ State::Chunked(..)) => (state, out_of_sequence("Only BDAT may follow BDAT")),
        (C::Rcpt { .. }, state @ State::BounceGiven(..)) => (state, Effect::Refuse(CommandRefusal::NotBeside)),
        (C::Data, State::BounceGiven(hello, envelope)) => (State::Receiving(hello, envelope), Effect::Receive),
        (C::Rcpt { .. }, State::MailGiven(hello, envelope)) if envelope.recipients.len() >= bounds.recipients => {
            (State::MailGiven(hello, envelope), Effect::Refuse(CommandRefusal::TooManyRecipients))
        }
        (C::Rcpt { forward_path, parameters }, State::MailGiven(hello, envelope))
            if !(envelope.parameters.smtp_utf8 || forward_path.is_ascii() && parameters.is_ascii()) =>
        {
            (State::MailGiven(hello, envelope), Effect::Refuse(CommandRefusal::NeedsSmtpUtf8))
        }
        (C::Rcpt { forward_path, parameters }, State::MailGiven(hello, envelope)) => {
            (State::RcptSent(hello, envelope, forward_path.clone()), Effect::RelayRcpt(forward_path, parameters))
        }
        (C::Data, State::MailGiven(hello, envelope)) if envelope.recipients.is_empty() => {
            // A client that pipelines may have sent DATA blindly.
            (State::MailGiven(hello, envelope), Effect::Refuse(CommandRefusal::NoRecipients))
        }
        (C::Data, State::MailGiven(hello, envelope)) => (State::Receiving(hello, envelope), Effect::Receive),
        (_, state) => (state, Effect::Refuse(CommandRefusal::NoTransaction)),
    }
}

fn on_starttls(state: State, security: Security) -> (State, Effect) {
    match (state, security) {
        (state, Security::Unavailable) => (state, Effect::Refuse(CommandRefusal::Line(CommandError::NotOffered))),
        (state, Security::Active) => (state, out_of_sequence("TLS is active already")),
        // RFC 3207 §4.2: all that was said before is forgotten.
        (_, Security::Offered | Security::Required) => (State::Greeted, Effect::Secure),
    }
}

fn on_auth(hello: Hello, mechanism: Box<str>, initial: Option<AuthLine>, login: Login) -> (State, Effect) {
    let refusal = match (login, hello.protocol) {
        (Login::Unavailable, _) | (_, Protocol::Smtp) => CommandRefusal::Line(CommandError::NotOffered),
        (Login::NeedsTls, _) => CommandRefusal::LoginNeedsTls,
        // RFC 4954 §4: once a session.
        (Login::Done, _) => CommandRefusal::OutOfSequence("Authenticated already"),
        (Login::Offered, _) => return (State::AuthSent(hello), Effect::LogIn(mechanism, initial)),
    };
    (State::Ready(hello), Effect::Refuse(refusal))
}

fn on_chunk(state: State, chunk: Chunk, bounds: Bounds) -> (State, Effect) {
    let (state, refusal) = match (state, bounds) {
        (state, Bounds { security: Security::Required, .. }) => (state, CommandRefusal::NeedsTls),
        (state, Bounds { chunking: false, .. }) => (state, CommandRefusal::Line(CommandError::NotOffered)),
        (State::MailGiven(hello, envelope), _) if envelope.recipients.is_empty() => {
            (State::MailGiven(hello, envelope), CommandRefusal::NoRecipients)
        }
        (
            State::MailGiven(hello, envelope) | State::BounceGiven(hello, envelope) | State::Chunked(hello, envelope),
            _,
        ) => {
            return (State::ChunkSent(hello, envelope, chunk.position), Effect::ReceiveChunk(chunk));
        }
        (state, _) => (state, CommandRefusal::NoTransaction),
    };
    (state, Effect::Skip(chunk, refusal))
}

fn on_answer(state: State, reply: Reply) -> (State, Effect) {
    // RFC 5321 §3.8: the server closes; so does the gate, having said so once.
    if reply.code() == 421 {
        return (State::Closed, Effect::Close(Parting::Unavailable, reply));
    }
    let accepted = reply.is_positive();
    let state = match state {
        State::MailSent(hello, envelope) if accepted => State::MailGiven(hello, envelope),
        State::ChunkSent(hello, envelope, ChunkPosition::Inner) if accepted => State::Chunked(hello, envelope),
        // RFC 3030 §2: a chunk that fails ends the transaction.
        State::AuthSent(hello)
        | State::MailSent(hello, _)
        | State::Receiving(hello, _)
        | State::ChunkSent(hello, ..) => State::Ready(hello),
        State::RcptSent(hello, mut envelope, path) => {
            if accepted {
                envelope.recipients.push(path);
            }
            State::MailGiven(hello, envelope)
        }
        // No answer is awaited.
        state @ (State::Greeted
        | State::Ready(_)
        | State::MailGiven(..)
        | State::BounceGiven(..)
        | State::Chunked(..)
        | State::Closed) => state,
    };
    (state, Effect::Say(reply))
}

fn on_guarded(state: State) -> (State, Effect) {
    on_answer(state, Reply::new(550, "5.7.1", "Relaying is not permitted"))
}

fn on_caught(state: State) -> (State, Effect) {
    let reply = Reply::new(250, "2.1.5", "OK");
    match state {
        State::RcptSent(hello, mut envelope, path) => {
            envelope.recipients.push(path);
            (State::BounceGiven(hello, envelope), Effect::Say(reply))
        }
        // No recipient is awaited.
        state => on_answer(state, reply),
    }
}

fn introduce(hello: Hello) -> (State, Effect) {
    // RFC 5321 §4.1.4: a second EHLO clears everything, as RSET does.
    (State::Ready(hello.clone()), Effect::Introduce(hello))
}

fn without_transaction(state: State) -> State {
    match state {
        State::MailGiven(hello, _) | State::BounceGiven(hello, _) | State::Chunked(hello, _) => State::Ready(hello),
        state => state,
    }
}

/// Whether the driver has something to finish before the next line.
fn is_waiting(state: &State) -> bool {
    match state {
        State::AuthSent(_)
        | State::MailSent(..)
        | State::RcptSent(..)
        | State::Receiving(..)
        | State::ChunkSent(..)
        | State::Closed => true,
        State::Greeted | State::Ready(_) | State::MailGiven(..) | State::BounceGiven(..) | State::Chunked(..) => false,
    }
}

fn out_of_sequence(text: &'static str) -> Effect {
    Effect::Refuse(CommandRefusal::OutOfSequence(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::extension::Offer;

    const BOUNDS: Bounds = Bounds {
        recipients: 2,
        client: ClientKind::Sender,
        security: Security::Offered,
        login: Login::Offered,
        chunking: true,
    };

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
            ("bounce", State::BounceGiven(hello(), envelope(1))),
            ("rcpt sent", State::RcptSent(hello(), envelope(1), path("<e@f.example>"))),
            ("receiving", State::Receiving(hello(), envelope(1))),
            ("auth sent", State::AuthSent(hello())),
            ("chunk sent", State::ChunkSent(hello(), envelope(1), ChunkPosition::Inner)),
            ("last chunk sent", State::ChunkSent(hello(), envelope(1), ChunkPosition::Last)),
            ("chunked", State::Chunked(hello(), envelope(1))),
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
            Effect::Refuse(refusal) => refusal.reply().code().to_string(),
            Effect::Close(parting, reply) => format!("{} close, {parting:?}", reply.code()),
            Effect::Introduce(_) => "introduce".into(),
            Effect::RelayMail(..) => "relay mail".into(),
            Effect::Secure => "secure".into(),
            Effect::LogIn(..) => "log in".into(),
            Effect::RelayRcpt(..) => "relay rcpt".into(),
            Effect::Receive => "receive".into(),
            Effect::ReceiveChunk(_) => "receive chunk".into(),
            Effect::Skip(_, refusal) => format!("skip {}", refusal.reply().code()),
            Effect::Reset(reply) => format!("reset {}", reply.code()),
        }
    }

    /// Every (state, event) pair. A row says what happens where nothing is awaited (greeted, ready, no recipient, one
    /// recipient, full, bounce, chunked), and what while something is; `=` means that the state stays.
    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of cases")]
    fn every_state_meets_every_event() {
        type Row = ([&'static str; 7], &'static str);
        let same = |outcome| ([outcome; 7], outcome);
        let free = |outcome| ([outcome; 7], "503 =");
        let table: [(&str, Event, Row); 18] = [
            ("quit", line("QUIT"), same("221 close, Quit > closed")),
            ("proxy", line("PROXY TCP4"), same("554 close, ProxyHeader > closed")),
            ("noop", line("NOOP"), same("250 =")),
            ("help", line("HELP"), free("214 =")),
            ("vrfy", line("VRFY x"), free("252 =")),
            ("nonsense", Event::Line(Err(CommandError::Unknown)), same("500 =")),
            ("odd chunk", Event::Line(Err(CommandError::ChunkSize)), same("501 close, Lost > closed")),
            ("ehlo", line("EHLO a.example"), free("introduce > ready")),
            ("starttls", line("STARTTLS"), free("secure > greeted")),
            (
                "auth",
                line("AUTH PLAIN"),
                (["503 =", "log in > auth sent", "503 =", "503 =", "503 =", "503 =", "503 ="], "503 ="),
            ),
            (
                "rset",
                line("RSET"),
                (
                    [
                        "reset 250 =",
                        "reset 250 =",
                        "reset 250 > ready",
                        "reset 250 > ready",
                        "reset 250 > ready",
                        "reset 250 > ready",
                        "reset 250 > ready",
                    ],
                    "503 =",
                ),
            ),
            (
                "mail",
                line("MAIL FROM:<>"),
                (["503 =", "relay mail > mail sent", "503 =", "503 =", "503 =", "503 =", "503 ="], "503 ="),
            ),
            (
                "rcpt",
                line("RCPT TO:<e@f.example>"),
                (
                    ["503 =", "503 =", "relay rcpt > RcptSent", "relay rcpt > rcpt sent", "452 =", "452 =", "503 ="],
                    "503 =",
                ),
            ),
            (
                "data",
                line("DATA"),
                (
                    [
                        "503 =",
                        "503 =",
                        "554 =",
                        "receive > receiving",
                        "receive > Receiving",
                        "receive > receiving",
                        "503 =",
                    ],
                    "503 =",
                ),
            ),
            (
                "bdat",
                line("BDAT 5"),
                (
                    [
                        "skip 503 =",
                        "skip 503 =",
                        "skip 554 =",
                        "receive chunk > chunk sent",
                        "receive chunk > ChunkSent",
                        "receive chunk > chunk sent",
                        "receive chunk > chunk sent",
                    ],
                    "skip 503 =",
                ),
            ),
            (
                "bdat last",
                line("BDAT 5 LAST"),
                (
                    [
                        "skip 503 =",
                        "skip 503 =",
                        "skip 554 =",
                        "receive chunk > last chunk sent",
                        "receive chunk > ChunkSent",
                        "receive chunk > last chunk sent",
                        "receive chunk > last chunk sent",
                    ],
                    "skip 503 =",
                ),
            ),
            ("refused", Event::Answer(Reply::new(550, "", "no")), (["550 ="; 7], "550 > ready")),
            ("upstream closes", Event::Answer(Reply::new(421, "", "bye")), same("421 close, Unavailable > closed")),
        ];
        let open = ["greeted", "ready", "no recipient", "one recipient", "full", "bounce", "chunked"];
        for (event_name, event, (free, waiting)) in table {
            for (state_name, state) in states() {
                let expected = match open.iter().position(|name| *name == state_name) {
                    Some(index) => free[index],
                    // A recipient that is refused leaves its transaction open.
                    None if event_name == "refused" && state_name == "rcpt sent" => "550 > one recipient",
                    None if event_name == "refused" && state_name == "closed" => "550 =",
                    None => waiting,
                };
                let (after, effect) = step(state.clone(), event.clone(), BOUNDS);
                let (said, place) = expected.split_once(" > ").unwrap_or((expected.trim_end_matches(" ="), "="));
                assert_eq!(outcome(&effect), said, "{event_name} when {state_name}");
                match place {
                    "=" => assert_eq!(after, state, "{event_name} when {state_name}"),
                    place if states().iter().any(|(name, _)| *name == place) => {
                        assert_eq!(name(&after), place, "{event_name} when {state_name}")
                    }
                    place => assert!(name(&after).starts_with(place), "{event_name} when {state_name}: {after:?}"),
                }
            }
        }
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
        for waiting in [
            State::Receiving(hello(), envelope(1)),
            State::ChunkSent(hello(), envelope(1), ChunkPosition::Last),
            State::AuthSent(hello()),
        ] {
            assert_eq!(step(waiting, ok(), BOUNDS).0, State::Ready(hello()));
        }
        let (state, _) = step(State::ChunkSent(hello(), envelope(1), ChunkPosition::Inner), ok(), BOUNDS);
        assert_eq!(state, State::Chunked(hello(), envelope(1)));
    }

    #[test]
    fn a_recipient_for_bounces_is_alone_in_its_transaction() {
        let (state, effect) = step(State::RcptSent(hello(), envelope(0), path("<c@d.example>")), Event::Caught, BOUNDS);
        assert_eq!((name(&state).as_str(), outcome(&effect).as_str()), ("bounce", "250"));
        for (state_name, state) in states().into_iter().filter(|(name, _)| *name != "rcpt sent") {
            assert!(!matches!(step(state, Event::Caught, BOUNDS).0, State::BounceGiven(..)) || state_name == "bounce");
        }
    }

    #[test]
    fn a_health_check_sends_no_mail() {
        let bounds = Bounds { client: ClientKind::HealthCheck, ..BOUNDS };
        let (state, effect) = step(State::Ready(hello()), line("MAIL FROM:<>"), bounds);
        assert_eq!((state, outcome(&effect).as_str()), (State::Closed, "421 close, HealthCheck"));
    }

    #[test]
    fn tls_first_where_it_is_required() {
        let bounds = Bounds { security: Security::Required, ..BOUNDS };
        let cases = [
            ("EHLO a.example", "introduce"),
            ("HELO a.example", "introduce"),
            ("STARTTLS", "secure"),
            ("NOOP", "250"),
            ("QUIT", "221 close, Quit"),
            ("MAIL FROM:<>", "530"),
            ("AUTH PLAIN", "530"),
            ("RSET", "530"),
            ("VRFY x", "530"),
            ("HELP", "530"),
            ("DATA", "530"),
            ("BDAT 5", "skip 530"),
        ];
        for (text, expected) in cases {
            assert_eq!(outcome(&step(State::Ready(hello()), line(text), bounds).1), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_offered_is_refused() {
        let mut helo = hello();
        helo.protocol = Protocol::Smtp;
        let cases = [
            ("STARTTLS", Bounds { security: Security::Unavailable, ..BOUNDS }, hello(), "502"),
            ("STARTTLS", Bounds { security: Security::Active, ..BOUNDS }, hello(), "503"),
            ("AUTH PLAIN", Bounds { login: Login::Unavailable, ..BOUNDS }, hello(), "502"),
            ("AUTH PLAIN", BOUNDS, helo, "502"),
            ("AUTH PLAIN", Bounds { login: Login::NeedsTls, ..BOUNDS }, hello(), "538"),
            ("AUTH PLAIN", Bounds { login: Login::Done, ..BOUNDS }, hello(), "503"),
            ("AUTH PLAIN", Bounds { client: ClientKind::HealthCheck, ..BOUNDS }, hello(), "421 close, HealthCheck"),
            ("BDAT 5 LAST", Bounds { chunking: false, ..BOUNDS }, hello(), "skip 502"),
        ];
        for (text, bounds, hello, expected) in cases {
            assert_eq!(outcome(&step(State::Ready(hello), line(text), bounds).1), expected, "{text} {bounds:?}");
        }
    }

    #[test]
    fn a_recipient_beyond_ascii_needs_smtputf8_in_mail() {
        let offer = Offer { smtp_utf8: true, dsn: true, ..Offer::default() };
        for text in ["RCPT TO:<ü@d.example>", "RCPT TO:<c@d.example> ORCPT=utf-8;ü@d.example"] {
            let rcpt = || Event::Line(Command::parse(text.as_bytes(), Some(&offer)));
            let mut envelope = envelope(0);
            assert_eq!(outcome(&step(State::MailGiven(hello(), envelope.clone()), rcpt(), BOUNDS).1), "553", "{text}");
            envelope.parameters.smtp_utf8 = true;
            assert_eq!(outcome(&step(State::MailGiven(hello(), envelope), rcpt(), BOUNDS).1), "relay rcpt", "{text}");
        }
    }
}
