//! Picks the domains out of From as a mail client might that knows little grammar.
//!
//! Written apart from the strict reader, and simpler by intention: split at commas and semicolons, take what stands in
//! the last angle brackets wherever these are, else the whole piece without its comments, and there what follows the
//! last at sign.

use super::MAX_DOMAINS;
use crate::domain::Domain;

/// The distinct domains, sorted (at most one more than [`MAX_DOMAINS`]); `None` where no two clients would show the
/// same.
pub(super) fn read(value: &[u8]) -> Option<Vec<Domain>> {
    let mut domains = Vec::new();
    for piece in pieces(value) {
        let Some(domain) = domain_of(piece)? else { continue };
        if domains.len() <= MAX_DOMAINS && !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    domains.sort();
    Some(domains)
}

/// Splits at commas and semicolons outside of quotes, comments and angle brackets.
fn pieces(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut escaped, mut quoted, mut comment, mut angle) = (false, false, 0_usize, false);
    value.split(move |b| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match b {
            b'\\' => escaped = true,
            b'"' if comment == 0 => quoted = !quoted,
            _ if quoted => {}
            b'(' => comment += 1,
            b')' => comment = comment.saturating_sub(1),
            _ if comment > 0 => {}
            b'<' => angle = true,
            b'>' => angle = false,
            b',' | b';' => return !angle,
            _ => {}
        }
        false
    })
}

/// The domain that a piece shows, `Some(None)` if none, `None` if clients differ.
fn domain_of(piece: &[u8]) -> Option<Option<Domain>> {
    let address = match piece.iter().rposition(|b| *b == b'<') {
        Some(at) => piece.get(at + 1..)?.split(|b| *b == b'>').next()?.to_vec(),
        None => without_comments(piece),
    };
    // A client that decodes encoded words before it looks for the address finds another one (RFC 2047 §5 forbids them
    // here, §6.2 says to decode afterwards).
    if address.windows(2).any(|two| two == b"=?") {
        return None;
    }
    let Some(at) = address.iter().rposition(|b| *b == b'@') else { return Some(None) };
    let mut host = without_comments(address.get(at + 1..)?);
    host.retain(|b| !b.is_ascii_whitespace());
    let domain = Domain::parse(std::str::from_utf8(&host).ok()?).ok()?;
    Some(Some(domain))
}

/// Leaves out what stands between a bracket and the next closing one: comments don't nest here.
fn without_comments(text: &[u8]) -> Vec<u8> {
    let mut in_comment = false;
    let mut out = text.to_vec();
    out.retain(|b| match b {
        b'(' if !in_comment => {
            in_comment = true;
            false
        }
        b')' if in_comment => {
            in_comment = false;
            false
        }
        _ => !in_comment,
    });
    out
}
