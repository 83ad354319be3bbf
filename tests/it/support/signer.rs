//! Signs messages for tests, with DKIM and ARC, rightly or wrongly as a test wants it.
//!
//! Its canonicalizations are written for whole messages in memory and apart from those of the crate, so that one can
//! show a mistake of the other. It was checked against dkimpy 1.1.8 in both directions.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};

/// A private key and what DNS says of it.
pub enum SigningKey {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Signs messages for one domain.
#[derive(Clone)]
pub struct Signer<'k> {
    key: &'k SigningKey,
    field: String,
    /// In the order in which they are written; `bh` and `b` are computed unless set.
    tags: Vec<(String, String)>,
}

impl SigningKey {
    /// An RSA key of 2048 bits, the same one all through a test run.
    pub fn rsa() -> &'static Self {
        static KEY: OnceLock<SigningKey> = OnceLock::new();
        KEY.get_or_init(|| Self::rsa_of(KeySize::Rsa2048))
    }

    /// An RSA key of a length, a new one each time.
    pub fn rsa_of(size: KeySize) -> Self {
        Self::Rsa(RsaKeyPair::generate(size).unwrap())
    }

    /// An Ed25519 key, the same one all through a test run.
    pub fn ed25519() -> &'static Self {
        static KEY: OnceLock<SigningKey> = OnceLock::new();
        KEY.get_or_init(|| Self::Ed25519(Ed25519KeyPair::generate().unwrap()))
    }

    /// The value of `p=`.
    pub fn public(&self) -> String {
        match self {
            Self::Rsa(key) => {
                base64(AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap().as_ref())
            }
            Self::Ed25519(key) => base64(key.public_key().as_ref()),
        }
    }

    /// The TXT record to publish.
    pub fn record(&self) -> String {
        let kind = match self {
            Self::Rsa(_) => "rsa",
            Self::Ed25519(_) => "ed25519",
        };
        format!("v=DKIM1; k={kind}; p={}", self.public())
    }

    /// The value of `a=`.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "rsa-sha256",
            Self::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// Signs canonicalized octets, as base64.
    pub fn sign(&self, input: &[u8]) -> String {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature).unwrap();
                base64(&signature)
            }
            Self::Ed25519(key) => base64(key.sign(digest(&SHA256, input).as_ref()).as_ref()),
        }
    }
}

impl<'k> Signer<'k> {
    /// Signs From, To and Subject, relaxed/relaxed.
    pub fn new(key: &'k SigningKey, domain: &str, selector: &str) -> Self {
        let tags = [
            ("v", "1"),
            ("a", key.algorithm()),
            ("c", "relaxed/relaxed"),
            ("d", domain),
            ("s", selector),
            ("h", "from:to:subject"),
        ];
        let tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { key, field: "DKIM-Signature".into(), tags }
    }

    /// Sets a tag, whatever it makes of the signature.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        match self.tags.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.to_string(),
            None => self.tags.push((name.to_owned(), value.to_string())),
        }
        self
    }

    /// Leaves a tag out.
    pub fn without(mut self, name: &str) -> Self {
        self.tags.retain(|(known, _)| known != name);
        self
    }

    /// Spells the field's name so; white space before the colon goes with it.
    pub fn field_name(mut self, name: &str) -> Self {
        self.field = name.to_owned();
        self
    }

    /// The message with its signature on top.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        [self.field(message).as_bytes(), message].concat()
    }

    /// The signature field of a message, with its final line end.
    pub fn field(&self, message: &[u8]) -> String {
        let (header_mode, body_mode) = self.modes();
        let (fields, body) = split(message);
        let mut tags = self.tags.clone();
        if self.tag("bh").is_none() {
            let body = canonical_body(&body_mode, body);
            let length = self.tag("l").and_then(|l| l.parse().ok()).unwrap_or(body.len()).min(body.len());
            tags.push(("bh".into(), base64(digest(&SHA256, &body[..length]).as_ref())));
        }
        tags.retain(|(name, _)| name != "b");
        let list: Vec<_> = tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let unsigned = format!("{}: {};\r\n\tb=", self.field, list.join(";\r\n\t"));
        let mut input = Vec::new();
        let mut left = fields;
        for name in self.tag("h").unwrap_or_default().split(':') {
            let is_named = |field: &&[u8]| field_name(field).eq_ignore_ascii_case(name.trim());
            if let Some(at) = left.iter().rposition(|field| is_named(&field.as_slice())) {
                input.extend(canonical_field(&header_mode, &left.remove(at)));
            }
        }
        let own = canonical_field(&header_mode, format!("{unsigned}\r\n").as_bytes());
        input.extend_from_slice(own.strip_suffix(b"\r\n").unwrap());
        let signature = self.tag("b").unwrap_or_else(|| self.key.sign(&input));
        format!("{unsigned}{signature}\r\n")
    }

    /// The three fields of an ARC set for a message that has the sets below `instance` on it; `d=` and `s=` are the
    /// signer's, `cv` as given.
    pub fn arc_set(&self, message: &[u8], instance: usize, cv: &str) -> String {
        self.arc_set_saying(message, instance, cv, "spf=pass")
    }

    /// The same with results of the sealer's.
    pub fn arc_set_saying(&self, message: &[u8], instance: usize, cv: &str, results: &str) -> String {
        self.arc_set_with(message, instance, cv, &format!("i={instance}; relay.example; {results}"))
    }

    /// The same with an ARC-Authentication-Results of this value, whatever it is.
    pub fn arc_set_with(&self, message: &[u8], instance: usize, cv: &str, results: &str) -> String {
        let results = format!("ARC-Authentication-Results: {results}\r\n");
        let mut signer = self.clone().without("v").field_name("ARC-Message-Signature");
        signer.tags.insert(0, ("i".into(), instance.to_string()));
        let signature = signer.field(message);
        let (domain, selector) = (self.tag("d").unwrap(), self.tag("s").unwrap());
        let algorithm = self.key.algorithm();
        let unsigned = format!("ARC-Seal: i={instance}; a={algorithm}; cv={cv}; d={domain}; s={selector}; b=");
        let all = [unsigned.as_bytes(), b"\r\n", signature.as_bytes(), results.as_bytes(), message].concat();
        let (fields, _) = split(&all);
        let mut input = Vec::new();
        for i in 1..=instance {
            for name in ["ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal"] {
                let is_of_set = |field: &&Vec<u8>| {
                    let text = String::from_utf8_lossy(field).replace([' ', '\t', '\r', '\n'], "");
                    // The new results stand on top, however they are written.
                    let is_new = i == instance && name == "ARC-Authentication-Results";
                    field_name(field).eq_ignore_ascii_case(name)
                        && (is_new || text.contains(&format!(":i={i};")) || text.contains(&format!(";i={i};")))
                };
                if let Some(field) = fields.iter().find(is_of_set) {
                    input.extend(canonical_field("relaxed", field));
                }
            }
        }
        let seal = self.key.sign(input.strip_suffix(b"\r\n").unwrap());
        format!("{unsigned}{seal}\r\n{signature}{results}")
    }

    fn tag(&self, name: &str) -> Option<String> {
        self.tags.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn modes(&self) -> (String, String) {
        let c = self.tag("c").unwrap_or("simple/simple".into());
        let (header, body) = c.split_once('/').unwrap_or((&c, "simple"));
        (header.to_owned(), body.to_owned())
    }
}

/// The fields of a message, each with its continuation lines, and its body.
fn split(message: &[u8]) -> (Vec<Vec<u8>>, &[u8]) {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|two| two == b"\r\n").map_or(rest.len(), |at| at + 2);
        let (line, tail) = rest.split_at(end);
        rest = tail;
        match line.first() {
            Some(b'\r') => break,
            Some(b' ' | b'\t') if !fields.is_empty() => fields.last_mut().unwrap().extend_from_slice(line),
            _ => fields.push(line.to_vec()),
        }
    }
    (fields, rest)
}

fn field_name(field: &[u8]) -> &str {
    let end = field.iter().position(|b| *b == b':').unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).unwrap_or_default().trim_end()
}

fn canonical_field(mode: &str, field: &[u8]) -> Vec<u8> {
    if mode == "simple" {
        return field.to_vec();
    }
    let colon = field.iter().position(|b| *b == b':').unwrap();
    // A line end is followed by white space, which becomes the space.
    let lines: Vec<&str> = std::str::from_utf8(&field[colon + 1..]).unwrap().split("\r\n").collect();
    let value = lines.concat().into_bytes();
    let words = value.split(|b| b" \t".contains(b)).filter(|word| !word.is_empty());
    let value = words.collect::<Vec<_>>().join(&b' ');
    [field_name(field).to_ascii_lowercase().as_bytes(), b":", &value, b"\r\n"].concat()
}

fn canonical_body(mode: &str, body: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|two| two == b"\r\n");
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = &rest[end.map_or(rest.len(), |at| at + 2)..];
        lines.push(match mode {
            "simple" => line.to_vec(),
            _ => {
                let starts_with_space = line.first().is_some_and(|b| b" \t".contains(b));
                let words = line.split(|b| b" \t".contains(b)).filter(|word| !word.is_empty());
                let text = words.collect::<Vec<_>>().join(&b' ');
                if starts_with_space && !text.is_empty() { [b" ", text.as_slice()].concat() } else { text }
            }
        });
    }
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    if lines.is_empty() {
        return if mode == "simple" { b"\r\n".to_vec() } else { Vec::new() };
    }
    [lines.join(&b"\r\n"[..]), b"\r\n".to_vec()].concat()
}

/// Base64 with padding (RFC 4648 §4).
pub fn base64(octets: &[u8]) -> String {
    let mut out = String::new();
    for group in octets.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let index = (bits >> (18 - 6 * i)) & 63;
            out.push(if i <= group.len() { char::from(ALPHABET.as_bytes()[index as usize]) } else { '=' });
        }
    }
    out
}

const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
