//! Hands one report to the relay, and says what is known about its delivery.
//!
//! A session has two halves: [`begin`] goes as far as the relay's wait for the message, [`Ready::send`] sends it.
//! Between them the store notes that the report may be delivered from here on. A relay that refuses the gate itself
//! (its login, its sender, relaying) is for the operator to fix, so the report waits; what it says of the recipient's
//! mailbox or of the message settles the report.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::fs;

use crate::message::{base64, spool};
use crate::report::mailbox::is_about_mailbox;
use crate::secret::Secret;
use crate::smtp::data::{Encoder, Framing};
use crate::smtp::reply::Reply;
use crate::upstream::connection::{Connection, DeliveryError, ExchangeError, Limits, OpenError};
use crate::upstream::probe::{STRANGER, stranger};
use crate::upstream::{self, MessageParts, open_within};

/// How the relay is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The server, TLS with it, how long each step may take.
    pub link: upstream::Settings,
    /// Who the gate logs in as; none: not at all.
    pub login: Option<Login>,
}

/// A login. The password is read when it is needed, so that it can be changed and does not stay in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The file with the password, one line.
    pub password_file: PathBuf,
}

/// From whom to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The reverse-path's address.
    pub sender: &'a str,
    /// The recipient's address.
    pub recipient: &'a str,
    /// Octets of the message.
    pub size: usize,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The relay has taken it.
    Taken(Reply),
    /// It was not delivered; it may be later. Why, in words.
    Postponed(String),
    /// The relay refuses the recipient for good: there is no such mailbox, or it takes no mail.
    RecipientRefused(Reply),
    /// The relay refuses the message for good.
    MessageRefused(Reply),
    /// It may have been delivered: the reply to its end was lost. How, in words.
    Unanswered(String),
}

/// A relay that waits for the message.
pub struct Ready {
    connection: Connection,
    timeouts: upstream::Timeouts,
}

/// Why the relay's session did not come to the message.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the relay {0}")]
    Open(#[from] OpenError),
    #[error("{step}: {cause}")]
    Exchange { step: &'static str, cause: ExchangeError },
    #[error("{step} was answered {reply}")]
    Reply { step: &'static str, reply: Reply },
    #[error("the password can't be read: {0}")]
    Password(io::Error),
    #[error("the relay offers neither AUTH PLAIN nor AUTH LOGIN")]
    NoMechanism,
    #[error("the address has characters that the relay can't take")]
    Address,
    /// An answer that settles the report.
    #[error("settled")]
    Settled(Outcome),
}

/// Goes as far as the relay's wait for the message.
///
/// # Errors
///
/// What became of the report without that.
pub async fn begin(settings: &Settings, envelope: &Envelope<'_>) -> Result<Ready, Outcome> {
    dialogue(settings, envelope).await.map_err(|trouble| match trouble {
        Trouble::Settled(outcome) => outcome,
        other => Outcome::Postponed(other.to_string()),
    })
}

impl Ready {
    /// Sends the message and hears what the relay says to it.
    pub async fn send(mut self, message: &[u8]) -> Outcome {
        let mut head = Vec::with_capacity(message.len() + message.len() / 64);
        Encoder::default().encode(message, &mut head);
        let dots = (head.len().saturating_sub(message.len())) as u64;
        let parts = MessageParts {
            head,
            body: spool::Reader::empty(),
            body_size: 0,
            dots,
            ends_with_line: message.ends_with(b"\r\n"),
            framing: Framing::Dot,
        };
        let limits = Limits { timeouts: &self.timeouts, began: Instant::now() };
        let outcome = match self.connection.send(parts, limits).await {
            Ok(reply) if reply.is_positive() => Outcome::Taken(reply),
            Ok(reply) if reply.is_permanent() => Outcome::MessageRefused(reply),
            Ok(reply) if reply.is_transient() => Outcome::Postponed(format!("the message was answered {reply}")),
            Ok(reply) => Outcome::Unanswered(format!("the message was answered {reply}")),
            Err(DeliveryError::AfterEnd(cause)) => Outcome::Unanswered(cause.to_string()),
            Err(DeliveryError::Refused(reply)) if reply.is_permanent() => Outcome::MessageRefused(reply),
            Err(cause) => Outcome::Postponed(cause.to_string()),
        };
        if matches!(outcome, Outcome::Taken(_) | Outcome::MessageRefused(_)) {
            self.connection.quit().await;
        }
        outcome
    }
}

async fn dialogue(settings: &Settings, envelope: &Envelope<'_>) -> Result<Ready, Trouble> {
    let link = &settings.link;
    let server = link.servers.first().map(|server| &**server).unwrap_or_default();
    // RFC 5321 §4.1.2: what would end the path may stand between quotation marks.
    let may_stand = |octet: u8, is_quoted: bool| match octet {
        b' ' | b'<' | b'>' => is_quoted,
        octet => (b'!'..=b'~').contains(&octet),
    };
    let is_sound = |address: &str| address.bytes().all(|octet| may_stand(octet, address.starts_with('"')));
    if !is_sound(envelope.sender) || !is_sound(envelope.recipient) {
        return Err(Trouble::Address);
    }
    let mut connection = open_within(link.timeouts.open, link, server, &stranger(STRANGER)).await?;
    let mut dialogue = Dialogue { connection: &mut connection, limit: link.timeouts.command };
    if let Some(login) = &settings.login {
        dialogue.log_in(login).await?;
    }
    let size = match dialogue.connection.capabilities().size {
        Some(_) => format!(" SIZE={}", envelope.size),
        None => String::new(),
    };
    // RFC 1870 §6.1: this reply is about the message.
    dialogue
        .step("MAIL", &format!("MAIL FROM:<{}>{size}", envelope.sender), |reply| match reply.code() {
            552 => Some(Outcome::MessageRefused(reply.clone())),
            _ => None,
        })
        .await?;
    let refused = |reply: &Reply| speaks_of_mailbox(reply).then(|| Outcome::RecipientRefused(reply.clone()));
    dialogue.step("RCPT", &format!("RCPT TO:<{}>", envelope.recipient), refused).await?;
    let reply = dialogue.say("DATA", "DATA").await?;
    match reply.code() {
        354 => Ok(Ready { connection, timeouts: link.timeouts.clone() }),
        code if code / 100 == 5 => Err(Trouble::Settled(Outcome::MessageRefused(reply))),
        _ => Err(Trouble::Reply { step: "DATA", reply }),
    }
}

/// Whether a refusal of RCPT is about the recipient's mailbox.
fn speaks_of_mailbox(reply: &Reply) -> bool {
    let text: String = reply.texts().map(|line| String::from_utf8_lossy(line) + " ").collect();
    is_about_mailbox(reply.code(), &text)
}

struct Dialogue<'a> {
    connection: &'a mut Connection,
    limit: Duration,
}

impl Dialogue<'_> {
    async fn say(&mut self, step: &'static str, line: &str) -> Result<Reply, Trouble> {
        self.connection.command(line, self.limit).await.map_err(|cause| Trouble::Exchange { step, cause })
    }

    /// A command that has to be done; what `settles` says of a refusal settles the report.
    async fn step(
        &mut self,
        step: &'static str,
        line: &str,
        settles: impl FnOnce(&Reply) -> Option<Outcome>,
    ) -> Result<(), Trouble> {
        let reply = self.say(step, line).await?;
        if reply.is_positive() {
            return Ok(());
        }
        Err(settles(&reply).map_or(Trouble::Reply { step, reply }, Trouble::Settled))
    }

    /// AUTH PLAIN (RFC 4616), or LOGIN where that is not offered.
    async fn log_in(&mut self, login: &Login) -> Result<(), Trouble> {
        let password = Secret::new(fs::read(&login.password_file).await.map_err(Trouble::Password)?);
        let password = password.expose().split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
        let (plain, by_steps) = {
            let offered = &self.connection.capabilities().auth;
            let offers = |name: &str| offered.iter().any(|mechanism| **mechanism == *name);
            (offers("PLAIN"), offers("LOGIN"))
        };
        if plain {
            let said = Secret::new([b"\0", login.user.as_bytes(), b"\0", password].concat());
            let said = Secret::new(base64::encode(said.expose()));
            let line = Secret::new(["AUTH PLAIN ", said.expose()].concat());
            return self.step("AUTH", line.expose(), |_| None).await;
        }
        if !by_steps {
            return Err(Trouble::NoMechanism);
        }
        for line in ["AUTH LOGIN", &base64::encode(login.user.as_bytes())] {
            let reply = self.say("AUTH", line).await?;
            if reply.code() != 334 {
                return Err(Trouble::Reply { step: "AUTH", reply });
            }
        }
        self.step("AUTH", Secret::new(base64::encode(password)).expose(), |_| None).await
    }
}
