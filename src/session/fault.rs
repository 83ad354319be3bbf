//! What may be wrong with a message for its form or size, whatever it says, and what its client is told.

use crate::label_enum;
use crate::smtp::reply::Reply;

label_enum! {
    /// Why a message is refused before it is looked at. The client's fault, for good.
    pub enum Fault {
        /// More octets than allowed.
        MessageSize = "message_size",
        /// A header section longer than allowed.
        HeaderSize = "header_size",
        /// More header fields than allowed.
        HeaderFields = "header_fields",
        /// So many Received fields that the message is taken to go round in a loop (RFC 5321 §6.3).
        ReceivedFields = "received_fields",
        /// A bare CR or LF, where these are refused.
        BareNewline = "bare_newline",
        /// A line of NULs and a dot.
        NulDotLine = "nul_dot_line",
        /// White space where the first header field should begin.
        WhiteSpaceFirst = "white_space_first",
    }
}

impl Fault {
    /// The reply to such a message.
    pub fn reply(self) -> Reply {
        let (code, enhanced, text) = match self {
            Self::MessageSize => (552, "5.3.4", "Message too big"),
            Self::HeaderSize => (552, "5.3.4", "Header section too big"),
            Self::HeaderFields => (552, "5.3.4", "Header section has too many fields"),
            Self::ReceivedFields => (554, "5.4.6", "Too many hops, this message seems to loop"),
            Self::BareNewline => (550, "5.6.0", "Message has a bare CR or LF, which RFC 5321 forbids"),
            Self::NulDotLine => (550, "5.6.0", "Message has a line of NULs and a dot"),
            Self::WhiteSpaceFirst => (554, "5.6.0", "Message begins with white space instead of a header field"),
        };
        Reply::new(code, enhanced, text)
    }
}
