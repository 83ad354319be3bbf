//! The older way to an organizational domain: by a list of public suffixes (RFC 7489 §3.2), on request.
//!
//! Both parts of the list count, what registries sell below (ICANN) and what others give away below names of their own
//! (private): customers of one host are no more one organization than those of one registry, and could otherwise speak
//! for each other. A name that is a suffix itself is its own organization. For names that no rule covers, the last
//! label is the suffix.

use std::collections::HashSet;
use std::fmt;

use publicsuffix::{Psl, Type};

use crate::domain::Domain;
use crate::label_enum;

label_enum! {
    /// How policy records and organizational domains are discovered (`policy.discovery`).
    pub enum Discovery {
        /// By the DNS tree walk (RFC 9989 §4.10).
        TreeWalk = "tree-walk",
        /// By a list of public suffixes (RFC 7489 §3.2 and §6.6.3).
        PublicSuffix = "public-suffix",
    }
}

label_enum! {
    /// Whether the tree walk and the list give an author domain the same organizational domain.
    pub enum Agreement {
        /// They do.
        Same = "same",
        /// They do not.
        Different = "different",
        /// Look-ups failed, or were not made.
        Unknown = "unknown",
    }
}

label_enum! {
    /// What keeps a text from being a list.
    pub enum Unfit {
        /// It is not in UTF-8.
        Encoding = "it is not in UTF-8",
        /// A marker of a section is missing: it is no list, or it was cut off.
        Sections = "a section or its end is missing",
        /// It has far fewer rules than a real list.
        TooShort = "it has too few rules",
        /// A rule can't be read.
        Rule = "a rule can't be read",
        /// Well-known names do not come out as they should.
        Behaviour = "well-known suffixes are missing",
    }
}

/// A list of public suffixes.
#[derive(Clone, Default)]
pub enum List {
    /// The copy of the day on which this version was built.
    #[default]
    BuiltIn,
    /// One that was read.
    Read {
        /// The rules.
        rules: publicsuffix::List,
        /// How many there are.
        count: usize,
    },
}

impl List {
    /// Reads a list in the format of publicsuffix.org.
    ///
    /// # Errors
    ///
    /// It is not fit for use.
    pub fn parse(octets: &[u8]) -> Result<Self, Unfit> {
        let text = std::str::from_utf8(octets).map_err(|_| Unfit::Encoding)?;
        // In this order, so that a list that was cut off is none.
        let mut markers = MARKERS.iter().peekable();
        let mut count = 0;
        for line in text.lines().map(str::trim) {
            if markers.next_if(|marker| line.contains(**marker)).is_none()
                && !line.is_empty()
                && !line.starts_with("//")
            {
                count += 1;
            }
        }
        if markers.peek().is_some() {
            return Err(Unfit::Sections);
        }
        if count < LEAST_RULES {
            return Err(Unfit::TooShort);
        }
        let is_too_long = |line: &str| line.split_whitespace().next().is_some_and(|rule| rule.len() > MAX_RULE);
        if text.lines().any(|line| !line.starts_with("//") && is_too_long(line)) {
            return Err(Unfit::Rule);
        }
        // After its last section the crate takes what follows for rules of that section.
        let rules = format!("{text}\n{}", spelled_out(text)).parse().map_err(|_| Unfit::Rule)?;
        let list = Self::Read { rules, count };
        let is_sound = KNOWN.iter().all(|(name, expected)| {
            Domain::parse(name).is_ok_and(|name| list.organizational_domain(&name).as_str() == *expected)
        });
        if is_sound { Ok(list) } else { Err(Unfit::Behaviour) }
    }

    /// The organizational domain of a name: its public suffix and one label more, or the name itself where it has no
    /// more (RFC 7489 §3.2).
    pub fn organizational_domain(&self, name: &Domain) -> Domain {
        name.last_labels(self.suffix_labels(name) + 1)
    }

    /// How many rules there are, if that is known.
    pub fn rules(&self) -> Option<usize> {
        match self {
            Self::BuiltIn => None,
            Self::Read { count, .. } => Some(*count),
        }
    }

    /// Labels of the public suffix; at least one.
    fn suffix_labels(&self, name: &Domain) -> usize {
        let labels = || name.as_str().rsplit('.').map(str::as_bytes);
        let found = match self {
            Self::BuiltIn => psl::List.find(labels()),
            Self::Read { rules, .. } => rules.find(labels()),
        };
        let (Some(Type::Icann | Type::Private) | None) = found.typ;
        // The length is that of whole labels at the end of the name.
        let suffix = name.as_str().len().checked_sub(found.len).and_then(|at| name.as_str().get(at..));
        suffix.map_or(1, |suffix| suffix.split('.').count())
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in"),
            Self::Read { count, .. } => write!(f, "{count} rules"),
        }
    }
}

/// The rules that a wildcard implies for names that longer rules lie below: with `*.a` and `x.b.a`, `b.a`.
/// `publicsuffix` (2.3) follows `b` alone and forgets the wildcard, which would make one organization of all below `a`.
fn spelled_out(text: &str) -> String {
    let rules =
        || text.lines().filter_map(|line| line.split_whitespace().next()).filter(|rule| !rule.starts_with("//"));
    let bases: HashSet<&str> = rules().filter_map(|rule| rule.strip_prefix("*.")).collect();
    let given: HashSet<&str> = rules().map(|rule| rule.trim_start_matches('!')).collect();
    let mut implied = String::new();
    for rule in &given {
        let mut name = *rule;
        while let Some((_, parent)) = name.split_once('.') {
            if bases.contains(parent) && !given.contains(name) {
                implied.push_str(name);
                implied.push('\n');
            }
            name = parent;
        }
    }
    implied
}

/// What divides a list, in order.
const MARKERS: [&str; 4] = [
    "===BEGIN ICANN DOMAINS===",
    "===END ICANN DOMAINS===",
    "===BEGIN PRIVATE DOMAINS===",
    "===END PRIVATE DOMAINS===",
];
/// Octets of a rule: DNS has no name of more, and the longest rule of 2026 has 50. The crate nests a node for each
/// label and frees them by recursion: a rule of a hundred thousand labels would end the stack, and the process with it.
const MAX_RULE: usize = 255;
/// There were 9,700 rules in 2026, and their number grows.
const LEAST_RULES: usize = 5000;
/// Names and their organizational domains that no list will ever see otherwise: plain rules, a wildcard, an exception.
const KNOWN: [(&str, &str); 8] = [
    ("com", "com"),
    ("a.example.com", "example.com"),
    ("a.example.org", "example.org"),
    ("co.uk", "co.uk"),
    ("a.b.example.co.uk", "example.co.uk"),
    ("a.b.example.ck", "b.example.ck"),
    ("a.www.ck", "www.ck"),
    ("a.b.no-such-tld", "b.no-such-tld"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &str) -> Result<List, Unfit> {
        List::parse(text(rules, 6000).as_bytes())
    }

    /// A list of these rules, beside those that every list has and as many as asked for.
    fn text(rules: &str, fill: usize) -> String {
        let filling: String = (0..fill).map(|i| format!("filling{i}\n")).collect();
        format!(
            "// comment\n// ===BEGIN ICANN DOMAINS===\ncom\norg\nuk\nco.uk\n*.ck\n!www.ck\n{filling}\
             // ===END ICANN DOMAINS===\n// ===BEGIN PRIVATE DOMAINS===\n\n// A host\n{rules}\n\
             // ===END PRIVATE DOMAINS===\n"
        )
    }

    fn of(list: &List, name: &str) -> String {
        list.organizational_domain(&Domain::parse(name).unwrap()).to_string()
    }

    #[test]
    fn organizational_domains_by_the_rules() {
        let list = list(
            "host.example\n*.wild.example\n!not.wild.example\nb\u{fc}cher.example\nA.Upper.Example\nx.y.deep.example\nx.y.wild.example\n*.z.wild.example",
        )
        .unwrap();
        let cases = [
            ("suffix and one label", "example.com", "example.com"),
            ("more labels", "a.b.c.example.com", "example.com"),
            ("a suffix itself", "com", "com"),
            ("a suffix of two labels itself", "co.uk", "co.uk"),
            ("the longest rule", "a.example.co.uk", "example.co.uk"),
            ("beside it", "a.example.uk", "example.uk"),
            ("wildcard", "a.b.c.ck", "b.c.ck"),
            ("wildcard, the suffix itself", "c.ck", "c.ck"),
            ("exception", "a.www.ck", "www.ck"),
            ("private", "a.b.host.example", "b.host.example"),
            ("private, itself", "host.example", "host.example"),
            ("private wildcard", "a.b.c.wild.example", "b.c.wild.example"),
            ("private exception", "a.not.wild.example", "not.wild.example"),
            ("U-label in the list", "a.b.xn--bcher-kva.example", "b.xn--bcher-kva.example"),
            ("a rule of more labels than match", "a.deep.example", "deep.example"),
            ("wildcard beside a longer rule", "a.y.wild.example", "a.y.wild.example"),
            ("the longer rule", "a.b.x.y.wild.example", "b.x.y.wild.example"),
            ("wildcard beside a longer wildcard", "z.wild.example", "z.wild.example"),
            ("the longer wildcard", "a.b.c.z.wild.example", "b.c.z.wild.example"),
            ("no rule: the last label", "a.b.nowhere", "b.nowhere"),
            ("no rule, one label", "nowhere", "nowhere"),
            ("ends alike, other label", "a.notcom", "a.notcom"),
        ];
        for (name, domain, expected) in cases {
            assert_eq!(of(&list, domain), expected, "{name}");
        }
    }

    #[test]
    fn the_built_in_copy_is_fit_for_use() {
        for (name, expected) in KNOWN {
            assert_eq!(of(&List::BuiltIn, name), expected);
        }
        let cases = [
            ("a.b.github.io", "b.github.io"),
            ("github.io", "github.io"),
            ("a.b.kobe.jp", "a.b.kobe.jp"),
            ("a.city.kobe.jp", "city.kobe.jp"),
        ];
        for (name, expected) in cases {
            assert_eq!(of(&List::BuiltIn, name), expected);
        }
    }

    #[test]
    fn what_is_no_list_is_not_used() {
        let sound = text("", 6000);
        let long = |labels: usize| format!("{}com", "a.".repeat(labels));
        let cases: [(&str, Vec<u8>, Unfit); 13] = [
            ("nothing", Vec::new(), Unfit::Sections),
            ("a page", b"<html><body>Not found</body></html>".to_vec(), Unfit::Sections),
            ("cut off", sound.as_bytes()[..sound.len() - 30].to_vec(), Unfit::Sections),
            ("the first half", sound.as_bytes()[..sound.len() / 2].to_vec(), Unfit::Sections),
            (
                "sections in the wrong order",
                sound.replace("ICANN", "X").replace("PRIVATE", "ICANN").into_bytes(),
                Unfit::Sections,
            ),
            ("octets", [sound.as_bytes(), b"\xff"].concat(), Unfit::Encoding),
            ("too short", text("", 100).into_bytes(), Unfit::TooShort),
            ("too short by one", text("", LEAST_RULES - 7).into_bytes(), Unfit::TooShort),
            ("a broken rule", text("a..b", 6000).into_bytes(), Unfit::Rule),
            ("a rule of 100,000 labels", text(&long(100_000), 6000).into_bytes(), Unfit::Rule),
            ("a rule that is too long", text(&long(127), 6000).into_bytes(), Unfit::Rule),
            ("com is missing", sound.replace("\ncom\n", "\nexample.com\n").into_bytes(), Unfit::Behaviour),
            ("co.uk is missing", sound.replace("\nco.uk\n", "\n").into_bytes(), Unfit::Behaviour),
        ];
        for (name, octets, expected) in cases {
            assert_eq!(List::parse(&octets).err(), Some(expected), "{name}");
        }
        assert_eq!(List::parse(sound.as_bytes()).unwrap().rules(), Some(6006));
        assert_eq!(List::parse(text("", LEAST_RULES - 6).as_bytes()).unwrap().rules(), Some(LEAST_RULES));
        let shown = [List::BuiltIn, list("").unwrap()].map(|list| format!("{list:?}"));
        assert_eq!(shown, ["built-in", "6006 rules"]);
        let longest = format!("// {}\n{} {}", long(1000), long(126), long(1000));
        assert_eq!(list(&longest).unwrap().rules(), Some(6007), "comments, and what follows a rule, have no bound");
    }

    proptest::proptest! {
        #[test]
        fn an_organizational_domain_is_the_end_of_the_name(name in "[a-z]{1,3}(\\.(com|uk|co|ck|io|github|[a-z]{1,3})){0,6}") {
            let name = Domain::parse(&name).unwrap();
            let organizational = List::BuiltIn.organizational_domain(&name);
            proptest::prop_assert!(name.is_within(&organizational));
            proptest::prop_assert_eq!(List::BuiltIn.organizational_domain(&organizational), organizational);
        }
    }
}
