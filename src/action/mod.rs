//! Turns a [`Decision`] into what is done on the wire: relay with header fields on top, reject, or defer.
//!
//! Pure. Text of a peer gets into a field or a reply only as a checked [`Domain`](crate::domain::Domain), a token or a
//! quoted string of printable ASCII.

pub mod authentication_results;
pub mod received_spf;
pub mod reply_text;
pub mod template;

use crate::evaluation::Evaluation;
use crate::label::Label;
use crate::message::header::FAIL_POLICY;
use crate::policy::bypass::BypassReason;
use crate::policy::{Decision, Disposition};

pub use authentication_results::Names;
pub use reply_text::{Replies, ReplyText};

/// What is done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It goes to the upstream.
    Relay {
        /// Whole header fields, each line ended by CRLF, to stand above all that the message has.
        header: String,
    },
    /// It is refused for good.
    Reject(ReplyText),
    /// The client is asked to come again.
    Defer(ReplyText),
}

impl Action {
    /// The action for a decision; `replies` are the texts of refusals and deferrals.
    pub fn of(evaluation: &Evaluation, decision: &Decision, names: &Names<'_>, replies: &Replies) -> Self {
        match decision.disposition {
            Disposition::Refuse => Self::Reject(replies.refusal(evaluation, decision, names.explain_id)),
            Disposition::Defer => Self::Defer(replies.deferral(evaluation, decision, names.explain_id)),
            Disposition::Accept => Self::Relay { header: fields(evaluation, decision, names, "") },
            Disposition::Tag(mark) => {
                let mark = format!("{FAIL_POLICY}: {}\r\n", mark.as_str());
                Self::Relay { header: fields(evaluation, decision, names, &mark) }
            }
        }
    }

    /// The action for a message that was not evaluated, for a reason of the client's.
    pub fn bypass(reason: BypassReason, authserv_id: &str) -> Self {
        match reason {
            BypassReason::TrustedNetwork | BypassReason::ClientCertificate => Self::unevaluated(authserv_id),
            BypassReason::Authenticated => Self::Relay { header: authentication_results::authenticated(authserv_id) },
        }
    }

    /// The action for a message that goes on without an evaluation.
    pub fn unevaluated(authserv_id: &str) -> Self {
        Self::Relay { header: authentication_results::not_evaluated(authserv_id) }
    }
}

/// The fields of an evaluated message: results, the mark if there is one, Received-SPF if it is wanted. That one stands
/// above our Received and, as the newest, above those of others (RFC 7208 §9.1).
fn fields(evaluation: &Evaluation, decision: &Decision, names: &Names<'_>, mark: &str) -> String {
    let results = authentication_results::evaluated(evaluation, decision, names);
    let received = names.receiver.map(|receiver| received_spf::field(evaluation, receiver)).unwrap_or_default();
    results + mark + &received
}

#[cfg(test)]
mod tests;
