//! Reads From by the grammar of RFC 5322 §3.4 and §4.4.
//!
//! Beyond the grammar it takes what honest software writes where the domain stays clear: punctuation in display names,
//! raw octets beyond ASCII (RFC 6532, and older charsets in display names), a phrase cut off by an unquoted comma,
//! groups that are never closed, dots anywhere in a local part. Nothing is repaired inside an address.

use super::{MAX_DOMAINS, Mailboxes, UnusableFrom};
use crate::domain::Domain;

/// Reads an unfolded value; only [`UnusableFrom::Syntax`] is an error here.
pub(super) fn read(value: &[u8]) -> Result<Mailboxes, UnusableFrom> {
    let mut reader = Reader { length: value.len(), rest: value, found: Mailboxes::default() };
    while let Some(next) = reader.peek() {
        // obs-mbox-list and obs-group-list allow empty elements (RFC 5322 §4.4).
        match next {
            b',' | b';' | b' ' | b'\t' => reader.bump(),
            _ => reader.element()?,
        }
    }
    Ok(reader.found)
}

struct Reader<'a> {
    /// Of the whole value.
    length: usize,
    rest: &'a [u8],
    found: Mailboxes,
}

/// The right side of an address.
#[derive(PartialEq)]
enum Host {
    Name(Domain),
    Literal,
}

/// What the words before an at sign amount to.
#[derive(Clone, Copy, PartialEq)]
enum Words {
    /// None yet.
    Empty,
    /// A local part so far, after a word.
    LocalPart,
    /// A local part so far, after a dot.
    LocalPartDot,
    /// Good for a display name only.
    Phrase,
}

impl<'a> Reader<'a> {
    /// A mailbox, a bare phrase, or the name of a group with its colon; at the end a separator or nothing follows,
    /// but for a group.
    fn element(&mut self) -> Result<(), UnusableFrom> {
        let begin = self.rest;
        self.skip_cfws()?;
        let start = self.rest;
        let mut words = Words::Empty;
        let mut address_before = false;
        loop {
            self.skip_cfws()?;
            match self.peek() {
                None | Some(b',' | b';') if address_before => return Err(UnusableFrom::Syntax),
                // A bare phrase names nobody, and hides nothing: `Doe, John <john@x.example>`.
                None | Some(b',' | b';') => return Ok(()),
                Some(b':') if words == Words::Empty || address_before => return Err(UnusableFrom::Syntax),
                Some(b':') => {
                    self.bump();
                    return Ok(());
                }
                Some(b'<') => {
                    self.angle_address()?;
                    self.found.address_in_display_name |= address_before;
                    return self.end_of_element();
                }
                Some(b'@') => {
                    let is_address = words == Words::LocalPart || words == Words::LocalPartDot;
                    if is_address {
                        self.check_local_part(start)?;
                    }
                    let at = self.place();
                    self.bump();
                    if is_address && self.addr_spec_ends(begin, at)? {
                        return Ok(());
                    }
                    address_before = true;
                    words = Words::Phrase;
                }
                Some(b) => words = self.word(b, words)?,
            }
        }
    }

    /// One word, dot or, in display names alone, other punctuation.
    fn word(&mut self, next: u8, before: Words) -> Result<Words, UnusableFrom> {
        match next {
            b'"' => self.quoted_string()?,
            b'.' => {
                self.bump();
                return Ok(if before == Words::Phrase { before } else { Words::LocalPartDot });
            }
            b'[' | b']' | b')' => {
                self.bump();
                return Ok(Words::Phrase);
            }
            b'\\' => {
                self.bump();
                if self.peek().is_some_and(|b| b == b'"' || b == b'\\') {
                    self.bump();
                }
                return Ok(Words::Phrase);
            }
            b if is_atom_octet(b) => {
                self.atom();
            }
            _ => return Err(UnusableFrom::Syntax),
        }
        Ok(match before {
            Words::Empty | Words::LocalPartDot => Words::LocalPart,
            Words::LocalPart | Words::Phrase => Words::Phrase,
        })
    }

    /// After a local part and its at sign: takes the domain, if with it the element that stands at `begin` ends. If not,
    /// what was read is part of a display name, as in `ceo@v.example <x@a.example>`.
    fn addr_spec_ends(&mut self, begin: &[u8], at: usize) -> Result<bool, UnusableFrom> {
        let Some(host) = self.host()? else { return Ok(false) };
        self.skip_cfws()?;
        let next = self.peek();
        if matches!(next, None | Some(b',' | b';')) {
            self.note(host, at);
            return Ok(true);
        }
        let written = begin.get(..begin.len().saturating_sub(self.rest.len())).unwrap_or_default();
        let is_plain = !written.iter().any(|b| b"\"()".contains(b));
        if let Host::Name(domain) = host
            && !(is_plain && next != Some(b'"'))
            // A name without a dot is no domain of mail.
            && domain.label_count() > 1
        {
            self.found.adorned.push(domain);
        }
        Ok(false)
    }

    /// `"<" [obs-route] addr-spec ">"`; also `<>` and `<word>`, which have no domain.
    fn angle_address(&mut self) -> Result<(), UnusableFrom> {
        self.bump();
        self.skip_cfws()?;
        let route = if self.peek() == Some(b'@') { self.route()? } else { Vec::new() };
        let start = self.rest;
        let mut words = Words::Empty;
        let at = loop {
            self.skip_cfws()?;
            match self.peek() {
                Some(b'>') => {
                    self.found.without_domain = true;
                    self.bump();
                    return Ok(());
                }
                Some(b'@') if matches!(words, Words::LocalPart | Words::LocalPartDot) => {
                    self.check_local_part(start)?;
                    break self.place();
                }
                Some(b) => words = self.word(b, words)?,
                None => return Err(UnusableFrom::Syntax),
            }
            if words == Words::Phrase {
                return Err(UnusableFrom::Syntax);
            }
        };
        self.bump();
        let host = self.host()?.ok_or(UnusableFrom::Syntax)?;
        // Readers that do not know routes take the first domain for the author's. No honest mail has them any more.
        if route.iter().any(|hop| *hop != host) {
            return Err(UnusableFrom::Disagreement);
        }
        self.note(host, at);
        self.skip_cfws()?;
        if self.peek() != Some(b'>') {
            return Err(UnusableFrom::Syntax);
        }
        self.bump();
        Ok(())
    }

    /// Looks at what was read since `start`, a local part, for what leads readers astray: an address inside its quotes,
    /// after which some look no further, and characters that change the writing direction.
    fn check_local_part(&self, start: &[u8]) -> Result<(), UnusableFrom> {
        let local = start.get(..start.len().saturating_sub(self.rest.len())).unwrap_or_default();
        let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b) || !b.is_ascii();
        let hides_address = local.split(|b| *b == b'@').skip(1).any(|rest| {
            let end = rest.iter().position(|b| !is_name(b)).unwrap_or(rest.len());
            let name = rest.get(..end).and_then(|name| std::str::from_utf8(name).ok());
            // Without a dot it is no domain of mail: Notes writes `"John Doe/ORG@ORGNET"@x.example`.
            name.and_then(|name| Domain::parse(name).ok()).is_some_and(|domain| domain.label_count() > 1)
        });
        let turns =
            local.windows(3).any(|three| matches!(three, [0xe2, 0x80, 0xaa..=0xae] | [0xe2, 0x81, 0xa6..=0xa9]));
        if hides_address || turns { Err(UnusableFrom::Disagreement) } else { Ok(()) }
    }

    /// obs-route: `@a,@b:` (RFC 5322 §4.4).
    fn route(&mut self) -> Result<Vec<Host>, UnusableFrom> {
        let mut hops = Vec::new();
        loop {
            match self.peek() {
                Some(b',') => self.bump(),
                Some(b':') => {
                    self.bump();
                    return Ok(hops);
                }
                Some(b'@') => {
                    self.bump();
                    hops.push(self.host()?.ok_or(UnusableFrom::Syntax)?);
                }
                _ => return Err(UnusableFrom::Syntax),
            }
            self.skip_cfws()?;
        }
    }

    /// A domain name, with white space and comments around its dots (obs-domain), or a literal; none if what stands
    /// here is neither.
    fn host(&mut self) -> Result<Option<Host>, UnusableFrom> {
        self.skip_cfws()?;
        if self.peek() == Some(b'[') {
            return Ok(self.literal().then_some(Host::Literal));
        }
        let mut name = Vec::new();
        loop {
            match self.peek() {
                Some(b'.') => {
                    self.bump();
                    name.push(b'.');
                }
                Some(b) if is_atom_octet(b) && matches!(name.last(), None | Some(b'.')) => {
                    name.extend_from_slice(self.atom());
                }
                _ => break,
            }
            self.skip_cfws()?;
        }
        let name = std::str::from_utf8(&name).ok().and_then(|name| Domain::parse(name).ok());
        Ok(name.map(Host::Name))
    }

    fn literal(&mut self) -> bool {
        let Some(end) = self.rest.iter().skip(1).position(|b| b"[]\\".contains(b)) else { return false };
        // The position counts from the octet after the opening bracket.
        let closed = self.rest.get(end + 1) == Some(&b']');
        self.rest = self.rest.get(end + 2..).unwrap_or_default();
        closed
    }

    /// Takes the address whose at sign stands at `at`.
    fn note(&mut self, host: Host, at: usize) {
        self.found.at_signs.push(at);
        let domains = &mut self.found.domains;
        match host {
            Host::Literal => self.found.without_domain = true,
            Host::Name(name) if domains.len() <= MAX_DOMAINS && !domains.contains(&name) => domains.push(name),
            Host::Name(_) => {}
        }
    }

    fn end_of_element(&mut self) -> Result<(), UnusableFrom> {
        self.skip_cfws()?;
        match self.peek() {
            None | Some(b',' | b';') => Ok(()),
            Some(_) => Err(UnusableFrom::Syntax),
        }
    }

    fn quoted_string(&mut self) -> Result<(), UnusableFrom> {
        self.bump();
        loop {
            match self.take() {
                Some(b'"') => return Ok(()),
                Some(b'\\') => {
                    self.take().ok_or(UnusableFrom::Syntax)?;
                }
                Some(_) => {}
                None => return Err(UnusableFrom::Syntax),
            }
        }
    }

    /// White space and comments (RFC 5322 §3.2.2).
    fn skip_cfws(&mut self) -> Result<(), UnusableFrom> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b' ' | b'\t') => {}
                Some(b'(') if depth < MAX_COMMENT_DEPTH => depth += 1,
                Some(_) if depth == 0 => return Ok(()),
                None if depth == 0 => return Ok(()),
                Some(b'(') | None => return Err(UnusableFrom::Syntax),
                Some(b')') => depth -= 1,
                // A backslash takes the next octet with it.
                Some(b'\\') => self.bump(),
                Some(_) => {}
            }
            self.bump();
        }
    }

    fn atom(&mut self) -> &[u8] {
        let end = self.rest.iter().position(|b| !is_atom_octet(*b)).unwrap_or(self.rest.len());
        let (atom, rest) = self.rest.split_at_checked(end).unwrap_or_default();
        self.rest = rest;
        atom
    }

    /// Of the next octet in the value.
    fn place(&self) -> usize {
        self.length.saturating_sub(self.rest.len())
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn take(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn bump(&mut self) {
        self.take();
    }
}

/// Everything but white space and the specials of RFC 5322 §3.2.3; control characters were refused before.
fn is_atom_octet(b: u8) -> bool {
    !b" \t()<>[]:;@\\,.\"".contains(&b)
}

/// How deep comments may nest; honest mail has two at most.
const MAX_COMMENT_DEPTH: usize = 32;
