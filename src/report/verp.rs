//! Envelope senders that tell, when they come back in a bounce, which destination it is about (VERP), and that nobody
//! else can make.
//!
//! `local+token@bounces.example.net`, where the token has the day, a key of the destination, and a code over both, the
//! local part and the domain (HMAC-SHA256). Letters and digits of base32 alone, so that it survives servers that change
//! the case of letters.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{constant_time, hmac};

use crate::domain::Domain;
use crate::label_enum;
use crate::report::recipient::{Address, MAX_LOCAL_PART};

/// Makes and reads envelope senders.
pub struct Verp {
    local_part: Box<str>,
    domain: Domain,
    key: hmac::Key,
}

/// What identifies a destination in an envelope sender: the start of a hash of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination([u8; DESTINATION_OCTETS]);

/// Whose report came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounced {
    /// The destination of the report.
    pub destination: Destination,
    /// When it was sent, in days since the epoch.
    pub day: i64,
}

label_enum! {
    /// Why an address is none of ours, or no longer.
    pub enum Invalid {
        /// It was sent too long ago, or has yet to be.
        Expired = "expired",
        /// It was not made with our key.
        Forged = "forged",
        /// It has not the form of one.
        Foreign = "foreign",
    }
}

/// Why there can be no envelope senders. The operator is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key is too short to keep anyone from guessing.
    #[error("a key of fewer than {MIN_KEY} octets")]
    ShortKey,
    /// Nothing would be left for the token, or it has characters beyond letters, digits, `.`, `-` and `_`.
    #[error("a local part that is longer than {MAX_PREFIX} octets, or not of letters, digits, '.', '-' and '_'")]
    LocalPart,
}

impl Verp {
    /// Envelope senders at `local_part+...@domain` that `key` proves: at least 32 octets, white space at their ends not
    /// counted.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn new(local_part: &str, domain: Domain, key: &[u8]) -> Result<Self, Error> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let is_atom = |atom: &str| !atom.is_empty() && atom.bytes().all(is_plain);
        if local_part.len() > MAX_PREFIX || !local_part.split('.').all(is_atom) {
            return Err(Error::LocalPart);
        }
        let key = key.trim_ascii();
        if key.len() < MIN_KEY {
            return Err(Error::ShortKey);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        Ok(Self { local_part: local_part.to_ascii_lowercase().into(), domain, key })
    }

    /// The domain that bounces come to.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The envelope sender for a report to `destination`, sent on `day` (days since the epoch).
    pub fn address(&self, destination: Destination, day: i64) -> String {
        let mut token = Vec::with_capacity(TOKEN_OCTETS);
        token.extend_from_slice(&stamp(day).to_be_bytes());
        token.extend_from_slice(&destination.0);
        let code = self.code(&token);
        token.extend_from_slice(&code);
        format!("{}+{}@{}", self.local_part, base32(&token), self.domain)
    }

    /// Reads an address that a bounce came to; `today` in days since the epoch. One made more than `valid` days ago
    /// counts no more.
    ///
    /// # Errors
    ///
    /// See [`Invalid`]; all of them are to be answered alike.
    pub fn read(&self, local_part: &str, domain: &Domain, today: i64, valid: i64) -> Result<Bounced, Invalid> {
        let (prefix, token) = local_part.rsplit_once('+').ok_or(Invalid::Foreign)?;
        if *domain != self.domain || !prefix.eq_ignore_ascii_case(&self.local_part) {
            return Err(Invalid::Foreign);
        }
        let token = from_base32(token).ok_or(Invalid::Foreign)?;
        let (said, code) = token.split_at(STAMP_OCTETS + DESTINATION_OCTETS);
        if constant_time::verify_slices_are_equal(&self.code(said), code).is_err() {
            return Err(Invalid::Forged);
        }
        let [a, b, destination @ ..] = said else { return Err(Invalid::Foreign) };
        let destination = Destination(<[u8; DESTINATION_OCTETS]>::try_from(destination).map_err(|_| Invalid::Foreign)?);
        let day = i64::from(u16::from_be_bytes([*a, *b]));
        // A day ahead is the clock of another gate.
        if (-1..=valid).contains(&(today - day)) { Ok(Bounced { destination, day }) } else { Err(Invalid::Expired) }
    }

    fn code(&self, said: &[u8]) -> [u8; CODE_OCTETS] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(said);
        context.update(self.local_part.as_bytes());
        // No local part has one, so that no two pairs of them are one text.
        context.update(b"@");
        context.update(self.domain.as_str().as_bytes());
        let mut code = [0; CODE_OCTETS];
        code.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        code
    }
}

/// The key is not for logs.
impl fmt::Debug for Verp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verp({}+*@{})", self.local_part, self.domain)
    }
}

impl Destination {
    /// The key of an address; that of a local part in other letters is the same, as few servers tell them apart.
    pub fn of(address: &Address) -> Self {
        let hash = digest(&SHA256, address.to_string().to_ascii_lowercase().as_bytes());
        let mut key = [0; DESTINATION_OCTETS];
        key.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Self(key)
    }
}

/// As hexadecimal digits, which a store can hold.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// The day in two octets, which last until 2149.
fn stamp(day: i64) -> u16 {
    u16::try_from(day.max(0)).unwrap_or(u16::MAX)
}

/// RFC 4648 §6, in lower case; the octets are a multiple of five.
fn base32(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() * 8 / 5);
    for group in octets.chunks(5) {
        let bits = group.iter().fold(0_u64, |bits, octet| bits << 8 | u64::from(*octet));
        for place in (0..8).rev() {
            let digit = usize::try_from(bits >> (5 * place) & 31).unwrap_or_default();
            text.extend(ALPHABET.get(digit).copied().map(char::from));
        }
    }
    text
}

fn from_base32(text: &str) -> Option<[u8; TOKEN_OCTETS]> {
    if text.len() != TOKEN_OCTETS * 8 / 5 {
        return None;
    }
    let mut octets = [0; TOKEN_OCTETS];
    for (group, to) in text.as_bytes().chunks(8).zip(octets.chunks_mut(5)) {
        let mut bits = 0_u64;
        for byte in group {
            let digit = ALPHABET.iter().position(|letter| *letter == byte.to_ascii_lowercase())?;
            bits = bits << 5 | u64::try_from(digit).ok()?;
        }
        let [_, _, _, from @ ..] = bits.to_be_bytes();
        to.copy_from_slice(&from);
    }
    Some(octets)
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// The day.
const STAMP_OCTETS: usize = 2;
/// Enough that no two destinations of a site share one.
const DESTINATION_OCTETS: usize = 8;
/// 80 bits: each guess costs an SMTP command.
const CODE_OCTETS: usize = 10;
const TOKEN_OCTETS: usize = STAMP_OCTETS + DESTINATION_OCTETS + CODE_OCTETS;
/// What is left of a local part beside the token and its plus sign.
const MAX_PREFIX: usize = MAX_LOCAL_PART - TOKEN_OCTETS * 8 / 5 - 1;
/// Octets of a key.
const MIN_KEY: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef\n";
    const DAY: i64 = 20_454;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn verp() -> Verp {
        Verp::new("bounce", domain("bounces.example.net"), KEY).unwrap()
    }

    fn destination(text: &str) -> Destination {
        Destination::of(&Address::parse(text).unwrap())
    }

    fn read(verp: &Verp, address: &str, today: i64) -> Result<Bounced, Invalid> {
        let (local_part, host) = address.rsplit_once('@').unwrap();
        verp.read(local_part, &domain(host), today, 14)
    }

    #[test]
    fn an_address_comes_back() {
        let expected = Bounced { destination: destination("r@example.org"), day: DAY };
        let address = verp().address(expected.destination, DAY);
        assert_eq!(address, "bounce+j7tiixqem2leiquxgpbizlxzdsbc2nl4@bounces.example.net", "sent ones stay valid");
        for text in [address.clone(), address.to_ascii_uppercase()] {
            assert_eq!(read(&verp(), &text, DAY + 3), Ok(expected), "{text}");
        }
        assert!(address.split('@').next().unwrap().len() <= 64);
        assert_eq!(destination("R@Example.ORG"), destination("r@example.org"));
        assert_ne!(destination("s@example.org"), destination("r@example.org"));
    }

    #[test]
    fn nothing_else_counts() {
        let address = verp().address(destination("r@example.org"), DAY);
        let (local_part, host) = address.split_once('@').unwrap();
        let cases = [
            ("the last day", address.clone(), DAY + 14, Ok(())),
            ("the day after", address.clone(), DAY + 15, Err(Invalid::Expired)),
            ("a clock behind", address.clone(), DAY - 1, Ok(())),
            ("the future", address.clone(), DAY - 2, Err(Invalid::Expired)),
            ("another domain", format!("{local_part}@example.net"), DAY, Err(Invalid::Foreign)),
            ("another local part", address.replace("bounce+", "b+"), DAY, Err(Invalid::Foreign)),
            ("no token", format!("bounce@{host}"), DAY, Err(Invalid::Foreign)),
            ("an empty token", format!("bounce+@{host}"), DAY, Err(Invalid::Foreign)),
            ("a short token", format!("bounce+abc@{host}"), DAY, Err(Invalid::Foreign)),
            ("a digit that base32 lacks", format!("bounce+1{}@{host}", &local_part[8..]), DAY, Err(Invalid::Foreign)),
            ("no ASCII", format!("bounce+\u{e4}{}@{host}", &local_part[9..]), DAY, Err(Invalid::Foreign)),
        ];
        for (name, text, today, expected) in cases {
            assert_eq!(read(&verp(), &text, today).map(|_| ()), expected, "{name}: {text}");
        }
        let others = [
            Verp::new("bounce", domain("bounces.example.net"), &[7; 32]).unwrap(),
            Verp::new("bounce2", domain("bounces.example.net"), KEY).unwrap(),
            Verp::new("bounce", domain("other.example.net"), KEY).unwrap(),
        ];
        for other in others {
            let forged = other.address(destination("r@example.org"), DAY);
            let token = forged.split(['+', '@']).nth(1).unwrap();
            assert_eq!(read(&verp(), &format!("bounce+{token}@{host}"), DAY), Err(Invalid::Forged), "{other:?}");
        }
    }

    #[test]
    fn one_changed_digit_is_a_forgery() {
        let address = verp().address(destination("r@example.org"), DAY);
        for at in "bounce+".len()..address.find('@').unwrap() {
            let mut text = address.clone();
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            text.replace_range(at..=at, other);
            assert_eq!(read(&verp(), &text, DAY), Err(Invalid::Forged), "{text}");
        }
    }

    #[test]
    fn what_can_be_no_sender() {
        let new = |local_part: &str, key: &[u8]| Verp::new(local_part, domain("b.example"), key).map(|_| ());
        assert_eq!(new(&"x".repeat(31), KEY), Ok(()));
        for local_part in ["", "a b", "a+b", ".a", "a..b", "\u{e4}", "a@b", &"x".repeat(32)] {
            assert_eq!(new(local_part, KEY), Err(Error::LocalPart), "{local_part}");
        }
        assert_eq!(new("a", &[b' '; 64]), Err(Error::ShortKey));
        assert_eq!(new("a", &[1; 31]), Err(Error::ShortKey));
        assert!(!format!("{:?}", verp()).contains("0123"));
    }
}
