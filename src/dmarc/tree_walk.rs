//! Walks up the DNS tree (RFC 9989 §4.10): which names to ask, where to stop, and what the answers say of the
//! organizational domain and the policy record.
//!
//! A [`Walk`] is fed one answer after the other; it never asks DNS itself.

use std::sync::Arc;

use crate::dmarc::record::{PolicyRecord, Psd, RecordAt};
use crate::domain::Domain;

/// The walk from one domain.
#[derive(Debug, Clone)]
pub struct Walk {
    /// At least one, the start first.
    names: Vec<Domain>,
    /// What stands at the first of them, in the same order.
    found: Vec<Found>,
}

/// What was found at `_dmarc.<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// DNS answered.
    Answered(RecordAt),
    /// It did not.
    Failed,
}

/// What a walk says of the organizational domain.
#[derive(Debug, Clone)]
pub enum Organization {
    /// This is it.
    Known(Domain),
    /// A look-up failed that might have found another one.
    Open(Walk),
}

/// Which record is an author domain's policy record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// DMARC does not apply (RFC 9989 §4.10.1).
    NoRecord,
    /// A look-up failed that might have found it.
    Open,
    /// This one.
    Found {
        /// Where it stands: the policy domain.
        domain: Domain,
        /// The record, in whatever standing.
        record: Arc<PolicyRecord>,
    },
}

/// The names to ask in a walk from `start`, at most eight: the start, its last seven labels or what is below those, and
/// so on up to the single label (RFC 9989 §4.10 steps 3, 4 and 7).
pub fn names(start: &Domain) -> Vec<Domain> {
    let above = (start.label_count() - 1).min(MAX_ABOVE);
    let mut names = Vec::with_capacity(above + 1);
    names.push(start.clone());
    names.extend((1..=above).rev().map(|labels| start.last_labels(labels)));
    names
}

impl Walk {
    /// A walk that has no answer yet.
    pub fn new(start: &Domain) -> Self {
        let names = names(start);
        Self { found: Vec::with_capacity(names.len()), names }
    }

    /// All names that the walk may ask, in order.
    pub fn names(&self) -> &[Domain] {
        &self.names
    }

    /// The name whose answer is due; none when the walk is at its end: a record said `psd=y` or `psd=n`, or all names
    /// were asked. It goes on above a name whose look-up failed, for what stands there tells how much that matters.
    pub fn due(&self) -> Option<&Domain> {
        let ended = self.found.last().and_then(Found::record).is_some_and(|r| r.psd != Psd::Unstated);
        if ended { None } else { self.names.get(self.found.len()) }
    }

    /// Takes the answer for the name that is due; if none is, nothing happens.
    pub fn answer(&mut self, found: Found) {
        if self.due().is_some() {
            self.found.push(found);
        }
    }

    /// Whether the walk came to its end without a failure.
    pub fn is_complete(&self) -> bool {
        self.due().is_none() && !self.found.contains(&Found::Failed)
    }

    /// The organizational domain by the three rules of RFC 9989 §4.10.2; none unless the walk is complete.
    pub fn organizational_domain(&self) -> Option<Domain> {
        if self.is_complete() { self.organizational_domain_so_far() } else { None }
    }

    /// The organizational domain, or the walk that did not find it.
    pub fn organization(self) -> Organization {
        match self.organizational_domain() {
            Some(domain) => Organization::Known(domain),
            None => Organization::Open(self),
        }
    }

    /// Whether both starts have one organizational domain, whatever stands at the names whose look-up failed: a public
    /// suffix whose `_dmarc` has no answer must not keep a domain from being aligned with its own subdomains.
    ///
    /// Where a record stands at a name that both walks ask, and nothing was left open and no walk ended below those,
    /// the last record is the same for both. Then it matters only where both starts have one label below it, if it
    /// says or may say `psd=y`.
    pub fn shares_organization_with(&self, other: &Self) -> bool {
        let is_shared = |name: &Domain| self.names.contains(name) && other.names.contains(name);
        let meets = |walk: &Self| {
            let mut asked = walk.names.iter().zip(&walk.found);
            let below = asked.by_ref().take_while(|(name, _)| !is_shared(name));
            let is_plain = |found: &Found| {
                *found != Found::Failed && found.record().is_none_or(|record| record.psd == Psd::Unstated)
            };
            below.map(|(_, found)| found).all(is_plain) && walk.records().any(|(name, _)| is_shared(name))
        };
        let may_be_suffix = |found: &Found| {
            *found == Found::Failed || found.record().is_some_and(|record| record.psd == Psd::PublicSuffix)
        };
        let suffixes = |walk: &Self| {
            let asked = walk.names.iter().zip(&walk.found);
            let suffixes = asked.filter(|(name, found)| is_shared(name) && may_be_suffix(found));
            suffixes.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        meets(self)
            && meets(other)
            && suffixes(self).iter().chain(&suffixes(other)).all(|name| self.below(name) == other.below(name))
    }

    /// The organizational domain of the start if `name` is a public suffix: one label below, from the start's own
    /// labels, since that name need not have been asked (the jump to seven). A suffix that sends mail itself is none
    /// of its own.
    fn below(&self, name: &Domain) -> Option<Domain> {
        let start = self.names.first()?;
        Some(if name == start { start.clone() } else { start.last_labels(name.label_count() + 1) })
    }

    /// The organizational domain of the start as if names whose look-up failed had no record.
    fn organizational_domain_so_far(&self) -> Option<Domain> {
        let start = self.names.first()?;
        // The walk stops at the first psd=y or psd=n, so that the last record decides all three rules.
        let Some((name, record)) = self.records().last() else { return Some(start.clone()) };
        if record.psd == Psd::PublicSuffix { self.below(name) } else { Some(name.clone()) }
    }

    /// The policy record for the start as author domain: its own, else that of its organizational domain, else that of
    /// the public suffix domain (RFC 9989 §4.10.1). A record in between is never the policy.
    ///
    /// An organizational domain of eight labels or more right below a public suffix domain is never asked for a record
    /// (RFC 9989 §5.1.8), so that the suffix's applies.
    pub fn policy_record(&self) -> Selection {
        // The start's own record is its policy, whatever stands above.
        let own = self.found.first().is_some_and(|found| found.record().is_some());
        if own || self.is_complete() { self.policy_record_so_far() } else { Selection::Open }
    }

    /// What [`Self::policy_record`] would be if names whose look-up failed had no record.
    pub fn policy_record_so_far(&self) -> Selection {
        if let (Some(record), Some(domain)) = (self.found.first().and_then(Found::record), self.names.first()) {
            return Selection::Found { domain: domain.clone(), record: Arc::clone(record) };
        }
        let Some(organizational) = self.organizational_domain_so_far() else { return Selection::NoRecord };
        let own = self.records().find(|(name, _)| **name == organizational);
        let suffix = || self.records().last().filter(|(_, record)| record.psd == Psd::PublicSuffix);
        match own.or_else(suffix) {
            Some((name, record)) => Selection::Found { domain: name.clone(), record: Arc::clone(record) },
            None => Selection::NoRecord,
        }
    }

    /// Whether several records at one name were met; they count as none.
    pub fn met_several_records(&self) -> bool {
        self.found.contains(&Found::Answered(RecordAt::Several))
    }

    fn records(&self) -> impl Iterator<Item = (&Domain, &Arc<PolicyRecord>)> {
        self.names.iter().zip(&self.found).filter_map(|(name, found)| Some((name, found.record()?)))
    }
}

impl Found {
    fn record(&self) -> Option<&Arc<PolicyRecord>> {
        match self {
            Self::Answered(RecordAt::One(record)) => Some(record),
            Self::Answered(RecordAt::Absent | RecordAt::Several) | Self::Failed => None,
        }
    }
}

/// Labels of the longest name above the start: with the start eight queries at most (RFC 9989 §4.10).
const MAX_ABOVE: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dmarc::record::select;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    /// Names and texts; `"!"` in place of a text: the look-up fails.
    type Records<'a> = &'a [(&'a str, &'a str)];

    fn walk(start: &str, zone: Records<'_>) -> Walk {
        let mut walk = Walk::new(&domain(start));
        while let Some(name) = walk.due() {
            let texts: Vec<Box<[u8]>> =
                zone.iter().filter(|(at, _)| *at == name.as_str()).map(|(_, text)| text.as_bytes().into()).collect();
            let failed = texts.iter().any(|t| &**t == b"!");
            walk.answer(if failed { Found::Failed } else { Found::Answered(select(&texts)) });
        }
        walk
    }

    fn organizational(start: &str, zone: Records<'_>) -> Option<String> {
        walk(start, zone).organizational_domain().map(|d| d.to_string())
    }

    fn policy_domain(start: &str, zone: Records<'_>) -> String {
        match walk(start, zone).policy_record() {
            Selection::NoRecord => "-".into(),
            Selection::Open => "?".into(),
            Selection::Found { domain, .. } => domain.to_string(),
        }
    }

    /// Every way in which four names of two walks may be answered, against every answer that those which failed might
    /// have given.
    #[test]
    fn one_organization_whatever_was_not_answered() {
        const STATES: [&str; 5] = ["", R, YES, NO, "!"];
        let pairs = [
            ("a.b.tt", "c.b.tt", ["a.b.tt", "c.b.tt", "b.tt", "tt"]),
            ("b.tt", "c.b.tt", ["b.tt", "c.b.tt", "tt", "x.tt"]),
            ("a.c.b.tt", "c.b.tt", ["a.c.b.tt", "c.b.tt", "b.tt", "tt"]),
            ("a.tt", "b.tt", ["a.tt", "b.tt", "tt", "x.tt"]),
            ("tt", "b.tt", ["tt", "b.tt", "x.tt", "y.tt"]),
        ];
        let mut shared = 0;
        for (one, other, names) in pairs {
            for case in 0..STATES.len().pow(4) {
                let state = |place: u32| STATES[case / STATES.len().pow(place) % STATES.len()];
                let zone: Vec<_> =
                    names.into_iter().zip((0..4).map(state)).filter(|(_, text)| !text.is_empty()).collect();
                let open = zone.iter().filter(|(_, text)| *text == "!").count();
                let fillings = (0..4_usize.pow(open as u32)).map(|filling| {
                    let mut rest = filling;
                    let filled = zone.iter().map(|(name, text)| match *text {
                        "!" => {
                            let text = STATES[rest % 4];
                            rest /= 4;
                            (*name, text)
                        }
                        text => (*name, text),
                    });
                    filled.filter(|(_, text)| !text.is_empty()).collect::<Vec<_>>()
                });
                let always =
                    fillings.into_iter().all(|zone| organizational(one, &zone) == organizational(other, &zone));
                let found = walk(one, &zone).shares_organization_with(&walk(other, &zone));
                let is_open = [one, other].iter().all(|start| organizational(start, &zone).is_none());
                assert!(!found || always, "{one}, {other}, {zone:?}: not always");
                assert!(found || !always || !is_open, "{one}, {other}, {zone:?}: always");
                shared += usize::from(found && is_open);
            }
        }
        assert!(shared > 30, "{shared}");
    }

    const R: &str = "v=DMARC1; p=reject";
    const YES: &str = "v=DMARC1; p=reject; psd=y";
    const NO: &str = "v=DMARC1; p=reject; psd=n";
    const BROKEN: &str = "v=DMARC1";

    #[test]
    fn the_names_of_a_walk() {
        let cases: [(&str, &[&str]); 7] = [
            ("com", &["com"]),
            ("a.mail.example.com", &["a.mail.example.com", "mail.example.com", "example.com", "com"]),
            (
                "a.b.c.d.e.example.com", // seven labels
                &[
                    "a.b.c.d.e.example.com",
                    "b.c.d.e.example.com",
                    "c.d.e.example.com",
                    "d.e.example.com",
                    "e.example.com",
                    "example.com",
                    "com",
                ],
            ),
            (
                "a.b.c.d.e.f.example.com", // eight labels: no name is skipped
                &[
                    "a.b.c.d.e.f.example.com",
                    "b.c.d.e.f.example.com",
                    "c.d.e.f.example.com",
                    "d.e.f.example.com",
                    "e.f.example.com",
                    "f.example.com",
                    "example.com",
                    "com",
                ],
            ),
            (
                "a.b.c.d.e.f.g.h.i.j.mail.example.com", // §4.10
                &[
                    "a.b.c.d.e.f.g.h.i.j.mail.example.com",
                    "g.h.i.j.mail.example.com",
                    "h.i.j.mail.example.com",
                    "i.j.mail.example.com",
                    "j.mail.example.com",
                    "mail.example.com",
                    "example.com",
                    "com",
                ],
            ),
            (
                "a.b.c.d.e.f.g.h.i.j.k.example.com", // B.4.2
                &[
                    "a.b.c.d.e.f.g.h.i.j.k.example.com",
                    "g.h.i.j.k.example.com",
                    "h.i.j.k.example.com",
                    "i.j.k.example.com",
                    "j.k.example.com",
                    "k.example.com",
                    "example.com",
                    "com",
                ],
            ),
            (
                "mail.a.b.c.d.e.f.g.example.com", // §5.1.8: the zone cut b.c.d.e.f.g is never seen
                &[
                    "mail.a.b.c.d.e.f.g.example.com",
                    "c.d.e.f.g.example.com",
                    "d.e.f.g.example.com",
                    "e.f.g.example.com",
                    "f.g.example.com",
                    "g.example.com",
                    "example.com",
                    "com",
                ],
            ),
        ];
        for (start, expected) in cases {
            let names = names(&domain(start));
            assert_eq!(Walk::new(&domain(start)).names(), names, "{start}");
            assert_eq!(names.iter().map(Domain::as_str).collect::<Vec<_>>(), expected, "{start}");
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of cases")]
    fn organizational_domains() {
        let cases: &[(&str, &str, Records<'_>, Option<&str>)] = &[
            ("nothing found: the start", "a.mail.example.com", &[], Some("a.mail.example.com")),
            (
                "4.10.2 first example",
                "a.mail.example.com",
                &[("mail.example.com", R), ("example.com", R)],
                Some("example.com"),
            ),
            (
                "4.10.2 psd=n",
                "a.mail.example.com",
                &[("mail.example.com", NO), ("example.com", R)],
                Some("mail.example.com"),
            ),
            ("4.10.2 psd=y at com", "a.mail.example.com", &[("com", YES)], Some("example.com")),
            (
                "4.10.2 rule 2",
                "mail.example.com",
                &[("mail.example.com", R), ("example.com", YES)],
                Some("mail.example.com"),
            ),
            ("B.4.1 author", "example.com", &[("example.com", R), ("signing.example.com", R)], Some("example.com")),
            (
                "B.4.1 signer",
                "signing.example.com",
                &[("example.com", R), ("signing.example.com", R)],
                Some("example.com"),
            ),
            ("B.4.2 author", "a.b.c.d.e.f.g.h.i.j.k.example.com", &[("example.com", R)], Some("example.com")),
            (
                "B.4.3 author",
                "giant.bank.example",
                &[("bank.example", YES), ("giant.bank.example", R)],
                Some("giant.bank.example"),
            ),
            (
                "B.4.3 mail from",
                "mail.giant.bank.example",
                &[("bank.example", YES), ("giant.bank.example", R)],
                Some("giant.bank.example"),
            ),
            (
                "B.4.3 signer",
                "mail.mega.bank.example",
                &[("bank.example", YES), ("giant.bank.example", R)],
                Some("mega.bank.example"),
            ),
            ("psd=y at the start", "bank.example", &[("bank.example", YES)], Some("bank.example")),
            (
                "psd=y at the start stops there",
                "bank.example",
                &[("bank.example", YES), ("example", R)],
                Some("bank.example"),
            ),
            (
                "psd=n at the start",
                "a.example.com",
                &[("a.example.com", NO), ("example.com", R)],
                Some("a.example.com"),
            ),
            (
                "psd=y below the cut, one label below across the jump",
                "a.b.c.d.e.f.g.h.example.com",
                &[("d.e.f.g.h.example.com", YES)],
                Some("c.d.e.f.g.h.example.com"),
            ),
            (
                "the first psd tag stops the walk",
                "a.b.example.com",
                &[("b.example.com", NO), ("example.com", YES)],
                Some("b.example.com"),
            ),
            (
                "5.1.8: the zone cut is not seen",
                "mail.a.b.c.d.e.f.g.example.com",
                &[("b.c.d.e.f.g.example.com", NO), ("example.com", R)],
                Some("example.com"),
            ),
            (
                "several records are none",
                "a.example.com",
                &[("a.example.com", R), ("example.com", NO), ("example.com", NO)],
                Some("a.example.com"),
            ),
            ("foreign texts are none", "a.example.com", &[("example.com", "v=spf1 -all")], Some("a.example.com")),
            ("a broken record is a record", "a.example.com", &[("example.com", BROKEN)], Some("example.com")),
            (
                "failure before the stop",
                "a.example.com",
                &[("a.example.com", R), ("example.com", "!"), ("com", NO)],
                None,
            ),
            (
                "failure after the stop",
                "a.example.com",
                &[("a.example.com", NO), ("example.com", "!")],
                Some("a.example.com"),
            ),
            ("failure at the top", "example.com", &[("example.com", R), ("com", "!")], None),
            (
                "11.8: psd=n keeps a parent out",
                "evil.example.com",
                &[("mail.example.com", NO), ("example.com", R)],
                Some("example.com"),
            ),
        ];
        for (name, start, zone, expected) in cases {
            assert_eq!(organizational(start, zone).as_deref(), *expected, "{name}");
        }
    }

    #[test]
    fn several_records_at_a_name_are_remembered() {
        let one: Records<'_> = &[("a.example.com", R), ("example.com", R)];
        let several: Records<'_> = &[("example.com", R), ("example.com", NO)];
        for (zone, expected) in [(one, false), (several, true)] {
            assert_eq!(walk("a.example.com", zone).met_several_records(), expected, "{zone:?}");
        }
    }

    #[test]
    fn policy_domains() {
        let cases: &[(&str, &str, Records<'_>, &str)] = &[
            ("no record anywhere", "a.example.com", &[], "-"),
            ("the author's own", "a.example.com", &[("a.example.com", R), ("example.com", R)], "a.example.com"),
            ("the organizational domain's", "a.example.com", &[("example.com", R)], "example.com"),
            ("one between never counts", "a.b.example.com", &[("b.example.com", R), ("example.com", R)], "example.com"),
            ("B.4.2", "a.b.c.d.e.f.g.h.i.j.k.example.com", &[("example.com", R)], "example.com"),
            ("B.4.3", "giant.bank.example", &[("bank.example", YES), ("giant.bank.example", R)], "giant.bank.example"),
            (
                "the suffix's, where the organization has none",
                "mail.mega.bank.example",
                &[("bank.example", YES)],
                "bank.example",
            ),
            ("the suffix's, right above the author", "mega.bank.example", &[("bank.example", YES)], "bank.example"),
            (
                "the suffix's is not used beside the organization's",
                "mail.giant.bank.example",
                &[("giant.bank.example", R), ("bank.example", YES)],
                "giant.bank.example",
            ),
            (
                "one below the organizational domain does not count before the suffix's",
                "a.b.mega.bank.example",
                &[("b.mega.bank.example", R), ("bank.example", YES)],
                "bank.example",
            ),
            ("the suffix as author", "bank.example", &[("bank.example", YES), ("example", R)], "bank.example"),
            (
                "the zone cut of 5.1.8",
                "mail.a.b.c.d.e.f.g.example.com",
                &[("b.c.d.e.f.g.example.com", NO), ("example.com", R)],
                "example.com",
            ),
            (
                "several at the author's name: as if absent",
                "a.example.com",
                &[("a.example.com", R), ("a.example.com", R), ("example.com", R)],
                "example.com",
            ),
            (
                "a broken one is not passed over",
                "a.example.com",
                &[("a.example.com", BROKEN), ("example.com", R)],
                "a.example.com",
            ),
            (
                "the author's own, though the walk fails above",
                "a.example.com",
                &[("a.example.com", R), ("example.com", "!")],
                "a.example.com",
            ),
            ("the first look-up fails", "a.example.com", &[("a.example.com", "!"), ("example.com", R)], "?"),
            ("a look-up above fails", "a.example.com", &[("example.com", "!")], "?"),
            (
                "a look-up above the organizational domain fails",
                "a.example.com",
                &[("example.com", R), ("com", "!")],
                "?",
            ),
            (
                "a look-up above psd=n does not matter",
                "a.example.com",
                &[("example.com", NO), ("com", "!")],
                "example.com",
            ),
        ];
        for (name, start, zone, expected) in cases {
            assert_eq!(policy_domain(start, zone), *expected, "{name}");
        }
    }

    #[test]
    fn what_would_be_the_policy_if_a_name_that_failed_had_none() {
        let cases: &[(&str, &str, Records<'_>, &str)] = &[
            ("no record elsewhere", "a.example.com", &[("a.example.com", "!")], "-"),
            (
                "the organizational domain's",
                "a.example.com",
                &[("a.example.com", "!"), ("example.com", R)],
                "example.com",
            ),
            (
                "above two failures",
                "a.b.example.com",
                &[("a.b.example.com", "!"), ("b.example.com", "!"), ("com", YES)],
                "com",
            ),
            ("below a failure", "a.example.com", &[("example.com", R), ("com", "!")], "example.com"),
            (
                "one between never counts",
                "a.b.example.com",
                &[("a.b.example.com", "!"), ("b.example.com", R), ("example.com", R)],
                "example.com",
            ),
            (
                "psd=n ends the walk",
                "a.b.example.com",
                &[("a.b.example.com", "!"), ("b.example.com", NO), ("example.com", R)],
                "b.example.com",
            ),
            ("its own", "a.example.com", &[("a.example.com", R), ("example.com", "!")], "a.example.com"),
        ];
        for (name, start, zone, expected) in cases {
            let found = match walk(start, zone).policy_record_so_far() {
                Selection::Found { domain, .. } => domain.to_string(),
                other => {
                    if other == Selection::NoRecord {
                        "-".into()
                    } else {
                        panic!("{name}")
                    }
                }
            };
            assert_eq!(found, *expected, "{name}");
        }
    }

    #[test]
    fn answers_beyond_the_end_change_nothing() {
        let mut walk = walk("example.com", &[("example.com", NO)]);
        walk.answer(Found::Failed);
        assert!(walk.is_complete());
        assert!(!walk.met_several_records());
        assert!(!Walk::new(&domain("example.com")).is_complete());
    }
}
