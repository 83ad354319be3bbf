//! The parameters of MAIL and RCPT: what the gate looks at itself, and what goes on as it came.

use super::command::CommandError;
use super::extension::{ADDED_FIELDS, Capabilities, Offer};

/// The parameters of MAIL that the gate understands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// SIZE (RFC 1870): the octets that the client announces.
    pub size: Option<u64>,
    /// BODY (RFC 6152), in upper case.
    pub body: Option<&'static str>,
    /// SMTPUTF8 (RFC 6531 §3.4).
    pub smtp_utf8: bool,
    /// RET and ENVID (RFC 3461 §4.3, §4.4), as written, each behind a space.
    dsn: Box<str>,
    /// AUTH (RFC 4954 §5), as written, behind a space.
    auth: Box<str>,
}

/// The parameters of RCPT that the gate understands: NOTIFY and ORCPT (RFC 3461 §4.1, §4.2), as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// Each behind a space.
    dsn: Box<str>,
}

impl MailParameters {
    /// The parameters as an upstream is given them, SIZE with room for our own fields; none if it lacks an extension
    /// that is in use. What a server has not offered must not be used (RFC 5321 §2.2.1), and nothing is ever converted.
    /// AUTH is left out where it is not known: it says no more than who claims to have submitted the message (RFC 4954
    /// §5), and a server may hide it from this one client.
    pub fn for_upstream(&self, upstream: &Capabilities) -> Option<String> {
        let lacks = (self.body.is_some() && !upstream.eight_bit_mime)
            || (self.smtp_utf8 && !upstream.smtp_utf8)
            || (!self.dsn.is_empty() && !upstream.dsn);
        if lacks {
            return None;
        }
        let size = self.size.filter(|_| upstream.size.is_some());
        let size = size.map(|n| format!(" SIZE={}", n.saturating_add(ADDED_FIELDS))).unwrap_or_default();
        let body = self.body.map(|body| format!(" BODY={body}")).unwrap_or_default();
        let smtp_utf8 = if self.smtp_utf8 { " SMTPUTF8" } else { "" };
        let auth = if upstream.auth.is_empty() { "" } else { &*self.auth };
        Some([&size, &body, smtp_utf8, &self.dsn, auth].concat())
    }

    /// Whether they need no SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.dsn.is_ascii() && self.auth.is_ascii()
    }

    /// Reads what follows the path. A client that said HELO was offered nothing.
    ///
    /// # Errors
    ///
    /// The client's fault.
    pub fn parse(text: &[u8], offer: Option<&Offer>) -> Result<Self, CommandError> {
        let mut found = Self::default();
        let (mut dsn, mut auth) = (Verbatim::default(), Verbatim::default());
        for parameter in parameters(text) {
            let offer = offer.ok_or(CommandError::ParameterUnknown)?;
            let parameter @ Parameter { keyword, value } = parameter?;
            let is = |name: &str| keyword.eq_ignore_ascii_case(name);
            if is("SIZE") {
                let size = size_value(value).filter(|_| found.size.is_none()).ok_or(CommandError::ParameterValue)?;
                if size > offer.size {
                    return Err(CommandError::TooBig);
                }
                found.size = Some(size);
            } else if is("BODY") && offer.eight_bit_mime {
                let body = BODY_VALUES.into_iter().find(|v| value.is_some_and(|value| value.eq_ignore_ascii_case(v)));
                found.body = Some(body.filter(|_| found.body.is_none()).ok_or(CommandError::ParameterValue)?);
            } else if is("SMTPUTF8") && offer.smtp_utf8 {
                if value.is_some() || std::mem::replace(&mut found.smtp_utf8, true) {
                    return Err(CommandError::ParameterValue);
                }
            } else if offer.dsn && (is("RET") || is("ENVID")) {
                dsn.add(parameter)?;
            } else if is("AUTH") && !offer.auth.is_empty() {
                auth.add(parameter)?;
            } else {
                return Err(CommandError::ParameterUnknown);
            }
        }
        (found.dsn, found.auth) = (dsn.0.into(), auth.0.into());
        Ok(found)
    }
}

impl RcptParameters {
    /// The parameters as an upstream is given them; none if it lacks an extension that is in use.
    pub fn for_upstream(&self, upstream: &Capabilities) -> Option<&str> {
        (self.dsn.is_empty() || upstream.dsn).then_some(&*self.dsn)
    }

    /// Whether they need no SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.dsn.is_ascii()
    }

    /// Reads what follows the path. A client that said HELO was offered nothing.
    ///
    /// # Errors
    ///
    /// The client's fault.
    pub fn parse(text: &[u8], offer: Option<&Offer>) -> Result<Self, CommandError> {
        let mut dsn = Verbatim::default();
        for parameter in parameters(text) {
            let parameter = parameter?;
            let is_known = ["NOTIFY", "ORCPT"].iter().any(|name| parameter.keyword.eq_ignore_ascii_case(name));
            if !is_known || !offer.is_some_and(|offer| offer.dsn) {
                return Err(CommandError::ParameterUnknown);
            }
            dsn.add(parameter)?;
        }
        Ok(Self { dsn: dsn.0.into() })
    }
}

/// One parameter of MAIL or RCPT (RFC 5321 §4.1.2, `esmtp-param`).
#[derive(Clone, Copy)]
struct Parameter<'a> {
    keyword: &'a str,
    value: Option<&'a str>,
}

/// Parameters that go on as they came, each behind a space.
#[derive(Default)]
struct Verbatim(String);

impl Verbatim {
    /// Takes a parameter that must have a value, once.
    fn add(&mut self, Parameter { keyword, value }: Parameter<'_>) -> Result<(), CommandError> {
        let value = value.filter(|value| !value.is_empty()).ok_or(CommandError::ParameterValue)?;
        let is_there = self
            .0
            .split(' ')
            .any(|word| word.split_once('=').is_some_and(|(known, _)| known.eq_ignore_ascii_case(keyword)));
        if is_there {
            return Err(CommandError::ParameterValue);
        }
        self.0.extend([" ", keyword, "=", value]);
        Ok(())
    }
}

/// What follows a path, word by word.
fn parameters(text: &[u8]) -> impl Iterator<Item = Result<Parameter<'_>, CommandError>> {
    text.split(|b| *b == b' ' || *b == b'\t').filter(|word| !word.is_empty()).map(|word| {
        let word = std::str::from_utf8(word).map_err(|_| CommandError::ParameterUnknown)?;
        if word.chars().any(char::is_control) {
            return Err(CommandError::ParameterValue);
        }
        let (keyword, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(v)));
        Ok(Parameter { keyword, value })
    })
}

/// RFC 1870 §4: 1 to 20 digits.
fn size_value(value: Option<&str>) -> Option<u64> {
    let value = value.filter(|v| (1..=MAX_DIGITS).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_digit()))?;
    Some(value.parse().unwrap_or(u64::MAX))
}

/// RFC 6152 §2; BINARYMIME is never offered.
const BODY_VALUES: [&str; 2] = ["7BIT", "8BITMIME"];
/// Digits of a number of octets (RFC 1870 §4, RFC 3030 §2).
pub const MAX_DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::Reply;

    fn offer() -> Offer {
        let auth = vec!["PLAIN".into()];
        Offer { size: 1000, eight_bit_mime: true, smtp_utf8: true, dsn: true, auth, ..Offer::default() }
    }

    fn upstream(extensions: &[&str]) -> Capabilities {
        Capabilities::read(&Reply::lines(250, std::iter::once("mx").chain(extensions.iter().copied())))
    }

    #[test]
    fn parameters_go_on_as_the_upstream_knows_them() {
        let all = ["SIZE", "8BITMIME", "SMTPUTF8", "DSN", "AUTH PLAIN"];
        let cases: [(&str, &[&str], Option<&str>); 11] = [
            ("", &[], Some("")),
            (" SIZE=10 BODY=8BITMIME", &all, Some(" SIZE=16394 BODY=8BITMIME")),
            (" body=7bit  size=10", &["8BITMIME"], Some(" BODY=7BIT")),
            (" BODY=7BIT", &["SIZE"], None),
            (" smtputf8", &all, Some(" SMTPUTF8")),
            (" SMTPUTF8", &["8BITMIME"], None),
            (" ENVID=QQ314159+20x ret=HDRS", &all, Some(" ENVID=QQ314159+20x ret=HDRS")),
            (" RET=FULL", &["8BITMIME"], None),
            (" AUTH=<> RET=FULL", &all, Some(" RET=FULL AUTH=<>")),
            (" AUTH=a+3Db@c.example", &["DSN"], Some("")),
            (" AUTH=<> RET=FULL", &["DSN"], Some(" RET=FULL")),
        ];
        for (text, extensions, expected) in cases {
            let found = MailParameters::parse(text.as_bytes(), Some(&offer())).unwrap();
            assert_eq!(found.for_upstream(&upstream(extensions)).as_deref(), expected, "{text} to {extensions:?}");
        }
        let text = " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@c.example";
        let found = RcptParameters::parse(text.as_bytes(), Some(&offer())).unwrap();
        assert_eq!(found.for_upstream(&upstream(&["DSN"])), Some(text));
        assert_eq!(found.for_upstream(&upstream(&[])), None);
        assert_eq!(RcptParameters::default().for_upstream(&upstream(&[])), Some(""));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        use CommandError::{ParameterUnknown, ParameterValue, TooBig};
        let cases = [
            (" SIZE=x", ParameterValue),
            (" SIZE=1 SIZE=2", ParameterValue),
            (" SIZE=1001", TooBig),
            (" SIZE=99999999999999999999", TooBig),
            (" BODY=BINARYMIME", ParameterValue),
            (" SMTPUTF8=1", ParameterValue),
            (" SMTPUTF8 SMTPUTF8", ParameterValue),
            (" RET", ParameterValue),
            (" ENVID=", ParameterValue),
            (" RET=FULL ret=HDRS", ParameterValue),
            (" ENVID=a\x07b", ParameterValue),
            (" NOTIFY=NEVER", ParameterUnknown),
            (" HOLDFOR=5", ParameterUnknown),
        ];
        for (text, expected) in cases {
            assert_eq!(MailParameters::parse(text.as_bytes(), Some(&offer())), Err(expected), "{text}");
        }
        for text in [" SIZE=1", " SMTPUTF8", " RET=FULL", " AUTH=<>", " BODY=7BIT"] {
            let bare = Offer { size: 1000, ..Offer::default() };
            let offered = if text == " SIZE=1" { None } else { Some(&bare) };
            assert_eq!(MailParameters::parse(text.as_bytes(), offered), Err(ParameterUnknown), "{text} not offered");
        }
        let cases = [
            (" NOTIFY", ParameterValue),
            (" NOTIFY=NEVER NOTIFY=DELAY", ParameterValue),
            (" ORCPT=", ParameterValue),
            (" RET=FULL", ParameterUnknown),
        ];
        for (text, expected) in cases {
            assert_eq!(RcptParameters::parse(text.as_bytes(), Some(&offer())), Err(expected), "{text}");
        }
        assert_eq!(RcptParameters::parse(b" NOTIFY=NEVER", None), Err(ParameterUnknown), "not offered");
    }
}
