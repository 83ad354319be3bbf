//! One command line of a client, read (RFC 5321 §4.1.1).

use super::address::{ForwardPath, PathError, ReversePath};
use super::extension::Offer;
use super::parameter::MAX_DIGITS;
pub use super::parameter::{MailParameters, RcptParameters};
use super::reply::Reply;
use crate::secret::Secret;

/// A command with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// EHLO with the client's name for itself.
    Ehlo(ClientName),
    /// HELO with the client's name for itself.
    Helo(ClientName),
    /// MAIL FROM.
    Mail {
        /// Its argument.
        reverse_path: ReversePath,
        /// What follows it.
        parameters: MailParameters,
    },
    /// RCPT TO.
    Rcpt {
        /// Its argument.
        forward_path: ForwardPath,
        /// What follows it.
        parameters: RcptParameters,
    },
    /// DATA.
    Data,
    /// BDAT (RFC 3030 §2): as many octets of the message follow at once.
    Bdat(Chunk),
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth {
        /// In upper case.
        mechanism: Box<str>,
        /// The initial response, as the client wrote it.
        initial: Option<AuthLine>,
    },
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// VRFY.
    Verify,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
    /// The first line of a PROXY protocol header, which only configured networks may send.
    ProxyHeader,
}

/// A piece of a message that BDAT announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Octets that follow the command.
    pub size: u64,
    /// Where it stands in the message.
    pub position: ChunkPosition,
}

/// Where a chunk stands in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkPosition {
    /// Others follow.
    Inner,
    /// It ends the message.
    Last,
}

/// What a client says to authenticate itself: a line of AUTH. No log or trace shows it, and it is wiped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthLine(Secret<Box<str>>);

/// What a client calls itself: printable ASCII without white space, 1 to 255 octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(Box<str>);

/// Why a line is not a command. The client is at fault; [`CommandError::reply`] says what it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Longer than a command line may be.
    #[error("command line too long")]
    LineTooLong,
    /// A verb that the gate does not know.
    #[error("unknown command")]
    Unknown,
    /// A known verb of an extension that is not on offer.
    #[error("command not offered")]
    NotOffered,
    /// BDAT without a readable size: nobody knows where the next command begins.
    #[error("bad chunk size")]
    ChunkSize,
    /// A known verb with arguments that don't fit.
    #[error("bad arguments")]
    Arguments,
    /// MAIL with an address that can't be read.
    #[error("bad address: {0}")]
    Address(PathError),
    /// RCPT with one.
    #[error("bad recipient address: {0}")]
    Recipient(PathError),
    /// A parameter that was not offered.
    #[error("parameter not offered")]
    ParameterUnknown,
    /// A known parameter with a value that can't be read.
    #[error("bad parameter value")]
    ParameterValue,
    /// SIZE says more than the gate takes.
    #[error("announced size above the limit")]
    TooBig,
}

impl Command {
    /// Reads a command line without its line end. What parameters MAIL may have depends on what was offered to the
    /// client; to a client that said HELO nothing was.
    ///
    /// # Errors
    ///
    /// The client's fault: [`CommandError`].
    pub fn parse(line: &[u8], offer: Option<&Offer>) -> Result<Self, CommandError> {
        // Trailing white space is tolerated, as elsewhere (RFC 5321 §4.1.1: SHOULD).
        let line = line.trim_ascii_end();
        let verb_end = memchr::memchr2(b' ', b'\t', line).unwrap_or(line.len());
        let (verb, arguments) = line.split_at(verb_end);
        let arguments = arguments.trim_ascii_start();
        let mut upper = [0u8; MAX_VERB];
        let verb = match upper.get_mut(..verb.len()) {
            Some(upper) => {
                upper.copy_from_slice(verb);
                upper.make_ascii_uppercase();
                &*upper
            }
            None => return Err(CommandError::Unknown),
        };
        let bare = |command| if arguments.is_empty() { Ok(command) } else { Err(CommandError::Arguments) };
        match verb {
            b"EHLO" => ClientName::parse(arguments).map(Self::Ehlo),
            b"HELO" => ClientName::parse(arguments).map(Self::Helo),
            b"MAIL" => mail(arguments, offer),
            b"RCPT" => rcpt(arguments, offer),
            b"BDAT" => chunk(arguments).map(Self::Bdat).ok_or(CommandError::ChunkSize),
            b"STARTTLS" => bare(Self::StartTls),
            b"AUTH" => auth(arguments),
            b"DATA" => bare(Self::Data),
            b"RSET" => bare(Self::Rset),
            b"QUIT" => bare(Self::Quit),
            b"NOOP" => Ok(Self::Noop),
            b"HELP" => Ok(Self::Help),
            b"VRFY" if arguments.is_empty() => Err(CommandError::Arguments),
            b"VRFY" => Ok(Self::Verify),
            // Version 1 is a line of text. In version 2, which is binary, this is the third of the lines that a reader
            // of lines sees; behind it comes one that reads QUIT.
            b"PROXY" | b"\0" => Ok(Self::ProxyHeader),
            b"EXPN" | b"ETRN" | b"TURN" | b"SEND" | b"SOML" | b"SAML" | b"XCLIENT" | b"XFORWARD" => {
                Err(CommandError::NotOffered)
            }
            _ => Err(CommandError::Unknown),
        }
    }
}

impl AuthLine {
    /// A line of a client inside AUTH; none if it is neither base64 nor a word of the protocol (RFC 4954 §4).
    pub fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
        (fits || text == CANCEL).then(|| Self(Secret::new(text.into())))
    }

    /// What it says: for the upstream, and for no one else.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Whether the client gives up (`*`).
    pub fn is_cancellation(&self) -> bool {
        self.expose() == CANCEL
    }
}

impl ClientName {
    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a host of ours; what a client may not send is replaced.
    pub fn own(name: &str) -> Self {
        Self::parse(name.as_bytes()).unwrap_or_else(|_| Self("localhost".into()))
    }

    /// RFC 5321 §4.1.1.1 wants a domain or an address literal. Honest clients send odd names (underscores, no dot), so
    /// only what could harm is refused; the upstream judges the rest.
    fn parse(text: &[u8]) -> Result<Self, CommandError> {
        let fits = (1..=MAX_CLIENT_NAME).contains(&text.len()) && text.iter().all(|b| (b'!'..=b'~').contains(b));
        match std::str::from_utf8(text) {
            Ok(name) if fits => Ok(Self(name.into())),
            _ => Err(CommandError::Arguments),
        }
    }
}

impl CommandError {
    /// What the client is told.
    pub fn reply(self) -> Reply {
        let (code, enhanced, text) = match self {
            Self::LineTooLong => (500, "5.5.2", "Line too long"),
            Self::Unknown => (500, "5.5.2", "Command not recognized"),
            Self::NotOffered => (502, "5.5.1", "Command not available here"),
            Self::ChunkSize => (501, "5.5.4", "BDAT needs the number of octets that follow, closing"),
            Self::Arguments => (501, "5.5.4", "Syntax error in arguments"),
            Self::Address(PathError::Syntax) => (501, "5.1.7", "Bad address syntax"),
            Self::Recipient(PathError::Syntax) => (501, "5.1.3", "Bad address syntax"),
            Self::Recipient(PathError::TooLong) => (501, "5.1.3", "Address too long"),
            Self::Address(PathError::NonAscii) | Self::Recipient(PathError::NonAscii) => {
                (553, "5.6.7", "Address needs SMTPUTF8, which is not in use")
            }
            Self::Address(PathError::TooLong) => (501, "5.1.7", "Address too long"),
            Self::ParameterUnknown => (555, "5.5.4", "Parameter not recognized"),
            Self::ParameterValue => (501, "5.5.4", "Bad parameter value"),
            Self::TooBig => (552, "5.3.4", "Message size exceeds the limit"),
        };
        Reply::new(code, enhanced, text)
    }
}

fn mail(arguments: &[u8], offer: Option<&Offer>) -> Result<Command, CommandError> {
    let path = strip_keyword(arguments, b"FROM:").ok_or(CommandError::Arguments)?;
    let (reverse_path, rest) = ReversePath::parse(path).map_err(CommandError::Address)?;
    let parameters = MailParameters::parse(rest, offer)?;
    // RFC 6531 §3.3: only with the parameter.
    if !(parameters.smtp_utf8 || reverse_path.is_ascii() && parameters.is_ascii()) {
        return Err(CommandError::Address(PathError::NonAscii));
    }
    Ok(Command::Mail { reverse_path, parameters })
}

fn rcpt(arguments: &[u8], offer: Option<&Offer>) -> Result<Command, CommandError> {
    let path = strip_keyword(arguments, b"TO:").ok_or(CommandError::Arguments)?;
    let (forward_path, rest) = ForwardPath::parse(path).map_err(CommandError::Recipient)?;
    let parameters = RcptParameters::parse(rest, offer)?;
    // ORCPT has an address, too. The state knows whether SMTPUTF8 is in use in this transaction.
    if !(offer.is_some_and(|offer| offer.smtp_utf8) || forward_path.is_ascii() && parameters.is_ascii()) {
        return Err(CommandError::Recipient(PathError::NonAscii));
    }
    Ok(Command::Rcpt { forward_path, parameters })
}

/// RFC 3030 §2: `chunk-size [SP "LAST"]`.
fn chunk(arguments: &[u8]) -> Option<Chunk> {
    let text = std::str::from_utf8(arguments).ok()?;
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let size = words.next().filter(|word| word.len() <= MAX_DIGITS && word.bytes().all(|b| b.is_ascii_digit()))?;
    let position = match words.next() {
        None => ChunkPosition::Inner,
        Some(word) if word.eq_ignore_ascii_case("LAST") => ChunkPosition::Last,
        Some(_) => return None,
    };
    words.next().is_none().then_some(Chunk { size: size.parse().unwrap_or(u64::MAX), position })
}

/// RFC 4954 §4: `mechanism [SP initial-response]`.
fn auth(arguments: &[u8]) -> Result<Command, CommandError> {
    let text = std::str::from_utf8(arguments).map_err(|_| CommandError::Arguments)?;
    let (mechanism, initial) = text.split_once(' ').map_or((text, None), |(m, rest)| (m, Some(rest.trim_start())));
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !(1..=MAX_MECHANISM).contains(&mechanism.len()) || !mechanism.bytes().all(is_name) {
        return Err(CommandError::Arguments);
    }
    let initial = match initial.map(|text| AuthLine::parse(text.as_bytes())) {
        None => None,
        Some(Some(secret)) if !secret.is_cancellation() && !secret.expose().is_empty() => Some(secret),
        Some(_) => return Err(CommandError::Arguments),
    };
    Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase().into(), initial })
}

/// What follows `keyword`; white space after it is an old mistake that everyone accepts.
fn strip_keyword<'a>(text: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// What a client sends to give AUTH up (RFC 4954 §4).
const CANCEL: &str = "*";
/// Octets of a mechanism's name (RFC 4422 §3.1).
const MAX_MECHANISM: usize = 20;
/// Octets of the longest verb that the gate knows.
const MAX_VERB: usize = 8;
/// Octets of an EHLO name (RFC 5321 §4.5.3.1.2).
const MAX_CLIENT_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer { size: 1000, eight_bit_mime: true, smtp_utf8: true, dsn: true, ..Offer::default() }
    }

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line.as_bytes(), Some(&offer()))
    }

    fn mail(path: &str, size: Option<u64>, body: Option<&'static str>) -> Result<Command, CommandError> {
        let (reverse_path, _) = ReversePath::parse(path.as_bytes()).unwrap();
        let mut parameters = MailParameters::default();
        (parameters.size, parameters.body) = (size, body);
        Ok(Command::Mail { reverse_path, parameters })
    }

    #[test]
    fn commands_are_read() {
        let name = |name: &str| ClientName(name.into());
        let rcpt = |path: &str| {
            let (forward_path, _) = ForwardPath::parse(path.as_bytes()).unwrap();
            Ok(Command::Rcpt { forward_path, parameters: RcptParameters::default() })
        };
        let bdat = |size, position| Ok(Command::Bdat(Chunk { size, position }));
        let auth = |mechanism: &str, initial: Option<&str>| {
            Ok(Command::Auth {
                mechanism: mechanism.into(),
                initial: initial.and_then(|text| AuthLine::parse(text.as_bytes())),
            })
        };
        let cases = [
            ("EHLO mx.example", Ok(Command::Ehlo(name("mx.example")))),
            ("ehlo [192.0.2.1] ", Ok(Command::Ehlo(name("[192.0.2.1]")))),
            ("HELO under_score", Ok(Command::Helo(name("under_score")))),
            ("MAIL FROM:<a@b.example>", mail("<a@b.example>", None, None)),
            ("mail from: <> size=999 body=8bitmime", mail("<>", Some(999), Some("8BITMIME"))),
            ("MAIL FROM:<a@b.example> BODY=7BIT", mail("<a@b.example>", None, Some("7BIT"))),
            ("RCPT TO:<c@d.example>", rcpt("<c@d.example>")),
            ("RCPT TO: c@d.example", rcpt("<c@d.example>")),
            ("RCPT TO:<ü@d.example>", rcpt("<ü@d.example>")),
            ("data", Ok(Command::Data)),
            ("BDAT 0", bdat(0, ChunkPosition::Inner)),
            ("bdat 0086 last", bdat(86, ChunkPosition::Last)),
            ("BDAT 99999999999999999999 LAST", bdat(u64::MAX, ChunkPosition::Last)),
            ("STARTTLS", Ok(Command::StartTls)),
            ("AUTH plain", auth("PLAIN", None)),
            ("AUTH PLAIN AGEAYg==", auth("PLAIN", Some("AGEAYg=="))),
            ("AUTH SCRAM-SHA-256 =", auth("SCRAM-SHA-256", Some("="))),
            ("RSET", Ok(Command::Rset)),
            ("NOOP anything", Ok(Command::Noop)),
            ("VRFY someone", Ok(Command::Verify)),
            ("HELP", Ok(Command::Help)),
            ("QUIT\t", Ok(Command::Quit)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2", Ok(Command::ProxyHeader)),
            ("\0", Ok(Command::ProxyHeader)),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let cases = [
            ("", CommandError::Unknown),
            (" EHLO x", CommandError::Unknown),
            ("EHLO", CommandError::Arguments),
            ("EHLO a b", CommandError::Arguments),
            ("EHLO a\x07b", CommandError::Arguments),
            ("DATA now", CommandError::Arguments),
            ("STARTTLS now", CommandError::Arguments),
            ("FROBNICATE", CommandError::Unknown),
            ("XCLIENT ADDR=192.0.2.1", CommandError::NotOffered),
            ("BDAT", CommandError::ChunkSize),
            ("BDAT LAST", CommandError::ChunkSize),
            ("BDAT -1", CommandError::ChunkSize),
            ("BDAT +1", CommandError::ChunkSize),
            ("BDAT 1 FIRST", CommandError::ChunkSize),
            ("BDAT 1 LAST LAST", CommandError::ChunkSize),
            ("BDAT 1234567890123456789012", CommandError::ChunkSize),
            ("AUTH", CommandError::Arguments),
            ("AUTH PLAIN *", CommandError::Arguments),
            ("AUTH PLAIN AGEAYg== x", CommandError::Arguments),
            ("AUTH PLÄIN", CommandError::Arguments),
            ("AUTH AN-OVERLONG-MECHANISM", CommandError::Arguments),
            ("MAIL <a@b.example>", CommandError::Arguments),
            ("MAIL FROM:", CommandError::Address(PathError::Syntax)),
            ("MAIL FROM:<ü@b.example>", CommandError::Address(PathError::NonAscii)),
            ("RCPT TO:<>", CommandError::Recipient(PathError::Syntax)),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), Err(expected), "{line}");
        }
        let plain = Offer { smtp_utf8: false, ..offer() };
        let rcpt = Command::parse("RCPT TO:<ü@d.example>".as_bytes(), Some(&plain));
        assert_eq!(rcpt, Err(CommandError::Recipient(PathError::NonAscii)));
    }

    #[test]
    fn a_parameter_beyond_ascii_goes_on_with_smtputf8_alone() {
        let non_ascii = PathError::NonAscii;
        assert_eq!(parse("MAIL FROM:<a@b.example> ENVID=ü"), Err(CommandError::Address(non_ascii)));
        assert!(parse("MAIL FROM:<a@b.example> ENVID=ü SMTPUTF8").is_ok());
        let rcpt = "RCPT TO:<c@d.example> ORCPT=utf-8;ü@d.example";
        assert!(parse(rcpt).is_ok());
        let plain = Offer { smtp_utf8: false, ..offer() };
        assert_eq!(Command::parse(rcpt.as_bytes(), Some(&plain)), Err(CommandError::Recipient(non_ascii)));
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", parse("AUTH PLAIN AGEAc2VjcmV0")).contains("AGEAc2VjcmV0"));
        assert!(AuthLine::parse(b"*").is_some_and(|line| line.is_cancellation()));
        assert!(AuthLine::parse(b"").is_some_and(|line| line.expose().is_empty()));
        for line in [&b"a b"[..], b"a\0", b"**", b"\xff", b"QUIT\r"] {
            assert_eq!(AuthLine::parse(line), None, "{line:?}");
        }
    }
}
