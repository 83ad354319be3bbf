//! Writes the replies to messages that are refused or deferred: clear to the sender's postmaster and to machines, with
//! an id that our own postmaster can look up (RFC 9989 §7.2).

use crate::evaluation::Evaluation;
use crate::message::author::{Author, UnusableFrom};
use crate::policy::Decision;

/// A reply of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyText {
    /// The reply code.
    pub code: u16,
    /// The enhanced status code (RFC 3463).
    pub enhanced: (u8, u16, u16),
    /// The text: printable ASCII, at most 480 characters, so that the line stays below 512 octets
    /// (RFC 5321 §4.5.3.1.5).
    pub text: String,
}

/// 550 5.7.1: the author domain's policy, or no usable author domain.
pub fn refusal(evaluation: &Evaluation, decision: &Decision, explain_id: &str) -> ReplyText {
    let text = match (&evaluation.author, deciding_domain(evaluation, decision)) {
        (Author::Unusable(why), _) => {
            let why = in_words(*why);
            format!("Email rejected: DMARC needs a From field that names one usable author domain; {why}")
        }
        (Author::Usable { .. }, Some(domain)) => {
            format!("Email rejected per DMARC policy for {domain}: neither SPF nor DKIM gave an aligned pass")
        }
        (Author::Usable { .. }, None) => "Email rejected per DMARC policy".to_owned(),
    };
    ReplyText { code: 550, enhanced: (5, 7, 1), text: with_id(&text, explain_id) }
}

/// 451 4.7.0: DNS left DMARC undecided.
pub fn deferral(evaluation: &Evaluation, decision: &Decision, explain_id: &str) -> ReplyText {
    let of = deciding_domain(evaluation, decision).map(|domain| format!(" for {domain}")).unwrap_or_default();
    let text = format!("DMARC{of} could not be evaluated: temporary DNS failure, please try again later");
    ReplyText { code: 451, enhanced: (4, 7, 0), text: with_id(&text, explain_id) }
}

/// What the sender's postmaster has to mend.
fn in_words(why: UnusableFrom) -> &'static str {
    match why {
        UnusableFrom::Missing => "there is no From field",
        UnusableFrom::Repeated => "there is more than one From field",
        UnusableFrom::Syntax => "the From field is malformed",
        UnusableFrom::NoDomain => "the From field has an address without a domain",
        UnusableFrom::Disagreement => "the From field can be read in two ways",
        UnusableFrom::TooManyDomains => "the From field names too many domains",
        UnusableFrom::MalformedHeader => "the header section has a line that is no header field",
    }
}

fn deciding_domain<'a>(evaluation: &'a Evaluation, decision: &Decision) -> Option<&'a str> {
    let dmarc = evaluation.dmarc.get(decision.deciding?)?;
    Some(dmarc.author_domain.as_str())
}

fn with_id(text: &str, explain_id: &str) -> String {
    let id: String = explain_id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(MAX_ID).collect();
    let mut line: String = text.chars().filter(|c| matches!(c, ' '..='~')).take(MAX_TEXT - MAX_ID - ID_WORDS).collect();
    if !id.is_empty() {
        line.push_str(" (id ");
        line.push_str(&id);
        line.push(')');
    }
    line
}

/// Characters of a reply's text.
const MAX_TEXT: usize = 480;
/// Characters of an id.
const MAX_ID: usize = 64;
/// Characters around it.
const ID_WORDS: usize = 6;
