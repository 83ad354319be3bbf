//! Stand-in until the real module is merged.

use crate::domain::Domain;
use crate::label_enum;

label_enum! {
    /// Why From names no author domain.
    pub enum UnusableFrom {
        /// There is no From field.
        Missing = "missing",
        /// There are several.
        Repeated = "repeated",
        /// It can't be read.
        Syntax = "syntax",
        /// It names no domain.
        NoDomain = "no_domain",
        /// A strict and a lenient reading differ on the domain.
        Disagreement = "disagreement",
        /// It names more domains than are evaluated.
        TooManyDomains = "too_many_domains",
        /// A line of the header section is neither field nor continuation.
        MalformedHeader = "malformed_header",
    }
}

/// Who the header section says wrote the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// One to ten author domains.
    Usable {
        /// Distinct, in order.
        domains: Vec<Domain>,
        /// Whether the display name looks like an address.
        address_in_display_name: bool,
    },
    /// None.
    Unusable(UnusableFrom),
}
