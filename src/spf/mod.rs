//! SPF (RFC 7208): whether the client may send for the domain of the reverse-path or of the EHLO name.
//!
//! `record` and `macros` are pure; `evaluate` is check_host() over [`Lookup`](crate::dns::Lookup). An evaluation always
//! ends in a value: what went wrong is its `reason`.

use std::sync::Arc;

use crate::dns::Failure;
use crate::domain::Domain;
use crate::label_enum;

pub mod evaluate;
pub mod macros;
pub mod record;

pub use evaluate::{Request, check_host};

label_enum! {
    /// The results of check_host() (RFC 7208 §2.6), spelled as in Authentication-Results (RFC 8601 §2.7.2).
    pub enum SpfResult {
        /// No record, or no domain to look for one.
        None = "none",
        /// The owner says nothing about this client.
        Neutral = "neutral",
        /// The client may send for the domain.
        Pass = "pass",
        /// The client may not.
        Fail = "fail",
        /// The client probably may not.
        SoftFail = "softfail",
        /// DNS gave no answer that would decide it.
        TempError = "temperror",
        /// The record can't be read or asks for too much.
        PermError = "permerror",
    }
}

label_enum! {
    /// Whose domain was checked.
    pub enum Identity {
        /// The domain of the reverse-path (RFC 7208 §2.4).
        MailFrom = "mailfrom",
        /// The EHLO name (RFC 7208 §2.3): for DMARC only when the reverse-path is null (RFC 9989 §3.2.4).
        Helo = "helo",
    }
}

/// What SPF found.
#[derive(Debug, Clone)]
pub struct SpfOutput {
    /// The result.
    pub result: SpfResult,
    /// The identity that was checked.
    pub identity: Identity,
    /// The SPF domain; none where the identity has no domain that DNS could know (an address literal, for example).
    pub domain: Option<Domain>,
    /// The term that decided, as published, if one did (`ip4:192.0.2.0/24`, `-all`).
    pub term: Option<Box<str>>,
    /// Why, in a few words of ours; never text of a peer.
    pub reason: Box<str>,
    /// Whether a look-up failed for now that RFC 7208 §5.5 passes over (`ptr`, `%{p}`), so that a result other than
    /// pass might have been one.
    pub unsettled: bool,
    /// With temperror: the look-up that failed.
    pub failure: Option<Failure>,
    /// The records that were used, in the order of their first use: name and text (RFC 9991 §4, SPF-DNS). At most
    /// eleven: ten terms lead to others.
    pub records: Vec<(Box<str>, Arc<str>)>,
}
