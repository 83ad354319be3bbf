//! The state machine of a session, driven as its driver does and held against a model of its own.

use dmarcgate::envelope::{Envelope, Hello, Protocol};
use dmarcgate::session::state::{Bounds, ClientKind, Effect, Event, Login, Parting, Security, State, step};
use dmarcgate::smtp::address::{ForwardPath, ReversePath};
use dmarcgate::smtp::command::{ChunkPosition, Command, CommandError, MailParameters};
use dmarcgate::smtp::extension::Offer;
use dmarcgate::smtp::reply::{Reply, ReplyReader};

use super::smtp::{everything, well_formed};

/// A line that says what is offered, then one for each event: a command, or where an answer is awaited what the
/// upstream says; there `guard` is the relay guard's refusal.
pub fn session(input: &[u8]) {
    let mut lines = input.split(|b| *b == b'\n');
    let mut model = Model::new(lines.next().unwrap_or_default());
    let mut state = State::Greeted;
    for line in lines {
        let event = model.event(line);
        let (next, effect) = step(state.clone(), event.clone(), model.bounds);
        model.check(&event, &effect);
        model.follow(&event, &effect);
        assert_eq!(next, model.state(), "{effect:?} of {event:?} in {state:?}");
        if model.stage == Stage::Closed {
            return;
        }
        state = next;
    }
}

/// What a session has come to, told from effects and answers alone.
struct Model {
    bounds: Bounds,
    /// What there was of TLS and AUTH when the client came.
    at_first: (Security, Login),
    offer: Option<Offer>,
    hello: Option<Hello>,
    transaction: Option<Envelope>,
    stage: Stage,
}

/// What is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Line,
    /// Only BDAT, RSET and the like.
    Chunks,
    /// The only recipient is one for bounces of reports.
    Bounce,
    Login,
    Mail,
    Rcpt(ForwardPath),
    Message,
    Chunk(ChunkPosition),
    Closed,
}

impl Model {
    /// Reads letters: `h` a health check, `o`, `r` or `a` STARTTLS offered, required or TLS active, `l` or `t` AUTH
    /// offered or after TLS, `b` no BDAT, and a digit for the recipients.
    fn new(letters: &[u8]) -> Self {
        let has = |letter| letters.contains(&letter);
        let pick = |of: &[u8]| of.iter().copied().find(|letter| has(*letter));
        let security = match pick(b"ora") {
            Some(b'o') => Security::Offered,
            Some(b'r') => Security::Required,
            Some(_) => Security::Active,
            None => Security::Unavailable,
        };
        let login = match pick(b"lt") {
            Some(b'l') => Login::Offered,
            Some(_) => Login::NeedsTls,
            None => Login::Unavailable,
        };
        let client = if has(b'h') { ClientKind::HealthCheck } else { ClientKind::Sender };
        let recipients = letters.iter().find(|b| b.is_ascii_digit()).map_or(2, |digit| usize::from(digit - b'0'));
        let bounds = Bounds { recipients, client, security, login, chunking: !has(b'b') };
        let (offer, hello, transaction) = (None, None, None);
        Self { bounds, at_first: (security, login), offer, hello, transaction, stage: Stage::Line }
    }

    /// The next event, as a driver would have it.
    fn event(&self, line: &[u8]) -> Event {
        match self.stage {
            Stage::Line | Stage::Chunks | Stage::Bounce | Stage::Closed => {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                Event::Line(Command::parse(line, self.offer.as_ref()))
            }
            Stage::Rcpt(_) if line == b"guard" => Event::Guarded,
            Stage::Rcpt(_) if line == b"bounce" && self.recipients() == 0 => Event::Caught,
            Stage::Login | Stage::Mail | Stage::Rcpt(_) | Stage::Message | Stage::Chunk(_) => {
                let reply = ReplyReader::default().line(line).ok().flatten();
                Event::Answer(reply.unwrap_or_else(|| Reply::new(451, "4.3.0", "Not understood")))
            }
        }
    }

    fn recipients(&self) -> usize {
        self.transaction.as_ref().map_or(0, |envelope| envelope.recipients.len())
    }

    /// Whether the effect may be.
    fn check(&self, event: &Event, effect: &Effect) {
        let Bounds { security, login, client, .. } = self.bounds;
        let envelope = self.transaction.as_ref();
        let may_send = client == ClientKind::Sender && security != Security::Required;
        match effect {
            Effect::Say(reply) => self.check_reply(event, reply),
            Effect::Refuse(refusal) => {
                assert!(matches!(event, Event::Line(_)), "the upstream's answer is refused: {event:?}");
                self.check_reply(event, &refusal.reply());
            }
            Effect::Close(parting, reply) => {
                well_formed(reply);
                let is_told = matches!(event, Event::Answer(reply) if reply.code() == 421);
                assert_eq!(is_told, *parting == Parting::Unavailable, "{event:?}");
                assert_eq!(matches!(event, Event::Line(Ok(Command::Quit))), *parting == Parting::Quit);
                assert!(*parting != Parting::HealthCheck || client == ClientKind::HealthCheck);
            }
            Effect::Introduce(_) => {
                assert!(matches!(event, Event::Line(Ok(Command::Ehlo(_) | Command::Helo(_)))), "{event:?}");
            }
            Effect::Secure => assert!(matches!(security, Security::Offered | Security::Required)),
            Effect::LogIn(..) => {
                assert!(may_send && login == Login::Offered && envelope.is_none());
                assert!(self.hello.as_ref().is_some_and(|hello| hello.protocol == Protocol::Esmtp));
            }
            Effect::RelayMail(path, parameters) => {
                assert!(may_send && self.hello.is_some() && envelope.is_none());
                assert!(said(event, path, parameters), "{event:?}");
            }
            Effect::RelayRcpt(path, parameters) => {
                let envelope = envelope.expect("MAIL was accepted");
                assert!(may_send && self.stage == Stage::Line && envelope.recipients.len() < self.bounds.recipients);
                assert!(envelope.parameters.smtp_utf8 || path.is_ascii() && parameters.is_ascii());
                let command = Command::Rcpt { forward_path: path.clone(), parameters: parameters.clone() };
                assert_eq!(*event, Event::Line(Ok(command)));
            }
            Effect::Receive => {
                assert!(may_send && matches!(self.stage, Stage::Line | Stage::Bounce));
                assert!(envelope.is_some_and(|envelope| !envelope.recipients.is_empty()), "no recipient");
            }
            Effect::ReceiveChunk(chunk) => {
                assert!(may_send && self.bounds.chunking);
                assert!(envelope.is_some_and(|envelope| !envelope.recipients.is_empty()), "no recipient");
                assert_eq!(*event, Event::Line(Ok(Command::Bdat(*chunk))));
            }
            Effect::Skip(chunk, refusal) => {
                assert!(refusal.reply().is_permanent());
                assert_eq!(*event, Event::Line(Ok(Command::Bdat(*chunk))));
            }
            Effect::Reset(reply) => {
                assert!(reply.is_positive() && security != Security::Required);
                assert_eq!(*event, Event::Line(Ok(Command::Rset)));
            }
        }
    }

    fn check_reply(&self, event: &Event, reply: &Reply) {
        well_formed(reply);
        match event {
            Event::Answer(answer) => assert_eq!(reply, answer, "in the upstream's own words"),
            Event::Guarded => assert!(reply.is_permanent()),
            Event::Caught => assert!(reply.is_positive() && self.recipients() == 0),
            Event::Line(Ok(Command::Noop)) => assert!(reply.is_positive()),
            Event::Line(Ok(Command::Help | Command::Verify)) if self.bounds.security != Security::Required => {}
            // What the upstream alone can say yes to, it was not asked.
            Event::Line(_) => assert!(reply.code() >= 400, "{reply} to {event:?}"),
        }
        assert!(!matches!(event, Event::Line(Err(CommandError::ChunkSize) | Ok(Command::Quit))), "{event:?}");
    }

    fn follow(&mut self, event: &Event, effect: &Effect) {
        match effect {
            Effect::Close(..) => self.stage = Stage::Closed,
            Effect::Introduce(hello) => {
                self.offer = (hello.protocol == Protocol::Esmtp).then(|| everything(1000));
                self.hello = Some(hello.clone());
                self.forget();
            }
            Effect::Secure => {
                (self.offer, self.hello) = (None, None);
                self.bounds.security = Security::Active;
                self.bounds.login =
                    if self.at_first.1 == Login::Unavailable { Login::Unavailable } else { Login::Offered };
                self.forget();
            }
            Effect::LogIn(..) => self.stage = Stage::Login,
            Effect::RelayMail(path, parameters) => {
                self.transaction = Some(Envelope::new(path.clone(), parameters.clone()));
                self.stage = Stage::Mail;
            }
            Effect::RelayRcpt(path, _) => self.stage = Stage::Rcpt(path.clone()),
            Effect::Receive => self.stage = Stage::Message,
            Effect::ReceiveChunk(chunk) => self.stage = Stage::Chunk(chunk.position),
            Effect::Reset(_) => self.forget(),
            Effect::Refuse(_) | Effect::Skip(..) => {}
            Effect::Say(reply) => match event {
                Event::Line(_) => {}
                Event::Answer(_) | Event::Guarded => self.answered(reply.is_positive()),
                Event::Caught => {
                    self.answered(true);
                    self.stage = Stage::Bounce;
                }
            },
        }
    }

    fn answered(&mut self, accepted: bool) {
        match std::mem::replace(&mut self.stage, Stage::Line) {
            Stage::Login if accepted => self.bounds.login = Login::Done,
            Stage::Mail if accepted => {}
            Stage::Rcpt(path) => {
                let envelope = self.transaction.as_mut().filter(|_| accepted);
                envelope.into_iter().for_each(|envelope| envelope.recipients.push(path.clone()));
            }
            Stage::Chunk(ChunkPosition::Inner) if accepted => self.stage = Stage::Chunks,
            _ => self.transaction = None,
        }
    }

    fn forget(&mut self) {
        (self.transaction, self.stage) = (None, Stage::Line);
    }

    /// The state in which all this is remembered.
    fn state(&self) -> State {
        let hello = || self.hello.clone().expect("a client that has introduced itself");
        let envelope = || self.transaction.clone().expect("a transaction");
        match &self.stage {
            Stage::Closed => State::Closed,
            Stage::Line if self.hello.is_none() => State::Greeted,
            Stage::Line if self.transaction.is_none() => State::Ready(hello()),
            Stage::Line => State::MailGiven(hello(), envelope()),
            Stage::Bounce => State::BounceGiven(hello(), envelope()),
            Stage::Chunks => State::Chunked(hello(), envelope()),
            Stage::Login => State::AuthSent(hello()),
            Stage::Mail => State::MailSent(hello(), envelope()),
            Stage::Rcpt(path) => State::RcptSent(hello(), envelope(), path.clone()),
            Stage::Message => State::Receiving(hello(), envelope()),
            Stage::Chunk(position) => State::ChunkSent(hello(), envelope(), *position),
        }
    }
}

fn said(event: &Event, path: &ReversePath, parameters: &MailParameters) -> bool {
    let command = Command::Mail { reverse_path: path.clone(), parameters: parameters.clone() };
    *event == Event::Line(Ok(command))
}
