//! Settles who gets a report: which of the addresses that a policy record names, and whether they want it.
//!
//! The decisions are functions over values ([`Address::of`], [`Question::new`], [`settle`]); [`recipients`] asks DNS
//! for what they need, each time that a report is due, so that nobody gets reports for longer than a record asks for
//! them. A destination with a [`Refusal`] is left out; one that DNS left open is postponed.

use std::fmt;

use crate::dmarc::record::PolicyRecord;
use crate::dmarc::report_destination::{Consent, ReportKind, confirmation_name};
use crate::dmarc::report_uri::ReportUri;
use crate::dns::{Lookup, Miss};
use crate::domain::Domain;
use crate::evaluation::discovery::{Rules, of_domain};
use crate::label_enum;

/// An address that a report can be sent to: in ASCII, so that any mail server takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// As it stands in an address, with quotes where it needs them.
    local_part: Box<str>,
    domain: Domain,
}

label_enum! {
    /// Why an address gets no report.
    pub enum Refusal {
        /// The operator's deny list has it.
        Denied = "denied",
        /// The record that should confirm it names an address at another host (RFC 9990 §4).
        Diverted = "diverted",
        /// The name that should confirm it is too long for DNS.
        NameTooLong = "name_too_long",
        /// Its local part is not in ASCII: mail to it needs an extension that not every server has (RFC 6531).
        NonAscii = "non_ascii",
        /// It is outside the policy domain's organization, and nothing there says that it wants the reports.
        NotConfirmed = "not_confirmed",
        /// It is no `mailto:`, the only scheme that reports are sent by.
        NotMail = "not_mail",
        /// Its local part names another host, which a mail server that trusts us might send it on to.
        Routed = "routed",
        /// As many as we send to come before it.
        TooMany = "too_many",
        /// It is no address once its escapes are resolved.
        Unreadable = "unreadable",
    }
}

/// What has to be asked before a report goes to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Nothing: it is of the policy domain's own organization.
    Needless,
    /// The texts at this name.
    TextsAt(String),
    /// It can't be asked, and so it is not confirmed (RFC 9990 §4 step 4).
    TooLong,
    /// DNS left open whose organization it is: later.
    Open,
}

/// What became of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The report goes to these: the address itself, or what its host wants instead.
    Send(Vec<Address>),
    /// It does not.
    Refuse(Refusal),
    /// DNS did not say: it is to be asked again later.
    Postpone,
}

/// Who gets a report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recipients {
    /// In the order of the record, each once.
    pub to: Vec<Address>,
    /// Those that DNS left open.
    pub postponed: Vec<Address>,
    /// What gets none, as published, and why.
    pub refused: Vec<(ReportUri, Refusal)>,
}

/// What the operator says of recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many addresses get one report.
    pub at_most: usize,
    /// Who gets none.
    pub deny: DenyList,
}

/// Addresses and domains that get no reports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DenyList {
    addresses: Vec<Address>,
    /// With all below them.
    domains: Vec<Domain>,
}

/// Settles who gets a report of a kind about `policy_domain`, whose record is `record`.
pub async fn recipients<L: Lookup>(
    lookup: &L,
    rules: &Rules,
    settings: &Settings,
    kind: ReportKind,
    (policy_domain, record): (&Domain, &PolicyRecord),
) -> Recipients {
    let mut recipients = Recipients::default();
    // The organization of the policy domain is asked for at most once, and only if there is a host outside.
    let mut own = None;
    for uri in kind.requested(record) {
        // RFC 9990 §3.5: the URIs are taken in their order, up to our limit.
        if recipients.to.len() + recipients.postponed.len() >= settings.at_most {
            recipients.refused.push((uri.clone(), Refusal::TooMany));
            continue;
        }
        let address = match Address::of(uri) {
            Ok(address) if settings.deny.has(&address) => Err(Refusal::Denied),
            other => other,
        };
        let verdict = match &address {
            Ok(address) if address.domain == *policy_domain => Verdict::Send(vec![address.clone()]),
            Ok(address) => {
                let own_organization = match &own {
                    Some(known) => known,
                    None => own.insert(of_domain(lookup, rules, policy_domain).await.organizational_domain),
                };
                verify(lookup, rules, kind, (policy_domain, own_organization.as_ref()), address).await
            }
            Err(refusal) => Verdict::Refuse(*refusal),
        };
        recipients.take(settings, uri, address.ok(), verdict);
    }
    recipients
}

async fn verify<L: Lookup>(
    lookup: &L,
    rules: &Rules,
    kind: ReportKind,
    (policy_domain, own): (&Domain, Option<&Domain>),
    address: &Address,
) -> Verdict {
    let host = &address.domain;
    let other = of_domain(lookup, rules, host).await.organizational_domain;
    match Question::new((policy_domain, own), (host, other.as_ref())) {
        Question::Needless => Verdict::Send(vec![address.clone()]),
        Question::TooLong => Verdict::Refuse(Refusal::NameTooLong),
        Question::Open => Verdict::Postpone,
        Question::TextsAt(name) => match lookup.txt(&name).await {
            Ok(records) => settle(kind, address, Ok(records.as_txt().iter().flat_map(|txt| txt.texts()))),
            Err(miss) => settle(kind, address, Err::<[&[u8]; 0], _>(miss)),
        },
    }
}

/// What the answer at the confirming name means for an address (RFC 9990 §4 steps 5 to 9).
pub fn settle<'a>(
    kind: ReportKind,
    address: &Address,
    answer: Result<impl IntoIterator<Item = &'a [u8]>, Miss>,
) -> Verdict {
    let consent = match answer {
        Ok(texts) => Consent::of(kind, &address.domain, texts),
        Err(Miss::NoData | Miss::NxDomain) => Consent::NotGiven,
        Err(Miss::Failed(_)) => return Verdict::Postpone,
    };
    match consent {
        Consent::NotGiven => Verdict::Refuse(Refusal::NotConfirmed),
        Consent::Given => Verdict::Send(vec![address.clone()]),
        Consent::Diverted(_) => Verdict::Refuse(Refusal::Diverted),
        Consent::Replaced(uris) => {
            let addresses: Vec<_> = uris.iter().map(Address::of).collect();
            let refusal = addresses.iter().find_map(|address| address.as_ref().err().copied());
            let fit: Vec<_> = addresses.into_iter().flatten().collect();
            match (fit.is_empty(), refusal) {
                (true, Some(refusal)) => Verdict::Refuse(refusal),
                _ => Verdict::Send(fit),
            }
        }
    }
}

impl Question {
    /// What to ask, given a policy domain and a destination host, each with its organizational domain unless DNS left
    /// it open (RFC 9990 §4).
    pub fn new((policy_domain, own): (&Domain, Option<&Domain>), (host, other): (&Domain, Option<&Domain>)) -> Self {
        match (own, other) {
            _ if policy_domain == host => Self::Needless,
            (Some(own), Some(other)) if own == other => Self::Needless,
            (Some(_), Some(_)) => confirmation_name(policy_domain, host).map_or(Self::TooLong, Self::TextsAt),
            _ => Self::Open,
        }
    }
}

impl Recipients {
    fn take(&mut self, settings: &Settings, uri: &ReportUri, address: Option<Address>, verdict: Verdict) {
        let to = match (verdict, address) {
            (Verdict::Send(to), _) => to,
            (Verdict::Refuse(refusal), _) => return self.refused.push((uri.clone(), refusal)),
            (Verdict::Postpone, Some(address)) if !self.postponed.contains(&address) => {
                return self.postponed.push(address);
            }
            (Verdict::Postpone, _) => return,
        };
        for address in to {
            if settings.deny.has(&address) {
                self.refused.push((uri.clone(), Refusal::Denied));
            } else if self.to.contains(&address) {
                // Named twice, or in place of several.
            } else if self.to.len() + self.postponed.len() < settings.at_most {
                self.to.push(address);
            } else {
                self.refused.push((uri.clone(), Refusal::TooMany));
            }
        }
    }
}

impl Address {
    /// The address of a reporting URI with its escapes resolved; header fields that it asks for are ignored.
    ///
    /// # Errors
    ///
    /// Whoever published it is at fault; see [`Refusal`].
    pub fn of(uri: &ReportUri) -> Result<Self, Refusal> {
        let domain = uri.mail_host().ok_or(Refusal::NotMail)?;
        let (_, rest) = uri.as_str().split_once(':').ok_or(Refusal::NotMail)?;
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        let (local_part, _) = path.rsplit_once('@').ok_or(Refusal::Unreadable)?;
        Self::new(&resolved(local_part).ok_or(Refusal::Unreadable)?, domain)
    }

    /// Reads an address as an operator writes it: `user@example.org`.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let (local_part, domain) = text.rsplit_once('@').ok_or(Refusal::Unreadable)?;
        Self::new(local_part.as_bytes(), Domain::parse(domain).map_err(|_| Refusal::Unreadable)?)
    }

    /// The local part as it stands in an address.
    pub fn local_part(&self) -> &str {
        &self.local_part
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// `local_part`: a dot-atom, a quoted string, or neither, which is then quoted (RFC 5321 §4.1.2).
    fn new(local_part: &[u8], domain: Domain) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(local_part).map_err(|_| Refusal::Unreadable)?;
        if !text.is_ascii() {
            return Err(Refusal::NonAscii);
        }
        let bare = match text.strip_prefix('"') {
            Some(rest) => unquoted(rest).ok_or(Refusal::Unreadable)?,
            None => text.to_owned(),
        };
        if bare.is_empty() || !bare.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(Refusal::Unreadable);
        }
        if bare.contains(['%', '!', '@']) {
            return Err(Refusal::Routed);
        }
        let written =
            if is_dot_atom(&bare) { bare } else { format!("\"{}\"", bare.replace('\\', "\\\\").replace('"', "\\\"")) };
        let fits = written.len() <= MAX_LOCAL_PART;
        fits.then(|| Self { local_part: written.into(), domain }).ok_or(Refusal::Unreadable)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local_part, self.domain)
    }
}

impl DenyList {
    /// Reads entries: an address, or a domain, which stands for all below it as well.
    ///
    /// # Errors
    ///
    /// The entry that is neither.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let mut list = Self::default();
        for entry in entries {
            if entry.contains('@') {
                list.addresses.push(Address::parse(entry).map_err(|_| entry)?);
            } else {
                list.domains.push(Domain::parse(entry).map_err(|_| entry)?);
            }
        }
        Ok(list)
    }

    /// Whether an address is on it; local parts are compared without regard to case, since few tell them apart.
    pub fn has(&self, address: &Address) -> bool {
        let is_same = |denied: &Address| {
            denied.domain == address.domain && denied.local_part.eq_ignore_ascii_case(&address.local_part)
        };
        self.domains.iter().any(|domain| address.domain.is_within(domain)) || self.addresses.iter().any(is_same)
    }
}

impl Default for Settings {
    /// Owners name one or two addresses.
    fn default() -> Self {
        Self { at_most: 5, deny: DenyList::default() }
    }
}

/// A text with its escapes resolved (RFC 3986 §2.1); none if one is not whole.
fn resolved(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        octets.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            _ => byte,
        });
    }
    Some(octets)
}

/// What a quoted string means, whose opening quote has been read; none if it does not end with the text.
fn unquoted(text: &str) -> Option<String> {
    let mut bare = String::with_capacity(text.len());
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(bare),
            '\\' => bare.push(characters.next()?),
            character => bare.push(character),
        }
    }
}

/// RFC 5322 §3.2.3.
fn is_dot_atom(text: &str) -> bool {
    let is_text = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b);
    text.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_text))
}

/// Octets of a local part (RFC 5321 §4.5.3.1.1).
pub(crate) const MAX_LOCAL_PART: usize = 64;

#[cfg(test)]
mod tests;
