//! What a scripted upstream announces and how it answers: rules that a test writes, before defaults of a sane MTA.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_rustls::rustls::ServerConfig;

use super::certificates::Certificate;

/// The behaviour of a scripted upstream.
#[derive(Clone)]
pub struct Script {
    /// The EHLO list, a keyword with its parameters in each line.
    pub extensions: Vec<String>,
    /// Whether a connection must open with a PROXY header.
    pub proxy: Proxy,
    /// What ends the data.
    pub end_of_data: EndOfData,
    /// Whether it speaks TLS, and what it shows.
    pub tls: Tls,
    /// Who may log in: names and passwords.
    pub users: Vec<(String, String)>,
    /// Tried from the last to the first, so that a later rule overrides an earlier one.
    pub rules: Vec<Rule>,
}

/// Whether a connection must open with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// A connection without one is closed, and the fault noted.
    Required,
    /// It is an unknown command.
    Unknown,
}

/// What ends the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOfData {
    /// `<CRLF>.<CRLF>` alone (RFC 5321 §4.1.1.4).
    Strict,
    /// A dot between any two of CRLF, LF and CR: the server that smuggling aims at.
    Lenient,
}

/// Whether a scripted upstream speaks TLS, and what it shows.
#[derive(Clone)]
pub enum Tls {
    /// STARTTLS is an unknown command.
    Off,
    /// STARTTLS is offered.
    Offered(Arc<ServerConfig>),
    /// From the first octet, behind the PROXY header.
    Implicit(Arc<ServerConfig>),
}

/// One exception from the defaults.
#[derive(Clone)]
pub struct Rule {
    at: String,
    needle: String,
    left: Option<u32>,
    act: Act,
}

/// What the upstream does at one point.
#[derive(Clone)]
pub enum Act {
    /// Sends these lines; the text is sent as it is, with CRLF for each line feed and at the end.
    Reply(String),
    /// Sends these octets and nothing else.
    Raw(Vec<u8>),
    /// Sends them and closes.
    ReplyAndClose(String),
    /// Closes without a word.
    Close,
    /// Waits for its gate to open, then sends the lines.
    Hold(Hold, String),
}

/// A reply that waits until the test opens it.
#[derive(Clone)]
pub struct Hold(Arc<Semaphore>);

/// At the connection's opening, in place of the greeting; the line is the client that a PROXY header has named.
pub const GREETING: &str = "greeting";
/// Before the server's side of a TLS handshake; what is "replied" here goes out in the clear, by default nothing.
pub const HANDSHAKE: &str = "handshake";
/// Behind a client's response inside AUTH; the line is the response.
pub const CHALLENGE: &str = "challenge";
/// After the final dot, or the octets of the last chunk.
pub const DOT: &str = "dot";

/// Inside the data, once [`INSIDE_AT`] octets of it have come without their end; by default nothing is said.
pub const INSIDE: &str = "inside";
/// Where that is.
pub const INSIDE_AT: usize = 200_000;

/// Begins a rule for a verb, [`GREETING`], [`INSIDE`] or [`DOT`].
pub fn on(at: &str) -> Point {
    Point { at: at.to_ascii_uppercase(), needle: String::new(), left: None }
}

/// Where a rule applies; the methods that say what happens end it.
pub struct Point {
    at: String,
    needle: String,
    left: Option<u32>,
}

impl Point {
    /// Only if the command line holds this text, in any case.
    pub fn with(mut self, needle: &str) -> Self {
        self.needle = needle.to_ascii_uppercase();
        self
    }

    /// Only the first time.
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Only the first `n` times.
    pub fn times(mut self, n: u32) -> Self {
        self.left = Some(n);
        self
    }

    /// Answers so; several lines by `\n`. Nothing checks that it is a reply: nonsense is welcome.
    pub fn reply(self, lines: &str) -> Rule {
        self.act(Act::Reply(lines.to_owned()))
    }

    /// Answers by these octets, line ends included.
    pub fn raw(self, octets: &[u8]) -> Rule {
        self.act(Act::Raw(octets.to_vec()))
    }

    /// Answers so and closes.
    pub fn reply_and_close(self, lines: &str) -> Rule {
        self.act(Act::ReplyAndClose(lines.to_owned()))
    }

    /// Closes without a word.
    pub fn close(self) -> Rule {
        self.act(Act::Close)
    }

    /// Answers so once `hold` is open.
    pub fn hold(self, hold: &Hold, lines: &str) -> Rule {
        self.act(Act::Hold(hold.clone(), lines.to_owned()))
    }

    fn act(self, act: Act) -> Rule {
        Rule { at: self.at, needle: self.needle, left: self.left, act }
    }
}

impl Script {
    /// A sane MTA that knows nothing of a client's address: what Postfix offers, less TLS.
    pub fn new() -> Self {
        let extensions = ["PIPELINING", "SIZE 104857600", "8BITMIME", "ENHANCEDSTATUSCODES"];
        Self {
            extensions: extensions.map(String::from).to_vec(),
            proxy: Proxy::Unknown,
            end_of_data: EndOfData::Strict,
            tls: Tls::Off,
            users: Vec::new(),
            rules: Vec::new(),
        }
    }

    /// As [`Script::new`], with XCLIENT as Postfix announces it.
    pub fn with_xclient() -> Self {
        Self::new().extension("XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT")
    }

    /// Offers one more extension.
    pub fn extension(mut self, line: &str) -> Self {
        self.extensions.push(line.to_owned());
        self
    }

    /// Offers exactly these.
    pub fn extensions(mut self, lines: &[&str]) -> Self {
        self.extensions = lines.iter().map(|&line| line.to_owned()).collect();
        self
    }

    /// Wants a PROXY header at the beginning of each connection.
    pub fn proxy(mut self) -> Self {
        self.proxy = Proxy::Required;
        self
    }

    /// Offers STARTTLS and shows this certificate.
    pub fn starttls(mut self, certificate: &Certificate) -> Self {
        self.tls = Tls::Offered(certificate.server());
        self
    }

    /// Speaks TLS from the first octet and shows this certificate.
    pub fn implicit_tls(mut self, certificate: &Certificate) -> Self {
        self.tls = Tls::Implicit(certificate.server());
        self
    }

    /// Takes any dot between line ends of any kind for the end of the data.
    pub fn lenient(mut self) -> Self {
        self.end_of_data = EndOfData::Lenient;
        self
    }

    /// Offers AUTH PLAIN and LOGIN to one more user.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        let offer = "AUTH PLAIN LOGIN";
        if !self.extensions.iter().any(|line| line.starts_with("AUTH ")) {
            self.extensions.push(offer.to_owned());
        }
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Adds an exception.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// The exception that applies at `at` to this command line, which it uses up.
    pub fn act(&mut self, at: &str, line: &str) -> Option<Act> {
        let (at, line) = (at.to_ascii_uppercase(), line.to_ascii_uppercase());
        let fits = |rule: &&mut Rule| rule.at == at && line.contains(&rule.needle) && rule.left != Some(0);
        let rule = self.rules.iter_mut().rev().find(fits)?;
        rule.left = rule.left.map(|left| left - 1);
        Some(rule.act.clone())
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::new()
    }
}

impl Hold {
    /// Closed.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets every reply pass that waits here or will.
    pub fn release(&self) {
        self.0.close();
    }

    pub(super) async fn wait(&self) {
        // A closed semaphore is an open gate: nobody waits any more.
        assert!(self.0.acquire().await.is_err(), "a hold has no permits");
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self::new()
    }
}
