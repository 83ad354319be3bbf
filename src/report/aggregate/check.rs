//! Reads a report before it leaves, so that none is sent that its reader would reject.
//!
//! Written apart from the writer, as a table of what the schemas say in the order of RFC 9990's tables, which is
//! stricter than the schema: that leaves the order open in places.

use std::net::IpAddr;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::report::aggregate::line::{DKIM_RESULTS, SPF_RESULTS};
use crate::report::aggregate::source::MASK;
use crate::report::aggregate::xml::NAMESPACE;
use crate::report::aggregate::{Format, is_xml};

/// What is wrong with a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {fault}")]
pub struct Damage {
    /// The elements around the place, from the outermost.
    pub path: String,
    /// What is wrong there.
    pub fault: Fault,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It has attributes that it should not have, or lacks its namespace.
    #[error("wrong attributes")]
    Attributes,
    /// Something other than elements and text, or text where elements belong.
    #[error("content that has no place here")]
    Foreign,
    /// Elements do not nest, or it ends too early.
    #[error("no well-formed XML")]
    Malformed,
    /// An element that has to be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// More octets than a report may have.
    #[error("too large")]
    TooLarge,
    /// An element that has no place there, or is there too often.
    #[error("{0:?} is not expected")]
    Unexpected(Box<str>),
    /// The text is not one that the element can have.
    #[error("{0:?} is not allowed")]
    Value(Box<str>),
}

/// Whether `xml` is a report of this format.
///
/// # Errors
///
/// Ours: the report must not be sent.
pub fn check(xml: &str, format: Format) -> Result<(), Damage> {
    let mut place = Place { stack: Vec::new(), root: Some(root(format)), format };
    if xml.len() > MAX_OCTETS {
        return Err(place.damage(Fault::TooLarge));
    }
    if !xml.chars().all(is_xml) {
        return Err(place.damage(Fault::Foreign));
    }
    let mut reader = Reader::from_str(xml);
    loop {
        let event = reader.read_event().map_err(|_| place.damage(Fault::Malformed))?;
        let taken = match event {
            Event::Start(start) => place.open(&start),
            Event::Empty(start) => place.open(&start).and_then(|()| place.close()),
            Event::End(_) => place.close(),
            Event::Text(text) => place.text(&text),
            Event::GeneralRef(name) => match entity(&name) {
                Some(character) => place.text(character),
                None => Err(Fault::Foreign),
            },
            Event::Decl(_) if place.is_outside() => Ok(()),
            Event::Eof if place.is_outside() && place.root.is_none() => return Ok(()),
            Event::Eof => Err(Fault::Malformed),
            _ => Err(Fault::Foreign),
        };
        taken.map_err(|fault| place.damage(fault))?;
    }
}

/// An element, how often it is there, and what is in it.
struct Element {
    name: &'static str,
    times: Times,
    content: Content,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Optional,
    Once,
    Any,
    OnceOrMore,
}

enum Content {
    Elements(&'static [Element]),
    Text(fn(&str) -> bool),
}

/// How far the document has been read.
struct Place {
    stack: Vec<Open>,
    /// Until it has come.
    root: Option<&'static Element>,
    format: Format,
}

/// An element that has begun.
struct Open {
    element: &'static Element,
    /// Which of its elements came last, and how often it has come.
    at: usize,
    seen: usize,
    text: String,
}

impl Place {
    fn is_outside(&self) -> bool {
        self.stack.is_empty()
    }

    fn damage(&self, fault: Fault) -> Damage {
        let names: Vec<_> = self.stack.iter().map(|open| open.element.name).collect();
        Damage { path: if names.is_empty() { "document".into() } else { names.join("/") }, fault }
    }

    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), Fault> {
        let qualified = start.name();
        let name: &str = qualified.as_ref();
        let element = match self.stack.last_mut() {
            Some(parent) => parent.child(name)?,
            None => self.root.take().filter(|root| root.name == name).ok_or_else(|| Fault::Unexpected(name.into()))?,
        };
        let wanted = if self.is_outside() && self.format == Format::Rfc9990 { NAMESPACE } else { "" };
        let mut namespace = "".to_owned();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|_| Fault::Malformed)?;
            let key: &str = attribute.key.as_ref();
            if key != "xmlns" || !namespace.is_empty() {
                return Err(Fault::Attributes);
            }
            namespace.push_str(&attribute.value);
        }
        if namespace != wanted {
            return Err(Fault::Attributes);
        }
        self.stack.push(Open { element, at: 0, seen: 0, text: String::new() });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fault> {
        // The reader makes sure that an element is open.
        let Some(open) = self.stack.last_mut() else { return Err(Fault::Malformed) };
        match open.element.content {
            Content::Elements(elements) => {
                let left = elements.iter().skip(open.at).enumerate();
                let mut missing =
                    left.filter(|(ahead, element)| element.is_required() && (*ahead > 0 || open.seen == 0));
                if let Some((_, element)) = missing.next() {
                    return Err(Fault::Missing(element.name));
                }
            }
            Content::Text(allows) if !allows(&open.text) => return Err(Fault::Value(open.text.as_str().into())),
            Content::Text(_) => {}
        }
        self.stack.pop();
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Fault> {
        match self.stack.last_mut() {
            Some(Open { element: Element { content: Content::Text(_), .. }, text: so_far, .. }) => {
                so_far.push_str(text)
            }
            _ if text.trim_matches([' ', '\t', '\r', '\n']).is_empty() => {}
            _ => return Err(Fault::Foreign),
        }
        Ok(())
    }
}

impl Open {
    /// The element of that name, if it may come now.
    fn child(&mut self, name: &str) -> Result<&'static Element, Fault> {
        let Content::Elements(elements) = self.element.content else { return Err(Fault::Unexpected(name.into())) };
        for (at, element) in elements.iter().enumerate().skip(self.at) {
            if at > self.at {
                (self.at, self.seen) = (at, 0);
            }
            if element.name == name {
                if self.seen > 0 && matches!(element.times, Times::Once | Times::Optional) {
                    return Err(Fault::Unexpected(name.into()));
                }
                self.seen += 1;
                return Ok(element);
            }
            if self.seen == 0 && element.is_required() {
                return Err(Fault::Missing(element.name));
            }
        }
        Err(Fault::Unexpected(name.into()))
    }
}

impl Element {
    fn is_required(&self) -> bool {
        matches!(self.times, Times::Once | Times::OnceOrMore)
    }
}

/// What the five entities of XML stand for; the writer uses no others.
fn entity(name: &str) -> Option<&'static str> {
    match name {
        "amp" => Some("&"),
        "lt" => Some("<"),
        "gt" => Some(">"),
        "quot" => Some("\""),
        "apos" => Some("'"),
        _ => None,
    }
}

fn root(format: Format) -> &'static Element {
    match format {
        Format::Rfc9990 => &ROOT,
        Format::Rfc7489 => &OLDER_ROOT,
    }
}

const fn group(name: &'static str, times: Times, elements: &'static [Element]) -> Element {
    Element { name, times, content: Content::Elements(elements) }
}

const fn leaf(name: &'static str, times: Times, allows: fn(&str) -> bool) -> Element {
    Element { name, times, content: Content::Text(allows) }
}

/// A `record`, and where the formats differ: dispositions, reasons, SPF results, their scopes.
macro_rules! record {
    ($disposition:expr, $reasons:expr, $spf:expr, $scope:expr, $scopes:expr) => {
        group(
            "record",
            Times::OnceOrMore,
            &[
                group(
                    "row",
                    Times::Once,
                    &[
                        leaf("source_ip", Times::Once, is_address),
                        leaf("count", Times::Once, is_count),
                        group(
                            "policy_evaluated",
                            Times::Once,
                            &[
                                leaf("disposition", Times::Once, $disposition),
                                leaf("dkim", Times::Once, is_outcome),
                                leaf("spf", Times::Once, is_outcome),
                                group(
                                    "reason",
                                    Times::Any,
                                    &[
                                        leaf("type", Times::Once, |text| $reasons.contains(&text)),
                                        leaf("comment", Times::Optional, any),
                                    ],
                                ),
                            ],
                        ),
                    ],
                ),
                IDENTIFIERS,
                group(
                    "auth_results",
                    Times::Once,
                    &[
                        DKIM,
                        group(
                            "spf",
                            $spf,
                            &[
                                leaf("domain", Times::Once, any),
                                leaf("scope", $scope, $scopes),
                                leaf("result", Times::Once, |text| SPF_RESULTS.contains(&text)),
                            ],
                        ),
                    ],
                ),
            ],
        )
    };
}

/// RFC 9990, tables 1 to 14.
static ROOT: Element = group(
    "feedback",
    Times::Once,
    &[
        leaf("version", Times::Once, |text| text == "1.0"),
        group(
            "report_metadata",
            Times::Once,
            &[
                leaf("org_name", Times::Once, is_given),
                leaf("email", Times::Once, is_given),
                leaf("extra_contact_info", Times::Optional, any),
                leaf("report_id", Times::Once, is_report_id),
                DATE_RANGE,
                leaf("error", Times::Optional, any),
                leaf("generator", Times::Optional, any),
            ],
        ),
        group(
            "policy_published",
            Times::Once,
            &[
                leaf("domain", Times::Once, is_given),
                leaf("discovery_method", Times::Optional, |text| ["psl", "treewalk"].contains(&text)),
                leaf("p", Times::Once, is_policy),
                leaf("sp", Times::Optional, is_policy),
                leaf("np", Times::Optional, is_policy),
                leaf("fo", Times::Optional, any),
                leaf("adkim", Times::Optional, is_mode),
                leaf("aspf", Times::Optional, is_mode),
                leaf("testing", Times::Optional, |text| ["n", "y"].contains(&text)),
            ],
        ),
        record!(is_disposition, REASONS, Times::Optional, Times::Optional, |text| text == "mfrom"),
    ],
);

/// RFC 7489, appendix C.
static OLDER_ROOT: Element = group(
    "feedback",
    Times::Once,
    &[
        leaf("version", Times::Once, |text| text == "1.0"),
        group(
            "report_metadata",
            Times::Once,
            &[
                leaf("org_name", Times::Once, is_given),
                leaf("email", Times::Once, is_given),
                leaf("extra_contact_info", Times::Optional, any),
                leaf("report_id", Times::Once, is_report_id),
                DATE_RANGE,
                leaf("error", Times::Any, any),
            ],
        ),
        group(
            "policy_published",
            Times::Once,
            &[
                leaf("domain", Times::Once, is_given),
                leaf("adkim", Times::Optional, is_mode),
                leaf("aspf", Times::Optional, is_mode),
                leaf("p", Times::Once, is_policy),
                leaf("sp", Times::Once, is_policy),
                leaf("pct", Times::Once, is_number),
                leaf("fo", Times::Once, any),
            ],
        ),
        record!(is_policy, OLDER_REASONS, Times::OnceOrMore, Times::Once, |text| ["helo", "mfrom"].contains(&text)),
    ],
);

const DATE_RANGE: Element =
    group("date_range", Times::Once, &[leaf("begin", Times::Once, is_number), leaf("end", Times::Once, is_number)]);

const IDENTIFIERS: Element = group(
    "identifiers",
    Times::Once,
    &[
        leaf("header_from", Times::Once, is_given),
        leaf("envelope_from", Times::Optional, any),
        leaf("envelope_to", Times::Optional, any),
    ],
);

const DKIM: Element = group(
    "dkim",
    Times::Any,
    &[
        leaf("domain", Times::Once, any),
        leaf("selector", Times::Once, any),
        leaf("result", Times::Once, |text| DKIM_RESULTS.contains(&text)),
    ],
);

const REASONS: [&str; 5] = ["local_policy", "mailing_list", "other", "policy_test_mode", "trusted_forwarder"];
const OLDER_REASONS: [&str; 6] =
    ["forwarded", "sampled_out", "trusted_forwarder", "mailing_list", "local_policy", "other"];

fn any(_: &str) -> bool {
    true
}

fn is_given(text: &str) -> bool {
    !text.trim().is_empty()
}

/// `dot-atom-text ["@" dot-atom-text]`, of which ours is a part (RFC 9990 §3.5.1).
fn is_report_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_count(text: &str) -> bool {
    is_number(text) && text.bytes().any(|b| b != b'0')
}

fn is_address(text: &str) -> bool {
    text == MASK || text.parse::<IpAddr>().is_ok()
}

fn is_policy(text: &str) -> bool {
    ["none", "quarantine", "reject"].contains(&text)
}

fn is_disposition(text: &str) -> bool {
    text == "pass" || is_policy(text)
}

fn is_mode(text: &str) -> bool {
    ["r", "s"].contains(&text)
}

fn is_outcome(text: &str) -> bool {
    ["pass", "fail"].contains(&text)
}

/// Octets of a document: twice what drafts hold by default, for operators who want larger ones.
const MAX_OCTETS: usize = 96 * 1024 * 1024;
