//! Relays AUTH (RFC 4954) to the upstream, which knows who may log in. Nothing of what is said goes to log or trace but
//! the name, and that only once the upstream has accepted it: people type passwords where names belong.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::info;

use super::metrics::{Ended, LoginResult};
use super::settings::AuthOffer;
use super::state::{Login, State};
use super::{End, Session, pause};
use crate::envelope::Hello;
use crate::message::base64;
use crate::secret::Secret;
use crate::smtp::command::AuthLine;
use crate::smtp::extension::Offer;
use crate::smtp::reply::Reply;
use crate::smtp::stream::ReadError;
use crate::upstream::handover::UNKNOWN_LOGIN;

impl Session {
    /// What there is of AUTH now.
    pub(super) fn login_state(&self) -> Login {
        if self.client.login.is_some() { Login::Done } else { self.login }
    }

    /// What there is of AUTH once `offer` was made before an upstream that knows `mechanisms`.
    pub(super) fn login_offered(&self, offer: &Offer, mechanisms: &[Box<str>]) -> Login {
        let waits_for_tls = self.settings().auth == AuthOffer::UnderTls && !mechanisms.is_empty() && offer.starttls;
        match offer.auth.is_empty() {
            false => Login::Offered,
            true if waits_for_tls => Login::NeedsTls,
            true => Login::Unavailable,
        }
    }

    /// Relays the exchange to its end and gives the reply that ends it. However it ends, it counts once and is told
    /// once.
    pub(super) async fn log_in(
        &mut self,
        state: &State,
        mechanism: &str,
        initial: Option<AuthLine>,
    ) -> Result<Reply, End> {
        let State::AuthSent(hello) = state else { return Err(self.broken("AUTH where none was due")) };
        let begins = if initial.is_some() { Begins::Client } else { Begins::Server };
        let mut said: Vec<AuthLine> = initial.into_iter().collect();
        let offered = self.offer.as_ref().is_some_and(|offer| offer.auth.iter().any(|known| **known == *mechanism));
        let (mechanism, exchanged) = if offered {
            (mechanism, self.exchange(hello, mechanism, &mut said).await)
        } else {
            // What stands there may be a password as well.
            let reply = Reply::new(504, "5.5.4", "Mechanism not available");
            ("unknown", Exchanged::new(LoginResult::Refused, Ok(reply)))
        };
        self.note_login(mechanism, begins, &said, &exchanged);
        exchanged.answer
    }

    /// The exchange itself; `said` is what the client has said in it.
    async fn exchange(&mut self, hello: &Hello, mechanism: &str, said: &mut Vec<AuthLine>) -> Exchanged {
        self.link.follow(&self.settings().servers).await;
        let introduction = self.introduction(hello).await;
        let mut heard = self.link.log_in(&introduction, mechanism, said.first().map(AuthLine::expose)).await;
        loop {
            let challenge = match heard {
                Ok(challenge) if challenge.code() == 334 => challenge,
                Ok(reply) => return Exchanged::new(LoginResult::of(&reply, said), Ok(reply)),
                Err(error) => {
                    // RFC 4954 §4.7.1 has a reply of its own for the client.
                    let failed = Exchanged::new(LoginResult::Failed, Ok(temporary_failure()));
                    return Exchanged { error: Some(error.to_string()), ..failed };
                }
            };
            if said.len() >= MAX_RESPONSES {
                self.link.discard();
                let failed = Exchanged::new(LoginResult::Failed, Ok(temporary_failure()));
                return Exchanged { error: Some("the mail server asks and asks".to_owned()), ..failed };
            }
            self.say(&challenge);
            let response = match self.response().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    // It can't be passed on, so the exchange is given up in the client's name.
                    if !self.link.respond("*").await.is_ok_and(|reply| reply.is_transient() || reply.is_permanent()) {
                        self.link.discard();
                    }
                    self.patience.login_refused();
                    let reply = Reply::new(501, "5.5.2", "Not a base64 string");
                    return Exchanged::new(LoginResult::Cancelled, Ok(reply));
                }
                Err(end) => {
                    // A goodbye would be one more response.
                    self.link.discard();
                    return Exchanged::new(LoginResult::Cancelled, Err(end));
                }
            };
            heard = self.link.respond(response.expose()).await;
            said.push(response);
        }
    }

    /// The client's next response; none if it is no line of AUTH.
    async fn response(&mut self) -> Result<Option<AuthLine>, End> {
        let limit = self.settings().timeouts.command;
        self.flush(limit).await?;
        let line = async {
            match self.stream.read_line(MAX_AUTH_LINE).await {
                Ok(line) => Ok(AuthLine::parse(line)),
                Err(ReadError::TooLong) => Ok(None),
                Err(_) => Err(End::silently(Ended::ClientGone)),
            }
        };
        // As long as a slow client's data may hold the connection up, and no longer than others can spare it.
        let (hold, wanted) = (self.link.hold_left(), self.link.wanted());
        let spared = async {
            tokio::select! {
                () = pause(hold) => {}
                () = async { sleep(SPARED).await; wanted.await } => {}
            }
        };
        let link = &mut self.link;
        let line = async {
            tokio::pin!(line);
            tokio::select! {
                biased;
                line = &mut line => line,
                () = spared => {
                    link.discard();
                    line.await
                }
            }
        };
        match timeout(limit, line).await {
            Ok(line) => line,
            Err(_) => Err(End::saying(Ended::Timeout, Reply::new(421, "4.4.2", "Timeout, closing"))),
        }
    }

    /// Remembers, counts and logs how an exchange ended.
    fn note_login(&mut self, mechanism: &str, begins: Begins, said: &[AuthLine], exchanged: &Exchanged) {
        let result = exchanged.result;
        self.gate.metrics.logins.inc(result);
        let name = Some(result).filter(|result| *result == LoginResult::Accepted);
        let name = name.map(|_| login_name(mechanism, said).unwrap_or_else(|| UNKNOWN_LOGIN.into()));
        info!(
            session = &*self.id,
            client_ip = %self.client.ip(),
            login = name.as_deref().unwrap_or_default(),
            mechanism,
            result = %result,
            tls = self.stream.is_secured(),
            error = exchanged.error.as_deref().unwrap_or_default(),
            "login"
        );
        if result == LoginResult::Refused {
            self.patience.login_refused();
        }
        if result == LoginResult::Accepted {
            // Another connection is told no name but one that the upstream can't have read otherwise.
            let name = name.filter(|_| is_certain(mechanism, begins, said)).unwrap_or_else(|| UNKNOWN_LOGIN.into());
            self.link.logged_in(&name);
            self.client.login = Some(name);
        }
    }
}

/// How an exchange ended.
struct Exchanged {
    result: LoginResult,
    /// What the client is told, or why the session ends.
    answer: Result<Reply, End>,
    /// What was wrong with the upstream, if anything.
    error: Option<String>,
}

impl Exchanged {
    fn new(result: LoginResult, answer: Result<Reply, End>) -> Self {
        Self { result, answer, error: None }
    }
}

impl LoginResult {
    /// What the upstream's last word means.
    fn of(reply: &Reply, said: &[AuthLine]) -> Self {
        let is_cancelled = said.last().is_some_and(AuthLine::is_cancellation);
        match reply.code() {
            235 => Self::Accepted,
            _ if is_cancelled => Self::Cancelled,
            400..=499 => Self::Failed,
            _ => Self::Refused,
        }
    }
}

/// The name under which a client logs in, as far as the mechanism shows it; never more of what it said.
fn login_name(mechanism: &str, said: &[AuthLine]) -> Option<Box<str>> {
    let decode = |line: &AuthLine| base64::decode(line.expose().as_bytes()).map(Secret::new);
    // A challenge comes first with CRAM-MD5, so that only the last response can be the answer to it.
    let first = decode(if mechanism == "CRAM-MD5" { said.last()? } else { said.first()? })?;
    let first = first.expose();
    let name = match mechanism {
        // RFC 4616 §2: authzid NUL authcid NUL passwd.
        "PLAIN" => first.split(|b| *b == 0).nth(1)?.to_vec(),
        "LOGIN" => first.clone(),
        // RFC 2195 §2: the name, a space, the digest.
        "CRAM-MD5" => first.rsplitn(2, |b| *b == b' ').nth(1)?.to_vec(),
        // RFC 5801 §4, RFC 5802 §7: `n,,n=name,r=nonce`.
        _ if mechanism.starts_with("SCRAM-") => {
            first.split(|b| *b == b',').find_map(|a| a.strip_prefix(b"n="))?.to_vec()
        }
        "XOAUTH2" => first.split(|b| *b == 1).find_map(|a| a.strip_prefix(b"user="))?.to_vec(),
        // RFC 7628 §3.1: `n,a=name,`.
        "OAUTHBEARER" => first.split(|b| *b == b',').find_map(|a| a.strip_prefix(b"a="))?.to_vec(),
        _ => return None,
    };
    let name = String::from_utf8(name).ok()?;
    let fits = (1..=MAX_LOGIN).contains(&name.len()) && !name.chars().any(char::is_control);
    fits.then(|| name.into())
}

/// Who speaks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// The client, in the AUTH command itself.
    Client,
    /// The server, with a challenge.
    Server,
}

/// Whether the name that [`login_name`] reads is the one that the upstream has judged, whatever liberties it takes with
/// the mechanism.
fn is_certain(mechanism: &str, begins: Begins, said: &[AuthLine]) -> bool {
    match mechanism {
        // RFC 4616 §2: a name to act as may stand before the one that logs in.
        "PLAIN" => {
            said.last().and_then(|last| base64::decode(last.expose().as_bytes())).map(Secret::new).is_some_and(|last| {
                let mut names = last.expose().split(|b| *b == 0);
                let (acts_as, name) = (names.next().unwrap_or_default(), names.next());
                said.len() == 1 && (acts_as.is_empty() || Some(acts_as) == name)
            })
        }
        "LOGIN" => begins == Begins::Server && said.len() == 2,
        _ => false,
    }
}

/// RFC 4954 §4.7.1.
fn temporary_failure() -> Reply {
    Reply::new(454, "4.7.0", "Temporary authentication failure")
}

/// Octets of a line inside AUTH (RFC 4954 §4).
pub const MAX_AUTH_LINE: usize = 12_288;
/// How long a connection waits for a response while another session wants it.
const SPARED: Duration = Duration::from_secs(5);
/// Responses of one exchange: no mechanism takes half as many.
const MAX_RESPONSES: usize = 10;
/// Octets of a login name.
const MAX_LOGIN: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_read_and_nothing_else() {
        let cases: [(&str, &[&str], Option<&str>); 11] = [
            ("PLAIN", &["AGpvZQBzZWNyZXQ="], Some("joe")),
            ("PLAIN", &["YWRtaW4Aam9lAHNlY3JldA=="], Some("joe")),
            ("PLAIN", &["c2VjcmV0"], None),
            ("LOGIN", &["am9l", "c2VjcmV0"], Some("joe")),
            ("LOGIN", &["*"], None),
            ("CRAM-MD5", &["am9lIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"], Some("joe")),
            ("SCRAM-SHA-256", &["biwsbj1qb2Uscj1hYmM="], Some("joe")),
            ("XOAUTH2", &["dXNlcj1qb2UBYXV0aD1CZWFyZXIgdG9rZW4BAQ=="], Some("joe")),
            ("OAUTHBEARER", &["bixhPWpvZSwBYXV0aD1CZWFyZXIgdG9rZW4BAQ=="], Some("joe")),
            ("NTLM", &["TlRMTVNTUAABAAAA"], None),
            ("PLAIN", &[], None),
        ];
        for (mechanism, said, expected) in cases {
            let said: Vec<_> = said.iter().map(|text| AuthLine::parse(text.as_bytes()).unwrap()).collect();
            assert_eq!(login_name(mechanism, &said).as_deref(), expected, "{mechanism}");
        }
    }

    #[test]
    fn another_connection_is_told_no_name_that_is_in_doubt() {
        let cases: [(&str, Begins, &[&str], bool); 7] = [
            ("PLAIN", Begins::Client, &["AGpvZQBzZWNyZXQ="], true),
            ("PLAIN", Begins::Server, &["AGpvZQBzZWNyZXQ="], true),
            // As admin.
            ("PLAIN", Begins::Client, &["YWRtaW4Aam9lAHNlY3JldA=="], false),
            ("LOGIN", Begins::Server, &["am9l", "c2VjcmV0"], true),
            // A server may ignore what comes unasked, and ask.
            ("LOGIN", Begins::Client, &["am9l", "c2VjcmV0"], false),
            ("CRAM-MD5", Begins::Server, &["am9lIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"], false),
            ("XOAUTH2", Begins::Client, &["dXNlcj1qb2UBYXV0aD1CZWFyZXIgdG9rZW4BAQ=="], false),
        ];
        for (mechanism, begins, said, certain) in cases {
            let said: Vec<_> = said.iter().map(|text| AuthLine::parse(text.as_bytes()).unwrap()).collect();
            assert_eq!(is_certain(mechanism, begins, &said), certain, "{mechanism} {begins:?}");
        }
    }
}
