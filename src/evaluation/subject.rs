//! What is read out of a header section for evaluation, once it is complete and while the body is still coming.

use std::sync::OnceLock;

use super::arc::Chain;
use super::dkim::Signatures;
use crate::message::author::Author;
use crate::message::body_hash::BodyHashSpec;
use crate::message::header::HeaderSection;
use crate::message::spool::Apart;
use crate::panics::caught_in;

/// A header section and what is to be evaluated of it.
#[derive(Debug)]
pub struct Subject {
    /// The header section.
    pub section: HeaderSection,
    /// What it claims; none of a message that is not evaluated.
    pub claims: Option<Claims>,
    /// What it has of the spool's memory, once its message has come whole.
    memory: OnceLock<Apart>,
}

/// What a header section claims, to be checked.
#[derive(Debug)]
pub struct Claims {
    /// Who wrote the message.
    pub author: Author,
    /// Its DKIM signatures.
    pub signatures: Signatures,
    /// Its ARC chain.
    pub chain: Chain,
}

impl Subject {
    /// Reads a header section; at most `signatures` DKIM signatures will be evaluated. Without that number nothing will
    /// be: the message bypasses evaluation. A section at which our own reading panics has no claims either.
    pub fn read(section: HeaderSection, signatures: Option<usize>) -> Self {
        let claims = signatures.and_then(|limit| caught_in(|| Claims::read(&section, limit)).ok());
        Self { section, claims, memory: OnceLock::new() }
    }

    /// Has what the message's spool holds for its header section last as long as this value: whoever keeps the header
    /// section longer than the body, a failure report that waits to be sent, keeps what it counts for.
    pub fn hold(&self, memory: Apart) {
        // A message comes to its end once.
        let _ = self.memory.set(memory);
    }

    /// The body hashes that the claims need.
    pub fn body_hash_specs(&self) -> Vec<BodyHashSpec> {
        let Some(claims) = &self.claims else { return Vec::new() };
        let mut specs = claims.signatures.body_hash_specs();
        specs.extend(claims.chain.body_hash_spec());
        specs
    }
}

impl Claims {
    fn read(section: &HeaderSection, limit: usize) -> Self {
        let author = Author::read(section);
        let signatures = Signatures::read(section, author.domains(), limit);
        let chain = Chain::read(section);
        Self { author, signatures, chain }
    }
}
