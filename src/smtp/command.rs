//! One command line of a client, read (RFC 5321 §4.1.1).

use super::address::{ForwardPath, PathError, ReversePath};
use super::extension::Offer;
use super::reply::Reply;

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
    /// RCPT TO; no extension on offer has parameters for it.
    Rcpt(ForwardPath),
    /// DATA.
    Data,
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

/// The parameters of MAIL that the gate understands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// SIZE (RFC 1870): the octets that the client announces.
    pub size: Option<u64>,
    /// BODY (RFC 6152), in upper case.
    pub body: Option<&'static str>,
}

/// What a client calls itself: printable ASCII without white space, 1 to 255 octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(Box<str>);

/// Why a line is no command. The client is at fault; [`CommandError::reply`] says what it is told.
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
    /// A known verb with arguments that don't fit.
    #[error("bad arguments")]
    Arguments,
    /// MAIL or RCPT with an address that can't be read.
    #[error("bad address: {0}")]
    Address(#[from] PathError),
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
            b"RCPT" => rcpt(arguments),
            b"DATA" => bare(Self::Data),
            b"RSET" => bare(Self::Rset),
            b"QUIT" => bare(Self::Quit),
            b"NOOP" => Ok(Self::Noop),
            b"HELP" => Ok(Self::Help),
            b"VRFY" if arguments.is_empty() => Err(CommandError::Arguments),
            b"VRFY" => Ok(Self::Verify),
            // Version 1 is a line of text. In version 2, which is binary, this is the third of the lines that a reader of
            // lines sees; behind it comes one that reads QUIT.
            b"PROXY" | b"\0" => Ok(Self::ProxyHeader),
            b"STARTTLS" | b"AUTH" | b"BDAT" | b"EXPN" | b"ETRN" | b"TURN" | b"SEND" | b"SOML" | b"SAML"
            | b"XCLIENT" | b"XFORWARD" => Err(CommandError::NotOffered),
            _ => Err(CommandError::Unknown),
        }
    }
}

impl MailParameters {
    /// The parameters for an upstream: SIZE with `added` octets more, only where the upstream knows it.
    pub fn for_upstream(&self, size_known: bool, added: u64) -> String {
        let size = self.size.filter(|_| size_known).map(|n| format!(" SIZE={}", n.saturating_add(added)));
        let body = self.body.map(|body| format!(" BODY={body}"));
        size.into_iter().chain(body).collect()
    }

    fn parse(text: &[u8], offer: Option<&Offer>) -> Result<Self, CommandError> {
        let mut found = Self::default();
        for word in text.split(|b| *b == b' ' || *b == b'\t').filter(|w| !w.is_empty()) {
            let offer = offer.ok_or(CommandError::ParameterUnknown)?;
            let word = std::str::from_utf8(word).map_err(|_| CommandError::ParameterUnknown)?;
            let (keyword, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(v)));
            if keyword.eq_ignore_ascii_case("SIZE") {
                let size = size_value(value).filter(|_| found.size.is_none()).ok_or(CommandError::ParameterValue)?;
                if size > offer.size {
                    return Err(CommandError::TooBig);
                }
                found.size = Some(size);
            } else if keyword.eq_ignore_ascii_case("BODY") && offer.eight_bit_mime {
                let body = BODY_VALUES.into_iter().find(|v| value.is_some_and(|value| value.eq_ignore_ascii_case(v)));
                found.body = Some(body.filter(|_| found.body.is_none()).ok_or(CommandError::ParameterValue)?);
            } else {
                return Err(CommandError::ParameterUnknown);
            }
        }
        Ok(found)
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
            Self::Arguments => (501, "5.5.4", "Syntax error in arguments"),
            Self::Address(PathError::Syntax) => (501, "5.1.7", "Bad address syntax"),
            Self::Address(PathError::NonAscii) => (553, "5.6.7", "Internationalized addresses are not available here"),
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
    let (reverse_path, rest) = ReversePath::parse(path)?;
    let parameters = MailParameters::parse(rest, offer)?;
    Ok(Command::Mail { reverse_path, parameters })
}

fn rcpt(arguments: &[u8]) -> Result<Command, CommandError> {
    let path = strip_keyword(arguments, b"TO:").ok_or(CommandError::Arguments)?;
    let (forward_path, rest) = ForwardPath::parse(path)?;
    if rest.trim_ascii().is_empty() { Ok(Command::Rcpt(forward_path)) } else { Err(CommandError::ParameterUnknown) }
}

/// What follows `keyword`; white space after it is an old mistake that everyone accepts.
fn strip_keyword<'a>(text: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// RFC 1870 §4: 1 to 20 digits.
fn size_value(value: Option<&str>) -> Option<u64> {
    let value = value.filter(|v| (1..=20).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_digit()))?;
    Some(value.parse().unwrap_or(u64::MAX))
}

/// RFC 6152 §2; BINARYMIME is never offered.
const BODY_VALUES: [&str; 2] = ["7BIT", "8BITMIME"];
/// Octets of the longest verb that the gate knows.
const MAX_VERB: usize = 8;
/// Octets of an EHLO name (RFC 5321 §4.5.3.1.2).
const MAX_CLIENT_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { size: 1000, eight_bit_mime: true, enhanced_status_codes: true };

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line.as_bytes(), Some(&OFFER))
    }

    fn mail(path: &str, size: Option<u64>, body: Option<&'static str>) -> Result<Command, CommandError> {
        let (reverse_path, _) = ReversePath::parse(path.as_bytes()).unwrap();
        Ok(Command::Mail { reverse_path, parameters: MailParameters { size, body } })
    }

    #[test]
    fn commands_are_read() {
        let name = |name: &str| ClientName(name.into());
        let rcpt = |path: &str| Ok(Command::Rcpt(ForwardPath::parse(path.as_bytes()).unwrap().0));
        let cases = [
            ("EHLO mx.example", Ok(Command::Ehlo(name("mx.example")))),
            ("ehlo [192.0.2.1] ", Ok(Command::Ehlo(name("[192.0.2.1]")))),
            ("HELO under_score", Ok(Command::Helo(name("under_score")))),
            ("MAIL FROM:<a@b.example>", mail("<a@b.example>", None, None)),
            ("mail from: <> size=999 body=8bitmime", mail("<>", Some(999), Some("8BITMIME"))),
            ("MAIL FROM:<a@b.example> BODY=7BIT", mail("<a@b.example>", None, Some("7BIT"))),
            ("RCPT TO:<c@d.example>", rcpt("<c@d.example>")),
            ("RCPT TO: c@d.example", rcpt("<c@d.example>")),
            ("data", Ok(Command::Data)),
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
            ("FROBNICATE", CommandError::Unknown),
            ("STARTTLS", CommandError::NotOffered),
            ("BDAT 5 LAST", CommandError::NotOffered),
            ("XCLIENT ADDR=192.0.2.1", CommandError::NotOffered),
            ("MAIL <a@b.example>", CommandError::Arguments),
            ("MAIL FROM:", CommandError::Address(PathError::Syntax)),
            ("MAIL FROM:<a@b.example> SMTPUTF8", CommandError::ParameterUnknown),
            ("MAIL FROM:<a@b.example> SIZE=x", CommandError::ParameterValue),
            ("MAIL FROM:<a@b.example> SIZE=1 SIZE=2", CommandError::ParameterValue),
            ("MAIL FROM:<a@b.example> SIZE=1001", CommandError::TooBig),
            ("MAIL FROM:<a@b.example> SIZE=99999999999999999999", CommandError::TooBig),
            ("MAIL FROM:<a@b.example> BODY=BINARYMIME", CommandError::ParameterValue),
            ("RCPT TO:<c@d.example> NOTIFY=NEVER", CommandError::ParameterUnknown),
            ("RCPT TO:<>", CommandError::Address(PathError::Syntax)),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), Err(expected), "{line}");
        }
        assert_eq!(
            Command::parse(b"MAIL FROM:<a@b.example> SIZE=1", None),
            Err(CommandError::ParameterUnknown),
            "after HELO no parameter was offered"
        );
    }

    #[test]
    fn parameters_go_on_as_the_upstream_knows_them() {
        let parameters = MailParameters { size: Some(10), body: Some("8BITMIME") };
        assert_eq!(parameters.for_upstream(true, 16384), " SIZE=16394 BODY=8BITMIME");
        assert_eq!(parameters.for_upstream(false, 16384), " BODY=8BITMIME");
        assert_eq!(MailParameters::default().for_upstream(true, 16384), "");
    }
}
