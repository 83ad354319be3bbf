//! Reads the aggregate reports that others send about our domains, as they pass through.
//!
//! [`read`] and what stands below it are pure: octets of a message become a [`Report`], or a [`Refusal`] says why not.
//! The sender decides what is in a message, so everything is bounded: parts and their depth (`mime`), what a compressed
//! file expands to (`unpack`), and what is kept of the XML (`feedback`). [`Collector`] drives them.

mod collector;
pub mod feedback;
pub mod mime;
pub mod unpack;

pub use self::collector::{Collector, InboundMessage, Senders, Settings};
use crate::label_enum;
pub use crate::store::inbound::{Report, Row};

label_enum! {
    /// Why a report is not read, or does not count. Its sender's doing, unless said otherwise.
    pub enum Refusal {
        /// The message has no part that could be a report.
        NoReport = "no_report",
        /// The message has too many parts, too deeply nested, or one with too large a header section.
        Structure = "structure",
        /// What should be base64 is not.
        TransferEncoding = "transfer_encoding",
        /// What should be gzip or ZIP is broken, packed twice, or of a kind that is not read.
        Compression = "compression",
        /// It becomes too large when it is unpacked.
        Bomb = "bomb",
        /// Its character set is not read, or it is not in the one that it names.
        Charset = "charset",
        /// It has a document type or an entity of its own.
        Doctype = "doctype",
        /// It is no well-formed XML.
        Malformed = "malformed",
        /// A tag or a text is too long, elements are too deeply nested, or there are too many rows.
        Bounds = "bounds",
        /// It is no aggregate report: something required is missing or can't be read.
        Content = "content",
        /// Its period ends well in the future, or it is older than what is kept.
        Period = "period",
        /// The message is larger than `reports.inbound.message_size`.
        MessageSize = "message_size",
        /// Nobody vouches for the message: its author domain has no aligned pass.
        Unverified = "unverified",
        /// The same report was read before.
        Duplicate = "duplicate",
        /// More came than could be read. Our fault.
        QueueFull = "queue_full",
        /// The store did not take it. Our fault.
        Store = "store",
        /// A fault of ours: its spool could not be read, or reading it panicked.
        Fault = "fault",
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// What it means, to people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NoReport => "no part of it could be a report",
            Self::Structure => "too many parts, or too deep in one another",
            Self::TransferEncoding => "what should be base64 is not",
            Self::Compression => "what should be gzip or ZIP is broken, packed twice, or of another kind",
            Self::Bomb => "unpacked it is too large",
            Self::Charset => "its character set is not read, or not the one that it names",
            Self::Doctype => "it has a document type, or an entity of its own",
            Self::Malformed => "no well-formed XML",
            Self::Bounds => "a text is too long, elements are too deep, or there are too many rows",
            Self::Content => "no aggregate report, or one that lacks an id, a domain, a period or a sound row",
            Self::Period => "its period is not over by far, or too old",
            Self::MessageSize => "the message is too large",
            Self::Unverified => "nobody vouches for the message",
            Self::Duplicate => "it was read before",
            Self::QueueFull => "more came than could be read",
            Self::Store => "the store did not take it",
            Self::Fault => "a fault of the gate",
        }
    }
}

/// Reads the report in a message: its octets as they came, header section and body.
///
/// # Errors
///
/// Why there is none; with several parts that could be reports, why the first is not.
pub fn read(message: &[u8]) -> Result<Report, Refusal> {
    let mut first = None;
    for part in mime::candidates(message)? {
        match read_file(&part) {
            Ok(report) => return Ok(report),
            Err(refusal) => {
                first.get_or_insert(refusal);
            }
        }
    }
    Err(first.unwrap_or(Refusal::NoReport))
}

/// Reads a report as it is attached: XML, or XML in gzip or ZIP.
///
/// # Errors
///
/// Why it is not read.
pub fn read_file(packed: &[u8]) -> Result<Report, Refusal> {
    feedback::read(unpack::xml(packed)?)
}

/// Reads a report that is attached to a message, or is none.
///
/// # Errors
///
/// Why it is not read.
pub fn read_any(octets: &[u8]) -> Result<Report, Refusal> {
    // No header field begins like this.
    if unpack::is_packed(octets) || unpack::is_xml(octets) { read_file(octets) } else { read(octets) }
}

#[cfg(test)]
mod tests;
