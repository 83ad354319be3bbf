//! Determines how an identifier relates to the author domain (RFC 9989 §4.4 and §4.10.2), and names the results of
//! DMARC.

use crate::dmarc::record::AlignmentMode;
use crate::dmarc::tree_walk::Organization;
use crate::domain::Domain;
use crate::label_enum;

label_enum! {
    /// The results of DMARC (RFC 9989 §5.3.5 and §9.2).
    pub enum DmarcResult {
        /// No policy record applies.
        None = "none",
        /// An aligned identifier passed.
        Pass = "pass",
        /// None did.
        Fail = "fail",
        /// DNS gave no answer that would decide it.
        TempError = "temperror",
        /// The policy record can't be used, or From names no author domain.
        PermError = "permerror",
    }
}

label_enum! {
    /// What DNS left open when DMARC ends in temperror.
    pub enum Doubt {
        /// Whether there is a policy, or which; as far as is known none that asks for anything.
        PolicyDiscovery = "policy_discovery",
        /// Which policy there is: it is not known whether a name has a record, and without one a record above asks for
        /// quarantine or reject, or the record leaves it to the existence of the author domain, which is not known.
        EnforcingAbove = "enforcing_above",
        /// Whether there is a policy, or which: a bound of ours was reached before DNS could be asked.
        OwnLimits = "own_limits",
        /// Whether an identifier that is or may be aligned would have passed.
        Identifier = "identifier",
        /// The same, but nothing failed except by a bound of ours.
        IdentifierOwnLimits = "identifier_own_limits",
    }
}

impl Doubt {
    /// Whether bounds of ours are the cause, not DNS.
    pub fn is_ours(self) -> bool {
        match self {
            Self::OwnLimits | Self::IdentifierOwnLimits => true,
            Self::PolicyDiscovery | Self::EnforcingAbove | Self::Identifier => false,
        }
    }
}

label_enum! {
    /// How an identifier relates to the author domain (RFC 9990 §3.1.3 orders signatures by it).
    pub enum Alignment {
        /// The same domain.
        Strict = "strict",
        /// The same organizational domain, and the record allows that.
        Relaxed = "relaxed",
        /// Not aligned.
        Unaligned = "unaligned",
        /// A walk failed: may be aligned.
        Unknown = "unknown",
    }
}

/// A domain with its organizational domain, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// The domain.
    pub domain: &'a Domain,
    /// What its tree walk came to; none if there was none.
    pub organization: Option<&'a Organization>,
}

impl<'a> Placed<'a> {
    fn organizational_domain(self) -> Option<&'a Domain> {
        match self.organization {
            Some(Organization::Known(domain)) => Some(domain),
            Some(Organization::Open(_)) | None => None,
        }
    }
}

impl Alignment {
    /// Whether an identifier that passed makes DMARC pass.
    pub fn is_aligned(self) -> bool {
        matches!(self, Self::Strict | Self::Relaxed)
    }

    /// Whether it is or may be aligned: doubt about such an identifier is doubt about the message.
    pub fn may_be_aligned(self) -> bool {
        self != Self::Unaligned
    }
}

/// How `identifier` stands to `author` under a record that asks for `mode`.
///
/// Identical domains need no walk. Where a walk was left open, what is known still tells: a domain lies within its
/// organizational domain, so that an identifier outside the author's can never be aligned with it. So nobody can make a
/// verdict doubtful with a domain of their own whose DNS fails; nor does a public suffix whose DNS fails, where the
/// record that both have in common stands below it.
pub fn alignment(mode: AlignmentMode, author: Placed<'_>, identifier: Placed<'_>) -> Alignment {
    if author.domain == identifier.domain {
        return Alignment::Strict;
    }
    if mode == AlignmentMode::Strict {
        return Alignment::Unaligned;
    }
    if let (Some(Organization::Open(of_author)), Some(Organization::Open(of_identifier))) =
        (author.organization, identifier.organization)
        && of_author.shares_organization_with(of_identifier)
    {
        return Alignment::Relaxed;
    }
    let possible = match (author.organizational_domain(), identifier.organizational_domain()) {
        (Some(of_author), Some(of_identifier)) if of_author == of_identifier => return Alignment::Relaxed,
        (Some(_), Some(_)) => false,
        (Some(of_author), None) => identifier.domain.is_within(of_author),
        (None, Some(of_identifier)) => author.domain.is_within(of_identifier),
        (None, None) => author.domain.last_labels(1) == identifier.domain.last_labels(1),
    };
    if possible { Alignment::Unknown } else { Alignment::Unaligned }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None`: the walk was left open.
    fn case(mode: AlignmentMode, author: (&str, Option<&str>), identifier: (&str, Option<&str>)) -> Alignment {
        let domain = |text: &str| Domain::parse(text).unwrap();
        let known = |text| Organization::Known(domain(text));
        let (author, of_author) = (domain(author.0), author.1.map(known));
        let (identifier, of_identifier) = (domain(identifier.0), identifier.1.map(known));
        alignment(
            mode,
            Placed { domain: &author, organization: of_author.as_ref() },
            Placed { domain: &identifier, organization: of_identifier.as_ref() },
        )
    }

    #[test]
    fn alignment_by_mode_and_organizational_domain() {
        use Alignment::{Relaxed, Strict, Unaligned, Unknown};
        use AlignmentMode as Mode;
        let com = Some("example.com");
        let cases = [
            ("table 1, relaxed", Mode::Relaxed, ("news.example.com", com), ("foo.example.com", com), Relaxed),
            ("table 1, strict", Mode::Relaxed, ("news.example.com", com), ("news.example.com", com), Strict),
            (
                "table 1, none",
                Mode::Relaxed,
                ("news.example.com", com),
                ("foo.example.net", Some("example.net")),
                Unaligned,
            ),
            ("B.1.1 example 1", Mode::Strict, ("example.com", com), ("example.com", com), Strict),
            ("B.1.1 example 2", Mode::Relaxed, ("example.com", com), ("child.example.com", com), Relaxed),
            (
                "B.1.1 example 3",
                Mode::Relaxed,
                ("child.example.com", com),
                ("example.net", Some("example.net")),
                Unaligned,
            ),
            ("B.1.2 example 1", Mode::Strict, ("example.com", com), ("example.com", com), Strict),
            ("B.1.2 example 2", Mode::Relaxed, ("child.example.com", com), ("example.com", com), Relaxed),
            (
                "B.1.2 example 3",
                Mode::Relaxed,
                ("child.example.com", com),
                ("example.net", Some("example.net")),
                Unaligned,
            ),
            ("strict mode, subdomain", Mode::Strict, ("example.com", com), ("a.example.com", com), Unaligned),
            ("identical, both walks open", Mode::Relaxed, ("example.com", None), ("example.com", None), Strict),
            ("identifier's walk open, within", Mode::Relaxed, ("example.com", com), ("a.example.com", None), Unknown),
            ("identifier's walk open, outside", Mode::Relaxed, ("example.com", com), ("evil.com", None), Unaligned),
            ("author's walk open, within", Mode::Relaxed, ("a.example.com", None), ("b.example.com", com), Unknown),
            ("author's walk open, outside", Mode::Relaxed, ("example.net", None), ("b.example.com", com), Unaligned),
            ("both open, one TLD", Mode::Relaxed, ("example.com", None), ("evil.com", None), Unknown),
            ("both open, two TLDs", Mode::Relaxed, ("example.com", None), ("evil.net", None), Unaligned),
            ("strict mode, walks open", Mode::Strict, ("example.com", None), ("a.example.com", None), Unaligned),
        ];
        for (name, mode, author, identifier, expected) in cases {
            assert_eq!(case(mode, author, identifier), expected, "{name}");
        }
        let aligned = [(Strict, true, true), (Relaxed, true, true), (Unaligned, false, false), (Unknown, false, true)];
        for (alignment, is, may_be) in aligned {
            assert_eq!((alignment.is_aligned(), alignment.may_be_aligned()), (is, may_be), "{alignment}");
        }
    }
}
